/* checkpoint_home.h: what rank 0 alone does in the directory of checkpoints that it holds. Asks no other rank. */
#ifndef MLC_CHECKPOINT_HOME_H
#define MLC_CHECKPOINT_HOME_H

#include "checkpoint.h"

/* Takes a directory unless it is held already, and removes what killed programs left there. Returns a status. */
int mlc_home_take(mlc_rank *rank, const char *directory, mlc_allowed allowed, mlc_error *error);

/* Gives a checkpoint that was written under a temporary name its own name, lets `latest` name it, and removes what need not stay: the
 * same step of this run, and steps beyond rank->keep. Returns a status. */
int mlc_home_publish(mlc_rank *rank, const char *temporary, mlc_error *error);

/* Removes what lies under a temporary name. */
void mlc_home_discard(mlc_rank *rank, const char *temporary);

#endif
