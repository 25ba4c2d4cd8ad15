/* checkpoint.h: checkpoints on disk: written whole or not at all, checked before they are believed, and known to be of one run. The
 * format is in mlc.h.
 *
 * All ranks call each of these in the same order and with the same arguments. They read and write in parallel; `error` and status
 * are the same on every rank afterwards. The tensors of a checkpoint do not depend on the layout of the ranks that wrote it, to the
 * byte. What is worth a line is passed to rank->note of rank 0.
 *
 *   prepare      takes the directory for this program, and removes what killed ones of ours left
 *   load         sets rank->run to that of the checkpoint
 *   claim        decides which run is written there: a new one, or the one that was loaded
 *   save
 */
#ifndef MLC_CHECKPOINT_H
#define MLC_CHECKPOINT_H

#include "model/rank.h"
#include "system/file.h"

/* Differences between checkpoint and run that may pass: names or patterns (fnmatch) of items: "seed", "order", "examples", one of the
 * model's, "data.INPUT"; "lock": directories on file systems without locks. */
typedef struct mlc_allowed {
    char *const *items;
    int count;
} mlc_allowed;

/* Is an item among them? */
bool mlc_allowed_takes(mlc_allowed allowed, const char *item, size_t length);

/* Makes DIRECTORY, takes it (home.h), checks that every rank can write there, and removes what saves that were killed left behind.
 * Returns a status: MLC_BAD_INPUT, naming the holder, when another program writes there. */
int mlc_checkpoint_prepare(mlc_rank *rank, const char *directory, mlc_allowed allowed, mlc_error *error);

/* How a run comes to write into a directory. */
typedef struct mlc_claim {
    bool beside;      /* a new run, even where steps of others lie: they stay */
    bool newest;      /* the step that was loaded is the newest whole one of its run there */
    bool dry;         /* only look: DIRECTORY need not be there, nothing is touched */
    const char *ways; /* what a message proposes instead */
} mlc_claim;

/* Gives the rank its run. A run that was loaded goes on; a step of it that is newer than the one loaded makes it a new run, so that the
 * two do not mix. A run that begins, or that has no step there, is refused where steps of others lie, unless claim.beside. Call
 * prepare before, unless dry. Returns a status. */
int mlc_checkpoint_claim(mlc_rank *rank, const char *directory, mlc_claim claim, mlc_error *error);

/* Both, unless the directory is held already: before a save by who may save anywhere. Returns a status. */
int mlc_checkpoint_enter(mlc_rank *rank, const char *directory, mlc_claim claim, mlc_error *error);

/* Writes DIRECTORY/step-XXXXXXXX and DIRECTORY/latest, taking DIRECTORY if it is not held; then removes steps of this run beyond
 * rank->keep. Returns a status; on failure, and when a rank is lost, what was there before is still there. MLC_NOT_FINITE: so is a
 * parameter or a state of what the model trains. */
int mlc_checkpoint_save(mlc_rank *rank, const char *directory, mlc_error *error);

/* After a save: DIRECTORY/best names this step if its loss is the lowest so far. Such a step is kept. Returns a status. */
int mlc_checkpoint_save_best(mlc_rank *rank, double loss, mlc_error *error);

/* Loads a step directory, or what `latest` names in a directory of them: what each rank holds, its seed, step and cursor. Changes
 * nothing when it fails, unless a value is not finite or a file became shorter meanwhile. bf16 copies are the caller's to refresh.
 * Returns a status. */
int mlc_checkpoint_load(mlc_rank *rank, const char *path, mlc_allowed allowed, mlc_error *error);

/* The directory that a path means: what DIRECTORY/latest names, or the directory itself; what the file `best` or `latest` names. Any
 * other file is left as it is. Rank 0 decides. Returns a status. */
int mlc_checkpoint_resolve(mlc_rank *rank, const char *given, char path[MLC_PATH_BYTES], mlc_error *error);

/* Finds the newest whole checkpoint of the run that DIRECTORY/latest names, or, where it names none, of the only run there. path gets
 * "" when there are no checkpoints. Returns a status: MLC_BAD_INPUT when there are some, but none is whole, or they are of several
 * runs. */
int mlc_checkpoint_newest(mlc_rank *rank, const char *directory, char path[MLC_PATH_BYTES], mlc_error *error);

#endif
