/* peak_f64.c: peak.c in f64. */
#define MLC_ELEMENT_BYTES 8
#include "peak.c"
