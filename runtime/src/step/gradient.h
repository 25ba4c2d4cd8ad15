/* gradient.h: what happens to gradients on one rank: group tree, uses, scale, norm, clip, update. What crosses ranks is in
 * collective.h.
 *
 * All functions but mlc_gradient_of are called by every thread of a team with equal arguments. The work is shared out in aligned
 * slices of 1024 elements; a slice belongs to one thread, so the bits do not depend on how many there are.
 *
 * Accumulator 0 of a use takes the microbatches of a group; finished sums that cannot join yet wait in accumulators 1, 2, ...
 * (tree.h). The sum of a replica's last group joins when it is first read: mlc_gradient_settle.
 */
#ifndef MLC_GRADIENT_H
#define MLC_GRADIENT_H

#include "model/rank.h"

/* Halves of a step, as bits: 1 << enum mlc_action_kind of a use's phase. A backward action is both gradients. */
unsigned mlc_gradient_phases(int action_kind);

/* The sums of local group `group`, which is not the replica's last, of all uses of a chunk in these phases: joins them with their
 * siblings that wait, and lets them wait. Ends with a barrier. */
void mlc_gradient_fold(const mlc_rank *rank, const mlc_env *env, int chunk, unsigned phases, int group);

/* By one thread. Elements [begin, begin + count) of the accumulators of a use: the replica's last group joins its siblings, in
 * accumulator 0. With one replica that is the whole sum. Once for each element. */
void mlc_gradient_settle(const mlc_rank *rank, const uint64_t *levels, int64_t begin, int64_t count);

/* The same of all uses of a chunk. Called by every thread; ends with a barrier. */
void mlc_gradient_settle_chunk(const mlc_rank *rank, const mlc_env *env, int chunk);

/* After all uses that other ranks hold have been added: whole gradients of the rank's pieces (uses in chain order), times the
 * record's `scale` for loss gradients and 1 / M for accumulated ones; the squares of the thread's loss gradients, and the lowest parameter with a
 * value that is not finite, into its worker. Ends with a barrier. */
void mlc_gradient_finish(const mlc_rank *rank, const mlc_env *env);

/* The exact sum of squares and the lowest parameter that is not finite, -1: none; from what the threads' workers hold. */
mlc_exact mlc_gradient_squares(const mlc_rank *rank);
int64_t mlc_gradient_bad(const mlc_rank *rank);

/* Multiplies the loss gradients of the rank's pieces by the record's `clip` and updates them, their states and bf16 copies; what is not finite
 * then goes into the thread's worker. Does nothing where the record is `held`. Ends with a barrier. */
void mlc_gradient_update(const mlc_rank *rank, const mlc_env *env);

/* The first flaw that the update left in the rank's pieces (finite.h), -1: none; from what the threads' workers hold. */
int64_t mlc_gradient_flaw(const mlc_rank *rank);

/* Rounds all bf16 copies from whole masters. Ends with a barrier. */
void mlc_gradient_refresh(const mlc_rank *rank, const mlc_env *env);

/* Initial values of parameters, and their copies. Ends with a barrier. */
void mlc_gradient_initialize(const mlc_rank *rank, const mlc_env *env);

/* Looks through the accumulators that take microbatches, of the uses of a chunk in these phases: mlc_gradient_bad afterwards. Ends
 * with a barrier. */
void mlc_gradient_search(const mlc_rank *rank, const mlc_env *env, int chunk, unsigned phases);

/* The gradient of a parameter in the arena of its owner: after a step, whole and scaled in the pieces of the rank's own shard; other
 * elements are undefined. NULL: it has none, or is another place's. */
void *mlc_gradient_of(const mlc_rank *rank, int parameter);

#endif
