/* hub.h: ranks that reach each other's inboxes by plain stores: how messages move between them. Internal to transports/.
 *
 * The header of a link lies in the receiver's inbox before or behind its slots, two counters on lines of their own:
 *
 *   arrived    messages whose bytes are in their slots    written by the sender, after the bytes
 *   allowed    messages that have been read, or have a slot that is theirs   written by the receiver
 *
 * Both count over all lists (world.h). The sender copies a message from its outbox, in its own progress, when it is allowed. Each rank
 * has a doorbell, a word to sleep on. Who sleeps says so first and then looks at the counters once more; who changes a counter looks at that word afterwards
 * (all of it sequentially consistent): one of them sees the other.
 *
 * The hub is memory that all ranks see: of the process for `threads`, a file without a name for `local`. It holds no pointers but
 * those of `threads`.
 */
#ifndef MLC_HUB_H
#define MLC_HUB_H

#include "transports.h"

typedef struct mlc_seat {
    mlc_status_board board;
    _Alignas(64) atomic_uint doorbell;
    atomic_int sleeps;
    atomic_int left;  /* local: it has closed its transport, so its end is no loss */
    atomic_int met;   /* meeting.c: gates reached */
    atomic_llong word;
    char *arena;      /* threads: of this rank, set before it counts as connected */
} mlc_seat;

struct mlc_hub {
    int ranks;
    atomic_int ended;     /* (rank + 1) * 256 + status of the first rank that abandoned the run; 0: none */
    atomic_int lost;      /* rank + 1 of the first that was lost; 0: none */
    atomic_int connected; /* ranks */
    char shared[MLC_MEETING_BYTES]; /* meeting.c */
    mlc_seat seats[];
};

typedef struct mlc_counters {
    _Alignas(64) atomic_llong arrived;
    _Alignas(64) atomic_llong allowed;
} mlc_counters;

_Static_assert(sizeof(mlc_counters) <= MLC_HEADER_BYTES, "the counters of a link fit its header");

/* A link's `own`. */
typedef struct mlc_route {
    mlc_counters *counters;
    char *slots; /* sender: slot 0 in the peer's inbox */
} mlc_route;

size_t mlc_hub_bytes(int ranks);

/* For zeroed memory of mlc_hub_bytes(ranks). */
void mlc_hub_initialize(mlc_hub *hub, int ranks);

/* The parts of a transport; `hub` is that of the world. A transport gives the routes: inboxes[rank] is where this process sees the
 * arena of a rank that it sends to. */
int mlc_hub_connect(mlc_hub *hub, mlc_world *world, char *const *inboxes, mlc_error *error);
void mlc_hub_disconnect(mlc_world *world);
bool mlc_hub_progress(mlc_hub *hub, mlc_world *world);
void mlc_hub_rest(mlc_hub *hub, mlc_world *world, int64_t nanoseconds);
void mlc_hub_allow(mlc_hub *hub, mlc_link *link);
int mlc_hub_abandoned(mlc_hub *hub, int *rank);

/* Looks at the lifelines of the other ranks, if the last look was some time ago. Returns a rank that is lost, -1: none. Only the lead
 * thread of rank `own`. */
int mlc_local_look(mlc_local *local, int own);

/* Waits until every rank is connected; fails as a wait does. `transport` and its functions are usable already. */
int mlc_hub_meet(mlc_hub *hub, mlc_world *world, mlc_error *error);

#endif
