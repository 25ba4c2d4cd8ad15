/* pass.c: see pass.h. The list of a chain is walked once, under capture, into a graph of all it does: copies of inputs, rows, sums, the
 * update. A pass is then: the host makes record and inputs in pinned memory, the graph is launched, its results are read. Nothing is
 * decided by the host in between. What looks for the cause of a failure walks the list again, action by action. */
#include "step/pass.h"

#include "mlc_ending.h"
#include "mlc_gpu.h"
#include "mlc_results.h"
#include "model/action.h"
#include "model/finite.h"
#include "model/tables.h"
#include "step/sweep.h"
#include "world/launches.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

/* ---- the board ---- */

static void board_step(const mlc_pass *run)
{
    mlc_status_board *board = run->rank->world.status;
    atomic_store_explicit(&board->action, -1, memory_order_relaxed);
    atomic_store_explicit(&board->chain, run->kind, memory_order_relaxed);
    atomic_store_explicit(&board->step, run->rank->step, memory_order_relaxed);
    atomic_store_explicit(&board->state, MLC_RANK_COMPUTES, memory_order_relaxed);
}

int64_t mlc_pass_begin_part(const mlc_pass *run, const mlc_env *env, const char *name)
{
    (void)run, (void)env, (void)name;
    return 0;
}

void mlc_pass_end_part(const mlc_pass *run, const mlc_env *env, const char *name, int64_t started)
{
    (void)run, (void)env, (void)name, (void)started;
}

/* ---- what everything is launched with ---- */

/* Of no microbatch, path or group yet; its addresses are the device's. */
static mlc_env launch_env(const mlc_rank *rank)
{
    const mlc_arena *arena = &rank->arena;
    const mlc_record *record = (const mlc_record *)(arena->base + rank->role->record);
    return (mlc_env){.arena = arena->base, .scratch = mlc_arena_scratch(arena, 0), .team = rank->team, .record = record,
                     .microbatch = &record->microbatch, .threads = 1, .stream = mlc_gpu_stream(arena->gpu)};
}

/* Takes the host's record over to the device, behind what lies on the stream. */
static void fetch_record(const mlc_rank *rank, const mlc_env *env)
{
    size_t bytes = sizeof *rank->record + (size_t)rank->model->scalar_count * mlc_wide_bytes(rank->model);
    mlc_ending_fetch(env, rank->role->record, rank->record, bytes);
}

void mlc_pass_prepare(mlc_rank *rank, int at)
{
    mlc_env env = launch_env(rank);
    rank->record->held = 0;
    fetch_record(rank, &env);
    mlc_sweep_run(rank, &env, (mlc_moment){.at = at});
    mlc_gpu_wait(rank->arena.gpu);
}

/* ---- memory of the host that a graph copies from and to ----
 *
 * numbers of the microbatches | inputs of each chunk, microbatch by microbatch | clear statistics | results
 */

static size_t line(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

static size_t input_bytes(const mlc_model *model, int input)
{
    return line((size_t)(model->batch * mlc_input_row_bytes(&model->inputs[input])));
}

static size_t numbers_bytes(const mlc_pass *run)
{
    return line((size_t)run->count * sizeof(int64_t));
}

/* Where the inputs of microbatch n of a chunk begin. */
static size_t inputs_at(const mlc_pass *run, int chunk, int64_t n)
{
    size_t at = numbers_bytes(run);
    for (int c = 0; c <= chunk && c < run->rank->role->chunk_count; c++) {
        size_t bytes = 0;
        for (int i = 0; i < run->chunks[c].input_count; i++)
            bytes += input_bytes(run->rank->model, run->chunks[c].inputs[i].input);
        at += bytes * (size_t)(c < chunk ? run->count : n);
    }
    return at;
}

static size_t statistics_at(const mlc_pass *run)
{
    return inputs_at(run, run->rank->role->chunk_count, 0);
}

static size_t statistics_bytes(const mlc_pass *run)
{
    return (size_t)mlc_statistics_count(run->chain) * sizeof(mlc_statistic);
}

static size_t results_at(const mlc_pass *run)
{
    return line(statistics_at(run) + statistics_bytes(run));
}

/* NULL: there is no more. */
static char *staged_memory(const mlc_pass *run)
{
    char *memory = mlc_gpu_pinned(run->rank->arena.gpu, results_at(run) + sizeof(mlc_results));
    if (memory)
        memcpy(memory + statistics_at(run), run->rank->tables->statistics, statistics_bytes(run));
    return memory;
}

/* Returns a status: that of filling an input. */
static int fill_chunk(mlc_pass *run, char *memory, int c, int64_t n)
{
    mlc_rank *rank = run->rank;
    const mlc_chunk *chunk = &run->chunks[c];
    char *to = memory + inputs_at(run, c, n);
    for (int i = 0; i < chunk->input_count; i++) {
        int input = chunk->inputs[i].input;
        if (run->feed->fill(run->feed, rank, input, run->first + n, 0, rank->model->batch, to, &rank->error))
            return rank->error.status;
        to += input_bytes(rank->model, input);
    }
    return MLC_OK;
}

static int fill(mlc_pass *run, char *memory)
{
    int64_t *numbers = (int64_t *)memory;
    for (int64_t n = 0; n < run->count; n++)
        numbers[n] = run->first + n;
    for (int c = 0; run->chunks && c < run->rank->role->chunk_count; c++)
        for (int64_t n = 0; n < run->count; n++)
            if (fill_chunk(run, memory, c, n))
                return run->rank->error.status;
    return MLC_OK;
}

/* ---- one microbatch on one chunk ---- */

static void launch_row(const mlc_pass *run, mlc_env *env, const mlc_row *row, int64_t n)
{
    uint64_t *operands = run->rank->team->workers[0].operands;
    for (int i = 0; i < row->count; i++)
        operands[i] = mlc_rank_resolve(run->rank, row->at[i], n);
    env->path = row->path;
    mlc_launches_row(run->rank->world.launches, row->run, row->name, operands, row->count);
    row->run(env, operands);
}

static void fetch_inputs(const mlc_pass *run, const mlc_env *env, const char *memory, int c, int64_t n)
{
    const mlc_chunk *chunk = &run->chunks[c];
    const char *from = memory + inputs_at(run, c, n);
    for (int i = 0; i < chunk->input_count; i++) {
        const mlc_binding *binding = &chunk->inputs[i];
        const mlc_model *model = run->rank->model;
        uint64_t bytes = (uint64_t)(model->batch * mlc_input_row_bytes(&model->inputs[binding->input]));
        mlc_ending_fetch(env, mlc_rank_resolve(run->rank, binding->at, n), from, bytes);
        from += input_bytes(model, binding->input);
    }
}

/* In a search: what the uses that this action has added to hold that is not finite. */
static void search(mlc_pass *run, const mlc_env *env, const mlc_action *action)
{
    const mlc_rank *rank = run->rank;
    mlc_results *results = (mlc_results *)env->scratch;
    uint64_t bad = UINT64_MAX;
    mlc_ending_begin(env, rank->tables->statistics, 0);
    mlc_sweep_run(rank, env, (mlc_moment){.at = MLC_AT_SEARCH, .chunk = action->of, .phases = mlc_moment_phases(mlc_action_whole(action))});
    mlc_gpu_read(rank->arena.gpu, &bad, &results->bad_parameter, sizeof bad);
    if (bad != UINT64_MAX)
        mlc_pass_find(run, run->chunks[action->of].stage, run->first + action->microbatch, (int64_t)bad);
}

static void compute(mlc_pass *run, const mlc_env *rows, const char *memory, const mlc_action *action)
{
    const mlc_rank *rank = run->rank;
    const mlc_chunk *chunk = &run->chunks[action->of];
    int64_t n = action->microbatch;
    mlc_env env = *rows;
    env.microbatch = (const int64_t *)(rank->arena.base + rank->role->microbatches) + n;
    bool folds = run->kind == MLC_TRAIN && run->search == MLC_SEARCH_NONE;
    env.fold = folds && n % (rank->model->microbatches / rank->model->groups) != 0;
    if (action->kind == MLC_FORWARD)
        fetch_inputs(run, &env, memory, action->of, n);
    mlc_rows list = mlc_action_rows(chunk, action);
    for (int64_t i = 0; i < list.count; i++)
        launch_row(run, &env, &list.rows[i], n);
    if (run->search == MLC_SEARCH_GRADIENT && !mlc_action_is_halved(chunk, action))
        search(run, rows, action);
}

/* Sums of a group that is complete. In a search each microbatch is on its own. */
static void fold(const mlc_pass *run, const mlc_env *env, const mlc_action *action)
{
    static const int phases[] = {MLC_FORWARD, MLC_INPUT_GRADIENT, MLC_WEIGHT_GRADIENT};
    const mlc_model *model = run->rank->model;
    mlc_moment moment = {.at = MLC_AT_FOLD, .chunk = action->of, .phases = 1U << phases[action->kind - MLC_FOLDF],
                         .group = action->microbatch / (model->microbatches / model->groups)};
    if (run->search == MLC_SEARCH_NONE)
        mlc_sweep_run(run->rank, env, moment);
}

/* ---- statistics ---- */

static void account_value(const mlc_pass *run, const mlc_env *env, const mlc_chunk *chunk, const mlc_value *value)
{
    const mlc_rank *rank = run->rank;
    mlc_terms terms = {.column = value->column, .losses = run->chain->losses, .share = run->share};
    for (int64_t n = 0; n < run->count; n++) {
        terms.number[terms.count] = rank->role->microbatches + (uint64_t)n * sizeof(int64_t);
        terms.value[terms.count] = mlc_rank_resolve(rank, value->at, n);
        terms.weight[terms.count] = chunk->weight_at == MLC_NONE ? MLC_NONE : mlc_rank_resolve(rank, chunk->weight_at, n);
        if (++terms.count == MLC_TERMS || n + 1 == run->count) {
            mlc_ending_account(env, &terms);
            terms.count = 0;
        }
    }
}

static void account(const mlc_pass *run, const mlc_env *env)
{
    for (int c = 0; run->chunks && c < run->rank->role->chunk_count; c++)
        for (int i = 0; i < run->chunks[c].value_count; i++)
            account_value(run, env, &run->chunks[c], &run->chunks[c].values[i]);
    mlc_ending_weigh(env, run->kind == MLC_TRAIN);
}

void mlc_microbatch_note(mlc_pass *run)
{
    (void)run; /* the device has accounted for them */
}

bool mlc_microbatch_run(mlc_pass *run, mlc_env *env, const mlc_action *action)
{
    (void)run, (void)env, (void)action;
    return false;
}

/* ---- the walk ---- */

/* False: the walk ends here. */
static bool act(mlc_pass *run, const mlc_env *env, const char *memory, const mlc_action *action)
{
    if (mlc_action_computes(action)) {
        compute(run, env, memory, action);
        return true;
    }
    switch (action->kind) {
    case MLC_FOLDF:
    case MLC_FOLDI:
    case MLC_FOLDW:
        fold(run, env, action);
        return true;
    case MLC_STATISTICS:
        account(run, env);
        return run->search == MLC_SEARCH_NONE;
    case MLC_NORM:
        mlc_sweep_run(run->rank, env, (mlc_moment){.at = MLC_AT_NORM});
        mlc_ending_norm(env, run->rank->model->clip);
        return run->update;
    case MLC_UPDATE:
        mlc_sweep_run(run->rank, env, (mlc_moment){.at = MLC_AT_UPDATE});
        return true;
    default:
        return true; /* of several ranks; or VERDICT: the host reads it */
    }
}

static void list_action(const mlc_rank *rank, const mlc_action *action)
{
    char name[MLC_ACTION_NAME_BYTES];
    if (!rank->world.launches)
        return;
    mlc_action_name(name, rank->model, rank->place, action);
    mlc_launches_action(rank->world.launches, name);
}

static void walk(mlc_pass *run, const char *memory)
{
    mlc_rank *rank = run->rank;
    mlc_env env = launch_env(rank);
    mlc_actions list = rank->program->lists[run->kind];
    bool is_accounted = false;
    fetch_record(rank, &env);
    mlc_ending_begin(&env, memory + statistics_at(run), statistics_bytes(run));
    mlc_ending_fetch(&env, rank->role->microbatches, memory, (uint64_t)run->count * sizeof(int64_t));
    for (int i = 0; i < list.count; i++) {
        const mlc_action *action = &list.actions[i];
        if (mlc_action_computes(action) && action->microbatch >= run->count)
            continue;
        is_accounted |= action->kind == MLC_STATISTICS;
        list_action(rank, action);
        if (!act(run, &env, memory, action))
            break;
    }
    if (!is_accounted)
        account(run, &env);
}

/* What tells apart lists that are captured: chain, whether it updates, microbatches, and the share of each. */
static mlc_gpu_key key_of(const mlc_pass *run)
{
    return (mlc_gpu_key){.share = run->share, .count = run->count, .kind = 2 * run->kind + run->update};
}

/* The graph of the list, with its inputs made; captured again where what it launches is listed. NULL: it failed. */
static mlc_gpu_graph *captured(mlc_pass *run)
{
    mlc_gpu *gpu = run->rank->arena.gpu;
    mlc_gpu_graph *graph = mlc_gpu_graph_of(gpu, key_of(run));
    if (graph && !run->rank->world.launches)
        return fill(run, mlc_gpu_graph_staged(graph)) ? NULL : graph;
    if (statistics_bytes(run) > MLC_TALLIES_BYTES) {
        mlc_error_set(&run->rank->error, MLC_BAD_INPUT, "a program for GPUs keeps %d sums of losses and metrics, and this chain has %d",
                      MLC_TALLIES_BYTES / MLC_STATISTIC_BYTES, mlc_statistics_count(run->chain));
        return NULL;
    }
    char *memory = staged_memory(run);
    if (!memory || fill(run, memory)) {
        mlc_gpu_unpin(gpu, memory);
        return NULL;
    }
    mlc_gpu_begin(gpu);
    walk(run, memory);
    return mlc_gpu_end(gpu, key_of(run), memory);
}

/* ---- results ---- */

static void read_refusal(mlc_pass *run, const mlc_results *results)
{
    run->refused = mlc_refusal_none();
    run->refuses = results->refused != UINT64_MAX;
    if (!run->refuses)
        return;
    run->refused.microbatch = mlc_refusal_microbatch(results->refused);
    run->refused.site = mlc_refusal_site(results->refused);
    for (uint32_t i = 0; i < results->refusals && i < MLC_REFUSALS; i++) {
        const mlc_noted_refusal *noted = &results->noted[i];
        if (noted->key != results->refused)
            continue;
        run->refused.element = noted->element;
        run->refused.each = noted->each;
        run->refused.value = noted->value;
        run->refused.extent = noted->extent;
        memcpy(run->refused.where, noted->where, sizeof run->refused.where);
    }
}

_Static_assert(sizeof((mlc_refusal *)0)->where == MLC_REFUSAL_TEXT, "a refusal and what a device notes of it");

static void read_results(mlc_pass *run, mlc_results *results)
{
    mlc_rank *rank = run->rank;
    mlc_gpu_read(rank->arena.gpu, results, mlc_arena_scratch(&rank->arena, 0), sizeof *results);
    mlc_statistic *statistics = rank->tables->statistics;
    memcpy(statistics, results->statistics, statistics_bytes(run));
    const mlc_notes *notes = mlc_statistics_notes(statistics);
    run->exchanged = true;
    if (notes->flawed.microbatch < INT64_MAX)
        run->bad_microbatch = notes->flawed.microbatch, run->bad_column = notes->flawed.column;
    mlc_statistics_combine(rank->tables->totals, statistics, statistics_bytes(run));
    run->weight_sum = mlc_tally_value(mlc_statistics_tally(rank->tables->totals, MLC_TALLY_WEIGHT));
    read_refusal(run, results);
    run->bad_parameter = (int64_t)results->bad_parameter;
    run->flaw = (int64_t)results->flaw;
    rank->result.signals = rank->signals ? *rank->signals : 0;
    rank->result.grad_norm = results->norm;
    rank->result.clip_factor = results->clip;
}

/* A failure of the GPU is the rank's. */
static int status_of(const mlc_pass *run)
{
    mlc_error *error = &run->rank->error;
    const char *failure = mlc_gpu_failed(run->rank->arena.gpu);
    return failure && !error->status ? mlc_error_set(error, MLC_FAILED, "%s", failure) : error->status;
}

/* A list, action by action. */
static int walk_again(mlc_pass *run)
{
    char *memory = staged_memory(run);
    if (memory && !fill(run, memory)) {
        walk(run, memory);
        mlc_gpu_wait(run->rank->arena.gpu);
    }
    mlc_gpu_unpin(run->rank->arena.gpu, memory);
    return status_of(run);
}

int mlc_pass_walk(mlc_pass *run)
{
    mlc_rank *rank = run->rank;
    rank->error.status = 0;
    rank->record->held = 0;
    mlc_statistics_clear(rank->tables->statistics, mlc_statistics_count(run->chain));
    board_step(run);
    if (run->search != MLC_SEARCH_NONE)
        return walk_again(run);
    mlc_gpu_graph *graph = captured(run);
    if (!graph)
        return status_of(run);
    mlc_gpu_launch(rank->arena.gpu, graph);
    mlc_gpu_wait(rank->arena.gpu);
    if (status_of(run))
        return rank->error.status;
    read_results(run, (mlc_results *)((char *)mlc_gpu_graph_staged(graph) + results_at(run)));
    return status_of(run);
}
