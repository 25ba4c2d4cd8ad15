/* launcher.h: how the ranks of a program come to be, how they meet, and how they end.
 *
 *   no launcher in the environment   one rank: this process                                  ALONE
 *                                    --transport local: this process forks and supervises    FORKED
 *                                    --transport threads: ranks are threads of this process  THREADED
 *   mpirun, srun, torchrun           --transport local: ranks of one machine meet            JOINED
 *                                    --transport mpi                                         MPI
 *
 * The supervisor of forked ranks computes nothing. It passes on what stops a run (signals.h), names a rank that dies or hangs, ends
 * the others, and leaves nothing behind: the kernel ends its children with it, and shared memory has no names.
 */
#ifndef MLC_LAUNCHER_H
#define MLC_LAUNCHER_H

#include "command/terms.h"
#include "mlc_abi.h"
#include "system/error.h"
#include "transports.h"
#include "world/world.h"

#include <stdatomic.h>

enum mlc_launch_kind { MLC_LAUNCH_ALONE, MLC_LAUNCH_FORKED, MLC_LAUNCH_THREADED, MLC_LAUNCH_JOINED, MLC_LAUNCH_MPI };

typedef struct mlc_launch {
    const mlc_model *model;
    enum mlc_launch_kind kind;
    int ranks;
    bool begun;          /* ranks have been started */
    int rank;            /* of this process, when it is known before the ranks start: by an environment, or alone; else -1 */
    int neighbours;      /* ranks on this machine, this one included: they share its CPUs */
    int number;          /* which of them this process is; -1: not told */
    double timeout;      /* seconds; 0: none, as in the next */
    double start;        /* seconds that ranks wait for each other before step 0 */
    double grace;        /* seconds */
    const mlc_terms *terms; /* what ranks that a launcher started compare before they begin; NULL: nothing */
    bool said;           /* the error is another rank's, or was said already */
    int supervisor;      /* FORKED: its process */
    bool hasty;          /* whoever started the ranks ends all when one ends, and kills a second after SIGTERM (mpirun) */
    const _Atomic uint64_t *signals; /* if hasty: bits of the signals that came; else NULL */
    char name[512];      /* JOINED: of the run */
    int strangers;       /* ranks that a launcher started, of which this process cannot be one and could tell the others; else 0 */
    atomic_int *spoken;  /* FORKED, THREADED: ranks that have claimed to say why the run ended */
    mlc_local *local;    /* FORKED, JOINED */
    mlc_hub *hub;        /* THREADED: its own; FORKED: of the local transport */
    const mlc_mpi *mpi;
    atomic_int closed;   /* THREADED: ranks that have closed their transports, after which no memory of theirs is written */
} mlc_launch;

/* Decides how, from the model's mesh, --transport (NULL: not given) and the environment. Starts nothing. Returns a status: MLC_USAGE
 * when the ranks of the launcher are not those of the program, or the transport is impossible there. */
int mlc_launch_decide(mlc_launch *launch, const mlc_model *model, const char *transport, double timeout, mlc_error *error);

/* In place of mlc_launch_run where this process has found a usage error, or mlc_launch_decide has: says it, and tells the other ranks that
 * a launcher started, if they come, so that nobody waits for this one. */
void mlc_launch_refuse(mlc_launch *launch, const mlc_error *error);

/* What a rank does; returns its status. In a process of its own, unless THREADED. */
typedef int (*mlc_rank_main)(mlc_launch *launch, int rank, void *context);

/* Starts the ranks, and waits for those that this process has. Returns the status of the run: not finite before hang before lost
 * before the rest. An error of the launch itself is left in `error`. Forked ranks do not return; a run that a signal ended ends
 * this process by the same signal. */
int mlc_launch_run(mlc_launch *launch, mlc_rank_main run, void *context, mlc_error *error);

/* The status that counts for the run, of two. */
int mlc_launch_worse(int a, int b);

/* ---- for a rank ---- */

/* Which of the ranks of this machine a rank is. */
int mlc_launch_number(const mlc_launch *launch, int rank);

/* The file for the inbox of a rank, -1: private memory. */
int mlc_launch_inbox(const mlc_launch *launch, int rank);

/* Attaches the world to its transport and connects it with all others. Returns a status. */
int mlc_launch_connect(mlc_launch *launch, mlc_world *world, mlc_error *error);

/* The end of a rank, once: closes its transport (`world` NULL: there is none yet). `together`: all ranks end with this status and
 * know it; else they are told. With ranks as threads, returns when no other rank writes to the memory of this one any more. */
void mlc_launch_leave(mlc_launch *launch, mlc_world *world, int rank, int status, bool together);

/* Did the run end because of another rank? */
bool mlc_launch_is_victim(mlc_world *world);

/* True for the first rank that asks: it says why the run ended. Where ranks know nothing of each other each one may. */
bool mlc_launch_may_speak(mlc_launch *launch);

#endif
