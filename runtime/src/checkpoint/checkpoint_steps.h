/* checkpoint_steps.h: the steps in a directory of checkpoints: which there are, whose they are, which one is named, and their removal.
 * None of this asks other ranks. */
#ifndef MLC_CHECKPOINT_STEPS_H
#define MLC_CHECKPOINT_STEPS_H

#include "system/home.h"
#include "system/json.h"

#define MLC_STATE_BYTES (256 << 20) /* the most that a state.json has */

#define MLC_CHECKPOINT_FORMAT "mlc checkpoint 1"

/* The run of checkpoints that were written before runs had names. */
#define MLC_RUN_UNNAMED "00000000000000000000000000000000"

/* ---- state.json ---- */

/* Reads the state of a step, checked against its own checksum. `path` is the step's, for messages. Returns a status. */
int mlc_state_open(mlc_json *json, int step_folder, const char *path, mlc_error *error);

/* The run that a state is of. */
const char *mlc_state_run(const mlc_json *json);

/* The first of the files that a state lists, NULL: it lists none. Their keys are plain names. */
const mlc_json_node *mlc_state_files(const mlc_json *json);

/* ---- steps ---- */

typedef struct mlc_step {
    int64_t step;
    char name[MLC_NAME_BYTES]; /* step-00000100, or step-00000100-1a2b3c4d where another run has the first name */
    char run[MLC_RUN_BYTES];   /* "": no state can be read, so nobody knows */
} mlc_step;

/* The number of a name, -1: it is not that of a step. */
int64_t mlc_step_number(const char *name);

/* The names that a step of a run may have. */
void mlc_step_name(char name[MLC_NAME_BYTES], int64_t step);
void mlc_step_name_of_run(char name[MLC_NAME_BYTES], int64_t step, const char *run);

#define MLC_STEPS_AT_ONCE 64

/* A look at the steps of a directory, the newest first. The directory is scanned once for so many of them. {.folder = fd} begins it. */
typedef struct mlc_steps {
    int folder;
    int count, passed; /* of `listed`, in order */
    bool more;         /* the last scan found more than it could list */
    mlc_step listed[MLC_STEPS_AT_ONCE];
} mlc_steps;

/* Finds the next step, which is older than the one before. False: no more. */
bool mlc_steps_next(mlc_steps *steps, mlc_step *step);

/* Whose is the step of a name? "": of nobody that can be known. */
void mlc_step_run(int folder, const char *name, char run[MLC_RUN_BYTES]);

/* Removes the files that a step's state lists, the state, and the directory. False: it stays, with errno: ENOTEMPTY where something else
 * is in it. Where a file of its own stays, so does the state, and the step can be removed later. */
bool mlc_step_remove(int folder, const char *name);

/* ---- names of steps: DIR/latest, DIR/best ---- */

/* Reads the step that a file names: its first line. The others go to `rest` (of MLC_NAME_BYTES) unless it is NULL. Returns a status. */
int mlc_step_named(int folder, const char *file, const char *path, char name[MLC_NAME_BYTES], char *rest, mlc_error *error);

/* Writes such a file, whole or not at all, by way of a temporary name. Returns a status. */
int mlc_step_name_it(const mlc_home *home, const char *file, const char *temporary, const char *text, mlc_error *error);

/* ---- what was left behind ---- */

/* Gives what is there under a temporary name another one that people see, `<as>.kept-<8 digits>`, which goes to `kept`. */
bool mlc_temporary_keep(int folder, const char *temporary, const char *as, char kept[MLC_NAME_BYTES]);

/* Removes what is there under a temporary name: the files of a checkpoint, and the directory. If something else is in it, it is kept;
 * else `kept` is "". */
void mlc_temporary_remove(int folder, const char *temporary, const char *as, char kept[MLC_NAME_BYTES]);

#endif
