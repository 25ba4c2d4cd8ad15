/* alike.h: do all ranks read the same data? Each opens files by itself, on a disk of its own perhaps. */
#ifndef MLC_ALIKE_H
#define MLC_ALIKE_H

#include "data.h"

/* Compares what feeds each input in training and evaluation, by content (identity.h); data that was not given is skipped. Every rank calls
 * it, with ranks of the same program. A difference is every rank's error: MLC_BAD_INPUT, with input and ranks. Returns the common status. */
int mlc_alike_data(mlc_rank *rank, const mlc_data *training, const mlc_data *evaluation, mlc_error *error);

#endif
