/* gradient.c: see gradient.h. */
#include "gradient.h"

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

typedef bool (*selector)(const mlc_parameter *parameter);

/* Works on elements [begin, end) of a parameter; begin is a multiple of 1024. */
typedef void (*visitor)(const mlc_session *session, mlc_env *env, int parameter, int64_t begin, int64_t end, const void *context);

static int64_t blocks_of(const mlc_parameter *parameter)
{
    return (mlc_tensor_elements(&parameter->master) + MLC_BLOCK - 1) / MLC_BLOCK;
}

/* Gives each thread an equal, contiguous share of the 1024-blocks of all selected parameters. */
static void visit_share(const mlc_session *session, const mlc_env *env, selector selected, visitor visit, const void *context)
{
    const mlc_model *model = session->model;
    int64_t total = 0, first = 0;
    for (int p = 0; p < model->parameter_count; p++)
        total += selected(&model->parameters[p]) ? blocks_of(&model->parameters[p]) : 0;
    int64_t begin = total * env->thread / env->threads, end = total * (env->thread + 1) / env->threads;
    for (int p = 0; p < model->parameter_count && first < end; p++) {
        if (!selected(&model->parameters[p]))
            continue;
        int64_t blocks = blocks_of(&model->parameters[p]), elements = mlc_tensor_elements(&model->parameters[p].master);
        int64_t low = larger(begin - first, 0) * MLC_BLOCK, high = smaller((end - first) * MLC_BLOCK, elements);
        if (low < high)
            visit(session, &mlc_worker_of(env)->env, p, low, high, context);
        first += blocks;
    }
}

static bool is_fed(const mlc_parameter *parameter)
{
    return parameter->fed != 2 && parameter->uses > 0;
}

static bool is_flat(const mlc_parameter *parameter)
{
    return parameter->update_flat != NULL;
}

static bool is_whole(const mlc_parameter *parameter)
{
    return !parameter->update_flat && parameter->update;
}

static bool has_copy(const mlc_parameter *parameter)
{
    return parameter->copy != MLC_NONE;
}

static bool is_initialized_flat(const mlc_parameter *parameter)
{
    return parameter->init_flat != NULL;
}

static float *floats_at(const mlc_session *session, uint64_t at)
{
    return (float *)mlc_session_at(session, at);
}

/* ---- the group tree ----
 *
 * Finished group sums wait on a stack, accumulators 1, 2, ... of a use; accumulator 0 takes the microbatches. The stack before
 * group g holds one sum for each one-bit of g, the largest subtree lowest. Group g merges with as many as g has trailing ones:
 *
 *   g = 0   stack: -            0 goes to 1             stack: (0)
 *   g = 1   stack: (0)          (0)+1 goes to 1         stack: (01)
 *   g = 2   stack: (01)         2 goes to 2             stack: (01) (2)
 *   g = 3   stack: (01) (2)     (01)+((2)+3) goes to 1  stack: (0123)
 *
 * After the last group everything left merges, top first: an odd subtree moves up.
 */

static void add_into(float *restrict sum, const float *restrict x, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        sum[i] += x[i];
}

static void scale_by(float *restrict x, float factor, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        x[i] *= factor;
}

int mlc_gradient_levels(int groups)
{
    int most = 0;
    for (int g = 0; g < groups; g++) {
        int held = __builtin_popcount((unsigned)g);
        most = held > most ? held : most;
    }
    return 1 + most;
}

static float *accumulator(const mlc_session *session, const mlc_parameter *parameter, int use, int level)
{
    return floats_at(session, parameter->accumulators[use * session->model->levels + level]);
}

/* Merges `merges` sums from the top of a stack of `depth` into accumulator 0. */
static void tree_merge(const mlc_session *session, const mlc_parameter *parameter, int use, int depth, int merges, int64_t begin,
                       int64_t count)
{
    float *sum = accumulator(session, parameter, use, 0) + begin;
    for (int k = 0; k < merges; k++)
        add_into(sum, accumulator(session, parameter, use, depth - k) + begin, count);
}

static void fold_slice(const mlc_session *session, mlc_env *env, int p, int64_t begin, int64_t end, const void *context)
{
    (void)env;
    const mlc_parameter *parameter = &session->model->parameters[p];
    unsigned group = *(const unsigned *)context;
    int depth = __builtin_popcount(group), merges = __builtin_ctz(~group);
    for (int use = 0; use < parameter->uses; use++)
        for (int64_t at = begin; at < end; at += CHUNK) {
            int64_t count = smaller(CHUNK, end - at);
            tree_merge(session, parameter, use, depth, merges, at, count);
            float *held = accumulator(session, parameter, use, depth - merges + 1) + at;
            memcpy(held, accumulator(session, parameter, use, 0) + at, (size_t)count * sizeof(float));
        }
}

void mlc_gradient_fold(const mlc_session *session, const mlc_env *env, int group)
{
    unsigned index = (unsigned)group;
    visit_share(session, env, is_fed, fold_slice, &index);
    mlc_barrier(env);
}

/* ---- whole gradients and their norm ---- */

/* Squares of a slice that starts at a block: into the worker's exact sum, or its flag if one is not finite. */
static void square_slice(mlc_worker *worker, int p, const float *x, int64_t count, bool counts)
{
    double sums[9];
    int whole = (int)(count / MLC_BLOCK), blocks = whole;
    mlc_exact_squares(x, whole, sums);
    if (count % MLC_BLOCK)
        sums[blocks++] = mlc_exact_squares_part(x + whole * MLC_BLOCK, count % MLC_BLOCK);
    for (int b = 0; b < blocks; b++) {
        if (isfinite(sums[b]) && counts)
            mlc_exact_add(&worker->squares, sums[b]);
        else if (!isfinite(sums[b]) && (worker->bad_parameter < 0 || p < worker->bad_parameter))
            worker->bad_parameter = p;
    }
}

static void finish_slice(const mlc_session *session, mlc_env *env, int p, int64_t begin, int64_t end, const void *context)
{
    const mlc_parameter *parameter = &session->model->parameters[p];
    float scale = parameter->fed == 0 ? *(const float *)context : (float)(1.0 / session->model->microbatches);
    int depth = __builtin_popcount((unsigned)session->model->groups - 1);
    float *whole = accumulator(session, parameter, 0, 0);
    for (int64_t at = begin; at < end; at += CHUNK) {
        int64_t count = smaller(CHUNK, end - at);
        for (int use = 0; use < parameter->uses; use++) {
            tree_merge(session, parameter, use, depth, depth, at, count);
            if (use)
                add_into(whole + at, accumulator(session, parameter, use, 0) + at, count);
        }
        if (scale != 1)
            scale_by(whole + at, scale, count);
        square_slice(mlc_worker_of(env), p, whole + at, count, parameter->fed == 0);
    }
}

void mlc_gradient_finish(const mlc_session *session, const mlc_env *env, float scale)
{
    mlc_worker *worker = mlc_worker_of(env);
    worker->squares = (mlc_exact){{0}};
    worker->bad_parameter = -1;
    visit_share(session, env, is_fed, finish_slice, &scale);
    mlc_barrier(env);
}

double mlc_gradient_norm(const mlc_session *session)
{
    mlc_exact sum = {{0}};
    for (int i = 0; i < session->team->threads; i++)
        mlc_exact_merge(&sum, &session->team->workers[i].squares);
    return sqrt(mlc_exact_value(&sum));
}

int64_t mlc_gradient_bad(const mlc_session *session)
{
    int64_t lowest = -1;
    for (int i = 0; i < session->team->threads; i++) {
        int64_t bad = session->team->workers[i].bad_parameter;
        if (bad >= 0 && (lowest < 0 || bad < lowest))
            lowest = bad;
    }
    return lowest;
}

static void search_slice(const mlc_session *session, mlc_env *env, int p, int64_t begin, int64_t end, const void *context)
{
    (void)context;
    const mlc_parameter *parameter = &session->model->parameters[p];
    for (int use = 0; use < parameter->uses; use++)
        for (int64_t at = begin; at < end; at += CHUNK)
            square_slice(mlc_worker_of(env), p, accumulator(session, parameter, use, 0) + at, smaller(CHUNK, end - at), false);
}

void mlc_gradient_search(const mlc_session *session, const mlc_env *env)
{
    mlc_worker_of(env)->bad_parameter = -1;
    visit_share(session, env, is_fed, search_slice, NULL);
    mlc_barrier(env);
}

/* ---- update ---- */

/* f32 to bf16, to nearest, ties to even; a NaN stays a NaN. */
static void round_copy(const mlc_session *session, const mlc_parameter *parameter, int64_t begin, int64_t end)
{
    const uint32_t *restrict from = mlc_session_at(session, parameter->master.at);
    uint16_t *restrict to = mlc_session_at(session, parameter->copy);
    for (int64_t i = begin; i < end; i++) {
        uint32_t bits = from[i];
        uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
        to[i] = (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? bits >> 16 | 0x40 : rounded);
    }
}

static void refresh_slice(const mlc_session *session, mlc_env *env, int p, int64_t begin, int64_t end, const void *context)
{
    (void)env, (void)context;
    round_copy(session, &session->model->parameters[p], begin, end);
}

void mlc_gradient_refresh(const mlc_session *session, const mlc_env *env)
{
    visit_share(session, env, has_copy, refresh_slice, NULL);
    mlc_barrier(env);
}

static void clip_slice(const mlc_session *session, const mlc_parameter *parameter, int64_t begin, int64_t end, float factor)
{
    if (factor != 1 && parameter->fed == 0)
        scale_by(floats_at(session, parameter->gradient) + begin, factor, end - begin);
}

static void update_slice(const mlc_session *session, mlc_env *env, int p, int64_t begin, int64_t end, const void *context)
{
    const mlc_parameter *parameter = &session->model->parameters[p];
    env->path = parameter->path;
    for (int64_t at = begin; at < end; at += CHUNK) {
        int64_t to = smaller(at + CHUNK, end);
        clip_slice(session, parameter, at, to, *(const float *)context);
        parameter->update_flat(env, parameter->update_at, at, to);
        if (has_copy(parameter))
            round_copy(session, parameter, at, to);
    }
}

/* This thread's share of copying one buffer of n floats. */
static void copy_share(const mlc_session *session, const mlc_env *env, uint64_t from, uint64_t to, int64_t n)
{
    int64_t begin = n * env->thread / env->threads, end = n * (env->thread + 1) / env->threads;
    memcpy(floats_at(session, to) + begin, floats_at(session, from) + begin, (size_t)(end - begin) * sizeof(float));
}

/* Puts the results of a whole-tensor update in place. at: master, gradient, states, new master, new states. */
static void update_settle(const mlc_session *session, const mlc_env *env, const mlc_parameter *parameter)
{
    const uint64_t *at = parameter->update_at, *results = at + 2 + parameter->state_count;
    copy_share(session, env, results[0], at[0], mlc_tensor_elements(&parameter->master));
    for (int s = 0; s < parameter->state_count; s++)
        copy_share(session, env, results[1 + s], at[2 + s], mlc_tensor_elements(&parameter->states[s]));
}

static void update_whole(const mlc_session *session, const mlc_env *env, const mlc_parameter *parameter, float factor)
{
    mlc_env *own = &mlc_worker_of(env)->env;
    int64_t n = mlc_tensor_elements(&parameter->master);
    int64_t begin = n * env->thread / env->threads, end = n * (env->thread + 1) / env->threads;
    clip_slice(session, parameter, begin, end, factor);
    mlc_barrier(env);
    own->path = parameter->path;
    parameter->update(own, parameter->update_at);
    mlc_barrier(env);
    update_settle(session, env, parameter);
    mlc_barrier(env);
    if (has_copy(parameter))
        round_copy(session, parameter, begin, end);
}

void mlc_gradient_update(const mlc_session *session, const mlc_env *env, float factor)
{
    visit_share(session, env, is_flat, update_slice, &factor);
    for (int p = 0; p < session->model->parameter_count; p++)
        if (is_whole(&session->model->parameters[p]))
            update_whole(session, env, &session->model->parameters[p], factor);
    mlc_barrier(env);
}

/* ---- initial values ---- */

static void initialize_slice(const mlc_session *session, mlc_env *env, int p, int64_t begin, int64_t end, const void *context)
{
    (void)context;
    const mlc_parameter *parameter = &session->model->parameters[p];
    env->path = parameter->path;
    parameter->init_flat(env, parameter->init_at, begin, end);
}

void mlc_gradient_initialize(const mlc_session *session, const mlc_env *env)
{
    mlc_env *own = &mlc_worker_of(env)->env;
    visit_share(session, env, is_initialized_flat, initialize_slice, NULL);
    mlc_barrier(env);
    for (int p = 0; p < session->model->parameter_count; p++) {
        const mlc_parameter *parameter = &session->model->parameters[p];
        if (parameter->init_flat || !parameter->init)
            continue;
        own->path = parameter->path;
        parameter->init(own, parameter->init_at);
        mlc_barrier(env);
    }
    mlc_gradient_refresh(session, env);
}
