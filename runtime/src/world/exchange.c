/* exchange.c: what all ranks combine, over the binary tree of ranks (world.h).
 *
 *   up     each rank combines its own part with those of its children, left first, and sends it to its parent
 *   down   rank 0 has the whole; each rank passes it on to its children
 *
 * All parts go up before the first comes down, so the slots of the channel pipeline them.
 */
#include "mlc.h"
#include "world/world.h"

#include <stdio.h>
#include <string.h>

/* A block on its way, in parts of `part` bytes. */
typedef struct block {
    char *bytes;
    size_t size;
    size_t part;
    mlc_combine combine;
} block;

/* The neighbour above (0) or below (1, 2), -1: none. */
static int neighbour_of(const mlc_world *world, int number)
{
    return mlc_mesh_tree_neighbour(world->ranks, world->rank, number);
}

static size_t part_bytes(const block *whole, size_t at)
{
    return whole->size - at < whole->part ? whole->size - at : whole->part;
}

static int send_part(mlc_world *world, int peer, const block *whole, size_t at)
{
    mlc_link *link = mlc_world_link(world, world->tree, peer, true);
    int status = mlc_link_wait_sent(world, link, link->posted - link->channel->outbox_slots);
    if (status)
        return status;
    memcpy(mlc_link_outgoing(link, link->posted), whole->bytes + at, part_bytes(whole, at));
    mlc_link_post(world, link);
    return MLC_OK;
}

/* Takes the peer's part: combines it with the own one, or puts it in its place. */
static int receive_part(mlc_world *world, int peer, const block *whole, size_t at, bool combines)
{
    mlc_link *link = mlc_world_link(world, world->tree, peer, false);
    int status = mlc_link_wait_arrived(world, link, link->released);
    if (status)
        return status;
    const char *part = mlc_link_incoming(link, link->released);
    if (combines)
        whole->combine(whole->bytes + at, part, part_bytes(whole, at));
    else
        memcpy(whole->bytes + at, part, part_bytes(whole, at));
    mlc_link_release(world, link);
    return MLC_OK;
}

static int send_up(mlc_world *world, const block *whole)
{
    int status = MLC_OK;
    for (size_t at = 0; at < whole->size && !status; at += whole->part) {
        for (int side = 1; side <= 2 && !status; side++)
            if (neighbour_of(world, side) >= 0)
                status = receive_part(world, neighbour_of(world, side), whole, at, true);
        if (!status && world->rank > 0)
            status = send_part(world, neighbour_of(world, 0), whole, at);
    }
    return status;
}

/* Each exchange is a list: its messages lie in the same slots, whichever exchange it is. */
static int begin_exchange(mlc_world *world, const block *whole)
{
    int status = MLC_OK;
    int64_t parts = (int64_t)((whole->size + whole->part - 1) / whole->part);
    for (int i = 0; i < world->link_count && !status; i++)
        if (world->links[i].number == world->tree)
            status = mlc_link_begin(world, &world->links[i], parts);
    return status;
}

/* A rank may be busy with other things after an exchange, or end: nobody must need its progress then. */
static int wait_gone(mlc_world *world)
{
    int status = MLC_OK;
    for (int i = 0; i < world->link_count && !status; i++) {
        mlc_link *link = &world->links[i];
        if (link->sends && link->number == world->tree)
            status = mlc_link_wait_sent(world, link, link->posted - 1);
    }
    return status;
}

static int send_down(mlc_world *world, const block *whole)
{
    int status = MLC_OK;
    for (size_t at = 0; at < whole->size && !status; at += whole->part) {
        if (world->rank > 0)
            status = receive_part(world, neighbour_of(world, 0), whole, at, false);
        for (int side = 1; side <= 2 && !status; side++)
            if (neighbour_of(world, side) >= 0)
                status = send_part(world, neighbour_of(world, side), whole, at);
    }
    return status;
}

int mlc_exchange(mlc_world *world, void *bytes, size_t size, size_t unit, mlc_combine combine)
{
    if (world->ranks == 1)
        return MLC_OK;
    size_t slot = world->tree < 0 ? 0 : world->model->schedule->channels[world->tree].slot_bytes;
    if (slot < unit) {
        mlc_error_set(world->error, MLC_BAD_INPUT, "exchange: a unit of %zu bytes in slots of %zu", unit, slot);
        return MLC_BAD_INPUT;
    }
    block whole = {bytes, size, slot / unit * unit, combine};
    int status = begin_exchange(world, &whole);
    status = status ? status : send_up(world, &whole);
    status = status ? status : send_down(world, &whole);
    return status ? status : wait_gone(world);
}

void mlc_combine_or(void *into, const void *from, size_t bytes)
{
    unsigned char *to = into;
    const unsigned char *other = from;
    for (size_t i = 0; i < bytes; i++)
        to[i] |= other[i];
}

/* The failure of the lowest rank that failed. */
typedef struct verdict {
    int32_t status;
    int32_t rank;
} verdict;

static void combine_verdicts(void *into, const void *from, size_t bytes)
{
    verdict *own = into;
    const verdict *other = from;
    for (size_t i = 0; i < bytes / sizeof *own; i++)
        if (other[i].status && (!own[i].status || other[i].rank < own[i].rank))
            own[i] = other[i];
}

int mlc_agree(mlc_world *world, mlc_error *error)
{
    if (world->ranks == 1)
        return error->status;
    verdict common = {error->status, world->rank};
    int status = mlc_exchange(world, &common, sizeof common, sizeof common, combine_verdicts);
    if (status || !common.status)
        return status;
    char text[sizeof error->text] = "";
    if (common.rank == world->rank)
        memcpy(text, error->text, sizeof text);
    status = mlc_exchange(world, text, sizeof text, 1, mlc_combine_or);
    if (status || common.rank == world->rank)
        return status ? status : common.status;
    error->status = common.status;
    snprintf(error->text, sizeof error->text, "rank %d: %.1400s", common.rank, text);
    return common.status;
}
