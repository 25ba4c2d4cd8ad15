/* open.h: a rank is made, set to its beginning, and closed. */
#ifndef MLC_OPEN_H
#define MLC_OPEN_H

#include "model/rank.h"

/* Makes a rank with its arena, team and tables; not yet connected: the caller opens the transport, then initialises.
 * number: which of the ranks of this machine it is. inbox_fd: a file of the inbox's bytes to map there, -1: private memory. Returns NULL on failure. */
mlc_rank *mlc_rank_open(const mlc_model *model, int rank, const mlc_open_options *options, int number, int inbox_fd, mlc_error *error);
void mlc_rank_close(mlc_rank *rank);

/* Sets the parameters that this rank holds to their initial values and its states to zero, as at step 0, from rank->seed. */
void mlc_rank_initialize(mlc_rank *rank);

#endif
