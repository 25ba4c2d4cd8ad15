/* collective.h: what the ranks add up and pass on after the last microbatch: the actions REDUCE, SHARE, SPREAD and GATHER.
 * compiler/parallel/collectives.py says which messages these are, for the proof and for --print-launches.
 *
 * Tensors travel as streams: pieces of tensors one after the other, each starting on a multiple of 64 bytes, cut into segments that
 * fit a slot. Both ends derive the same stream from the tables of the model, so messages carry no headers.
 *
 *   REDUCE   between replicas, a turn of halving    the uses of a chunk, each as far as it lies in the portions that the other end keeps; each
 *                                                   segment holds the same elements of all sums (tree.h) that the sender has
 *   SHARE    place of a use to the owner            the replica's pieces of one use, whole sums
 *   SPREAD   owner to a place that shares it        the replica's pieces of one parameter: bf16 copies, else masters
 *   GATHER   between replicas, a turn of doubling   the same of all that the place holds, in the portions that the sender has so far
 *
 * Each action numbers the messages of its links from 0, and ends when all that it sent has gone and all that came is released: the next
 * action finds every slot free. Both ends of an exchange go in step: segment k goes out while segment k - 1 of the other is worked in, so
 * one slot is enough. The exchanges of a turn are ordered by the lower of their two points, at every rank that takes part in them.
 */
#ifndef MLC_COLLECTIVE_H
#define MLC_COLLECTIVE_H

#include "model/rank.h"

/* Makes the streams of a rank whose tables exist, for the actions of its list. Refuses a model without a channel for one, and an action of
 * what there is not. Returns a status. */
int mlc_collective_open(mlc_rank *rank, mlc_error *error);
void mlc_collective_close(mlc_rank *rank);

/* Called by every thread. False on every thread: a peer is lost, rank->error says which. */
bool mlc_collective_reduce(mlc_rank *rank, const mlc_env *env, int chunk, int turn);
bool mlc_collective_share(mlc_rank *rank, const mlc_env *env, const mlc_action *action);
bool mlc_collective_spread(mlc_rank *rank, const mlc_env *env, const mlc_action *action);
bool mlc_collective_gather(mlc_rank *rank, const mlc_env *env, int turn);

#endif
