/* pack_f64.c: pack.c in f64. */
#define MLC_ELEMENT_BYTES 8
#include "pack.c"
