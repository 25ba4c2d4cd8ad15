/* safetensors.h: files of tensors.
 *
 *   u64 length of the header | header: JSON, padded with spaces to 8 bytes | data
 *   {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ..., "__metadata__": {"format": "pt"}}
 *
 * Offsets count from the start of the data; the tensors fill it without holes.
 */
#ifndef MLC_SAFETENSORS_H
#define MLC_SAFETENSORS_H

#include "model/rank.h"
#include "system/file.h"

#define MLC_SAFETENSORS_RANK 16

typedef struct mlc_stored {
    const char *name; /* lives as long as the file is open */
    char dtype[8];
    int rank;
    int64_t shape[MLC_SAFETENSORS_RANK];
    uint64_t elements;
    uint64_t begin, end; /* bytes of the data */
    bool used;           /* for those who load: some parameter reads it */
} mlc_stored;

typedef struct mlc_json mlc_json;

typedef struct mlc_safetensors {
    char *path;
    mlc_mapping mapping;
    const uint8_t *data;
    mlc_stored *tensors; /* sorted by name */
    int64_t count;
    mlc_json *json; /* owns the names */
} mlc_safetensors;

/* Maps a file and checks its header: dtypes, shapes and offsets agree and lie in the file. Returns a status. */
int mlc_safetensors_open(mlc_safetensors *file, const char *path, mlc_error *error);
void mlc_safetensors_close(mlc_safetensors *file);

/* The tensor of a name, NULL when there is none. */
mlc_stored *mlc_safetensors_find(const mlc_safetensors *file, const char *name);

/* Writing, by all ranks that hold tensors [first, last) of `entries`: one creates the file in a folder, with its header, the data
 * a hole of the right size; then each puts the elements it owns in place, and syncs. `path` is the folder's, for messages. Allocate
 * nothing. Return a status. */
int mlc_safetensors_create(int folder, const char *name, const char *path, const mlc_entries *entries, int64_t first, int64_t last,
                           mlc_error *error);
int mlc_safetensors_fill(int folder, const char *name, const char *path, const mlc_entries *entries, int64_t first, int64_t last,
                         mlc_rank *rank, mlc_error *error);

#endif
