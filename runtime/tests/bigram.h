/* bigram.h: a model written by hand: next byte from this byte, by a table. It trains, evaluates and samples.
 *
 *   table f32[256, 256], momentum f32[256, 256]; tokens i32[4, 16], targets follow; M = 4 microbatches in G = 2 groups
 *
 * On one place, or on two: the table, then the loss, which has no parameter. On one replica or two.
 */
#ifndef MLC_BIGRAM_H
#define MLC_BIGRAM_H

#include "layout.h"

#include <math.h>
#include <time.h>

void mlc_barrier(const mlc_env *env);

enum { BATCH = 4, CONTEXT = 16, VOCABULARY = 256, POSITIONS = BATCH * CONTEXT, TABLE = VOCABULARY * VOCABULARY };
enum { LOGITS_BYTES = POSITIONS * VOCABULARY * 4 };
enum { SCALAR_STEP, SCALAR_STEPS, SCALAR_RATE, SCALAR_NOW, SCALAR_POISON, SCALAR_PAUSE, SCALARS };
enum { TOKENS, TARGETS };

static inline float *bigram_floats(const mlc_env *env, uint64_t at)
{
    return (float *)(env->arena + at);
}

static inline const float *bigram_scalar(const mlc_env *env)
{
    return (const float *)env->record->scalars;
}

static inline const int32_t *bigram_tokens(const mlc_env *env, uint64_t at)
{
    return (const int32_t *)(env->arena + at);
}

/* at: tokens, table, logits. */
static inline void bigram_look_up(const mlc_env *env, const uint64_t *at)
{
    for (int p = env->thread; p < POSITIONS; p += env->threads)
        memcpy(bigram_floats(env, at[2]) + p * VOCABULARY, bigram_floats(env, at[1]) + bigram_tokens(env, at[0])[p] * VOCABULARY,
               VOCABULARY * sizeof(float));
}

/* at: logits, logits. */
static inline void bigram_pass(const mlc_env *env, const uint64_t *at)
{
    for (int p = env->thread; p < POSITIONS; p += env->threads)
        memcpy(bigram_floats(env, at[1]) + p * VOCABULARY, bigram_floats(env, at[0]) + p * VOCABULARY, VOCABULARY * sizeof(float));
}

static inline void bigram_softmax(float *x)
{
    float highest = x[0], sum = 0;
    for (int v = 1; v < VOCABULARY; v++)
        highest = x[v] > highest ? x[v] : highest;
    for (int v = 0; v < VOCABULARY; v++)
        sum += x[v] = expf(x[v] - highest);
    for (int v = 0; v < VOCABULARY; v++)
        x[v] /= sum;
}

/* at: targets, logits, probabilities, losses, loss, accuracy. The scalar `poison` makes the loss of that step and microbatch 1 not
 * finite; `pause` makes the last thread sleep for so many seconds. */
static inline void bigram_loss(const mlc_env *env, const uint64_t *at)
{
    const int32_t *targets = bigram_tokens(env, at[0]);
    float *losses = bigram_floats(env, at[3]), sum = 0, right = 0;
    if (env->thread == env->threads - 1 && bigram_scalar(env)[SCALAR_PAUSE] > 0)
        nanosleep(&(struct timespec){.tv_sec = (time_t)bigram_scalar(env)[SCALAR_PAUSE]}, NULL);
    for (int p = env->thread; p < POSITIONS; p += env->threads) {
        float *row = bigram_floats(env, at[2]) + p * VOCABULARY;
        memcpy(row, bigram_floats(env, at[1]) + p * VOCABULARY, VOCABULARY * sizeof(float));
        bigram_softmax(row);
        losses[p] = -logf(row[targets[p]] + 1e-30F);
    }
    mlc_barrier(env);
    if (env->thread)
        return;
    for (int p = 0; p < POSITIONS; p++) {
        sum += losses[p];
        right += losses[p] < 0.6931F;
    }
    if (bigram_scalar(env)[SCALAR_POISON] == (float)env->record->step && *env->microbatch == 1)
        sum = INFINITY;
    bigram_floats(env, at[4])[0] = sum / POSITIONS;
    bigram_floats(env, at[5])[0] = right / POSITIONS;
}

/* at: targets, probabilities, cotangent of the logits, seed. */
static inline void bigram_loss_backward(const mlc_env *env, const uint64_t *at)
{
    const int32_t *targets = bigram_tokens(env, at[0]);
    float seed = bigram_floats(env, at[3])[0] / POSITIONS;
    for (int p = env->thread; p < POSITIONS; p += env->threads)
        for (int v = 0; v < VOCABULARY; v++)
            bigram_floats(env, at[2])[p * VOCABULARY + v] = seed * (bigram_floats(env, at[1])[p * VOCABULARY + v] - (v == targets[p]));
}

/* at: tokens, cotangent of the logits, gradient. Each thread owns rows of the table; positions add in ascending order. With
 * `poison` 1000 + step the gradient of microbatch 2 is not finite. */
static inline void bigram_table_backward(const mlc_env *env, const uint64_t *at)
{
    const int32_t *tokens = bigram_tokens(env, at[0]);
    float *gradient = bigram_floats(env, at[2]);
    int first = VOCABULARY * env->thread / env->threads, last = VOCABULARY * (env->thread + 1) / env->threads;
    if (!env->fold)
        memset(gradient + first * VOCABULARY, 0, (size_t)(last - first) * VOCABULARY * sizeof(float));
    for (int p = 0; p < POSITIONS; p++) {
        if (tokens[p] < first || tokens[p] >= last)
            continue;
        for (int v = 0; v < VOCABULARY; v++)
            gradient[tokens[p] * VOCABULARY + v] += bigram_floats(env, at[1])[p * VOCABULARY + v];
    }
    if (bigram_scalar(env)[SCALAR_POISON] == 1000 + (float)env->record->step && *env->microbatch == 2)
        gradient[first * VOCABULARY] = NAN;
}

/* at: master. */
static inline void bigram_init(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; i++) {
        uint64_t x = (env->record->seed + 1) * 0x9E3779B97F4A7C15 ^ env->path ^ (uint64_t)i * 0xBF58476D1CE4E5B9;
        x ^= x >> 29;
        bigram_floats(env, at[0])[i] = (float)(x * 0x94D049BB133111EB >> 40) * 0x1p-24F - 0.5F;
    }
}

/* at: master, gradient, momentum. */
static inline void bigram_update(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end)
{
    float *table = bigram_floats(env, at[0]), *gradient = bigram_floats(env, at[1]), *momentum = bigram_floats(env, at[2]);
    float rate = bigram_scalar(env)[SCALAR_NOW];
    for (int64_t i = begin; i < end; i++) {
        momentum[i] = 0.9F * momentum[i] + gradient[i];
        table[i] -= rate * momentum[i];
    }
}

static inline void bigram_scalars(void *record)
{
    float *scalars = record;
    scalars[SCALAR_NOW] = scalars[SCALAR_RATE] * (1 - 0.5F * scalars[SCALAR_STEP] / scalars[SCALAR_STEPS]);
}

static const int64_t BIGRAM_TABLE_SHAPE[] = {VOCABULARY, VOCABULARY}, BIGRAM_TOKENS_SHAPE[] = {BATCH, CONTEXT},
                     BIGRAM_LOGITS_SHAPE[] = {BATCH, CONTEXT, VOCABULARY};
static const mlc_tensor BIGRAM_STATES[] = {{"momentum", MLC_F32, 2, BIGRAM_TABLE_SHAPE, MLC_NONE}};
static const mlc_input BIGRAM_INPUTS[] = {
    {{"tokens", MLC_I32, 2, BIGRAM_TOKENS_SHAPE, MLC_NONE}, MLC_SOURCE_DATA, 0, 0, VOCABULARY},
    {{"targets", MLC_I32, 2, BIGRAM_TOKENS_SHAPE, MLC_NONE}, MLC_SOURCE_FOLLOWING, 0, 1, VOCABULARY}};
static const mlc_scalar BIGRAM_SCALARS[SCALARS] = {{"step", 0, 0},     {"steps", 0, 0},   {"rate", 30, 2},
                                                   {"rate.now", 0, 0}, {"poison", -1, 1}, {"pause", 0, 1}};
static const mlc_column BIGRAM_COLUMNS[2][2] = {{{"loss", 0}, {"accuracy", 0}}, {{"loss", 1}, {"accuracy", 1}}}; /* by last stage */

static inline uint64_t bigram_bind(layout *all, int chain, int s, int input)
{
    layout_stage *stage = &all->stage[chain][s];
    uint64_t at = layout_region(all, s, POSITIONS * 4);
    stage->inputs[stage->chunk.input_count++] = (mlc_binding){input, at};
    return at;
}

/* The table, in the first stage; `logits` and their cotangent: where the other part reads and leaves them. */
static inline void bigram_add_table(layout *all, int chain, uint64_t logits, uint64_t cotangent)
{
    layout_stage *stage = &all->stage[chain][0];
    uint64_t tokens = bigram_bind(all, chain, 0, TOKENS);
    layout_row(&stage->forward, bigram_look_up, "table forward", 3, (uint64_t[]){tokens, all->held[0][0].master, logits});
    if (chain != MLC_TRAIN)
        return;
    uint64_t gradient = layout_use(all, 0, 0, 0, MLC_WEIGHT_GRADIENT);
    layout_row(&stage->weight_gradient, bigram_table_backward, "table backward", 3, (uint64_t[]){tokens, cotangent, gradient});
}

static inline void bigram_add_loss(layout *all, int chain, int s, uint64_t logits, uint64_t cotangent)
{
    layout_stage *stage = &all->stage[chain][s];
    uint64_t targets = bigram_bind(all, chain, s, TARGETS), probabilities = layout_region(all, s, LOGITS_BYTES);
    uint64_t losses = layout_take(all, s, POSITIONS * 4), loss = layout_values(all, chain, s, 4);
    uint64_t accuracy = layout_values(all, chain, s, 4), one = all->roles[s].record + offsetof(mlc_record, one);
    layout_row(&stage->forward, bigram_loss, "loss forward", 6, (uint64_t[]){targets, logits, probabilities, losses, loss, accuracy});
    stage->values[0] = (mlc_value){0, loss};
    stage->values[1] = (mlc_value){1, accuracy};
    stage->chunk.value_count = 2;
    if (chain == MLC_TRAIN)
        layout_row(&stage->input_gradient, bigram_loss_backward, "loss backward", 4,
                   (uint64_t[]){targets, probabilities, cotangent, one});
}

static inline void bigram_add_chain(layout *all, int chain)
{
    int last = all->stages - 1;
    uint64_t logits = last ? all->stage[chain][0].out : layout_region(all, 0, LOGITS_BYTES);
    uint64_t cotangent = last || chain != MLC_TRAIN ? 0 : layout_region(all, 0, LOGITS_BYTES);
    bigram_add_table(all, chain, logits, last ? all->stage[chain][0].cotangent_in : cotangent);
    if (chain != MLC_SAMPLE) {
        bigram_add_loss(all, chain, last, last ? all->stage[chain][1].in : logits, last ? all->stage[chain][1].cotangent_out : cotangent);
        return;
    }
    if (last) {
        logits = layout_region(all, last, LOGITS_BYTES);
        layout_row(&all->stage[chain][last].forward, bigram_pass, "logits", 2, (uint64_t[]){all->stage[chain][last].in, logits});
    }
    all->stage[chain][last].chunk.logits = (mlc_tensor){"logits", MLC_F32, 3, BIGRAM_LOGITS_SHAPE, logits};
}

/* The model on pp places (1 or 2) and dp replicas (1 or 2). The caller may change it, and frees it. */
static inline layout *bigram_make(int pp, int dp)
{
    layout *all = layout_begin((layout_shape){pp, dp, 1, 4, 2, .window = pp, .outbox = 1, .rounds = 2, .state_bytes = LOGITS_BYTES,
                                              .cotangent_bytes = LOGITS_BYTES, .collective_bytes = 65536, .collective_slots = 1});
    mlc_model *model = &all->model;
    all->parameters[0] = (mlc_parameter){"table", 2, BIGRAM_TABLE_SHAPE, 0, 1, 0, BIGRAM_STATES, 1, 77};
    all->flat[0] = true;
    all->update_flat[0] = bigram_update;
    model->parameter_count = 1;
    layout_hold(all, 0, 0, false, bigram_init, NULL);
    for (int chain = 0; chain < MLC_DECODE; chain++)
        bigram_add_chain(all, chain);
    model->name = "bigram";
    model->hash = "b16a";
    model->description = "parameter table=f32[256, 256]\nbatch=4\nmicrobatches=4\ngroups=2\n";
    model->inputs = BIGRAM_INPUTS;
    model->input_count = 2;
    model->scalars = BIGRAM_SCALARS;
    model->scalar_count = SCALARS;
    model->set_scalars = bigram_scalars;
    model->rate = SCALAR_NOW;
    model->chains[MLC_TRAIN] = model->chains[MLC_EVALUATE] = (mlc_chain){BIGRAM_COLUMNS[pp - 1], 2, 1, -1};
    model->chains[MLC_SAMPLE] = (mlc_chain){NULL, 0, 0, pp - 1};
    model->samples = 1;
    model->clip = 1;
    model->flops = POSITIONS * VOCABULARY * 6.0;
    model->batch = BATCH;
    model->tokens = POSITIONS;
    layout_end(all);
    return all;
}

/* The same, made once and kept. */
static inline const mlc_model *bigram_of(int pp, int dp)
{
    static layout *made[2][2];
    if (!made[pp - 1][dp - 1])
        made[pp - 1][dp - 1] = bigram_make(pp, dp);
    return &made[pp - 1][dp - 1]->model;
}

#define BIGRAM (*bigram_of(1, 1))

#endif
