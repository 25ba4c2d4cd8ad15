/* world.c: see world.h. */
#include "world/world.h"

#include "mlc.h"
#include "world/coordinate.h"
#include "world/launches.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define SPINS 2000              /* some hundred microseconds: longer than the skew of balanced stages */
#define REST_FIRST 20000        /* nanoseconds; doubled by each rest in which nothing moved */
#define REST_LONGEST 2000000

/* ---- links ---- */

/* Which of a rank's blocks of slots is the peer's. */
static int block_of(const mlc_world *world, const mlc_channel *channel, int rank, int peer)
{
    if (channel->kind == MLC_TREE)
        return mlc_mesh_tree_number(rank, peer);
    if (channel->kind != MLC_REPLICAS)
        return 0;
    const mlc_mesh *mesh = &world->model->mesh;
    return mlc_cohort_block(mesh->size[MLC_DP], mlc_mesh_replica(mesh, rank), mlc_mesh_replica(mesh, peer));
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
        link->outbox = world->arena->mail + channel->outbox + block * (uint64_t)channel->outbox_slots * channel->slot_bytes;
    else
        link->inbox = world->arena->mail + inbox;
}

static void add_pair(mlc_world *world, int number, int peer)
{
    add_link(world, number, peer, false);
    add_link(world, number, peer, true);
}

static void add_tree_links(mlc_world *world, int number)
{
    world->tree = number;
    for (int i = 0; i < MLC_TREE_NEIGHBOURS; i++)
        if (mlc_mesh_tree_neighbour(world->ranks, world->rank, i) >= 0)
            add_pair(world, number, mlc_mesh_tree_neighbour(world->ranks, world->rank, i));
}

static void add_replica_links(mlc_world *world, int number)
{
    const mlc_mesh *mesh = &world->model->mesh;
    int replicas = mesh->size[MLC_DP];
    for (int block = 0; block < mlc_cohort_blocks(replicas); block++) {
        int neighbour = mlc_cohort_neighbour(replicas, world->replica, block);
        if (neighbour >= 0)
            add_pair(world, number, mlc_mesh_member(mesh, world->rank, MLC_DP, neighbour));
    }
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
        add_replica_links(world, number);
    if (from && !to)
        add_link(world, number, mlc_mesh_member(&model->mesh, world->rank, MLC_PP, channel->to), true);
    if (to && !from)
        add_link(world, number, mlc_mesh_member(&model->mesh, world->rank, MLC_PP, channel->from), false);
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
    uint64_t end = world->model->roles[mlc_mesh_place(&world->model->mesh, receiver)].inbox_bytes;
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
    int ranks = mlc_mesh_ranks(&model->mesh);
    *world = (mlc_world){.model = model, .rank = rank, .ranks = ranks, .place = mlc_mesh_place(&model->mesh, rank),
                         .replica = mlc_mesh_replica(&model->mesh, rank), .arena = arena, .tree = -1, .spins = SPINS, .error = error};
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

mlc_sight mlc_world_sight(const mlc_world *world)
{
    bool all = world->transport && world->transport->sees_all;
    return all ? (mlc_sight){0, world->ranks} : (mlc_sight){world->rank, world->rank + 1};
}

bool mlc_world_progress(mlc_world *world)
{
    return world->transport && world->transport->progress(world);
}

static void count_progress(mlc_world *world)
{
    atomic_fetch_add_explicit(&world->status->progress, 1, memory_order_relaxed);
}

/* Has the list of a link ended: all its messages gone, or come and released? */
static bool is_ended(const mlc_link *link)
{
    return link->sends ? link->sent == link->posted : link->released == link->expected;
}

int mlc_link_begin(mlc_world *world, mlc_link *link, int64_t messages)
{
    if (!is_ended(link))
        return mlc_error_set(world->error, MLC_FAILED, "channel %s: a list begins before the one before has ended", link->channel->name);
    int64_t ended = link->sends ? link->posted : link->released;
    link->base += ended;
    link->posted -= link->sends ? ended : 0;
    link->sent -= link->sends ? ended : 0;
    link->arrived -= link->sends ? 0 : ended;
    link->released -= link->sends ? 0 : ended;
    link->expected = 0;
    if (!link->sends)
        mlc_link_expect(world, link, messages);
    return MLC_OK;
}

void mlc_link_expect(mlc_world *world, mlc_link *link, int64_t messages)
{
    link->expected += messages;
    world->transport->allow(world, link);
}

void mlc_link_post(mlc_world *world, mlc_link *link)
{
    mlc_launches_message(world->launches, link, world->arena->mail);
    link->posted++;
    count_progress(world);
    mlc_world_progress(world);
}

void mlc_link_release(mlc_world *world, mlc_link *link)
{
    mlc_launches_message(world->launches, link, world->arena->mail);
    link->released++;
    count_progress(world);
    world->transport->allow(world, link);
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

static void describe_wait(const mlc_world *world, const wait *what, char *text, size_t bytes)
{
    char own[MLC_RANK_NAME_BYTES], peer[MLC_RANK_NAME_BYTES];
    mlc_rank_name(own, &world->model->mesh, world->rank);
    mlc_rank_name(peer, &world->model->mesh, what->link->peer);
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
    char text[400], late[200] = "", name[MLC_RANK_NAME_BYTES];
    describe_wait(world, what, text, sizeof text);
    int rank = late_rank(world, what->link->peer);
    if (rank >= 0) {
        const mlc_status_board *board = world->transport->board(world, rank);
        mlc_rank_name(name, &world->model->mesh, rank);
        snprintf(late, sizeof late, "; %s is late: it %s, at action %lld of step %lld", name, states[atomic_load(&board->state)],
                 (long long)atomic_load(&board->action), (long long)atomic_load(&board->step));
    }
    mlc_error_set(world->error, MLC_HANG, "%s, and nothing has moved for %g s%s", text, world->timeout, late);
    return MLC_HANG;
}

/* Has a rank been lost, or ended the run? MLC_OK: no. `text`: what this one waits for */
static int check_ranks(mlc_world *world, int lost, int status, int ender, const char *text)
{
    char name[MLC_RANK_NAME_BYTES];
    if (lost >= 0 && lost != ender && (!status || status == MLC_FAILED)) {
        mlc_rank_name(name, &world->model->mesh, lost);
        mlc_error_set(world->error, MLC_FAILED, "%s is lost; %s", name, text);
        return MLC_FAILED;
    }
    mlc_rank_name(name, &world->model->mesh, ender);
    mlc_error_set(world->error, status, "%s ended the run with code %d; %s", name, status, text);
    return status;
}

static int check_wait(mlc_world *world, const wait *what)
{
    char text[400];
    int ender = -1;
    int lost = world->transport->lost(world);
    int status = world->transport->abandoned(world, &ender);
    if (!status && lost < 0)
        return MLC_OK;
    describe_wait(world, what, text, sizeof text);
    return check_ranks(world, lost, status, ender, text);
}

int mlc_world_check(mlc_world *world, const char *does)
{
    char text[400], name[MLC_RANK_NAME_BYTES];
    int ender = -1;
    int lost = world->transport->lost(world);
    int status = world->transport->abandoned(world, &ender);
    if (!status && lost < 0)
        return MLC_OK;
    snprintf(text, sizeof text, "%s %s", mlc_rank_name(name, &world->model->mesh, world->rank), does);
    return check_ranks(world, lost, status, ender, text);
}

/* What all ranks in sight have done; does not change while all of them are stuck. */
static unsigned long long progress_in_sight(const mlc_world *world)
{
    unsigned long long sum = 0;
    mlc_sight sight = mlc_world_sight(world);
    for (int rank = sight.first; rank < sight.end; rank++) {
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
        int status = check_wait(world, what);
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
