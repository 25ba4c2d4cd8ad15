/* alike.h: do all ranks read the same files? Each opens them by itself, on a disk of its own perhaps. */
#ifndef MLC_ALIKE_H
#define MLC_ALIKE_H

#include "checkpoint/bundle.h"
#include "data/data.h"

/* Compares what feeds each input in training and evaluation, by content (identity.h); data that was not given is skipped. Every rank calls
 * it, with ranks of the same program. A difference is every rank's error: MLC_BAD_INPUT, with input and ranks. Returns the common status. */
int mlc_alike_data(mlc_rank *rank, const mlc_data *training, const mlc_data *evaluation, mlc_error *error);

/* Compares files that all ranks have opened under one path, or what all have read there: MLC_BAD_INPUT where they differ. Every rank calls
 * it, when all have. Returns the common status. */
int mlc_alike_files(mlc_rank *rank, const char *path, const mlc_bundle *const *bundles, int count, mlc_error *error);
int mlc_alike_bytes(mlc_rank *rank, const char *path, const void *data, size_t bytes, mlc_error *error);

#endif
