/* executor.c: see executor.h. */
#include "executor.h"

#include "gradient.h"
#include "trace.h"

#include <math.h>
#include <string.h>

/* One pass over microbatches, shared by the threads that walk it. Thread 0 alone writes what is not atomic. */
typedef struct pass {
    mlc_session *session;
    const mlc_chain *chain;
    const mlc_feed *feed;
    int64_t count;           /* microbatches of a forward pass */
    bool update;
    double share;            /* multiplies every weight */
    double weight;           /* of the current microbatch */
    double loss_sum;
    double weight_sum;
    atomic_bool unfed;       /* filling failed: the worker's error says why */
    int64_t bad_microbatch;  /* the first with a loss that is not finite, or -1 */
    int64_t bad_parameter;   /* the first with a gradient that is not finite, or -1 */
} pass;

/* ---- rows ---- */

static void run_row(const pass *run, mlc_env *env, const mlc_row *row)
{
    mlc_trace *trace = run->session->trace;
    atomic_store_explicit(&mlc_worker_of(env)->row, row->name, memory_order_relaxed);
    env->path = row->path;
    int64_t started = trace ? mlc_clock() : 0;
    row->run(env, row->at);
    int64_t done = trace ? mlc_clock() : 0;
    mlc_barrier(env);
    if (trace)
        mlc_trace_row(trace, env, row->name, row->flops, started, done, mlc_clock());
}

static void run_rows(const pass *run, mlc_env *env, mlc_rows rows)
{
    for (int64_t i = 0; i < rows.count; i++)
        run_row(run, env, &rows.rows[i]);
}

/* A part of the step that is the runtime's own, for traces and reports of a hang. */
static int64_t part_begin(const pass *run, const mlc_env *env, const char *name)
{
    atomic_store_explicit(&mlc_worker_of(env)->row, name, memory_order_relaxed);
    return run->session->trace ? mlc_clock() : 0;
}

static void part_end(const pass *run, const mlc_env *env, const char *name, int64_t started)
{
    if (!run->session->trace)
        return;
    int64_t now = mlc_clock();
    mlc_trace_row(run->session->trace, env, name, 0, started, now, now);
}

/* ---- one microbatch ---- */

static float scalar_at(const mlc_session *session, uint64_t at)
{
    float value;
    memcpy(&value, mlc_session_at(session, at), sizeof value);
    return value;
}

/* Inputs of a microbatch, its rows shared among the threads. False: some thread could not. */
static bool fill(pass *run, mlc_env *env, int64_t microbatch)
{
    mlc_session *session = run->session;
    int64_t started = part_begin(run, env, "inputs");
    int64_t batch = session->model->batch;
    int64_t begin = batch * env->thread / env->threads, end = batch * (env->thread + 1) / env->threads;
    mlc_error *error = &mlc_worker_of(env)->error;
    if (env->thread == 0)
        session->record->microbatch = microbatch;
    if (begin < end && run->feed->fill(run->feed, session, microbatch, begin, end, error))
        atomic_store_explicit(&run->unfed, true, memory_order_relaxed);
    mlc_barrier(env);
    part_end(run, env, "inputs", started);
    return !atomic_load_explicit(&run->unfed, memory_order_relaxed);
}

/* The weight of the microbatch: 1, or what the weight row makes of its inputs. */
static void weigh(pass *run, mlc_env *env)
{
    const mlc_chain *chain = run->chain;
    run_rows(run, env, chain->weight);
    if (env->thread == 0)
        run->weight = run->share * (chain->weight.count ? scalar_at(run->session, chain->weight_at) : 1.0);
    if (chain->weight.count)
        mlc_barrier(env);
}

/* Folds loss and metrics of the microbatch, and leaves the seed of its derivative. */
static void account(pass *run, int64_t microbatch)
{
    mlc_session *session = run->session;
    const mlc_chain *chain = run->chain;
    double loss = scalar_at(session, chain->loss);
    for (int i = 0; i < chain->loss_count; i++)
        loss += scalar_at(session, chain->losses[i].at);
    if (!isfinite(loss * run->weight) && run->bad_microbatch < 0)
        run->bad_microbatch = microbatch;
    run->loss_sum += run->weight * loss;
    run->weight_sum += run->weight;
    for (int i = 0; i < chain->metric_count; i++)
        session->metric_sums[i] += run->weight * scalar_at(session, chain->metrics[i].at);
    float seed = (float)run->weight;
    memcpy(mlc_session_at(session, session->model->seed_at), &seed, sizeof seed);
}

/* Inputs, weight, forward rows, loss. False: stop, all threads alike. */
static bool forward(pass *run, mlc_env *env, int64_t microbatch)
{
    if (!fill(run, env, microbatch))
        return false;
    weigh(run, env);
    run_rows(run, env, run->chain->forward);
    if (env->thread == 0 && run->chain->loss != MLC_NONE)
        account(run, microbatch);
    mlc_barrier(env);
    return run->bad_microbatch < 0;
}

/* ---- jobs ---- */

static void forward_job(mlc_env *env, void *context)
{
    pass *run = context;
    env->fold = 0;
    for (int64_t j = 0; j < run->count; j++)
        if (!forward(run, env, j))
            return;
}

/* Forward and backward of all microbatches. False: stop. */
static bool walk(pass *run, mlc_env *env)
{
    const mlc_model *model = run->session->model;
    int members = model->microbatches / model->groups;
    for (int i = 0; i < model->action_count; i++) {
        const mlc_action *action = &model->actions[i];
        int group = action->microbatch / members;
        env->fold = action->microbatch % members != 0;
        if (action->kind == MLC_FORWARD && !forward(run, env, action->microbatch))
            return false;
        if (action->kind != MLC_BACKWARD)
            continue;
        run_rows(run, env, model->backward);
        if ((action->microbatch + 1) % members == 0 && group + 1 < model->groups)
            mlc_gradient_fold(run->session, env, group);
    }
    return true;
}

/* Whole gradients and their norm. False: not finite. */
static bool finish(pass *run, mlc_env *env)
{
    mlc_session *session = run->session;
    int64_t started = part_begin(run, env, "gradients");
    mlc_gradient_finish(session, env, (float)(1.0 / run->weight_sum));
    bool finite = mlc_gradient_bad(session) < 0;
    if (env->thread == 0) {
        double norm = mlc_gradient_norm(session), clip = session->model->clip;
        session->result.grad_norm = norm;
        session->result.clip_factor = clip > 0 && norm > clip ? (float)(clip / norm) : 1;
        run->bad_parameter = mlc_gradient_bad(session);
    }
    mlc_barrier(env);
    part_end(run, env, "gradients", started);
    return finite;
}

static void step_job(mlc_env *env, void *context)
{
    pass *run = context;
    if (!walk(run, env) || !finish(run, env) || !run->update)
        return;
    int64_t started = part_begin(run, env, "update");
    mlc_gradient_update(run->session, env, run->session->result.clip_factor);
    part_end(run, env, "update", started);
}

static void refresh_job(mlc_env *env, void *context)
{
    mlc_gradient_refresh(context, env);
}

static void initialize_job(mlc_env *env, void *context)
{
    mlc_gradient_initialize(context, env);
}

/* Runs the microbatches one by one, each gradient on its own, up to the first that holds a value that is not finite. */
static void search_job(mlc_env *env, void *context)
{
    pass *run = context;
    mlc_session *session = run->session;
    env->fold = 0;
    for (int64_t j = 0; j < session->model->microbatches; j++) {
        if (!forward(run, env, j))
            return;
        run_rows(run, env, session->model->backward);
        mlc_gradient_search(session, env);
        int64_t bad = mlc_gradient_bad(session);
        if (env->thread == 0 && bad >= 0) {
            run->bad_microbatch = j;
            run->bad_parameter = bad;
        }
        mlc_barrier(env);
        if (bad >= 0)
            return;
    }
}

/* ---- the interface ---- */

static pass pass_make(mlc_session *session, const mlc_chain *chain, const mlc_feed *feed)
{
    for (int i = 0; i < session->team->threads; i++)
        session->team->workers[i].error.status = 0;
    for (int i = 0; i < chain->metric_count; i++)
        session->metric_sums[i] = 0;
    return (pass){.session = session, .chain = chain, .feed = feed, .share = 1, .bad_microbatch = -1, .bad_parameter = -1};
}

/* Filling failed: the error of the lowest thread. */
static int report_unfed(mlc_session *session)
{
    for (int i = 0; i < session->team->threads; i++) {
        mlc_error *error = &session->team->workers[i].error;
        if (error->status)
            return mlc_error_set(&session->error, error->status, "%s", error->text);
    }
    return mlc_error_set(&session->error, MLC_BAD_INPUT, "inputs cannot be read");
}

static int report_loss(mlc_session *session, const pass *run)
{
    return mlc_error_set(&session->error, MLC_NOT_FINITE, "step %lld, microbatch %lld: the loss is not finite", (long long)session->step,
                         (long long)run->bad_microbatch);
}

/* Some gradient is not finite: says in which microbatch it arose, by running them again. */
static int report_gradient(mlc_session *session, const pass *failed)
{
    pass run = pass_make(session, failed->chain, failed->feed);
    mlc_team_run(session->team, search_job, &run);
    long long step = session->step;
    int64_t parameter = run.bad_parameter >= 0 ? run.bad_parameter : failed->bad_parameter;
    const char *name = session->model->parameters[parameter].master.name;
    if (run.bad_microbatch < 0)
        return mlc_error_set(&session->error, MLC_NOT_FINITE,
                             "step %lld, microbatch %d: the gradient of %s is not finite (each microbatch is, their sum is not)", step,
                             session->model->microbatches - 1, name);
    return mlc_error_set(&session->error, MLC_NOT_FINITE, "step %lld, microbatch %lld: the gradient of %s is not finite", step,
                         (long long)run.bad_microbatch, name);
}

static int report_weight(mlc_session *session, const pass *run)
{
    return mlc_error_set(&session->error, MLC_NOT_FINITE, "step %lld: the loss is not finite: the weights of its microbatches add up to %g",
                         (long long)session->step, run->weight_sum);
}

static void settle(mlc_session *session, const pass *run)
{
    session->result.loss = run->loss_sum / run->weight_sum;
    session->result.weight = run->weight_sum;
    for (int i = 0; i < run->chain->metric_count; i++)
        session->metrics[i] = session->metric_sums[i] / run->weight_sum;
}

int mlc_executor_step(mlc_session *session, const mlc_feed *feed, bool update)
{
    pass run = pass_make(session, session->model->train, feed);
    run.update = update;
    mlc_executor_record(session);
    mlc_team_run(session->team, step_job, &run);
    if (run.unfed)
        return report_unfed(session);
    if (run.bad_microbatch >= 0)
        return report_loss(session, &run);
    if (!isfinite(1.0 / run.weight_sum))
        return report_weight(session, &run);
    if (run.bad_parameter >= 0)
        return report_gradient(session, &run);
    settle(session, &run);
    return MLC_OK;
}

int mlc_executor_forward(mlc_session *session, const mlc_chain *chain, const mlc_feed *feed, int64_t count, double share, double *loss,
                         double *weight)
{
    pass run = pass_make(session, chain, feed);
    run.count = count;
    run.share = share;
    mlc_executor_record(session);
    mlc_team_run(session->team, forward_job, &run);
    if (run.unfed)
        return report_unfed(session);
    if (run.bad_microbatch >= 0)
        return mlc_error_set(&session->error, MLC_NOT_FINITE, "evaluation after step %lld, microbatch %lld: the loss is not finite",
                             (long long)session->step, (long long)run.bad_microbatch);
    *loss += run.loss_sum;
    *weight += run.weight_sum;
    return MLC_OK;
}

void mlc_executor_record(mlc_session *session)
{
    const mlc_model *model = session->model;
    mlc_record *record = session->record;
    record->seed = session->seed;
    record->step = session->step;
    record->steps = session->steps;
    record->microbatch = 0;
    memcpy(record->scalars, session->scalars, (size_t)model->scalar_count * sizeof(float));
    if (model->scalar_count > 0)
        record->scalars[0] = (float)session->step;
    if (model->scalar_count > 1)
        record->scalars[1] = (float)session->steps;
    if (model->set_scalars)
        model->set_scalars(record->scalars);
}

void mlc_executor_refresh(mlc_session *session)
{
    mlc_team_run(session->team, refresh_job, session);
}

void mlc_executor_initialize(mlc_session *session)
{
    int64_t step = session->step;
    session->step = 0;
    mlc_executor_record(session);
    session->step = step;
    mlc_team_run(session->team, initialize_job, session);
}

/* ---- checks ---- */

/* One set of buffers serves all microbatches: each is forwarded, then differentiated, in ascending order. */
static int check_actions(const mlc_model *model, mlc_error *error)
{
    if (model->action_count != 2 * model->microbatches)
        return mlc_error_set(error, MLC_BAD_INPUT, "model %s: %d actions for %d microbatches", model->name, model->action_count,
                             model->microbatches);
    for (int i = 0; i < model->action_count; i++) {
        const mlc_action *action = &model->actions[i];
        if (action->kind != (i % 2 ? MLC_BACKWARD : MLC_FORWARD) || action->microbatch != i / 2 || action->chunk)
            return mlc_error_set(error, MLC_BAD_INPUT, "model %s: action %d is not the %s of microbatch %d", model->name, i,
                                 i % 2 ? "backward" : "forward", i / 2);
    }
    return MLC_OK;
}

int mlc_executor_check(const mlc_model *model, mlc_error *error)
{
    if (model->abi_version != MLC_ABI_VERSION)
        return mlc_error_set(error, MLC_BAD_INPUT, "model %s: made for runtime ABI %d, this is %d", model->name, model->abi_version,
                             MLC_ABI_VERSION);
    if (model->microbatches < 1 || model->groups < 1 || model->microbatches % model->groups)
        return mlc_error_set(error, MLC_BAD_INPUT, "model %s: %d microbatches do not form %d groups", model->name, model->microbatches,
                             model->groups);
    if (model->levels < mlc_gradient_levels(model->groups))
        return mlc_error_set(error, MLC_BAD_INPUT, "model %s: %d accumulators a use, %d groups need %d", model->name, model->levels,
                             model->groups, mlc_gradient_levels(model->groups));
    return check_actions(model, error);
}
