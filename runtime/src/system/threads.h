/* threads.h: the worker threads of a rank. They run one program (SPMD) and meet at barriers.
 *
 * The caller of mlc_team_run is thread 0; the others sleep between runs. A waiting thread spins briefly, then sleeps in the
 * kernel, so more threads than cores still move. Several teams may live in one process; a team is used by one caller at a time.
 */
#ifndef MLC_THREADS_H
#define MLC_THREADS_H

#include "mlc_abi.h"
#include "system/arena.h"
#include "system/error.h"
#include "system/exact.h"
#include "system/index.h"

#include <fenv.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>

#define MLC_MAX_THREADS 1024

/* A thread's own things, on cache lines of its own. */
typedef struct mlc_worker {
    _Alignas(64) mlc_env env;
    mlc_exact squares;      /* of the gradient blocks of this thread */
    int64_t bad_parameter;  /* lowest parameter with a gradient in which this thread saw a value that is not finite, or -1 */
    int64_t flaw;           /* the first that its update left (finite.h), or -1 */
    mlc_error error;        /* of filling the inputs */
    mlc_refusal refused;    /* the first index of this thread that was out of range */
    uint64_t *bases;        /* where the slot of each region lies for the current microbatch */
    uint64_t *operands;     /* of the current row, resolved */
    pthread_t handle;
    _Alignas(64) _Atomic(const char *) row; /* what it runs, for the report of a hang */
    atomic_ullong barriers;                 /* reached so far */
} mlc_worker;

typedef void (*mlc_job)(mlc_env *env, void *context);

typedef struct mlc_team {
    atomic_int threads; /* that a barrier waits for; constant but while a team that could not start is taken down */
    int started; /* threads that exist, thread 0 included */
    atomic_int spins; /* looks at a barrier before it sleeps */
    mlc_worker *workers;
    mlc_job job; /* NULL: the threads end */
    void *context;
    _Alignas(64) atomic_int arrived;
    _Alignas(64) atomic_uint phase; /* counts barriers; the word that threads sleep on */
    atomic_int sleepers;
    atomic_bool running; /* inside mlc_team_run */
    atomic_ullong stop;  /* of mlc_team_stop; UINT64_MAX: go on */
} mlc_team;

/* Makes a team of `threads` whose environments point into the arena. Returns a status; *team is NULL on failure. */
int mlc_team_open(mlc_team **team, int threads, const mlc_arena *arena, const mlc_record *record, mlc_error *error);
void mlc_team_close(mlc_team *team);

/* Runs job(env, context) on every thread, with a barrier before and after it and the IEEE default floating-point mode. */
void mlc_team_run(mlc_team *team, mlc_job job, void *context);

/* The worker of an environment. */
static inline mlc_worker *mlc_worker_of(const mlc_env *env)
{
    return &env->team->workers[env->thread];
}

/* See mlc_kernel.h: every thread of the team waits here for the others. */
void mlc_barrier(const mlc_env *env);

/* The lead thread cannot go on (a peer is lost): all threads stop at the next barrier that asks. */
void mlc_team_stop(const mlc_env *env);

/* After a barrier: must the job end here? The same answer on every thread, however late it asks. */
static inline bool mlc_stopped(const mlc_env *env)
{
    uint64_t passed = atomic_load_explicit(&mlc_worker_of(env)->barriers, memory_order_relaxed);
    return passed > atomic_load_explicit(&env->team->stop, memory_order_relaxed);
}

/* By the lead thread: has it called mlc_team_stop in this job? */
static inline bool mlc_team_stopping(const mlc_env *env)
{
    return atomic_load_explicit(&env->team->stop, memory_order_relaxed) != UINT64_MAX;
}

/* Starts a thread with a stack that is large enough whatever `ulimit -s` says. `deaf`: it takes no signals but those that its own
 * instructions raise; else it has the caller's mask. Returns 0, or an error number as pthread_create does. */
int mlc_thread_start(pthread_t *handle, void *(*run)(void *), void *argument, bool deaf);

/* How many CPUs this process may use. */
int mlc_cpu_count(void);

#endif
