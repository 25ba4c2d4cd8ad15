/* checkpoint.h: checkpoints on disk: written whole or not at all, checked before they are believed. The format is in mlc.h. */
#ifndef MLC_CHECKPOINT_H
#define MLC_CHECKPOINT_H

#include "file.h"
#include "session.h"

/* Writes DIRECTORY/step-XXXXXXXX and DIRECTORY/latest, making DIRECTORY if need be. Allocates nothing. Returns a status; on
 * failure what was there before is still there. */
int mlc_checkpoint_save(const mlc_session *session, const char *directory, mlc_error *error);

/* Differences between checkpoint and session that may pass, by item ("seed", "order", "examples", or one of the model's). */
typedef struct mlc_allowed {
    char *const *items;
    int count;
} mlc_allowed;

/* Loads a step directory, or what `latest` names in a directory of them. Changes nothing when it fails. Returns a status. */
int mlc_checkpoint_load(mlc_session *session, const char *path, mlc_allowed allowed, mlc_error *error);

/* The directory that a path means: what DIRECTORY/latest names, or the directory itself. Returns a status. */
int mlc_checkpoint_resolve(const char *directory, char path[MLC_PATH_BYTES], mlc_error *error);

/* Checks that a step directory is whole. Returns a status; the message names what is damaged. */
int mlc_checkpoint_verify(const char *path, mlc_error *error);

/* Finds the newest whole checkpoint of DIRECTORY: path gets "" when there is none. Damaged ones are passed to `skipped`, which
 * may be NULL. */
int mlc_checkpoint_newest(const char *directory, char path[MLC_PATH_BYTES], void (*skipped)(const mlc_error *why), mlc_error *error);

/* Makes DIRECTORY, checks that files can be written there, and removes what saves that were killed left behind. Returns a status. */
int mlc_checkpoint_prepare(const char *directory, mlc_error *error);

#endif
