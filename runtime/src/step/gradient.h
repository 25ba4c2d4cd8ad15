/* gradient.h: what the threads of a rank find in gradients and in what an update leaves (sweep.h), and where gradients lie. */
#ifndef MLC_GRADIENT_H
#define MLC_GRADIENT_H

#include "model/rank.h"

/* Called by each thread before sweeps that look through values: it has found nothing yet. */
void mlc_gradient_begin(const mlc_env *env);

/* The lowest parameter in whose gradient a thread of the team has found what is not finite, -1: none. */
int64_t mlc_gradient_bad(const mlc_team *team);

/* The gradient of a parameter in the arena of its owner: after a step, whole and scaled in the pieces of the rank's own shard; other
 * elements are undefined. NULL: it has none, or is another place's. */
void *mlc_gradient_of(const mlc_rank *rank, int parameter);

#endif
