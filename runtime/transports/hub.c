/* hub.c: messages through memory that both ends see (hub.h), and the transport `threads`. */
#include "hub.h"

#include "mlc.h"
#include "system/system.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SPINS_CROWDED 20
#define MEET_REST 1000000 /* nanoseconds */

size_t mlc_hub_bytes(int ranks)
{
    return sizeof(mlc_hub) + (size_t)ranks * sizeof(mlc_seat);
}

void mlc_hub_initialize(mlc_hub *hub, int ranks)
{
    hub->ranks = ranks;
    for (int i = 0; i < ranks; i++) {
        atomic_store(&hub->seats[i].board.waits_for, -1);
        atomic_store(&hub->seats[i].board.channel, -1);
    }
}

/* ---- doorbells ---- */

static void wake(mlc_seat *seat)
{
    atomic_fetch_add(&seat->doorbell, 1);
    mlc_futex_wake(&seat->doorbell, true);
}

static void ring(mlc_hub *hub, int rank)
{
    if (atomic_load(&hub->seats[rank].sleeps))
        wake(&hub->seats[rank]);
}

void mlc_hub_rest(mlc_hub *hub, mlc_world *world, int64_t nanoseconds)
{
    mlc_seat *seat = &hub->seats[world->rank];
    struct timespec limit = {nanoseconds / 1000000000, nanoseconds % 1000000000};
    unsigned bell = atomic_load(&seat->doorbell);
    atomic_store(&seat->sleeps, 1);
    if (!mlc_hub_progress(hub, world))
        mlc_futex_wait(&seat->doorbell, bell, &limit, true);
    atomic_store(&seat->sleeps, 0);
}

/* ---- the end of a run ---- */

static void wake_all(mlc_hub *hub)
{
    for (int i = 0; i < hub->ranks; i++)
        wake(&hub->seats[i]);
}

void mlc_hub_abandon(mlc_hub *hub, int rank, int status)
{
    int none = 0;
    atomic_compare_exchange_strong(&hub->ended, &none, (rank + 1) * 256 + status);
    wake_all(hub);
}

int mlc_hub_abandoned(mlc_hub *hub, int *rank)
{
    int ended = atomic_load(&hub->ended);
    if (ended)
        *rank = ended / 256 - 1;
    return ended % 256;
}

void mlc_hub_lost(mlc_hub *hub, int rank)
{
    int none = 0;
    atomic_compare_exchange_strong(&hub->lost, &none, rank + 1);
    wake_all(hub);
}

const mlc_status_board *mlc_hub_board(const mlc_hub *hub, int rank)
{
    return &hub->seats[rank].board;
}

/* ---- messages ---- */

/* Is there a slot at the receiver for message link->sent? */
static bool may_move(const mlc_link *link)
{
    const mlc_route *route = link->own;
    return link->base + link->sent < atomic_load(&route->counters->allowed);
}

static bool send_messages(mlc_hub *hub, mlc_link *link)
{
    const mlc_route *route = link->own;
    const mlc_channel *channel = link->channel;
    int64_t before = link->sent;
    while (link->sent < link->posted && may_move(link)) {
        char *slot = route->slots + (uint64_t)(link->sent % channel->slots) * channel->slot_bytes;
        memcpy(slot, mlc_link_outgoing(link, link->sent), channel->slot_bytes);
        link->sent++;
        atomic_store(&route->counters->arrived, link->base + link->sent);
        ring(hub, link->peer);
    }
    return link->sent != before;
}

static bool see_arrivals(mlc_link *link)
{
    const mlc_route *route = link->own;
    int64_t arrived = atomic_load(&route->counters->arrived) - link->base;
    bool moved = arrived != link->arrived;
    link->arrived = arrived;
    return moved;
}

bool mlc_hub_progress(mlc_hub *hub, mlc_world *world)
{
    bool moved = false;
    for (int i = 0; i < world->link_count; i++) {
        mlc_link *link = &world->links[i];
        moved |= link->sends ? link->sent < link->posted && send_messages(hub, link) : see_arrivals(link);
    }
    return moved;
}

void mlc_hub_allow(mlc_hub *hub, mlc_link *link)
{
    mlc_route *route = link->own;
    atomic_store(&route->counters->allowed, link->base + mlc_link_allowed(link));
    ring(hub, link->peer);
}

/* ---- connecting ---- */

static int cpu_count(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) ? 1 : CPU_COUNT(&set);
}

int mlc_hub_connect(mlc_hub *hub, mlc_world *world, char *const *inboxes, mlc_error *error)
{
    if (!world->link_count)
        return MLC_OK;
    mlc_route *routes = calloc((size_t)world->link_count, sizeof *routes);
    if (!routes)
        return mlc_error_set(error, MLC_FAILED, "transport: out of memory");
    for (int i = 0; i < world->link_count; i++) {
        mlc_link *link = &world->links[i];
        char *inbox = link->sends ? inboxes[link->peer] : world->arena->mail;
        routes[i] = (mlc_route){(mlc_counters *)(inbox + link->header), link->sends ? inbox + link->peer_inbox : NULL};
        link->own = &routes[i];
    }
    if (hub->ranks * world->arena->threads > cpu_count())
        world->spins = SPINS_CROWDED;
    return MLC_OK;
}

void mlc_hub_disconnect(mlc_world *world)
{
    if (world->link_count)
        free(world->links[0].own);
    for (int i = 0; i < world->link_count; i++)
        world->links[i].own = NULL;
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

int mlc_hub_meet(mlc_hub *hub, mlc_world *world, mlc_error *error)
{
    atomic_fetch_add(&hub->connected, 1);
    for (double start = now(); atomic_load(&hub->connected) < hub->ranks;) {
        int rank = -1, status = world->transport->abandoned(world, &rank);
        if (status)
            return mlc_error_set(error, status, "rank %d ended the run with code %d before it began", rank, status);
        rank = world->transport->lost(world);
        if (rank >= 0)
            return mlc_error_set(error, MLC_FAILED, "rank %d is lost; the run had not begun", rank);
        if (world->timeout > 0 && now() - start > world->timeout)
            return mlc_error_set(error, MLC_HANG, "only %d of %d ranks have started after %g s", atomic_load(&hub->connected), hub->ranks,
                                 world->timeout);
        nanosleep(&(struct timespec){.tv_nsec = MEET_REST}, NULL);
    }
    return MLC_OK;
}

/* ---- threads ---- */

static int threads_open(mlc_world *world, mlc_error *error)
{
    mlc_hub *hub = world->own;
    hub->seats[world->rank].arena = world->arena->mail;
    if (mlc_hub_meet(hub, world, error))
        return error->status;
    char **inboxes = calloc((size_t)world->ranks, sizeof *inboxes);
    if (!inboxes)
        return mlc_error_set(error, MLC_FAILED, "transport: out of memory");
    for (int i = 0; i < world->ranks; i++)
        inboxes[i] = hub->seats[i].arena;
    int status = mlc_hub_connect(hub, world, inboxes, error);
    free(inboxes);
    return status;
}

static bool threads_progress(mlc_world *world)
{
    return mlc_hub_progress(world->own, world);
}

static void threads_rest(mlc_world *world, int64_t nanoseconds)
{
    mlc_hub_rest(world->own, world, nanoseconds);
}

static void threads_allow(mlc_world *world, mlc_link *link)
{
    mlc_hub_allow(world->own, link);
}

static int threads_lost(mlc_world *world)
{
    const mlc_hub *hub = world->own;
    return atomic_load(&hub->lost) - 1;
}

static const mlc_status_board *threads_board(const mlc_world *world, int rank)
{
    return mlc_hub_board(world->own, rank);
}

static void threads_abandon(mlc_world *world, int status)
{
    mlc_hub_abandon(world->own, world->rank, status);
}

static int threads_abandoned(mlc_world *world, int *rank)
{
    return mlc_hub_abandoned(world->own, rank);
}

static const mlc_transport threads_transport = {
    .name = "threads",
    .open = threads_open,
    .progress = threads_progress,
    .rest = threads_rest,
    .allow = threads_allow,
    .lost = threads_lost,
    .board = threads_board,
    .sees_all = true,
    .abandon = threads_abandon,
    .abandoned = threads_abandoned,
    .close = mlc_hub_disconnect,
};

int mlc_hub_open(mlc_hub **out, int ranks, mlc_error *error)
{
    size_t bytes = (mlc_hub_bytes(ranks) + 63) / 64 * 64;
    *out = aligned_alloc(64, bytes);
    if (!*out)
        return mlc_error_set(error, MLC_FAILED, "transport: out of memory");
    memset(*out, 0, bytes);
    mlc_hub_initialize(*out, ranks);
    return MLC_OK;
}

void mlc_hub_close(mlc_hub *hub)
{
    free(hub);
}

void mlc_hub_attach(mlc_hub *hub, mlc_world *world)
{
    world->transport = &threads_transport;
    world->own = hub;
    world->status = &hub->seats[world->rank].board;
    atomic_store(&world->status->pid, (int)getpid());
}
