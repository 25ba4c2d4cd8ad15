/* attention_f64.c: attention.c in f64. */
#define MLC_ELEMENT_BYTES 8
#include "attention.c"
