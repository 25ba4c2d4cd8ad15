/* contraction_f64.c: contraction.c in f64. */
#define MLC_ELEMENT_BYTES 8
#include "contraction.c"
