/* gradient.h: what sweeps (sweep.h) find in gradients and in what an update leaves, and where gradients lie. */
#ifndef MLC_GRADIENT_H
#define MLC_GRADIENT_H

#include "model/rank.h"

/* Called by each thread before sweeps that look through values: it has found nothing yet. */
void mlc_gradient_begin(const mlc_env *env);

/* Of what all threads have found: the exact sum of squares; the lowest parameter with a gradient that is not finite, -1: none; the first
 * flaw (finite.h) of what an update left, -1: none. */
mlc_exact mlc_gradient_squares(const mlc_rank *rank);
int64_t mlc_gradient_bad(const mlc_rank *rank);
int64_t mlc_gradient_flaw(const mlc_rank *rank);

/* The gradient of a parameter in the arena of its owner: after a step, whole and scaled in the pieces of the rank's own shard; other
 * elements are undefined. NULL: it has none, or is another place's. */
void *mlc_gradient_of(const mlc_rank *rank, int parameter);

#endif
