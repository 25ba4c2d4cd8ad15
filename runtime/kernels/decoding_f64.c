/* decoding_f64.c: decoding.c in f64. */
#define MLC_ELEMENT_BYTES 8
#include "decoding.c"
