/* checkpoint_files.h: the hashes of a checkpoint's files, for those who save and load them. */
#ifndef MLC_CHECKPOINT_FILES_H
#define MLC_CHECKPOINT_FILES_H

#include "model/rank.h"
#include "system/folder.h"

#define MLC_HASHED_FILES 64 /* at a time */

/* Numbered files, and the SHA-256 of some of them. */
typedef struct mlc_hashed_files {
    void (*name_of)(const struct mlc_hashed_files *files, int64_t number, char name[MLC_NAME_BYTES]);
    const void *context;
    int folder;       /* they lie in */
    const char *path; /* of it, for messages */
    int64_t first;
    int64_t count; /* at most MLC_HASHED_FILES */
    uint8_t digests[MLC_HASHED_FILES][32]; /* by number - first */
} mlc_hashed_files;

/* Reads files [first, first + count), shared out over the ranks and their threads; every rank gets all digests. All ranks call it.
 * Allocates nothing. Returns a status. */
int mlc_hashed_files_read(mlc_hashed_files *files, mlc_rank *rank, mlc_error *error);

#endif
