/* checkpoint_home.h: what rank 0 alone does in the directory of checkpoints that it holds. Asks no other rank. */
#ifndef MLC_CHECKPOINT_HOME_H
#define MLC_CHECKPOINT_HOME_H

#include "checkpoint/checkpoint.h"

/* Takes a directory unless it is held already, and removes what killed programs left there. Returns a status. */
int mlc_home_take(mlc_rank *rank, const char *directory, mlc_allowed allowed, mlc_error *error);

/* Takes it again, should it have been moved away, or its lock removed, since it was claimed. Returns a status: MLC_FAILED when what lies
 * there now is of another run. */
int mlc_home_retake(mlc_rank *rank, const char *directory, mlc_error *error);

/* Gives a checkpoint that was written under a temporary name its own name, lets `latest` name it, and removes what need not stay: the
 * same step of this run, and steps beyond rank->keep. Returns a status. */
int mlc_home_publish(mlc_rank *rank, const char *temporary, mlc_error *error);

/* Removes what lies under a temporary name. */
void mlc_home_discard(mlc_rank *rank, const char *temporary);

#endif
