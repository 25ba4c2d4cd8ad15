/* mlc_calls.h: calls of kernels of sweeps on their way to the stream of a rank. They wait until a sweep has made all of its own; those that
 * are alike for many parameters are then one launch (mlc_batch.h). Called by one thread of the host. */
#ifndef MLC_CALLS_H
#define MLC_CALLS_H

#include "mlc_abi.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mlc_calls mlc_calls;

/* None wait. NULL: out of memory. */
mlc_calls *mlc_calls_open(void);
void mlc_calls_close(mlc_calls *calls);

#ifdef __cplusplus
}
#endif

#endif
