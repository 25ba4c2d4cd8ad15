/* accord.h: what the ranks do as one where files are read and written. Every rank calls these in the same order, with error
 * recording what went wrong here so far; afterwards it records the same on every rank. */
#ifndef MLC_ACCORD_H
#define MLC_ACCORD_H

#include "model/rank.h"

/* Did any rank fail? Returns the common status. */
int mlc_accord(mlc_rank *rank, mlc_error *error);

/* Bitwise or of a block over all ranks: each fills its own part of zeros. Returns a status. */
int mlc_accord_block(mlc_rank *rank, void *block, size_t bytes, mlc_error *error);

/* Says that this rank is at work, for those that wait for it. Any thread of the rank. */
void mlc_accord_work(mlc_rank *rank);

#endif
