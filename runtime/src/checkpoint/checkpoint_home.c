/* checkpoint_home.c: see checkpoint_home.h, and prepare, claim and save_best of checkpoint.h. */
#include "checkpoint/checkpoint_home.h"

#include "checkpoint/checkpoint_steps.h"
#include "model/accord.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SWAP 2 /* RENAME_EXCHANGE */

__attribute__((format(printf, 2, 3))) static void say(const mlc_rank *rank, const char *format, ...)
{
    char text[MLC_PATH_BYTES + 400];
    va_list arguments;
    if (rank->rank || !rank->note)
        return;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    rank->note(rank->listener, text);
}

static const char *run_of(const mlc_rank *rank)
{
    return *rank->run ? rank->run : MLC_RUN_UNNAMED;
}

/* ---- whose steps lie there ---- */

typedef struct census {
    int64_t own;    /* steps of this run */
    int64_t later;  /* of these, newer than the step it goes on from */
    mlc_step other; /* the newest of another run; no name: none */
} census;

static void count_steps(const mlc_rank *rank, int folder, census *found)
{
    mlc_steps steps = {.folder = folder};
    *found = (census){0};
    for (mlc_step step; mlc_steps_next(&steps, &step);) {
        bool own = rank->is_resumed && !strcmp(step.run, run_of(rank));
        found->own += own;
        found->later += own && step.step > rank->resumed;
        if (*step.run && !own && !*found->other.name)
            found->other = step;
    }
}

/* ---- taking ---- */

/* A step that could not be removed: tried again at the next save, unless it holds what mlc did not make. */
static void say_left(const mlc_rank *rank, const char *name, int reason)
{
    bool foreign = reason == ENOTEMPTY || reason == EEXIST;
    say(rank, "%s/%s: left%s%s", rank->home.path, name, foreign ? ", with files in it that mlc did not make" : ": ",
        foreign ? "" : strerror(reason));
}

static void say_kept(const mlc_rank *rank, const char *kept)
{
    if (*kept)
        say(rank, "%s/%s: left, with files in it that mlc did not make", rank->home.path, kept);
}

static void remove_listed(void *context, const char *name)
{
    char kept[MLC_NAME_BYTES];
    const mlc_rank *rank = context;
    mlc_temporary_remove(rank->home.folder, name, "checkpoint", kept);
    say_kept(rank, kept);
}

int mlc_home_take(mlc_rank *rank, const char *directory, mlc_allowed allowed, mlc_error *error)
{
    if (mlc_home_is(&rank->home, directory))
        return MLC_OK;
    mlc_home_close(&rank->home);
    if (mlc_home_open(&rank->home, directory, mlc_allowed_takes(allowed, "lock", 4), error))
        return error->status;
    mlc_home_sign(&rank->home, rank->model->name, rank->run);
    mlc_home_each_listed(&rank->home, remove_listed, rank);
    mlc_home_settle(&rank->home);
    return MLC_OK;
}

/* What lies in the place of the directory that was claimed, after somebody has moved that away, must not be of another run. */
static int check_replaced(const mlc_rank *rank, mlc_error *error)
{
    census found;
    count_steps(rank, rank->home.folder, &found);
    if (!*rank->run || rank->beside || !*found.other.name || found.own)
        return MLC_OK;
    return mlc_error_set(error, MLC_FAILED, "%s: another directory by now, with steps of another run (%s of run %.8s)", rank->home.path,
                         found.other.name, found.other.run);
}

int mlc_home_retake(mlc_rank *rank, const char *directory, mlc_error *error)
{
    if (mlc_home_is(&rank->home, directory))
        return MLC_OK;
    if (!mlc_home_take(rank, directory, (mlc_allowed){0}, error) && check_replaced(rank, error))
        mlc_home_close(&rank->home);
    return error->status;
}

int mlc_checkpoint_prepare(mlc_rank *rank, const char *directory, mlc_allowed allowed, mlc_error *error)
{
    if (rank->rank == 0)
        mlc_home_take(rank, directory, allowed, error);
    if (mlc_accord(rank, error))
        return error->status;
    if (access(directory, W_OK | X_OK))
        mlc_error_system(error, MLC_BAD_INPUT, "%s: checkpoints cannot be written there", directory);
    return mlc_accord(rank, error);
}

/* ---- which run goes on ---- */

static int begin_run(mlc_rank *rank, mlc_error *error)
{
    return mlc_home_random(rank->run, error);
}

/* What is there decides which run goes on. */
static int decide(mlc_rank *rank, const census *found, const char *directory, mlc_claim claim, mlc_error *error)
{
    bool apart = *found->other.name && !found->own;
    if (apart && !claim.beside)
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: holds steps of another run (%s of run %.8s): %s", directory, found->other.name,
                             found->other.run, claim.ways);
    bool back = rank->is_resumed && found->later && !claim.newest;
    bool named = strcmp(run_of(rank), MLC_RUN_UNNAMED); /* else whose steps those of earlier versions are nobody knows: they stay */
    if (rank->is_resumed && !back && !claim.beside && named)
        return MLC_OK;
    if (back)
        say(rank, "%s: goes back to step %lld, so it is a new run from here on; the later steps of run %.8s stay", directory,
            (long long)rank->resumed, run_of(rank));
    return begin_run(rank, error);
}

/* Which run `latest` names changes with the next save: said where it is another one than the run that goes on. */
static void say_switch(const mlc_rank *rank, const char *loaded, int folder, const char *directory)
{
    char name[MLC_NAME_BYTES], run[MLC_RUN_BYTES] = "";
    mlc_error ignored = {0};
    if (!mlc_step_named(folder, "latest", directory, name, NULL, &ignored))
        mlc_step_run(folder, name, run);
    if (*run && strcmp(run, run_of(rank)) && strcmp(run, loaded))
        say(rank, "%s: `latest` names %s of run %.8s; from the next checkpoint on it names run %.8s", directory, name, run, run_of(rank));
}

static int look(mlc_rank *rank, const char *directory, mlc_claim claim, mlc_error *error)
{
    census found = {0};
    if (!mlc_path_is_directory(directory)) /* a dry run makes none */
        return access(directory, F_OK) ? decide(rank, &found, directory, claim, error)
                                       : mlc_error_set(error, MLC_BAD_INPUT, "%s: not a directory", directory);
    if (claim.dry && access(directory, W_OK | X_OK))
        return mlc_error_system(error, MLC_BAD_INPUT, "%s: checkpoints cannot be written there", directory);
    int folder = mlc_folder_open(directory, error);
    if (folder < 0)
        return error->status;
    char loaded[MLC_RUN_BYTES];
    snprintf(loaded, sizeof loaded, "%s", run_of(rank));
    count_steps(rank, folder, &found);
    if (!decide(rank, &found, directory, claim, error))
        say_switch(rank, loaded, folder, directory);
    close(folder);
    return error->status;
}

int mlc_checkpoint_claim(mlc_rank *rank, const char *directory, mlc_claim claim, mlc_error *error)
{
    char run[MLC_RUN_BYTES] = {0};
    if (rank->rank == 0 && !look(rank, directory, claim, error))
        memcpy(run, rank->run, sizeof run);
    if (mlc_accord(rank, error) || mlc_accord_block(rank, run, sizeof run, error))
        return error->status;
    memcpy(rank->run, run, sizeof run);
    rank->beside = claim.beside;
    if (rank->rank == 0 && !claim.dry)
        mlc_home_sign(&rank->home, rank->model->name, rank->run);
    return MLC_OK;
}

int mlc_checkpoint_enter(mlc_rank *rank, const char *directory, mlc_claim claim, mlc_error *error)
{
    bool held = rank->rank == 0 && *rank->run && mlc_home_is(&rank->home, directory);
    if (mlc_accord_block(rank, &held, sizeof held, error) || held)
        return error->status;
    return mlc_checkpoint_prepare(rank, directory, (mlc_allowed){0}, error) ? error->status
                                                                            : mlc_checkpoint_claim(rank, directory, claim, error);
}

/* ---- publishing ---- */

enum occupant { FREE, OWN, FOREIGN };

/* Who has a name in the directory? A link, a file and a step that cannot be read are foreign. */
static enum occupant occupant_of(const mlc_rank *rank, const char *name)
{
    struct stat status;
    char run[MLC_RUN_BYTES];
    if (fstatat(rank->home.folder, name, &status, AT_SYMLINK_NOFOLLOW))
        return errno == ENOENT ? FREE : FOREIGN;
    mlc_step_run(rank->home.folder, name, run);
    return strcmp(run, run_of(rank)) ? FOREIGN : OWN;
}

static int rename_in(const mlc_home *home, const char *from, const char *to, mlc_error *error)
{
    return renameat(home->folder, from, home->folder, to) ? mlc_error_system(error, MLC_FAILED, "%s/%s", home->path, to) : MLC_OK;
}

static bool swap(const mlc_home *home, const char *one, const char *other)
{
#ifdef SYS_renameat2
    return !syscall(SYS_renameat2, home->folder, one, home->folder, other, SWAP);
#else
    (void)home, (void)one, (void)other;
    return false;
#endif
}

/* What has a name now, and what has it no more. */
typedef struct published {
    char name[MLC_NAME_BYTES];
    char replaced[MLC_NAME_BYTES]; /* "": nothing was */
} published;

/* The same step of this run again: swapped, or, on a file system that cannot, beside it. So there is a whole one at any moment. */
static int publish_again(const mlc_rank *rank, const char *temporary, const char *other, published *to, mlc_error *error)
{
    if (swap(&rank->home, temporary, to->name)) {
        snprintf(to->replaced, MLC_NAME_BYTES, "%s", temporary);
        return MLC_OK;
    }
    enum occupant beside = occupant_of(rank, other);
    if (beside != FREE)
        mlc_step_remove(rank->home.folder, beside == OWN ? other : to->name);
    if (beside == FOREIGN)
        return rename_in(&rank->home, temporary, to->name, error);
    snprintf(to->replaced, MLC_NAME_BYTES, "%s", to->name);
    snprintf(to->name, MLC_NAME_BYTES, "%s", other);
    return rename_in(&rank->home, temporary, other, error);
}

static int publish(const mlc_rank *rank, const char *temporary, published *to, mlc_error *error)
{
    char plain[MLC_NAME_BYTES], of_run[MLC_NAME_BYTES];
    mlc_step_name(plain, rank->step);
    mlc_step_name_of_run(of_run, rank->step, run_of(rank));
    enum occupant first = occupant_of(rank, plain), second = first == FOREIGN ? occupant_of(rank, of_run) : FREE;
    if (second == FOREIGN)
        return mlc_error_set(error, MLC_FAILED, "%s: %s and %s are there, and neither is a step of this run", rank->home.path, plain, of_run);
    if (first == FOREIGN && second == FREE)
        say(rank, "%s/%s: not of this run, so it stays; this step is %s", rank->home.path, plain, of_run);
    snprintf(to->name, MLC_NAME_BYTES, "%s", first == FOREIGN ? of_run : plain);
    to->replaced[0] = 0;
    if (first == OWN || second == OWN)
        return publish_again(rank, temporary, first == OWN ? of_run : plain, to, error);
    return rename_in(&rank->home, temporary, to->name, error);
}

/* ---- pruning ---- */

/* The step that `best` names, and its loss, if it is of this run. */
static bool read_best(const mlc_rank *rank, char name[MLC_NAME_BYTES], double *loss)
{
    char rest[MLC_NAME_BYTES], run[MLC_RUN_BYTES] = "";
    mlc_error ignored = {0};
    return !mlc_step_named(rank->home.folder, "best", rank->home.path, name, rest, &ignored) &&
           sscanf(rest, "loss %lf\nrun %32s", loss, run) == 2 && !strcmp(run, run_of(rank));
}

static void prune(const mlc_rank *rank)
{
    char best[MLC_NAME_BYTES];
    double loss;
    int64_t kept = 0;
    bool has_best = read_best(rank, best, &loss);
    mlc_steps steps = {.folder = rank->home.folder};
    for (mlc_step step; rank->keep && mlc_steps_next(&steps, &step);) {
        bool own = !strcmp(step.run, run_of(rank));
        bool spared = !own || kept++ < rank->keep || (has_best && !strcmp(step.name, best));
        if (!spared && !mlc_step_remove(rank->home.folder, step.name))
            say_left(rank, step.name, errno);
    }
}

/* ---- the whole of a save ---- */

int mlc_home_publish(mlc_rank *rank, const char *temporary, mlc_error *error)
{
    published to;
    char text[2 * MLC_NAME_BYTES], kept[MLC_NAME_BYTES];
    const mlc_home *home = &rank->home;
    if (publish(rank, temporary, &to, error))
        return error->status;
    if (fsync(home->folder))
        return mlc_error_system(error, MLC_FAILED, "%s: cannot be synced", home->path);
    snprintf(text, sizeof text, "%s\n", to.name);
    if (mlc_step_name_it(home, "latest", temporary, text, error))
        return error->status;
    if (*to.replaced && !mlc_step_remove(home->folder, to.replaced)) {
        bool hidden = !strcmp(to.replaced, temporary) && mlc_temporary_keep(home->folder, temporary, to.name, kept);
        say_kept(rank, hidden ? kept : to.replaced);
    }
    prune(rank);
    mlc_home_settle(home);
    return MLC_OK;
}

void mlc_home_discard(mlc_rank *rank, const char *temporary)
{
    char kept[MLC_NAME_BYTES];
    mlc_temporary_remove(rank->home.folder, temporary, "checkpoint", kept);
    say_kept(rank, kept);
    mlc_home_settle(&rank->home);
}

/* ---- the best ---- */

static int save_best(mlc_rank *rank, double loss, mlc_error *error)
{
    char name[MLC_NAME_BYTES], latest[MLC_NAME_BYTES], temporary[MLC_NAME_BYTES], text[3 * MLC_NAME_BYTES];
    double before;
    if (!isfinite(loss) || (read_best(rank, name, &before) && before <= loss))
        return MLC_OK;
    if (mlc_step_named(rank->home.folder, "latest", rank->home.path, latest, NULL, error) || mlc_home_choose(&rank->home, temporary, error))
        return error->status;
    snprintf(text, sizeof text, "%s\nloss %.17g\nrun %s\n", latest, loss, run_of(rank));
    mlc_step_name_it(&rank->home, "best", temporary, text, error);
    prune(rank);
    mlc_home_settle(&rank->home);
    return error->status;
}

int mlc_checkpoint_save_best(mlc_rank *rank, double loss, mlc_error *error)
{
    if (rank->rank == 0)
        save_best(rank, loss, error);
    return mlc_accord(rank, error);
}
