/* test_threads.c: barriers, floating-point mode, several teams at once. */
#include "check.h"
#include "mlc.h"
#include "system/threads.h"

#include <fenv.h>
#include <pthread.h>

enum { ROUNDS = 2000 };

static const mlc_record record;

typedef struct counts {
    int values[8]; /* by thread; plain: only barriers order them */
    int rounds;
    int mode;
} counts;

/* Each thread counts, and sees every other's count of the same round. */
static void count(mlc_env *env, void *context)
{
    counts *shared = context;
    CHECK(fegetround() == FE_TONEAREST);
    for (int round = 0; round < shared->rounds; round++) {
        shared->values[env->thread]++;
        mlc_barrier(env);
        for (int t = 0; t < env->threads; t++)
            CHECK(shared->values[t] == round + 1);
        mlc_barrier(env);
    }
}

static void check_team(int threads, int rounds)
{
    mlc_arena arena;
    mlc_team *team;
    mlc_error error = {0};
    CHECK(!mlc_arena_open(&arena, 128, 64, threads, 0, "", &error));
    CHECK(!mlc_team_open(&team, threads, &arena, &record, &error));
    CHECK(arena.bytes == 128 + 64 * (uint64_t)threads);
    for (int run = 0; run < 3; run++) {
        counts shared = {.rounds = rounds};
        fesetround(FE_UPWARD);
        mlc_team_run(team, count, &shared);
        CHECK(fegetround() == FE_UPWARD);
        fesetround(FE_TONEAREST);
        usleep(1000);
    }
    mlc_team_close(team);
    mlc_arena_close(&arena);
}

static void *check_in_thread(void *argument)
{
    check_team(*(int *)argument, ROUNDS / 4);
    return NULL;
}

int main(void)
{
    mlc_error error = {0};
    mlc_arena arena;
    mlc_team *team;
    for (int threads = 1; threads <= 5; threads++)
        check_team(threads, threads <= 2 ? ROUNDS : ROUNDS / 10);
    pthread_t handles[3];
    int sizes[] = {2, 1, 3};
    for (int i = 0; i < 3; i++)
        CHECK(!pthread_create(&handles[i], NULL, check_in_thread, &sizes[i]));
    for (int i = 0; i < 3; i++)
        CHECK(!pthread_join(handles[i], NULL));
    CHECK(mlc_arena_open(&arena, 100, 64, 1, 0, "", &error) == MLC_BAD_INPUT);
    error.status = 0;
    CHECK(mlc_team_open(&team, 0, &arena, &record, &error) == MLC_USAGE && !team);
    printf("test_threads: ok\n");
    return 0;
}
