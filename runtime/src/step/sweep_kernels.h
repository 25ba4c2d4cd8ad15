/* sweep_kernels.h: what the walk over sweeps (sweep.h) asks of whatever runs their kernels, beside the kernels (mlc_kernel.h). */
#ifndef MLC_SWEEP_KERNELS_H
#define MLC_SWEEP_KERNELS_H

#include "mlc_abi.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The calls that follow are on elements that those before did not touch. */
void mlc_sweep_next(const mlc_env *env);

/* By all threads: the calls that follow find what those before have done. On the stream of a device, where it lies there; those that waited
 * are then launched with this environment, so it is the one that they were made with: gated as they are. */
void mlc_sweep_meet(const mlc_env *env);

#ifdef __cplusplus
}
#endif

#endif
