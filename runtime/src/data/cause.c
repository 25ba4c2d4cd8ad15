/* cause.c: see cause.h. */
#include "data/cause.h"

#include "data/convert.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int64_t mlc_cause_record(const mlc_rank *rank, const mlc_feed *feed, int64_t microbatch, int64_t row)
{
    return feed->record ? feed->record(feed, rank, microbatch, row) : microbatch * rank->model->batch + row;
}

static float float_at(const void *values, int64_t i, int32_t dtype)
{
    uint16_t half;
    float single;
    if (dtype == MLC_F32)
        return memcpy(&single, (const char *)values + 4 * i, sizeof single), single;
    memcpy(&half, (const char *)values + 2 * i, sizeof half);
    return dtype == MLC_BF16 ? mlc_convert_from_bf16(half) : mlc_convert_from_f16(half);
}

/* The first element that is NaN, or infinite, -1: none is. */
static int64_t find(const void *values, int64_t elements, int32_t dtype, bool infinite)
{
    for (int64_t i = 0; i < elements; i++) {
        float value = float_at(values, i, dtype);
        if (infinite ? isinf(value) : isnan(value))
            return i;
    }
    return -1;
}

static bool is_float(const mlc_input *input)
{
    return input->tensor.dtype == MLC_F32 || input->tensor.dtype == MLC_BF16 || input->tensor.dtype == MLC_F16;
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
