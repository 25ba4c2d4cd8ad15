/* gradient.c: see gradient.h. Everything is put on the stream of the rank, tensor by tensor, by the one thread that walks a list; what
 * gradients and updates leave is in the results of the pass (mlc_results.h). */
#include "step/gradient.h"

#include "mlc_ending.h"
#include "mlc_gpu.h"
#include "mlc_results.h"
#include "model/finite.h"
#include "model/tables.h"
#include "step/launch.h"

#include <stddef.h>

mlc_env mlc_launch_env(const mlc_rank *rank)
{
    const mlc_arena *arena = &rank->arena;
    const mlc_record *record = (const mlc_record *)(arena->base + rank->role->record);
    return (mlc_env){.arena = arena->base, .scratch = mlc_arena_scratch(arena, 0), .team = rank->team, .record = record,
                     .microbatch = &record->microbatch, .threads = 1, .stream = mlc_gpu_stream(arena->gpu)};
}

void mlc_launch_record(const mlc_rank *rank, const mlc_env *env)
{
    size_t bytes = sizeof *rank->record + (size_t)rank->model->scalar_count * mlc_wide_bytes(rank->model);
    mlc_ending_fetch(env, rank->role->record, rank->record, bytes);
}

unsigned mlc_gradient_phases(int action_kind)
{
    return action_kind == MLC_BACKWARD ? 1U << MLC_INPUT_GRADIENT | 1U << MLC_WEIGHT_GRADIENT : 1U << action_kind;
}

static uint64_t element_at(const mlc_rank *rank, uint64_t at, int64_t element)
{
    return at + (uint64_t)element * mlc_wide_bytes(rank->model);
}

/* ---- sums ---- */

static void tree_merge(const mlc_env *env, const uint64_t *levels, int depth, int merges, int64_t count)
{
    for (int k = 0; k < merges; k++)
        mlc_ending_add(env, levels[0], levels[depth - k], count);
}

void mlc_gradient_fold(const mlc_rank *rank, const mlc_env *env, int chunk_number, unsigned phases, int group)
{
    const mlc_model *model = rank->model;
    const mlc_chunk *chunk = &rank->role->chunks[MLC_TRAIN][chunk_number];
    int first = mlc_tree_share(model->groups, model->mesh.size[MLC_DP], rank->replica);
    mlc_tree tree = mlc_tree_begin(model->groups, first);
    for (int g = 0; g < group; g++)
        mlc_tree_push(&tree, first + g + 1);
    int depth = tree.depth, merges = mlc_tree_push(&tree, first + group + 1);
    for (int i = 0; i < chunk->use_count; i++) {
        const mlc_use *use = &chunk->uses[i];
        const mlc_parameter *parameter = &model->parameters[use->parameter];
        if (!(phases >> use->phase & 1) || parameter->fed == 2)
            continue;
        tree_merge(env, use->levels, depth, merges, mlc_parameter_elements(parameter));
        mlc_ending_copy(env, use->levels[depth - merges + 1], use->levels[0], mlc_parameter_elements(parameter));
    }
}

/* Several ranks, which a program for GPUs has not: nothing to do. */
void mlc_gradient_settle(const mlc_rank *rank, const uint64_t *levels, int64_t begin, int64_t count)
{
    (void)rank, (void)levels, (void)begin, (void)count;
}

void mlc_gradient_settle_chunk(const mlc_rank *rank, const mlc_env *env, int chunk)
{
    (void)rank, (void)env, (void)chunk;
}

/* ---- whole gradients and their norm ---- */

static void join_uses(const mlc_rank *rank, const mlc_env *env, int p, int64_t count)
{
    uint64_t sum = mlc_use_at(rank, p, 0)->use->levels[0];
    for (int u = 0; u < mlc_use_count(rank, p); u++) {
        const uint64_t *levels = mlc_use_at(rank, p, u)->use->levels;
        tree_merge(env, levels, rank->tables->before_last.depth, rank->tables->merges, count);
        if (u)
            mlc_ending_add(env, sum, levels[0], count);
    }
}

void mlc_gradient_finish(const mlc_rank *rank, const mlc_env *env)
{
    for (int i = 0; i < rank->shard.count; i++) {
        const mlc_piece *piece = &rank->shard.pieces[i];
        int p = piece->parameter, fed = rank->model->parameters[p].fed;
        int64_t count = piece->end - piece->begin;
        if (!count || !mlc_is_fed(rank, p))
            continue;
        join_uses(rank, env, p, count);
        float factor = fed == 0 ? 0 : (float)(1.0 / rank->model->microbatches);
        mlc_ending_finish(env, mlc_use_at(rank, p, 0)->use->levels[0], count, factor, p, fed == 0);
    }
}

/* What the exchange over ranks asks for, which a program for GPUs has not. */
mlc_exact mlc_gradient_squares(const mlc_rank *rank)
{
    (void)rank;
    return (mlc_exact){{0}};
}

static uint64_t result_at(const mlc_rank *rank, size_t offset)
{
    uint64_t value = UINT64_MAX;
    mlc_gpu_read(rank->arena.gpu, &value, mlc_arena_scratch(&rank->arena, 0) + offset, sizeof value);
    return value;
}

int64_t mlc_gradient_bad(const mlc_rank *rank)
{
    return (int64_t)result_at(rank, offsetof(mlc_results, bad_parameter));
}

int64_t mlc_gradient_flaw(const mlc_rank *rank)
{
    return (int64_t)result_at(rank, offsetof(mlc_results, flaw));
}

void mlc_gradient_search(const mlc_rank *rank, const mlc_env *env, int chunk_number, unsigned phases)
{
    const mlc_chunk *chunk = &rank->role->chunks[MLC_TRAIN][chunk_number];
    mlc_ending_begin(env, rank->tables->statistics, 0);
    for (int i = 0; i < chunk->use_count; i++) {
        const mlc_use *use = &chunk->uses[i];
        const mlc_parameter *parameter = &rank->model->parameters[use->parameter];
        if ((phases >> use->phase & 1) && parameter->fed != 2)
            mlc_ending_finish(env, use->levels[0], mlc_parameter_elements(parameter), 1, use->parameter, 0);
    }
}

void *mlc_gradient_of(const mlc_rank *rank, int parameter)
{
    bool here = rank->model->parameters[parameter].owner == rank->place && mlc_is_fed(rank, parameter);
    return here ? rank->arena.base + mlc_use_at(rank, parameter, 0)->use->levels[0] : NULL;
}

/* ---- update ---- */

static void check(const mlc_rank *rank, const mlc_env *env, const mlc_piece *piece)
{
    const mlc_held *held = mlc_rank_held(rank, piece->parameter);
    int64_t count = piece->end - piece->begin;
    uint64_t master = element_at(rank, held->master, piece->begin);
    uint64_t copy = held->copy == MLC_NONE ? UINT64_MAX : (uint64_t)mlc_flaw_of(piece->parameter, MLC_FLAW_COPY);
    if (held->copy != MLC_NONE)
        mlc_ending_round(env, held->copy + (uint64_t)piece->begin * sizeof(uint16_t), master, count);
    mlc_ending_check(env, master, count, (uint64_t)mlc_flaw_of(piece->parameter, 0), copy);
    for (int s = 0; s < rank->model->parameters[piece->parameter].state_count; s++)
        mlc_ending_check(env, piece->states[s], mlc_rank_state_elements(rank->model, piece, s),
                         (uint64_t)mlc_flaw_of(piece->parameter, 1 + s), UINT64_MAX);
}

/* Puts the results of a whole-tensor update in place. at: master, gradient, states, new master, new states. */
static void settle(const mlc_rank *rank, const mlc_env *env, const mlc_piece *piece)
{
    const mlc_parameter *parameter = &rank->model->parameters[piece->parameter];
    const uint64_t *at = piece->update_at, *results = at + 2 + parameter->state_count;
    mlc_ending_settle(env, at[0], results[0], mlc_parameter_elements(parameter));
    for (int s = 0; s < parameter->state_count; s++)
        mlc_ending_settle(env, at[2 + s], results[1 + s], mlc_tensor_elements(&parameter->states[s]));
}

void mlc_gradient_update(const mlc_rank *rank, const mlc_env *env)
{
    for (int i = 0; i < rank->shard.count; i++) {
        const mlc_piece *piece = &rank->shard.pieces[i];
        int p = piece->parameter;
        mlc_env own = *env;
        if ((!piece->update_flat && !piece->update) || piece->begin == piece->end)
            continue;
        own.path = rank->model->parameters[p].path;
        if (rank->model->clip > 0 && rank->model->parameters[p].fed == 0 && mlc_is_fed(rank, p))
            mlc_ending_clip(env, element_at(rank, mlc_use_at(rank, p, 0)->use->levels[0], piece->begin), piece->end - piece->begin);
        if (piece->update_flat) {
            piece->update_flat(&own, piece->update_at, 0, piece->end - piece->begin);
        } else {
            piece->update(&own, piece->update_at);
            settle(rank, env, piece);
        }
        check(rank, env, piece);
    }
}

/* ---- initial values ---- */

void mlc_gradient_refresh(const mlc_rank *rank, const mlc_env *caller)
{
    mlc_env env = mlc_launch_env(rank);
    if (caller->thread)
        return;
    mlc_launch_record(rank, &env);
    for (int i = 0; i < rank->role->held_count; i++) {
        const mlc_held *held = &rank->role->held[i];
        if (held->copy != MLC_NONE)
            mlc_ending_round(&env, held->copy, held->master, mlc_parameter_elements(&rank->model->parameters[held->parameter]));
    }
    mlc_gpu_wait(rank->arena.gpu);
}

void mlc_gradient_initialize(const mlc_rank *rank, const mlc_env *caller)
{
    mlc_env env = mlc_launch_env(rank);
    if (caller->thread)
        return;
    mlc_launch_record(rank, &env);
    for (int i = 0; i < rank->role->held_count; i++) {
        const mlc_held *held = &rank->role->held[i];
        const mlc_parameter *parameter = &rank->model->parameters[held->parameter];
        env.path = parameter->path;
        if (held->init_flat)
            held->init_flat(&env, held->init_at, 0, mlc_parameter_elements(parameter));
        else if (held->init)
            held->init(&env, held->init_at);
    }
    mlc_gradient_refresh(rank, caller);
}
