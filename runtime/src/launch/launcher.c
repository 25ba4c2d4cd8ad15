/* launcher.c: see launcher.h. The environment, the decision, and what ranks call; supervisor.c holds the process that forks them. */
#include "launch/launcher.h"

#include "launch/supervisor.h"
#include "mlc.h"
#include "mlc_mesh.h"
#include "system/limit.h"
#include "system/threads.h"
#include "system/voice.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LAST_WORD 500000000 /* nanoseconds */
#define FIRST_WORD 500000000 /* for rank 0 to say what all may have found, and its launcher to end the others */
#define REFUSAL_FIRST 2.0   /* seconds that rank 0 waits to tell the others of its usage error, which it has said */
#define REFUSAL_OTHERS 10.0 /* that another rank waits for rank 0 to say its own */

/* ---- the environment ---- */

typedef struct starter {
    const char *name;
    const char *rank, *size;
    const char *near;  /* ranks on this machine; NULL: it says how many machines there are instead */
    const char *own;   /* which of them this is */
    const char *hosts;
    const char *transport; /* on one machine */
} starter;

/* The first whose size is set is the launcher: what is nearer to the program stands higher. */
static const starter STARTERS[] = {
    {"mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", NULL, "mpi"},
    {"mpiexec", "PMI_RANK", "PMI_SIZE", "MPI_LOCALNRANKS", "MPI_LOCALRANKID", NULL, "mpi"},
    {"torchrun", "RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_RANK", NULL, "local"},
    {"srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", NULL, "SLURM_LOCALID", "SLURM_STEP_NUM_NODES", "mpi"},
    {"srun", "SLURM_PROCID", "SLURM_NTASKS", NULL, "SLURM_LOCALID", "SLURM_NNODES", "mpi"},
};

/* What is the same for all ranks of a run, and for no other run on this machine at the time. */
static const char *const NAMES[] = {"PMIX_NAMESPACE",   "OMPI_MCA_ess_base_jobid",    "SLURM_JOB_ID", "SLURM_STEP_ID",
                                    "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR",  "MASTER_PORT"};

/* A count that the environment states; -1: it states none. */
static int number_of(const char *variable)
{
    const char *text = variable ? getenv(variable) : NULL;
    return text ? atoi(text) : -1;
}

/* A launcher's variable is a whole number of at least so much, or nothing that was started by it can be trusted. */
static int check_number(const char *variable, long least, mlc_error *error)
{
    const char *text = variable ? getenv(variable) : NULL;
    if (!text)
        return MLC_OK;
    char *end;
    errno = 0;
    long value = strtol(text, &end, 10);
    bool whole = *text >= '0' && *text <= '9' && !*end && !errno && value <= INT_MAX;
    if (whole && value >= least)
        return MLC_OK;
    return mlc_error_set(error, MLC_USAGE, "%s=%.40s: wants a whole number of at least %ld, as a launcher sets it; unset it to run without "
                         "one", variable, text, least);
}

/* One variable counts what another one numbers, or a part of it: `less` is below `more`, or (part) not above it. */
static int check_below(const char *less, const char *more, bool part, mlc_error *error)
{
    int value = number_of(less), limit = number_of(more);
    if (value < 0 || limit < 0 || value < limit + part)
        return MLC_OK;
    return mlc_error_set(error, MLC_USAGE, "%s=%s, but %s=%d: %s; a launcher sets both, unset them to run without one", more, getenv(more),
                         less, value, part ? "a machine has no more ranks than there are" : "it is not a rank of them");
}

/* The launcher that the environment speaks of, NULL: none. Returns a status. */
static int find_starter(const starter **out, mlc_error *error)
{
    *out = NULL;
    for (size_t i = 0; i < sizeof STARTERS / sizeof *STARTERS && !*out; i++)
        if (getenv(STARTERS[i].size))
            *out = &STARTERS[i];
    const starter *from = *out;
    if (!from)
        return MLC_OK;
    if (check_number(from->size, 1, error) || check_number(from->rank, 0, error) || check_number(from->near, 1, error) ||
        check_number(from->own, 0, error) || check_number(from->hosts, 1, error))
        return error->status;
    if (check_below(from->rank, from->size, false, error) || check_below(from->near, from->size, true, error))
        return error->status;
    return check_below(from->own, from->near ? from->near : from->size, false, error);
}

/* Ranks on this machine; 0: the environment does not say. */
static int count_neighbours(const starter *from, int ranks)
{
    if (from->near)
        return number_of(from->near) > 0 ? number_of(from->near) : 0;
    return number_of(from->hosts) == 1 ? ranks : 0;
}

static void name_run(mlc_launch *launch, const starter *from)
{
    size_t used = (size_t)snprintf(launch->name, sizeof launch->name, "mlc:%u:%s", (unsigned)getuid(), from->name), first = used;
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
        const char *value = getenv(NAMES[i]);
        if (value && used < sizeof launch->name)
            used += (size_t)snprintf(launch->name + used, sizeof launch->name - used, ":%s", value);
    }
    if (used == first)
        snprintf(launch->name + used, sizeof launch->name - used, ":%d", (int)getppid());
}

/* ---- the decision ---- */

static int check_starter(mlc_launch *launch, const starter *from, mlc_error *error)
{
    const mlc_model *model = launch->model;
    const char *size = getenv(from->size);
    if (launch->ranks == 1)
        return mlc_error_set(error, MLC_USAGE, "%s=%s: a launcher started several ranks, this program has one", from->size, size);
    if (number_of(from->size) != launch->ranks)
        return mlc_error_set(error, MLC_USAGE, "%s=%s: %s started %s ranks, this program has %d (pp %d x dp %d)", from->size, size,
                             from->name, size, launch->ranks, model->mesh.size[MLC_PP], model->mesh.size[MLC_DP]);
    int rank = number_of(from->rank);
    if (rank < 0)
        return mlc_error_set(error, MLC_USAGE, "%s=%s, but %s is not set", from->size, size, from->rank);
    launch->rank = rank;
    return MLC_OK;
}

/* A program that is not for so many ranks: if the others meet on this machine, they can be told. */
static void note_strangers(mlc_launch *launch, const starter *from, const char *transport)
{
    int rank = number_of(from->rank), ranks = number_of(from->size);
    bool local = !strcmp(transport ? transport : from->transport, "local") && count_neighbours(from, ranks) == ranks;
    if (!local || rank < 0 || rank >= ranks)
        return;
    name_run(launch, from);
    launch->rank = rank;
    launch->strangers = ranks;
}

/* How ranks that a launcher started meet. */
static int decide_started(mlc_launch *launch, const starter *from, const char *transport, mlc_error *error)
{
    if (check_starter(launch, from, error)) {
        note_strangers(launch, from, transport);
        return error->status;
    }
    int near = count_neighbours(from, launch->ranks);
    bool together = near == launch->ranks;
    launch->neighbours = near ? near : launch->ranks;
    launch->number = number_of(from->own);
    const char *chosen = transport ? transport : together ? from->transport : "mpi";
    if (!strcmp(chosen, "threads"))
        return mlc_error_set(error, MLC_USAGE, "--transport threads: %s started %d processes, but these ranks are threads of one; run the "
                             "program without it", from->name, launch->ranks);
    if (!strcmp(chosen, "local") && !together)
        return mlc_error_set(error, MLC_USAGE, "--transport local: wants all %d ranks on one machine, %s=%s", launch->ranks,
                             from->near ? from->near : from->hosts, getenv(from->near ? from->near : from->hosts) ?: "");
    if (!strcmp(chosen, "local")) {
        launch->kind = MLC_LAUNCH_JOINED;
        name_run(launch, from);
        return MLC_OK;
    }
    if (mlc_mpi_load(&launch->mpi, error))
        return error->status;
    launch->kind = MLC_LAUNCH_MPI;
    launch->hasty = !strcmp(from->name, "mpirun");
    return MLC_OK;
}

/* One process under a launcher is a world of MPI too, of one rank. */
static bool is_started(void)
{
    for (size_t i = 0; i < sizeof STARTERS / sizeof *STARTERS; i++)
        if (number_of(STARTERS[i].size) == 1)
            return true;
    return false;
}

/* How ranks that this process starts meet. */
static int decide_own(mlc_launch *launch, const char *transport, mlc_error *error)
{
    if (transport && !strcmp(transport, "mpi") && (launch->ranks > 1 || !is_started()))
        return mlc_error_set(error, MLC_USAGE, "--transport mpi: no launcher in the environment; start it with: mpirun -n %d ./%s ...",
                             launch->ranks, launch->model->name);
    launch->neighbours = launch->ranks;
    launch->rank = launch->ranks == 1 ? 0 : -1;
    if (launch->ranks > 1)
        launch->kind = transport && !strcmp(transport, "threads") ? MLC_LAUNCH_THREADED : MLC_LAUNCH_FORKED;
    return MLC_OK;
}

int mlc_launch_decide(mlc_launch *launch, const mlc_model *model, const char *transport, double timeout, mlc_error *error)
{
    *launch = (mlc_launch){.model = model, .kind = MLC_LAUNCH_ALONE, .ranks = mlc_mesh_ranks(&model->mesh), .rank = -1, .number = -1, .timeout = timeout};
    const starter *from;
    if (find_starter(&from, error))
        return error->status;
    bool several = from && number_of(from->size) > 1;
    return several ? decide_started(launch, from, transport, error) : decide_own(launch, transport, error);
}

/* ---- ranks as threads ---- */

typedef struct threaded {
    mlc_launch *launch;
    int rank;
    mlc_rank_main run;
    void *context;
    int status;
    pthread_t handle;
} threaded;

static void *thread_main(void *argument)
{
    threaded *own = argument;
    own->status = own->run(own->launch, own->rank, own->context);
    return NULL;
}

int mlc_launch_worse(int a, int b)
{
    static const int weights[] = {[MLC_USAGE] = 1, [MLC_BAD_INPUT] = 2, [MLC_FAILED] = 3, [MLC_HANG] = 4, [MLC_NOT_FINITE] = 5};
    return weights[b] > weights[a] ? b : a;
}

/* Starts a thread a rank; those that could not be started count as closed, and end the run. Returns how many there are. */
static int start_threads(mlc_launch *launch, threaded *ranks, mlc_rank_main run, void *context, mlc_error *error)
{
    int started = 0;
    for (; started < launch->ranks; started++) {
        ranks[started] = (threaded){launch, started, run, context, MLC_OK, 0};
        if (mlc_thread_start(&ranks[started].handle, thread_main, &ranks[started], false))
            break;
    }
    if (started == launch->ranks)
        return started;
    mlc_error_set(error, MLC_FAILED, "ranks: cannot start a thread for rank %d of %d", started, launch->ranks);
    mlc_hub_abandon(launch->hub, started, MLC_FAILED);
    atomic_fetch_add(&launch->closed, launch->ranks - started);
    return started;
}

static int run_threads(mlc_launch *launch, mlc_rank_main run, void *context, mlc_error *error)
{
    atomic_int spoken = 0;
    threaded *ranks = calloc((size_t)launch->ranks, sizeof *ranks);
    if (!ranks)
        return mlc_error_set(error, MLC_FAILED, "ranks: out of memory");
    launch->spoken = &spoken;
    if (!mlc_hub_open(&launch->hub, launch->ranks, error)) {
        int started = start_threads(launch, ranks, run, context, error);
        for (int r = 0; r < started; r++)
            pthread_join(ranks[r].handle, NULL);
        mlc_hub_close(launch->hub);
    }
    if (error->status && !mlc_launch_may_speak(launch)) /* a rank has said why it ended first */
        launch->said = true;
    int status = error->status;
    for (int r = 0; r < launch->ranks; r++)
        status = mlc_launch_worse(status, ranks[r].status);
    free(ranks);
    return status;
}

/* ---- ranks that a launcher started ---- */

/* The ranks compare their terms. What they find is every rank's; rank 0 says it, and nobody leaves before. Returns a status. */
static int compare_terms(mlc_launch *launch, mlc_meeting *meeting, mlc_error *error)
{
    bool common = false, spoken = launch->said;
    int64_t nothing = 0;
    mlc_error ignored = {0};
    int status = mlc_terms_compare(launch->terms, meeting, &common, error);
    if (!common)
        return status;
    if (meeting->rank == 0 && !spoken)
        mlc_say("%s: error: %s\n", launch->model->name, error->text);
    launch->said = true;
    meeting->fold(meeting, &nothing, true, &ignored);
    return status;
}

/* Joins the others, and agrees with them. */
static int join(mlc_launch *launch, mlc_error *error)
{
    mlc_error before = *error;
    *error = (mlc_error){0};
    int status = mlc_local_join(&launch->local, launch->model, launch->rank, launch->name, launch->start, error);
    if (status) {
        launch->said |= !error->status;
        return status;
    }
    *error = before;
    mlc_meeting meeting = mlc_local_meet(launch->local, launch->rank, launch->start);
    return compare_terms(launch, &meeting, error);
}

static int run_joined(mlc_launch *launch, mlc_rank_main run, void *context, mlc_error *error)
{
    int status = join(launch, error);
    status = status ? status : run(launch, launch->rank, context);
    mlc_local_destroy(launch->local);
    return status;
}

/* Starts MPI, which waits for all ranks in a way of its own, so something else must end it. */
static int start_mpi(mlc_launch *launch, mlc_error *error)
{
    const mlc_mpi *mpi = launch->mpi;
    mlc_error before = *error;
    mlc_limit limit;
    mlc_limit_begin(&limit, launch->start, launch->rank ? 1 : 0, launch->said ? NULL : launch->model->name, "MPI has not started: not all "
                    "ranks have come");
    *error = (mlc_error){0};
    int status = mpi->init(error);
    mlc_limit_end(&limit);
    if (status)
        return status;
    if (mpi->ranks() != launch->ranks) {
        mlc_error_set(error, MLC_USAGE, "MPI has %d ranks, this program %d: start it with mpirun -n %d or srun --mpi", mpi->ranks(),
                      launch->ranks, launch->ranks);
        mpi->finalize();
        return error->status;
    }
    launch->rank = mpi->rank();
    *error = before;
    mlc_meeting meeting = mpi->meet(launch->start);
    status = compare_terms(launch, &meeting, error);
    if (status && launch->said)
        mpi->finalize();
    else if (status)
        mlc_say("%s: error: %s\n", launch->model->name, error->text);
    if (status && !launch->said)
        mpi->abort(status);
    return status;
}

static int run_mpi(mlc_launch *launch, mlc_rank_main run, void *context, mlc_error *error)
{
    int status = start_mpi(launch, error);
    return status ? status : run(launch, launch->rank, context);
}

void mlc_launch_refuse(mlc_launch *launch, const mlc_error *error)
{
    bool first = launch->rank <= 0;
    mlc_error shared = *error;
    launch->start = first ? REFUSAL_FIRST : REFUSAL_OTHERS;
    if (first)
        mlc_say("%s: error: %s\n", launch->model->name, error->text);
    launch->said = first;
    if (launch->strangers)
        launch->said |= mlc_local_refuse(launch->rank, launch->strangers, launch->name, error, launch->start);
    else if (launch->kind == MLC_LAUNCH_JOINED)
        join(launch, &shared);
    else if (launch->kind == MLC_LAUNCH_MPI)
        start_mpi(launch, &shared);
    else if (!first)
        nanosleep(&(struct timespec){.tv_nsec = FIRST_WORD}, NULL);
    if (!launch->said)
        mlc_say("%s: error: rank %d: %s\n", launch->model->name, launch->rank, error->text);
    mlc_local_destroy(launch->local);
}

int mlc_launch_run(mlc_launch *launch, mlc_rank_main run, void *context, mlc_error *error)
{
    launch->begun = true;
    switch (launch->kind) {
    case MLC_LAUNCH_FORKED:
        return mlc_supervise(launch, run, context, error);
    case MLC_LAUNCH_THREADED:
        return run_threads(launch, run, context, error);
    case MLC_LAUNCH_JOINED:
        return run_joined(launch, run, context, error);
    case MLC_LAUNCH_MPI:
        return run_mpi(launch, run, context, error);
    default:
        return run(launch, 0, context);
    }
}

/* ---- for a rank ---- */

int mlc_launch_number(const mlc_launch *launch, int rank)
{
    return launch->number >= 0 ? launch->number : mlc_mesh_local(rank, launch->neighbours);
}

int mlc_launch_inbox(const mlc_launch *launch, int rank)
{
    return launch->local ? mlc_local_inbox(launch->local, rank) : -1;
}

int mlc_launch_connect(mlc_launch *launch, mlc_world *world, mlc_error *error)
{
    if (launch->kind == MLC_LAUNCH_ALONE)
        return MLC_OK;
    if (launch->local)
        mlc_local_attach(launch->local, world);
    else if (launch->hub)
        mlc_hub_attach(launch->hub, world);
    else
        launch->mpi->attach(world);
    mlc_limit limit; /* MPI makes its communicators together, in waits of its own */
    mlc_limit_begin(&limit, launch->kind == MLC_LAUNCH_MPI ? launch->start : 0, launch->rank ? 2 : 1, launch->model->name,
                    "MPI has not connected all ranks");
    int status = world->transport->open(world, error);
    mlc_limit_end(&limit);
    return status;
}

static bool is_told_to_stop(const mlc_launch *launch)
{
    return launch->signals && *launch->signals >> SIGTERM & 1;
}

/* Under MPI the end of one rank ends them all: those that have something to say of their own have said it after LAST_WORD. Does not
 * return. */
static void abandon_mpi(const mlc_launch *launch, int status)
{
    if (!is_told_to_stop(launch))
        nanosleep(&(struct timespec){.tv_nsec = LAST_WORD}, NULL);
    if (is_told_to_stop(launch))
        _exit(status);
    launch->mpi->abort(status);
}

/* Tells the other ranks, by what there is to tell them with. */
static void abandon(const mlc_launch *launch, mlc_world *world, int rank, int status)
{
    if (launch->kind == MLC_LAUNCH_MPI)
        abandon_mpi(launch, status);
    else if (world && world->transport)
        world->transport->abandon(world, status);
    else if (launch->hub)
        mlc_hub_abandon(launch->hub, rank, status);
    else if (launch->local)
        mlc_hub_abandon(mlc_local_hub(launch->local), rank, status);
}

/* Until every rank has closed its transport. */
static void wait_for_closed(mlc_launch *launch)
{
    atomic_fetch_add(&launch->closed, 1);
    while (atomic_load(&launch->closed) < launch->ranks)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

void mlc_launch_leave(mlc_launch *launch, mlc_world *world, int rank, int status, bool together)
{
    if (launch->kind == MLC_LAUNCH_ALONE)
        return;
    if (world)
        atomic_store(&world->status->state, status ? MLC_RANK_FAILED : MLC_RANK_DONE);
    if (!together)
        abandon(launch, world, rank, status);
    if (world && world->transport)
        world->transport->close(world);
    if (launch->kind == MLC_LAUNCH_THREADED)
        wait_for_closed(launch);
    if (launch->kind == MLC_LAUNCH_MPI)
        launch->mpi->finalize();
}

bool mlc_launch_is_victim(mlc_world *world)
{
    int rank = world->rank;
    if (!world->transport)
        return false;
    return (world->transport->abandoned(world, &rank) && rank != world->rank) || world->transport->lost(world) >= 0;
}

bool mlc_launch_may_speak(mlc_launch *launch)
{
    return !launch->spoken || !atomic_exchange(launch->spoken, 1);
}
