/* session.c: the life of a session, and the library functions of mlc.h that need no file. */
#include "session.h"

#include "checkpoint.h"
#include "digest.h"
#include "executor.h"
#include "weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_STEPS 1000

/* ---- opening and closing ---- */

static int larger(int a, int b)
{
    return a > b ? a : b;
}

static int metric_capacity(const mlc_model *model)
{
    int count = model->train->metric_count;
    count = larger(count, model->evaluate ? model->evaluate->metric_count : 0);
    return larger(count, model->sample ? model->sample->metric_count : 0);
}

static int allocate_tables(mlc_session *session, mlc_error *error)
{
    const mlc_model *model = session->model;
    size_t metrics = (size_t)metric_capacity(model) + 1;
    session->scalars = calloc((size_t)model->scalar_count + 1, sizeof *session->scalars);
    session->metrics = calloc(metrics, sizeof *session->metrics);
    session->metric_sums = calloc(metrics, sizeof *session->metric_sums);
    if (!session->scalars || !session->metrics || !session->metric_sums)
        return mlc_error_set(error, MLC_FAILED, "session: out of memory");
    for (int i = 0; i < model->scalar_count; i++)
        session->scalars[i] = model->scalars[i].value;
    return MLC_OK;
}

static int open_parts(mlc_session *session, int threads, mlc_error *error)
{
    const mlc_model *model = session->model;
    if (mlc_executor_check(model, error) || allocate_tables(session, error) || mlc_catalog_open(&session->catalog, model, error) ||
        mlc_arena_open(&session->arena, model->arena_bytes, model->scratch_bytes_per_thread, threads, error))
        return error->status;
    session->record = mlc_session_at(session, model->record);
    return mlc_team_open(&session->team, threads, &session->arena, session->record, error);
}

mlc_session *mlc_session_open(const mlc_model *model, const mlc_open_options *options, mlc_error *error)
{
    mlc_open_options chosen = options ? *options : (mlc_open_options){0};
    if (chosen.threads < 0 || chosen.threads > MLC_MAX_THREADS || chosen.steps < 0) {
        mlc_error_set(error, MLC_USAGE, "threads must be 1 to %d, steps at least 1", MLC_MAX_THREADS);
        return NULL;
    }
    mlc_session *session = calloc(1, sizeof *session);
    if (!session) {
        mlc_error_set(error, MLC_FAILED, "session: out of memory");
        return NULL;
    }
    session->model = model;
    session->seed = chosen.seed;
    session->steps = chosen.steps ? chosen.steps : DEFAULT_STEPS;
    atomic_flag_clear(&session->busy);
    if (open_parts(session, chosen.threads ? chosen.threads : mlc_cpu_count(), error)) {
        mlc_close(session);
        return NULL;
    }
    mlc_session_initialize(session);
    return session;
}

mlc_session *mlc_open(const mlc_model *model, const mlc_open_options *options, int *status, char *message, size_t size)
{
    mlc_error error = {0};
    mlc_session *session = mlc_session_open(model, options, &error);
    if (status)
        *status = error.status;
    if (message && size)
        snprintf(message, size, "%s", error.text);
    return session;
}

void mlc_close(mlc_session *session)
{
    if (!session)
        return;
    mlc_team_close(session->team);
    mlc_arena_close(&session->arena);
    mlc_catalog_close(&session->catalog);
    free(session->scalars);
    free(session->metrics);
    free(session->metric_sums);
    free(session);
}

void mlc_session_initialize(mlc_session *session)
{
    const mlc_model *model = session->model;
    for (int p = 0; p < model->parameter_count; p++)
        for (int s = 0; s < model->parameters[p].state_count; s++) {
            const mlc_tensor *state = &model->parameters[p].states[s];
            memset(mlc_session_at(session, state->at), 0, (size_t)mlc_tensor_elements(state) * sizeof(float));
        }
    mlc_executor_initialize(session);
}

/* ---- looking at a session ---- */

const char *mlc_session_message(const mlc_session *session)
{
    return session->error.text;
}

const mlc_model *mlc_session_model(const mlc_session *session)
{
    return session->model;
}

static mlc_view view_of(const mlc_session *session, const mlc_tensor *tensor, int32_t dtype, uint64_t at)
{
    void *data = at == MLC_NONE ? NULL : mlc_session_at(session, at);
    return (mlc_view){tensor->name, dtype, tensor->rank, tensor->shape, data};
}

int mlc_parameter_count(const mlc_session *session)
{
    return session->model->parameter_count;
}

static const mlc_parameter *parameter_at(const mlc_session *session, int parameter)
{
    bool known = parameter >= 0 && parameter < session->model->parameter_count;
    return known ? &session->model->parameters[parameter] : NULL;
}

mlc_view mlc_parameter_master(const mlc_session *session, int parameter)
{
    const mlc_parameter *p = parameter_at(session, parameter);
    return p ? view_of(session, &p->master, MLC_F32, p->master.at) : (mlc_view){0};
}

mlc_view mlc_parameter_gradient(const mlc_session *session, int parameter)
{
    const mlc_parameter *p = parameter_at(session, parameter);
    return p ? view_of(session, &p->master, MLC_F32, p->fed == 2 ? MLC_NONE : p->gradient) : (mlc_view){0};
}

int mlc_parameter_state_count(const mlc_session *session, int parameter)
{
    const mlc_parameter *p = parameter_at(session, parameter);
    return p ? p->state_count : 0;
}

mlc_view mlc_parameter_state(const mlc_session *session, int parameter, int state)
{
    const mlc_parameter *p = parameter_at(session, parameter);
    bool known = p && state >= 0 && state < p->state_count;
    return known ? view_of(session, &p->states[state], MLC_F32, p->states[state].at) : (mlc_view){0};
}

int mlc_input_count(const mlc_session *session)
{
    return session->model->input_count;
}

mlc_view mlc_input_view(const mlc_session *session, int input)
{
    if (input < 0 || input >= session->model->input_count)
        return (mlc_view){0};
    const mlc_tensor *tensor = &session->model->inputs[input].tensor;
    return view_of(session, tensor, tensor->dtype, MLC_NONE);
}

int64_t mlc_session_steps_done(const mlc_session *session)
{
    return session->step;
}

double mlc_session_grad_norm(const mlc_session *session)
{
    return session->result.grad_norm;
}

int mlc_session_metric_count(const mlc_session *session)
{
    return session->model->train->metric_count;
}

const char *mlc_session_metric_name(const mlc_session *session, int metric)
{
    bool known = metric >= 0 && metric < session->model->train->metric_count;
    return known ? session->model->train->metrics[metric].name : NULL;
}

double mlc_session_metric(const mlc_session *session, int metric)
{
    bool known = metric >= 0 && metric < session->model->train->metric_count;
    return known ? session->metrics[metric] : 0;
}

/* ---- the caller's data ---- */

typedef struct array_feed {
    mlc_feed feed;
    const void *const *inputs; /* by model input, row-major, rows of all microbatches */
} array_feed;

/* Copies a row of an index input, checking its range. */
static int copy_indices(const mlc_input *input, int32_t *to, const int32_t *from, int64_t count, int64_t first, mlc_error *error)
{
    for (int64_t i = 0; i < count; i++) {
        if (input->limit >= 0 && (from[i] < 0 || from[i] >= input->limit))
            return mlc_error_set(error, MLC_BAD_INPUT, "input %s: element %lld is %d, not in 0 to %lld", input->tensor.name,
                                 (long long)(first + i), from[i], (long long)input->limit - 1);
        to[i] = from[i];
    }
    return MLC_OK;
}

static int fill_from_arrays(const mlc_feed *feed, const mlc_session *session, int64_t microbatch, int64_t begin, int64_t end,
                            mlc_error *error)
{
    const array_feed *arrays = (const array_feed *)feed;
    const mlc_model *model = session->model;
    int64_t first = microbatch * model->batch + begin, rows = end - begin;
    for (int i = 0; i < model->input_count; i++) {
        const mlc_input *input = &model->inputs[i];
        const char *from = (const char *)arrays->inputs[i] + first * mlc_input_row_bytes(input);
        void *to = mlc_input_row(session, input, begin);
        int64_t elements = mlc_input_row_elements(input);
        if (input->tensor.dtype != MLC_I32)
            memcpy(to, from, (size_t)(rows * mlc_input_row_bytes(input)));
        else if (copy_indices(input, to, (const int32_t *)from, rows * elements, first * elements, error))
            return error->status;
    }
    return MLC_OK;
}

/* ---- calls that take the session ---- */

/* Enters a call: clears the last error, refuses a second caller. */
static int session_enter(mlc_session *session)
{
    if (atomic_flag_test_and_set(&session->busy))
        return MLC_USAGE;
    session->error = (mlc_error){0};
    return MLC_OK;
}

static int session_leave(mlc_session *session)
{
    int status = session->error.status;
    atomic_flag_clear(&session->busy);
    return status;
}

static int check_inputs(mlc_session *session, const void *const *inputs, int64_t rows, bool whole_step)
{
    const mlc_model *model = session->model;
    int64_t step_rows = model->microbatches * model->batch;
    if (whole_step && rows != step_rows)
        return mlc_error_set(&session->error, MLC_USAGE, "inputs have %lld rows; a step takes %lld (%d microbatches of %lld)",
                             (long long)rows, (long long)step_rows, model->microbatches, (long long)model->batch);
    if (rows < 1 || rows % model->batch)
        return mlc_error_set(&session->error, MLC_USAGE, "inputs have %lld rows: not a multiple of the batch, %lld", (long long)rows,
                             (long long)model->batch);
    for (int i = 0; i < model->input_count; i++)
        if (!inputs[i])
            return mlc_error_set(&session->error, MLC_USAGE, "input %s is missing", model->inputs[i].tensor.name);
    return MLC_OK;
}

static void train(mlc_session *session, const void *const *inputs, int64_t rows, bool update, double *loss)
{
    array_feed feed = {{fill_from_arrays}, inputs};
    if (check_inputs(session, inputs, rows, true))
        return;
    mlc_executor_refresh(session);
    if (mlc_executor_step(session, &feed.feed, update))
        return;
    *loss = session->result.loss;
    session->step += update;
    session->cursor += update ? rows : 0;
}

int mlc_session_step(mlc_session *session, const void *const *inputs, int64_t rows, double *loss)
{
    if (session_enter(session))
        return MLC_USAGE;
    train(session, inputs, rows, true, loss);
    return session_leave(session);
}

int mlc_session_gradient(mlc_session *session, const void *const *inputs, int64_t rows, double *loss)
{
    if (session_enter(session))
        return MLC_USAGE;
    train(session, inputs, rows, false, loss);
    return session_leave(session);
}

static void evaluate(mlc_session *session, const void *const *inputs, int64_t rows, double *loss)
{
    array_feed feed = {{fill_from_arrays}, inputs};
    if (check_inputs(session, inputs, rows, false))
        return;
    double loss_sum = 0, weight_sum = 0;
    mlc_executor_refresh(session);
    const mlc_model *model = session->model;
    if (!mlc_executor_forward(session, model->evaluate, &feed.feed, rows / model->batch, 1, &loss_sum, &weight_sum))
        *loss = loss_sum / weight_sum;
}

int mlc_session_evaluate(mlc_session *session, const void *const *inputs, int64_t rows, double *loss)
{
    if (session_enter(session))
        return MLC_USAGE;
    evaluate(session, inputs, rows, loss);
    return session_leave(session);
}

static void set_scalar(mlc_session *session, const char *name, float value)
{
    const mlc_model *model = session->model;
    for (int i = 0; i < model->scalar_count; i++)
        if (model->scalars[i].option && !strcmp(model->scalars[i].name, name)) {
            session->scalars[i] = value;
            return;
        }
    mlc_error_set(&session->error, MLC_USAGE, "model %s has no run-time constant %s", model->name, name);
}

int mlc_session_set_scalar(mlc_session *session, const char *name, float value)
{
    if (session_enter(session))
        return MLC_USAGE;
    set_scalar(session, name, value);
    return session_leave(session);
}

int mlc_session_set_steps(mlc_session *session, int64_t steps)
{
    if (session_enter(session))
        return MLC_USAGE;
    if (steps < 1)
        mlc_error_set(&session->error, MLC_USAGE, "steps: %lld is not at least 1", (long long)steps);
    else
        session->steps = steps;
    return session_leave(session);
}

int mlc_session_save(mlc_session *session, const char *directory)
{
    if (session_enter(session))
        return MLC_USAGE;
    mlc_checkpoint_save(session, directory, &session->error);
    return session_leave(session);
}

int mlc_session_load(mlc_session *session, const char *path)
{
    if (session_enter(session))
        return MLC_USAGE;
    mlc_checkpoint_load(session, path, (mlc_allowed){0}, &session->error);
    return session_leave(session);
}

int mlc_session_load_weights(mlc_session *session, const char *path)
{
    if (session_enter(session))
        return MLC_USAGE;
    mlc_weights_load(session, path, (mlc_allowed){0}, &session->error);
    return session_leave(session);
}

int mlc_session_digest(mlc_session *session, char hex[65])
{
    if (session_enter(session))
        return MLC_USAGE;
    mlc_digest(session, hex);
    return session_leave(session);
}
