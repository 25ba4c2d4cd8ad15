/* team.h: threads that run one kernel together, for tests and benchmarks of kernels without the runtime. Included once. */
#ifndef MLC_TEAM_H
#define MLC_TEAM_H

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "mlc_kernel.h"

typedef struct mlc_team {
    atomic_int waiting, round;
} mlc_team;

void mlc_barrier(const mlc_env *env)
{
    mlc_team *team = env->team;
    const int round = atomic_load(&team->round);
    if (atomic_fetch_add(&team->waiting, 1) == env->threads - 1) {
        atomic_store(&team->waiting, 0);
        atomic_store(&team->round, round + 1);
        return;
    }
    for (int i = 0; atomic_load(&team->round) == round; i++)
        if (i > 2000)
            sched_yield();
}

typedef void (*team_function)(const mlc_env *env, const void *argument);

typedef struct team_member {
    mlc_env env;
    team_function run;
    const void *argument;
} team_member;

static void *team_main(void *member_)
{
    const team_member *member = member_;
    member->run(&member->env, member->argument);
    return NULL;
}

/* Runs `run` on `threads` threads, each with its own scratch. */
static void team_run(int threads, size_t scratch_bytes, const mlc_record *record, team_function run, const void *argument)
{
    enum { MOST = 16 };
    mlc_team team = {0};
    team_member members[MOST] = {0};
    pthread_t ids[MOST];
    for (int i = 0; i < threads; i++) {
        const team_member member = {
            {.scratch = aligned_alloc(64, (scratch_bytes + 63) / 64 * 64), .team = &team, .record = record,
                .microbatch = record ? &record->microbatch : NULL, .thread = i, .threads = threads}, run, argument};
        members[i] = member;
    }
    for (int i = 1; i < threads; i++)
        pthread_create(ids + i, NULL, team_main, members + i);
    team_main(members);
    for (int i = 1; i < threads; i++)
        pthread_join(ids[i], NULL);
    for (int i = 0; i < threads; i++)
        free(members[i].env.scratch);
}

#endif
