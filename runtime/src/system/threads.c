/* threads.c: see threads.h. */
#include "system/threads.h"

#include "mlc.h"
#include "system/system.h"

#include <sched.h>
#include <stdlib.h>

#define STACK_BYTES (2 << 20) /* what a thread uses is a tenth of it: buffers for files */
#define SPINS 4000 /* some tens of microseconds: longer than a balanced row's skew, shorter than a time slice */

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void phase_sleep(mlc_team *team, unsigned phase)
{
    atomic_fetch_add(&team->sleepers, 1);
    while (atomic_load(&team->phase) == phase)
        mlc_futex_wait(&team->phase, phase, NULL, false);
    atomic_fetch_sub(&team->sleepers, 1);
}

static void phase_wait(mlc_team *team, unsigned phase)
{
    int spins = atomic_load_explicit(&team->spins, memory_order_relaxed);
    for (int i = 0; i < spins; i++) {
        if (atomic_load_explicit(&team->phase, memory_order_acquire) != phase)
            return;
        relax();
    }
    phase_sleep(team, phase);
}

/* The last to arrive opens the next phase. A sleeper counts itself before it looks at the phase, the opener changes the phase
 * before it looks at the count, so one of them sees the other. */
static void phase_open(mlc_team *team)
{
    atomic_store_explicit(&team->arrived, 0, memory_order_relaxed);
    atomic_fetch_add(&team->phase, 1);
    if (atomic_load(&team->sleepers))
        mlc_futex_wake(&team->phase, false);
}

void mlc_barrier(const mlc_env *env)
{
    mlc_team *team = env->team;
    mlc_worker *worker = mlc_worker_of(env);
    atomic_store_explicit(&worker->barriers, atomic_load_explicit(&worker->barriers, memory_order_relaxed) + 1, memory_order_relaxed);
    int threads = atomic_load_explicit(&team->threads, memory_order_relaxed);
    if (threads == 1)
        return;
    unsigned phase = atomic_load_explicit(&team->phase, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&team->arrived, 1, memory_order_acq_rel) + 1 == threads)
        phase_open(team);
    else
        phase_wait(team, phase);
}

void mlc_team_stop(const mlc_env *env)
{
    unsigned long long passed = atomic_load_explicit(&mlc_worker_of(env)->barriers, memory_order_relaxed);
    unsigned long long go_on = UINT64_MAX;
    atomic_compare_exchange_strong(&env->team->stop, &go_on, passed);
}

static void *worker_main(void *argument)
{
    mlc_worker *worker = argument;
    mlc_team *team = worker->env.team;
    fesetenv(FE_DFL_ENV);
    for (;;) {
        mlc_barrier(&worker->env);
        if (!team->job)
            return NULL;
        team->job(&worker->env, team->context);
        mlc_barrier(&worker->env);
    }
}

void mlc_team_run(mlc_team *team, mlc_job job, void *context)
{
    fenv_t mode;
    fegetenv(&mode);
    fesetenv(FE_DFL_ENV);
    team->job = job;
    team->context = context;
    atomic_store(&team->stop, UINT64_MAX);
    atomic_store(&team->running, true);
    mlc_barrier(&team->workers[0].env);
    job(&team->workers[0].env, context);
    mlc_barrier(&team->workers[0].env);
    atomic_store(&team->running, false);
    fesetenv(&mode);
}

static void worker_prepare(mlc_team *team, int thread, const mlc_arena *arena, const mlc_record *record)
{
    mlc_worker *worker = &team->workers[thread];
    worker->env = (mlc_env){.arena = arena->base, .scratch = mlc_arena_scratch(arena, thread), .team = team, .record = record,
                            .microbatch = &record->microbatch, .thread = thread, .threads = team->threads};
    worker->bad_parameter = -1;
    atomic_store(&worker->row, "start");
}

/* All signals but those that an instruction raises: blocked, these would end the process without a handler (guard.h) being asked. */
static void fill_mask(sigset_t *set)
{
    static const int RAISED[] = {SIGBUS, SIGSEGV, SIGFPE, SIGILL};
    sigfillset(set);
    for (size_t i = 0; i < sizeof RAISED / sizeof *RAISED; i++)
        sigdelset(set, RAISED[i]);
}

int mlc_thread_start(pthread_t *handle, void *(*run)(void *), void *argument, bool deaf)
{
    pthread_attr_t attributes;
    sigset_t mask, before;
    int code = pthread_attr_init(&attributes);
    if (code)
        return code;
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    fill_mask(&mask);
    pthread_sigmask(deaf ? SIG_SETMASK : SIG_BLOCK, deaf ? &mask : NULL, &before); /* inherited */
    code = pthread_create(handle, &attributes, run, argument);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return code;
}

/* Workers must not take the signals that the program waits for. */
static int team_start(mlc_team *team, mlc_error *error)
{
    int code = 0;
    for (team->started = 1; team->started < team->threads && !code; team->started += !code)
        code = mlc_thread_start(&team->workers[team->started].handle, worker_main, &team->workers[team->started], true);
    return code ? mlc_error_set(error, MLC_FAILED, "threads: cannot start thread %d of %d", team->started, team->threads) : MLC_OK;
}

static mlc_team *team_allocate(int threads)
{
    mlc_team *team = aligned_alloc(64, sizeof *team);
    if (!team)
        return NULL;
    *team = (mlc_team){.threads = threads, .spins = threads <= mlc_cpu_count() ? SPINS : 0, .stop = UINT64_MAX};
    size_t bytes = (size_t)threads * sizeof *team->workers;
    team->workers = aligned_alloc(64, bytes);
    if (!team->workers) {
        free(team);
        return NULL;
    }
    for (int i = 0; i < threads; i++)
        team->workers[i] = (mlc_worker){.bad_parameter = -1};
    return team;
}

int mlc_team_open(mlc_team **out, int threads, const mlc_arena *arena, const mlc_record *record, mlc_error *error)
{
    *out = NULL;
    if (threads < 1 || threads > MLC_MAX_THREADS)
        return mlc_error_set(error, MLC_USAGE, "threads: %d is not between 1 and %d", threads, MLC_MAX_THREADS);
    mlc_team *team = team_allocate(threads);
    if (!team)
        return mlc_error_set(error, MLC_FAILED, "threads: out of memory");
    for (int i = 0; i < threads; i++)
        worker_prepare(team, i, arena, record);
    if (team_start(team, error)) {
        mlc_team_close(team);
        return error->status;
    }
    *out = team;
    return MLC_OK;
}

/* Also ends a team of which only some threads exist: the barrier then counts those. */
void mlc_team_close(mlc_team *team)
{
    if (!team)
        return;
    team->threads = team->started;
    team->job = NULL;
    mlc_barrier(&team->workers[0].env);
    for (int i = 1; i < team->started; i++)
        pthread_join(team->workers[i].handle, NULL);
    free(team->workers);
    free(team);
}

int mlc_cpu_count(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set))
        return 1;
    int count = CPU_COUNT(&set);
    return count < 1 ? 1 : count > MLC_MAX_THREADS ? MLC_MAX_THREADS : count;
}
