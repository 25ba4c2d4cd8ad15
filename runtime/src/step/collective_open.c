/* collective_open.c: the streams and events of a rank, from the tables of the model (collective.h). */
#include "step/collective_plan.h"

#include "model/tables.h"

#include <stdlib.h>

/* ---- streams ---- */

/* The pieces of a parameter that a replica of its owner updates: of elements of `unit` bytes. */
static bool stream_add_pieces(mlc_stream *stream, const mlc_model *model, int parameter, int replica, const uint64_t *levels, uint64_t unit,
                              bool updated)
{
    const mlc_shard *shard = &model->roles[model->parameters[parameter].owner].shards[replica];
    for (int i = 0; i < shard->count; i++) {
        const mlc_piece *piece = &shard->pieces[i];
        if (piece->parameter != parameter || (updated && !mlc_is_updated(piece)))
            continue;
        if (!mlc_stream_add(stream, levels, (uint64_t)piece->begin * unit, (uint64_t)(piece->end - piece->begin) * unit))
            return false;
    }
    return true;
}

/* The values of a parameter that change hands: its bf16 copy, or the master. */
static bool stream_add_values(mlc_stream *stream, const mlc_rank *rank, int parameter, int replica)
{
    const mlc_held *held = mlc_rank_held(rank, parameter);
    bool copied = held->copy != MLC_NONE;
    return stream_add_pieces(stream, rank->model, parameter, replica, copied ? &held->copy : &held->master, copied ? 2 : 4, true);
}

/* ---- exchanges ---- */

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

/* Finds the links of a swap, when something is to be exchanged. */
static int open_swap(mlc_rank *rank, mlc_swap *swap, int kind, uint64_t sides, mlc_error *error)
{
    int channel = channel_of(rank->model, kind, rank->place, rank->place);
    uint64_t bytes = 0;
    for (int d = 0; d < rank->model->dp; d++) {
        bytes += swap->streams[d].bytes;
        if (channel >= 0 && d != rank->replica) {
            int peer = d * rank->model->pp + rank->place;
            swap->in[d] = mlc_world_link(&rank->world, channel, peer, false);
            swap->out[d] = mlc_world_link(&rank->world, channel, peer, true);
        }
    }
    uint64_t slot_bytes = channel >= 0 ? rank->model->schedule->channels[channel].slot_bytes : sides * MLC_STREAM_LINE;
    swap->room = slot_bytes / sides / MLC_STREAM_LINE * MLC_STREAM_LINE;
    if (bytes && (channel < 0 || !swap->room))
        return no_channel(rank, kind == MLC_REDUCTION ? "gradients" : "values", rank->place, rank->place, error);
    return MLC_OK;
}

static int open_reduce(mlc_rank *rank, mlc_swap *swap, int chunk, mlc_error *error)
{
    const mlc_model *model = rank->model;
    const mlc_chunk *uses = &rank->role->chunks[MLC_TRAIN][chunk];
    swap->in = rank->collective->links;
    swap->out = swap->in + model->dp;
    swap->streams = calloc((size_t)model->dp, sizeof *swap->streams);
    if (!swap->streams)
        return no_memory(error);
    for (int i = 0; i < uses->use_count; i++)
        for (int d = 0; d < model->dp; d++)
            if (model->parameters[uses->uses[i].parameter].fed != 2 &&
                !stream_add_pieces(&swap->streams[d], model, uses->uses[i].parameter, d, uses->uses[i].levels, sizeof(float), false))
                return no_memory(error);
    return open_swap(rank, swap, MLC_REDUCTION, (uint64_t)mlc_tree_most_roots(model->groups, model->dp), error);
}

static int open_gather(mlc_rank *rank, mlc_error *error)
{
    const mlc_model *model = rank->model;
    mlc_swap *swap = &rank->collective->gather;
    *swap = (mlc_swap){.gathers = true, .in = rank->collective->links + 2 * model->dp, .out = rank->collective->links + 3 * model->dp};
    swap->streams = calloc((size_t)model->dp, sizeof *swap->streams);
    if (!swap->streams)
        return no_memory(error);
    for (int i = 0; i < rank->role->held_count; i++)
        for (int d = 0; d < model->dp; d++)
            if (!stream_add_values(&swap->streams[d], rank, rank->role->held[i].parameter, d))
                return no_memory(error);
    return open_swap(rank, swap, MLC_PARAMETER, 1, error);
}

/* Adds an event with an empty stream; NULL: out of memory. */
static mlc_event *add_event(mlc_events *events, enum mlc_event_kind kind)
{
    if (events->count == events->capacity) {
        int capacity = events->capacity ? 2 * events->capacity : 8;
        mlc_event *grown = realloc(events->items, (size_t)capacity * sizeof *grown);
        if (!grown)
            return NULL;
        events->items = grown;
        events->capacity = capacity;
    }
    events->items[events->count] = (mlc_event){.kind = kind};
    return &events->items[events->count++];
}

static int open_share(mlc_rank *rank, int parameter, int use, mlc_error *error)
{
    const mlc_placed_use *it = mlc_use_at(rank, parameter, use);
    int owner = rank->model->parameters[parameter].owner;
    if (rank->place != owner && rank->place != it->place)
        return MLC_OK;
    enum mlc_event_kind remote = rank->place == owner ? MLC_EVENT_RECEIVE : MLC_EVENT_SEND;
    mlc_event *event = add_event(&rank->collective->shares, it->place == owner ? MLC_EVENT_JOIN : remote);
    const mlc_use *streamed = rank->place == owner ? mlc_use_at(rank, parameter, 0)->use : it->use;
    if (!event || !stream_add_pieces(&event->stream, rank->model, parameter, rank->replica, streamed->levels, sizeof(float), false))
        return no_memory(error);
    event->use = use;
    event->levels = it->use->levels;
    if (event->kind == MLC_EVENT_JOIN)
        return MLC_OK;
    int channel = channel_of(rank->model, MLC_REDUCTION, it->place, owner);
    event->link = channel >= 0 ? rank->tables->links[channel] : NULL;
    return event->link ? MLC_OK : no_channel(rank, "gradients", it->place, owner, error);
}

static int open_shares(mlc_rank *rank, mlc_error *error)
{
    for (int p = 0; p < rank->model->parameter_count; p++) {
        if (!rank->tables->shared[p] || !mlc_is_fed(rank, p))
            continue;
        for (int u = 0; u < mlc_use_count(rank, p); u++)
            if (open_share(rank, p, u, error))
                return error->status;
    }
    return MLC_OK;
}

static bool holds(const mlc_role *role, int parameter)
{
    for (int i = 0; i < role->held_count; i++)
        if (role->held[i].parameter == parameter)
            return true;
    return false;
}

static int open_spread(mlc_rank *rank, int parameter, int place, mlc_error *error)
{
    int owner = rank->model->parameters[parameter].owner;
    mlc_stream stream = {0};
    if (!stream_add_values(&stream, rank, parameter, rank->replica)) {
        mlc_stream_close(&stream);
        return no_memory(error);
    }
    if (!stream.bytes)
        return MLC_OK;
    mlc_event *event = add_event(&rank->collective->spreads, rank->place == owner ? MLC_EVENT_SEND : MLC_EVENT_RECEIVE);
    if (!event) {
        mlc_stream_close(&stream);
        return no_memory(error);
    }
    int channel = channel_of(rank->model, MLC_PARAMETER, owner, place);
    event->stream = stream;
    event->link = channel >= 0 ? rank->tables->links[channel] : NULL;
    return event->link ? MLC_OK : no_channel(rank, "values", owner, place, error);
}

static int open_spreads(mlc_rank *rank, mlc_error *error)
{
    for (int p = 0; p < rank->model->parameter_count; p++)
        for (int place = 0; mlc_rank_held(rank, p) && place < rank->model->pp; place++) {
            int owner = rank->model->parameters[p].owner;
            bool involved = rank->place == owner || rank->place == place;
            if (place != owner && involved && holds(&rank->model->roles[place], p) && open_spread(rank, p, place, error))
                return error->status;
        }
    return MLC_OK;
}

/* The order in which the roots of all replicas join. */
static int open_roots(mlc_rank *rank, mlc_error *error)
{
    const mlc_model *model = rank->model;
    mlc_collective *collective = rank->collective;
    mlc_tree tree = mlc_tree_begin(model->groups, 0);
    collective->roots = calloc((size_t)model->groups, sizeof *collective->roots);
    if (!collective->roots)
        return no_memory(error);
    for (int d = 0; d < model->dp; d++) {
        mlc_tree own = mlc_tree_roots(model->groups, model->dp, d);
        for (int i = 0; i < own.depth; i++) {
            int end = i + 1 < own.depth ? own.starts[i + 1] : own.end;
            collective->roots[collective->root_count++] = (mlc_root){d, i, mlc_tree_push(&tree, end)};
        }
    }
    return MLC_OK;
}

static int open_swaps(mlc_rank *rank, mlc_error *error)
{
    mlc_collective *collective = rank->collective;
    collective->links = calloc(4 * (size_t)rank->model->dp, sizeof *collective->links);
    collective->reduces = calloc((size_t)rank->role->chunk_count + 1, sizeof *collective->reduces);
    if (!collective->links || !collective->reduces)
        return no_memory(error);
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
    if (rank->model->dp > 1 && (open_roots(rank, error) || open_swaps(rank, error)))
        return error->status;
    if (open_shares(rank, error) || open_spreads(rank, error))
        return error->status;
    return MLC_OK;
}

static void close_swap(const mlc_rank *rank, mlc_swap *swap)
{
    for (int d = 0; swap->streams && d < rank->model->dp; d++)
        mlc_stream_close(&swap->streams[d]);
    free(swap->streams);
}

static void close_events(mlc_events *events)
{
    for (int i = 0; i < events->count; i++)
        mlc_stream_close(&events->items[i].stream);
    free(events->items);
}

void mlc_collective_close(mlc_rank *rank)
{
    mlc_collective *collective = rank->collective;
    if (!collective)
        return;
    for (int c = 0; collective->reduces && c < rank->role->chunk_count; c++)
        close_swap(rank, &collective->reduces[c]);
    close_swap(rank, &collective->gather);
    close_events(&collective->shares);
    close_events(&collective->spreads);
    free(collective->reduces);
    free(collective->links);
    free(collective->roots);
    free(collective);
    rank->collective = NULL;
}
