/* sums.h: a model of four parameters whose gradients are numbers made from (parameter, use, microbatch, element):
 *   shared   f32[5003], three uses, updated by slices, read as bf16 or as f32
 *   counts   f32[7], fed by accumulate, plain mean, updated by slices
 *   matrix   f32[3, 700], updated as a whole
 *   frozen   f32[9]
 * The loss and the weight of a microbatch are numbers too, and one add_loss joins the loss. Each stage hands on a state and a
 * cotangent that are numbers, looks at those that it gets, and keeps one for its backward pass. For any layout (layout.h).
 */
#ifndef MLC_SUMS_H
#define MLC_SUMS_H

#include "layout.h"

#include <math.h>

enum { P_SHARED, P_COUNTS, P_MATRIX, P_FROZEN };
enum { SHARED = 5003, COUNTS = 7, MATRIX = 2100, FROZEN = 9, STATE = 40, SHARED_USES = 3 };
enum { C_LOSS, C_EXTRA, C_METRIC, COLUMNS };
enum { S_COUNTS = 3, S_MATRIX = 4, S_LOSS = 90, S_STATE = 200, S_COTANGENT = 300 }; /* sets of numbers; uses of shared: 0, 1, 2 */

/* What is made not finite, where; microbatch -1: nothing. */
enum poison { IN_LOSS, IN_STATE, IN_GRADIENT, IN_SUM };
static struct {
    enum poison what;
    int stage;
    int64_t microbatch;
} poison = {.microbatch = -1};

static int64_t unread = -1; /* microbatch whose inputs cannot be read */

static inline bool is_poisoned(const mlc_env *env, enum poison what, uint64_t stage)
{
    return poison.what == what && (uint64_t)poison.stage == stage && poison.microbatch == *env->microbatch;
}

static inline float number(int set, int64_t microbatch, int64_t element)
{
    uint64_t x = ((uint64_t)set * 1000 + (uint64_t)microbatch) * 100003 + (uint64_t)element;
    x = (x ^ x >> 15) * 0x9E3779B97F4A7C15;
    x ^= x >> 31;
    return ldexpf((float)(int32_t)x, -31 + (int)(x >> 32 & 15) - 8);
}

static bool weighted;

static inline float weight_of(int64_t microbatch)
{
    return weighted ? 1 + 0.37F * (float)(microbatch % 5) : 1;
}

static inline float *floats(const mlc_env *env, uint64_t at)
{
    return (float *)(env->arena + at);
}

/* ---- rows ---- */

/* at: accumulator, set number, elements, stage. Adds seed-free numbers, each thread its own elements. */
static inline void put_gradient(const mlc_env *env, const uint64_t *at)
{
    for (int64_t i = env->thread; i < (int64_t)at[2]; i += env->threads) {
        float value = number((int)at[1], *env->microbatch, i), *to = floats(env, at[0]) + i;
        *to = env->fold ? *to + value : value;
        if (is_poisoned(env, IN_GRADIENT, at[3]))
            *to = NAN;
        if (poison.what == IN_SUM && poison.microbatch >= 0)
            *to = env->fold ? *to + 3e38F : 3e38F;
    }
}

static inline void put_weight(const mlc_env *env, const uint64_t *at)
{
    if (env->thread == 0)
        *floats(env, at[0]) = weight_of(*env->microbatch);
}

/* at: value, set number, stage, state that came in. A state that is not finite shows in the loss. */
static inline void put_value(const mlc_env *env, const uint64_t *at)
{
    if (env->thread)
        return;
    float value = number((int)at[1], *env->microbatch, 0);
    bool bad = is_poisoned(env, IN_LOSS, at[2]) || (at[1] == S_LOSS && at[2] > 0 && !isfinite(floats(env, at[3])[1]));
    *floats(env, at[0]) = bad ? INFINITY : value;
}

/* at: state in, state out, kept, stage, stages. */
static inline void pass_state(const mlc_env *env, const uint64_t *at)
{
    int64_t j = *env->microbatch;
    int stage = (int)at[3];
    for (int i = env->thread; i < STATE; i += env->threads) {
        float in = stage ? floats(env, at[0])[i] : number(S_STATE, j, i);
        CHECK(in == number(S_STATE + stage, j, i) || isnan(in));
        floats(env, at[2])[i] = in;
        if (at[3] + 1 < at[4])
            floats(env, at[1])[i] = isnan(in) || is_poisoned(env, IN_STATE, at[3]) ? NAN : number(S_STATE + stage + 1, j, i);
    }
}

/* at: cotangent in, cotangent out, kept, stage, stages. */
static inline void pass_cotangent(const mlc_env *env, const uint64_t *at)
{
    int64_t j = *env->microbatch;
    int stage = (int)at[3];
    for (int i = env->thread; i < STATE; i += env->threads) {
        float kept = floats(env, at[2])[i];
        CHECK(kept == number(S_STATE + stage, j, i) || isnan(kept));
        if (at[3] + 1 < at[4])
            CHECK(floats(env, at[0])[i] == number(S_COTANGENT + stage, j, i));
        if (stage)
            floats(env, at[1])[i] = number(S_COTANGENT + stage - 1, j, i);
    }
}

/* at: input, state in, stage. What a stage reads must live until its last action. */
static inline void see_input(const mlc_env *env, const uint64_t *at)
{
    for (int row = 0; row < 2; row++)
        CHECK(floats(env, at[0])[row] == (unread == *env->microbatch ? 0 : (float)(2 * *env->microbatch + row)));
    for (int i = 0; at[2] && i < STATE; i++)
        CHECK(floats(env, at[1])[i] == number(S_STATE + (int)at[2], *env->microbatch, i) || isnan(floats(env, at[1])[i]));
}

/* The seed of the derivative is the weight, in f32. */
static inline void see_seed(const mlc_env *env, const uint64_t *at)
{
    CHECK(*floats(env, at[0]) == weight_of(*env->microbatch));
}

static inline void start_flat(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end)
{
    CHECK(begin % 1024 == 0);
    for (int64_t i = begin; i < end; i++)
        floats(env, at[0])[i] = number((int)env->path, 0, i);
}

static inline void start_whole(const mlc_env *env, const uint64_t *at)
{
    for (int64_t i = env->thread; i < MATRIX; i += env->threads)
        floats(env, at[0])[i] = number((int)env->path, 0, i);
}

static inline void subtract(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end)
{
    CHECK(begin % 1024 == 0);
    for (int64_t i = begin; i < end; i++)
        floats(env, at[0])[i] -= floats(env, at[1])[i];
}

/* at: master, gradient, state, new master, new state. Reads all of the old while it writes the new. */
static inline void subtract_whole(const mlc_env *env, const uint64_t *at)
{
    for (int64_t i = env->thread; i < MATRIX; i += env->threads) {
        float last = floats(env, at[0])[MATRIX - 1 - i];
        floats(env, at[4])[i] = floats(env, at[2])[i] + 1;
        floats(env, at[3])[i] = last - floats(env, at[1])[i];
    }
}

/* ---- the model ---- */

static const int64_t SHARED_SHAPE[] = {SHARED}, COUNTS_SHAPE[] = {COUNTS}, MATRIX_SHAPE[] = {3, 700}, FROZEN_SHAPE[] = {FROZEN},
                     INPUT_SHAPE[] = {2};
static const mlc_tensor STATES[] = {{"count", MLC_F32, 2, MATRIX_SHAPE, MLC_NONE}};
static const mlc_input INPUTS[] = {{{"x", MLC_F32, 1, INPUT_SHAPE, MLC_NONE}, MLC_SOURCE_DATA, 0, 0, -1}};
static const mlc_scalar STEP_SCALARS[] = {{"step", 0, 0}, {"steps", 0, 0}};
static mlc_column columns[COLUMNS];

/* Which stage has what. */
static inline int stage_of_use(const layout *all, int use)
{
    return use == 0 ? 0 : use == 1 ? all->stages / 2 : all->stages - 1;
}

static inline void make_parameters(layout *all, bool copied)
{
    int pp = all->model.mesh.size[MLC_PP], middle = all->stages / 2 % pp, last = (all->stages - 1) % pp;
    all->parameters[P_SHARED] = (mlc_parameter){"shared", 1, SHARED_SHAPE, 0, SHARED_USES, 0, NULL, 0, 80};
    all->parameters[P_COUNTS] = (mlc_parameter){"counts", 1, COUNTS_SHAPE, 1, 1, middle, NULL, 0, 81};
    all->parameters[P_MATRIX] = (mlc_parameter){"matrix", 2, MATRIX_SHAPE, 0, 1, last, STATES, 1, 82};
    all->parameters[P_FROZEN] = (mlc_parameter){"frozen", 1, FROZEN_SHAPE, 2, 0, 0, NULL, 0, 83};
    all->model.parameter_count = 4;
    all->flat[P_SHARED] = all->flat[P_COUNTS] = all->flat[P_FROZEN] = true;
    all->update_flat[P_SHARED] = all->update_flat[P_COUNTS] = subtract;
    all->update[P_MATRIX] = subtract_whole;
    for (int place = 0; place < pp; place++) {
        for (int use = 0; use < SHARED_USES; use++)
            if (stage_of_use(all, use) % pp == place)
                layout_hold(all, place, P_SHARED, copied, start_flat, NULL);
        if (place == middle)
            layout_hold(all, place, P_COUNTS, false, start_flat, NULL);
        if (place == last)
            layout_hold(all, place, P_MATRIX, false, NULL, start_whole);
        if (place == 0)
            layout_hold(all, place, P_FROZEN, false, start_flat, NULL);
    }
}

/* A number that a stage leaves. */
static inline void make_value(layout *all, int chain, int s, int column, int set)
{
    layout_stage *stage = &all->stage[chain][s];
    int place = s % all->model.mesh.size[MLC_PP];
    uint64_t at = layout_values(all, chain, place, 4);
    if (weighted && stage->chunk.weight_at == MLC_NONE) {
        stage->chunk.weight_at = layout_values(all, chain, place, 4);
        layout_row(&stage->forward, put_weight, "weight", 1, &stage->chunk.weight_at);
    }
    layout_row(&stage->forward, put_value, "value", 4, (uint64_t[]){at, (uint64_t)set, (uint64_t)s, stage->in});
    stage->values[stage->chunk.value_count++] = (mlc_value){column, at};
    columns[column].stage = s;
}

static inline void make_forward(layout *all, int chain, int s)
{
    layout_stage *stage = &all->stage[chain][s];
    int place = s % all->model.mesh.size[MLC_PP];
    uint64_t kept = layout_region(all, place, STATE * 4), x = layout_region(all, place, 8), stages = (uint64_t)all->stages;
    stage->inputs[stage->chunk.input_count++] = (mlc_binding){0, x};
    layout_row(&stage->forward, pass_state, "state", 5, (uint64_t[]){stage->in, stage->out, kept, (uint64_t)s, stages});
    layout_row(&stage->forward, see_input, "input", 3, (uint64_t[]){x, stage->in, (uint64_t)s});
    if (s == 0)
        make_value(all, chain, s, C_EXTRA, S_LOSS + C_EXTRA);
    if (s == all->stages / 2)
        make_value(all, chain, s, C_METRIC, S_LOSS + C_METRIC);
    if (s == all->stages - 1)
        make_value(all, chain, s, C_LOSS, S_LOSS);
    if (chain != MLC_TRAIN)
        return;
    layout_row(&stage->input_gradient, pass_cotangent, "cotangent", 5,
               (uint64_t[]){stage->cotangent_in, stage->cotangent_out, kept, (uint64_t)s, stages});
    layout_row(&stage->weight_gradient, see_input, "input", 3, (uint64_t[]){x, stage->in, (uint64_t)s});
    if (stage->chunk.weight_at != MLC_NONE)
        layout_row(&stage->input_gradient, see_seed, "seed", 1, &stage->chunk.weight_at);
}

static inline void make_use(layout *all, int s, int parameter, int index, int phase, int set)
{
    layout_stage *stage = &all->stage[MLC_TRAIN][s];
    uint64_t at = layout_use(all, s, parameter, index, phase);
    uint64_t elements = (uint64_t)mlc_parameter_elements(&all->parameters[parameter]);
    layout_rows *rows = phase == MLC_INPUT_GRADIENT ? &stage->input_gradient : &stage->weight_gradient;
    layout_row(phase == MLC_FORWARD ? &stage->forward : rows, put_gradient, "gradient", 4, (uint64_t[]){at, (uint64_t)set, elements, (uint64_t)s});
}

static inline layout *sums_make(layout_shape shape, float clip, bool copied)
{
    shape.state_bytes = shape.cotangent_bytes = STATE * 4;
    layout *all = layout_begin(shape);
    make_parameters(all, copied);
    for (int chain = 0; chain < MLC_SAMPLE; chain++)
        for (int s = 0; s < all->stages; s++)
            make_forward(all, chain, s);
    for (int use = 0; use < SHARED_USES; use++)
        make_use(all, stage_of_use(all, use), P_SHARED, use, use == 1 ? MLC_INPUT_GRADIENT : MLC_WEIGHT_GRADIENT, use);
    make_use(all, all->stages / 2, P_COUNTS, 0, MLC_FORWARD, S_COUNTS);
    make_use(all, all->stages - 1, P_MATRIX, 0, MLC_WEIGHT_GRADIENT, S_MATRIX);
    columns[C_LOSS].name = "loss", columns[C_EXTRA].name = "extra", columns[C_METRIC].name = "metric";
    all->model.name = "sums";
    all->model.inputs = INPUTS;
    all->model.input_count = 1;
    all->model.scalars = STEP_SCALARS;
    all->model.scalar_count = 2;
    all->model.clip = clip;
    all->model.batch = all->model.tokens = 2;
    all->model.chains[MLC_TRAIN] = all->model.chains[MLC_EVALUATE] = (mlc_chain){columns, COLUMNS, C_METRIC, -1};
    layout_end(all);
    return all;
}

/* ---- data ---- */

static inline int fill(const mlc_feed *feed, const mlc_rank *rank, int input, int64_t microbatch, int64_t begin, int64_t end, void *to,
                mlc_error *error)
{
    (void)feed, (void)rank;
    CHECK(input == 0);
    for (int64_t row = begin; row < end; row++)
        ((float *)to)[row] = (float)(2 * microbatch + row);
    if (microbatch == unread)
        return mlc_error_set(error, MLC_BAD_INPUT, "microbatch %lld cannot be read", (long long)microbatch);
    return MLC_OK;
}

static const mlc_feed FEED = {fill, NULL};

#endif
