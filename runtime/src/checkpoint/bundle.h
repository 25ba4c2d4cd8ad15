/* bundle.h: safetensors files that belong together: the shards of one model. */
#ifndef MLC_BUNDLE_H
#define MLC_BUNDLE_H

#include "checkpoint/safetensors.h"

typedef struct mlc_bundle {
    mlc_safetensors *files;
    int64_t count;
} mlc_bundle;

/* Opens one file; or what a directory holds under a stem: <stem>.safetensors.index.json and the files it names, or
 * <stem>.safetensors. Returns a status. */
int mlc_bundle_open_file(mlc_bundle *bundle, const char *path, mlc_error *error);
int mlc_bundle_open_directory(mlc_bundle *bundle, const char *directory, const char *stem, mlc_error *error);

/* Are its files still whole, after what they hold was taken? Returns a status. */
int mlc_bundle_check(const mlc_bundle *bundle, mlc_error *error);
void mlc_bundle_close(mlc_bundle *bundle);

/* The tensor of a name and the file it is in; NULL when there is none. */
mlc_stored *mlc_bundle_find(const mlc_bundle *bundle, const char *name, const mlc_safetensors **file);

#endif
