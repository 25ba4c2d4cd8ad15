/* gradient.h: what happens to gradients after the backward pass: group tree, uses, scale, norm, clip, update.
 *
 * All functions are called by every thread of a team with equal arguments. The work is shared out in aligned slices of 1024
 * elements; a slice belongs to one thread, so the bits do not depend on how many there are.
 */
#ifndef MLC_GRADIENT_H
#define MLC_GRADIENT_H

#include "session.h"

/* How many accumulators a use needs for `groups` groups: one that takes microbatches, and the group sums held beside it. */
int mlc_gradient_levels(int groups);

/* Combines the sum of group `group`, which is not the last, with its finished siblings of the tree. Ends with a barrier. */
void mlc_gradient_fold(const mlc_session *session, const mlc_env *env, int group);

/* After the last group: whole gradients (last additions of the tree, uses in chain order), times `scale` for loss gradients and
 * 1 / M for accumulated ones; the squares of the thread's loss gradients into its worker. Ends with a barrier. */
void mlc_gradient_finish(const mlc_session *session, const mlc_env *env, float scale);

/* The norm over all loss gradients, from what the threads' workers hold. */
double mlc_gradient_norm(const mlc_session *session);

/* The lowest parameter whose gradient is not finite, or -1. */
int64_t mlc_gradient_bad(const mlc_session *session);

/* Multiplies loss gradients by `factor` and updates parameters, states and bf16 copies. Ends with a barrier. */
void mlc_gradient_update(const mlc_session *session, const mlc_env *env, float factor);

/* Rounds bf16 copies from masters. Ends with a barrier. */
void mlc_gradient_refresh(const mlc_session *session, const mlc_env *env);

/* Initial values of parameters, and their copies. Ends with a barrier. */
void mlc_gradient_initialize(const mlc_session *session, const mlc_env *env);

/* Looks through the accumulators that take microbatches: the worker's bad_parameter. Ends with a barrier. */
void mlc_gradient_search(const mlc_session *session, const mlc_env *env);

#endif
