/* test_watchdog.c: who is late, of few ranks and of many; limits that no clock holds. What programs do with both is in test_program.c. */
#include "check.h"
#include "launch/watchdog.h"
#include "system/limit.h"

enum { RANKS = 8, MANY = 2000000 };

static mlc_status_board seats[RANKS];

/* Who is late where rank r of `ranks` waits for waits[r], -1: for none, and all of them are seen. */
static int late_of(const int *waits, int ranks)
{
    const mlc_status_board *boards[RANKS];
    for (int r = 0; r < ranks; r++) {
        seats[r] = (mlc_status_board){.state = waits[r] < 0 ? MLC_RANK_COMPUTES : MLC_RANK_WAITS, .waits_for = waits[r]};
        boards[r] = &seats[r];
    }
    return mlc_watch_late(&(mlc_watch){.boards = boards, .seen_ranks = ranks, .ranks = ranks});
}

static void check_late(void)
{
    CHECK(late_of((int[]){-1}, 1) == 0);
    CHECK(late_of((int[]){1, 2, 3, -1}, 4) == 3);
    CHECK(late_of((int[]){-1, -1, 1, 1, 0}, 5) == 1);
    CHECK(late_of((int[]){-1, -1, 1, 0}, 4) == 0); /* as many wait for both: the lower one */
    CHECK(late_of((int[]){3, -1, 1, -1}, 4) == 1);
    CHECK(late_of((int[]){1, 0, 3, 2}, 4) == -1);
    CHECK(late_of((int[]){1, 0, -1}, 3) == 2);
}

/* Over mpi a rank sees itself alone: that takes as long as there are ranks, not their square. */
static void check_many(void)
{
    const mlc_status_board **boards = calloc(MANY, sizeof *boards);
    CHECK(boards);
    seats[0] = (mlc_status_board){.state = MLC_RANK_WAITS, .waits_for = MANY - 1};
    boards[5] = &seats[0];
    CHECK(mlc_watch_late(&(mlc_watch){.boards = boards, .seen_ranks = MANY, .ranks = MANY}) == MANY - 1);
    atomic_store(&seats[0].state, MLC_RANK_COMPUTES);
    CHECK(mlc_watch_late(&(mlc_watch){.boards = boards, .seen_ranks = MANY, .ranks = MANY}) == 5);
    free(boards);
}

/* A time that is longer than a clock can tell does not pass at once. */
static void check_limits(void)
{
    static const double LONG[] = {1e9, 1e18, 1e30, 1e300};
    for (size_t i = 0; i < sizeof LONG / sizeof *LONG; i++) {
        mlc_limit limit;
        mlc_limit_begin(&limit, LONG[i], 1, "test_watchdog", "what was waited for did not come");
        usleep(20000);
        mlc_limit_end(&limit);
    }
}

int main(void)
{
    check_late();
    check_many();
    check_limits();
    printf("test_watchdog: ok\n");
    return 0;
}
