/* world.c: see world.h. */
#include "world/world.h"

#include "mlc.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define SPINS 2000              /* some hundred microseconds: longer than the skew of balanced stages */
#define REST_FIRST 20000        /* nanoseconds; doubled by each rest in which nothing moved */
#define REST_LONGEST 2000000
#define NAME_BYTES 64

/* ---- links ---- */

static int rank_of(const mlc_model *model, int place, int replica)
{
    return replica * model->pp + place;
}

/* Which of a rank's blocks of slots is the peer's. */
static int block_of(const mlc_world *world, const mlc_channel *channel, int rank, int peer)
{
    if (channel->kind == MLC_TREE)
        return peer == 2 * rank + 1 ? 1 : peer == 2 * rank + 2 ? 2 : 0;
    if (channel->from != channel->to)
        return 0;
    int own = rank / world->model->pp, other = peer / world->model->pp;
    return other < own ? other : other - 1;
}

/* Counts a link; writes it where there is room for the links. */
static void add_link(mlc_world *world, int number, int peer, bool sends)
{
    mlc_link *link = world->links ? &world->links[world->link_count] : NULL;
    world->link_count++;
    if (!link)
        return;
    const mlc_channel *channel = &world->model->schedule->channels[number];
    int receiver = sends ? peer : world->rank, sender = sends ? world->rank : peer;
    uint64_t block = (uint64_t)block_of(world, channel, receiver, sender);
    uint64_t inbox = channel->inbox + block * (uint64_t)channel->slots * channel->slot_bytes;
    *link = (mlc_link){.channel = channel, .number = number, .peer = peer, .sends = sends, .peer_inbox = inbox};
    link->header = channel->headers + block * MLC_HEADER_BYTES;
    block = (uint64_t)block_of(world, channel, world->rank, peer);
    if (sends)
        link->outbox = world->arena->base + channel->outbox + block * (uint64_t)channel->outbox_slots * channel->slot_bytes;
    else
        link->inbox = world->arena->base + inbox;
}

static void add_pair(mlc_world *world, int number, int peer)
{
    add_link(world, number, peer, false);
    add_link(world, number, peer, true);
}

static void add_tree_links(mlc_world *world, int number)
{
    world->tree = number;
    if (world->rank > 0)
        add_pair(world, number, (world->rank - 1) / 2);
    for (int child = 2 * world->rank + 1; child <= 2 * world->rank + 2 && child < world->ranks; child++)
        add_pair(world, number, child);
}

static void add_channel_links(mlc_world *world, int number)
{
    const mlc_model *model = world->model;
    const mlc_channel *channel = &model->schedule->channels[number];
    if (channel->kind == MLC_TREE) {
        add_tree_links(world, number);
        return;
    }
    bool from = channel->from == world->place, to = channel->to == world->place;
    if (from && to)
        for (int replica = 0; replica < model->dp; replica++)
            if (replica != world->replica)
                add_pair(world, number, rank_of(model, world->place, replica));
    if (from && !to)
        add_link(world, number, rank_of(model, channel->to, world->replica), true);
    if (to && !from)
        add_link(world, number, rank_of(model, channel->from, world->replica), false);
}

static void add_links(mlc_world *world)
{
    world->link_count = 0;
    for (int i = 0; i < world->model->schedule->channel_count; i++)
        add_channel_links(world, i);
}

/* Transports write to a receiver's inbox, and to nothing else of its arena. */
static int check_link(const mlc_world *world, const mlc_link *link, mlc_error *error)
{
    const mlc_channel *channel = link->channel;
    int receiver = link->sends ? link->peer : world->rank;
    uint64_t end = world->model->roles[receiver % world->model->pp].inbox_bytes;
    uint64_t bytes = (uint64_t)channel->slots * channel->slot_bytes;
    bool fits = bytes <= end && link->peer_inbox <= end - bytes;
    bool header = end >= MLC_HEADER_BYTES && link->header <= end - MLC_HEADER_BYTES;
    if (fits && header && channel->slots > 0 && channel->outbox_slots > 0 && channel->slot_bytes && channel->slot_bytes % 64 == 0)
        return MLC_OK;
    return mlc_error_set(error, MLC_BAD_INPUT, "channel %s: its slots or headers do not lie in the inbox of rank %d", channel->name,
                         receiver);
}

int mlc_world_open(mlc_world *world, const mlc_model *model, int rank, mlc_arena *arena, mlc_error *error)
{
    int ranks = model->pp * model->dp;
    *world = (mlc_world){.model = model, .rank = rank, .ranks = ranks, .place = rank % model->pp, .replica = rank / model->pp,
                         .arena = arena, .tree = -1, .spins = SPINS, .error = error};
    add_links(world);
    world->links = calloc((size_t)world->link_count + 1, sizeof *world->links);
    world->alone = aligned_alloc(_Alignof(mlc_status_board), sizeof *world->alone);
    if (!world->links || !world->alone)
        return mlc_error_set(error, MLC_FAILED, "links: out of memory");
    *world->alone = (mlc_status_board){.waits_for = -1, .channel = -1};
    world->status = world->alone;
    add_links(world);
    for (int i = 0; i < world->link_count; i++)
        if (check_link(world, &world->links[i], error))
            return error->status;
    return MLC_OK;
}

void mlc_world_close(mlc_world *world)
{
    free(world->links);
    free(world->alone);
    *world = (mlc_world){0};
}

mlc_link *mlc_world_link(mlc_world *world, int channel, int peer, bool sends)
{
    for (int i = 0; i < world->link_count; i++) {
        mlc_link *link = &world->links[i];
        if (link->number == channel && link->peer == peer && link->sends == sends)
            return link;
    }
    return NULL;
}

bool mlc_world_progress(mlc_world *world)
{
    return world->transport && world->transport->progress(world);
}

static void count_progress(mlc_world *world)
{
    atomic_fetch_add_explicit(&world->status->progress, 1, memory_order_relaxed);
}

void mlc_link_post(mlc_world *world, mlc_link *link)
{
    link->posted++;
    count_progress(world);
    mlc_world_progress(world);
}

void mlc_link_release(mlc_world *world, mlc_link *link)
{
    link->released++;
    count_progress(world);
    world->transport->released(world, link);
}

/* ---- waits ---- */

/* One thing that a rank waits for. */
typedef struct wait {
    const mlc_link *link;
    const int64_t *count; /* of the link: done when it exceeds n */
    int64_t n;
} wait;

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void name_rank(const mlc_world *world, int rank, char name[NAME_BYTES])
{
    const mlc_model *model = world->model;
    if (model->dp > 1)
        snprintf(name, NAME_BYTES, "rank %d (place %d, replica %d)", rank, rank % model->pp, rank / model->pp);
    else
        snprintf(name, NAME_BYTES, "rank %d (place %d)", rank, rank);
}

static void describe_wait(const mlc_world *world, const wait *what, char *text, size_t bytes)
{
    char own[NAME_BYTES], peer[NAME_BYTES];
    name_rank(world, world->rank, own);
    name_rank(world, what->link->peer, peer);
    const char *form = what->link->sends ? "%s waits until message %lld of %s has gone to %s" : "%s waits for message %lld of %s from %s";
    snprintf(text, bytes, form, own, (long long)what->n, what->link->channel->name, peer);
}

/* From the peer along who waits for whom: the first rank that does not wait; -1: a circle, or out of sight. */
static int late_rank(mlc_world *world, int peer)
{
    for (int hops = 0; hops < world->ranks; hops++) {
        const mlc_status_board *board = world->transport->board(world, peer);
        if (!board)
            return -1;
        if (atomic_load(&board->state) != MLC_RANK_WAITS)
            return peer;
        peer = atomic_load(&board->waits_for);
    }
    return -1;
}

static int fail_late(mlc_world *world, const wait *what)
{
    static const char *const states[] = {"has not started", "computes", "waits", "has ended", "has failed"};
    char text[400], late[200] = "", name[NAME_BYTES];
    describe_wait(world, what, text, sizeof text);
    int rank = late_rank(world, what->link->peer);
    if (rank >= 0) {
        const mlc_status_board *board = world->transport->board(world, rank);
        name_rank(world, rank, name);
        snprintf(late, sizeof late, "; %s is late: it %s, at action %lld of step %lld", name, states[atomic_load(&board->state)],
                 (long long)atomic_load(&board->action), (long long)atomic_load(&board->step));
    }
    mlc_error_set(world->error, MLC_HANG, "%s, and nothing has moved for %g s%s", text, world->timeout, late);
    return MLC_HANG;
}

/* Has a rank been lost, or ended the run? MLC_OK: no. */
static int check_ranks(mlc_world *world, const wait *what)
{
    char text[400], name[NAME_BYTES];
    int ender = -1;
    int lost = world->transport->lost(world);
    int status = world->transport->abandoned(world, &ender);
    if (!status && lost < 0)
        return MLC_OK;
    describe_wait(world, what, text, sizeof text);
    if (lost >= 0 && lost != ender && (!status || status == MLC_FAILED)) {
        name_rank(world, lost, name);
        mlc_error_set(world->error, MLC_FAILED, "%s is lost; %s", name, text);
        return MLC_FAILED;
    }
    name_rank(world, ender, name);
    mlc_error_set(world->error, status, "%s ended the run with code %d; %s", name, status, text);
    return status;
}

/* What all ranks in sight have done; does not change while all of them are stuck. */
static unsigned long long progress_in_sight(const mlc_world *world)
{
    unsigned long long sum = 0;
    for (int rank = 0; rank < world->ranks; rank++) {
        const mlc_status_board *board = world->transport->board(world, rank);
        sum += board ? atomic_load_explicit(&board->progress, memory_order_relaxed) : 0;
    }
    return sum;
}

static int rest_until(mlc_world *world, const wait *what)
{
    double since = now();
    unsigned long long seen = progress_in_sight(world);
    for (int64_t rest = REST_FIRST;; rest = rest * 2 < REST_LONGEST ? rest * 2 : REST_LONGEST) {
        int status = check_ranks(world, what);
        if (status)
            return status;
        world->transport->rest(world, rest);
        bool moved = mlc_world_progress(world);
        if (*what->count > what->n)
            return MLC_OK;
        unsigned long long reached = progress_in_sight(world);
        if (moved || reached != seen)
            since = now();
        seen = reached;
        if (world->timeout > 0 && now() - since >= world->timeout)
            return fail_late(world, what);
    }
}

static bool look(mlc_world *world, const wait *what)
{
    if (*what->count <= what->n)
        mlc_world_progress(world);
    return *what->count > what->n;
}

static int wait_until(mlc_world *world, const wait *what)
{
    for (int i = 0; i <= world->spins; i++) {
        if (look(world, what))
            return MLC_OK;
        relax();
    }
    mlc_status_board *board = world->status;
    int before = atomic_load_explicit(&board->state, memory_order_relaxed);
    atomic_store_explicit(&board->waits_for, what->link->peer, memory_order_relaxed);
    atomic_store_explicit(&board->channel, what->link->number, memory_order_relaxed);
    atomic_store_explicit(&board->message, what->n, memory_order_relaxed);
    atomic_store_explicit(&board->state, MLC_RANK_WAITS, memory_order_release);
    int status = rest_until(world, what);
    if (status == MLC_OK)
        atomic_store_explicit(&board->state, before, memory_order_release);
    return status;
}

int mlc_link_wait_arrived(mlc_world *world, mlc_link *link, int64_t n)
{
    return wait_until(world, &(wait){link, &link->arrived, n});
}

int mlc_link_wait_sent(mlc_world *world, mlc_link *link, int64_t n)
{
    return wait_until(world, &(wait){link, &link->sent, n});
}
