/* transports.h: the ways in which ranks reach each other, for whoever starts them.
 *
 *   threads   ranks are threads of one process            mlc_hub_open, then each rank mlc_hub_attach
 *   local     ranks are processes of one machine          mlc_local_create before fork, or mlc_local_join; then mlc_local_attach
 *   mpi       ranks are processes of any machines         mlc_mpi_load; then init and attach of its table
 *
 * Every rank then makes its world (mlc_world_open), attaches it, and opens it: world->transport->open(world, error). At the end
 * world->transport->close(world), then mlc_world_close. Names are those of --transport.
 */
#ifndef MLC_TRANSPORTS_H
#define MLC_TRANSPORTS_H

#include "meeting.h"
#include "mlc_abi.h"
#include "system/error.h"
#include "world/world.h"

#include <stddef.h>

/* What --transport takes. */
#define MLC_TRANSPORTS "local|threads|mpi"

/* ---- threads, and what every rank on a machine can see ---- */

typedef struct mlc_hub mlc_hub;

/* Makes the hub of `ranks` ranks of this process. Returns a status; *hub is NULL on failure. */
int mlc_hub_open(mlc_hub **hub, int ranks, mlc_error *error);

/* After every rank has closed its transport. NULL is allowed. */
void mlc_hub_close(mlc_hub *hub);

/* Gives the world the transport `threads` and its board. The arena of a rank must live until all ranks have closed theirs:
 * others write to it. */
void mlc_hub_attach(mlc_hub *hub, mlc_world *world);

/* What the functions of the same name in mlc_transport do, for callers without a world; by any thread. `rank` ends the run. */
void mlc_hub_abandon(mlc_hub *hub, int rank, int status);

/* The rank is gone: all others fail with its name. By the launcher, when it sees the end of a child that had not left. */
void mlc_hub_lost(mlc_hub *hub, int rank);

const mlc_status_board *mlc_hub_board(const mlc_hub *hub, int rank);

/* ---- local ---- */

typedef struct mlc_local mlc_local;

/* Makes the shared memory of all pp * dp ranks: nameless files (memfd) that vanish with their last user. For a launcher, which
 * forks the ranks after it; they inherit all. Returns a status; *local is NULL on failure. */
int mlc_local_create(mlc_local **local, const mlc_model *model, mlc_error *error);

/* After the fork: a child keeps the end of the lifeline of its rank, the launcher (-1) none, so that each rank sees the end of every
 * other one by itself. */
void mlc_local_settle(mlc_local *local, int rank);

/* The same for a rank without a common parent (torchrun, srun, mpirun on one machine): meets the others at a socket named after
 * `name`, which must be the same for all ranks of a run and of no other run at the time, in a directory that is the user's alone.
 * Gives up after `seconds` (0: never). From then on each rank holds a lifeline of every other one, whose end tells that it died.
 * Returns a status; without a text in the error where rank 0 says why. */
int mlc_local_join(mlc_local **local, const mlc_model *model, int rank, const char *name, double seconds, mlc_error *error);

/* For a rank that cannot be one of the `ranks` that meet at `name`, since its program is for others: tells rank 0, which ends the run and
 * says why; as rank 0 tells those that come within `seconds`. The process ends soon after: nothing is closed. False: nobody was told. */
bool mlc_local_refuse(int rank, int ranks, const char *name, const mlc_error *why, double seconds);

/* The meeting of the ranks that have joined (meeting.h), before they open anything. */
mlc_meeting mlc_local_meet(mlc_local *local, int rank, double seconds);

/* The file for the inbox of a rank: mlc_rank_open or mlc_arena_map_inbox maps it. Open until the transport is. */
int mlc_local_inbox(const mlc_local *local, int rank);

/* Boards, abandon, lost: for the launcher too. */
mlc_hub *mlc_local_hub(mlc_local *local);

/* Gives the world the transport `local` and its board. */
void mlc_local_attach(mlc_local *local, mlc_world *world);

/* Unmaps and closes what this process has of it, after its transport is closed. NULL is allowed. */
void mlc_local_destroy(mlc_local *local);

/* ---- mpi ---- */

/* What libmlc_mpi.so exports as `mlc_mpi_table`. All calls by the thread that called init. */
typedef struct mlc_mpi {
    int abi_version;    /* MLC_ABI_VERSION and sizeof(mlc_world) that it was built with */
    size_t world_bytes;
    int (*init)(mlc_error *error);
    int (*rank)(void);
    int (*ranks)(void);
    mlc_meeting (*meet)(double seconds);
    void (*attach)(mlc_world *world); /* gives the world the transport `mpi` */
    void (*finalize)(void);           /* when the run ended the same way on all ranks; else mlc_transport.abandon, or abort */
    void (*abort)(int status);        /* ends all ranks, by any thread; does not return */
} mlc_mpi;

/* Opens libmlc_mpi.so beside the program. Returns a status: MLC_FAILED with a sentence that names the missing file. */
int mlc_mpi_load(const mlc_mpi **mpi, mlc_error *error);

#endif
