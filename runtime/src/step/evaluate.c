/* evaluate.c: see evaluate.h. */
#include "step/evaluate.h"

#include "step/executor.h"

/* The largest divisor of `batch` that is at most `rows`. */
static int64_t set_size(int64_t batch, int64_t rows)
{
    int64_t size = rows;
    while (batch % size)
        size--;
    return size;
}

/* What is evaluated on what. */
typedef struct evaluated {
    mlc_rank *rank;
    const mlc_data *data;
    mlc_order order;
} evaluated;

/* `count` microbatches of `distinct` windows each, from window `first` on. */
static int add_windows(evaluated *of, int64_t first, int64_t count, int64_t distinct)
{
    int64_t batch = of->rank->model->batch;
    mlc_data_feed feed = mlc_data_feed_make(of->data, of->order, first, batch / distinct);
    double share = (double)distinct / (double)batch;
    return mlc_executor_forward(of->rank, MLC_EVALUATE, &feed.feed, 0, count, share);
}

static int add_all(evaluated *of, int64_t examples)
{
    int64_t batch = of->rank->model->batch, whole = examples / batch, first = whole * batch;
    if (whole && add_windows(of, 0, whole, batch))
        return of->rank->error.status;
    while (first < examples) {
        int64_t size = set_size(batch, examples - first);
        if (add_windows(of, first, 1, size))
            return of->rank->error.status;
        first += size;
    }
    return MLC_OK;
}

int mlc_evaluate(mlc_rank *rank, const mlc_data *data, int64_t batches, mlc_evaluation *evaluation)
{
    const mlc_model *model = rank->model;
    bool partial = batches > 0 && batches <= (data->examples - 1) / model->batch;
    int64_t examples = partial ? batches * model->batch : data->examples;
    evaluated of = {rank, data, {.examples = data->examples, .sequential = true, .spread = partial ? examples : 0}};
    double loss;
    mlc_executor_clear(rank);
    if (add_all(&of, examples))
        return rank->error.status;
    mlc_executor_means(rank, MLC_EVALUATE, &loss);
    *evaluation = (mlc_evaluation){loss, examples * model->tokens / model->batch, examples, rank->metrics};
    return MLC_OK;
}
