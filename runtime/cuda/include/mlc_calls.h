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

/* What an mlc_calls begins with: why a launch that follows is none, of the first that is not; "": all are. */
typedef struct mlc_calls_refused {
    char why[384];
} mlc_calls_refused;

static inline char *mlc_calls_why(mlc_calls *calls)
{
    return ((mlc_calls_refused *)calls)->why;
}

#endif
