/* thin_f64.c: thin.c in f64. */
#define MLC_ELEMENT_BYTES 8
#include "thin.c"
