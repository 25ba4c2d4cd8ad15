/* world.h: a rank among the others: its links, and the transport that moves messages over them.
 *
 * A link is one end of a channel between this rank and one peer (mlc_abi.h, mlc_channel). Messages never overtake each other; each
 * list (a step, a round, an exchange) numbers its own from 0, so that message n lies in the same slots in every list. All functions
 * are called by the lead thread of the rank (thread 0 of its team), and by no other.
 *
 *   sender                                            receiver
 *   slot = outbox + (n % outbox_slots) * slot_bytes   slot = inbox + (n % slots) * slot_bytes
 *   wait until sent > n - outbox_slots                wait until arrived > n
 *   write the slot                                    read the slot
 *   mlc_link_post: posted = n + 1                     mlc_link_release: released = n + 1
 *   later, by progress: sent = n + 1                  then message n + slots may be written there
 *
 * A message moves when it is posted and the receiver has begun its list and released message n - slots of it; nothing else holds it
 * back, and nothing but mlc_world_progress (called by every wait, and by the executor between rows) is needed to move it. So whether a
 * program can deadlock depends on its lists and numbers of slots alone, never on a transport or on time. And what an inbox shares its
 * memory with is over when its list begins: nothing is written into it before.
 */
#ifndef MLC_WORLD_H
#define MLC_WORLD_H

#include "mlc_abi.h"
#include "system/arena.h"
#include "system/error.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct mlc_world mlc_world;

struct mlc_launches;

typedef struct mlc_link {
    const mlc_channel *channel;
    int number;          /* of the channel: with the two ranks, what names the link; the tag of its messages */
    int peer;            /* rank */
    bool sends;
    char *inbox;         /* receiver: slot 0 in this rank's arena */
    char *outbox;        /* sender: slot 0 in this rank's arena */
    uint64_t peer_inbox; /* sender: offset of slot 0 in the peer's arena */
    uint64_t header;     /* offset of the MLC_HEADER_BYTES in the receiver's arena, which the transport uses as it likes */
    int64_t base;        /* messages of the lists before this one; the next four count those of this list */
    int64_t posted;      /* sender */
    int64_t sent;
    int64_t arrived;     /* receiver */
    int64_t released;
    int64_t expected;    /* receiver: messages of the list, as far as it has said; none before the first one begins */
    void *own;           /* the transport's */
    void *edge;          /* of a GPU (step/wire.h); NULL: none */
} mlc_link;

/* What a rank does, for others to see when something is stuck. Written by its lead thread, read by whoever reports. */
typedef struct mlc_status_board {
    _Alignas(64) atomic_int state;   /* enum mlc_rank_state */
    atomic_int waits_for;            /* rank, -1: none */
    atomic_int channel;              /* that it waits on, -1: none */
    atomic_llong message;
    atomic_llong step;
    atomic_llong action;             /* index in the list */
    atomic_int chain;
    atomic_ullong progress;          /* counts actions and rows done */
    atomic_int pid;
    atomic_int begun;                /* all is loaded: what comes now are steps */
    atomic_int told;                 /* to stop, by this signal; 0: not */
} mlc_status_board;

enum mlc_rank_state { MLC_RANK_STARTING, MLC_RANK_COMPUTES, MLC_RANK_WAITS, MLC_RANK_DONE, MLC_RANK_FAILED };

/* A transport is one of these; see transports/. */
typedef struct mlc_transport {
    const char *name;

    /* Connects all links of world, with every rank of it; returns when all can send. Called once, before step 0. */
    int (*open)(mlc_world *world, mlc_error *error);

    /* Moves what can be moved without waiting: posted messages whose receiver has a free slot, arrivals. True: something moved. */
    bool (*progress)(mlc_world *world);

    /* Rests until something may have moved, at most `nanoseconds`. May return early for no reason. */
    void (*rest)(mlc_world *world, int64_t nanoseconds);

    /* More messages may come (the transport learns that mlc_link_allowed grew). */
    void (*allow)(mlc_world *world, mlc_link *link);

    /* A rank that is known to be lost, -1: none. */
    int (*lost)(mlc_world *world);

    /* The board of any rank that this process can see, NULL when it cannot. */
    const mlc_status_board *(*board)(const mlc_world *world, int rank);
    bool sees_all; /* it can see all ranks; else itself alone */

    /* Tells all ranks that can be reached that this one ends the run with `status`. By any thread; may not return (mpi). */
    void (*abandon)(mlc_world *world, int status);

    /* The status with which a rank ended the run, and that rank; 0: none did. */
    int (*abandoned)(mlc_world *world, int *rank);

    void (*close)(mlc_world *world);
} mlc_transport;

struct mlc_world {
    const mlc_model *model;
    int rank;
    int ranks;
    int place;
    int replica;
    mlc_arena *arena;             /* of this rank, its inbox mapped as the transport wants it */
    mlc_link *links;
    int link_count;
    const mlc_transport *transport; /* NULL: one rank, no links */
    void *own;                    /* the transport's */
    mlc_status_board *status;     /* of this rank; never NULL */
    mlc_status_board *alone;      /* the board until a transport lends one */
    int tree;                     /* number of the channel MLC_TREE, -1: none */
    int spins;                    /* looks of a wait before it rests; fewer when ranks share CPUs */
    double timeout;               /* seconds without any progress after which a wait gives up; 0: never */
    mlc_error *error;             /* of the rank: waits that fail say why here */
    struct mlc_launches *launches; /* NULL, or who wants the messages of a step */
};

/* Makes the links of a rank from the channels of the model, in order of channel, then of neighbour; nothing is connected. The world
 * keeps `error` as the rank's. The caller sets timeout, and attaches a transport (transports.h) where there are several ranks. */
int mlc_world_open(mlc_world *world, const mlc_model *model, int rank, mlc_arena *arena, mlc_error *error);
void mlc_world_close(mlc_world *world);

/* The link of a channel to a peer in one direction, NULL when this rank has none. Channels between replicas and MLC_TREE have
 * several links a channel; the others one. */
mlc_link *mlc_world_link(mlc_world *world, int channel, int peer, bool sends);

/* The ranks [first, end) that this process can see. */
typedef struct mlc_sight {
    int first;
    int end;
} mlc_sight;

mlc_sight mlc_world_sight(const mlc_world *world);

/* Moves what can be moved. True: something moved. */
bool mlc_world_progress(mlc_world *world);

/* A list begins: the next message of the link is its message 0, and `messages` of them come. Both ends call it, at the same point of
 * their order of messages; those of the list before have all been sent, or come and been released. Returns a status: MLC_FAILED where
 * the list before has not ended. */
int mlc_link_begin(mlc_world *world, mlc_link *link, int64_t messages);

/* By a receiver, in a list: so many more messages come. */
void mlc_link_expect(mlc_world *world, mlc_link *link, int64_t messages);

/* How many messages of the list a receiver has had, or has a slot for. */
static inline int64_t mlc_link_allowed(const mlc_link *link)
{
    int64_t slots = link->released + link->channel->slots;
    return slots < link->expected ? slots : link->expected;
}

/* Waits until message n has arrived / has gone. Spins briefly, then rests. Returns MLC_OK; MLC_FAILED when a peer was lost;
 * MLC_HANG after world->timeout seconds in which no rank that can be seen made progress; the status of a rank that abandoned the
 * run; world->error says what it waited for. */
int mlc_link_wait_arrived(mlc_world *world, mlc_link *link, int64_t n);
int mlc_link_wait_sent(mlc_world *world, mlc_link *link, int64_t n);

/* For who waits in a way of its own: has a rank been lost, or ended the run? MLC_OK: no. Else the status; world->error says it, and what this
 * rank `does`. */
int mlc_world_check(mlc_world *world, const char *does);

/* Slots of message n. */
static inline char *mlc_link_incoming(const mlc_link *link, int64_t n)
{
    return link->inbox + (uint64_t)(n % link->channel->slots) * link->channel->slot_bytes;
}

static inline char *mlc_link_outgoing(const mlc_link *link, int64_t n)
{
    return link->outbox + (uint64_t)(n % link->channel->outbox_slots) * link->channel->slot_bytes;
}

/* Message link->posted is complete in its outbox slot. Does not wait; the message goes at once if it can. */
void mlc_link_post(mlc_world *world, mlc_link *link);

/* Message link->released has been read. */
void mlc_link_release(mlc_world *world, mlc_link *link);

/* ---- exchanges over the tree ---- */

/* into[i] = into[i] (op) from[i] over `bytes` bytes, a multiple of the unit; associative and commutative to the bit. */
typedef void (*mlc_combine)(void *into, const void *from, size_t bytes);

/* Combines a block of all ranks: up the binary tree to rank 0, then down. Every rank calls it with the same bytes and combine, in
 * the same order; each gets the whole. Long blocks go in parts that are multiples of `unit` bytes (at most the slot of MLC_TREE).
 * With one rank does nothing. Returns a status as the waits do. */
int mlc_exchange(mlc_world *world, void *block, size_t bytes, size_t unit, mlc_combine combine);

/* Bitwise or, unit 1: for tables in which every rank fills its own part and leaves the others zero. */
void mlc_combine_or(void *into, const void *from, size_t bytes);

/* All ranks agree on the worst: a rank with error->status != 0 wins, the lowest rank first; the others get its status and text
 * ("rank 3: ..." before it). Every rank calls it. Returns the common status. */
int mlc_agree(mlc_world *world, mlc_error *error);

#endif
