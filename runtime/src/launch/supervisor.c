/* supervisor.c: see supervisor.h.
 *
 * It waits for signals: the end of a child (SIGCHLD), and what it passes on. Between them it looks at the boards of the ranks:
 *
 *   a rank exits                    nothing: it has told the others, or they know
 *   a rank dies                     its name is written, the others are told, and end with 3
 *   no rank moves for the limit     (watchdog.h) the report is written, unless the late rank did; all are killed
 *   some rank has failed            those that still run after GRACE seconds are killed
 */
#include "launch/supervisor.h"

#include "launch/watchdog.h"
#include "mlc.h"
#include "system/signals.h"
#include "system/voice.h"
#include "world/coordinate.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PERIOD 0.05   /* seconds between two looks */
#define GRACE 3.0     /* for ranks to end after another one failed */
#define LAST_WORD 1.0 /* for a late rank to report its threads */

typedef struct supervisor {
    mlc_launch *launch;
    pid_t *children; /* [ranks]; 0: ended */
    int running;
    int status;
    int passed;      /* signals passed on, as a mask */
    double interrupted; /* when the first SIGINT came */
    int ended_by;    /* the signal that ended ranks as it ends this process; 0: none */
    bool reported;   /* a hang */
    double failing;  /* seconds since the first failure; negative: none */
    mlc_watch watch;
} supervisor;

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* ---- children ---- */

/* A rank: it has the signals of its parent as they were, and ends with it. */
static void run_rank(const supervisor *own, int rank, mlc_rank_main run, void *context, const sigset_t *mask, pid_t parent)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(MLC_FAILED);
    mlc_signals_follow();
    sigprocmask(SIG_SETMASK, mask, NULL);
    own->launch->rank = rank;
    mlc_local_settle(own->launch->local, rank);
    int status = run(own->launch, rank, context);
    fflush(stdout);
    _exit(status);
}

static int fork_ranks(supervisor *own, mlc_rank_main run, void *context, const sigset_t *mask, mlc_error *error)
{
    pid_t parent = getpid();
    fflush(stdout);
    for (int r = 0; r < own->launch->ranks; r++) {
        pid_t child = fork();
        if (child < 0)
            return mlc_error_system(error, MLC_FAILED, "rank %d of %d cannot be started", r, own->launch->ranks);
        if (!child)
            run_rank(own, r, run, context, mask, parent);
        own->children[r] = child;
        own->running++;
    }
    mlc_local_settle(own->launch->local, -1);
    return MLC_OK;
}

static void kill_ranks(const supervisor *own, int signal)
{
    for (int r = 0; r < own->launch->ranks; r++)
        if (own->children[r])
            kill(own->children[r], signal);
}

static void fail(supervisor *own, int status)
{
    own->status = mlc_launch_worse(own->status, status);
    own->failing = own->failing < 0 ? 0 : own->failing;
}

/* ---- how a rank ended ---- */

static void name_rank(const supervisor *own, int rank, const char *end, int number)
{
    char name[MLC_RANK_NAME_BYTES], place[160];
    const mlc_model *model = own->launch->model;
    mlc_watch_print_place(place, model, rank, mlc_watch_board(&own->watch, rank));
    mlc_say("%s: error: %s %s %d %s\n", model->name, mlc_rank_name(name, &model->mesh, rank), end, number, place);
}

/* An interrupt of one is meant for all; other signals end the run only when they came through here. */
static bool is_ours(const supervisor *own, int signal)
{
    return signal == SIGINT || own->passed >> signal & 1;
}

static void take_killed(supervisor *own, int rank, int signal)
{
    if (own->ended_by || is_ours(own, signal)) {
        own->ended_by = own->ended_by ? own->ended_by : signal;
        own->failing = own->failing < 0 ? 0 : own->failing;
        kill_ranks(own, own->ended_by);
        return;
    }
    mlc_hub_lost(own->launch->hub, rank);
    if (own->failing < 0) /* else it was told to end */
        name_rank(own, rank, "was killed by signal", signal);
    fail(own, MLC_FAILED);
}

static void take_exit(supervisor *own, int rank, int code)
{
    if (code == MLC_OK)
        return;
    if (code == MLC_HANG)
        own->reported = true;
    if (code > MLC_NOT_FINITE) {
        mlc_hub_lost(own->launch->hub, rank);
        name_rank(own, rank, "ended with code", code);
        code = MLC_FAILED;
    }
    fail(own, code);
}

/* Has a child ended, and how? It stays to be taken. */
static bool has_ended(const supervisor *own, int rank, siginfo_t *end)
{
    *end = (siginfo_t){0};
    return own->children[rank] && !waitid(P_PID, (id_t)own->children[rank], end, WEXITED | WNOHANG | WNOWAIT) && end->si_pid;
}

static void take(supervisor *own, int rank)
{
    waitpid(own->children[rank], NULL, 0);
    own->children[rank] = 0;
    own->running--;
}

static void take_all_killed(supervisor *own)
{
    siginfo_t end;
    for (int r = 0; r < own->launch->ranks; r++) {
        if (!has_ended(own, r, &end) || end.si_code == CLD_EXITED)
            continue;
        take(own, r);
        take_killed(own, r, end.si_status);
    }
}

/* Takes the children that have ended. Those of the caller, if it has other ones, are not touched. What died comes first: others may have
 * ended because of it; so it is looked for again when one has failed. What dies between two looks is taken at the next one. */
static void take_ended(supervisor *own)
{
    siginfo_t end;
    take_all_killed(own);
    for (int r = 0; r < own->launch->ranks; r++) {
        if (!has_ended(own, r, &end) || end.si_code != CLD_EXITED)
            continue;
        if (end.si_status)
            take_all_killed(own);
        take(own, r);
        take_exit(own, r, end.si_status);
    }
}

/* ---- waiting ---- */

/* A second SIGINT ends at once what has not ended after the first. One that comes within a blink is the same (signals.h). */
static void end_at_once(supervisor *own)
{
    if (now() - own->interrupted <= MLC_BLINK)
        return;
    own->ended_by = SIGINT;
    own->failing = own->failing < 0 ? 0 : own->failing;
    kill_ranks(own, SIGKILL);
}

static void pass_on(supervisor *own, int signal)
{
    if (signal == SIGINT && own->passed >> SIGINT & 1) {
        end_at_once(own);
        return;
    }
    if (signal == SIGINT)
        own->interrupted = now();
    own->passed |= 1 << signal;
    own->watch.told = own->watch.told ? own->watch.told : signal;
    own->watch.still = 0;
    kill_ranks(own, signal);
}

/* Nothing has moved for the limit. A late rank that still runs has a moment to say where its threads are. */
static void look_for_hang(supervisor *own, double seconds)
{
    if (own->failing >= 0 || !mlc_watch_look(&own->watch, seconds))
        return;
    int late = mlc_watch_late(&own->watch);
    bool speaks = late >= 0 && own->children[late] && !mlc_watch_is_stopped(mlc_watch_board(&own->watch, late));
    if (speaks && own->watch.still < mlc_watch_limit(&own->watch) + LAST_WORD)
        return;
    if (mlc_launch_may_speak(own->launch))
        mlc_watch_report(&own->watch);
    own->reported = true;
    fail(own, MLC_HANG);
}

/* Ends what does not end by itself. After a report of a hang there is nothing to wait for. */
static void look_for_stragglers(supervisor *own, double seconds)
{
    if (own->failing < 0)
        return;
    own->failing += seconds;
    if (own->reported || own->failing > GRACE)
        kill_ranks(own, SIGKILL);
}

static void wait_for_ranks(supervisor *own, const sigset_t *signals)
{
    double looked = now();
    while (own->running) {
        int signal = sigtimedwait(signals, NULL, &(struct timespec){.tv_nsec = (long)(PERIOD * 1e9)});
        if (signal > 0 && signal != SIGCHLD)
            pass_on(own, signal);
        take_ended(own);
        double elapsed = now() - looked, counted = elapsed < 2 * PERIOD ? elapsed : 2 * PERIOD; /* no more if this process slept */
        looked += elapsed;
        look_for_hang(own, counted);
        look_for_stragglers(own, counted);
    }
}

/* ---- the whole ---- */

static int allocate(supervisor *own, mlc_error *error)
{
    mlc_launch *launch = own->launch;
    size_t ranks = (size_t)launch->ranks;
    const mlc_status_board **boards = calloc(ranks, sizeof *boards);
    own->children = calloc(ranks, sizeof *own->children);
    launch->spoken = mmap(NULL, sizeof *launch->spoken, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    own->watch = (mlc_watch){.model = launch->model, .boards = boards, .seen_ranks = launch->ranks, .ranks = launch->ranks, .limit = launch->timeout,
                             .start = launch->start, .grace = launch->grace};
    launch->supervisor = (int)getpid();
    if (!own->children || !boards || launch->spoken == MAP_FAILED)
        return mlc_error_set(error, MLC_FAILED, "ranks: out of memory");
    if (mlc_local_create(&launch->local, launch->model, error))
        return error->status;
    launch->hub = mlc_local_hub(launch->local);
    for (int r = 0; r < launch->ranks; r++)
        boards[r] = mlc_hub_board(launch->hub, r);
    return MLC_OK;
}

static void release(supervisor *own)
{
    mlc_local_destroy(own->launch->local);
    if (own->launch->spoken != MAP_FAILED)
        munmap(own->launch->spoken, sizeof *own->launch->spoken);
    free((void *)own->watch.boards);
    free(own->children);
}

static void supervise(supervisor *own, mlc_rank_main run, void *context, mlc_error *error)
{
    sigset_t signals, before;
    sigemptyset(&signals);
    sigaddset(&signals, SIGCHLD);
    mlc_signals_add_stops(&signals);
    struct sigaction ignored, standard = {.sa_handler = SIG_DFL};
    sigaction(SIGCHLD, &standard, &ignored); /* a caller that ignores it would leave nothing to wait for */
    sigprocmask(SIG_BLOCK, &signals, &before);
    if (fork_ranks(own, run, context, &before, error)) {
        fail(own, error->status);
        kill_ranks(own, SIGKILL);
    }
    wait_for_ranks(own, &signals);
    if (own->ended_by) {
        sigaction(own->ended_by, &standard, NULL);
        raise(own->ended_by);
    }
    sigprocmask(SIG_SETMASK, &before, NULL);
    sigaction(SIGCHLD, &ignored, NULL);
}

int mlc_supervise(mlc_launch *launch, mlc_rank_main run, void *context, mlc_error *error)
{
    supervisor own = {.launch = launch, .failing = -1};
    if (!allocate(&own, error))
        supervise(&own, run, context, error);
    release(&own);
    return mlc_launch_worse(own.status, error->status);
}
