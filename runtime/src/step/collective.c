/* collective.c: see collective.h. */
#include "step/collective.h"

#include "model/tables.h"
#include "step/collective_plan.h"
#include "step/gradient.h"

#include <string.h>

/* ---- what happens to a part ---- */

static char *bytes_at(const mlc_rank *rank, const mlc_part *part, int level)
{
    return (char *)mlc_rank_at(rank, part->levels[level]) + part->offset;
}

static float *floats_at(const mlc_rank *rank, const mlc_part *part, int level)
{
    return (float *)bytes_at(rank, part, level);
}

static int64_t count_of(const mlc_part *part)
{
    return (int64_t)(part->bytes / sizeof(float));
}

static void settle(const mlc_rank *rank, const mlc_part *part)
{
    mlc_gradient_settle(rank, part->levels, (int64_t)(part->offset / sizeof(float)), count_of(part));
}

static void pack_values(const mlc_rank *rank, const mlc_part *part, void *slot)
{
    memcpy((char *)slot + part->at, bytes_at(rank, part, 0), part->bytes);
}

static void unpack_values(const mlc_rank *rank, const mlc_part *part, void *slot)
{
    memcpy(bytes_at(rank, part, 0), (const char *)slot + part->at, part->bytes);
}

/* The sum of one use over all replicas; with one replica it is made here. */
static void pack_sum(const mlc_rank *rank, const mlc_part *part, void *slot)
{
    if (rank->model->dp == 1)
        settle(rank, part);
    pack_values(rank, part, slot);
}

static void add_sum(const mlc_rank *rank, const mlc_part *part, void *slot)
{
    mlc_gradient_add(floats_at(rank, part, 0), (const float *)((const char *)slot + part->at), count_of(part));
}

/* A use of the owner's own: part is of use 0. */
static void join_sum(const mlc_rank *rank, const mlc_part *of_first, void *context)
{
    const mlc_event *event = context;
    mlc_part own = {event->levels, of_first->offset, of_first->bytes, 0};
    if (rank->model->dp == 1)
        settle(rank, &own);
    if (event->use)
        mlc_gradient_add(floats_at(rank, of_first, 0), floats_at(rank, &own, 0), count_of(of_first));
}

/* The accumulator of a root: those before the last wait in 1, 2, ... */
static int level_of(const mlc_rank *rank, int number)
{
    return number + 1 == rank->tables->roots.depth ? 0 : number + 1;
}

/* A message between replicas. */
typedef struct message {
    char *slot;
    uint64_t room;
} message;

static void pack_roots(const mlc_rank *rank, const mlc_part *part, void *context)
{
    const message *message = context;
    settle(rank, part);
    for (int i = 0; i < rank->tables->roots.depth; i++)
        memcpy(message->slot + (uint64_t)i * message->room + part->at, bytes_at(rank, part, level_of(rank, i)), part->bytes);
}

/* Sums of neighbouring subtrees: own ones lie in accumulators, others in their slots, and are added up in place. */
typedef struct operand {
    float *sum;
    bool own;
} operand;

static operand add_operands(operand left, operand right, int64_t count)
{
    operand into = right.own ? right : left, from = right.own ? left : right;
    mlc_gradient_add(into.sum, from.sum, count);
    return into;
}

/* One segment of what this rank owns, from all other replicas. */
typedef struct arrival {
    const mlc_swap *swap;
} arrival;

static operand root_operand(const mlc_rank *rank, const mlc_part *part, const mlc_swap *swap, const mlc_root *root)
{
    if (root->replica == rank->replica)
        return (operand){floats_at(rank, part, level_of(rank, root->number)), true};
    const mlc_link *link = swap->in[root->replica];
    char *slot = mlc_link_incoming(link, link->released);
    return (operand){(float *)(slot + (uint64_t)root->number * swap->room + part->at), false};
}

static void combine_roots(const mlc_rank *rank, const mlc_part *part, void *context)
{
    const mlc_swap *swap = ((const arrival *)context)->swap;
    const mlc_collective *collective = rank->collective;
    operand stack[MLC_TREE_DEPTH + 1];
    int depth = 0;
    settle(rank, part);
    for (int i = 0; i < collective->root_count; i++) {
        const mlc_root *root = &collective->roots[i];
        operand sum = root_operand(rank, part, swap, root);
        for (int k = 0; k < root->merges; k++)
            sum = add_operands(stack[--depth], sum, count_of(part));
        stack[depth++] = sum;
    }
    if (stack[0].sum != floats_at(rank, part, 0))
        memcpy(floats_at(rank, part, 0), stack[0].sum, part->bytes);
}

/* ---- waiting ---- */

/* All by the lead thread; after a failure nothing else is waited for. */

static void await_arrival(mlc_rank *rank, const mlc_env *env, mlc_link *link)
{
    if (!mlc_team_stopping(env) && mlc_link_wait_arrived(&rank->world, link, link->released))
        mlc_team_stop(env);
}

/* Until at most `outstanding` messages have not gone. */
static void await_sent(mlc_rank *rank, const mlc_env *env, mlc_link *link, int64_t outstanding)
{
    if (!mlc_team_stopping(env) && mlc_link_wait_sent(&rank->world, link, link->posted - outstanding - 1))
        mlc_team_stop(env);
}

static void await_outbox(mlc_rank *rank, const mlc_env *env, mlc_link *link)
{
    await_sent(rank, env, link, link->channel->outbox_slots - 1);
}

/* ---- between replicas ---- */

static const mlc_stream *outgoing(const mlc_rank *rank, const mlc_swap *swap, int replica)
{
    return &swap->streams[swap->gathers ? rank->replica : replica];
}

static const mlc_stream *incoming(const mlc_rank *rank, const mlc_swap *swap, int replica)
{
    return &swap->streams[swap->gathers ? replica : rank->replica];
}

static bool sends_segment(const mlc_rank *rank, const mlc_swap *swap, int replica, int64_t k)
{
    return replica != rank->replica && k < mlc_stream_segments(outgoing(rank, swap, replica), swap->room);
}

static bool receives_segment(const mlc_rank *rank, const mlc_swap *swap, int replica, int64_t k)
{
    return replica != rank->replica && k >= 0 && k < mlc_stream_segments(incoming(rank, swap, replica), swap->room);
}

static void release_segment(mlc_rank *rank, const mlc_swap *swap, int64_t k)
{
    for (int d = 0; d < rank->model->dp; d++)
        if (receives_segment(rank, swap, d, k))
            mlc_link_release(&rank->world, swap->in[d]);
}

static void post_segment(mlc_rank *rank, const mlc_swap *swap, int64_t k)
{
    for (int d = 0; d < rank->model->dp; d++)
        if (sends_segment(rank, swap, d, k))
            mlc_link_post(&rank->world, swap->out[d]);
}

/* By the lead thread: segment k - 2 has been worked in; then until k can be written and k - 1 is here. */
static void await_segment(mlc_rank *rank, const mlc_env *env, const mlc_swap *swap, int64_t k)
{
    release_segment(rank, swap, k - 2);
    for (int d = 0; d < rank->model->dp; d++)
        if (sends_segment(rank, swap, d, k))
            await_outbox(rank, env, swap->out[d]);
    for (int d = 0; d < rank->model->dp; d++)
        if (receives_segment(rank, swap, d, k - 1))
            await_arrival(rank, env, swap->in[d]);
}

static void pack_segment(mlc_rank *rank, const mlc_env *env, const mlc_swap *swap, int64_t k)
{
    for (int d = 0; d < rank->model->dp; d++) {
        if (!sends_segment(rank, swap, d, k))
            continue;
        char *slot = mlc_link_outgoing(swap->out[d], swap->out[d]->posted);
        message message = {slot, swap->room};
        if (swap->gathers)
            mlc_stream_visit(rank, env, outgoing(rank, swap, d), swap->room, k, pack_values, slot);
        else
            mlc_stream_visit(rank, env, outgoing(rank, swap, d), swap->room, k, pack_roots, &message);
    }
}

static void unpack_segment(mlc_rank *rank, const mlc_env *env, const mlc_swap *swap, int64_t k)
{
    if (!swap->gathers && k >= 0 && k < mlc_stream_segments(&swap->streams[rank->replica], swap->room))
        mlc_stream_visit(rank, env, &swap->streams[rank->replica], swap->room, k, combine_roots, &(arrival){swap});
    for (int d = 0; swap->gathers && d < rank->model->dp; d++) {
        const mlc_link *link = swap->in[d];
        if (receives_segment(rank, swap, d, k))
            mlc_stream_visit(rank, env, &swap->streams[d], swap->room, k, unpack_values, mlc_link_incoming(link, link->released));
    }
}

static bool run_swap(mlc_rank *rank, const mlc_env *env, const mlc_swap *swap)
{
    int64_t steps = 0;
    for (int d = 0; d < rank->model->dp; d++) {
        int64_t count = mlc_stream_segments(&swap->streams[d], swap->room);
        steps = count > steps ? count : steps;
    }
    if (!steps)
        return true;
    for (int64_t k = 0; k <= steps; k++) {
        if (env->thread == 0)
            await_segment(rank, env, swap, k);
        mlc_barrier(env);
        if (mlc_stopped(env))
            return false;
        pack_segment(rank, env, swap, k);
        unpack_segment(rank, env, swap, k - 1);
        mlc_barrier(env);
        if (env->thread == 0)
            post_segment(rank, swap, k);
    }
    if (env->thread == 0) {
        release_segment(rank, swap, steps - 1);
        for (int d = 0; d < rank->model->dp; d++)
            if (sends_segment(rank, swap, d, 0))
                await_sent(rank, env, swap->out[d], 0);
    }
    mlc_barrier(env);
    return !mlc_stopped(env);
}

/* ---- between places ---- */

static bool run_send(mlc_rank *rank, const mlc_env *env, const mlc_event *event, mlc_part_visitor pack)
{
    uint64_t room = event->link->channel->slot_bytes;
    for (int64_t k = 0; k < mlc_stream_segments(&event->stream, room); k++) {
        if (env->thread == 0)
            await_outbox(rank, env, event->link);
        mlc_barrier(env);
        if (mlc_stopped(env))
            return false;
        mlc_stream_visit(rank, env, &event->stream, room, k, pack, mlc_link_outgoing(event->link, event->link->posted));
        mlc_barrier(env);
        if (env->thread == 0)
            mlc_link_post(&rank->world, event->link);
    }
    return true;
}

static bool run_receive(mlc_rank *rank, const mlc_env *env, const mlc_event *event, mlc_part_visitor unpack)
{
    uint64_t room = event->link->channel->slot_bytes;
    for (int64_t k = 0; k < mlc_stream_segments(&event->stream, room); k++) {
        if (env->thread == 0)
            await_arrival(rank, env, event->link);
        mlc_barrier(env);
        if (mlc_stopped(env))
            return false;
        mlc_stream_visit(rank, env, &event->stream, room, k, unpack, mlc_link_incoming(event->link, event->link->released));
        mlc_barrier(env);
        if (env->thread == 0)
            mlc_link_release(&rank->world, event->link);
    }
    return true;
}

static bool run_event(mlc_rank *rank, const mlc_env *env, mlc_event *event, mlc_part_visitor pack, mlc_part_visitor unpack)
{
    if (event->kind == MLC_EVENT_SEND)
        return run_send(rank, env, event, pack);
    if (event->kind == MLC_EVENT_RECEIVE)
        return run_receive(rank, env, event, unpack);
    if (event->stream.bytes)
        mlc_stream_visit(rank, env, &event->stream, event->stream.bytes, 0, join_sum, event);
    mlc_barrier(env);
    return true;
}

static bool run_events(mlc_rank *rank, const mlc_env *env, const mlc_events *events, mlc_part_visitor pack, mlc_part_visitor unpack)
{
    for (int i = 0; i < events->count; i++)
        if (!run_event(rank, env, &events->items[i], pack, unpack))
            return false;
    for (int i = 0; env->thread == 0 && i < events->count; i++)
        if (events->items[i].kind == MLC_EVENT_SEND)
            await_sent(rank, env, events->items[i].link, 0);
    if (events->count)
        mlc_barrier(env);
    return !mlc_stopped(env);
}

/* ---- the actions ---- */

bool mlc_collective_reduce(mlc_rank *rank, const mlc_env *env, int chunk)
{
    return rank->model->dp == 1 || run_swap(rank, env, &rank->collective->reduces[chunk]);
}

bool mlc_collective_share(mlc_rank *rank, const mlc_env *env)
{
    return run_events(rank, env, &rank->collective->shares, pack_sum, add_sum);
}

bool mlc_collective_spread(mlc_rank *rank, const mlc_env *env)
{
    if (!run_events(rank, env, &rank->collective->spreads, pack_values, unpack_values))
        return false;
    return rank->model->dp == 1 || run_swap(rank, env, &rank->collective->gather);
}
