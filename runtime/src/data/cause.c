/* cause.c: see cause.h. */
#include "data/cause.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int64_t mlc_cause_record(const mlc_rank *rank, const mlc_feed *feed, int64_t microbatch, int64_t row)
{
    return feed->record ? feed->record(feed, rank, microbatch, row) : microbatch * rank->model->batch + row;
}

/* The first element that is NaN, or infinite, -1: none is. */
static int64_t find(const void *values, int64_t elements, int32_t dtype, bool infinite)
{
    double (*load)(const void *, int64_t) = mlc_dtype_of(dtype)->load;
    for (int64_t i = 0; i < elements; i++) {
        double value = load(values, i);
        if (infinite ? isinf(value) : isnan(value))
            return i;
    }
    return -1;
}

static bool is_float(const mlc_input *input)
{
    return mlc_dtype_of(input->tensor.dtype)->kind == MLC_KIND_FLOAT;
}

/* Looks through one input; true: found and said. */
static bool look(const mlc_rank *rank, const mlc_feed *feed, int64_t microbatch, int number, bool infinite, char text[MLC_CAUSE_BYTES])
{
    const mlc_input *input = &rank->model->inputs[number];
    int64_t elements = mlc_input_row_elements(input), at = -1;
    mlc_error ignored = {0};
    void *values = malloc((size_t)(rank->model->batch * mlc_input_row_bytes(input)));
    if (values && !feed->fill(feed, rank, number, microbatch, 0, rank->model->batch, values, &ignored))
        at = find(values, rank->model->batch * elements, input->tensor.dtype, infinite);
    if (at >= 0)
        snprintf(text, MLC_CAUSE_BYTES, "; input %s is %s in record %lld (element %lld)", input->tensor.name, infinite ? "inf" : "nan",
                 (long long)mlc_cause_record(rank, feed, microbatch, at / elements), (long long)(at % elements));
    free(values);
    return at >= 0;
}

void mlc_cause_of(const mlc_rank *rank, const mlc_feed *feed, int64_t microbatch, char text[MLC_CAUSE_BYTES])
{
    text[0] = 0;
    for (int infinite = 0; infinite < 2; infinite++)
        for (int i = 0; i < rank->model->input_count; i++)
            if (is_float(&rank->model->inputs[i]) && look(rank, feed, microbatch, i, infinite, text))
                return;
}
