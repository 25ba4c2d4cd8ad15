/* sweep_kernels.c: kernels of sweeps are put on the stream by kernels/sweep.cu and kernels/ending.cu. */
#include "mlc_kernel.h"
