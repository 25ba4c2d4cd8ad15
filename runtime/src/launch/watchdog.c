/* watchdog.c: see watchdog.h. */
#include "launch/watchdog.h"

#include "model/action.h"
#include "system/voice.h"
#include "world/coordinate.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LAST_WORD 0.5 /* seconds; mpirun kills a second after it told to stop */
#define OUTSIDE_SECONDS 300.0 /* for one call of the file system, say, of a rank that was told to stop */

/* ---- boards ---- */

static int state_of(const mlc_status_board *board)
{
    return atomic_load_explicit(&board->state, memory_order_relaxed);
}

/* Is there a rank in sight that has not begun, or has not come yet? */
static bool is_starting(const mlc_watch *watch)
{
    for (int r = watch->first; r < watch->first + watch->seen_ranks; r++)
        if (mlc_watch_board(watch, r) && !atomic_load_explicit(&mlc_watch_board(watch, r)->begun, memory_order_relaxed))
            return true;
    return false;
}

static double least_limit(double a, double b)
{
    return a <= 0 ? b : b <= 0 || a < b ? a : b;
}

double mlc_watch_limit(const mlc_watch *watch)
{
    double limit = watch->limit;
    if (is_starting(watch))
        limit = least_limit(limit, watch->start);
    if (watch->told)
        limit = least_limit(limit, watch->grace > 0 ? watch->grace : 1e-3);
    return limit;
}

bool mlc_watch_look(mlc_watch *watch, double seconds)
{
    unsigned long long progress = 0;
    int told = watch->told;
    for (int r = watch->first; r < watch->first + watch->seen_ranks; r++) {
        if (!mlc_watch_board(watch, r))
            continue;
        progress += atomic_load_explicit(&mlc_watch_board(watch, r)->progress, memory_order_relaxed);
        told = told ? told : atomic_load_explicit(&mlc_watch_board(watch, r)->told, memory_order_relaxed);
    }
    watch->still = progress == watch->seen && told == watch->told ? watch->still + seconds : 0;
    watch->seen = progress;
    watch->told = told;
    double limit = mlc_watch_limit(watch);
    return limit > 0 && watch->still >= limit;
}

/* The third word of /proc/PID/stat, after a name in brackets that may hold anything. */
bool mlc_watch_is_process_stopped(int pid)
{
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int fd = pid > 0 ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    ssize_t bytes = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    if (bytes < 0)
        return false;
    text[bytes] = 0;
    const char *name = strrchr(text, ')');
    return name && (!strncmp(name, ") T", 3) || !strncmp(name, ") t", 3));
}

bool mlc_watch_is_stopped(const mlc_status_board *board)
{
    return mlc_watch_is_process_stopped(atomic_load_explicit(&board->pid, memory_order_relaxed));
}

/* The rank that a rank waits for; -1 when it waits for none, or is not seen. */
static int waits_for(const mlc_watch *watch, int rank)
{
    const mlc_status_board *board = mlc_watch_board(watch, rank);
    if (!board || state_of(board) != MLC_RANK_WAITS || mlc_watch_is_stopped(board))
        return -1;
    int peer = atomic_load_explicit(&board->waits_for, memory_order_relaxed);
    return peer >= 0 && peer < watch->ranks ? peer : -1;
}

/* Where the waiting of a rank ends; -1: in a circle. */
static int end_of(const mlc_watch *watch, int rank)
{
    for (int hops = 0; hops <= watch->ranks; hops++) {
        int next = waits_for(watch, rank);
        if (next < 0)
            return rank;
        rank = next;
    }
    return -1;
}

/* How late a rank is: the ranks that wait for it, then whether it is seen at all; 0: not late. */
static int lateness(const mlc_watch *watch, int rank)
{
    if (waits_for(watch, rank) >= 0)
        return 0;
    int count = mlc_watch_board(watch, rank) != NULL;
    for (int r = watch->first; r < watch->first + watch->seen_ranks; r++)
        count += r != rank && end_of(watch, r) == rank ? 2 : 0;
    return count;
}

/* Who is late is seen, or waited for by one that is: so where few of many ranks are seen, few are looked at. */
int mlc_watch_late(const mlc_watch *watch)
{
    int late = -1, most = 0;
    for (int r = watch->first; r < watch->first + watch->seen_ranks; r++) {
        int end = mlc_watch_board(watch, r) ? end_of(watch, r) : -1;
        int count = end < 0 || end == late ? 0 : lateness(watch, end);
        if (count < most || !count || (count == most && end > late))
            continue;
        late = end;
        most = count;
    }
    return late;
}

/* ---- the report ---- */

void mlc_watch_print_place(char text[160], const mlc_model *model, int rank, const mlc_status_board *board)
{
    static const char *const OF[] = {"", " of evaluation", " of sampling"};
    long long step = atomic_load_explicit(&board->step, memory_order_relaxed);
    long long at = atomic_load_explicit(&board->action, memory_order_relaxed);
    int chain = atomic_load_explicit(&board->chain, memory_order_relaxed), place = mlc_mesh_place(&model->mesh, rank);
    bool listed = chain >= 0 && chain < MLC_CHAINS && at >= 0 && at < model->schedule->places[place].lists[chain].count;
    bool starts = state_of(board) == MLC_RANK_STARTING || !atomic_load_explicit(&board->begun, memory_order_relaxed);
    if (starts)
        snprintf(text, 160, "while it started");
    else if (!listed)
        snprintf(text, 160, "after step %lld", step);
    if (starts || !listed)
        return;
    char name[MLC_ACTION_NAME_BYTES];
    mlc_action_name(name, model, place, &model->schedule->places[place].lists[chain].actions[at]);
    snprintf(text, 160, "at step %lld, action %s%s", step, name, OF[chain]);
}

static void report_waiting(const mlc_watch *watch, int rank, mlc_voice *voice)
{
    const mlc_status_board *board = mlc_watch_board(watch, rank);
    int channel = atomic_load_explicit(&board->channel, memory_order_relaxed);
    bool known = channel >= 0 && channel < watch->model->schedule->channel_count;
    mlc_voice_print(voice, "waits for rank %d (message %lld of %s)", waits_for(watch, rank),
                    (long long)atomic_load_explicit(&board->message, memory_order_relaxed),
                    known ? watch->model->schedule->channels[channel].name : "no channel");
}

static void report_rank(const mlc_watch *watch, int rank, mlc_voice *voice)
{
    static const char *const DOES[] = {"starts", "computes", "waits", "is done", "has failed"};
    const mlc_status_board *board = mlc_watch_board(watch, rank);
    char name[MLC_RANK_NAME_BYTES], place[160];
    mlc_voice_print(voice, "%s ", mlc_rank_name(name, &watch->model->mesh, rank));
    mlc_watch_print_place(place, watch->model, rank, board);
    if (mlc_watch_is_stopped(board))
        mlc_voice_print(voice, "was stopped by a signal");
    else if (waits_for(watch, rank) >= 0)
        report_waiting(watch, rank, voice);
    else
        mlc_voice_print(voice, "%s", DOES[state_of(board)]);
    mlc_voice_print(voice, " %s\n", place);
}

/* What the limit is that has passed. */
static void print_limit(char text[96], const mlc_watch *watch)
{
    double limit = mlc_watch_limit(watch);
    if (watch->told)
        snprintf(text, 96, "told to stop by signal %d, but no progress for %g s", watch->told, limit);
    else
        snprintf(text, 96, "no progress for %g s%s", limit, is_starting(watch) ? " before the first step" : "");
}

void mlc_watch_report(const mlc_watch *watch)
{
    int late = mlc_watch_late(watch);
    const char *name = watch->model->name;
    char limit[96], place[160];
    mlc_voice voice = mlc_voice_open();
    print_limit(limit, watch);
    if (watch->ranks == 1) {
        mlc_watch_print_place(place, watch->model, 0, mlc_watch_board(watch, 0));
        mlc_voice_print(&voice, "%s: error: %s %s\n", name, limit, place);
    } else if (late < 0)
        mlc_voice_print(&voice, "%s: error: %s: ranks wait for each other\n", name, limit);
    else
        mlc_voice_print(&voice, "%s: error: %s: rank %d is late\n", name, limit, late);
    for (int r = watch->first; r < watch->first + watch->seen_ranks && watch->ranks > 1; r++) {
        if (!mlc_watch_board(watch, r))
            continue;
        mlc_voice_print(&voice, "  ");
        report_rank(watch, r, &voice);
    }
    mlc_voice_close(&voice);
}

static unsigned long long barriers_of(const mlc_rank *rank, int thread)
{
    return atomic_load_explicit(&rank->team->workers[thread].barriers, memory_order_relaxed);
}

/* The threads of the late rank: those that have not reached the last barrier are waited for. */
static void report_threads(const mlc_rank *rank)
{
    unsigned long long most = 0;
    for (int i = 0; i < rank->team->threads; i++)
        most = barriers_of(rank, i) > most ? barriers_of(rank, i) : most;
    for (int i = 0; i < rank->team->threads; i++) {
        const char *row = atomic_load_explicit(&rank->team->workers[i].row, memory_order_relaxed);
        bool waits = barriers_of(rank, i) == most && rank->team->threads > 1;
        mlc_say("  thread %d %s %s\n", i, waits ? "waits for the others at a barrier of" : "has not finished", row);
    }
}

/* ---- the thread ---- */

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* How often to look: ten times within the limit, at least ten times a second. */
static double period(const mlc_watchdog *watchdog)
{
    double limit = mlc_watch_limit(&watchdog->watch), tenth = limit / 10 + 1e-3;
    return limit > 0 && tenth < 0.1 ? tenth : 0.1;
}

/* Sleeps for a period; true when the program is done. */
static bool rest(mlc_watchdog *watchdog)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    int64_t nanoseconds = until.tv_nsec + (int64_t)(period(watchdog) * 1e9);
    until.tv_sec += nanoseconds / 1000000000;
    until.tv_nsec = nanoseconds % 1000000000;
    pthread_mutex_lock(&watchdog->mutex);
    while (!watchdog->done && pthread_cond_timedwait(&watchdog->ended, &watchdog->mutex, &until) != ETIMEDOUT)
        ;
    bool done = watchdog->done;
    pthread_mutex_unlock(&watchdog->mutex);
    return done;
}

static double processor_seconds(void)
{
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* Has the process computed? More than this thread itself does; it may have had little of the processors. */
static bool has_computed(mlc_watchdog *watchdog, double seconds)
{
    double before = watchdog->computed;
    watchdog->computed = processor_seconds();
    return watchdog->computed - before > 0.02 * seconds;
}

/* Outside of the lists a rank is alive; but when it was told to stop, no longer than that without a sign of work. */
static bool is_outside(mlc_watchdog *watchdog, bool waits, double seconds)
{
    const mlc_rank *rank = watchdog->rank;
    bool outside = !atomic_load(&rank->team->running) && !waits;
    bool worked = atomic_load(&rank->world.status->progress) != watchdog->counted;
    watchdog->outside_for = watchdog->watch.told && outside && !worked ? watchdog->outside_for + seconds : 0;
    return outside && watchdog->outside_for < OUTSIDE_SECONDS;
}

/* Counts on for the rank: barriers passed inside a row; and, outside of the lists, that it is alive. When it was told to stop also that it
 * computes. */
static void count_progress(mlc_watchdog *watchdog, double seconds)
{
    const mlc_rank *rank = watchdog->rank;
    unsigned long long barriers = 0;
    for (int i = 0; i < rank->team->threads; i++)
        barriers += barriers_of(rank, i);
    bool waits = state_of(rank->world.status) == MLC_RANK_WAITS;
    bool computes = has_computed(watchdog, seconds) && watchdog->watch.told && !waits;
    if (is_outside(watchdog, waits, seconds) || computes || barriers != watchdog->barriers)
        atomic_fetch_add(&rank->world.status->progress, 1);
    watchdog->barriers = barriers;
    watchdog->counted = atomic_load(&rank->world.status->progress);
}

/* What signals have come to this process, on the board for all to see. */
static void note_told(const mlc_watchdog *watchdog)
{
    uint64_t signals = watchdog->duty.signals ? *watchdog->duty.signals : 0;
    for (int i = 1; i < 64; i++)
        if (signals >> i & 1) {
            atomic_store_explicit(&watchdog->rank->world.status->told, i, memory_order_relaxed);
            return;
        }
}

/* Somebody else reports when this rank is not late, and is there to do it. */
static bool is_supervised(const mlc_watchdog *watchdog)
{
    int supervisor = watchdog->duty.supervisor;
    return watchdog->duty.supervised && !(supervisor && mlc_watch_is_process_stopped(supervisor));
}

/* The rank whose watchdog writes the report; -1: none. */
static int reporter(const mlc_watchdog *watchdog)
{
    const mlc_watch *watch = &watchdog->watch;
    int late = mlc_watch_late(watch);
    if (late >= 0 && mlc_watch_board(watch, late) && !mlc_watch_is_stopped(mlc_watch_board(watch, late)))
        return late;
    for (int r = watch->first; r < watch->first + watch->seen_ranks && !is_supervised(watchdog); r++)
        if (mlc_watch_board(watch, r) && !mlc_watch_is_stopped(mlc_watch_board(watch, r)))
            return r;
    return -1;
}

static void report(const mlc_watchdog *watchdog)
{
    atomic_int *spoken = watchdog->duty.spoken;
    if (spoken && atomic_exchange(spoken, 1))
        return;
    mlc_watch_report(&watchdog->watch);
    if (state_of(watchdog->rank->world.status) != MLC_RANK_WAITS)
        report_threads(watchdog->rank);
}

/* Those that share memory with this rank end as it does, and not because it is lost. */
static void tell_neighbours(const mlc_watchdog *watchdog)
{
    mlc_world *world = &watchdog->rank->world;
    if (watchdog->watch.seen_ranks > 1)
        world->transport->abandon(world, MLC_HANG);
}

/* Nothing moves. */
static void end_program(const mlc_watchdog *watchdog)
{
    if (reporter(watchdog) == watchdog->rank->rank) {
        report(watchdog);
        tell_neighbours(watchdog);
        _exit(MLC_HANG);
    }
    if (is_supervised(watchdog))
        return;
    nanosleep(&(struct timespec){.tv_sec = 1}, NULL); /* the reporter speaks first */
    _exit(MLC_HANG);
}

/* A launcher that lost a rank tells the others to stop, and kills them soon: a rank that is stuck in a wait says so, and ends. */
static void heed_launcher(const mlc_watchdog *watchdog)
{
    bool told = watchdog->duty.hasty && *watchdog->duty.signals >> SIGTERM & 1;
    if (!told || watchdog->watch.still < LAST_WORD || state_of(watchdog->rank->world.status) != MLC_RANK_WAITS)
        return;
    mlc_voice voice = mlc_voice_open();
    mlc_voice_print(&voice, "%s: told to stop: ", watchdog->watch.model->name);
    report_rank(&watchdog->watch, watchdog->rank->rank, &voice);
    _exit(MLC_FAILED);
}

static void *watch(void *argument)
{
    mlc_watchdog *watchdog = argument;
    double looked = now();
    while (!rest(watchdog)) {
        double elapsed = now() - looked, most = 2 * period(watchdog), counted = elapsed < most ? elapsed : most;
        looked += elapsed;
        note_told(watchdog);
        count_progress(watchdog, counted);
        if (mlc_watch_look(&watchdog->watch, counted))
            end_program(watchdog);
        heed_launcher(watchdog);
    }
    return NULL;
}

static void see_boards(mlc_watchdog *watchdog)
{
    const mlc_world *world = &watchdog->rank->world;
    mlc_sight sight = mlc_world_sight(world);
    for (int r = sight.first; r < sight.end; r++)
        watchdog->boards[r - sight.first] = r == world->rank ? world->status : world->transport->board(world, r);
}

int mlc_watchdog_open(mlc_watchdog *watchdog, mlc_rank *rank, mlc_watchdog_duty duty, mlc_error *error)
{
    mlc_sight sight = mlc_world_sight(&rank->world);
    int seen = sight.end - sight.first;
    *watchdog = (mlc_watchdog){.rank = rank, .duty = duty};
    watchdog->boards = calloc((size_t)seen, sizeof *watchdog->boards);
    if (!watchdog->boards)
        return mlc_error_set(error, MLC_FAILED, "watchdog: out of memory");
    see_boards(watchdog);
    watchdog->watch = (mlc_watch){.model = rank->model, .boards = watchdog->boards, .first = sight.first, .seen_ranks = seen,
                                  .ranks = rank->world.ranks, .limit = duty.seconds,
                                  .start = duty.start, .grace = duty.grace};
    pthread_mutex_init(&watchdog->mutex, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&watchdog->ended, &monotonic);
    pthread_condattr_destroy(&monotonic);
    watchdog->running = !mlc_thread_start(&watchdog->handle, watch, watchdog, true);
    return watchdog->running ? MLC_OK : mlc_error_set(error, MLC_FAILED, "watchdog: cannot start a thread");
}

void mlc_watchdog_close(mlc_watchdog *watchdog)
{
    if (watchdog->running) {
        pthread_mutex_lock(&watchdog->mutex);
        watchdog->done = true;
        pthread_cond_signal(&watchdog->ended);
        pthread_mutex_unlock(&watchdog->mutex);
        pthread_join(watchdog->handle, NULL);
    }
    watchdog->running = false;
    free(watchdog->boards);
    watchdog->boards = NULL;
}
