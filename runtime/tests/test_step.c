/* test_step.c: the exact meaning of a step, against plain sums written down from its definition, for every way to lay it out; and a
 * model that learns the same in all. */
#include "bigram.h"
#include "step/executor.h"
#include "step/gradient.h"
#include "sums.h"

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

/* Gradients, norm, loss and metric of a step of M microbatches in G groups. */
static struct {
    float shared[SHARED], counts[COUNTS], matrix[MATRIX], frozen[FROZEN];
    double norm, loss, metric;
} expected;

/* Sums over microbatches are exact, and rounded once. */
typedef struct means {
    mlc_exact weight, loss, metric;
} means;

static void add_terms(means *sums, int64_t j, double share)
{
    double weight = (double)weight_of(j) * share;
    mlc_exact_add(&sums->weight, weight);
    mlc_exact_add(&sums->loss, weight * (double)number(S_LOSS, j, 0));
    mlc_exact_add(&sums->loss, weight * (double)number(S_LOSS + C_EXTRA, j, 0));
    mlc_exact_add(&sums->metric, weight * (double)number(S_LOSS + C_METRIC, j, 0));
}

static void expect(int microbatches, int groups)
{
    int members = microbatches / groups;
    means sums = {{{0}}, {{0}}, {{0}}};
    for (int j = 0; j < microbatches; j++)
        add_terms(&sums, j, 1);
    double weights = mlc_exact_value(&sums.weight);
    float scale = (float)(1 / weights);
    for (int i = 0; i < SHARED; i++)
        expected.shared[i] = (tree_sum(0, groups, members, i) + tree_sum(1, groups, members, i) + tree_sum(2, groups, members, i)) * scale;
    for (int i = 0; i < COUNTS; i++)
        expected.counts[i] = tree_sum(S_COUNTS, groups, members, i) * (float)(1.0 / microbatches);
    for (int i = 0; i < MATRIX; i++)
        expected.matrix[i] = tree_sum(S_MATRIX, groups, members, i) * scale;
    expected.norm = norm_of(expected.shared, expected.matrix);
    expected.loss = mlc_exact_value(&sums.loss) / weights;
    expected.metric = mlc_exact_value(&sums.metric) / weights;
}

static const float *expected_gradient(int parameter)
{
    const float *gradients[] = {expected.shared, expected.counts, expected.matrix, expected.frozen};
    return gradients[parameter];
}

/* The value of an element after so many steps. */
static float expected_value(int parameter, int64_t i, int steps, float factor)
{
    int64_t at = parameter == P_MATRIX && steps % 2 ? MATRIX - 1 - i : i;
    float value = number(80 + parameter, 0, at);
    for (int s = 0; s < steps; s++) {
        int64_t from = parameter == P_MATRIX && (steps - 1 - s) % 2 ? MATRIX - 1 - i : i;
        value -= parameter == P_COUNTS ? expected.counts[i] : expected_gradient(parameter)[from] * factor;
    }
    return parameter == P_FROZEN ? number(83, 0, i) : value;
}

/* ---- what each rank must hold ---- */

static void check_gradients(const mlc_rank *rank)
{
    for (int i = 0; i < rank->shard.count; i++) {
        const mlc_piece *piece = &rank->shard.pieces[i];
        const float *gradient = mlc_gradient_of(rank, piece->parameter);
        size_t bytes = (size_t)(piece->end - piece->begin) * 4;
        if (piece->parameter == P_FROZEN)
            CHECK(!gradient);
        else
            CHECK(!memcmp(gradient + piece->begin, expected_gradient(piece->parameter) + piece->begin, bytes));
    }
    CHECK(rank->result.loss == expected.loss && rank->metrics[0] == expected.metric);
    CHECK(fabs(rank->result.grad_norm - expected.norm) <= 1e-15 * expected.norm);
}

/* What the forward pass reads is whole at every holder; masters and states are, in the owner's pieces. */
static void check_values(const mlc_rank *rank, int steps)
{
    double clip = rank->model->clip;
    float factor = clip > 0 && expected.norm > clip ? (float)(clip / rank->result.grad_norm) : 1;
    for (int h = 0; h < rank->role->held_count; h++) {
        const mlc_held *held = &rank->role->held[h];
        const float *master = mlc_rank_at(rank, held->master);
        const uint16_t *copy = mlc_rank_at(rank, held->copy == MLC_NONE ? 0 : held->copy);
        int64_t elements = mlc_parameter_elements(&rank->model->parameters[held->parameter]);
        for (int64_t i = 0; i < elements; i++) {
            float value = expected_value(held->parameter, i, steps, factor);
            CHECK(held->copy == MLC_NONE ? master[i] == value : copy[i] == rounded(value));
        }
    }
    for (int i = 0; i < rank->shard.count; i++) {
        const mlc_piece *piece = &rank->shard.pieces[i];
        const float *master = mlc_rank_at(rank, mlc_rank_held(rank, piece->parameter)->master);
        for (int64_t e = piece->begin; e < piece->end; e++)
            CHECK(master[e] == expected_value(piece->parameter, e, steps, factor));
        for (int e = 0; piece->parameter == P_MATRIX && e < MATRIX; e++)
            CHECK(((const float *)mlc_rank_at(rank, piece->states[0]))[e] == (float)steps);
    }
}

static void check_evaluation(mlc_rank *rank, int64_t first, int64_t count)
{
    means sums = {{{0}}, {{0}}, {{0}}};
    double loss;
    for (int64_t j = first; j < first + count; j++)
        add_terms(&sums, j, 0.25);
    mlc_executor_clear(rank);
    CHECK(!mlc_executor_forward(rank, MLC_EVALUATE, &FEED, first, count, 0.25));
    CHECK(mlc_executor_means(rank, MLC_EVALUATE, &loss) == mlc_exact_value(&sums.weight));
    CHECK(loss == mlc_exact_value(&sums.loss) / mlc_exact_value(&sums.weight));
}

static void step_job(mlc_rank *rank, void *context)
{
    (void)context;
    check_values(rank, 0);
    CHECK(!mlc_executor_step(rank, &FEED, false));
    check_gradients(rank);
    check_values(rank, 0);
    for (int steps = 1; steps <= 2; steps++) {
        check_evaluation(rank, 3, 1 + 6 * steps);
        CHECK(!mlc_executor_step(rank, &FEED, true));
        CHECK(rank->result.loss == expected.loss);
        check_values(rank, steps);
        rank->step++;
    }
    check_evaluation(rank, 0, 2);
}

static void check_step(layout_shape shape, float clip, bool weigh, int threads)
{
    weighted = weigh;
    expect(shape.microbatches, shape.groups);
    layout *all = sums_make(shape, clip, shape.groups % 2);
    layout_run(&all->model, (mlc_open_options){.threads = threads, .steps = 3}, 60, step_job, NULL);
    free(all);
}

/* One rank: all of the tree. */
static void check_alone(void)
{
    static const int CASES[][2] = {{1, 1}, {2, 2}, {3, 1}, {6, 3}, {4, 4}, {5, 5}, {12, 6}, {7, 7}, {8, 8}, {11, 11}, {26, 13}};
    static const int THREADS[] = {1, 2, 3, 5};
    for (size_t c = 0; c < sizeof CASES / sizeof *CASES; c++)
        for (size_t t = 0; t < 4; t++)
            check_step((layout_shape){1, 1, 1, CASES[c][0], CASES[c][1], .window = 1, .outbox = 1, .rounds = 1 + (int)t}, c % 2 ? 0.5F : 0,
                       c % 3 != 0, THREADS[t]);
}

/* Places, replicas, chunks, microbatches, groups, window, split, slots. */
static void check_layouts(void)
{
    static const layout_shape SHAPES[] = {
        {1, 1, 2, 4, 2, 0, false, 1, 3, 0, 0, 64, 1},     {2, 1, 1, 4, 2, 0, false, 1, 1, 0, 0, 4096, 1},
        {2, 1, 1, 6, 3, 2, true, 1, 3, 0, 0, 64, 1},      {1, 2, 1, 4, 2, 0, false, 1, 1, 0, 0, 4096, 1},
        {1, 2, 1, 6, 6, 2, true, 2, 2, 0, 0, 2048, 2},    {2, 2, 1, 8, 4, 2, false, 2, 2, 0, 0, 1024, 1},
        {2, 2, 2, 12, 6, 3, true, 1, 1, 0, 0, 8192, 2},   {3, 2, 1, 10, 10, 2, true, 2, 4, 0, 0, 640, 3},
        {1, 3, 1, 9, 9, 3, false, 1, 2, 0, 0, 65536, 1},  {4, 1, 2, 5, 5, 5, true, 1, 5, 0, 0, 4096, 1},
        {2, 4, 1, 12, 12, 3, false, 3, 1, 0, 0, 4096, 2}, {1, 6, 1, 18, 18, 1, true, 1, 1, 0, 0, 1024, 1},
        {2, 3, 2, 24, 24, 4, true, 2, 3, 0, 0, 3072, 2},  {3, 1, 1, 2, 1, 0, false, 1, 1, 0, 0, 128, 1},
        {1, 5, 1, 5, 5, 0, false, 1, 1, 0, 0, 4096, 1},   {1, 7, 1, 7, 7, 0, false, 1, 1, 0, 0, 1024, 2},
        {2, 5, 1, 15, 15, 3, true, 1, 2, 0, 0, 2048, 1},  {1, 7, 2, 21, 21, 3, false, 1, 1, 0, 0, 3072, 1},
        {2, 7, 1, 35, 35, 5, false, 1, 1, 0, 0, 4096, 1}, {2, 8, 1, 24, 24, 3, false, 1, 1, 0, 0, 4096, 1},
        {1, 3, 1, 33, 33, 11, false, 1, 1, 0, 0, 8192, 1}, {1, 6, 1, 30, 30, 5, false, 1, 1, 0, 0, 6144, 2},
    };
    for (size_t i = 0; i < sizeof SHAPES / sizeof *SHAPES; i++)
        for (int threads = 1; threads <= 2; threads++)
            check_step(SHAPES[i], i % 2 ? 0.5F : 0, i % 3 != 0, threads);
}

/* ---- a model that learns ---- */

static const char TEXT[] = "the quick brown fox jumps over the lazy dog and then it rests for the night under the old tree, ";

static int fill_tokens(const mlc_feed *feed, const mlc_rank *rank, int input, int64_t microbatch, int64_t begin, int64_t end, void *to,
                       mlc_error *error)
{
    (void)feed, (void)error;
    for (int64_t row = begin; row < end; row++)
        for (int t = 0; t < CONTEXT; t++) {
            int64_t at = rank->step * 31 + (microbatch * BATCH + row) * 7 + t + input;
            ((int32_t *)to)[row * CONTEXT + t] = TEXT[at % (int64_t)(sizeof TEXT - 1)];
        }
    return MLC_OK;
}

/* The first layout writes, the others compare. */
typedef struct learned {
    bool known;
    float table[TABLE], logits[POSITIONS * VOCABULARY];
    double losses[6], evaluation;
} learned;

static void look_at(bool known, void *noted, const void *now, size_t bytes)
{
    if (known)
        CHECK(!memcmp(noted, now, bytes));
    else
        memcpy(noted, now, bytes);
}

static void learn_job(mlc_rank *rank, void *context)
{
    learned *learned = context;
    const mlc_feed feed = {fill_tokens, NULL};
    const mlc_chunk *sample = &rank->role->chunks[MLC_SAMPLE][0];
    double evaluation;
    for (rank->step = 0; rank->step < 6; rank->step++) {
        CHECK(!mlc_executor_step(rank, &feed, true));
        look_at(learned->known, &learned->losses[rank->step], &rank->result.loss, sizeof(double));
    }
    mlc_executor_clear(rank);
    CHECK(!mlc_executor_forward(rank, MLC_EVALUATE, &feed, 0, 7, 1) && mlc_executor_means(rank, MLC_EVALUATE, &evaluation) == 7);
    CHECK(!mlc_executor_forward(rank, MLC_SAMPLE, &feed, 0, 1, 1));
    look_at(learned->known, &learned->evaluation, &evaluation, sizeof evaluation);
    if (rank->place == 0)
        look_at(learned->known, learned->table, mlc_rank_at(rank, mlc_rank_held(rank, 0)->master), sizeof learned->table);
    if (rank->replica == 0 && sample->logits.at != MLC_NONE)
        look_at(learned->known, learned->logits, mlc_rank_at(rank, mlc_rank_resolve(rank, sample->logits.at, 0)),
                sizeof learned->logits);
}

static void check_learning(void)
{
    static learned learned;
    for (int layouts = 0; layouts < 4; layouts++)
        for (int threads = 1; threads <= 2; threads++) {
            mlc_open_options options = {.threads = threads, .steps = 6, .seed = 4};
            layout_run(bigram_of(1 + layouts % 2, 1 + layouts / 2), options, 60, learn_job, &learned);
            learned.known = true;
        }
    CHECK(learned.losses[5] < learned.losses[0]);
}

int main(void)
{
    check_alone();
    check_layouts();
    check_learning();
    printf("test_step: ok\n");
    return 0;
}
