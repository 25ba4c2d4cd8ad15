/* threads.h: the worker threads of a rank. They run one program (SPMD) and meet at barriers.
 *
 * The caller of mlc_team_run is thread 0; the others sleep between runs. A waiting thread spins briefly, then sleeps in the
 * kernel, so more threads than cores still move. Several teams may live in one process; a team is used by one caller at a time.
 */
#ifndef MLC_THREADS_H
#define MLC_THREADS_H

#include "arena.h"
#include "error.h"
#include "exact.h"
#include "mlc_abi.h"

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
    int64_t bad_parameter;  /* lowest parameter in which this thread saw a value that is not finite, or -1 */
    mlc_error error;        /* of filling the inputs */
    pthread_t handle;
    _Alignas(64) _Atomic(const char *) row; /* what it runs, for the report of a hang */
    atomic_ullong barriers;                 /* reached so far */
} mlc_worker;

typedef void (*mlc_job)(mlc_env *env, void *context);

typedef struct mlc_team {
    atomic_int threads; /* that a barrier waits for; constant but while a team that could not start is taken down */
    int started; /* threads that exist, thread 0 included */
    int spins;
    mlc_worker *workers;
    mlc_job job; /* NULL: the threads end */
    void *context;
    _Alignas(64) atomic_int arrived;
    _Alignas(64) atomic_uint phase; /* counts barriers; the word that threads sleep on */
    atomic_int sleepers;
    atomic_bool running; /* inside mlc_team_run */
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

/* How many CPUs this process may use. */
int mlc_cpu_count(void);

#endif
