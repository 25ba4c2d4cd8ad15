/* checkpoint.h: checkpoints on disk: written whole or not at all, checked before they are believed. The format is in mlc.h.
 *
 * All ranks call each of these in the same order and with the same arguments. They read and write in parallel; `error` and status
 * are the same on every rank afterwards. A checkpoint does not depend on the layout of the ranks that wrote it, to the byte. */
#ifndef MLC_CHECKPOINT_H
#define MLC_CHECKPOINT_H

#include "file.h"
#include "rank.h"

/* Writes DIRECTORY/step-XXXXXXXX and DIRECTORY/latest, making DIRECTORY if need be. Allocates nothing. Returns a status; on
 * failure, and when a rank is lost, what was there before is still there. */
int mlc_checkpoint_save(mlc_rank *rank, const char *directory, mlc_error *error);

/* Differences between checkpoint and run that may pass, by item ("seed", "order", "examples", or one of the model's). */
typedef struct mlc_allowed {
    char *const *items;
    int count;
} mlc_allowed;

/* Loads a step directory, or what `latest` names in a directory of them: what each rank holds, its seed, step and cursor. Changes
 * nothing when it fails. bf16 copies are the caller's to refresh. Returns a status. */
int mlc_checkpoint_load(mlc_rank *rank, const char *path, mlc_allowed allowed, mlc_error *error);

/* The directory that a path means: what DIRECTORY/latest names, or the directory itself. A file is left as it is. Rank 0 decides.
 * Returns a status. */
int mlc_checkpoint_resolve(mlc_rank *rank, const char *given, char path[MLC_PATH_BYTES], mlc_error *error);

/* Finds the newest whole checkpoint of DIRECTORY: path gets "" when there is none. Rank 0 passes damaged ones to `skipped`, which
 * may be NULL. */
int mlc_checkpoint_newest(mlc_rank *rank, const char *directory, char path[MLC_PATH_BYTES], void (*skipped)(const mlc_error *why),
                          mlc_error *error);

/* Makes DIRECTORY, checks that files can be written there, and removes what saves that were killed left behind. Returns a status. */
int mlc_checkpoint_prepare(mlc_rank *rank, const char *directory, mlc_error *error);

#endif
