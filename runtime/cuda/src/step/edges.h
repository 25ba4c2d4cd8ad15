/* edges.h: messages of a list on a GPU, beside what wire.h says of them on any machine. */
#ifndef MLC_EDGES_H
#define MLC_EDGES_H

#include "model/rank.h"

/* The list of a chain is about to be walked. */
void mlc_edges_walk(mlc_rank *rank, int chain);

/* A pass of `count` microbatches is about to begin: what has moved is counted from 0, and looked at while the host waits. */
void mlc_edges_begin(mlc_rank *rank, int64_t count);

/* Have all messages of a pass that is over come whole? Returns a status. */
int mlc_edges_check(mlc_rank *rank);

/* What follows on the stream of the GPU comes behind all messages of the walk: its graph can end. */
void mlc_edges_join(mlc_rank *rank);

/* mlc_exchange (world.h) on the GPU: all ranks combine `units` units of MLC_STATISTIC_BYTES at `block`, an address of the device. kind: how
 * (mlc_ending.h). Returns a status. */
int mlc_edges_exchange(mlc_rank *rank, const mlc_env *env, int kind, char *block, int64_t units);

#endif
