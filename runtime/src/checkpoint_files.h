/* checkpoint_files.h: the files of checkpoints, for those who save and load them: names, directories, hashes. */
#ifndef MLC_CHECKPOINT_FILES_H
#define MLC_CHECKPOINT_FILES_H

#include "file.h"
#include "rank.h"

#define MLC_CHECKPOINT_FORMAT "mlc checkpoint 1"
#define MLC_NAME_BYTES 80

/* ---- directories: read with getdents64, because opendir allocates ---- */

/* Calls visit(context, name) for each name in a directory but . and .. ; stops when visit returns false. */
void mlc_directory_each(const char *directory, bool (*visit)(void *context, const char *name), void *context);

/* Removes a directory of files. */
void mlc_directory_remove(char *directory);

/* Makes a directory and those above it. Returns a status. */
int mlc_directory_make(const char *directory, mlc_error *error);
int mlc_directory_sync(const char *directory, mlc_error *error);

/* ---- hashes ---- */

#define MLC_HASHED_FILES 64 /* at a time */

/* Numbered files, and the SHA-256 of some of them. */
typedef struct mlc_hashed_files {
    int (*path_of)(const struct mlc_hashed_files *files, int64_t number, char path[MLC_PATH_BYTES], mlc_error *error);
    const void *context;
    int64_t first;
    int64_t count; /* at most MLC_HASHED_FILES */
    uint8_t digests[MLC_HASHED_FILES][32]; /* by number - first */
} mlc_hashed_files;

/* Reads files [first, first + count), shared out over the ranks and their threads; every rank gets all digests. All ranks call it.
 * Allocates nothing. Returns a status. */
int mlc_hashed_files_read(mlc_hashed_files *files, mlc_rank *rank, mlc_error *error);

#endif
