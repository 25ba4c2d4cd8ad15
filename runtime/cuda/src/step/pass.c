/* pass.c: see pass.h. The list of a chain is walked once, under capture, into a graph of all it does: copies of inputs, rows, sums, the
 * update. A pass is then: the host makes record and inputs in pinned memory, the graph is launched, its results are read. Nothing is
 * decided by the host in between. What looks for the cause of a failure walks the list again, action by action. */
#include "step/pass.h"

#include "mlc_ending.h"
#include "mlc_gpu.h"
#include "mlc_found.h"
#include "model/action.h"
#include "model/finite.h"
#include "model/results.h"
#include "model/tables.h"
#include "report/trace.h"
#include "step/collective.h"
#include "step/edges.h"
#include "step/sweep.h"
#include "step/wire.h"
#include "world/launches.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
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
                     .microbatch = &record->microbatch, .threads = 1, .stream = mlc_gpu_stream(arena->gpu),
                     .calls = mlc_gpu_calls(arena->gpu)};
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
 * numbers of the microbatches | inputs of each chunk, microbatch by microbatch | clear statistics | what was noted
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

static size_t found_at(const mlc_pass *run)
{
    return line(statistics_at(run) + statistics_bytes(run));
}

/* NULL: there is no more. */
static char *staged_memory(const mlc_pass *run)
{
    char *memory = mlc_gpu_pinned(run->rank->arena.gpu, found_at(run) + sizeof(mlc_found));
    if (memory)
        mlc_statistics_clear((mlc_statistic *)(memory + statistics_at(run)), mlc_statistics_count(run->chain), run->chain->losses);
    return memory;
}

/* Returns a status: that of filling an input. Where it fails zeros are there: the others wait for messages. */
static int fill_chunk(mlc_pass *run, char *memory, int c, int64_t n)
{
    mlc_rank *rank = run->rank;
    const mlc_chunk *chunk = &run->chunks[c];
    char *to = memory + inputs_at(run, c, n);
    for (int i = 0; i < chunk->input_count; i++) {
        int input = chunk->inputs[i].input;
        if (run->feed->fill(run->feed, rank, input, run->first + n, 0, rank->model->batch, to, &rank->error)) {
            memset(to, 0, input_bytes(rank->model, input));
            return rank->error.status;
        }
        to += input_bytes(rank->model, input);
    }
    return MLC_OK;
}

/* False: something is missing. */
static bool fill(mlc_pass *run, char *memory)
{
    int64_t *numbers = (int64_t *)memory;
    bool whole = true;
    for (int64_t n = 0; n < run->count; n++)
        numbers[n] = run->first + n;
    for (int c = 0; run->chunks && c < run->rank->role->chunk_count; c++)
        for (int64_t n = 0; n < run->count; n++)
            whole &= !fill_chunk(run, memory, c, n);
    return whole;
}

/* What the rank notes of itself for all. */
static void note(const mlc_pass *run, char *memory, bool whole)
{
    mlc_notes *notes = mlc_statistics_notes((mlc_statistic *)(memory + statistics_at(run)));
    notes->signals = run->rank->signals ? *run->rank->signals : 0;
    notes->failed = !whole;
}

/* ---- one microbatch on one chunk ---- */

/* Something begins here, if somebody wants to know when. */
static void mark(const mlc_pass *run, const mlc_action *action, const mlc_row *row)
{
    if (run->rank->trace && run->search == MLC_SEARCH_NONE)
        mlc_gpu_mark(run->rank->arena.gpu, action, row);
}

static void launch_row(const mlc_pass *run, mlc_env *env, const mlc_action *action, const mlc_row *row, int64_t n)
{
    uint64_t *operands = run->rank->team->workers[0].operands;
    for (int i = 0; i < row->count; i++)
        operands[i] = mlc_rank_resolve(run->rank, row->at[i], n);
    env->path = row->path;
    mark(run, action, row);
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
    const mlc_found *found = (const mlc_found *)env->scratch;
    uint64_t bad = UINT64_MAX;
    mlc_ending_begin(env);
    mlc_sweep_run(rank, env, (mlc_moment){.at = MLC_AT_SEARCH, .chunk = action->of, .phases = mlc_moment_phases(mlc_action_whole(action))});
    mlc_gpu_read(rank->arena.gpu, &bad, &found->bad_parameter, sizeof bad);
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
    if (action->kind == MLC_FORWARD) {
        run->stage = chunk->stage;
        fetch_inputs(run, &env, memory, action->of, n);
    }
    mlc_rows list = mlc_action_rows(chunk, action);
    for (int64_t i = 0; i < list.count; i++)
        launch_row(run, &env, action, &list.rows[i], n);
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

/* ---- messages ---- */

/* Looks through a message of states for what arithmetic leaves where it is not finite, as on a CPU (runtime/src/step/pass.c), in f32, or in
 * bf16 at the upper half of a word; 0x7fff....: the NaN that a GPU makes. Nothing but the name of a stage depends on it. */
static bool is_tainted(const mlc_rank *rank, const char *slot, uint64_t bytes)
{
    uint32_t *words = malloc(bytes);
    bool tainted = false;
    if (!words)
        return false;
    mlc_gpu_read(rank->arena.gpu, words, slot, bytes);
    for (uint64_t i = 0; i < bytes / sizeof *words; i++) {
        uint32_t upper = words[i] >> 16, magnitude = upper & 0x7fff;
        tainted |= magnitude == 0x7f80 || magnitude == 0x7fc0 || upper == 0x7fff;
    }
    free(words);
    return tainted;
}

static int send(mlc_pass *run, mlc_link *link, const mlc_action *action)
{
    mlc_rank *rank = run->rank;
    bool searched = run->search == MLC_SEARCH_LOSS && link->channel->kind == MLC_ACTIVATION;
    if (searched && is_tainted(rank, mlc_wire_outgoing(rank, link, action->microbatch), link->channel->slot_bytes))
        mlc_pass_find(run, run->stage, run->first + action->microbatch, -1);
    mlc_wire_post(rank, link);
    return MLC_OK;
}

static int transfer(mlc_pass *run, const mlc_action *action)
{
    mlc_rank *rank = run->rank;
    mlc_link *link = rank->tables->links[action->of];
    switch (action->kind) {
    case MLC_RECEIVE:
        return mlc_wire_await_arrived(rank, link, action->microbatch);
    case MLC_SENT:
        return mlc_wire_await_sent(rank, link, action->microbatch);
    case MLC_SEND:
        return send(run, link, action);
    default:
        mlc_wire_release(rank, link);
        return MLC_OK;
    }
}

/* The messages of the list, one a microbatch on each of its channels. Returns a status. */
static int begin_messages(const mlc_pass *run)
{
    mlc_rank *rank = run->rank;
    for (int i = 0; i < rank->model->schedule->channel_count; i++) {
        mlc_link *link = rank->tables->links[i];
        if (link && link->channel->chain == run->kind && mlc_wire_begin(rank, link, run->count))
            return rank->error.status;
    }
    return MLC_OK;
}

/* ---- statistics ---- */

/* A result, on the device. */
static char *result_at(const mlc_rank *rank, size_t offset)
{
    return rank->arena.base + rank->role->results + offset;
}

/* What the rank has, then what all have. Returns a status. */
static int account(const mlc_pass *run, const mlc_env *env)
{
    mlc_rank *rank = run->rank;
    char *statistics = result_at(rank, offsetof(mlc_results, statistics));
    mlc_sweep_run(rank, env, (mlc_moment){.at = MLC_AT_STATISTICS, .chain = run->kind, .count = run->count});
    if (mlc_edges_exchange(rank, env, MLC_SHARED_STATISTICS, statistics, mlc_statistics_count(run->chain)))
        return rank->error.status;
    if (run->kind == MLC_TRAIN)
        mlc_sweep_run(rank, env, (mlc_moment){.at = MLC_AT_WEIGH});
    return MLC_OK;
}

static int share_norm(const mlc_pass *run, const mlc_env *env)
{
    mlc_rank *rank = run->rank;
    mlc_sweep_run(rank, env, (mlc_moment){.at = MLC_AT_NORM});
    if (mlc_edges_exchange(rank, env, MLC_SHARED_SQUARES, result_at(rank, offsetof(mlc_results, squares)), 1))
        return rank->error.status;
    mlc_sweep_run(rank, env, (mlc_moment){.at = MLC_AT_CLIP});
    return MLC_OK;
}

/* In the search for a loss: which part of it on which microbatch is not finite. */
static void find_loss(mlc_pass *run, const mlc_chunk *chunk, int64_t n)
{
    for (int i = 0; i < chunk->value_count; i++) {
        float value;
        mlc_memory_read(&run->rank->arena, mlc_rank_resolve(run->rank, chunk->values[i].at, n), &value, sizeof value);
        if (chunk->values[i].column < run->chain->losses && !isfinite(value))
            mlc_pass_find(run, chunk->stage, run->first + n, -1);
    }
}

void mlc_microbatch_search(mlc_pass *run)
{
    for (int c = 0; run->chunks && c < run->rank->role->chunk_count; c++)
        for (int64_t n = 0; n < run->count; n++)
            find_loss(run, &run->chunks[c], n);
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
    mlc_rank *rank = run->rank;
    if (mlc_action_computes(action)) {
        compute(run, env, memory, action);
        return true;
    }
    switch (action->kind) {
    case MLC_RECEIVE:
    case MLC_FREE:
    case MLC_SEND:
    case MLC_SENT:
        return !transfer(run, action);
    case MLC_FOLDF:
    case MLC_FOLDI:
    case MLC_FOLDW:
        fold(run, env, action);
        return true;
    case MLC_STATISTICS:
        return run->search == MLC_SEARCH_NONE && !account(run, env);
    case MLC_REDUCE:
        return mlc_collective_reduce(rank, env, action->of, action->microbatch);
    case MLC_SHARE:
        return mlc_collective_share(rank, env, action);
    case MLC_NORM:
        return !share_norm(run, env) && run->update;
    case MLC_UPDATE:
        mlc_sweep_run(rank, env, (mlc_moment){.at = MLC_AT_UPDATE});
        return true;
    case MLC_SPREAD:
        return mlc_collective_spread(rank, env, action);
    case MLC_GATHER:
        return mlc_collective_gather(rank, env, action->microbatch);
    default:
        return true; /* VERDICT: the host shares what it reads */
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

/* Is this an action of a microbatch that the round does not have? */
static bool is_absent(const mlc_pass *run, const mlc_action *action)
{
    return action->kind <= MLC_SENT && action->microbatch >= run->count;
}

/* Ends early where the error of the rank is set. */
static void walk_list(mlc_pass *run, const mlc_env *env, const char *memory)
{
    mlc_rank *rank = run->rank;
    mlc_actions list = rank->program->lists[run->kind];
    bool is_accounted = false;
    for (int i = 0; i < list.count; i++) {
        const mlc_action *action = &list.actions[i];
        if (is_absent(run, action))
            continue;
        is_accounted |= action->kind == MLC_STATISTICS;
        list_action(rank, action);
        mark(run, action, NULL);
        if (!act(run, env, memory, action))
            break;
    }
    if (!is_accounted && !rank->error.status && run->search == MLC_SEARCH_NONE)
        account(run, env);
}

static void walk(mlc_pass *run, const char *memory)
{
    mlc_rank *rank = run->rank;
    mlc_env env = launch_env(rank);
    mlc_edges_walk(rank, run->kind);
    fetch_record(rank, &env);
    mlc_ending_begin(&env);
    mlc_ending_fetch(&env, rank->role->results + offsetof(mlc_results, statistics), memory + statistics_at(run), statistics_bytes(run));
    mlc_ending_fetch(&env, rank->role->microbatches, memory, (uint64_t)run->count * sizeof(int64_t));
    if (!begin_messages(run))
        walk_list(run, &env, memory);
    mlc_edges_join(rank);
    mark(run, NULL, NULL);
}

/* What tells apart lists that are captured: chain, whether it updates, microbatches, and the share of each. */
static mlc_gpu_key key_of(const mlc_pass *run)
{
    return (mlc_gpu_key){.share = run->share, .count = run->count, .kind = 2 * run->kind + run->update};
}

/* The graph of the list; captured again where what it launches is listed. NULL: it failed. */
static mlc_gpu_graph *captured(mlc_pass *run)
{
    mlc_gpu *gpu = run->rank->arena.gpu;
    mlc_gpu_graph *graph = mlc_gpu_graph_of(gpu, key_of(run));
    if (graph && !run->rank->world.launches && (!run->rank->trace || mlc_gpu_moments(graph)))
        return graph;
    char *memory = staged_memory(run);
    if (!memory)
        return NULL;
    mlc_gpu_begin(gpu);
    walk(run, memory);
    mlc_gpu_graph *made = mlc_gpu_end(gpu, key_of(run), memory);
    return run->rank->error.status ? NULL : made;
}

/* ---- results ---- */

static void read_refusal(mlc_pass *run, const mlc_found *found)
{
    run->refused = mlc_refusal_none();
    if (found->refused == UINT64_MAX)
        return;
    run->refused.microbatch = mlc_refusal_microbatch(found->refused);
    run->refused.site = mlc_refusal_site(found->refused);
    for (uint32_t i = 0; i < found->refusals && i < MLC_REFUSALS; i++) {
        const mlc_noted_refusal *noted = &found->noted[i];
        if (noted->key != found->refused)
            continue;
        run->refused.element = noted->element;
        run->refused.each = noted->each;
        run->refused.value = noted->value;
        run->refused.extent = noted->extent;
        memcpy(run->refused.where, noted->where, sizeof run->refused.where);
    }
}

_Static_assert(sizeof((mlc_refusal *)0)->where == MLC_REFUSAL_TEXT, "a refusal and what a device notes of it");

/* What all ranks have noted in the list, read into the statistics that are staged. */
static void read_statistics(mlc_pass *run, mlc_statistic *statistics)
{
    mlc_rank *rank = run->rank;
    mlc_memory_read(&rank->arena, rank->role->results + offsetof(mlc_results, statistics), statistics, statistics_bytes(run));
    const mlc_notes *notes = mlc_statistics_notes(statistics);
    run->exchanged = true;
    rank->result.signals = notes->signals;
    run->refuses = notes->refused && !notes->failed;
    if (!notes->failed && notes->flawed.microbatch < INT64_MAX)
        run->bad_microbatch = notes->flawed.microbatch, run->bad_column = notes->flawed.column;
    mlc_statistics_combine(rank->tables->totals, statistics, statistics_bytes(run));
    run->weight_sum = mlc_tally_value(mlc_statistics_tally(rank->tables->totals, MLC_TALLY_WEIGHT));
}

/* What a step has found. */
static void read_results(mlc_pass *run)
{
    mlc_rank *rank = run->rank;
    mlc_results results;
    float clip;
    if (run->kind != MLC_TRAIN)
        return;
    mlc_memory_read(&rank->arena, rank->role->results, &results, sizeof results);
    mlc_memory_read(&rank->arena, rank->role->record + offsetof(mlc_record, clip), &clip, sizeof clip);
    rank->result.grad_norm = results.norm;
    rank->result.clip_factor = clip;
    run->bad_parameter = results.squares.bad;
    if (run->update)
        run->flaw = results.flaw;
}

/* A failure of the GPU is the rank's. */
static int status_of(const mlc_pass *run)
{
    mlc_error *error = &run->rank->error;
    const char *failure = mlc_gpu_failed(run->rank->arena.gpu);
    if (failure && !error->status)
        mlc_error_set(error, MLC_FAILED, "%s", failure);
    return mlc_edges_check(run->rank);
}

/* ---- times ---- */

/* What an action does that has no rows, as a row; NULL: nothing that is timed alone. */
static const char *part_name(const mlc_action *action)
{
    switch (action->kind) {
    case MLC_FOLDF:
    case MLC_FOLDI:
    case MLC_FOLDW:
        return "fold";
    case MLC_STATISTICS:
        return "statistics";
    case MLC_REDUCE:
        return "reduce";
    case MLC_SHARE:
        return "share";
    case MLC_NORM:
        return "norm";
    case MLC_UPDATE:
        return "update";
    case MLC_SPREAD:
        return "spread";
    case MLC_GATHER:
        return "gather";
    default:
        return NULL;
    }
}

/* The action that began at moment n ended at the next that is of no row. */
static void trace_action(const mlc_pass *run, const mlc_gpu_graph *graph, int n, const mlc_env *env)
{
    mlc_gpu *gpu = run->rank->arena.gpu;
    mlc_gpu_moment began = mlc_gpu_moment_at(gpu, graph, n), ended;
    do
        ended = mlc_gpu_moment_at(gpu, graph, ++n);
    while (ended.row);
    const mlc_action *action = began.action;
    const char *part = part_name(action);
    if (part)
        mlc_trace_row(run->rank->trace, env, part, 0, began.at, ended.at, ended.at);
    mlc_trace_action(run->rank->trace, env, action, began.at, ended.at);
}

/* Rows before the action that has them, as on CPUs. */
static void trace(const mlc_pass *run, const mlc_gpu_graph *graph)
{
    mlc_gpu *gpu = run->rank->arena.gpu;
    const mlc_env env = {.thread = 0};
    int action = -1;
    for (int n = 0; run->rank->trace && n < mlc_gpu_moments(graph); n++) {
        mlc_gpu_moment began = mlc_gpu_moment_at(gpu, graph, n);
        const mlc_row *row = began.row;
        if (row) {
            int64_t ended = mlc_gpu_moment_at(gpu, graph, n + 1).at;
            mlc_trace_row(run->rank->trace, &env, row->name, row->flops, began.at, ended, ended);
            continue;
        }
        if (action >= 0)
            trace_action(run, graph, action, &env);
        action = n;
    }
}

/* ---- what ranks share by the host, behind the list ---- */

/* VERDICT, and the first index out of range. Returns a status. */
static int share_findings(mlc_pass *run)
{
    mlc_world *world = &run->rank->world;
    if (run->refuses && mlc_exchange(world, &run->refused, sizeof run->refused, sizeof run->refused, mlc_refusal_combine))
        return run->rank->error.status;
    if (run->update && mlc_exchange(world, &run->flaw, sizeof run->flaw, sizeof run->flaw, mlc_flaws_combine))
        return run->rank->error.status;
    return MLC_OK;
}

/* ---- a pass ---- */

/* A list, action by action. */
static int walk_again(mlc_pass *run)
{
    char *memory = staged_memory(run);
    if (!memory)
        return status_of(run);
    fill(run, memory);
    mlc_edges_begin(run->rank, run->count);
    walk(run, memory);
    mlc_gpu_wait(run->rank->arena.gpu);
    if (run->search == MLC_SEARCH_LOSS)
        mlc_microbatch_search(run);
    mlc_gpu_unpin(run->rank->arena.gpu, memory);
    return status_of(run);
}

/* Inputs of a rank that has none are zeros, so that the others go on. Leaves in the memory of the graph what was found. */
static int run_graph(mlc_pass *run, const mlc_gpu_graph *graph, mlc_error *unfed)
{
    mlc_rank *rank = run->rank;
    char *memory = mlc_gpu_graph_staged(graph);
    mlc_statistic *statistics = (mlc_statistic *)(memory + statistics_at(run));
    mlc_found *found = (mlc_found *)(memory + found_at(run));
    bool whole = fill(run, memory);
    *unfed = rank->error;
    rank->error.status = 0;
    mlc_statistics_clear(statistics, mlc_statistics_count(run->chain), run->chain->losses);
    note(run, memory, whole);
    mlc_edges_begin(rank, run->count);
    mlc_gpu_launch(rank->arena.gpu, graph);
    mlc_gpu_wait(rank->arena.gpu);
    board_step(run);
    if (status_of(run))
        return rank->error.status;
    mlc_gpu_read(rank->arena.gpu, found, mlc_arena_scratch(&rank->arena, 0), sizeof *found);
    read_refusal(run, found);
    read_statistics(run, statistics);
    read_results(run);
    trace(run, graph);
    return status_of(run);
}

static int pass(mlc_pass *run)
{
    mlc_rank *rank = run->rank;
    mlc_error unfed;
    rank->error.status = 0;
    rank->record->held = 0;
    rank->record->share = run->share;
    board_step(run);
    if (run->search != MLC_SEARCH_NONE)
        return walk_again(run);
    mlc_gpu_graph *graph = captured(run);
    if (!graph || run_graph(run, graph, &unfed))
        return status_of(run);
    atomic_fetch_add_explicit(&rank->world.status->progress, 1, memory_order_relaxed);
    const mlc_statistic *statistics = (const mlc_statistic *)((char *)mlc_gpu_graph_staged(graph) + statistics_at(run));
    if (share_findings(run) || !statistics->of.notes.failed)
        return rank->error.status;
    rank->error = unfed;
    return mlc_agree(&rank->world, &rank->error);
}

/* A rank whose GPU computes is inside of its list, for those that look for progress. */
int mlc_pass_walk(mlc_pass *run)
{
    atomic_store(&run->rank->team->running, true);
    int status = pass(run);
    atomic_store(&run->rank->team->running, false);
    return status;
}
