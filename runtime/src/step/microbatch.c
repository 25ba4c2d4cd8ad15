/* microbatch.c: a compute action: inputs, rows of a chunk, and in a search what follows from them (pass.h). */
#include "step/pass.h"

#include "model/action.h"
#include "model/tables.h"
#include "report/trace.h"
#include "step/gradient.h"
#include "step/sweep.h"
#include "world/launches.h"

#include <math.h>
#include <string.h>

/* ---- rows ---- */

/* Where local microbatch `microbatch` has its slots and its number. */
static void place_microbatch(const mlc_pass *run, mlc_env *env, int64_t microbatch)
{
    const mlc_program *program = run->rank->program;
    uint64_t *bases = mlc_worker_of(env)->bases;
    env->microbatch = (const int64_t *)mlc_rank_at(run->rank, run->rank->role->microbatches) + microbatch;
    for (int i = 0; i < program->region_count; i++) {
        const mlc_region *region = &program->regions[i];
        bases[i] = region->base;
        if (region->slots > 1)
            bases[i] += (uint64_t)(microbatch % region->slots) * region->stride;
    }
}

/* The offset in the arena of an operand. */
static uint64_t resolve(const mlc_env *env, uint64_t operand)
{
    return mlc_worker_of(env)->bases[operand >> MLC_REGION_SHIFT] + (operand & MLC_OFFSET_MASK);
}

static const uint64_t *operands_of(const mlc_env *env, const mlc_row *row)
{
    uint64_t *operands = mlc_worker_of(env)->operands;
    for (int i = 0; i < row->count; i++)
        operands[i] = resolve(env, row->at[i]);
    return operands;
}

/* Something is done: others may see it, and messages may move. By the lead thread. */
static void advance(const mlc_pass *run)
{
    mlc_world *world = &run->rank->world;
    atomic_fetch_add_explicit(&world->status->progress, 1, memory_order_relaxed);
    if (world->transport)
        mlc_world_progress(world);
}

static void run_row(const mlc_pass *run, mlc_env *env, const mlc_row *row)
{
    mlc_trace *trace = run->rank->trace;
    const uint64_t *operands = operands_of(env, row);
    if (env->thread == 0)
        mlc_launches_row(run->rank->world.launches, row->run, row->name, operands, row->count);
    atomic_store_explicit(&mlc_worker_of(env)->row, row->name, memory_order_relaxed);
    env->path = row->path;
    int64_t started = trace ? mlc_clock() : 0;
    row->run(env, operands);
    int64_t done = trace ? mlc_clock() : 0;
    mlc_barrier(env);
    if (trace)
        mlc_trace_row(trace, env, row->name, row->flops, started, done, mlc_clock());
    if (env->thread == 0)
        advance(run);
}

static void run_rows(const mlc_pass *run, mlc_env *env, mlc_rows rows)
{
    for (int64_t i = 0; i < rows.count; i++)
        run_row(run, env, &rows.rows[i]);
}

/* ---- one microbatch on one chunk ---- */

static void fill_input(mlc_pass *run, mlc_env *env, const mlc_binding *binding, int64_t microbatch)
{
    const mlc_model *model = run->rank->model;
    int64_t begin = model->batch * env->thread / env->threads, end = model->batch * (env->thread + 1) / env->threads;
    char *to = mlc_rank_at(run->rank, resolve(env, binding->at));
    if (begin == end || !run->feed->fill(run->feed, run->rank, binding->input, microbatch, begin, end, to, &mlc_worker_of(env)->error))
        return;
    int64_t row_bytes = mlc_input_row_bytes(&model->inputs[binding->input]);
    memset(to + begin * row_bytes, 0, (size_t)((end - begin) * row_bytes));
}

/* This thread's rows of the inputs that the chunk reads. Where it fails, the worker's error says why, and the walk goes on with zeros: the
 * others wait for messages. */
static void fill(mlc_pass *run, mlc_env *env, const mlc_chunk *chunk, int64_t microbatch)
{
    if (!chunk->input_count)
        return;
    int64_t started = mlc_pass_begin_part(run, env, "inputs");
    for (int i = 0; i < chunk->input_count; i++)
        fill_input(run, env, &chunk->inputs[i], microbatch);
    mlc_pass_end_part(run, env, "inputs", started);
}

void mlc_microbatch_search(mlc_pass *run)
{
    const mlc_dtype_row *wide = mlc_dtype_wide(run->rank->model);
    for (int c = 0; run->chunks && c < run->rank->role->chunk_count; c++)
        for (int64_t n = 0; n < run->count; n++)
            for (int i = 0; i < run->chunks[c].value_count; i++) {
                const mlc_value *value = &run->chunks[c].values[i];
                bool counts = value->column < run->chain->losses;
                if (counts && !isfinite(wide->load(mlc_rank_at(run->rank, mlc_rank_resolve(run->rank, value->at, n)), 0)))
                    mlc_pass_find(run, run->chunks[c].stage, run->first + n, -1);
            }
}

static bool has_uses(const mlc_chunk *chunk, unsigned phases)
{
    for (int i = 0; i < chunk->use_count; i++)
        if (phases >> chunk->uses[i].phase & 1)
            return true;
    return false;
}

/* Looks for what is not finite in the uses that this action has added to. */
static void search(mlc_pass *run, const mlc_env *env, const mlc_action *action, int64_t microbatch)
{
    const mlc_chunk *chunk = &run->chunks[action->of];
    unsigned phases = mlc_moment_phases(mlc_action_whole(action));
    if (!has_uses(chunk, phases))
        return;
    mlc_sweep_run(run->rank, env, (mlc_moment){.at = MLC_AT_SEARCH, .chunk = action->of, .phases = phases});
    if (env->thread == 0 && mlc_gradient_bad(env->team) >= 0)
        mlc_pass_find(run, chunk->stage, microbatch, mlc_gradient_bad(env->team));
}

bool mlc_microbatch_run(mlc_pass *run, mlc_env *env, const mlc_action *action)
{
    const mlc_model *model = run->rank->model;
    const mlc_chunk *chunk = &run->chunks[action->of];
    int64_t microbatch = run->first + action->microbatch;
    place_microbatch(run, env, action->microbatch);
    if (action->kind == MLC_FORWARD)
        fill(run, env, chunk, microbatch);
    mlc_barrier(env);
    if (mlc_stopped(env))
        return false;
    bool folds = run->kind == MLC_TRAIN && run->search == MLC_SEARCH_NONE;
    env->fold = folds && action->microbatch % (model->microbatches / model->groups) != 0;
    if (env->thread == 0 && action->kind == MLC_FORWARD)
        run->stage = chunk->stage;
    run_rows(run, env, mlc_action_rows(chunk, action));
    if (run->search == MLC_SEARCH_GRADIENT && !mlc_action_is_halved(chunk, action))
        search(run, env, action, microbatch);
    env->microbatch = &run->rank->record->microbatch;
    return true;
}
