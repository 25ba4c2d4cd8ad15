/* collective.c: see collective.h. */
#include "step/collective.h"

#include "model/tables.h"
#include "step/collective_plan.h"
#include "step/sweep.h"
#include "step/wire.h"
#include "system/numbers.h"

/* ---- what happens to a part ---- */

static char *bytes_at(const mlc_rank *rank, const mlc_part *part, int level)
{
    return mlc_rank_at(rank, part->levels[level] + part->offset);
}

/* A part in one of its levels, and which elements of the tensor it is. */
typedef struct elements {
    mlc_lying lies;
    int64_t begin;
    int64_t end;
} elements;

static elements elements_of(const mlc_part *part, int level)
{
    int64_t begin = (int64_t)(part->offset / part->unit), count = (int64_t)(part->bytes / part->unit);
    return (elements){{part->levels[level], (int64_t)part->unit, part->arranged}, begin, begin + count};
}

/* A part out of a level, in canonical order. */
static void read_part(const mlc_rank *rank, const mlc_env *env, const mlc_part *part, int level, char *to)
{
    if (!part->arranged) {
        mlc_wire_copy(env, to, bytes_at(rank, part, level), part->bytes);
        return;
    }
    elements of = elements_of(part, level);
    mlc_lying_read(&rank->arena, &of.lies, of.begin, of.end, to);
}

static void write_part(const mlc_rank *rank, const mlc_env *env, const mlc_part *part, int level, const char *from)
{
    if (!part->arranged) {
        mlc_wire_copy(env, bytes_at(rank, part, level), from, part->bytes);
        return;
    }
    elements of = elements_of(part, level);
    mlc_lying_write(&rank->arena, &of.lies, of.begin, of.end, from);
}

/* Adds as many elements as the part has to it. */
static void add_part(const mlc_rank *rank, const mlc_env *env, const mlc_part *part, int level, const char *x)
{
    const mlc_dtype_row *dtype = mlc_dtype_wide(rank->model);
    elements of = elements_of(part, level);
    mlc_strip sum;
    if (!part->arranged) {
        mlc_wire_add(rank, env, bytes_at(rank, part, level), x, part->bytes);
        return;
    }
    for (int64_t count, at = of.begin; at < of.end; at += count, x += count * dtype->bytes) {
        mlc_lying_look(&rank->arena, &of.lies, at, of.end, &count, &sum);
        dtype->wide->add(sum.elements, x, count);
        mlc_lying_write(&rank->arena, &of.lies, at, at + count, sum.elements);
    }
}

/* A segment of an exchange: of sums, of as many equal parts as there may be roots. */
typedef struct segment {
    const mlc_env *env;
    const mlc_joining *joining;
    char *slot; /* NULL: what arrives is the guest's */
    uint64_t room;
} segment;

static void pack_values(const mlc_rank *rank, const mlc_part *part, void *context)
{
    const segment *to = context;
    read_part(rank, to->env, part, 0, to->slot + part->at);
}

static void unpack_values(const mlc_rank *rank, const mlc_part *part, void *context)
{
    const segment *from = context;
    write_part(rank, from->env, part, 0, from->slot + part->at);
}

static void add_sum(const mlc_rank *rank, const mlc_part *part, void *context)
{
    const segment *from = context;
    add_part(rank, from->env, part, 0, from->slot + part->at);
}

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
        read_part(rank, to->env, part, to->joining->sent[i], to->slot + (uint64_t)i * to->room + part->at);
}

/* Elements of a part out of a level, all at once; they lie there, or in `taken`. */
static const char *part_of(const mlc_rank *rank, const mlc_env *env, const mlc_part *part, int level, char taken[MLC_STREAM_PART])
{
    if (!part->arranged)
        return bytes_at(rank, part, level);
    read_part(rank, env, part, level, taken);
    return taken;
}

static void join_sums(const mlc_rank *rank, const mlc_part *part, void *context)
{
    const segment *from = context;
    char taken[MLC_STREAM_PART];
    for (int i = 0; i < from->joining->join_count; i++) {
        const mlc_join *join = &from->joining->joins[i];
        const char *x = join->arrived ? arrived_at(rank, part, from, join->from) : part_of(rank, from->env, part, join->from, taken);
        if (join->adds)
            add_part(rank, from->env, part, join->to, x);
        else
            write_part(rank, from->env, part, join->to, x);
    }
}

/* ---- waiting ---- */

/* All by the lead thread; after a failure nothing else is waited for. */

static void await_arrival(mlc_rank *rank, const mlc_env *env, mlc_link *link)
{
    if (!mlc_team_stopping(env) && mlc_wire_await_arrived(rank, link, link->released))
        mlc_team_stop(env);
}

/* Until at most `outstanding` messages have not gone. */
static void await_sent(mlc_rank *rank, const mlc_env *env, mlc_link *link, int64_t outstanding)
{
    if (!mlc_team_stopping(env) && mlc_wire_await_sent(rank, link, link->posted - outstanding - 1))
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
        mlc_wire_release(rank, one->in);
    if (one->out && k < mlc_stream_segments(&one->sent, room))
        await_outbox(rank, env, one->out);
    if (one->in && k >= 1 && k - 1 < kept)
        await_arrival(rank, env, one->in);
}

/* How the parts of a segment are put into a slot, and what is done with those that have come. */
typedef struct visitors {
    mlc_part_visitor pack;
    mlc_part_visitor unpack;
} visitors;

static const visitors SUMS = {pack_sums, join_sums}, VALUES = {pack_values, unpack_values}, USES = {pack_values, add_sum};

static void pack_segment(mlc_rank *rank, const mlc_env *env, const mlc_exchanged *one, uint64_t room, int64_t k, visitors by)
{
    if (!one->out || k >= mlc_stream_segments(&one->sent, room))
        return;
    segment to = {env, one->joining, mlc_wire_outgoing(rank, one->out, one->out->posted), room};
    mlc_stream_visit(rank, env, &one->sent, room, k, by.pack, &to);
}

static void unpack_segment(mlc_rank *rank, const mlc_env *env, const mlc_exchanged *one, uint64_t room, int64_t k, visitors by)
{
    if (!one->in || k < 0 || k >= mlc_stream_segments(&one->kept, room))
        return;
    segment from = {env, one->joining, mlc_wire_incoming(rank, one->in, one->in->released), room};
    mlc_stream_visit(rank, env, &one->kept, room, k, by.unpack, &from);
}

static bool run_exchange(mlc_rank *rank, const mlc_env *env, const mlc_exchanged *one, uint64_t room, visitors by)
{
    int64_t sent = one->out ? mlc_stream_segments(&one->sent, room) : 0, kept = one->in ? mlc_stream_segments(&one->kept, room) : 0;
    int64_t steps = sent > kept ? sent : kept;
    for (int64_t k = 0; steps && k <= steps; k++) {
        if (env->thread == 0)
            await_segment(rank, env, one, room, k);
        mlc_barrier(env);
        if (mlc_stopped(env))
            return false;
        pack_segment(rank, env, one, room, k, by);
        unpack_segment(rank, env, one, room, k - 1, by);
        mlc_barrier(env);
        if (env->thread == 0 && k < sent)
            mlc_wire_post(rank, one->out);
    }
    if (env->thread == 0 && kept && kept == steps)
        mlc_wire_release(rank, one->in);
    return true;
}

/* What a guest has joins what its host has, on one rank. */
static bool run_alone(const mlc_rank *rank, const mlc_env *env, const mlc_exchanged *one)
{
    segment from = {env, one->joining, NULL, 0};
    if (one->kept.bytes)
        mlc_stream_visit(rank, env, &one->kept, one->kept.bytes, 0, join_sums, &from);
    mlc_barrier(env);
    return true;
}

/* Exchanges [begin, end) of a list, which are those of one action. */
typedef struct span {
    const mlc_exchanged *begin;
    const mlc_exchanged *end;
} span;

/* By the lead thread: the messages of an action are one list of each link that they use. */
static void begin_exchanges(mlc_rank *rank, const mlc_env *env, span of, uint64_t room)
{
    for (const mlc_exchanged *one = of.begin; one < of.end && !mlc_team_stopping(env); one++)
        if ((one->in && mlc_wire_begin(rank, one->in, 0)) || (one->out && mlc_wire_begin(rank, one->out, 0)))
            mlc_team_stop(env);
    for (const mlc_exchanged *one = of.begin; one < of.end && !mlc_team_stopping(env); one++)
        if (one->in)
            mlc_wire_expect(rank, one->in, mlc_stream_segments(&one->kept, room));
}

/* Nobody needs the progress of this rank for what it has sent. */
static bool see_off(mlc_rank *rank, const mlc_env *env, span of)
{
    for (const mlc_exchanged *one = of.begin; env->thread == 0 && one < of.end; one++)
        if (one->out)
            await_sent(rank, env, one->out, 0);
    mlc_barrier(env);
    return !mlc_stopped(env);
}

static bool run_exchanges(mlc_rank *rank, const mlc_env *env, span of, uint64_t room, visitors by)
{
    if (env->thread == 0)
        begin_exchanges(rank, env, of, room);
    for (const mlc_exchanged *one = of.begin; one < of.end; one++) {
        bool alone = one->joining && !one->out && !one->in;
        if (alone ? !run_alone(rank, env, one) : !run_exchange(rank, env, one, room, by))
            return false;
    }
    return see_off(rank, env, of);
}

static bool run_turn(mlc_rank *rank, const mlc_env *env, const mlc_exchanges *all, int turn, visitors by)
{
    span of = {all->items, all->items + all->count};
    while (of.begin < of.end && of.begin->turn != turn)
        of.begin++;
    while (of.begin < of.end && of.end[-1].turn != turn)
        of.end--;
    return run_exchanges(rank, env, of, all->room, by);
}

/* ---- between places ---- */

/* The event of an action of the list, which has one. */
static const mlc_event *event_of(const mlc_rank *rank, const mlc_action *action)
{
    const mlc_events *all = &rank->collective->events;
    uint64_t number = (uint64_t)(action - rank->program->lists[MLC_TRAIN].actions);
    return &all->items[mlc_last_at_most(&all->items[0].action, sizeof *all->items, all->count, number)];
}

static bool run_event(mlc_rank *rank, const mlc_env *env, const mlc_event *event, visitors by)
{
    const mlc_link *link = event->one.out ? event->one.out : event->one.in;
    return run_exchanges(rank, env, (span){&event->one, &event->one + 1}, link->channel->slot_bytes, by);
}

/* ---- the actions ---- */

bool mlc_collective_reduce(mlc_rank *rank, const mlc_env *env, int chunk, int turn)
{
    if (turn == 0)
        mlc_sweep_run(rank, env, (mlc_moment){.at = MLC_AT_REDUCE, .chunk = chunk, .phases = MLC_ALL_PHASES});
    return run_turn(rank, env, &rank->collective->reduces[chunk], turn, SUMS);
}

bool mlc_collective_share(mlc_rank *rank, const mlc_env *env, const mlc_action *action)
{
    const mlc_event *event = event_of(rank, action);
    mlc_sweep_run(rank, env, (mlc_moment){.at = MLC_AT_SHARE, .parameter = action->microbatch, .use = action->of});
    return event->stays || run_event(rank, env, event, USES);
}

bool mlc_collective_spread(mlc_rank *rank, const mlc_env *env, const mlc_action *action)
{
    return run_event(rank, env, event_of(rank, action), VALUES);
}

bool mlc_collective_gather(mlc_rank *rank, const mlc_env *env, int turn)
{
    return run_turn(rank, env, &rank->collective->gather, turn, VALUES);
}
