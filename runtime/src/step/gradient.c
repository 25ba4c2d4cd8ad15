/* gradient.c: see gradient.h. */
#include "step/gradient.h"

#include "model/finite.h"
#include "model/tables.h"
#include "world/launches.h"

#include <math.h>
#include <string.h>

#define CHUNK (8 * MLC_BLOCK) /* elements worked on at a time: stays in the first cache through all passes */

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* ---- sharing out slices ---- */

/* Something of `elements` elements, from element `begin` of a parameter on; begin is a multiple of 1024. */
typedef struct item {
    int parameter;
    int64_t begin;
    int64_t elements; /* 0: left out */
    const void *of;   /* mlc_piece, mlc_held or mlc_use */
    const uint64_t *at; /* operands, for the list of launches */
    int count;
} item;

/* A list of items: item i of `from`, -1 elements after the last. */
typedef item (*lister)(const mlc_rank *rank, const void *from, int i);

/* Works on elements [begin, end) of the item's parameter. */
typedef void (*visitor)(const mlc_rank *rank, mlc_env *env, const item *item, int64_t begin, int64_t end, const void *context);

/* What is launched on an item, for the list of launches. By the lead thread. */
static void list_item(const mlc_rank *rank, const item *it, void (*function)(void))
{
    const char *name = rank->model->parameters[it->parameter].name;
    mlc_launches_sweep(rank->world.launches, function, name, it->at, it->count, it->begin, it->begin + it->elements);
}

static int64_t blocks_of(const item *item)
{
    return (item->elements + MLC_BLOCK - 1) / MLC_BLOCK;
}

/* Gives each thread an equal, contiguous share of the 1024-blocks of all items. */
static void visit_share(const mlc_rank *rank, const mlc_env *env, lister list, const void *from, visitor visit, const void *context)
{
    int64_t total = 0, first = 0;
    item it;
    for (int i = 0; it = list(rank, from, i), it.elements >= 0; i++) {
        total += blocks_of(&it);
        if (rank->world.launches && env->thread == 0 && it.elements)
            list_item(rank, &it, (void (*)(void))visit);
    }
    int64_t low = total * env->thread / env->threads, high = total * (env->thread + 1) / env->threads;
    for (int i = 0; first < high; i++) {
        it = list(rank, from, i);
        int64_t begin = larger(low - first, 0) * MLC_BLOCK, end = smaller((high - first) * MLC_BLOCK, it.elements);
        if (begin < end)
            visit(rank, &mlc_worker_of(env)->env, &it, it.begin + begin, it.begin + end, context);
        first += blocks_of(&it);
    }
}

static const item LAST = {.elements = -1};

/* The pieces of the rank's shard. */
static item piece_item(const mlc_rank *rank, int i)
{
    if (i >= rank->shard.count)
        return LAST;
    const mlc_piece *piece = &rank->shard.pieces[i];
    int count = piece->update_at ? 2 + rank->model->parameters[piece->parameter].state_count : 0;
    return (item){piece->parameter, piece->begin, piece->end - piece->begin, piece, piece->update_at, count};
}

static item fed_piece(const mlc_rank *rank, const void *from, int i)
{
    (void)from;
    item it = piece_item(rank, i);
    if (it.elements > 0 && !mlc_is_fed(rank, it.parameter))
        it.elements = 0;
    if (it.elements > 0) {
        it.at = mlc_use_at(rank, it.parameter, 0)->use->levels;
        it.count = rank->role->levels;
    }
    return it;
}

static item flat_piece(const mlc_rank *rank, const void *from, int i)
{
    (void)from;
    item it = piece_item(rank, i);
    if (it.elements > 0 && !((const mlc_piece *)it.of)->update_flat)
        it.elements = 0;
    return it;
}

/* What the place holds. */
static item held_item(const mlc_rank *rank, int i)
{
    if (i >= rank->role->held_count)
        return LAST;
    const mlc_held *held = &rank->role->held[i];
    return (item){held->parameter, 0, mlc_parameter_elements(&rank->model->parameters[held->parameter]), held, &held->master, 1};
}

static item copied_held(const mlc_rank *rank, const void *from, int i)
{
    (void)from;
    item it = held_item(rank, i);
    if (it.elements > 0 && ((const mlc_held *)it.of)->copy == MLC_NONE)
        it.elements = 0;
    return it;
}

static item flat_held(const mlc_rank *rank, const void *from, int i)
{
    (void)from;
    item it = held_item(rank, i);
    if (it.elements > 0 && !((const mlc_held *)it.of)->init_flat)
        it.elements = 0;
    return it;
}

/* Uses of a chunk in some phases. */
typedef struct use_range {
    const mlc_chunk *chunk;
    unsigned phases;
} use_range;

static item use_item(const mlc_rank *rank, const void *from, int i)
{
    const use_range *range = from;
    if (i >= range->chunk->use_count)
        return LAST;
    const mlc_use *use = &range->chunk->uses[i];
    const mlc_parameter *parameter = &rank->model->parameters[use->parameter];
    bool taken = (range->phases >> use->phase & 1) && parameter->fed != 2;
    return (item){use->parameter, 0, taken ? mlc_parameter_elements(parameter) : 0, use, use->levels, rank->role->levels};
}

unsigned mlc_gradient_phases(int action_kind)
{
    return action_kind == MLC_BACKWARD ? 1U << MLC_INPUT_GRADIENT | 1U << MLC_WEIGHT_GRADIENT : 1U << action_kind;
}

/* ---- sums ---- */

static const mlc_wide *wide_of(const mlc_rank *rank)
{
    return mlc_dtype_wide(rank->model)->wide;
}

/* Element `element` of an array of the wide dtype. */
static void *element_at(const mlc_rank *rank, uint64_t at, int64_t element)
{
    return mlc_rank_at(rank, at + (uint64_t)element * mlc_wide_bytes(rank->model));
}

/* Adds `merges` sums from the top of `depth` waiting ones to accumulator 0. */
static void tree_merge(const mlc_rank *rank, const uint64_t *levels, int depth, int merges, int64_t begin, int64_t count)
{
    void *sum = element_at(rank, levels[0], begin);
    for (int k = 0; k < merges; k++)
        wide_of(rank)->add(sum, element_at(rank, levels[depth - k], begin), count);
}

/* What a group's sum does when it is complete. */
typedef struct joining {
    int depth; /* sums that wait */
    int merges;
} joining;

static void fold_slice(const mlc_rank *rank, mlc_env *env, const item *item, int64_t begin, int64_t end, const void *context)
{
    (void)env;
    const uint64_t *levels = ((const mlc_use *)item->of)->levels;
    const joining *group = context;
    for (int64_t at = begin; at < end; at += CHUNK) {
        int64_t count = smaller(CHUNK, end - at);
        tree_merge(rank, levels, group->depth, group->merges, at, count);
        void *waiting = element_at(rank, levels[group->depth - group->merges + 1], at);
        memcpy(waiting, element_at(rank, levels[0], at), (size_t)count * mlc_wide_bytes(rank->model));
    }
}

void mlc_gradient_fold(const mlc_rank *rank, const mlc_env *env, int chunk, unsigned phases, int group)
{
    const mlc_model *model = rank->model;
    int first = mlc_tree_share(model->groups, model->mesh.size[MLC_DP], rank->replica);
    mlc_tree tree = mlc_tree_begin(model->groups, first);
    for (int g = 0; g < group; g++)
        mlc_tree_push(&tree, first + g + 1);
    joining joining = {.depth = tree.depth};
    joining.merges = mlc_tree_push(&tree, first + group + 1);
    visit_share(rank, env, use_item, &(use_range){&rank->role->chunks[MLC_TRAIN][chunk], phases}, fold_slice, &joining);
    mlc_barrier(env);
}

void mlc_gradient_settle(const mlc_rank *rank, const uint64_t *levels, int64_t begin, int64_t count)
{
    tree_merge(rank, levels, rank->tables->before_last.depth, rank->tables->merges, begin, count);
}

static void settle_slice(const mlc_rank *rank, mlc_env *env, const item *item, int64_t begin, int64_t end, const void *context)
{
    (void)env, (void)context;
    for (int64_t at = begin; at < end; at += CHUNK)
        mlc_gradient_settle(rank, ((const mlc_use *)item->of)->levels, at, smaller(CHUNK, end - at));
}

void mlc_gradient_settle_chunk(const mlc_rank *rank, const mlc_env *env, int chunk)
{
    unsigned all = 1U << MLC_FORWARD | 1U << MLC_INPUT_GRADIENT | 1U << MLC_WEIGHT_GRADIENT;
    if (rank->tables->merges)
        visit_share(rank, env, use_item, &(use_range){&rank->role->chunks[MLC_TRAIN][chunk], all}, settle_slice, NULL);
    mlc_barrier(env);
}

/* ---- whole gradients and their norm ---- */

/* Squares of a slice that starts at a block: into the worker's exact sum, or its flag if one is not finite. */
static void square_slice(mlc_worker *worker, const mlc_dtype_row *dtype, int p, const char *x, int64_t count, bool counts)
{
    double sums[8];
    int blocks = count == CHUNK ? 8 : 0;
    if (blocks)
        dtype->wide->squares_eight(x, sums);
    for (int64_t at = 0; !blocks && at < count; at += MLC_BLOCK)
        sums[at / MLC_BLOCK] = dtype->wide->squares(x + at * dtype->bytes, smaller(MLC_BLOCK, count - at));
    blocks = (int)((count + MLC_BLOCK - 1) / MLC_BLOCK);
    for (int b = 0; b < blocks; b++) {
        if (isfinite(sums[b]) && counts)
            mlc_exact_add(&worker->squares, sums[b]);
        else if (!isfinite(sums[b]) && (worker->bad_parameter < 0 || p < worker->bad_parameter))
            worker->bad_parameter = p;
    }
}

/* With several replicas the exchange has made the sum over them; with uses elsewhere, over uses too. */
static void join_uses(const mlc_rank *rank, int p, void *sum, int64_t begin, int64_t count)
{
    for (int u = 0; u < mlc_use_count(rank, p); u++) {
        const uint64_t *levels = mlc_use_at(rank, p, u)->use->levels;
        if (rank->model->mesh.size[MLC_DP] == 1)
            mlc_gradient_settle(rank, levels, begin, count);
        if (u)
            wide_of(rank)->add(sum, element_at(rank, levels[0], begin), count);
    }
}

static void finish_slice(const mlc_rank *rank, mlc_env *env, const item *item, int64_t begin, int64_t end, const void *context)
{
    int p = item->parameter, fed = rank->model->parameters[p].fed;
    const mlc_dtype_row *dtype = mlc_dtype_wide(rank->model);
    double scale = mlc_dtype_round(dtype, fed == 0 ? *(const double *)context : 1.0 / rank->model->microbatches);
    char *whole = mlc_gradient_of(rank, p);
    for (int64_t at = begin; at < end; at += CHUNK) {
        int64_t count = smaller(CHUNK, end - at);
        if (!rank->tables->shared[p])
            join_uses(rank, p, whole + at * dtype->bytes, at, count);
        if (scale != 1)
            dtype->wide->scale(whole + at * dtype->bytes, scale, count);
        square_slice(mlc_worker_of(env), dtype, p, whole + at * dtype->bytes, count, fed == 0);
    }
}

void mlc_gradient_finish(const mlc_rank *rank, const mlc_env *env)
{
    mlc_worker *worker = mlc_worker_of(env);
    worker->squares = (mlc_exact){{0}};
    double scale = mlc_dtype_wide(rank->model)->load(env->record->scale, 0);
    worker->bad_parameter = -1;
    visit_share(rank, env, fed_piece, NULL, finish_slice, &scale);
    mlc_barrier(env);
}

mlc_exact mlc_gradient_squares(const mlc_rank *rank)
{
    mlc_exact sum = {{0}};
    for (int i = 0; i < rank->team->threads; i++)
        mlc_exact_merge(&sum, &rank->team->workers[i].squares);
    return sum;
}

int64_t mlc_gradient_bad(const mlc_rank *rank)
{
    int64_t lowest = -1;
    for (int i = 0; i < rank->team->threads; i++) {
        int64_t bad = rank->team->workers[i].bad_parameter;
        if (bad >= 0 && (lowest < 0 || bad < lowest))
            lowest = bad;
    }
    return lowest;
}

static void search_slice(const mlc_rank *rank, mlc_env *env, const item *item, int64_t begin, int64_t end, const void *context)
{
    (void)context;
    const mlc_dtype_row *dtype = mlc_dtype_wide(rank->model);
    uint64_t sum = ((const mlc_use *)item->of)->levels[0];
    for (int64_t at = begin; at < end; at += CHUNK)
        square_slice(mlc_worker_of(env), dtype, item->parameter, element_at(rank, sum, at), smaller(CHUNK, end - at), false);
}

void mlc_gradient_search(const mlc_rank *rank, const mlc_env *env, int chunk, unsigned phases)
{
    mlc_worker_of(env)->bad_parameter = -1;
    visit_share(rank, env, use_item, &(use_range){&rank->role->chunks[MLC_TRAIN][chunk], phases}, search_slice, NULL);
    mlc_barrier(env);
}

void *mlc_gradient_of(const mlc_rank *rank, int parameter)
{
    bool here = rank->model->parameters[parameter].owner == rank->place && mlc_is_fed(rank, parameter);
    return here ? mlc_rank_at(rank, mlc_use_at(rank, parameter, 0)->use->levels[0]) : NULL;
}

/* ---- update ---- */

static void round_copy(const mlc_rank *rank, const mlc_held *held, int64_t begin, int64_t end)
{
    uint16_t *to = mlc_rank_at(rank, held->copy);
    wide_of(rank)->to_bf16(to + begin, element_at(rank, held->master, begin), end - begin);
}

static void refresh_slice(const mlc_rank *rank, mlc_env *env, const item *item, int64_t begin, int64_t end, const void *context)
{
    (void)env, (void)context;
    round_copy(rank, item->of, begin, end);
}

void mlc_gradient_refresh(const mlc_rank *rank, const mlc_env *env)
{
    visit_share(rank, env, copied_held, NULL, refresh_slice, NULL);
    mlc_barrier(env);
}

static void clip_slice(const mlc_rank *rank, int parameter, int64_t begin, int64_t end, double factor)
{
    if (factor != 1 && rank->model->parameters[parameter].fed == 0 && mlc_is_fed(rank, parameter))
        wide_of(rank)->scale(element_at(rank, mlc_use_at(rank, parameter, 0)->use->levels[0], begin), factor, end - begin);
}

static void copy_slice(const mlc_rank *rank, int parameter, int64_t begin, int64_t end)
{
    const mlc_held *held = mlc_rank_held(rank, parameter);
    if (held->copy != MLC_NONE)
        round_copy(rank, held, begin, end);
}

/* ---- what an update left ---- */

static void note_flaw(const mlc_env *env, int64_t parameter, int64_t what)
{
    mlc_worker *worker = mlc_worker_of(env);
    worker->flaw = mlc_flaw_first(worker->flaw, mlc_flaw_of(parameter, what));
}

/* Elements of a parameter, while they are in the cache. */
static void check_values(const mlc_rank *rank, const mlc_env *env, int parameter, int64_t begin, int64_t end)
{
    const mlc_held *held = mlc_rank_held(rank, parameter);
    enum mlc_worst worst = wide_of(rank)->worst(element_at(rank, held->master, begin), end - begin);
    if (worst == MLC_WORST_INFINITE)
        note_flaw(env, parameter, 0);
    else if (worst == MLC_WORST_BF16 && held->copy != MLC_NONE)
        note_flaw(env, parameter, MLC_FLAW_COPY);
}

static void check_states(const mlc_rank *rank, const mlc_env *env, const mlc_piece *piece, int64_t begin, int64_t end)
{
    for (int s = 0; s < rank->model->parameters[piece->parameter].state_count; s++)
        if (wide_of(rank)->worst(element_at(rank, piece->states[s], begin), end - begin) == MLC_WORST_INFINITE)
            note_flaw(env, piece->parameter, 1 + s);
}

static void update_slice(const mlc_rank *rank, mlc_env *env, const item *item, int64_t begin, int64_t end, const void *context)
{
    const mlc_piece *piece = item->of;
    env->path = rank->model->parameters[item->parameter].path;
    for (int64_t at = begin; at < end; at += CHUNK) {
        int64_t to = smaller(at + CHUNK, end);
        clip_slice(rank, item->parameter, at, to, *(const double *)context);
        piece->update_flat(env, piece->update_at, at - piece->begin, to - piece->begin);
        copy_slice(rank, item->parameter, at, to);
        check_values(rank, env, item->parameter, at, to);
        check_states(rank, env, piece, at - piece->begin, to - piece->begin);
    }
}

/* This thread's share of copying one buffer of n elements. Are they finite? */
static bool copy_share(const mlc_rank *rank, const mlc_env *env, uint64_t from, uint64_t to, int64_t n)
{
    int64_t begin = n * env->thread / env->threads, end = n * (env->thread + 1) / env->threads;
    memcpy(element_at(rank, to, begin), element_at(rank, from, begin), (size_t)(end - begin) * mlc_wide_bytes(rank->model));
    return wide_of(rank)->worst(element_at(rank, to, begin), end - begin) != MLC_WORST_INFINITE;
}

/* Puts the results of a whole-tensor update in place. at: master, gradient, states, new master, new states. */
static void update_settle(const mlc_rank *rank, const mlc_env *env, const mlc_piece *piece)
{
    const mlc_parameter *parameter = &rank->model->parameters[piece->parameter];
    const uint64_t *at = piece->update_at, *results = at + 2 + parameter->state_count;
    if (!copy_share(rank, env, results[0], at[0], mlc_parameter_elements(parameter)))
        note_flaw(env, piece->parameter, 0);
    for (int s = 0; s < parameter->state_count; s++)
        if (!copy_share(rank, env, results[1 + s], at[2 + s], mlc_tensor_elements(&parameter->states[s])))
            note_flaw(env, piece->parameter, 1 + s);
}

static void update_whole(const mlc_rank *rank, const mlc_env *env, const mlc_piece *piece, double factor)
{
    const mlc_parameter *parameter = &rank->model->parameters[piece->parameter];
    mlc_env *own = &mlc_worker_of(env)->env;
    int64_t n = mlc_parameter_elements(parameter);
    int64_t begin = n * env->thread / env->threads, end = n * (env->thread + 1) / env->threads;
    clip_slice(rank, piece->parameter, begin, end, factor);
    mlc_barrier(env);
    own->path = parameter->path;
    piece->update(own, piece->update_at);
    mlc_barrier(env);
    update_settle(rank, env, piece);
    mlc_barrier(env);
    copy_slice(rank, piece->parameter, begin, end);
    check_values(rank, env, piece->parameter, begin, end);
}

static void update_pieces(const mlc_rank *rank, const mlc_env *env)
{
    double factor = mlc_dtype_wide(rank->model)->load(env->record->clip, 0);
    visit_share(rank, env, flat_piece, NULL, update_slice, &factor);
    for (int i = 0; i < rank->shard.count; i++) {
        const mlc_piece *piece = &rank->shard.pieces[i];
        if (!piece->update_flat && piece->update && env->thread == 0) {
            item it = piece_item(rank, i);
            list_item(rank, &it, (void (*)(void))piece->update);
        }
        if (!piece->update_flat && piece->update)
            update_whole(rank, env, piece, factor);
    }
}

void mlc_gradient_update(const mlc_rank *rank, const mlc_env *env)
{
    mlc_worker_of(env)->flaw = -1;
    if (!env->record->held)
        update_pieces(rank, env);
    mlc_barrier(env); /* the lead thread reads the flaws of all */
}

int64_t mlc_gradient_flaw(const mlc_rank *rank)
{
    int64_t first = -1;
    for (int i = 0; i < rank->team->threads; i++)
        first = mlc_flaw_first(first, rank->team->workers[i].flaw);
    return first;
}

/* ---- initial values ---- */

static void initialize_slice(const mlc_rank *rank, mlc_env *env, const item *item, int64_t begin, int64_t end, const void *context)
{
    (void)context;
    const mlc_held *held = item->of;
    env->path = rank->model->parameters[item->parameter].path;
    held->init_flat(env, held->init_at, begin, end);
}

void mlc_gradient_initialize(const mlc_rank *rank, const mlc_env *env)
{
    mlc_env *own = &mlc_worker_of(env)->env;
    visit_share(rank, env, flat_held, NULL, initialize_slice, NULL);
    mlc_barrier(env);
    for (int i = 0; i < rank->role->held_count; i++) {
        const mlc_held *held = &rank->role->held[i];
        if (held->init_flat || !held->init)
            continue;
        own->path = rank->model->parameters[held->parameter].path;
        held->init(own, held->init_at);
        mlc_barrier(env);
    }
    mlc_gradient_refresh(rank, env);
}
