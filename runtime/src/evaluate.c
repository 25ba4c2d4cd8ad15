/* evaluate.c: see evaluate.h. */
#include "evaluate.h"

#include "executor.h"

/* The largest divisor of `batch` that is at most `rows`. */
static int64_t set_size(int64_t batch, int64_t rows)
{
    int64_t size = rows;
    while (batch % size)
        size--;
    return size;
}

/* `count` microbatches of `distinct` windows each, from window `first` on. */
static int add_windows(mlc_rank *rank, const mlc_data *data, int64_t first, int64_t count, int64_t distinct, double *loss, double *weight)
{
    int64_t batch = rank->model->batch;
    mlc_order order = {.examples = data->examples, .sequential = true};
    mlc_data_feed feed = mlc_data_feed_make(data, order, first, batch / distinct);
    return mlc_executor_forward(rank, MLC_EVALUATE, &feed.feed, 0, count, (double)distinct / (double)batch, loss, weight);
}

int mlc_evaluate(mlc_rank *rank, const mlc_data *data, mlc_evaluation *evaluation)
{
    int64_t batch = rank->model->batch, whole = data->examples / batch, first = whole * batch;
    double loss = 0, weight = 0;
    if (whole && add_windows(rank, data, 0, whole, batch, &loss, &weight))
        return rank->error.status;
    while (first < data->examples) {
        int64_t size = set_size(batch, data->examples - first);
        if (add_windows(rank, data, first, 1, size, &loss, &weight))
            return rank->error.status;
        first += size;
    }
    *evaluation = (mlc_evaluation){loss / weight, data->examples * rank->model->tokens / batch, data->examples};
    return MLC_OK;
}
