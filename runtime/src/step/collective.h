/* collective.h: what the ranks add up and pass on after the last microbatch: the actions REDUCE, SHARE and SPREAD.
 *
 * Tensors travel as streams: pieces of tensors one after the other, each starting on a multiple of 64 bytes, cut into segments that
 * fit a slot. Both ends derive the same stream from the tables of the model, so messages carry no headers.
 *
 *   REDUCE   between replicas, by halving       the uses of a chunk, each as far as it lies in the portions that the other end keeps; each
 *                                               segment holds the same elements of all sums (tree.h) that the sender has
 *   SHARE    place of a use to the owner        the replica's pieces of one use, whole sums
 *   SPREAD   owner to a place that shares it    the replica's pieces of one parameter: bf16 copies, else masters
 *            between replicas, by doubling      the same of all that the place holds, in the portions that the sender has so far
 *
 * Halving and doubling go turn by turn as mlc_mesh.h says. Both ends of an exchange go in step: segment k goes out while segment k - 1 of
 * the other is worked in, so one slot is enough. Exchanges are ordered by turn, then by the lower of their two points, at every rank that
 * takes part in them; SHARE and the first half of SPREAD follow one order of events for all ranks (parameter, then use or place). So
 * nobody waits in a circle.
 */
#ifndef MLC_COLLECTIVE_H
#define MLC_COLLECTIVE_H

#include "model/rank.h"

/* Makes the streams of a rank whose tables exist. Refuses a model without a channel for one. Returns a status. */
int mlc_collective_open(mlc_rank *rank, mlc_error *error);
void mlc_collective_close(mlc_rank *rank);

/* Called by every thread. False on every thread: a peer is lost, rank->error says which. */
bool mlc_collective_reduce(mlc_rank *rank, const mlc_env *env, int chunk);
bool mlc_collective_share(mlc_rank *rank, const mlc_env *env);
bool mlc_collective_spread(mlc_rank *rank, const mlc_env *env);

#endif
