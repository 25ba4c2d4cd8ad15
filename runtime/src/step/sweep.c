/* sweep.c: see sweep.h. */
#include "step/sweep.h"

#include "model/arranged.h"
#include "model/finite.h"
#include "model/results.h"
#include "model/tables.h"
#include "step/gradient.h"
#include "step/sweep_kernels.h"
#include "system/numbers.h"
#include "world/launches.h"

#include <stddef.h>
#include <string.h>

#define CHUNK (8 * MLC_BLOCK) /* elements worked on at a time: stays in the first cache through all kernels */

/* Where kernels are put on the stream of a device, one thread does so, for all elements at once, and the record is read there. */
static bool is_held(const mlc_env *env)
{
    return !env->stream && env->record->held;
}

/* ---- what a sweep goes over ---- */

/* A sweep at work. */
typedef struct walk {
    const mlc_rank *rank;
    const mlc_sweep *sweep;
    mlc_moment moment;
    int depth;  /* of the tree of groups: sums that wait when the group is complete, */
    int merges; /* and how many of them join it */
} walk;

/* One of what it goes over: elements [begin, begin + elements) of a parameter; begin is a multiple of 1024. */
typedef struct item {
    int parameter;          /* NONE: the rank itself */
    int64_t begin;
    int64_t elements;       /* 0: left out; -1: there are no more */
    const mlc_use *use;     /* NULL: all that the place has of the parameter */
    const mlc_piece *piece; /* NULL: it is no piece */
    const mlc_held *held;   /* of what is held */
} item;

#define NONE (-1)

static const item LAST = {.elements = -1};

static bool is_spread(const mlc_rank *rank, int parameter)
{
    return rank->tables->shared[parameter];
}

static bool is_further(const mlc_rank *rank, const item *it)
{
    return it->use && it->use->index > 0 && rank->model->parameters[it->parameter].owner == rank->place;
}

static bool is_elementwise(const item *it)
{
    return it->piece ? it->piece->update_flat != NULL : it->held && it->held->init_flat;
}

static bool is_whole(const item *it)
{
    return it->piece ? it->piece->update != NULL : it->held && it->held->init;
}

/* Do all conditions of the sweep hold? */
static bool is_taken(const walk *of, const item *it)
{
    const mlc_rank *rank = of->rank;
    int only = of->sweep->only, fed = mlc_is_fed(rank, it->parameter) ? rank->model->parameters[it->parameter].fed : 2;
    bool met = !(only & MLC_ONLY_LOSS) || fed == 0;
    met &= !(only & MLC_ONLY_ACCUMULATED) || fed == 1;
    met &= !(only & MLC_ONLY_HERE) || !is_spread(rank, it->parameter);
    met &= !(only & MLC_ONLY_SPREAD) || is_spread(rank, it->parameter);
    met &= !(only & MLC_ONLY_ELEMENTWISE) || is_elementwise(it);
    met &= !(only & MLC_ONLY_WHOLE) || is_whole(it);
    return met && (!(only & MLC_ONLY_FURTHER) || is_further(rank, it));
}

static item use_item(const walk *of, const mlc_use *use)
{
    return (item){.parameter = use->parameter, .elements = mlc_parameter_elements(&of->rank->model->parameters[use->parameter]), .use = use};
}

static item chunk_use(const walk *of, int i)
{
    const mlc_chunk *chunk = &of->rank->role->chunks[MLC_TRAIN][of->moment.chunk];
    if (i >= chunk->use_count)
        return LAST;
    item it = use_item(of, &chunk->uses[i]);
    if (!(of->moment.phases >> it.use->phase & 1) || of->rank->model->parameters[it.parameter].fed == 2)
        it.elements = 0;
    return it;
}

/* The use that is shared, where it lies here: as far as the rank has it. */
static item shared_use(const walk *of, int i)
{
    const mlc_placed_use *use = mlc_use_at(of->rank, of->moment.parameter, of->moment.use);
    if (i > 0)
        return LAST;
    if (use->place != of->rank->place)
        return (item){.parameter = of->moment.parameter};
    item it = use_item(of, use->use);
    int replicas = of->rank->model->mesh.size[MLC_DP], portion = mlc_cohort_portion(replicas, of->rank->replica);
    mlc_run run = mlc_owners_elements(&of->rank->catalog.owners, it.parameter, (mlc_portions){portion, portion + 1});
    it.begin = run.begin;
    it.elements = larger(run.end - run.begin, 0);
    return it;
}

static item piece_item(const walk *of, int i)
{
    if (i >= of->rank->shard.count)
        return LAST;
    const mlc_piece *piece = &of->rank->shard.pieces[i];
    return (item){.parameter = piece->parameter, .begin = piece->begin, .elements = piece->end - piece->begin, .piece = piece,
                  .held = mlc_rank_held(of->rank, piece->parameter)};
}

static item held_item(const walk *of, int i)
{
    if (i >= of->rank->role->held_count)
        return LAST;
    const mlc_held *held = &of->rank->role->held[i];
    return (item){.parameter = held->parameter, .elements = mlc_parameter_elements(&of->rank->model->parameters[held->parameter]), .held = held};
}

static item rank_item(const walk *of, int i)
{
    (void)of;
    return i > 0 ? LAST : (item){.parameter = NONE, .elements = 1};
}

static item item_of(const walk *of, int i)
{
    static item (*const lists[])(const walk *of, int i) = {[MLC_OVER_USES] = chunk_use,    [MLC_OVER_USE] = shared_use,
                                                           [MLC_OVER_PIECES] = piece_item, [MLC_OVER_HELD] = held_item,
                                                           [MLC_OVER_RANK] = rank_item};
    item it = lists[of->sweep->over](of, i);
    if (it.elements > 0 && of->sweep->only && !is_taken(of, &it))
        it.elements = 0;
    return it;
}

/* ---- what microbatches left ---- */

/* A number that a microbatch left for a column. */
typedef struct left {
    const mlc_chunk *chunk;
    const mlc_value *value;
    int64_t microbatch; /* of the list */
} left;

static int count_left(const walk *of)
{
    const mlc_chunk *chunks = of->rank->role->chunks[of->moment.chain];
    int64_t count = 0;
    for (int c = 0; chunks && c < of->rank->role->chunk_count; c++)
        count += chunks[c].value_count * of->moment.count;
    return (int)count;
}

/* Number k of them: chunk by chunk, microbatch by microbatch. */
static left left_of(const walk *of, int64_t k)
{
    const mlc_chunk *chunk = of->rank->role->chunks[of->moment.chain];
    for (; k >= chunk->value_count * of->moment.count; chunk++)
        k -= chunk->value_count * of->moment.count;
    return (left){chunk, &chunk->values[k % chunk->value_count], k / chunk->value_count};
}

/* Where something of it lies. */
static uint64_t resolve_left(const walk *of, int operand, int64_t k)
{
    left it = left_of(of, k);
    const mlc_role *role = of->rank->role;
    if (operand == MLC_OPERAND_NUMBER)
        return role->microbatches + (uint64_t)it.microbatch * sizeof(int64_t);
    if (operand == MLC_OPERAND_VALUE)
        return mlc_rank_resolve(of->rank, it.value->at, it.microbatch);
    bool weighs = it.chunk->weight_at != MLC_NONE;
    return weighs ? mlc_rank_resolve(of->rank, it.chunk->weight_at, it.microbatch) : role->record + offsetof(mlc_record, one);
}

/* ---- operands ---- */

static int uses_of(const walk *of, const item *it)
{
    return it->use ? 1 : mlc_use_count(of->rank, it->parameter);
}

static const uint64_t *levels_of(const walk *of, const item *it, int use)
{
    return it->use ? it->use->levels : mlc_use_at(of->rank, it->parameter, use)->use->levels;
}

/* How many of an operand there are. */
static int count_of(const walk *of, const item *it, int operand)
{
    switch (operand) {
    case MLC_OPERAND_SUM:
        return uses_of(of, it);
    case MLC_OPERAND_WAITING:
        return uses_of(of, it) * of->merges;
    case MLC_OPERAND_GRADIENT:
        return mlc_use_count(of->rank, it->parameter) > 0;
    case MLC_OPERAND_FURTHER:
        return mlc_use_count(of->rank, it->parameter) - 1;
    case MLC_OPERAND_COPY:
        return it->held->copy != MLC_NONE;
    case MLC_OPERAND_STATE:
    case MLC_OPERAND_NEW_STATE:
        return of->rank->model->parameters[it->parameter].state_count;
    case MLC_OPERAND_VALUE:
    case MLC_OPERAND_WEIGHT:
    case MLC_OPERAND_NUMBER:
        return count_left(of);
    default:
        return 1;
    }
}

/* How often a kernel is called: for each of the operand that there are the most of. Of the others each is given to as many calls. */
static int times_of(const walk *of, const item *it, const mlc_sweep_call *call)
{
    int times = 1;
    for (int i = 0; i < MLC_SWEEP_OPERANDS && call->operands[i]; i++) {
        int count = count_of(of, it, call->operands[i]);
        if (count <= 0)
            return 0;
        times = count > times ? count : times;
    }
    return times;
}

/* Is the operand a tensor of a parameter? */
static bool is_tensor(int operand)
{
    return operand >= MLC_OPERAND_SUM && operand <= MLC_OPERAND_NEW_STATE;
}

/* How a tensor lies, number k of those that the operand is; NULL: canonical, as is all that is of no parameter. */
static const mlc_arrangement *arrangement_of(const walk *of, const item *it, int operand, int k)
{
    const mlc_model *model = of->rank->model;
    if (!model->arranged || !is_tensor(operand))
        return NULL;
    switch (operand) {
    case MLC_OPERAND_COPY:
        return mlc_arranged_copy(model, it->parameter);
    case MLC_OPERAND_STATE:
    case MLC_OPERAND_NEW_STATE:
        return mlc_arranged_state(model, it->parameter, k);
    default:
        return mlc_arranged_master(model, it->parameter);
    }
}

static int64_t bytes_of(const walk *of, int operand)
{
    return operand == MLC_OPERAND_COPY ? (int64_t)sizeof(uint16_t) : (int64_t)mlc_wide_bytes(of->rank->model);
}

/* Which of an operand call number k of so many is given. */
static int index_of(const walk *of, const item *it, int operand, int k, int times)
{
    return k == 0 ? 0 : (int)((int64_t)k * count_of(of, it, operand) / times);
}

/* Of what the record and the results of a rank have: where it lies. */
static uint64_t resolve_slot(const mlc_rank *rank, int operand)
{
    static const uint64_t record[MLC_OPERAND_END] = {
        [MLC_OPERAND_SCALE] = offsetof(mlc_record, scale), [MLC_OPERAND_CLIP] = offsetof(mlc_record, clip),
        [MLC_OPERAND_MEAN] = offsetof(mlc_record, mean),   [MLC_OPERAND_LIMIT] = offsetof(mlc_record, limit),
        [MLC_OPERAND_SHARE] = offsetof(mlc_record, share), [MLC_OPERAND_HELD] = offsetof(mlc_record, held),
    };
    static const uint64_t results[MLC_OPERAND_END] = {
        [MLC_OPERAND_STATISTICS] = offsetof(mlc_results, statistics), [MLC_OPERAND_SQUARES] = offsetof(mlc_results, squares),
        [MLC_OPERAND_NORM] = offsetof(mlc_results, norm), [MLC_OPERAND_FLAW] = offsetof(mlc_results, flaw),
    };
    return record[operand] ? rank->role->record + record[operand] : rank->role->results + results[operand];
}

/* Where an operand is, number k of those that there are. States, and what an update makes, are laid out for the piece. */
static uint64_t operand_at(const walk *of, const item *it, int operand, int k)
{
    const mlc_rank *rank = of->rank;
    switch (operand) {
    case MLC_OPERAND_SUM:
        return levels_of(of, it, k)[0];
    case MLC_OPERAND_WAITING:
        return levels_of(of, it, k / of->merges)[of->depth - k % of->merges];
    case MLC_OPERAND_KEPT:
        return levels_of(of, it, 0)[of->depth - of->merges + 1];
    case MLC_OPERAND_GRADIENT:
        return mlc_use_at(rank, it->parameter, 0)->use->levels[0];
    case MLC_OPERAND_FURTHER:
        return mlc_use_at(rank, it->parameter, 1 + k)->use->levels[0];
    case MLC_OPERAND_MASTER:
        return it->held->master;
    case MLC_OPERAND_COPY:
        return it->held->copy;
    case MLC_OPERAND_STATE:
        return it->piece->states[k];
    case MLC_OPERAND_NEW_MASTER:
        return it->piece->update_at[2 + rank->model->parameters[it->parameter].state_count];
    case MLC_OPERAND_NEW_STATE:
        return it->piece->update_at[3 + rank->model->parameters[it->parameter].state_count + k];
    case MLC_OPERAND_VALUE:
    case MLC_OPERAND_WEIGHT:
    case MLC_OPERAND_NUMBER:
        return resolve_left(of, operand, k);
    default:
        return resolve_slot(rank, operand);
    }
}

/* Is the operand a tensor that is laid out for the whole parameter? Then element it->begin of it is the item's first. */
static bool is_whole_tensor(int operand)
{
    return is_tensor(operand) && operand != MLC_OPERAND_STATE && operand != MLC_OPERAND_NEW_MASTER && operand != MLC_OPERAND_NEW_STATE;
}

/* Where an operand, number k of those that there are, begins; of a tensor that is arranged, where its buffer does. */
static uint64_t resolve(const walk *of, const item *it, int operand, int k)
{
    uint64_t at = operand_at(of, it, operand, k);
    if (it->begin && is_whole_tensor(operand) && !arrangement_of(of, it, operand, k))
        at += (uint64_t)(it->begin * bytes_of(of, operand));
    return at;
}

/* What a kernel that looks through an operand looks at (finite.h); of what a microbatch left, its column. */
static int64_t subject_of(const walk *of, const item *it, int operand, int k)
{
    if (it->parameter == NONE)
        return operand == MLC_OPERAND_VALUE ? left_of(of, k).value->column : 0;
    return mlc_flaw_of(it->parameter, operand == MLC_OPERAND_COPY ? MLC_FLAW_COPY : operand == MLC_OPERAND_STATE ? 1 + k : 0);
}

/* Elements of what call number k of so many changes, where whole tensors are gone over. */
static int64_t extent_of(const walk *of, const item *it, const mlc_sweep_call *call, int k, int times)
{
    const mlc_parameter *parameter = &of->rank->model->parameters[it->parameter];
    int operand = call->operands[0];
    bool state = operand == MLC_OPERAND_STATE;
    return state ? mlc_tensor_elements(&parameter->states[index_of(of, it, operand, k, times)]) : mlc_parameter_elements(parameter);
}

/* Of an update: master, gradient, new master; each state, old and new; what it reads beside. */
static int own_operands(const mlc_rank *rank, int parameter)
{
    int states = rank->model->parameters[parameter].state_count;
    return 3 + 2 * states + rank->catalog.owners.items[parameter].own->read_count;
}

/* ---- calls ---- */

/* The operands of call number k of so many; returns how many. */
static int resolve_all(const walk *of, const item *it, const mlc_sweep_call *call, int k, int times, uint64_t *at)
{
    int count = 0;
    for (; count < MLC_SWEEP_OPERANDS && call->operands[count]; count++)
        at[count] = resolve(of, it, call->operands[count], index_of(of, it, call->operands[count], k, times));
    return count;
}

/* The strip of a thread for operand number i, as an operand. */
static uint64_t strip_at(const walk *of, const mlc_env *env, int i)
{
    return (uint64_t)(env->scratch - env->arena) + (uint64_t)i * MLC_STRIP * mlc_wide_bytes(of->rank->model);
}

/* The operands of a call of a kernel on tensors. */
typedef struct given {
    int count;
    bool arranged;          /* some are */
    bool moves[MLC_STRIPS]; /* with the elements; a scalar does not */
    mlc_lying lies[MLC_STRIPS];
} given;

static given given_to(const walk *of, const item *it, const mlc_sweep_call *call, int k, int times, const uint64_t *at)
{
    given all = {0};
    for (; all.count < MLC_STRIPS && call->operands[all.count]; all.count++) {
        int o = all.count, operand = call->operands[o];
        all.moves[o] = is_tensor(operand);
        all.lies[o] = (mlc_lying){at[o], bytes_of(of, operand), arrangement_of(of, it, operand, index_of(of, it, operand, k, times))};
        all.arranged |= all.lies[o].arranged != NULL;
    }
    return all;
}

/* Elements [begin, end) of operands some of which are arranged, strip by strip: those are taken out in canonical order, and what a kernel
 * of two changes is put back. `first` is the item's first element. */
static void run_strips(const walk *of, mlc_env *env, const mlc_sweep_call *call, const given *all, int64_t first, int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; i += MLC_STRIP) {
        int64_t last = smaller(i + MLC_STRIP, end);
        uint64_t at[MLC_STRIPS];
        for (int o = 0; o < all->count; o++) {
            const mlc_lying *lies = &all->lies[o];
            at[o] = lies->arranged ? strip_at(of, env, o) : lies->at + (uint64_t)(all->moves[o] ? i * lies->bytes : 0);
            if (lies->arranged)
                mlc_lying_read(&of->rank->arena, lies, first + i, first + last, env->arena + at[o]);
        }
        call->run(env, at, 0, last - i);
        if (all->count > 1 && all->lies[0].arranged)
            mlc_lying_write(&of->rank->arena, &all->lies[0], first + i, first + last, env->arena + at[0]);
    }
}

/* Elements [begin, end) of the operands of call number k of so many. */
static void run_kernel(const walk *of, mlc_env *env, const item *it, const mlc_sweep_call *call, int k, int times, int64_t begin, int64_t end)
{
    uint64_t at[MLC_SWEEP_OPERANDS];
    resolve_all(of, it, call, k, times, at);
    int subject = call->operands[1] == MLC_OPERAND_VALUE ? 1 : 0;
    env->subject = subject_of(of, it, call->operands[subject], index_of(of, it, call->operands[subject], k, times));
    if (!of->rank->model->arranged || !is_tensor(call->operands[0])) {
        call->run(env, at, begin, end);
        return;
    }
    given all = given_to(of, it, call, k, times, at);
    if (all.arranged)
        run_strips(of, env, call, &all, it->begin, begin, end);
    else
        call->run(env, at, begin, end);
}

/* The update of a piece whose master and gradient are arranged; its states are not. */
static void update_strips(const walk *of, mlc_env *env, const item *it, const mlc_arrangement *arranged, int64_t begin, int64_t end)
{
    const mlc_piece *piece = it->piece;
    int64_t unit = (int64_t)mlc_wide_bytes(of->rank->model);
    int states = of->rank->model->parameters[it->parameter].state_count, words = own_operands(of->rank, it->parameter);
    mlc_lying master = {piece->update_at[0], unit, arranged}, gradient = {piece->update_at[1], unit, arranged};
    for (int64_t i = begin; i < end; i += MLC_STRIP) {
        int64_t first = it->begin + i, last = it->begin + smaller(i + MLC_STRIP, end);
        uint64_t at[MLC_UPDATE_WORDS];
        memcpy(at, piece->update_at, (size_t)words * sizeof *at);
        at[0] = at[2 + states] = strip_at(of, env, 0);
        at[1] = strip_at(of, env, 1);
        for (int s = 0; s < states; s++)
            at[2 + s] = at[3 + states + s] = piece->states[s] + (uint64_t)(i * unit);
        mlc_lying_read(&of->rank->arena, &master, first, last, env->arena + at[0]);
        mlc_lying_read(&of->rank->arena, &gradient, first, last, env->arena + at[1]);
        piece->update_flat(env, at, 0, last - first);
        mlc_lying_write(&of->rank->arena, &master, first, last, env->arena + at[0]);
    }
}

/* The update of a piece, or the initial value of what is held, on operands that are its own. */
static void run_own(const walk *of, mlc_env *env, const item *it, int64_t begin, int64_t end)
{
    const mlc_arrangement *arranged = mlc_arranged_master(of->rank->model, it->parameter);
    env->path = of->rank->model->parameters[it->parameter].path;
    if (it->piece && arranged)
        update_strips(of, env, it, arranged, begin, end);
    else if (it->piece)
        it->piece->update_flat(env, it->piece->update_at, begin, end);
    else
        it->held->init_flat(env, it->held->init_at, begin, end);
}

/* The same of one that runs over the whole; by all threads. */
static void run_own_whole(const walk *of, mlc_env *env, const item *it)
{
    env->path = of->rank->model->parameters[it->parameter].path;
    if (it->piece)
        it->piece->update(env, it->piece->update_at);
    else
        it->held->init(env, it->held->init_at);
}

static void run_call(const walk *of, mlc_env *env, const item *it, const mlc_sweep_call *call, int64_t begin, int64_t end)
{
    if (!call->run) {
        run_own(of, env, it, begin, end);
        return;
    }
    for (int k = 0, times = times_of(of, it, call); k < times; k++)
        run_kernel(of, env, it, call, k, times, begin, end);
}

/* ---- sharing out ---- */

static int64_t blocks_of(int64_t elements)
{
    return (elements + MLC_BLOCK - 1) / MLC_BLOCK;
}

/* All kernels over elements [begin, end) of an item, from its own begin on. */
static void run_slice(const walk *of, mlc_env *env, const item *it, int64_t begin, int64_t end)
{
    int64_t some = env->stream ? end - begin : CHUNK;
    mlc_sweep_next(env);
    for (int64_t at = begin; at < end; at += some)
        for (int c = 0; c < of->sweep->call_count; c++)
            run_call(of, env, it, &of->sweep->calls[c], at, smaller(at + some, end));
}

/* Gives each thread an equal, contiguous share of the blocks of all items. */
static void share_out(const walk *of, mlc_env *env, int64_t total)
{
    int64_t low = total * env->thread / env->threads, high = total * (env->thread + 1) / env->threads, first = 0;
    for (int i = 0; first < high; i++) {
        item it = item_of(of, i);
        int64_t begin = larger(low - first, 0) * MLC_BLOCK, end = smaller((high - first) * MLC_BLOCK, it.elements);
        if (begin < end)
            run_slice(of, env, &it, begin, end);
        first += blocks_of(it.elements);
    }
}

/* A thread's share of a kernel over whole tensors. */
static void run_tensor(const walk *of, mlc_env *env, const item *it, const mlc_sweep_call *call)
{
    for (int k = 0, times = times_of(of, it, call); k < times; k++) {
        int64_t elements = extent_of(of, it, call, k, times), blocks = blocks_of(elements);
        int64_t begin = blocks * env->thread / env->threads * MLC_BLOCK, end = blocks * (env->thread + 1) / env->threads * MLC_BLOCK;
        mlc_sweep_next(env);
        if (begin < elements)
            run_kernel(of, env, it, call, k, times, begin, smaller(end, elements));
    }
}

/* Item after item, kernel after kernel. */
static void take_turns(const walk *of, mlc_env *env)
{
    item it;
    for (int i = 0; it = item_of(of, i), it.elements >= 0; i++)
        for (int c = 0; it.elements && c < of->sweep->call_count; c++) {
            const mlc_sweep_call *call = &of->sweep->calls[c];
            if (call->run)
                run_tensor(of, env, &it, call);
            else
                run_own_whole(of, env, &it);
            mlc_sweep_meet(env);
        }
}

/* ---- the list of launches ---- */

static void list_call(const walk *of, const item *it, const mlc_sweep_call *call, void (*function)(void), const uint64_t *at, int count,
                      int64_t elements)
{
    mlc_sweep_name name = {call->kernel, it->parameter == NONE ? "rank" : of->rank->model->parameters[it->parameter].name};
    mlc_launches_sweep(of->rank->world.launches, function, name, at, count, it->begin, it->begin + elements);
}

static void list_own(const walk *of, const item *it, const mlc_sweep_call *call)
{
    const mlc_piece *piece = it->piece;
    int operands = 0;
    if (piece)
        operands = own_operands(of->rank, it->parameter);
    mlc_flat_function flat = piece ? piece->update_flat : it->held->init_flat;
    mlc_function whole = piece ? piece->update : it->held->init;
    void (*function)(void) = flat ? (void (*)(void))flat : (void (*)(void))whole;
    list_call(of, it, call, function, piece ? piece->update_at : NULL, operands, it->elements);
}

static void list_kernel(const walk *of, const item *it, const mlc_sweep_call *call)
{
    for (int k = 0, times = times_of(of, it, call); k < times; k++) {
        uint64_t at[MLC_SWEEP_OPERANDS];
        int count = resolve_all(of, it, call, k, times, at);
        int64_t elements = of->sweep->range == MLC_RANGE_TENSOR ? extent_of(of, it, call, k, times) : it->elements;
        list_call(of, it, call, (void (*)(void))call->run, at, count, elements);
    }
}

/* By the lead thread: all calls of the sweep. */
static void list_sweep(const walk *of)
{
    item it;
    for (int i = 0; it = item_of(of, i), it.elements >= 0; i++)
        for (int c = 0; it.elements && c < of->sweep->call_count; c++)
            if (of->sweep->calls[c].run)
                list_kernel(of, &it, &of->sweep->calls[c]);
            else
                list_own(of, &it, &of->sweep->calls[c]);
}

/* ---- the interface ---- */

unsigned mlc_moment_phases(int action_kind)
{
    return action_kind == MLC_BACKWARD ? 1U << MLC_INPUT_GRADIENT | 1U << MLC_WEIGHT_GRADIENT : 1U << action_kind;
}

/* The tree of groups when one of the replica's is complete; its last one but at FOLD. */
static void find_siblings(walk *of)
{
    const mlc_rank *rank = of->rank;
    int groups = rank->model->groups, first = mlc_tree_share(groups, rank->model->mesh.size[MLC_DP], rank->replica);
    of->depth = rank->tables->before_last.depth;
    of->merges = rank->tables->merges;
    if (of->moment.at != MLC_AT_FOLD)
        return;
    mlc_tree tree = mlc_tree_cover(groups, first, first + of->moment.group);
    of->depth = tree.depth;
    of->merges = mlc_tree_push(&tree, first + of->moment.group + 1);
}

static int64_t total_blocks(const walk *of)
{
    int64_t total = 0;
    item it;
    for (int i = 0; it = item_of(of, i), it.elements >= 0; i++)
        total += blocks_of(it.elements);
    return total;
}

/* Does a sweep put together what threads have noted at the moment? */
static bool reads_notes(const walk *of)
{
    return of->sweep->over == MLC_OVER_RANK && (of->moment.at == MLC_AT_NORM || of->moment.at == MLC_AT_UPDATE);
}

void mlc_sweep_run(const mlc_rank *rank, const mlc_env *env, mlc_moment moment)
{
    walk of = {.rank = rank, .moment = moment};
    mlc_env own = *env;
    bool behind = false; /* another one */
    mlc_gradient_begin(env);
    find_siblings(&of);
    for (int i = 0; i < rank->model->sweep_count; i++) {
        of.sweep = &rank->model->sweeps[i];
        int64_t total = of.sweep->at == moment.at && !(of.sweep->gated && is_held(env)) ? total_blocks(&of) : 0;
        if (total == 0)
            continue;
        if (behind || reads_notes(&of))
            mlc_sweep_meet(&own);
        behind = true;
        own.gated = of.sweep->gated;
        if (env->thread == 0 && rank->world.launches)
            list_sweep(&of);
        if (of.sweep->range == MLC_RANGE_TENSOR)
            take_turns(&of, &own);
        else
            share_out(&of, &own, total);
    }
    mlc_sweep_meet(&own);
}

/* ---- sanity ---- */

/* The operands that what a sweep goes over has. */
static bool has_operand(const mlc_sweep *sweep, int operand)
{
    static const unsigned sums = 1U << MLC_OPERAND_SUM | 1U << MLC_OPERAND_WAITING, gradients = 1U << MLC_OPERAND_GRADIENT;
    static const unsigned values = 1U << MLC_OPERAND_MASTER | 1U << MLC_OPERAND_COPY, states = 1U << MLC_OPERAND_STATE;
    static const unsigned made = 1U << MLC_OPERAND_NEW_MASTER | 1U << MLC_OPERAND_NEW_STATE;
    static const unsigned slots = 1U << MLC_OPERAND_SCALE | 1U << MLC_OPERAND_CLIP | 1U << MLC_OPERAND_MEAN;
    static const unsigned found = 1U << MLC_OPERAND_STATISTICS | 1U << MLC_OPERAND_SQUARES | 1U << MLC_OPERAND_NORM | 1U << MLC_OPERAND_FLAW;
    static const unsigned own = 1U << MLC_OPERAND_LIMIT | 1U << MLC_OPERAND_SHARE | 1U << MLC_OPERAND_HELD;
    static const unsigned left_ones = 1U << MLC_OPERAND_VALUE | 1U << MLC_OPERAND_WEIGHT | 1U << MLC_OPERAND_NUMBER;
    bool here = sweep->only & MLC_ONLY_HERE, whole = sweep->only & MLC_ONLY_WHOLE, folds = sweep->at == MLC_AT_FOLD;
    unsigned has[MLC_OVER_END] = {
        [MLC_OVER_USES] = sums | (folds ? 1U << MLC_OPERAND_KEPT : 0),
        [MLC_OVER_USE] = sums | (sweep->only & MLC_ONLY_FURTHER ? gradients : 0),
        [MLC_OVER_PIECES] = values | states | slots | gradients | (here ? sums | 1U << MLC_OPERAND_FURTHER : 0) | (whole ? made : 0),
        [MLC_OVER_HELD] = values,
        [MLC_OVER_RANK] = slots | found | own | (sweep->at == MLC_AT_STATISTICS ? left_ones : 0),
    };
    return operand > 0 && operand < MLC_OPERAND_END && (has[sweep->over] >> operand & 1);
}

static bool is_sane_call(const mlc_sweep *sweep, const mlc_sweep_call *call)
{
    bool lists = sweep->over == MLC_OVER_PIECES || sweep->over == MLC_OVER_HELD;
    int kind = sweep->range == MLC_RANGE_TENSOR ? MLC_ONLY_WHOLE : MLC_ONLY_ELEMENTWISE;
    if (!call->run)
        return lists && (sweep->only & kind) && !call->operands[0];
    int most = sweep->over == MLC_OVER_RANK ? MLC_SWEEP_OPERANDS : MLC_STRIPS;
    for (int i = 0; i < MLC_SWEEP_OPERANDS && (i == 0 || call->operands[i]); i++)
        if (i >= most || !has_operand(sweep, call->operands[i]))
            return false;
    return true;
}

const char *mlc_sweep_fault(const mlc_sweep *sweep)
{
    static const int ranges[MLC_OVER_END] = {[MLC_OVER_USES] = MLC_RANGE_WHOLE, [MLC_OVER_USE] = MLC_RANGE_SHARD,
                                             [MLC_OVER_PIECES] = MLC_RANGE_SHARD, [MLC_OVER_HELD] = MLC_RANGE_WHOLE,
                                             [MLC_OVER_RANK] = MLC_RANGE_WHOLE};
    bool chunk = sweep->at == MLC_AT_FOLD || sweep->at == MLC_AT_REDUCE || sweep->at == MLC_AT_SEARCH;
    if (sweep->at < 0 || sweep->at >= MLC_AT_END || sweep->over < 0 || sweep->over >= MLC_OVER_END)
        return "is of no action, or over nothing";
    if (chunk != (sweep->over == MLC_OVER_USES) || (sweep->at == MLC_AT_SHARE) != (sweep->over == MLC_OVER_USE))
        return "is over what its action does not have";
    bool tensors = sweep->range == MLC_RANGE_TENSOR && (sweep->only & MLC_ONLY_WHOLE);
    if (sweep->over == MLC_OVER_RANK && (sweep->only || sweep->gated))
        return "has conditions for what there is once";
    if (sweep->range != ranges[sweep->over] && !tensors)
        return "goes over elements that there are not";
    for (int i = 0; i < sweep->call_count; i++)
        if (!is_sane_call(sweep, &sweep->calls[i]))
            return "gives a kernel what there is not";
    return NULL;
}
