/* evaluate.c: see evaluate.h. */
#include "step/evaluate.h"

#include "model/tables.h"
#include "step/executor.h"

/* The largest divisor of `batch` that is at most `rows`. */
static int64_t set_size(int64_t batch, int64_t rows)
{
    int64_t size = rows;
    while (batch % size)
        size--;
    return size;
}

/* What has been added up so far: rank->metrics holds the sums of the metrics. */
typedef struct sums {
    mlc_rank *rank;
    const mlc_data *data;
    mlc_order order;
    double loss;
    double weight;
} sums;

/* Adds what the last pass left, in the order of the passes. */
static void add_metrics(const sums *sums)
{
    const mlc_chain *chain = &sums->rank->model->chains[MLC_EVALUATE];
    for (int i = chain->losses; i < chain->column_count; i++)
        sums->rank->metrics[i - chain->losses] += sums->rank->tables->sums[i];
}

/* `count` microbatches of `distinct` windows each, from window `first` on. */
static int add_windows(sums *sums, int64_t first, int64_t count, int64_t distinct)
{
    int64_t batch = sums->rank->model->batch;
    mlc_data_feed feed = mlc_data_feed_make(sums->data, sums->order, first, batch / distinct);
    double share = (double)distinct / (double)batch;
    if (mlc_executor_forward(sums->rank, MLC_EVALUATE, &feed.feed, 0, count, share, &sums->loss, &sums->weight))
        return sums->rank->error.status;
    add_metrics(sums);
    return MLC_OK;
}

static int add_all(sums *sums, int64_t examples)
{
    int64_t batch = sums->rank->model->batch, whole = examples / batch, first = whole * batch;
    if (whole && add_windows(sums, 0, whole, batch))
        return sums->rank->error.status;
    while (first < examples) {
        int64_t size = set_size(batch, examples - first);
        if (add_windows(sums, first, 1, size))
            return sums->rank->error.status;
        first += size;
    }
    return MLC_OK;
}

int mlc_evaluate(mlc_rank *rank, const mlc_data *data, int64_t batches, mlc_evaluation *evaluation)
{
    const mlc_model *model = rank->model;
    const mlc_chain *chain = &model->chains[MLC_EVALUATE];
    int metrics = chain->column_count - chain->losses;
    bool partial = batches > 0 && batches <= (data->examples - 1) / model->batch;
    int64_t examples = partial ? batches * model->batch : data->examples;
    sums sums = {rank, data, {.examples = data->examples, .sequential = true, .spread = partial ? examples : 0}, 0, 0};
    for (int i = 0; i < metrics; i++)
        rank->metrics[i] = 0;
    if (add_all(&sums, examples))
        return rank->error.status;
    for (int i = 0; i < metrics; i++)
        rank->metrics[i] /= sums.weight;
    *evaluation = (mlc_evaluation){sums.loss / sums.weight, examples * model->tokens / model->batch, examples, rank->metrics};
    return MLC_OK;
}
