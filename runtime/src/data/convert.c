/* convert.c: see convert.h. */
#include "data/convert.h"

#include "mlc.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- arrays ---- */

static uint64_t bits_at(const mlc_npy *npy, int64_t i)
{
    uint64_t bits = 0;
    memcpy(&bits, npy->data + i * npy->item_bytes, (size_t)npy->item_bytes);
    return bits;
}

static double float_at(const mlc_npy *npy, int64_t i)
{
    uint64_t bits = bits_at(npy, i);
    double wide;
    float single;
    if (npy->item_bytes == 2)
        return mlc_convert_from_f16((uint16_t)bits);
    if (npy->item_bytes == 4) {
        uint32_t word = (uint32_t)bits;
        memcpy(&single, &word, sizeof single);
        return single;
    }
    memcpy(&wide, &bits, sizeof wide);
    return wide;
}

/* What does not fit an i64 becomes INT64_MIN, which no input takes. */
static int64_t integer_at(const mlc_npy *npy, int64_t i)
{
    uint64_t bits = bits_at(npy, i);
    int unused = 64 - 8 * npy->item_bytes;
    if (npy->kind == 'i')
        return (int64_t)(bits << unused) >> unused;
    return bits > INT64_MAX ? INT64_MIN : (int64_t)bits;
}

static bool is_integer(const mlc_npy *npy)
{
    return npy->kind != 'f';
}

static bool feeds(const mlc_npy *npy, int32_t dtype)
{
    switch (mlc_dtype_of(dtype)->kind) {
    case MLC_KIND_INTEGER:
        return is_integer(npy);
    case MLC_KIND_BOOL:
        return npy->kind == 'b' || (npy->kind == 'u' && npy->item_bytes == 1);
    case MLC_KIND_FLOAT:
        return !is_integer(npy) || npy->item_bytes <= 2;
    }
    return false;
}

int mlc_convert_check(const mlc_npy *npy, int32_t dtype, const char *path, const char *input, mlc_error *error)
{
    if (feeds(npy, dtype))
        return MLC_OK;
    return mlc_error_set(error, MLC_BAD_INPUT, "%s: dtype %c%d does not feed input %s, which is %s", path, npy->kind, npy->item_bytes,
                         input, mlc_dtype_of(dtype)->name);
}

static int refuse(const mlc_npy *npy, int64_t i, int64_t low, int64_t high, const char *path, mlc_error *error)
{
    return mlc_error_set(error, MLC_BAD_INPUT, "%s: value %lld at offset %lld is not in %lld to %lld", path, (long long)integer_at(npy, i),
                         (long long)(npy->data - npy->mapping.base + i * npy->item_bytes), (long long)low, (long long)high);
}

static int convert_integers(const mlc_npy *npy, int64_t first, int64_t count, int64_t limit, int32_t *to, const char *path,
                            mlc_error *error)
{
    int64_t low = limit < 0 ? INT32_MIN : 0, high = limit < 0 ? INT32_MAX : limit - 1;
    for (int64_t i = 0; i < count; i++) {
        int64_t value = integer_at(npy, first + i);
        if (value < low || value > high)
            return refuse(npy, first + i, low, high, path, error);
        to[i] = (int32_t)value;
    }
    return MLC_OK;
}

static int convert_bools(const mlc_npy *npy, int64_t first, int64_t count, uint8_t *to, const char *path, mlc_error *error)
{
    for (int64_t i = 0; i < count; i++) {
        if (npy->data[first + i] > 1)
            return refuse(npy, first + i, 0, 1, path, error);
        to[i] = npy->data[first + i];
    }
    return MLC_OK;
}

static double number_at(const mlc_npy *npy, int64_t i)
{
    return is_integer(npy) ? (double)integer_at(npy, i) : float_at(npy, i);
}

static void convert_floats(const mlc_npy *npy, int64_t first, int64_t count, int32_t dtype, void *to)
{
    const mlc_dtype_row *row = mlc_dtype_of(dtype);
    if (row->wide && npy->kind == 'f' && npy->item_bytes == row->bytes) {
        memcpy(to, npy->data + first * row->bytes, (size_t)(count * row->bytes));
        return;
    }
    for (int64_t i = 0; i < count; i++)
        row->store(to, i, number_at(npy, first + i));
}

int mlc_convert_row(const mlc_npy *npy, int64_t first, int64_t count, const mlc_input *input, void *to, const char *path, mlc_error *error)
{
    switch (mlc_dtype_of(input->tensor.dtype)->kind) {
    case MLC_KIND_INTEGER:
        return convert_integers(npy, first, count, input->limit, to, path, error);
    case MLC_KIND_BOOL:
        return convert_bools(npy, first, count, to, path, error);
    case MLC_KIND_FLOAT:
        convert_floats(npy, first, count, input->tensor.dtype, to);
        return MLC_OK;
    }
    return mlc_error_set(error, MLC_FAILED, "%s: input %s has no dtype", path, input->tensor.name);
}

void mlc_convert_shape_text(char *text, size_t size, const int64_t *shape, int rank)
{
    size_t used = (size_t)snprintf(text, size, "[");
    for (int i = 0; i < rank && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%lld", i ? ", " : "", (long long)shape[i]);
    if (used < size)
        snprintf(text + used, size - used, "]");
}
