/* watchdog.h: --timeout, --start-timeout and --grace: what no progress is, who is late, and a thread in each rank that looks.
 *
 * The board of a rank counts its actions and rows. Its watchdog counts on for it while it is outside of them and waits for no rank
 * (reading data, writing checkpoints), so a board that stands still belongs to a rank that waits, is stuck, or was stopped. When no
 * board moves for the limit, one report is written: by the rank that is late, which knows its threads; or, when that one cannot
 * speak, by whoever supervises the ranks, else by the first rank that can.
 *
 * The limit is the least of those that hold: --timeout always; --start-timeout until every rank in sight has begun; --grace once a rank
 * in sight was told to stop. When told, a rank that computes counts on too, by the processor time that it takes, so what still works
 * towards its end may; outside of the lists it counts on for five minutes without a sign of work.
 */
#ifndef MLC_WATCHDOG_H
#define MLC_WATCHDOG_H

#include "model/rank.h"

/* The boards of ranks, and since when they stand still. */
typedef struct mlc_watch {
    const mlc_model *model;
    const mlc_status_board *const *boards; /* of the ranks in sight; NULL where one cannot be seen all the same */
    int first;               /* rank in sight */
    int seen_ranks;
    int ranks;
    double limit;            /* seconds; 0: none, as in the next two */
    double start;            /* before the ranks have begun */
    double grace;            /* after one was told to stop */
    int told;                /* the signal by which, as far as looked; 0: not. Set by others too */
    double still;            /* seconds without progress, as far as looked: what was not looked at does not count */
    unsigned long long seen; /* progress of all */
} mlc_watch;

/* The board of a rank; NULL: it cannot be seen. */
static inline const mlc_status_board *mlc_watch_board(const mlc_watch *watch, int rank)
{
    bool seen = rank >= watch->first && rank - watch->first < watch->seen_ranks;
    return seen ? watch->boards[rank - watch->first] : NULL;
}

/* The limit that holds now; 0: none. */
double mlc_watch_limit(const mlc_watch *watch);

/* Looks again, `seconds` after the last time. True: nothing has moved for the limit. */
bool mlc_watch_look(mlc_watch *watch, double seconds);

/* The rank that others wait for, directly or through others, and that waits for none itself; -1: there is none, they wait for each
 * other. A process that was stopped waits for none. */
int mlc_watch_late(const mlc_watch *watch);

/* Is the process of a rank of this machine, or another process, stopped (SIGSTOP)? */
bool mlc_watch_is_stopped(const mlc_status_board *board);
bool mlc_watch_is_process_stopped(int pid);

/* Writes to stderr what every rank that can be seen does or waits for, and which one is late. */
void mlc_watch_report(const mlc_watch *watch);

/* Writes where a rank is: "at step 12, action F 5"; outside of an action "after step 12", or "while it started". */
void mlc_watch_print_place(char text[160], const mlc_model *model, int rank, const mlc_status_board *board);

typedef struct mlc_watchdog_duty {
    double seconds;                   /* without progress, after which the run ends; 0: never */
    double start;                     /* the same before step 0 */
    double grace;                     /* the same when told to stop */
    bool supervised;                  /* somebody else reports when this rank is not late; */
    int supervisor;                   /* this process, while it is not stopped itself; 0: unknown */
    atomic_int *spoken;               /* whether a report was written, where ranks share that; else NULL */
    const _Atomic uint64_t *signals; /* bits of the signals that came */
    bool hasty;                       /* whoever started the ranks kills them soon after SIGTERM: a rank that is stuck in a wait then
                                       * says so at once, and ends */
} mlc_watchdog_duty;

typedef struct mlc_watchdog {
    pthread_t handle;
    pthread_mutex_t mutex;
    pthread_cond_t ended;
    bool done;
    bool running;
    mlc_watchdog_duty duty;
    mlc_rank *rank;
    const mlc_status_board **boards;
    mlc_watch watch;
    unsigned long long barriers; /* seen of the rank's team */
    double computed;             /* processor time of the process, seconds */
    double outside_for;          /* seconds outside of the lists without a sign of work, when told to stop */
    unsigned long long counted;  /* of the rank's board, after this watchdog has counted on */
} mlc_watchdog;

/* Starts to watch for a rank whose world is open. Returns a status. */
int mlc_watchdog_open(mlc_watchdog *watchdog, mlc_rank *rank, mlc_watchdog_duty duty, mlc_error *error);
void mlc_watchdog_close(mlc_watchdog *watchdog);

#endif
