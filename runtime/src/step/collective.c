/* collective.c: see collective.h. */
#include "step/collective.h"

#include "model/tables.h"
#include "step/collective_plan.h"
#include "step/gradient.h"

#include <string.h>

/* ---- what happens to a part ---- */

static char *bytes_at(const mlc_rank *rank, const mlc_part *part, int level)
{
    return mlc_rank_at(rank, part->levels[level] + part->offset);
}

/* Adds `x` to the sum, as many elements as the part has. */
static void add_part(const mlc_rank *rank, const mlc_part *part, void *sum, const void *x)
{
    const mlc_dtype_row *dtype = mlc_dtype_wide(rank->model);
    dtype->wide->add(sum, x, (int64_t)part->bytes / dtype->bytes);
}

static void settle(const mlc_rank *rank, const mlc_part *part)
{
    uint64_t unit = mlc_wide_bytes(rank->model);
    mlc_gradient_settle(rank, part->levels, (int64_t)(part->offset / unit), (int64_t)(part->bytes / unit));
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
    if (rank->model->mesh.size[MLC_DP] == 1)
        settle(rank, part);
    pack_values(rank, part, slot);
}

static void add_sum(const mlc_rank *rank, const mlc_part *part, void *slot)
{
    add_part(rank, part, bytes_at(rank, part, 0), (const char *)slot + part->at);
}

/* A use of the owner's own: part is of use 0. */
static void join_sum(const mlc_rank *rank, const mlc_part *of_first, void *context)
{
    const mlc_event *event = context;
    mlc_part own = {event->levels, NULL, of_first->offset, of_first->bytes, 0};
    if (rank->model->mesh.size[MLC_DP] == 1)
        settle(rank, &own);
    if (event->use)
        add_part(rank, of_first, bytes_at(rank, of_first, 0), bytes_at(rank, &own, 0));
}

/* A segment of an exchange of sums, of as many equal parts as there may be roots. */
typedef struct segment {
    const mlc_joining *joining;
    char *slot; /* NULL: what arrives is the guest's */
    uint64_t room;
} segment;

static const char *arrived_at(const mlc_rank *rank, const mlc_part *part, const segment *from, int number)
{
    if (!from->slot)
        return mlc_rank_at(rank, part->guests[number] + part->offset);
    return from->slot + (uint64_t)number * from->room + part->at;
}

static void pack_sums(const mlc_rank *rank, const mlc_part *part, void *context)
{
    const segment *to = context;
    for (int i = 0; i < to->joining->sent_count; i++)
        memcpy(to->slot + (uint64_t)i * to->room + part->at, bytes_at(rank, part, to->joining->sent[i]), part->bytes);
}

static void join_sums(const mlc_rank *rank, const mlc_part *part, void *context)
{
    const segment *from = context;
    for (int i = 0; i < from->joining->join_count; i++) {
        const mlc_join *join = &from->joining->joins[i];
        const char *x = join->arrived ? arrived_at(rank, part, from, join->from) : bytes_at(rank, part, join->from);
        if (join->adds)
            add_part(rank, part, bytes_at(rank, part, join->to), x);
        else
            memcpy(bytes_at(rank, part, join->to), x, part->bytes);
    }
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

/* By the lead thread: segment k - 2 has been worked in; then until k can be written and k - 1 is here. */
static void await_segment(mlc_rank *rank, const mlc_env *env, const mlc_exchanged *one, uint64_t room, int64_t k)
{
    int64_t kept = mlc_stream_segments(&one->kept, room);
    if (one->in && k >= 2 && k - 2 < kept)
        mlc_link_release(&rank->world, one->in);
    if (one->out && k < mlc_stream_segments(&one->sent, room))
        await_outbox(rank, env, one->out);
    if (one->in && k >= 1 && k - 1 < kept)
        await_arrival(rank, env, one->in);
}

static void pack_segment(mlc_rank *rank, const mlc_env *env, const mlc_exchanged *one, uint64_t room, int64_t k)
{
    if (!one->out || k >= mlc_stream_segments(&one->sent, room))
        return;
    char *slot = mlc_link_outgoing(one->out, one->out->posted);
    segment to = {one->joining, slot, room};
    mlc_stream_visit(rank, env, &one->sent, room, k, one->joining ? pack_sums : pack_values, one->joining ? (void *)&to : slot);
}

static void unpack_segment(mlc_rank *rank, const mlc_env *env, const mlc_exchanged *one, uint64_t room, int64_t k)
{
    if (!one->in || k < 0 || k >= mlc_stream_segments(&one->kept, room))
        return;
    char *slot = mlc_link_incoming(one->in, one->in->released);
    segment from = {one->joining, slot, room};
    mlc_stream_visit(rank, env, &one->kept, room, k, one->joining ? join_sums : unpack_values, one->joining ? (void *)&from : slot);
}

static bool run_exchange(mlc_rank *rank, const mlc_env *env, const mlc_exchanged *one, uint64_t room)
{
    int64_t sent = one->out ? mlc_stream_segments(&one->sent, room) : 0, kept = one->in ? mlc_stream_segments(&one->kept, room) : 0;
    int64_t steps = sent > kept ? sent : kept;
    for (int64_t k = 0; steps && k <= steps; k++) {
        if (env->thread == 0)
            await_segment(rank, env, one, room, k);
        mlc_barrier(env);
        if (mlc_stopped(env))
            return false;
        pack_segment(rank, env, one, room, k);
        unpack_segment(rank, env, one, room, k - 1);
        mlc_barrier(env);
        if (env->thread == 0 && k < sent)
            mlc_link_post(&rank->world, one->out);
    }
    if (env->thread == 0 && kept && kept == steps)
        mlc_link_release(&rank->world, one->in);
    return true;
}

/* What a guest has joins what its host has, on one rank. */
static bool run_alone(const mlc_rank *rank, const mlc_env *env, const mlc_exchanged *one)
{
    segment from = {one->joining, NULL, 0};
    if (one->kept.bytes)
        mlc_stream_visit(rank, env, &one->kept, one->kept.bytes, 0, join_sums, &from);
    mlc_barrier(env);
    return true;
}

/* Nobody needs the progress of this rank for what it has sent. */
static bool see_off(mlc_rank *rank, const mlc_env *env, const mlc_exchanges *all)
{
    for (int i = 0; env->thread == 0 && i < all->count; i++)
        if (all->items[i].out)
            await_sent(rank, env, all->items[i].out, 0);
    mlc_barrier(env);
    return !mlc_stopped(env);
}

/* By the lead thread: exchanges that come together are one list of each link that they use. */
static void begin_exchanges(mlc_rank *rank, const mlc_env *env, const mlc_exchanges *all)
{
    for (int i = 0; i < all->count && !mlc_team_stopping(env); i++) {
        const mlc_exchanged *one = &all->items[i];
        if ((one->in && mlc_link_begin(&rank->world, one->in, 0)) || (one->out && mlc_link_begin(&rank->world, one->out, 0)))
            mlc_team_stop(env);
    }
    for (int i = 0; i < all->count && !mlc_team_stopping(env); i++)
        if (all->items[i].in)
            all->items[i].in->expected += mlc_stream_segments(&all->items[i].kept, all->room);
}

static bool run_exchanges(mlc_rank *rank, const mlc_env *env, const mlc_exchanges *all)
{
    if (env->thread == 0)
        begin_exchanges(rank, env, all);
    for (int i = 0; i < all->count; i++) {
        const mlc_exchanged *one = &all->items[i];
        bool alone = one->joining && !one->out && !one->in;
        if (alone ? !run_alone(rank, env, one) : !run_exchange(rank, env, one, all->room))
            return false;
    }
    return see_off(rank, env, all);
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

/* By the lead thread: the events of an action are one list of each link that they use. */
static void begin_events(mlc_rank *rank, const mlc_env *env, const mlc_events *events)
{
    for (int i = 0; i < events->count && !mlc_team_stopping(env); i++)
        if (events->items[i].link && mlc_link_begin(&rank->world, events->items[i].link, 0))
            mlc_team_stop(env);
    for (int i = 0; i < events->count && !mlc_team_stopping(env); i++) {
        const mlc_event *event = &events->items[i];
        if (event->link)
            event->link->expected += mlc_stream_segments(&event->stream, event->link->channel->slot_bytes);
    }
}

static bool run_events(mlc_rank *rank, const mlc_env *env, const mlc_events *events, mlc_part_visitor pack, mlc_part_visitor unpack)
{
    if (env->thread == 0)
        begin_events(rank, env, events);
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
    if (rank->model->mesh.size[MLC_DP] == 1)
        return true;
    mlc_gradient_settle_chunk(rank, env, chunk);
    return run_exchanges(rank, env, &rank->collective->reduces[chunk]);
}

bool mlc_collective_share(mlc_rank *rank, const mlc_env *env)
{
    return run_events(rank, env, &rank->collective->shares, pack_sum, add_sum);
}

bool mlc_collective_spread(mlc_rank *rank, const mlc_env *env)
{
    if (!run_events(rank, env, &rank->collective->spreads, pack_values, unpack_values))
        return false;
    return rank->model->mesh.size[MLC_DP] == 1 || run_exchanges(rank, env, &rank->collective->gather);
}
