/* executor.c: see executor.h. */
#include "step/executor.h"

#include "data/cause.h"
#include "model/finite.h"
#include "model/tables.h"
#include "step/pass.h"
#include "system/numbers.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- one pass ---- */

static mlc_pass pass_make(mlc_rank *rank, int kind, const mlc_feed *feed)
{
    for (int i = 0; i < rank->team->threads; i++)
        rank->team->workers[i].error.status = 0, rank->team->workers[i].refused = mlc_refusal_none();
    return (mlc_pass){.rank = rank, .kind = kind, .chain = &rank->model->chains[kind], .chunks = rank->role->chunks[kind], .feed = feed,
                  .share = 1, .bad_microbatch = -1, .bad_parameter = -1, .flaw = -1,
                  .found = {.stage = INT64_MAX}, .refused = mlc_refusal_none()};
}

/* All microbatches of a step. */
static mlc_pass step_make(mlc_rank *rank, const mlc_feed *feed)
{
    mlc_pass run = pass_make(rank, MLC_TRAIN, feed);
    mlc_executor_clear(rank);
    run.count = rank->model->microbatches / rank->model->mesh.size[MLC_DP];
    run.first = run.count * rank->replica;
    return run;
}

/* ---- what is not finite ---- */

static void combine_findings(void *into, const void *from, size_t bytes)
{
    mlc_finding *own = into;
    const mlc_finding *other = from;
    for (size_t i = 0; i < bytes / sizeof *own; i++)
        if (mlc_finding_comes_before(&other[i], &own[i]))
            own[i] = other[i];
}

/* Runs the microbatches of a step again, nothing updated, each gradient on its own. Returns a status; run->found is that of all
 * ranks. */
static int search(mlc_pass *run, const mlc_pass *failed, enum mlc_search what)
{
    *run = step_make(failed->rank, failed->feed);
    run->search = what;
    if (mlc_pass_walk(run))
        return run->rank->error.status;
    return mlc_exchange(&run->rank->world, &run->found, sizeof run->found, sizeof run->found, combine_findings);
}

/* The stage that made a part of the loss of a microbatch that is not finite. */
static int64_t stage_of_loss(const mlc_pass *run)
{
    return run->chain->columns[run->bad_column].stage;
}

static int report_loss(const mlc_pass *failed)
{
    mlc_rank *rank = failed->rank;
    char cause[MLC_CAUSE_BYTES];
    mlc_finding found = {stage_of_loss(failed), failed->bad_microbatch, -1};
    if (rank->model->stages > 1) {
        mlc_pass run;
        if (search(&run, failed, MLC_SEARCH_LOSS))
            return rank->error.status;
        found = run.found.stage < INT64_MAX ? run.found : found;
    }
    mlc_cause_of(rank, failed->feed, failed->bad_microbatch, cause);
    return mlc_error_set(&rank->error, MLC_NOT_FINITE, "step %lld, stage %lld, microbatch %lld: the loss is not finite%s",
                         (long long)rank->step, (long long)found.stage, (long long)found.microbatch, cause);
}

static int report_gradient(const mlc_pass *failed)
{
    mlc_rank *rank = failed->rank;
    mlc_pass run;
    if (search(&run, failed, MLC_SEARCH_GRADIENT))
        return rank->error.status;
    bool found = run.found.stage < INT64_MAX;
    char cause[MLC_CAUSE_BYTES] = " (each microbatch is, their sum is not)";
    if (found)
        mlc_cause_of(rank, failed->feed, run.found.microbatch, cause);
    int stage = mlc_use_at(rank, (int)failed->bad_parameter, 0)->stage;
    if (!found)
        run.found = (mlc_finding){stage, rank->model->microbatches - 1, failed->bad_parameter};
    return mlc_error_set(&rank->error, MLC_NOT_FINITE, "step %lld, stage %lld, microbatch %lld: the gradient of %s is not finite%s",
                         (long long)rank->step, (long long)run.found.stage, (long long)run.found.microbatch,
                         rank->model->parameters[run.found.parameter].name, cause);
}

/* The data, or what the model makes of it, is wrong: the first index that is out of range, whatever became of it. */
static int report_refusal(const mlc_pass *run)
{
    mlc_rank *rank = run->rank;
    const mlc_refusal *first = &run->refused;
    char place[64] = "";
    if (first->each > 0)
        snprintf(place, sizeof place, ", record %lld",
                 (long long)mlc_cause_record(rank, run->feed, first->microbatch, first->element / first->each));
    return mlc_error_set(&rank->error, MLC_BAD_INPUT, "step %lld, microbatch %lld%s: %s: %d is not in 0 to %d (element %lld)",
                         (long long)rank->step, (long long)first->microbatch, place, first->where, first->value, first->extent - 1,
                         (long long)(first->each > 0 ? first->element % first->each : first->element));
}

static int report_weight(const mlc_pass *run)
{
    return mlc_error_set(&run->rank->error, MLC_NOT_FINITE,
                         "step %lld: the loss is not finite: the weights of its microbatches add up to %g", (long long)run->rank->step,
                         run->weight_sum);
}

static int report_update(const mlc_pass *run)
{
    char name[MLC_FLAW_BYTES];
    return mlc_error_set(&run->rank->error, MLC_NOT_FINITE, "step %lld: its update makes %s not finite", (long long)run->rank->step,
                         mlc_flaw_name(name, run->rank->model, run->flaw));
}

/* ---- the interface ---- */

void mlc_executor_clear(mlc_rank *rank)
{
    int count = 0;
    for (int kind = 0; kind < MLC_CHAINS; kind++)
        count = mlc_statistics_count(&rank->model->chains[kind]) > count ? mlc_statistics_count(&rank->model->chains[kind]) : count;
    mlc_statistics_clear(rank->tables->totals, count, 0);
}

double mlc_executor_means(mlc_rank *rank, int kind, double *loss)
{
    const mlc_chain *chain = &rank->model->chains[kind];
    mlc_statistic *totals = rank->tables->totals;
    double weight = mlc_tally_value(mlc_statistics_tally(totals, MLC_TALLY_WEIGHT));
    *loss = mlc_tally_value(mlc_statistics_tally(totals, MLC_TALLY_LOSS)) / weight;
    for (int i = 0; i < chain->column_count - chain->losses; i++)
        rank->metrics[i] = mlc_tally_value(mlc_statistics_tally(totals, MLC_TALLY_METRICS + i)) / weight;
    return weight;
}

int mlc_executor_step(mlc_rank *rank, const mlc_feed *feed, bool update)
{
    mlc_pass run = step_make(rank, feed);
    run.update = update;
    mlc_executor_record(rank);
    if (mlc_pass_walk(&run))
        return rank->error.status;
    if (run.refused.site >= 0)
        return report_refusal(&run);
    if (run.bad_microbatch >= 0)
        return report_loss(&run);
    if (!isfinite(1.0 / run.weight_sum))
        return report_weight(&run);
    if (run.bad_parameter >= 0)
        return report_gradient(&run);
    if (run.flaw >= 0)
        return report_update(&run);
    rank->result.weight = mlc_executor_means(rank, MLC_TRAIN, &rank->result.loss);
    return MLC_OK;
}

static int report_evaluation(const mlc_pass *run)
{
    mlc_rank *rank = run->rank;
    char cause[MLC_CAUSE_BYTES];
    mlc_cause_of(rank, run->feed, run->bad_microbatch, cause);
    return mlc_error_set(&rank->error, MLC_NOT_FINITE,
                         "evaluation after step %lld, stage %lld, microbatch %lld: the loss is not finite%s", (long long)rank->step,
                         (long long)stage_of_loss(run), (long long)run->bad_microbatch, cause);
}

/* One round: its microbatches go to the replicas in contiguous shares, the first ones one larger where they do not come out even. */
static void deal(mlc_pass *run, int64_t first, int64_t count)
{
    const mlc_rank *rank = run->rank;
    int64_t even = count / rank->model->mesh.size[MLC_DP], rest = count % rank->model->mesh.size[MLC_DP];
    run->count = even + (rank->replica < rest);
    run->first = first + even * rank->replica + smaller(rank->replica, rest);
}

int mlc_executor_forward(mlc_rank *rank, int chain, const mlc_feed *feed, int64_t first, int64_t count, double share)
{
    mlc_pass run = pass_make(rank, chain, feed);
    int64_t round = (int64_t)rank->model->schedule->rounds[chain] * rank->model->mesh.size[MLC_DP];
    run.share = share;
    mlc_executor_record(rank);
    for (int64_t at = 0; at < count && !rank->result.signals; at += round) {
        deal(&run, first + at, smaller(round, count - at));
        if (mlc_pass_walk(&run))
            return rank->error.status;
        if (run.refused.site >= 0)
            return report_refusal(&run);
        if (run.bad_microbatch >= 0)
            return report_evaluation(&run);
    }
    return MLC_OK;
}

void mlc_executor_record(mlc_rank *rank)
{
    mlc_record *record = rank->record;
    record->seed = rank->seed;
    record->step = rank->step;
    record->steps = rank->steps;
    record->microbatch = 0;
    mlc_dtype_wide(rank->model)->store(record->one, 0, 1);
    mlc_dtype_wide(rank->model)->store(record->mean, 0, 1.0 / rank->model->microbatches);
    mlc_dtype_wide(rank->model)->store(record->limit, 0, rank->model->clip);
    mlc_rank_put_scalars(rank, rank->step, record->scalars);
}

void mlc_executor_refresh(mlc_rank *rank)
{
    mlc_pass_prepare(rank, MLC_AT_COPIES);
}

void mlc_executor_initialize(mlc_rank *rank)
{
    int64_t step = rank->step;
    rank->step = 0;
    mlc_executor_record(rank);
    rank->step = step;
    mlc_pass_prepare(rank, MLC_AT_START);
}
