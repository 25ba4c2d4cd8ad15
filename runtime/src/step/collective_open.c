/* collective_open.c: the streams and events of a rank, from the tables of the model (collective.h). */
#include "step/collective_plan.h"

#include "model/tables.h"

#include <stdlib.h>

/* ---- streams ---- */

static mlc_portions own_portion(const mlc_rank *rank)
{
    int replicas = rank->model->mesh.size[MLC_DP];
    return mlc_cohort_portions(replicas, rank->replica, mlc_cohort_turns(replicas));
}

/* The elements of a parameter that a run of portions has, in the buffers of a stretch. */
static bool stream_add_portions(mlc_stream *stream, const mlc_rank *rank, int parameter, mlc_portions portions, mlc_stretch stretch)
{
    mlc_run run = mlc_owners_elements(&rank->catalog.owners, parameter, portions);
    stretch.offset = (uint64_t)run.begin * stretch.unit;
    stretch.bytes = (uint64_t)(run.end - run.begin) * stretch.unit;
    return run.begin >= run.end || mlc_stream_add(stream, stretch);
}

/* The values of a parameter that change hands: its bf16 copy, or the master. */
static bool stream_add_values(mlc_stream *stream, const mlc_rank *rank, int parameter, mlc_portions portions)
{
    const mlc_held *held = mlc_rank_held(rank, parameter);
    bool copied = held->copy != MLC_NONE;
    const mlc_own *own = rank->catalog.owners.items[parameter].own;
    if (!own->update && !own->update_flat)
        return true;
    mlc_stretch master = {.levels = &held->master, .arranged = mlc_arranged_master(rank->model, parameter), .unit = mlc_wide_bytes(rank->model)};
    mlc_stretch copy = {.levels = &held->copy, .arranged = mlc_arranged_copy(rank->model, parameter), .unit = sizeof(uint16_t)};
    return stream_add_portions(stream, rank, parameter, portions, copied ? copy : master);
}

/* ---- channels ---- */

/* The channel of this kind from one place to another, -1: none. */
static int channel_of(const mlc_model *model, int kind, int from, int to)
{
    for (int i = 0; i < model->schedule->channel_count; i++) {
        const mlc_channel *channel = &model->schedule->channels[i];
        if (channel->kind == kind && channel->from == from && channel->to == to)
            return i;
    }
    return -1;
}

static int no_memory(mlc_error *error)
{
    return mlc_error_set(error, MLC_FAILED, "rank: out of memory");
}

static int no_channel(const mlc_rank *rank, const char *what, int from, int to, mlc_error *error)
{
    return mlc_error_set(error, MLC_BAD_INPUT, "model %s: no channel that takes %s from place %d to place %d", rank->model->name, what,
                         from, to);
}

/* ---- between replicas ---- */

/* Adds an exchange without streams and links; NULL: out of memory. */
static mlc_exchanged *add_exchange(mlc_exchanges *all)
{
    if (all->count == all->capacity) {
        int capacity = all->capacity ? 2 * all->capacity : 8;
        mlc_exchanged *grown = realloc(all->items, (size_t)capacity * sizeof *grown);
        if (!grown)
            return NULL;
        all->items = grown;
        all->capacity = capacity;
    }
    all->items[all->count] = (mlc_exchanged){0};
    return &all->items[all->count++];
}

/* Finds the links of an exchange with a replica, for the directions in which something moves. */
static int connect_exchange(mlc_rank *rank, mlc_exchanged *one, int replica, mlc_error *error)
{
    int channel = channel_of(rank->model, MLC_REPLICAS, rank->place, rank->place);
    int peer = mlc_mesh_member(&rank->model->mesh, rank->rank, MLC_DP, replica);
    one->out = channel >= 0 && one->sent.bytes ? mlc_world_link(&rank->world, channel, peer, true) : NULL;
    one->in = channel >= 0 && one->kept.bytes ? mlc_world_link(&rank->world, channel, peer, false) : NULL;
    bool whole = !one->out == !one->sent.bytes && !one->in == !one->kept.bytes;
    return whole ? MLC_OK : no_channel(rank, "gradients and values", rank->place, rank->place, error);
}

/* Bytes of a stream in a segment of `sides` equal parts. */
static int find_room(const mlc_rank *rank, mlc_exchanges *all, int sides, mlc_error *error)
{
    int channel = channel_of(rank->model, MLC_REPLICAS, rank->place, rank->place);
    uint64_t slot_bytes = channel >= 0 ? rank->model->schedule->channels[channel].slot_bytes : (uint64_t)sides * MLC_STREAM_LINE;
    all->room = slot_bytes / (uint64_t)sides / MLC_STREAM_LINE * MLC_STREAM_LINE;
    return all->room ? MLC_OK : no_channel(rank, "gradients and values", rank->place, rank->place, error);
}

/* The uses of a chunk that have a gradient, as far as a run of portions has them. */
static bool add_sums(mlc_stream *stream, const mlc_rank *rank, const mlc_chunk *chunk, mlc_portions portions, const uint64_t *guests,
                     bool guest)
{
    int most = rank->collective->halving.most_roots;
    for (int i = 0; i < chunk->use_count; i++) {
        const mlc_use *use = &chunk->uses[i];
        const uint64_t *theirs = guests ? guests + (size_t)i * (size_t)most : NULL;
        bool fed = rank->model->parameters[use->parameter].fed != 2;
        mlc_stretch sums = {guest ? theirs : use->levels, theirs, guest ? NULL : mlc_arranged_master(rank->model, use->parameter),
                            .unit = mlc_wide_bytes(rank->model)};
        if (fed && !stream_add_portions(stream, rank, use->parameter, portions, sums))
            return false;
    }
    return true;
}

/* The turn in which a guest gets its first sums, after which it has the most portions. */
static int first_turn(const mlc_rank *rank, int guest)
{
    int turn = 0;
    while (!mlc_cohort_is_present(rank->model->mesh.size[MLC_DP], guest, turn))
        turn++;
    return turn;
}

/* Addresses for the sums of the guest: root by root, in the order of a stream of all that it ever has of the chunk. An address is that of
 * element 0 of the parameter, so it may lie before the buffer. */
static int place_guest(const mlc_rank *rank, mlc_exchanges *all, const mlc_chunk *chunk, int guest, mlc_error *error)
{
    int most = rank->collective->halving.most_roots, replicas = rank->model->mesh.size[MLC_DP];
    mlc_portions portions = mlc_cohort_portions(replicas, guest, first_turn(rank, guest));
    mlc_stream stream = {0};
    all->guests = calloc((size_t)(chunk->use_count * most) + 1, sizeof *all->guests);
    bool whole = all->guests && add_sums(&stream, rank, chunk, portions, NULL, false);
    uint64_t bytes = stream.bytes, start = 0, unit = mlc_wide_bytes(rank->model);
    mlc_stream_close(&stream);
    if (!whole)
        return no_memory(error);
    if (bytes * (uint64_t)most > rank->role->guests.bytes)
        return mlc_error_set(error, MLC_BAD_INPUT, "model %s: place %d: no room for the sums of an absent replica", rank->model->name,
                             rank->place);
    for (int i = 0; i < chunk->use_count; i++) {
        mlc_run run = mlc_owners_elements(&rank->catalog.owners, chunk->uses[i].parameter, portions);
        if (run.begin >= run.end || rank->model->parameters[chunk->uses[i].parameter].fed == 2)
            continue;
        for (int level = 0; level < most; level++)
            all->guests[i * most + level] = rank->role->guests.at + (uint64_t)level * bytes + start - (uint64_t)run.begin * unit;
        start += mlc_stream_aligned((uint64_t)(run.end - run.begin) * unit);
    }
    return MLC_OK;
}

/* A turn of REDUCE, of the rank itself or of its guest. */
static int open_halving(mlc_rank *rank, mlc_exchanges *all, const mlc_chunk *chunk, const mlc_joining *turn, mlc_error *error)
{
    int replicas = rank->model->mesh.size[MLC_DP];
    bool guest = turn->point != rank->replica, alone = mlc_cohort_host(replicas, turn->partner) == rank->replica;
    mlc_portions sent = mlc_cohort_portions(replicas, turn->partner, turn->turn + 1);
    mlc_portions kept = mlc_cohort_portions(replicas, turn->point, turn->turn + 1);
    mlc_exchanged *one = add_exchange(all);
    if (!one)
        return no_memory(error);
    one->turn = turn->turn;
    one->joining = turn;
    bool whole = !turn->sends || alone || add_sums(&one->sent, rank, chunk, sent, all->guests, guest);
    whole &= !turn->receives || add_sums(&one->kept, rank, chunk, kept, all->guests, guest);
    if (!whole)
        return no_memory(error);
    if (alone)
        return MLC_OK;
    return connect_exchange(rank, one, mlc_cohort_host(replicas, turn->partner), error);
}

static int open_reduce(mlc_rank *rank, mlc_exchanges *all, int number, mlc_error *error)
{
    const mlc_chunk *chunk = &rank->role->chunks[MLC_TRAIN][number];
    const mlc_halving *halving = &rank->collective->halving;
    int guest = mlc_cohort_guest(rank->model->mesh.size[MLC_DP], rank->replica);
    if (find_room(rank, all, halving->most_roots, error) || (guest >= 0 && place_guest(rank, all, chunk, guest, error)))
        return error->status;
    for (int i = 0; i < halving->count; i++)
        if (open_halving(rank, all, chunk, &halving->items[i], error))
            return error->status;
    return MLC_OK;
}

/* A turn of doubling: the values of portions that a point has so far against those of its partner. */
static int open_doubling(mlc_rank *rank, mlc_exchanges *all, int point, int turn, mlc_error *error)
{
    int replicas = rank->model->mesh.size[MLC_DP], partner = point ^ 1 << turn, peer = mlc_cohort_host(replicas, partner);
    bool guest = point != rank->replica, sends = partner < replicas, receives = !guest;
    if (peer == rank->replica || (guest && !sends))
        return MLC_OK;
    mlc_exchanged *one = add_exchange(all);
    if (!one)
        return no_memory(error);
    one->turn = turn;
    for (int i = 0; i < rank->role->held_count; i++) {
        int p = rank->role->held[i].parameter;
        bool whole = !sends || stream_add_values(&one->sent, rank, p, mlc_cohort_portions(replicas, point, turn + 1));
        whole &= !receives || stream_add_values(&one->kept, rank, p, mlc_cohort_portions(replicas, partner, turn + 1));
        if (!whole)
            return no_memory(error);
    }
    return connect_exchange(rank, one, peer, error);
}

static int open_gather(mlc_rank *rank, mlc_error *error)
{
    mlc_exchanges *all = &rank->collective->gather;
    int replicas = rank->model->mesh.size[MLC_DP], guest = mlc_cohort_guest(replicas, rank->replica);
    if (find_room(rank, all, 1, error))
        return error->status;
    for (int turn = mlc_cohort_turns(replicas) - 1; turn >= 0; turn--)
        if (open_doubling(rank, all, rank->replica, turn, error) || (guest >= 0 && open_doubling(rank, all, guest, turn, error)))
            return error->status;
    return MLC_OK;
}

/* ---- between places ---- */

/* Adds an event without streams; NULL: out of memory. */
static mlc_event *add_event(mlc_events *events, uint64_t action)
{
    if (events->count == events->capacity) {
        int capacity = events->capacity ? 2 * events->capacity : 8;
        mlc_event *grown = realloc(events->items, (size_t)capacity * sizeof *grown);
        if (!grown)
            return NULL;
        events->items = grown;
        events->capacity = capacity;
    }
    events->items[events->count] = (mlc_event){.action = action};
    return &events->items[events->count++];
}

static uint64_t number_of(const mlc_rank *rank, const mlc_action *action)
{
    return (uint64_t)(action - rank->program->lists[MLC_TRAIN].actions);
}

static int no_event(const mlc_rank *rank, const mlc_action *action, mlc_error *error)
{
    return mlc_error_set(error, MLC_BAD_INPUT, "model %s: place %d: action %d of the train list is of what there is not", rank->model->name,
                         rank->place, (int)number_of(rank, action));
}

/* Finds the link of an event in which one place sends and another one receives. */
static int connect_event(const mlc_rank *rank, mlc_event *event, int kind, int from, int to, mlc_error *error)
{
    int channel = channel_of(rank->model, kind, from, to);
    mlc_link *link = channel >= 0 ? rank->tables->links[channel] : NULL;
    if (!link)
        return no_channel(rank, kind == MLC_REDUCTION ? "gradients" : "values", from, to, error);
    if (rank->place == from)
        event->one.out = link;
    else
        event->one.in = link;
    return MLC_OK;
}

/* The gradient of a use that the owner of its parameter, or the place of the use, has. */
static int open_share(mlc_rank *rank, const mlc_action *action, mlc_error *error)
{
    int parameter = action->microbatch, use = action->of, owner = rank->model->parameters[parameter].owner;
    if (use < 0 || use >= mlc_use_count(rank, parameter) || !mlc_is_fed(rank, parameter))
        return no_event(rank, action, error);
    const mlc_placed_use *it = mlc_use_at(rank, parameter, use);
    if (rank->place != owner && rank->place != it->place)
        return no_event(rank, action, error);
    mlc_event *event = add_event(&rank->collective->events, number_of(rank, action));
    if (!event)
        return no_memory(error);
    event->stays = it->place == owner;
    if (event->stays)
        return MLC_OK;
    bool owns = rank->place == owner;
    const mlc_use *streamed = owns ? mlc_use_at(rank, parameter, 0)->use : it->use;
    mlc_stream *stream = owns ? &event->one.kept : &event->one.sent;
    mlc_stretch sums = {.levels = streamed->levels, .arranged = mlc_arranged_master(rank->model, parameter), .unit = mlc_wide_bytes(rank->model)};
    if (!stream_add_portions(stream, rank, parameter, own_portion(rank), sums))
        return no_memory(error);
    return connect_event(rank, event, MLC_REDUCTION, it->place, owner, error);
}

/* New values of a parameter on their way from its owner to a place. */
static int open_spread(mlc_rank *rank, const mlc_action *action, mlc_error *error)
{
    int parameter = action->microbatch, place = action->of, owner = rank->model->parameters[parameter].owner;
    if (place == owner || (rank->place != owner && rank->place != place) || !mlc_rank_held(rank, parameter))
        return no_event(rank, action, error);
    mlc_event *event = add_event(&rank->collective->events, number_of(rank, action));
    if (!event || !stream_add_values(rank->place == owner ? &event->one.sent : &event->one.kept, rank, parameter, own_portion(rank)))
        return no_memory(error);
    return connect_event(rank, event, MLC_PARAMETER, owner, place, error);
}

static int open_events(mlc_rank *rank, mlc_error *error)
{
    mlc_actions list = rank->program->lists[MLC_TRAIN];
    for (const mlc_action *action = list.actions; action < list.actions + list.count; action++) {
        bool is_event = action->kind == MLC_SHARE || action->kind == MLC_SPREAD;
        if (is_event && (action->kind == MLC_SHARE ? open_share(rank, action, error) : open_spread(rank, action, error)))
            return error->status;
    }
    return MLC_OK;
}

static int open_exchanges(mlc_rank *rank, mlc_error *error)
{
    mlc_collective *collective = rank->collective;
    collective->reduces = calloc((size_t)rank->role->chunk_count + 1, sizeof *collective->reduces);
    if (!collective->reduces)
        return no_memory(error);
    if (mlc_halving_open(&collective->halving, rank->model, rank->replica, rank->role->levels, error))
        return error->status;
    for (int c = 0; c < rank->role->chunk_count; c++)
        if (open_reduce(rank, &collective->reduces[c], c, error))
            return error->status;
    return open_gather(rank, error);
}

int mlc_collective_open(mlc_rank *rank, mlc_error *error)
{
    rank->collective = calloc(1, sizeof *rank->collective);
    if (!rank->collective)
        return no_memory(error);
    if (rank->model->mesh.size[MLC_DP] > 1 && open_exchanges(rank, error))
        return error->status;
    return open_events(rank, error);
}

static void close_exchange(mlc_exchanged *one)
{
    mlc_stream_close(&one->sent);
    mlc_stream_close(&one->kept);
}

static void close_exchanges(mlc_exchanges *all)
{
    for (int i = 0; i < all->count; i++)
        close_exchange(&all->items[i]);
    free(all->items);
    free(all->guests);
}

static void close_events(mlc_events *events)
{
    for (int i = 0; i < events->count; i++)
        close_exchange(&events->items[i].one);
    free(events->items);
}

void mlc_collective_close(mlc_rank *rank)
{
    mlc_collective *collective = rank->collective;
    if (!collective)
        return;
    for (int c = 0; collective->reduces && c < rank->role->chunk_count; c++)
        close_exchanges(&collective->reduces[c]);
    close_exchanges(&collective->gather);
    close_events(&collective->events);
    mlc_halving_close(&collective->halving);
    free(collective->reduces);
    free(collective);
    rank->collective = NULL;
}
