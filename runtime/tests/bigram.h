/* bigram.h: a model written by hand: next byte from this byte, by a table. It trains, evaluates and samples.
 *
 *   table f32[256, 256], momentum f32[256, 256]; tokens i32[4, 16], targets follow; M = 4 microbatches in G = 2 groups
 */
#ifndef MLC_BIGRAM_H
#define MLC_BIGRAM_H

#include "mlc.h"

#include <math.h>
#include <string.h>
#include <time.h>

void mlc_barrier(const mlc_env *env);

enum { BATCH = 4, CONTEXT = 16, VOCABULARY = 256, POSITIONS = BATCH * CONTEXT, TABLE = VOCABULARY * VOCABULARY };

enum bigram_arena {
    AT_RECORD = 0,
    AT_SEED = 128,
    AT_LOSS = 192,
    AT_ACCURACY = 256,
    AT_TOKENS = 320,
    AT_TARGETS = AT_TOKENS + POSITIONS * 4,
    AT_LOSSES = AT_TARGETS + POSITIONS * 4,
    AT_LOGITS = AT_LOSSES + POSITIONS * 4,
    AT_TABLE = AT_LOGITS + POSITIONS * VOCABULARY * 4,
    AT_MOMENTUM = AT_TABLE + TABLE * 4,
    AT_GRADIENT = AT_MOMENTUM + TABLE * 4,
    AT_HELD = AT_GRADIENT + TABLE * 4,
    ARENA_BYTES = AT_HELD + TABLE * 4,
};

enum { SCALAR_STEP, SCALAR_STEPS, SCALAR_RATE, SCALAR_NOW, SCALAR_POISON, SCALAR_PAUSE, SCALARS };

static inline float *bigram_floats(const mlc_env *env, uint64_t at)
{
    return (float *)(env->arena + at);
}

static inline const int32_t *bigram_tokens(const mlc_env *env, uint64_t at)
{
    return (const int32_t *)(env->arena + at);
}

/* at: tokens, logits. */
static void bigram_look_up(const mlc_env *env, const uint64_t *at)
{
    for (int p = env->thread; p < POSITIONS; p += env->threads)
        memcpy(bigram_floats(env, at[1]) + p * VOCABULARY, bigram_floats(env, AT_TABLE) + bigram_tokens(env, at[0])[p] * VOCABULARY,
               VOCABULARY * sizeof(float));
}

static void bigram_softmax(float *x)
{
    float highest = x[0], sum = 0;
    for (int v = 1; v < VOCABULARY; v++)
        highest = x[v] > highest ? x[v] : highest;
    for (int v = 0; v < VOCABULARY; v++)
        sum += x[v] = expf(x[v] - highest);
    for (int v = 0; v < VOCABULARY; v++)
        x[v] /= sum;
}

/* at: targets, logits (probabilities after), losses, loss, accuracy. The scalar `poison` makes the loss of that step and
 * microbatch 1 not finite; `pause` makes the last thread sleep for so many seconds. */
static void bigram_loss(const mlc_env *env, const uint64_t *at)
{
    const int32_t *targets = bigram_tokens(env, at[0]);
    float *losses = bigram_floats(env, at[2]), sum = 0, right = 0;
    if (env->thread == env->threads - 1 && env->record->scalars[SCALAR_PAUSE] > 0)
        nanosleep(&(struct timespec){.tv_sec = (time_t)env->record->scalars[SCALAR_PAUSE]}, NULL);
    for (int p = env->thread; p < POSITIONS; p += env->threads) {
        float *row = bigram_floats(env, at[1]) + p * VOCABULARY;
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
    if (env->record->scalars[SCALAR_POISON] == (float)env->record->step && env->record->microbatch == 1)
        sum = INFINITY;
    bigram_floats(env, at[3])[0] = sum / POSITIONS;
    bigram_floats(env, at[4])[0] = right / POSITIONS;
}

/* at: tokens, targets, probabilities, gradient. Each thread owns rows of the table; positions add in ascending order. With
 * `poison` 1000 + step the gradient of microbatch 2 is not finite. */
static void bigram_backward(const mlc_env *env, const uint64_t *at)
{
    const int32_t *tokens = bigram_tokens(env, at[0]), *targets = bigram_tokens(env, at[1]);
    float seed = bigram_floats(env, AT_SEED)[0] / POSITIONS, *gradient = bigram_floats(env, at[3]);
    int first = VOCABULARY * env->thread / env->threads, last = VOCABULARY * (env->thread + 1) / env->threads;
    if (!env->fold)
        memset(gradient + first * VOCABULARY, 0, (size_t)(last - first) * VOCABULARY * sizeof(float));
    for (int p = 0; p < POSITIONS; p++) {
        if (tokens[p] < first || tokens[p] >= last)
            continue;
        const float *row = bigram_floats(env, at[2]) + p * VOCABULARY;
        for (int v = 0; v < VOCABULARY; v++)
            gradient[tokens[p] * VOCABULARY + v] += seed * (row[v] - (v == targets[p]));
    }
    if (env->record->scalars[SCALAR_POISON] == 1000 + (float)env->record->step && env->record->microbatch == 2)
        gradient[first * VOCABULARY] = NAN;
}

/* at: master. */
static void bigram_init(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; i++) {
        uint64_t x = (env->record->seed + 1) * 0x9E3779B97F4A7C15 ^ env->path ^ (uint64_t)i * 0xBF58476D1CE4E5B9;
        x ^= x >> 29;
        bigram_floats(env, at[0])[i] = (float)(x * 0x94D049BB133111EB >> 40) * 0x1p-24F - 0.5F;
    }
}

/* at: master, gradient, momentum. */
static void bigram_update(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end)
{
    float *table = bigram_floats(env, at[0]), *gradient = bigram_floats(env, at[1]), *momentum = bigram_floats(env, at[2]);
    float rate = env->record->scalars[SCALAR_NOW];
    for (int64_t i = begin; i < end; i++) {
        momentum[i] = 0.9F * momentum[i] + gradient[i];
        table[i] -= rate * momentum[i];
    }
}

static void bigram_scalars(float *scalars)
{
    scalars[SCALAR_NOW] = scalars[SCALAR_RATE] * (1 - 0.5F * scalars[SCALAR_STEP] / scalars[SCALAR_STEPS]);
}

static const int64_t BIGRAM_TABLE_SHAPE[] = {VOCABULARY, VOCABULARY}, BIGRAM_TOKENS_SHAPE[] = {BATCH, CONTEXT},
                     BIGRAM_LOGITS_SHAPE[] = {BATCH, CONTEXT, VOCABULARY};
static const uint64_t BIGRAM_LOOK_UP_AT[] = {AT_TOKENS, AT_LOGITS},
                      BIGRAM_LOSS_AT[] = {AT_TARGETS, AT_LOGITS, AT_LOSSES, AT_LOSS, AT_ACCURACY},
                      BIGRAM_BACKWARD_AT[] = {AT_TOKENS, AT_TARGETS, AT_LOGITS, AT_GRADIENT}, BIGRAM_INIT_AT[] = {AT_TABLE},
                      BIGRAM_UPDATE_AT[] = {AT_TABLE, AT_GRADIENT, AT_MOMENTUM}, BIGRAM_ACCUMULATORS[] = {AT_GRADIENT, AT_HELD};
static const mlc_row BIGRAM_FORWARD[] = {{bigram_look_up, BIGRAM_LOOK_UP_AT, 1, "table forward", 0},
                                         {bigram_loss, BIGRAM_LOSS_AT, 2, "loss forward", POSITIONS * VOCABULARY * 4.0}};
static const mlc_row BIGRAM_BACKWARD[] = {{bigram_backward, BIGRAM_BACKWARD_AT, 1, "table backward", POSITIONS * VOCABULARY * 2.0}};
static const mlc_metric BIGRAM_METRICS[] = {{"accuracy", AT_ACCURACY}};
static const mlc_chain BIGRAM_TRAIN = {
    .forward = {BIGRAM_FORWARD, 2}, .loss = AT_LOSS, .metrics = BIGRAM_METRICS, .metric_count = 1, .logits.at = MLC_NONE};
static const mlc_chain BIGRAM_SAMPLE = {
    .forward = {BIGRAM_FORWARD, 1}, .loss = MLC_NONE, .logits = {"logits", MLC_F32, 3, BIGRAM_LOGITS_SHAPE, AT_LOGITS}};
static const mlc_tensor BIGRAM_STATES[] = {{"momentum", MLC_F32, 2, BIGRAM_TABLE_SHAPE, AT_MOMENTUM}};
static const mlc_parameter BIGRAM_PARAMETERS[] = {{.master = {"table", MLC_F32, 2, BIGRAM_TABLE_SHAPE, AT_TABLE},
                                                   .copy = MLC_NONE,
                                                   .gradient = AT_GRADIENT,
                                                   .uses = 1,
                                                   .accumulators = BIGRAM_ACCUMULATORS,
                                                   .states = BIGRAM_STATES,
                                                   .state_count = 1,
                                                   .init_flat = bigram_init,
                                                   .init_at = BIGRAM_INIT_AT,
                                                   .update_flat = bigram_update,
                                                   .update_at = BIGRAM_UPDATE_AT,
                                                   .path = 77}};
static const mlc_input BIGRAM_INPUTS[] = {
    {{"tokens", MLC_I32, 2, BIGRAM_TOKENS_SHAPE, AT_TOKENS}, MLC_SOURCE_DATA, 0, 0, VOCABULARY},
    {{"targets", MLC_I32, 2, BIGRAM_TOKENS_SHAPE, AT_TARGETS}, MLC_SOURCE_FOLLOWING, 0, 1, VOCABULARY}};
static const mlc_scalar BIGRAM_SCALARS[SCALARS] = {{"step", 0, 0},    {"steps", 0, 0},    {"rate", 30, 1},
                                                   {"rate.now", 0, 0}, {"poison", -1, 1}, {"pause", 0, 1}};
static const mlc_action BIGRAM_ACTIONS[] = {{MLC_FORWARD, 0, 0}, {MLC_BACKWARD, 0, 0}, {MLC_FORWARD, 0, 1}, {MLC_BACKWARD, 0, 1},
                                            {MLC_FORWARD, 0, 2}, {MLC_BACKWARD, 0, 2}, {MLC_FORWARD, 0, 3}, {MLC_BACKWARD, 0, 3}};

static const mlc_model BIGRAM = {
    .abi_version = MLC_ABI_VERSION,
    .name = "bigram",
    .hash = "b16a",
    .description = "parameter table=f32[256, 256]\nbatch=4\nmicrobatches=4\ngroups=2\n",
    .arena_bytes = ARENA_BYTES,
    .scratch_bytes_per_thread = 64,
    .record = AT_RECORD,
    .seed_at = AT_SEED,
    .parameters = BIGRAM_PARAMETERS,
    .parameter_count = 1,
    .inputs = BIGRAM_INPUTS,
    .input_count = 2,
    .scalars = BIGRAM_SCALARS,
    .scalar_count = SCALARS,
    .set_scalars = bigram_scalars,
    .rate = SCALAR_NOW,
    .train = &BIGRAM_TRAIN,
    .evaluate = &BIGRAM_TRAIN,
    .sample = &BIGRAM_SAMPLE,
    .backward = {BIGRAM_BACKWARD, 1},
    .actions = BIGRAM_ACTIONS,
    .action_count = 8,
    .microbatches = 4,
    .groups = 2,
    .levels = 2,
    .clip = 1,
    .flops = POSITIONS * VOCABULARY * 6.0,
    .batch = BATCH,
    .tokens = POSITIONS,
};

#endif
