/* test_step.c: the exact meaning of a step, against plain sums written down from its definition.
 *
 * A model of three parameters whose gradients are numbers made from (parameter, use, microbatch, element):
 *   shared   f32[5003], two uses, updated by slices, read as bf16
 *   counts   f32[7], fed by accumulate, plain mean, updated by slices
 *   matrix   f32[3, 700], updated as a whole
 * The loss and the weight of a microbatch are numbers too, and one add_loss joins the loss.
 */
#include "check.h"
#include "exact.h"
#include "executor.h"
#include "gradient.h"

#include <math.h>

enum { SHARED = 5003, COUNTS = 7, MATRIX = 2100, LEVELS = 5, MOST = 5056 };
enum { RECORD = 0, SEED = 256, LOSS = 320, EXTRA = 384, WEIGHT = 448, METRIC = 512, INPUT = 576, BUFFERS = 640 };

/* Buffers of MOST floats each, by number. */
enum { B_SHARED, B_COPY, B_COUNTS, B_MATRIX, B_NEW, B_STATE, B_NEW_STATE, B_FIRST };
#define BUFFER(n) (BUFFERS + (uint64_t)(n) * MOST * 4)
#define ACCUMULATOR(set, level) BUFFER(B_FIRST + (set) * LEVELS + (level)) /* sets: shared 0, shared 1, counts, matrix */
#define ARENA BUFFER(B_FIRST + 4 * LEVELS)

static float number(int set, int64_t microbatch, int64_t element)
{
    uint64_t x = ((uint64_t)set * 1000 + (uint64_t)microbatch) * 100003 + (uint64_t)element;
    x = (x ^ x >> 15) * 0x9E3779B97F4A7C15;
    x ^= x >> 31;
    return ldexpf((float)(int32_t)x, -31 + (int)(x >> 32 & 15) - 8);
}

static float weight_of(int64_t microbatch)
{
    return 1 + 0.37F * (float)(microbatch % 5);
}

static float *floats(const mlc_env *env, uint64_t at)
{
    return (float *)(env->arena + at);
}

/* at: accumulator, set number, elements. Adds seed-free numbers, each thread its own elements. */
static void put_gradient(const mlc_env *env, const uint64_t *at)
{
    for (int64_t i = env->thread; i < (int64_t)at[2]; i += env->threads) {
        float value = number((int)at[1], env->record->microbatch, i), *to = floats(env, at[0]) + i;
        *to = env->fold ? *to + value : value;
    }
}

static void put_weight(const mlc_env *env, const uint64_t *at)
{
    if (env->thread == 0)
        *floats(env, at[0]) = weight_of(env->record->microbatch);
}

static void put_loss(const mlc_env *env, const uint64_t *at)
{
    if (env->thread)
        return;
    *floats(env, at[0]) = number(90, env->record->microbatch, 0);
    *floats(env, at[1]) = number(91, env->record->microbatch, 0);
    *floats(env, at[2]) = number(92, env->record->microbatch, 0);
}

/* The seed of the derivative is the weight, in f32. */
static void see_seed(const mlc_env *env, const uint64_t *at)
{
    CHECK(*floats(env, at[0]) == weight_of(env->record->microbatch));
}

static void start_flat(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end)
{
    CHECK(begin % 1024 == 0);
    for (int64_t i = begin; i < end; i++)
        floats(env, at[0])[i] = number((int)env->path, 0, i);
}

static void start_whole(const mlc_env *env, const uint64_t *at)
{
    for (int64_t i = env->thread; i < MATRIX; i += env->threads)
        floats(env, at[0])[i] = number((int)env->path, 0, i);
}

static void subtract(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end)
{
    CHECK(begin % 1024 == 0);
    for (int64_t i = begin; i < end; i++)
        floats(env, at[0])[i] -= floats(env, at[1])[i];
}

/* at: master, gradient, state, new master, new state. Reads all of the old while it writes the new. */
static void subtract_whole(const mlc_env *env, const uint64_t *at)
{
    for (int64_t i = env->thread; i < MATRIX; i += env->threads) {
        float last = floats(env, at[0])[MATRIX - 1 - i];
        floats(env, at[4])[i] = floats(env, at[2])[i] + 1;
        floats(env, at[3])[i] = last - floats(env, at[1])[i];
    }
}

static const int64_t SHARED_SHAPE[] = {SHARED}, COUNTS_SHAPE[] = {COUNTS}, MATRIX_SHAPE[] = {3, 700}, INPUT_SHAPE[] = {2};
static uint64_t rows_at[4][3], weight_at[] = {WEIGHT}, loss_at[] = {LOSS, EXTRA, METRIC}, seed_at[] = {SEED};
static uint64_t accumulators[4 * LEVELS], update_at[3][5], init_at[3][1];
static mlc_row forward_rows[2], backward_rows[4], weight_rows[1];
static const mlc_metric EXTRAS[] = {{"extra", EXTRA}}, METRICS[] = {{"metric", METRIC}};
static const mlc_tensor STATES[] = {{"count", MLC_F32, 2, MATRIX_SHAPE, BUFFER(B_STATE)}};
static mlc_parameter parameters[3];
static mlc_action actions[128];
static mlc_chain chain;
static const mlc_input INPUTS[] = {{{"x", MLC_F32, 1, INPUT_SHAPE, INPUT}, MLC_SOURCE_DATA, 0, 0, -1}};
static const mlc_scalar SCALARS[] = {{"step", 0, 0}, {"steps", 0, 0}};

static void make_rows(int groups)
{
    static const uint64_t SIZES[] = {SHARED, SHARED, COUNTS, MATRIX};
    int levels = mlc_gradient_levels(groups);
    for (int set = 0; set < 4; set++) {
        memcpy(rows_at[set], (uint64_t[]){ACCUMULATOR(set, 0), (uint64_t)set, SIZES[set]}, sizeof rows_at[set]);
        for (int level = 0; level < levels; level++)
            accumulators[set * levels + level] = ACCUMULATOR(set, level);
    }
    forward_rows[0] = (mlc_row){put_loss, loss_at, 0, "loss", 0};
    forward_rows[1] = (mlc_row){put_gradient, rows_at[2], 0, "counts", 0};
    weight_rows[0] = (mlc_row){put_weight, weight_at, 0, "weight", 0};
    for (int i = 0; i < 3; i++)
        backward_rows[i] = (mlc_row){put_gradient, rows_at[i == 2 ? 3 : i], 0, "gradient", 0};
    backward_rows[3] = (mlc_row){see_seed, seed_at, 0, "seed", 0};
}

static void make_parameters(int groups)
{
    int levels = mlc_gradient_levels(groups);
    uint64_t at[3][5] = {{BUFFER(B_SHARED), ACCUMULATOR(0, 0)},
                         {BUFFER(B_COUNTS), ACCUMULATOR(2, 0)},
                         {BUFFER(B_MATRIX), ACCUMULATOR(3, 0), BUFFER(B_STATE), BUFFER(B_NEW), BUFFER(B_NEW_STATE)}};
    memcpy(update_at, at, sizeof at);
    for (int p = 0; p < 3; p++)
        init_at[p][0] = at[p][0];
    parameters[0] = (mlc_parameter){{"shared", MLC_F32, 1, SHARED_SHAPE, at[0][0]}, BUFFER(B_COPY), at[0][1], 0, 2, accumulators, NULL, 0,
                                    start_flat, NULL, init_at[0], subtract, NULL, update_at[0], 80};
    parameters[1] = (mlc_parameter){{"counts", MLC_F32, 1, COUNTS_SHAPE, at[1][0]}, MLC_NONE, at[1][1], 1, 1, accumulators + 2 * levels,
                                    NULL,
                                    0, start_flat, NULL, init_at[1], subtract, NULL, update_at[1], 81};
    parameters[2] = (mlc_parameter){{"matrix", MLC_F32, 2, MATRIX_SHAPE, at[2][0]}, MLC_NONE, at[2][1], 0, 1, accumulators + 3 * levels,
                                    STATES,
                                    1, NULL, start_whole, init_at[2], NULL, subtract_whole, update_at[2], 82};
}

static mlc_model make_model(int microbatches, int groups, float clip, bool weighted)
{
    make_rows(groups);
    make_parameters(groups);
    for (int i = 0; i < 2 * microbatches; i++)
        actions[i] = (mlc_action){i % 2 ? MLC_BACKWARD : MLC_FORWARD, 0, i / 2};
    chain = (mlc_chain){{forward_rows, 2}, LOSS, EXTRAS, 1, METRICS, 1, {weight_rows, weighted}, WEIGHT, {.at = MLC_NONE}};
    return (mlc_model){.abi_version = MLC_ABI_VERSION, .name = "sums", .hash = "0", .arena_bytes = (ARENA + 63) / 64 * 64,
                       .scratch_bytes_per_thread = 64, .record = RECORD, .seed_at = SEED, .parameters = parameters, .parameter_count = 3,
                       .inputs = INPUTS, .input_count = 1, .scalars = SCALARS, .scalar_count = 2, .rate = -1, .train = &chain,
                       .evaluate = &chain, .backward = {backward_rows, weighted ? 4 : 3}, .actions = actions,
                       .action_count = 2 * microbatches, .microbatches = microbatches, .groups = groups,
                       .levels = mlc_gradient_levels(groups), .clip = clip, .batch = 2, .tokens = 2};
}

/* ---- the definition, written down ---- */

static float group_sum(int set, int group, int members, int64_t element)
{
    float sum = number(set, (int64_t)group * members, element);
    for (int j = 1; j < members; j++)
        sum += number(set, (int64_t)group * members + j, element);
    return sum;
}

/* The bottom-up pairwise tree: neighbours join, an odd last one moves up. */
static float tree_sum(int set, int groups, int members, int64_t element)
{
    float sums[64] = {0};
    for (int g = 0; g < groups; g++)
        sums[g] = group_sum(set, g, members, element);
    for (int count = groups; count > 1; count = (count + 1) / 2)
        for (int i = 0; i < (count + 1) / 2; i++)
            sums[i] = 2 * i + 1 < count ? sums[2 * i] + sums[2 * i + 1] : sums[2 * i];
    return sums[0];
}

/* Reference squares: in f64 by blocks of 1024, block sums in a type that is exact for what occurs here. */
static double norm_of(const float *shared, const float *matrix)
{
    long double sum = 0;
    const float *tensors[] = {shared, matrix};
    int sizes[] = {SHARED, MATRIX};
    for (int t = 0; t < 2; t++)
        for (int first = 0; first < sizes[t]; first += 1024) {
            double block = 0;
            for (int i = first; i < first + 1024 && i < sizes[t]; i++)
                block += (double)tensors[t][i] * tensors[t][i];
            sum += block;
        }
    return sqrt((double)sum);
}

static uint16_t rounded(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static void check_loss(const mlc_session *session, int microbatches, bool weighted, double loss)
{
    double sum = 0, weights = 0, metric = 0;
    for (int j = 0; j < microbatches; j++) {
        double w = weighted ? weight_of(j) : 1;
        sum += w * ((double)number(90, j, 0) + (double)number(91, j, 0));
        metric += w * number(92, j, 0);
        weights += w;
    }
    CHECK(loss == sum / weights);
    CHECK(mlc_session_metric(session, 0) == metric / weights);
}

/* One step with given threads, checked to the bit. */
static void check_step(int microbatches, int groups, float clip, bool weighted, int threads)
{
    static float shared[SHARED], counts[COUNTS], matrix[MATRIX];
    mlc_model model = make_model(microbatches, groups, clip, weighted);
    mlc_open_options options = {.threads = threads, .steps = 3};
    char message[200];
    int status, members = microbatches / groups;
    mlc_session *session = mlc_open(&model, &options, &status, message, sizeof message);
    CHECK(session && !status);
    double weights = 0, loss;
    for (int j = 0; j < microbatches; j++)
        weights += weighted ? weight_of(j) : 1;
    float scale = (float)(1 / weights);
    for (int i = 0; i < SHARED; i++)
        shared[i] = (tree_sum(0, groups, members, i) + tree_sum(1, groups, members, i)) * scale;
    for (int i = 0; i < COUNTS; i++)
        counts[i] = tree_sum(2, groups, members, i) * (float)(1.0 / microbatches);
    for (int i = 0; i < MATRIX; i++)
        matrix[i] = tree_sum(3, groups, members, i) * scale;
    double norm = norm_of(shared, matrix);

    float *data = calloc((size_t)microbatches * 2, sizeof *data);
    const void *inputs[] = {data};
    CHECK(!mlc_session_gradient(session, inputs, 2 * microbatches, &loss));
    check_loss(session, microbatches, weighted, loss);
    CHECK(!memcmp(mlc_parameter_gradient(session, 0).data, shared, sizeof shared));
    CHECK(!memcmp(mlc_parameter_gradient(session, 1).data, counts, sizeof counts));
    CHECK(!memcmp(mlc_parameter_gradient(session, 2).data, matrix, sizeof matrix));
    CHECK(fabs(mlc_session_grad_norm(session) - norm) <= 1e-15 * norm);
    CHECK(mlc_session_steps_done(session) == 0);

    CHECK(!mlc_session_step(session, inputs, 2 * microbatches, &loss));
    float factor = clip > 0 && norm > clip ? (float)(clip / mlc_session_grad_norm(session)) : 1;
    const float *master = mlc_parameter_master(session, 0).data, *whole = mlc_parameter_master(session, 2).data;
    const float *state = mlc_parameter_state(session, 2, 0).data;
    const uint16_t *copy = (const uint16_t *)(session->arena.base + BUFFER(B_COPY));
    for (int i = 0; i < SHARED; i++)
        CHECK(master[i] == number(80, 0, i) - shared[i] * factor && copy[i] == rounded(master[i]));
    for (int i = 0; i < COUNTS; i++)
        CHECK(((const float *)mlc_parameter_master(session, 1).data)[i] == number(81, 0, i) - counts[i]);
    for (int i = 0; i < MATRIX; i++)
        CHECK(whole[i] == number(82, 0, MATRIX - 1 - i) - matrix[i] * factor && state[i] == 1);
    CHECK(mlc_session_steps_done(session) == 1);
    free(data);
    mlc_close(session);
}

static void check_refusals(void)
{
    char message[200];
    int status;
    mlc_model model = make_model(6, 2, 0, false);
    model.abi_version++;
    CHECK(!mlc_open(&model, NULL, &status, message, sizeof message) && status == MLC_BAD_INPUT);
    model = make_model(6, 4, 0, false);
    CHECK(!mlc_open(&model, NULL, &status, message, sizeof message) && status == MLC_BAD_INPUT);
    model = make_model(6, 2, 0, false);
    model.levels = 1;
    CHECK(!mlc_open(&model, NULL, &status, message, sizeof message) && status == MLC_BAD_INPUT);
    model = make_model(6, 2, 0, false);
    actions[2].microbatch = 2;
    CHECK(!mlc_open(&model, NULL, &status, message, sizeof message) && status == MLC_BAD_INPUT);
    model = make_model(6, 2, 0, false);
    mlc_session *session = mlc_open(&model, &(mlc_open_options){.threads = 2}, &status, message, sizeof message);
    float data[12] = {0};
    double loss;
    CHECK(mlc_session_step(session, (const void *[]){data}, 10, &loss) == MLC_USAGE);
    CHECK_HOLDS(mlc_session_message(session), "inputs have 10 rows; a step takes 12 (6 microbatches of 2)");
    CHECK(mlc_session_step(session, (const void *[]){NULL}, 12, &loss) == MLC_USAGE);
    CHECK_HOLDS(mlc_session_message(session), "input x is missing");
    CHECK(mlc_session_set_scalar(session, "rate", 1) == MLC_USAGE);
    CHECK(!mlc_session_evaluate(session, (const void *[]){data}, 12, &loss) && isfinite(loss));
    mlc_close(session);
}

/* ---- the exact sum ---- */

static void check_exact(void)
{
    mlc_exact a = {{0}}, b = {{0}};
    CHECK(mlc_exact_value(&a) == 0);
    mlc_exact_add(&a, 0x1p-298);
    CHECK(mlc_exact_value(&a) == 0x1p-298);
    mlc_exact_add(&a, 0x1p265);
    CHECK(mlc_exact_value(&a) == 0x1p265);
    for (int i = 0; i < 2000; i++) { /* 2000 additions of half a unit and a bit, lost in f64 */
        mlc_exact_add(&b, 1 + 0x1p-52);
        mlc_exact_add(&b, 0x1p-60);
    }
    CHECK(mlc_exact_value(&b) == 2000 + 2000 * 0x1p-52);
    mlc_exact ties = {{0}};
    mlc_exact_add(&ties, 0x1p53);
    mlc_exact_add(&ties, 1);
    CHECK(mlc_exact_value(&ties) == 0x1p53);
    mlc_exact_add(&ties, 0x1p-298);
    CHECK(mlc_exact_value(&ties) == 0x1p53 + 2);
    float large[1024];
    for (int i = 0; i < 1024; i++)
        large[i] = 0x1.fffffep127F;
    mlc_exact top = {{0}};
    for (int i = 0; i < 100; i++)
        mlc_exact_add(&top, mlc_exact_squares_part(large, 1024));
    CHECK(mlc_exact_value(&top) == 100 * mlc_exact_squares_part(large, 1024));
}

static void check_order_free(void)
{
    mlc_exact forward = {{0}}, backward = {{0}}, halves[2] = {{{0}}, {{0}}};
    for (int i = 0; i < 999; i++) {
        double x = ldexp(fabs(number(1, 0, i)) + 1, i % 200 - 100), y = ldexp(fabs(number(1, 0, 998 - i)) + 1, (998 - i) % 200 - 100);
        mlc_exact_add(&forward, x);
        mlc_exact_add(&backward, y);
        mlc_exact_add(&halves[i % 2], x);
    }
    mlc_exact_merge(&halves[0], &halves[1]);
    CHECK(!memcmp(&forward, &backward, sizeof forward) && !memcmp(&forward, &halves[0], sizeof forward));
    float x[8 * 1024];
    double together[8];
    for (int i = 0; i < 8 * 1024; i++)
        x[i] = number(2, 0, i);
    mlc_exact_squares(x, 8, together);
    for (int b = 0; b < 8; b++)
        CHECK(together[b] == mlc_exact_squares_part(x + 1024 * b, 1024));
}

int main(void)
{
    static const struct {
        int microbatches, groups;
    } CASES[] = {{1, 1}, {2, 2}, {3, 1}, {6, 3}, {4, 4}, {5, 5}, {12, 6}, {7, 7}, {8, 8}, {11, 11}, {26, 13}};
    static const int THREADS[] = {1, 2, 3, 5};
    check_exact();
    check_order_free();
    for (size_t c = 0; c < sizeof CASES / sizeof *CASES; c++)
        for (size_t t = 0; t < 4; t++)
            check_step(CASES[c].microbatches, CASES[c].groups, c % 2 ? 0.5F : 0, c % 3 != 0, THREADS[t]);
    check_refusals();
    printf("test_step: ok\n");
    return 0;
}
