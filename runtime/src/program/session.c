/* session.c: the life of a session, and the library functions of mlc.h.
 *
 * A call runs one function on all ranks, rank 0 by the caller. Tensors that the caller sees lie with the first replica of a
 * parameter's owner; before a call they go to all that hold them too, after it what others have computed comes there.
 */
#include "program/session.h"

#include "checkpoint/checkpoint.h"
#include "checkpoint/digest.h"
#include "checkpoint/weights.h"
#include "model/arranged.h"
#include "step/executor.h"
#include "step/gradient.h"
#include "step/open.h"
#include "step/wire.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- calls on all ranks ---- */

static void *lead_main(void *argument)
{
    const mlc_lead *lead = argument;
    mlc_session *session = lead->session;
    unsigned seen = 0;
    for (;;) {
        pthread_mutex_lock(&session->mutex);
        while (session->calls == seen)
            pthread_cond_wait(&session->called, &session->mutex);
        seen++;
        mlc_call call = session->call;
        void *context = session->context;
        pthread_mutex_unlock(&session->mutex);
        if (!call)
            return NULL;
        call(lead->rank, context);
        pthread_mutex_lock(&session->mutex);
        if (--session->working == 0)
            pthread_cond_signal(&session->done);
        pthread_mutex_unlock(&session->mutex);
    }
}

static void post_call(mlc_session *session, mlc_call call, void *context)
{
    pthread_mutex_lock(&session->mutex);
    session->call = call;
    session->context = context;
    session->working = session->led;
    session->calls++;
    pthread_cond_broadcast(&session->called);
    pthread_mutex_unlock(&session->mutex);
}

/* Runs a call on every rank; the error of the lowest that failed becomes the session's. Returns its status. */
static int run_call(mlc_session *session, mlc_call call, void *context)
{
    for (int r = 0; r < session->ranks; r++)
        session->members[r]->error = (mlc_error){0};
    post_call(session, call, context);
    call(session->members[0], context);
    pthread_mutex_lock(&session->mutex);
    while (session->working)
        pthread_cond_wait(&session->done, &session->mutex);
    pthread_mutex_unlock(&session->mutex);
    for (int r = 0; r < session->ranks; r++) {
        const mlc_error *error = &session->members[r]->error;
        if (error->status)
            return mlc_error_set(&session->error, error->status, "%s", error->text);
    }
    return MLC_OK;
}

/* ---- opening and closing ---- */

static int state_count(const mlc_model *model)
{
    int count = 0;
    for (int p = 0; p < model->parameter_count; p++)
        count += model->parameters[p].state_count;
    return count;
}

/* The copies of a session: of states, numbered through, then of masters, then of gradients. */
static int copy_count(const mlc_model *model)
{
    return state_count(model) + 2 * model->parameter_count;
}

static mlc_session *session_allocate(const mlc_model *model, mlc_error *error)
{
    mlc_session *session = calloc(1, sizeof *session);
    if (session) {
        session->model = model;
        session->ranks = mlc_mesh_ranks(&model->mesh);
        session->members = calloc((size_t)session->ranks, sizeof *session->members);
        session->leads = calloc((size_t)session->ranks, sizeof *session->leads);
        session->copies = calloc((size_t)copy_count(model) + 1, sizeof *session->copies);
        pthread_mutex_init(&session->mutex, NULL);
        pthread_cond_init(&session->called, NULL);
        pthread_cond_init(&session->done, NULL);
        session->process = getpid();
        atomic_store(&session->holder, NULL);
        atomic_store(&session->refused, NULL);
    }
    if (session && session->members && session->leads && session->copies)
        return session;
    mlc_error_set(error, MLC_FAILED, "session: out of memory");
    mlc_close(session);
    return NULL;
}

/* The threads that lead ranks must not take the signals of the process. */
static int start_leads(mlc_session *session, mlc_error *error)
{
    for (int r = 1, code = 0; r < session->ranks && !code; r++) {
        session->leads[r] = (mlc_lead){.session = session, .rank = session->members[r]};
        code = mlc_thread_start(&session->leads[r].handle, lead_main, &session->leads[r], true);
        session->led += !code;
    }
    bool whole = session->led == session->ranks - 1;
    return whole ? MLC_OK : mlc_error_set(error, MLC_FAILED, "session: cannot start a thread for each rank");
}

/* Takes a line that rank 0 has to say. What does not fit is left out. */
static void take_note(void *listener, const char *text)
{
    mlc_session *session = listener;
    size_t used = strlen(session->notes);
    if (used + strlen(text) + 2 <= sizeof session->notes)
        snprintf(session->notes + used, sizeof session->notes - used, "%s\n", text);
}

static int open_members(mlc_session *session, const mlc_open_options *options, mlc_error *error)
{
    mlc_open_options chosen = options ? *options : (mlc_open_options){0};
    int share = mlc_cpu_count() / session->ranks;
    if (!chosen.threads)
        chosen.threads = share > 1 ? share : 1;
    for (int r = 0; r < session->ranks; r++) {
        session->members[r] = mlc_rank_open(session->model, r, &chosen, r, -1, error);
        if (!session->members[r])
            return error->status;
        session->members[r]->note = take_note;
        session->members[r]->listener = session;
    }
    if (session->ranks == 1)
        return MLC_OK;
    if (mlc_hub_open(&session->hub, session->ranks, error))
        return error->status;
    for (int r = 0; r < session->ranks; r++)
        mlc_hub_attach(session->hub, &session->members[r]->world);
    return start_leads(session, error);
}

static void start_member(mlc_rank *rank, void *context)
{
    (void)context;
    const mlc_transport *transport = rank->world.transport;
    if (transport && transport->open(&rank->world, &rank->error))
        return;
    if (!mlc_wire_open(rank, &rank->error))
        mlc_rank_initialize(rank);
}

mlc_session *mlc_session_open(const mlc_model *model, const mlc_open_options *options, mlc_error *error)
{
    if (mlc_executor_check_model(model, error))
        return NULL;
    mlc_session *session = session_allocate(model, error);
    if (!session)
        return NULL;
    if (open_members(session, options, error) || run_call(session, start_member, NULL)) {
        mlc_error_set(error, session->error.status, "%s", session->error.text);
        mlc_close(session);
        return NULL;
    }
    return session;
}

mlc_session *mlc_open(const mlc_model *model, const mlc_open_options *options, int *status, char *message, size_t size)
{
    mlc_error error = {0};
    mlc_session *session = mlc_session_open(model, options, &error);
    if (session && session->members[0]->arena.gpu) { /* views are of the memory of this process */
        mlc_error_set(&error, MLC_USAGE, "a model for GPUs cannot be opened as a library: run its program");
        mlc_close(session);
        session = NULL;
    }
    if (status)
        *status = error.status;
    if (message && size)
        snprintf(message, size, "%s", error.text);
    return session;
}

/* Arenas go after all transports: ranks write into each other's. */
static void close_members(mlc_session *session)
{
    for (int r = 0; r < session->ranks; r++)
        if (session->members[r] && session->members[r]->world.transport)
            session->members[r]->world.transport->close(&session->members[r]->world);
    for (int r = 0; r < session->ranks; r++)
        mlc_rank_close(session->members[r]);
}

/* A forked child must not wait for threads that it does not have: what it got a copy of goes with it. */
static bool is_forked(const mlc_session *session)
{
    return session->process != getpid();
}

void mlc_close(mlc_session *session)
{
    if (!session || is_forked(session))
        return;
    post_call(session, NULL, NULL);
    for (int r = 1; r <= session->led; r++)
        pthread_join(session->leads[r].handle, NULL);
    if (session->members)
        close_members(session);
    mlc_hub_close(session->hub);
    for (int i = 0; session->copies && i < copy_count(session->model); i++)
        free(session->copies[i]);
    pthread_mutex_destroy(&session->mutex);
    pthread_cond_destroy(&session->called);
    pthread_cond_destroy(&session->done);
    free(session->copies);
    free(session->leads);
    free(session->members);
    free(session);
}

/* ---- where tensors lie ---- */

/* The rank of a replica that owns a parameter. */
static mlc_rank *owner_of(const mlc_session *session, int parameter, int replica)
{
    mlc_coordinate at = {.at = {[MLC_PP] = session->model->parameters[parameter].owner, [MLC_DP] = replica}};
    return session->members[mlc_mesh_rank(&session->model->mesh, &at)];
}

static mlc_lying master_of(const mlc_rank *rank, int parameter)
{
    return (mlc_lying){mlc_rank_held(rank, parameter)->master, (int64_t)mlc_wide_bytes(rank->model), mlc_arranged_master(rank->model, parameter)};
}

/* Of a parameter that has one. */
static mlc_lying gradient_of(const mlc_rank *rank, int parameter)
{
    uint64_t at = (uint64_t)((char *)mlc_gradient_of(rank, parameter) - rank->arena.base);
    return (mlc_lying){at, (int64_t)mlc_wide_bytes(rank->model), mlc_arranged_master(rank->model, parameter)};
}

/* Elements of a tensor from one rank to another, where it lies alike. */
static void pass_on(const mlc_rank *from, const mlc_rank *to, mlc_lying source, mlc_lying target, int64_t begin, int64_t end)
{
    mlc_strip strip;
    for (int64_t count, at = begin; at < end; at += count) {
        const char *elements = mlc_lying_look(&from->arena, &source, at, end, &count, &strip);
        mlc_lying_write(&to->arena, &target, at, at + count, elements);
    }
}

/* A rank's own piece of a parameter from index `from` of its shard on; NULL: no more. */
static const mlc_piece *next_piece(const mlc_rank *rank, int parameter, int *from)
{
    while (*from < rank->shard.count) {
        const mlc_piece *piece = &rank->shard.pieces[(*from)++];
        if (piece->parameter == parameter)
            return piece;
    }
    return NULL;
}

/* Elements of other replicas' pieces to the first one: `tensor` says where a rank has the whole tensor. */
static void gather(const mlc_session *session, int parameter, mlc_lying (*tensor)(const mlc_rank *rank, int parameter))
{
    const mlc_rank *first = owner_of(session, parameter, 0);
    for (int replica = 1; replica < session->model->mesh.size[MLC_DP]; replica++) {
        const mlc_rank *rank = owner_of(session, parameter, replica);
        int at = 0;
        for (const mlc_piece *piece; (piece = next_piece(rank, parameter, &at));)
            pass_on(rank, first, tensor(rank, parameter), tensor(first, parameter), piece->begin, piece->end);
    }
}

/* Masters with a bf16 copy are current in the pieces of their replicas only. */
static void gather_masters(const mlc_session *session)
{
    for (int p = 0; p < session->model->parameter_count && session->model->mesh.size[MLC_DP] > 1; p++)
        if (mlc_rank_held(owner_of(session, p, 0), p)->copy != MLC_NONE)
            gather(session, p, master_of);
}

/* ---- what the caller sees of tensors that are arranged, or that no replica has whole: copies in canonical order ---- */

static char **master_copy(const mlc_session *session, int parameter)
{
    return (char **)&session->copies[state_count(session->model) + parameter];
}

static char **gradient_copy(const mlc_session *session, int parameter)
{
    return master_copy(session, session->model->parameter_count + parameter);
}

/* The tensor as its caller sees it; NULL without memory. */
static void *shown(const mlc_session *session, int parameter, mlc_lying lies, char **copy)
{
    const mlc_rank *rank = owner_of(session, parameter, 0);
    int64_t elements = mlc_parameter_elements(&session->model->parameters[parameter]);
    if (!lies.arranged)
        return mlc_rank_at(rank, lies.at);
    if (!*copy)
        *copy = calloc((size_t)elements, (size_t)lies.bytes);
    if (*copy)
        mlc_lying_read(&rank->arena, &lies, 0, elements, *copy);
    return *copy;
}

/* Copies of masters that the caller has follow these. */
static void show_masters(const mlc_session *session)
{
    for (int p = 0; p < session->model->parameter_count && session->exposed; p++)
        if (*master_copy(session, p))
            shown(session, p, master_of(owner_of(session, p, 0), p), master_copy(session, p));
}

/* A parameter from the caller's copy, or from the first replica of its owner. */
static void take_master(const mlc_rank *rank, const mlc_session *session, int parameter)
{
    const mlc_rank *owner = owner_of(session, parameter, 0);
    int64_t elements = mlc_parameter_elements(&session->model->parameters[parameter]);
    mlc_lying master = master_of(rank, parameter);
    const char *copy = *master_copy(session, parameter);
    if (copy)
        mlc_lying_write(&rank->arena, &master, 0, elements, copy);
    else if (owner != rank)
        pass_on(owner, rank, master_of(owner, parameter), master, 0, elements);
}

/* What the caller may have written goes to this rank. No rank writes to masters before it has heard from all. */
static void take_masters(mlc_rank *rank, const mlc_session *session)
{
    if (!session->exposed)
        return;
    for (int i = 0; i < rank->role->held_count; i++)
        take_master(rank, session, rank->role->held[i].parameter);
    mlc_executor_refresh(rank);
}

/* ---- looking at a session ---- */

#define FORKED "session: this process was forked from the one that opened the model, and has none of its threads: open it here"

/* Who asks while a call works was refused: what that call writes is not for them. */
const char *mlc_session_message(const mlc_session *session)
{
    const char *holder = is_forked(session) ? FORKED : atomic_load(&session->holder);
    if (holder)
        return holder;
    const char *refused = atomic_load(&session->refused);
    return session->error.status || !refused ? session->error.text : refused;
}

const char *mlc_session_notes(const mlc_session *session)
{
    return session->notes;
}

const mlc_model *mlc_session_model(const mlc_session *session)
{
    return session->model;
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

mlc_view mlc_parameter_master(mlc_session *session, int parameter)
{
    const mlc_parameter *p = parameter_at(session, parameter);
    if (!p)
        return (mlc_view){0};
    if (!session->exposed)
        gather_masters(session);
    session->exposed = true;
    mlc_lying master = master_of(owner_of(session, parameter, 0), parameter);
    char **copy = master_copy(session, parameter);
    return (mlc_view){p->name, session->model->wide, p->rank, p->shape, *copy ? *copy : shown(session, parameter, master, copy), 0};
}

mlc_view mlc_parameter_gradient(mlc_session *session, int parameter)
{
    const mlc_parameter *p = parameter_at(session, parameter);
    if (!p)
        return (mlc_view){0};
    const mlc_rank *owner = owner_of(session, parameter, 0);
    if (!mlc_gradient_of(owner, parameter))
        return (mlc_view){p->name, session->model->wide, p->rank, p->shape, NULL, 0};
    gather(session, parameter, gradient_of);
    void *gradient = shown(session, parameter, gradient_of(owner, parameter), gradient_copy(session, parameter));
    return (mlc_view){p->name, session->model->wide, p->rank, p->shape, gradient, 0};
}

int mlc_parameter_state_count(const mlc_session *session, int parameter)
{
    const mlc_parameter *p = parameter_at(session, parameter);
    return p ? p->state_count : 0;
}

/* The state where one replica holds it whole, in canonical order; NULL: it is spread over several, or arranged. */
static void *whole_state(const mlc_session *session, int parameter, int state)
{
    int64_t elements = mlc_parameter_elements(&session->model->parameters[parameter]);
    for (int replica = 0; replica < session->model->mesh.size[MLC_DP]; replica++) {
        const mlc_rank *rank = owner_of(session, parameter, replica);
        int at = 0;
        const mlc_piece *piece = next_piece(rank, parameter, &at);
        if (piece && piece->end - piece->begin == elements && !mlc_arranged_state(session->model, parameter, state))
            return mlc_rank_at(rank, piece->states[state]);
    }
    return NULL;
}

/* What a rank has of a state into a copy of all of it. */
static void copy_piece(const mlc_rank *rank, const mlc_piece *piece, int state, char *to)
{
    int64_t unit = (int64_t)mlc_wide_bytes(rank->model), elements = mlc_rank_state_elements(rank->model, piece, state);
    mlc_lying lies = {piece->states[state], unit, mlc_arranged_state(rank->model, piece->parameter, state)};
    mlc_lying_read(&rank->arena, &lies, 0, elements, to + piece->begin * unit);
}

/* The copy of a state, NULL without memory. */
static void *copy_state(const mlc_session *session, int parameter, int state)
{
    const mlc_parameter *p = &session->model->parameters[parameter];
    int64_t elements = mlc_parameter_elements(p), own = mlc_tensor_elements(&p->states[state]);
    int index = state;
    for (int before = 0; before < parameter; before++)
        index += session->model->parameters[before].state_count;
    if (!session->copies[index])
        session->copies[index] = calloc((size_t)(own > elements ? own : elements), mlc_wide_bytes(session->model));
    char *to = session->copies[index];
    for (int replica = 0; replica < session->model->mesh.size[MLC_DP] && to; replica++) {
        const mlc_rank *rank = owner_of(session, parameter, replica);
        int at = 0;
        for (const mlc_piece *piece; (piece = next_piece(rank, parameter, &at));)
            copy_piece(rank, piece, state, to);
    }
    return to;
}

mlc_view mlc_parameter_state(mlc_session *session, int parameter, int state)
{
    const mlc_parameter *p = parameter_at(session, parameter);
    if (!p || state < 0 || state >= p->state_count)
        return (mlc_view){0};
    void *whole = whole_state(session, parameter, state);
    const mlc_tensor *tensor = &p->states[state];
    return (mlc_view){tensor->name, session->model->wide, tensor->rank, tensor->shape, whole ? whole : copy_state(session, parameter, state), !whole};
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
    return (mlc_view){tensor->name, tensor->dtype, tensor->rank, tensor->shape, NULL, 0};
}

int64_t mlc_session_steps_done(const mlc_session *session)
{
    return session->members[0]->step;
}

double mlc_session_grad_norm(const mlc_session *session)
{
    return session->members[0]->result.grad_norm;
}

int mlc_session_metric_count(const mlc_session *session)
{
    const mlc_chain *chain = &session->model->chains[MLC_TRAIN];
    return chain->column_count - chain->losses;
}

const char *mlc_session_metric_name(const mlc_session *session, int metric)
{
    const mlc_chain *chain = &session->model->chains[MLC_TRAIN];
    bool known = metric >= 0 && metric < mlc_session_metric_count(session);
    return known ? chain->columns[chain->losses + metric].name : NULL;
}

double mlc_session_metric(const mlc_session *session, int metric)
{
    bool known = metric >= 0 && metric < mlc_session_metric_count(session);
    return known ? session->members[0]->metrics[metric] : 0;
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

static int check_domains(const mlc_model *model, int input, const int32_t *values, int64_t count, int64_t first, mlc_error *error)
{
    const mlc_domain *domain;
    int64_t at = mlc_domain_find(model, input, values, count, &domain);
    char range[80];
    if (at < 0)
        return MLC_OK;
    mlc_domain_text(range, domain);
    return mlc_error_set(error, MLC_BAD_INPUT, "input %s: element %lld is %d, not in %s", model->inputs[input].tensor.name,
                         (long long)(first + at), values[at], range);
}

static int fill_from_arrays(const mlc_feed *feed, const mlc_rank *rank, int input, int64_t microbatch, int64_t begin, int64_t end, void *to,
                            mlc_error *error)
{
    const array_feed *arrays = (const array_feed *)feed;
    const mlc_input *kind = &rank->model->inputs[input];
    int64_t first = microbatch * rank->model->batch + begin, rows = end - begin, row_bytes = mlc_input_row_bytes(kind);
    int64_t elements = mlc_input_row_elements(kind);
    const char *from = (const char *)arrays->inputs[input] + first * row_bytes;
    char *at = (char *)to + begin * row_bytes;
    if (kind->tensor.dtype == MLC_I32 && copy_indices(kind, (int32_t *)at, (const int32_t *)from, rows * elements, first * elements, error))
        return error->status;
    if (kind->tensor.dtype == MLC_I32)
        return check_domains(rank->model, input, (const int32_t *)at, rows * elements, first * elements, error);
    memcpy(at, from, (size_t)(rows * row_bytes));
    return MLC_OK;
}

/* ---- calls that take the session ---- */

/* Told to a second caller while the first is in `call`. */
#define HELD_BY(call) "session: another caller is in " call ": a session serves one at a time"

/* Enters a call: clears the last error, refuses a second caller, and a child of the process that opened the session. */
static int session_enter(mlc_session *session, const char *held)
{
    const char *holder = NULL;
    if (is_forked(session))
        return MLC_USAGE;
    if (!atomic_compare_exchange_strong(&session->holder, &holder, held)) {
        atomic_store(&session->refused, holder);
        return MLC_USAGE;
    }
    session->error = (mlc_error){0};
    session->notes[0] = 0;
    return MLC_OK;
}

static int session_leave(mlc_session *session)
{
    int status = session->error.status;
    atomic_store(&session->holder, NULL);
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

/* What the ranks are called with. */
typedef struct pass {
    const mlc_session *session;
    array_feed feed;
    int64_t rows;
    bool update;
    double loss; /* of rank 0 */
} pass;

static void train_member(mlc_rank *rank, void *context)
{
    pass *run = context;
    take_masters(rank, run->session);
    if (mlc_executor_step(rank, &run->feed.feed, run->update))
        return;
    rank->step += run->update;
    rank->cursor += run->update ? run->rows : 0;
    if (!rank->rank)
        run->loss = rank->result.loss;
}

static void train(mlc_session *session, const void *const *inputs, int64_t rows, bool update, double *loss)
{
    pass run = {.session = session, .feed = {{fill_from_arrays, NULL}, inputs}, .rows = rows, .update = update};
    if (check_inputs(session, inputs, rows, true))
        return;
    if (!run_call(session, train_member, &run))
        *loss = run.loss;
    if (session->exposed && update) /* an update that left what is not finite has been made all the same */
        gather_masters(session);
    show_masters(session);
}

int mlc_session_step(mlc_session *session, const void *const *inputs, int64_t rows, double *loss)
{
    if (session_enter(session, HELD_BY("mlc_session_step")))
        return MLC_USAGE;
    train(session, inputs, rows, true, loss);
    return session_leave(session);
}

int mlc_session_gradient(mlc_session *session, const void *const *inputs, int64_t rows, double *loss)
{
    if (session_enter(session, HELD_BY("mlc_session_gradient")))
        return MLC_USAGE;
    train(session, inputs, rows, false, loss);
    return session_leave(session);
}

static void evaluate_member(mlc_rank *rank, void *context)
{
    pass *run = context;
    double loss;
    take_masters(rank, run->session);
    mlc_executor_clear(rank);
    if (mlc_executor_forward(rank, MLC_EVALUATE, &run->feed.feed, 0, run->rows / rank->model->batch, 1))
        return;
    mlc_executor_means(rank, MLC_EVALUATE, &loss);
    if (!rank->rank)
        run->loss = loss;
}

static void evaluate(mlc_session *session, const void *const *inputs, int64_t rows, double *loss)
{
    pass run = {.session = session, .feed = {{fill_from_arrays, NULL}, inputs}, .rows = rows};
    if (!check_inputs(session, inputs, rows, false) && !run_call(session, evaluate_member, &run))
        *loss = run.loss;
}

int mlc_session_evaluate(mlc_session *session, const void *const *inputs, int64_t rows, double *loss)
{
    if (session_enter(session, HELD_BY("mlc_session_evaluate")))
        return MLC_USAGE;
    evaluate(session, inputs, rows, loss);
    return session_leave(session);
}

static void set_scalar(mlc_session *session, const char *name, double given)
{
    const mlc_model *model = session->model;
    const mlc_dtype_row *wide = mlc_dtype_wide(model);
    double value = mlc_dtype_round(wide, given);
    bool known = false;
    if (!isfinite(value)) {
        mlc_error_set(&session->error, MLC_USAGE, "run-time constant %s: is not finite, or does not fit an %s", name, wide->name);
        return;
    }
    for (int i = 0; i < model->scalar_count; i++) {
        if (!model->scalars[i].option || strcmp(model->scalars[i].name, name))
            continue;
        known = true;
        for (int r = 0; r < session->ranks; r++)
            session->members[r]->scalars[i] = value;
    }
    if (!known)
        mlc_error_set(&session->error, MLC_USAGE, "model %s has no run-time constant %s", model->name, name);
}

int mlc_session_set_scalar(mlc_session *session, const char *name, double value)
{
    if (session_enter(session, HELD_BY("mlc_session_set_scalar")))
        return MLC_USAGE;
    set_scalar(session, name, value);
    return session_leave(session);
}

int mlc_session_set_steps(mlc_session *session, int64_t steps)
{
    if (session_enter(session, HELD_BY("mlc_session_set_steps")))
        return MLC_USAGE;
    if (steps < 1)
        mlc_error_set(&session->error, MLC_USAGE, "steps: %lld is not at least 1", (long long)steps);
    for (int r = 0; r < session->ranks && steps >= 1; r++)
        session->members[r]->steps = steps;
    return session_leave(session);
}

/* ---- files ---- */

typedef struct transfer {
    const mlc_session *session;
    const char *path;
    char *hex; /* of rank 0 */
    mlc_weights_terms terms;
} transfer;

static void save_member(mlc_rank *rank, void *context)
{
    const transfer *run = context;
    const mlc_claim claim = {.ways = "load one of them first, or save into another directory"};
    take_masters(rank, run->session);
    if (!mlc_checkpoint_enter(rank, run->path, claim, &rank->error))
        mlc_checkpoint_save(rank, run->path, &rank->error);
}

static void load_member(mlc_rank *rank, void *context)
{
    const transfer *run = context;
    take_masters(rank, run->session);
    if (mlc_checkpoint_load(rank, run->path, (mlc_allowed){0}, &rank->error))
        return;
    mlc_home_close(&rank->home); /* the next save looks anew whose steps lie there */
    mlc_executor_refresh(rank);
}

static void load_weights_member(mlc_rank *rank, void *context)
{
    const transfer *run = context;
    take_masters(rank, run->session);
    if (!mlc_weights_load(rank, run->path, run->terms, &rank->error))
        mlc_executor_refresh(rank);
}

static void digest_member(mlc_rank *rank, void *context)
{
    const transfer *run = context;
    char hex[65];
    take_masters(rank, run->session);
    if (!mlc_digest(rank, hex, &rank->error) && !rank->rank)
        memcpy(run->hex, hex, sizeof hex);
}

static int run_prepared(mlc_session *session, const char *held, mlc_call call, transfer *run)
{
    if (session_enter(session, held))
        return MLC_USAGE;
    run_call(session, call, run);
    show_masters(session);
    return session_leave(session);
}

static int run_transfer(mlc_session *session, const char *held, mlc_call call, const char *path, char *hex)
{
    transfer run = {.session = session, .path = path, .hex = hex};
    return run_prepared(session, held, call, &run);
}

int mlc_session_save(mlc_session *session, const char *directory)
{
    return run_transfer(session, HELD_BY("mlc_session_save"), save_member, directory, NULL);
}

int mlc_session_release(mlc_session *session)
{
    if (session_enter(session, HELD_BY("mlc_session_release")))
        return MLC_USAGE;
    mlc_home_close(&session->members[0]->home);
    return session_leave(session);
}

int mlc_session_load(mlc_session *session, const char *path)
{
    return run_transfer(session, HELD_BY("mlc_session_load"), load_member, path, NULL);
}

int mlc_session_load_weights(mlc_session *session, const char *path, char *const *allow, int allowed, char *const *fit, int fitted)
{
    transfer run = {.session = session, .path = path, .terms = {{allow, allowed}, {fit, fitted}}};
    return run_prepared(session, HELD_BY("mlc_session_load_weights"), load_weights_member, &run);
}

int mlc_session_digest(mlc_session *session, char hex[65])
{
    return run_transfer(session, HELD_BY("mlc_session_digest"), digest_member, NULL, hex);
}
