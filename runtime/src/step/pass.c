/* pass.c: see pass.h. */
#include "step/pass.h"

#include "model/action.h"
#include "model/results.h"
#include "model/tables.h"
#include "report/trace.h"
#include "step/collective.h"
#include "step/sweep.h"
#include "world/launches.h"

#include <string.h>

/* ---- the board, and names for traces and reports ---- */

static void board_step(const mlc_pass *run)
{
    mlc_status_board *board = run->rank->world.status;
    atomic_store_explicit(&board->action, -1, memory_order_relaxed);
    atomic_store_explicit(&board->chain, run->kind, memory_order_relaxed);
    atomic_store_explicit(&board->step, run->rank->step, memory_order_relaxed);
    atomic_store_explicit(&board->state, MLC_RANK_COMPUTES, memory_order_relaxed);
}

static void board_action(const mlc_pass *run, int64_t action)
{
    atomic_store_explicit(&run->rank->world.status->action, action, memory_order_relaxed);
}

int64_t mlc_pass_begin_part(const mlc_pass *run, const mlc_env *env, const char *name)
{
    atomic_store_explicit(&mlc_worker_of(env)->row, name, memory_order_relaxed);
    return run->rank->trace ? mlc_clock() : 0;
}

void mlc_pass_end_part(const mlc_pass *run, const mlc_env *env, const char *name, int64_t started)
{
    if (!run->rank->trace)
        return;
    int64_t now = mlc_clock();
    mlc_trace_row(run->rank->trace, env, name, 0, started, now, now);
}

/* ---- messages ---- */

/* Looks through a message of states for what arithmetic leaves where it is not finite: infinities and the NaN that the machine makes,
 * in f32, or in bf16 at the upper half of a word; in f64 where that is the wide dtype. Nothing but the name of a stage depends on it. */
static bool is_tainted(const mlc_rank *rank, const char *slot, uint64_t bytes)
{
    uint64_t unit = mlc_wide_bytes(rank->model);
    uint32_t infinite = unit == sizeof(double) ? 0x7ff0 : 0x7f80, undefined = unit == sizeof(double) ? 0x7ff8 : 0x7fc0;
    for (uint64_t at = unit - sizeof(uint32_t); at < bytes; at += unit) {
        uint32_t word;
        memcpy(&word, slot + at, sizeof word);
        uint32_t upper = word >> 16 & 0x7fff;
        if (upper == infinite || upper == undefined)
            return true;
    }
    return false;
}

static int send(mlc_pass *run, mlc_link *link, int64_t n, int64_t microbatch)
{
    bool searched = run->search == MLC_SEARCH_LOSS && link->channel->kind == MLC_ACTIVATION;
    if (searched && is_tainted(run->rank, mlc_link_outgoing(link, n), link->channel->slot_bytes))
        mlc_pass_find(run, run->stage, microbatch, -1);
    mlc_link_post(&run->rank->world, link);
    return MLC_OK;
}

/* Local message `action->microbatch` of a channel, by the lead thread. */
static int transfer(mlc_pass *run, const mlc_action *action)
{
    mlc_world *world = &run->rank->world;
    mlc_link *link = run->rank->tables->links[action->of];
    int64_t n = action->microbatch;
    switch (action->kind) {
    case MLC_RECEIVE:
        return mlc_link_wait_arrived(world, link, n);
    case MLC_SENT:
        return mlc_link_wait_sent(world, link, n);
    case MLC_SEND:
        return send(run, link, n, run->first + action->microbatch);
    default:
        mlc_link_release(world, link);
        return MLC_OK;
    }
}

/* The messages of the list, one a microbatch on each of its channels. Returns a status. */
static int begin_messages(const mlc_pass *run)
{
    mlc_rank *rank = run->rank;
    for (int i = 0; i < rank->model->schedule->channel_count; i++) {
        mlc_link *link = rank->tables->links[i];
        if (link && link->channel->chain == run->kind && mlc_link_begin(&rank->world, link, run->count))
            return rank->error.status;
    }
    return MLC_OK;
}

/* ---- statistics ---- */

/* The first index out of range that a thread of this rank has met. */
static mlc_refusal refused_here(const mlc_rank *rank)
{
    mlc_refusal first = mlc_refusal_none();
    for (int i = 0; i < rank->team->threads; i++)
        mlc_refusal_combine(&first, &rank->team->workers[i].refused, sizeof first);
    return first;
}

/* Some rank has met one: every rank gets the first, when the list has ended. Returns a status. */
static int exchange_refusals(mlc_pass *run)
{
    return mlc_exchange(&run->rank->world, &run->refused, sizeof run->refused, sizeof run->refused, mlc_refusal_combine);
}

/* By the lead thread: every rank gets what all ranks have noted. Returns a status. */
static int exchange(mlc_pass *run)
{
    mlc_rank *rank = run->rank;
    mlc_statistic *statistics = mlc_results_of(rank)->statistics;
    size_t bytes = (size_t)mlc_statistics_count(run->chain) * sizeof *statistics;
    mlc_statistics_notes(statistics)->signals = rank->signals ? *rank->signals : 0;
    run->refused = refused_here(rank);
    run->exchanged = true;
    return mlc_exchange(&rank->world, statistics, bytes, sizeof *statistics, mlc_statistics_combine);
}

static bool run_statistics(mlc_pass *run, mlc_env *env)
{
    if (run->search != MLC_SEARCH_NONE)
        return false;
    int64_t started = mlc_pass_begin_part(run, env, "statistics");
    mlc_sweep_run(run->rank, env, (mlc_moment){.at = MLC_AT_STATISTICS, .chain = run->kind, .count = run->count});
    if (env->thread == 0 && !mlc_team_stopping(env) && exchange(run))
        mlc_team_stop(env);
    mlc_barrier(env);
    bool goes_on = !mlc_stopped(env);
    if (goes_on && run->kind == MLC_TRAIN)
        mlc_sweep_run(run->rank, env, (mlc_moment){.at = MLC_AT_WEIGH});
    mlc_pass_end_part(run, env, "statistics", started);
    return goes_on;
}

/* ---- gradients ---- */

/* Whole gradients and their norm. False: stop, for they are all that is wanted. */
static bool run_norm(mlc_pass *run, mlc_env *env)
{
    mlc_rank *rank = run->rank;
    mlc_squares *squares = &mlc_results_of(rank)->squares;
    int64_t started = mlc_pass_begin_part(run, env, "gradients");
    mlc_sweep_run(rank, env, (mlc_moment){.at = MLC_AT_NORM});
    if (env->thread == 0 && mlc_exchange(&rank->world, squares, sizeof *squares, sizeof *squares, mlc_squares_combine))
        mlc_team_stop(env);
    mlc_barrier(env);
    bool goes_on = !mlc_stopped(env);
    if (goes_on)
        mlc_sweep_run(rank, env, (mlc_moment){.at = MLC_AT_CLIP});
    mlc_pass_end_part(run, env, "gradients", started);
    return goes_on && run->update;
}

/* Sums of a group that is complete. In a search each microbatch is on its own. */
static bool run_fold(mlc_pass *run, const mlc_env *env, const mlc_action *action)
{
    static const int phases[] = {MLC_FORWARD, MLC_INPUT_GRADIENT, MLC_WEIGHT_GRADIENT};
    const mlc_model *model = run->rank->model;
    if (run->search != MLC_SEARCH_NONE)
        return true;
    int64_t started = mlc_pass_begin_part(run, env, "fold");
    mlc_sweep_run(run->rank, env, (mlc_moment){.at = MLC_AT_FOLD, .chunk = action->of, .phases = 1U << phases[action->kind - MLC_FOLDF],
                                             .group = action->microbatch / (model->microbatches / model->groups)});
    mlc_pass_end_part(run, env, "fold", started);
    return true;
}

static bool run_reduce(mlc_pass *run, mlc_env *env, const mlc_action *action)
{
    int64_t started = mlc_pass_begin_part(run, env, "reduce");
    bool whole = mlc_collective_reduce(run->rank, env, action->of, action->microbatch);
    mlc_pass_end_part(run, env, "reduce", started);
    return whole;
}

static bool run_share(mlc_pass *run, mlc_env *env, const mlc_action *action)
{
    int64_t started = mlc_pass_begin_part(run, env, "share");
    bool whole = mlc_collective_share(run->rank, env, action);
    mlc_pass_end_part(run, env, "share", started);
    return whole;
}

static bool run_update(mlc_pass *run, mlc_env *env)
{
    int64_t started = mlc_pass_begin_part(run, env, "update");
    mlc_sweep_run(run->rank, env, (mlc_moment){.at = MLC_AT_UPDATE});
    mlc_pass_end_part(run, env, "update", started);
    return true;
}

static bool run_spread(mlc_pass *run, mlc_env *env, const mlc_action *action)
{
    int64_t started = mlc_pass_begin_part(run, env, "spread");
    bool whole = mlc_collective_spread(run->rank, env, action);
    mlc_pass_end_part(run, env, "spread", started);
    return whole;
}

static bool run_gather(mlc_pass *run, mlc_env *env, const mlc_action *action)
{
    int64_t started = mlc_pass_begin_part(run, env, "gather");
    bool whole = mlc_collective_gather(run->rank, env, action->microbatch);
    mlc_pass_end_part(run, env, "gather", started);
    return whole;
}

/* What the update left that is not finite, on any rank. */
static bool run_verdict(mlc_pass *run, const mlc_env *env)
{
    int64_t started = mlc_pass_begin_part(run, env, "verdict"), *flaw = &mlc_results_of(run->rank)->flaw;
    if (env->thread == 0 && !mlc_team_stopping(env) && mlc_exchange(&run->rank->world, flaw, sizeof *flaw, sizeof *flaw, mlc_flaws_combine))
        mlc_team_stop(env);
    mlc_barrier(env);
    mlc_pass_end_part(run, env, "verdict", started);
    return !mlc_stopped(env);
}

/* ---- the walk ---- */

static bool is_transfer(const mlc_action *action)
{
    return action->kind >= MLC_RECEIVE && action->kind <= MLC_SENT;
}

/* Is this an action of a microbatch that the round does not have? */
static bool is_absent(const mlc_pass *run, const mlc_action *action)
{
    return action->kind <= MLC_SENT && action->microbatch >= run->count;
}

/* False on every thread: the walk ends here. */
static bool act(mlc_pass *run, mlc_env *env, const mlc_action *action)
{
    if (mlc_action_computes(action))
        return mlc_microbatch_run(run, env, action);
    switch (action->kind) {
    case MLC_FOLDF:
    case MLC_FOLDI:
    case MLC_FOLDW:
        return run_fold(run, env, action);
    case MLC_STATISTICS:
        return run_statistics(run, env);
    case MLC_REDUCE:
        return run_reduce(run, env, action);
    case MLC_SHARE:
        return run_share(run, env, action);
    case MLC_NORM:
        return run_norm(run, env);
    case MLC_UPDATE:
        return run_update(run, env);
    case MLC_SPREAD:
        return run_spread(run, env, action);
    case MLC_GATHER:
        return run_gather(run, env, action);
    default:
        return run_verdict(run, env);
    }
}

/* The lead thread alone moves messages; the others meet it at the next action. After a failure it only goes there. */
static void lead_transfer(mlc_pass *run, const mlc_env *env, const mlc_action *action)
{
    if (!mlc_team_stopping(env) && transfer(run, action))
        mlc_team_stop(env);
}

/* By the lead thread: others may know. */
static void begin_action(const mlc_pass *run, const mlc_action *action, int64_t index)
{
    const mlc_rank *rank = run->rank;
    char name[MLC_ACTION_NAME_BYTES];
    board_action(run, index);
    if (!rank->world.launches)
        return;
    mlc_action_name(name, rank->model, rank->place, action);
    mlc_launches_action(rank->world.launches, name);
}

static bool step_list(mlc_pass *run, mlc_env *env, const mlc_action *action, int64_t index)
{
    bool leads = env->thread == 0, goes_on = true;
    if (is_transfer(action) && !leads)
        return true;
    if (leads && !mlc_team_stopping(env))
        begin_action(run, action, index);
    int64_t started = leads && run->rank->trace ? mlc_clock() : 0;
    if (is_transfer(action))
        lead_transfer(run, env, action);
    else
        goes_on = act(run, env, action);
    if (leads && run->rank->trace)
        mlc_trace_action(run->rank->trace, env, action, started, mlc_clock());
    return goes_on;
}

static void walk_job(mlc_env *env, void *context)
{
    mlc_pass *run = context;
    mlc_actions list = run->rank->program->lists[run->kind];
    for (int i = 0; i < list.count; i++)
        if (!is_absent(run, &list.actions[i]) && !step_list(run, env, &list.actions[i], i))
            return;
}

/* A list without STATISTICS, of a sample, ends with them all the same. */
static void statistics_job(mlc_env *env, void *context)
{
    run_statistics(context, env);
}

/* Filling failed here: the error of the lowest thread. */
static void report_unfed(mlc_rank *rank)
{
    for (int i = 0; i < rank->team->threads; i++) {
        mlc_error *error = &rank->team->workers[i].error;
        if (error->status)
            mlc_error_set(&rank->error, error->status, "%s", error->text);
    }
}

/* Before the list: the numbers of its microbatches, where rows read them, and nothing noted yet. */
static void begin_results(const mlc_pass *run)
{
    mlc_rank *rank = run->rank;
    int64_t *numbers = mlc_rank_at(rank, rank->role->microbatches);
    for (int64_t n = 0; n < run->count; n++)
        numbers[n] = run->first + n;
    rank->record->share = run->share;
    mlc_statistics_clear(mlc_results_of(rank)->statistics, mlc_statistics_count(run->chain), run->chain->losses);
}

/* What all ranks have noted in the list, which has ended. */
static void read_statistics(mlc_pass *run)
{
    mlc_rank *rank = run->rank;
    mlc_statistic *statistics = mlc_results_of(rank)->statistics;
    const mlc_notes *notes = mlc_statistics_notes(statistics);
    rank->result.signals = notes->signals;
    run->refuses = notes->refused && !notes->failed;
    if (!notes->failed && notes->flawed.microbatch < INT64_MAX)
        run->bad_microbatch = notes->flawed.microbatch, run->bad_column = notes->flawed.column;
    mlc_statistics_combine(rank->tables->totals, statistics, (size_t)mlc_statistics_count(run->chain) * sizeof *statistics);
    run->weight_sum = mlc_tally_value(mlc_statistics_tally(rank->tables->totals, MLC_TALLY_WEIGHT));
}

/* What a step has found. */
static void read_results(mlc_pass *run)
{
    mlc_rank *rank = run->rank;
    const mlc_results *results = mlc_results_of(rank);
    read_statistics(run);
    if (run->kind != MLC_TRAIN)
        return;
    rank->result.grad_norm = results->norm;
    rank->result.clip_factor = mlc_dtype_wide(rank->model)->load(rank->record->clip, 0);
    run->bad_parameter = results->squares.bad;
    if (run->update)
        run->flaw = results->flaw;
}

int mlc_pass_walk(mlc_pass *run)
{
    mlc_rank *rank = run->rank;
    rank->error.status = 0;
    run->exchanged = false;
    board_step(run);
    begin_results(run);
    if (begin_messages(run))
        return rank->error.status;
    mlc_team_run(rank->team, walk_job, run);
    if (!rank->error.status)
        board_action(run, -1);
    if (run->search == MLC_SEARCH_LOSS)
        mlc_microbatch_search(run);
    if (rank->error.status || run->search != MLC_SEARCH_NONE)
        return rank->error.status;
    if (!run->exchanged)
        mlc_team_run(rank->team, statistics_job, run);
    if (rank->error.status)
        return rank->error.status;
    read_results(run);
    if (run->refuses && exchange_refusals(run))
        return rank->error.status;
    if (!mlc_statistics_notes(mlc_results_of(rank)->statistics)->failed)
        return MLC_OK;
    report_unfed(rank);
    return mlc_agree(&rank->world, &rank->error);
}

/* ---- outside a step ---- */

typedef struct preparation {
    const mlc_rank *rank;
    int at;
} preparation;

static void prepare_job(mlc_env *env, void *context)
{
    const preparation *of = context;
    mlc_sweep_run(of->rank, env, (mlc_moment){.at = of->at});
}

void mlc_pass_prepare(mlc_rank *rank, int at)
{
    preparation of = {rank, at};
    mlc_team_run(rank->team, prepare_job, &of);
}
