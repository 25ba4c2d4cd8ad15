/* sweep_kernels.c: the kernels of sweeps are put on the stream by kernels/ending.cu. */
#include "mlc_kernel.h"
