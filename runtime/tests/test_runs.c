/* test_runs.c: a model that is trained, evaluated, sampled, saved and resumed on every layout: the same numbers, text and files. */
#include "bigram.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/digest.h"
#include "data/data.h"
#include "step/evaluate.h"
#include "step/executor.h"
#include "step/sample.h"

enum { TEXT_BYTES = 4000, FIRST = 3, ALL = 6, LAYOUTS = 4, DRAWN = 24 };

static const int LAYOUT[LAYOUTS][2] = {{1, 1}, {2, 1}, {1, 2}, {2, 2}};

/* What a run leaves; written by rank 0. */
typedef struct outcome {
    int layout;
    double loss, evaluated;
    char text[256];
    char digest[65];
} outcome;

static void train(mlc_rank *rank, int64_t until)
{
    mlc_data data;
    char *file = "text";
    CHECK(!mlc_data_open(&data, rank->model, &file, 1, "--data", &rank->error));
    while (rank->step < until) {
        mlc_order order = {.seed = rank->seed, .examples = data.examples};
        mlc_data_feed feed = mlc_data_feed_make(&data, order, rank->cursor, 1);
        CHECK(!mlc_executor_step(rank, &feed.feed, true));
        rank->step++;
        rank->cursor += rank->model->microbatches * rank->model->batch;
    }
    mlc_data_close(&data);
}

/* 30 windows: 7 whole microbatches, and a set of 2. */
static double evaluate(mlc_rank *rank)
{
    mlc_data data;
    mlc_evaluation evaluation;
    char *file = "held-out";
    CHECK(!mlc_data_open(&data, rank->model, &file, 1, "--evaluate", &rank->error) && data.examples == 30);
    CHECK(!mlc_evaluate(rank, &data, 0, &evaluation) && evaluation.examples == 30 && evaluation.tokens == 30 * CONTEXT);
    mlc_data_close(&data);
    return evaluation.loss;
}

/* Only rank 0 writes; the others' stream would be none. */
static void sample(mlc_rank *rank, char *text, size_t bytes)
{
    mlc_sampler sampler;
    FILE *out = rank->rank ? NULL : fmemopen(text, bytes, "w");
    CHECK((out || rank->rank) && !mlc_sampler_open(&sampler, rank->model, "sphinx", &rank->error));
    CHECK(!mlc_sample(rank, &sampler, "sphinx", DRAWN, &(mlc_drawing){0.7, 40, 0.95}, out));
    mlc_sampler_close(&sampler);
    CHECK(!out || !fclose(out));
}

static void measure(mlc_rank *rank, outcome *result)
{
    char digest[65], text[sizeof result->text] = "";
    double evaluated = evaluate(rank);
    sample(rank, text, sizeof text);
    CHECK(!mlc_digest(rank, digest, &rank->error));
    if (rank->rank)
        return;
    result->loss = rank->result.loss;
    result->evaluated = evaluated;
    memcpy(result->text, text, sizeof text);
    memcpy(result->digest, digest, sizeof digest);
}

static void run_whole(mlc_rank *rank, void *context)
{
    outcome *result = context;
    char directory[16];
    snprintf(directory, sizeof directory, "run-%d", result->layout);
    train(rank, FIRST);
    CHECK(!mlc_checkpoint_save(rank, directory, &rank->error));
    train(rank, ALL);
    measure(rank, result);
}

/* From another seed, so that all must come from the checkpoint. */
static void run_resumed(mlc_rank *rank, void *context)
{
    CHECK(!mlc_checkpoint_load(rank, "run-0", (mlc_allowed){0}, &rank->error) && rank->step == FIRST && rank->seed == 3);
    mlc_executor_refresh(rank);
    train(rank, ALL);
    measure(rank, context);
}

static void expect_same(const outcome *one, const outcome *other)
{
    CHECK(one->loss == other->loss && one->evaluated == other->evaluated);
    CHECK(!strcmp(one->text, other->text) && !strcmp(one->digest, other->digest));
}

static void write_texts(void)
{
    static const char SENTENCE[] = "sphinx of black quartz, judge my vow; ";
    char text[TEXT_BYTES];
    for (int i = 0; i < TEXT_BYTES; i++)
        text[i] = SENTENCE[(i + i / 100) % (int)(sizeof SENTENCE - 1)];
    check_write("text", text, TEXT_BYTES);
    check_write("held-out", text, 30 * CONTEXT + 1);
}

int main(void)
{
    outcome results[LAYOUTS] = {0}, resumed = {0};
    check_enter_directory();
    write_texts();
    for (int i = 0; i < LAYOUTS; i++) {
        const mlc_model *model = bigram_of(LAYOUT[i][0], LAYOUT[i][1]);
        char command[64];
        results[i].layout = i;
        layout_run(model, (mlc_open_options){.threads = 1 + i % 2, .seed = 3, .steps = ALL}, 60, run_whole, &results[i]);
        expect_same(&results[0], &results[i]);
        snprintf(command, sizeof command, "diff -r run-0 run-%d", i);
        CHECK(!system(command));
        layout_run(model, (mlc_open_options){.threads = 2, .seed = 9, .steps = ALL}, 60, run_resumed, &resumed);
        expect_same(&results[0], &resumed);
    }
    CHECK(!strncmp(results[0].text, "sphinx", 6) && strlen(results[0].text) >= 6 + 1 && results[0].evaluated > 0);
    check_leave_directory();
    printf("test_runs: ok\n");
    return 0;
}
