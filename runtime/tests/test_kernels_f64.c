/* test_kernels_f64.c: test_kernels.c of the kernels of f64. */
#define MLC_ELEMENT_BYTES 8
#include "test_kernels.c"
