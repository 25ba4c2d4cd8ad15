/* wire.c: see step/wire.h. Messages between GPUs: each link has an edge (mlc_edge.h), a stream of its own on both ends.
 *
 *   release n    the edge comes behind what rows have done so far; then receive n + slots is put on it
 *   post n       the same; then send n is put on it
 *   a wait       what rows do next comes behind that message on its edge
 *
 * So a message moves when its sender has posted it and its receiver has begun the list and released message n - slots, as on every transport,
 * and nothing else holds it back: streams of edges wait for one another only by way of rows. The host waits for nothing.
 *
 * Ranks find each other over the transport of the host, whose messages of links other than those of the tree are never used. */
#include "step/wire.h"

#include "mlc_ending.h"
#include "mlc_edge.h"
#include "mlc_found.h"
#include "model/action.h"
#include "model/statistics.h"
#include "model/tables.h"
#include "step/edges.h"
#include "world/coordinate.h"
#include "world/launches.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WARMTH 64        /* bytes of the first message of an edge */
#define LATE_WORD 20000  /* looks at an edge that has failed, after which nobody else will say why */
#define PLACE_BYTES 128

/* A link on the device. */
typedef struct way {
    mlc_edge *edge;
    mlc_link *link;
    int64_t started; /* messages of the list that are on the edge */
    bool used;       /* in this walk */
    uint64_t of[MLC_CHAINS]; /* messages of a whole list of a chain */
} way;

typedef struct mlc_wires {
    mlc_edges *library;
    way *ways;        /* [count], in the order in which they are connected */
    mlc_link *tree;   /* [tree_count]: the links of the tree as the device uses them */
    int count;
    int tree_count;
    volatile uint64_t *seen; /* [count], pinned: messages of the pass that are over, by way */
    volatile uint64_t *come; /* [count], pinned: that this rank has come to */
    uint64_t progress;       /* their sum when it was looked at last */
    bool shown;              /* it was looked at in this pass */
    int64_t microbatches;    /* of the pass */
    int chain;               /* of the pass that is walked */
    int looks;               /* at an edge that has failed */
} mlc_wires;

/* ---- addresses ---- */

static char *on_device(const mlc_rank *rank, const char *mail)
{
    return rank->arena.base + (mail - rank->arena.mail);
}

char *mlc_wire_incoming(const mlc_rank *rank, const mlc_link *link, int64_t n)
{
    return on_device(rank, mlc_link_incoming(link, n));
}

char *mlc_wire_outgoing(const mlc_rank *rank, const mlc_link *link, int64_t n)
{
    return on_device(rank, mlc_link_outgoing(link, n));
}

uint64_t mlc_wire_part(void)
{
    return UINT64_MAX / 2;
}

void mlc_wire_copy(const mlc_env *env, char *to, const char *from, uint64_t bytes)
{
    mlc_ending_copy(env, to, from, bytes);
}

void mlc_wire_add(const mlc_rank *rank, const mlc_env *env, char *sum, const char *x, uint64_t bytes)
{
    (void)rank;
    mlc_ending_add(env, sum, x, bytes);
}

/* ---- messages ---- */

static bool is_ended(const mlc_link *link)
{
    return link->sends || link->released == link->expected;
}

int mlc_wire_begin(mlc_rank *rank, mlc_link *link, int64_t messages)
{
    way *on = link->edge;
    if (!is_ended(link))
        return mlc_error_set(&rank->error, MLC_FAILED, "channel %s: a list begins before the one before has ended", link->channel->name);
    link->posted = link->sent = link->arrived = link->released = link->expected = on->started = 0;
    on->used = true;
    mlc_edge_follow(on->edge);
    if (!link->sends)
        mlc_wire_expect(rank, link, messages);
    return MLC_OK;
}

/* What is counted of a way, with the numbers that begin at `counters`. */
static mlc_edge_count count_of(mlc_rank *rank, const way *on, uint64_t *counters, volatile uint64_t *seen)
{
    int64_t number = on - rank->wires->ways;
    return (mlc_edge_count){&counters[number], (uint64_t *)&seen[number]};
}

/* A message of the walk, and its counts. */
static void move(mlc_rank *rank, way *on, int64_t n, char *at)
{
    mlc_found *found = (mlc_found *)mlc_arena_scratch(&rank->arena, 0);
    if (on->link->sends)
        mlc_edge_count_come(on->edge, count_of(rank, on, found->come, rank->wires->come));
    mlc_edge_move(on->edge, n, at, on->link->channel->slot_bytes);
    mlc_edge_count_over(on->edge, n, count_of(rank, on, found->moved, rank->wires->seen));
    on->of[rank->wires->chain]++;
}

static void receive_allowed(mlc_rank *rank, mlc_link *link)
{
    way *on = link->edge;
    for (; on->started < mlc_link_allowed(link); on->started++)
        move(rank, on, on->started, mlc_wire_incoming(rank, link, on->started));
}

void mlc_wire_expect(mlc_rank *rank, mlc_link *link, int64_t messages)
{
    link->expected += messages;
    receive_allowed(rank, link);
}

void mlc_wire_post(mlc_rank *rank, mlc_link *link)
{
    way *on = link->edge;
    mlc_launches_message(rank->world.launches, link, rank->arena.mail);
    mlc_edge_follow(on->edge);
    move(rank, on, link->posted, mlc_wire_outgoing(rank, link, link->posted));
    link->sent = ++link->posted;
}

void mlc_wire_release(mlc_rank *rank, mlc_link *link)
{
    way *on = link->edge;
    mlc_launches_message(rank->world.launches, link, rank->arena.mail);
    link->released++;
    if (on->started < mlc_link_allowed(link))
        mlc_edge_follow(on->edge);
    receive_allowed(rank, link);
}

/* Nobody would ever come for it. */
static int never(mlc_rank *rank, const mlc_link *link, int64_t n)
{
    return mlc_error_set(&rank->error, MLC_FAILED, "channel %s: message %lld is waited for before it is under way", link->channel->name,
                         (long long)n);
}

int mlc_wire_await_arrived(mlc_rank *rank, mlc_link *link, int64_t n)
{
    const way *on = link->edge;
    if (n >= on->started)
        return never(rank, link, n);
    mlc_edge_await(on->edge, n);
    link->arrived = n + 1 > link->arrived ? n + 1 : link->arrived;
    return MLC_OK;
}

int mlc_wire_await_sent(mlc_rank *rank, mlc_link *link, int64_t n)
{
    const way *on = link->edge;
    if (n >= link->posted)
        return never(rank, link, n);
    if (n >= 0)
        mlc_edge_await(on->edge, n);
    return MLC_OK;
}

void mlc_edges_walk(mlc_rank *rank, int chain)
{
    if (!rank->wires)
        return;
    rank->wires->chain = chain;
    for (int i = 0; i < rank->wires->count; i++)
        rank->wires->ways[i].of[chain] = 0;
}

void mlc_edges_begin(mlc_rank *rank, int64_t count)
{
    if (!rank->wires)
        return;
    for (int i = 0; i < rank->wires->count; i++)
        rank->wires->seen[i] = rank->wires->come[i] = 0;
    rank->wires->microbatches = count;
    rank->wires->progress = 0;
    rank->wires->shown = false;
}

void mlc_edges_join(mlc_rank *rank)
{
    for (int i = 0; rank->wires && i < rank->wires->count; i++) {
        way *on = &rank->wires->ways[i];
        if (on->used)
            mlc_edge_join(on->edge);
        on->used = false;
    }
}

/* ---- a block of all ranks ---- */

/* A block on its way, in parts of `part` bytes. */
typedef struct block {
    mlc_rank *rank;
    const mlc_env *env;
    int kind;
    char *at;
    uint64_t bytes;
    uint64_t part;
} block;

static mlc_link *tree_link(const mlc_rank *rank, int neighbour, bool sends)
{
    int peer = mlc_mesh_tree_neighbour(rank->world.ranks, rank->rank, neighbour);
    for (int i = 0; peer >= 0 && i < rank->wires->tree_count; i++)
        if (rank->wires->tree[i].peer == peer && rank->wires->tree[i].sends == sends)
            return &rank->wires->tree[i];
    return NULL;
}

static uint64_t part_bytes(const block *whole, uint64_t at)
{
    return whole->bytes - at < whole->part ? whole->bytes - at : whole->part;
}

static int send_part(const block *whole, int neighbour, uint64_t at)
{
    mlc_link *link = tree_link(whole->rank, neighbour, true);
    if (!link)
        return MLC_OK;
    if (mlc_wire_await_sent(whole->rank, link, link->posted - link->channel->outbox_slots))
        return whole->rank->error.status;
    mlc_ending_copy(whole->env, mlc_wire_outgoing(whole->rank, link, link->posted), whole->at + at, part_bytes(whole, at));
    mlc_wire_post(whole->rank, link);
    return MLC_OK;
}

static int receive_part(const block *whole, int neighbour, uint64_t at, bool combines)
{
    mlc_link *link = tree_link(whole->rank, neighbour, false);
    if (!link)
        return MLC_OK;
    if (mlc_wire_await_arrived(whole->rank, link, link->released))
        return whole->rank->error.status;
    const char *part = mlc_wire_incoming(whole->rank, link, link->released);
    if (combines)
        mlc_ending_combine(whole->env, whole->kind, whole->at + at, part, part_bytes(whole, at));
    else
        mlc_ending_copy(whole->env, whole->at + at, part, part_bytes(whole, at));
    mlc_wire_release(whole->rank, link);
    return MLC_OK;
}

static int send_up(const block *whole)
{
    int status = MLC_OK;
    for (uint64_t at = 0; at < whole->bytes && !status; at += whole->part) {
        for (int side = 1; side <= 2 && !status; side++)
            status = receive_part(whole, side, at, true);
        status = status ? status : send_part(whole, 0, at);
    }
    return status;
}

static int send_down(const block *whole)
{
    int status = MLC_OK;
    for (uint64_t at = 0; at < whole->bytes && !status; at += whole->part) {
        status = receive_part(whole, 0, at, false);
        for (int side = 1; side <= 2 && !status; side++)
            status = send_part(whole, side, at);
    }
    return status;
}

static int see_off(const block *whole)
{
    int status = MLC_OK;
    for (int i = 0; i < whole->rank->wires->tree_count && !status; i++)
        if (whole->rank->wires->tree[i].sends)
            status = mlc_wire_await_sent(whole->rank, &whole->rank->wires->tree[i], whole->rank->wires->tree[i].posted - 1);
    return status;
}

int mlc_edges_exchange(mlc_rank *rank, const mlc_env *env, int kind, char *at, int64_t units)
{
    if (!rank->wires)
        return MLC_OK;
    uint64_t slot = rank->model->schedule->channels[rank->world.tree].slot_bytes;
    block whole = {rank, env, kind, at, (uint64_t)units * MLC_STATISTIC_BYTES, slot / MLC_STATISTIC_BYTES * MLC_STATISTIC_BYTES};
    int status = MLC_OK;
    for (int i = 0; i < rank->wires->tree_count && !status; i++)
        status = mlc_wire_begin(rank, &rank->wires->tree[i], (int64_t)((whole.bytes + whole.part - 1) / whole.part));
    status = status ? status : send_up(&whole);
    status = status ? status : send_down(&whole);
    return status ? status : see_off(&whole);
}

/* ---- what goes wrong while the host waits ---- */

/* The first edge that says that it has failed, with what it says. */
static const way *failed_way(const mlc_rank *rank, const char **why)
{
    for (int i = 0; i < rank->wires->count; i++) {
        const way *on = &rank->wires->ways[i];
        *why = on->edge ? mlc_edge_failed(on->edge) : NULL;
        if (*why)
            return on;
    }
    return NULL;
}

/* ---- what others see of a rank while its GPU computes ---- */

static uint64_t seen_of(const mlc_rank *rank, const mlc_link *link)
{
    const way *on = link->edge;
    return rank->wires->seen[on - rank->wires->ways];
}

/* The first message of the list that is not over: its action, or of those that end the list none. -1: all are. */
static int first_open(const mlc_rank *rank, mlc_actions list)
{
    for (int i = 0; i < list.count; i++) {
        const mlc_action *action = &list.actions[i];
        bool moves = action->kind == MLC_RECEIVE || action->kind == MLC_SEND;
        if (moves && action->microbatch < rank->wires->microbatches &&
            seen_of(rank, rank->tables->links[action->of]) <= (uint64_t)action->microbatch)
            return i;
    }
    return -1;
}

/* Of the messages that end a list, one that has not come. */
static const mlc_link *open_ending(const mlc_rank *rank, int chain)
{
    for (int i = 0; i < rank->wires->count; i++) {
        const way *on = &rank->wires->ways[i];
        if (!on->link->sends && on->link->channel->chain != chain && rank->wires->seen[i] < on->of[chain])
            return on->link;
    }
    return NULL;
}

static int first_of(mlc_actions list, int kind)
{
    for (int i = 0; i < list.count; i++)
        if (list.actions[i].kind == kind)
            return i;
    return -1;
}

static void show_wait(const mlc_rank *rank, const mlc_link *link, int action)
{
    mlc_status_board *board = rank->world.status;
    atomic_store_explicit(&board->action, action, memory_order_relaxed);
    if (link) {
        atomic_store_explicit(&board->waits_for, link->peer, memory_order_relaxed);
        atomic_store_explicit(&board->channel, link->number, memory_order_relaxed);
        atomic_store_explicit(&board->message, (long long)seen_of(rank, link), memory_order_relaxed);
    }
    atomic_store_explicit(&board->state, link ? MLC_RANK_WAITS : MLC_RANK_COMPUTES, memory_order_release);
}

/* Does the rank wait for the other end of the message of an action? Who has not come to what it sends computes. */
static bool waits_at(const mlc_rank *rank, const mlc_action *action)
{
    const way *on = rank->tables->links[action->of]->edge;
    return action->kind == MLC_RECEIVE || rank->wires->come[on - rank->wires->ways] > (uint64_t)action->microbatch;
}

static void show(mlc_rank *rank)
{
    mlc_status_board *board = rank->world.status;
    int chain = atomic_load_explicit(&board->chain, memory_order_relaxed);
    mlc_actions list = rank->program->lists[chain];
    uint64_t progress = 0;
    for (int i = 0; i < rank->wires->count; i++)
        progress += rank->wires->seen[i] + rank->wires->come[i];
    if (progress == rank->wires->progress && rank->wires->shown)
        return;
    rank->wires->shown = true;
    atomic_fetch_add_explicit(&board->progress, progress - rank->wires->progress, memory_order_relaxed);
    rank->wires->progress = progress;
    int open = first_open(rank, list);
    if (open >= 0)
        show_wait(rank, waits_at(rank, &list.actions[open]) ? rank->tables->links[list.actions[open].of] : NULL, open);
    else
        show_wait(rank, open_ending(rank, chain), first_of(list, MLC_STATISTICS));
}

static void note_failure(mlc_rank *rank, const way *failed, const char *why)
{
    mlc_error_set(&rank->error, MLC_FAILED, "NCCL: channel %s, with rank %d: %s", failed->link->channel->name, failed->link->peer, why);
}

int mlc_edges_check(mlc_rank *rank)
{
    const char *why = NULL;
    const way *failed = rank->wires && !rank->error.status ? failed_way(rank, &why) : NULL;
    if (failed)
        note_failure(rank, failed, why);
    return rank->error.status;
}

/* Nothing will come from a rank that is gone: who waits for it gives its GPU up. The transport of the host knows best who that is. */
static int look(void *context)
{
    mlc_rank *rank = context;
    const char *why = NULL;
    const way *failed = failed_way(rank, &why);
    int status = mlc_world_check(&rank->world, "waits for its GPU");
    show(rank);
    rank->wires->looks += failed != NULL;
    if (!status && rank->wires->looks < LATE_WORD)
        return false;
    if (!status)
        note_failure(rank, failed, why);
    mlc_gpu_fail(rank->arena.gpu, "%.200s", rank->error.text);
    return true;
}

/* ---- connecting ---- */

static int no_memory(mlc_error *error)
{
    return mlc_error_set(error, MLC_FAILED, "GPU: out of memory");
}

static int gpu_error(const mlc_rank *rank, mlc_error *error)
{
    const char *failure = mlc_gpu_failed(rank->arena.gpu);
    return error->status ? error->status : mlc_error_set(error, MLC_FAILED, "%s", failure ? failure : "GPU: a connection failed");
}

/* Where a rank's GPU is: two of one place are one. */
static int check_places(mlc_rank *rank, mlc_error *error)
{
    size_t bytes = (size_t)rank->world.ranks * PLACE_BYTES;
    char name[MLC_GPU_NAME_BYTES], host[80] = "";
    char *places = calloc(1, bytes);
    if (!places)
        return no_memory(error);
    mlc_gpu_name(rank->arena.gpu, name);
    gethostname(host, sizeof host - 1);
    char *own = places + (size_t)rank->rank * PLACE_BYTES;
    snprintf(own, PLACE_BYTES, "%s, %s", name, host);
    int status = mlc_exchange(&rank->world, places, bytes, 1, mlc_combine_or);
    for (int r = 0; !status && r < rank->world.ranks; r++)
        for (int q = r + 1; !status && q < rank->world.ranks && (r == rank->rank || q == rank->rank); q++)
            if (name[0] && !strcmp(places + (size_t)r * PLACE_BYTES, places + (size_t)q * PLACE_BYTES))
                status = mlc_error_set(error, MLC_FAILED, "ranks %d and %d use one GPU (%s): each rank wants one of its own; start fewer on this "
                                       "machine, or let CUDA_VISIBLE_DEVICES show each of them another one", r, q, own);
    free(places);
    return status;
}

/* The two ranks of a link. All ranks connect in one order of them: of the first link that is not connected both ends have come to it. */
typedef struct ends {
    int low;
    int high;
    bool rises; /* its messages go to the higher rank */
} ends;

static ends ends_of(const mlc_rank *rank, const mlc_link *link)
{
    int own = rank->rank, peer = link->peer;
    return (ends){own < peer ? own : peer, own < peer ? peer : own, link->sends == (own < peer)};
}

static bool comes_before(const mlc_rank *rank, const mlc_link *a, const mlc_link *b)
{
    ends one = ends_of(rank, a), other = ends_of(rank, b);
    if (a->number != b->number)
        return a->number < b->number;
    if (one.low != other.low)
        return one.low < other.low;
    return one.high != other.high ? one.high < other.high : one.rises && !other.rises;
}

static void sort_ways(const mlc_rank *rank, way *ways, int count)
{
    for (int i = 1; i < count; i++)
        for (int j = i; j > 0 && comes_before(rank, ways[j].link, ways[j - 1].link); j--) {
            way moved = ways[j];
            ways[j] = ways[j - 1];
            ways[j - 1] = moved;
        }
}

static int make_ways(mlc_rank *rank, mlc_error *error)
{
    mlc_world *world = &rank->world;
    mlc_wires *wires = rank->wires = calloc(1, sizeof *wires);
    if (!wires)
        return no_memory(error);
    if (world->link_count > MLC_EDGES)
        return mlc_error_set(error, MLC_BAD_INPUT, "GPU: a rank has %d connections, and there is room for %d", world->link_count, MLC_EDGES);
    wires->seen = mlc_gpu_pinned(rank->arena.gpu, MLC_EDGES * sizeof *wires->seen);
    wires->come = mlc_gpu_pinned(rank->arena.gpu, MLC_EDGES * sizeof *wires->come);
    if (!wires->seen || !wires->come)
        return no_memory(error);
    wires->ways = calloc((size_t)world->link_count + 1, sizeof *wires->ways);
    wires->tree = calloc(2 * MLC_TREE_NEIGHBOURS, sizeof *wires->tree);
    if (!wires->ways || !wires->tree)
        return no_memory(error);
    for (int i = 0; i < world->link_count; i++) {
        mlc_link *link = &world->links[i];
        if (link->number == world->tree) {
            wires->tree[wires->tree_count] = *link;
            link = &wires->tree[wires->tree_count++];
            link->base = link->posted = link->sent = link->arrived = link->released = link->expected = 0;
        }
        wires->ways[wires->count++] = (way){.link = link};
    }
    sort_ways(rank, wires->ways, wires->count);
    for (int i = 0; i < wires->count; i++)
        wires->ways[i].link->edge = &wires->ways[i];
    return MLC_OK;
}

/* The name of an edge on its way from the sending end. */
typedef struct named {
    int32_t channel; /* + 1; 0: none */
    int32_t receiver;
    char id[MLC_EDGE_ID_BYTES];
} named;

static void combine_most(void *into, const void *from, size_t bytes)
{
    int64_t *own = into;
    const int64_t *other = from;
    for (size_t i = 0; i < bytes / sizeof *own; i++)
        own[i] = other[i] > own[i] ? other[i] : own[i];
}

/* Takes the names of edges that end here. */
static void take_names(const mlc_rank *rank, const named *all, named *ids)
{
    for (int i = 0; i < rank->wires->count; i++) {
        const mlc_link *link = rank->wires->ways[i].link;
        const named *of = &all[link->peer];
        if (!link->sends && of->channel == link->number + 1 && of->receiver == rank->rank)
            ids[i] = *of;
    }
}

/* Each rank names its edges, one at a time; all see the names. ids: by way. Returns a status. */
static int exchange_names(mlc_rank *rank, named *ids, mlc_error *error)
{
    mlc_wires *wires = rank->wires;
    int64_t most = 0;
    for (int i = 0; i < wires->count; i++)
        most += wires->ways[i].link->sends;
    named *all = calloc((size_t)rank->world.ranks, sizeof *all);
    int status = all ? mlc_exchange(&rank->world, &most, sizeof most, sizeof most, combine_most) : no_memory(error);
    for (int i = 0; !status && most > 0; most--) {
        while (i < wires->count && !wires->ways[i].link->sends)
            i++;
        memset(all, 0, (size_t)rank->world.ranks * sizeof *all);
        if (i < wires->count) {
            ids[i].channel = wires->ways[i].link->number + 1;
            ids[i].receiver = wires->ways[i].link->peer;
            if (!mlc_edge_name(wires->library, ids[i].id))
                gpu_error(rank, error);
            all[rank->rank] = ids[i++];
        }
        status = mlc_exchange(&rank->world, all, (size_t)rank->world.ranks * sizeof *all, 1, mlc_combine_or);
        if (!status)
            take_names(rank, all, ids);
    }
    free(all);
    return status;
}

/* A edge has been made, and has moved something, before a step waits for it. */
static void warm(mlc_rank *rank)
{
    for (int i = 0; i < rank->wires->count; i++) {
        const way *on = &rank->wires->ways[i];
        const mlc_link *link = on->link;
        mlc_edge_follow(on->edge);
        mlc_edge_move(on->edge, 0, link->sends ? mlc_wire_outgoing(rank, link, 0) : mlc_wire_incoming(rank, link, 0), WARMTH);
        mlc_edge_join(on->edge);
    }
    mlc_gpu_wait(rank->arena.gpu);
}

static int connect_ways(mlc_rank *rank, const named *ids, mlc_error *error)
{
    mlc_wires *wires = rank->wires;
    for (int i = 0; i < wires->count; i++) {
        way *on = &wires->ways[i];
        int slots = on->link->sends ? on->link->channel->outbox_slots : on->link->channel->slots;
        on->edge = mlc_edge_open(wires->library, ids[i].id, on->link->sends, slots);
        if (!on->edge)
            return gpu_error(rank, error);
    }
    mlc_gpu_watch(rank->arena.gpu, look, rank);
    warm(rank);
    return mlc_gpu_failed(rank->arena.gpu) ? gpu_error(rank, error) : MLC_OK;
}

/* What messages that wait hold of the GPU must leave room for what computes; and there must be memory for them beside the plan's. */
static int check_room(const mlc_rank *rank, mlc_error *error)
{
    int blocks = rank->wires->count * MLC_EDGE_BLOCKS, all = mlc_gpu_blocks(rank->arena.gpu);
    uint64_t bytes = (uint64_t)(rank->wires->count * MLC_EDGE_BYTES), left = mlc_gpu_free_bytes(rank->arena.gpu);
    if (bytes > left)
        return mlc_error_set(error, MLC_FAILED, "GPU: NCCL may take %.0f MiB for %d connections, and %.1f MiB are free beside the %.1f of the plan",
                             (double)bytes / 0x1p20, rank->wires->count, (double)left / 0x1p20, (double)rank->arena.bytes / 0x1p20);
    if (blocks * 2 <= all)
        return MLC_OK;
    return mlc_error_set(error, MLC_FAILED, "GPU: %d connections hold up to %d of its %d multiprocessors while they wait, more than half: compile "
                         "with fewer --chunks or replicas", rank->wires->count, blocks, all);
}

static int load(mlc_rank *rank, mlc_error *error)
{
    rank->wires->library = mlc_edges_open(rank->arena.gpu);
    if (!rank->wires->library)
        gpu_error(rank, error);
    else
        check_room(rank, error);
    return mlc_agree(&rank->world, error);
}

int mlc_wire_open(mlc_rank *rank, mlc_error *error)
{
    if (rank->world.ranks == 1)
        return MLC_OK;
    if (!strcmp(rank->world.transport->name, "threads"))
        return mlc_error_set(error, MLC_USAGE, "--transport threads: ranks that have a GPU each are processes; run the program without it");
    if (make_ways(rank, error))
        return error->status;
    named *ids = calloc((size_t)rank->wires->count + 1, sizeof *ids);
    int status = ids ? load(rank, error) : no_memory(error);
    if (!status) {
        check_places(rank, error);
        status = mlc_agree(&rank->world, error);
    }
    status = status ? status : exchange_names(rank, ids, error);
    status = status ? status : connect_ways(rank, ids, error);
    free(ids);
    return status;
}

void mlc_wire_close(mlc_rank *rank)
{
    mlc_wires *wires = rank->wires;
    if (!wires)
        return;
    if (rank->error.status) /* another one may be gone, with whom the library would say goodbye */
        mlc_gpu_fail(rank->arena.gpu, "%.200s", rank->error.text);
    mlc_gpu_forget(rank->arena.gpu);
    for (int i = 0; wires->ways && i < wires->count; i++)
        mlc_edge_close(wires->ways[i].edge);
    mlc_edges_close(wires->library);
    free(wires->ways);
    free(wires->tree);
    free(wires);
    rank->wires = NULL;
}
