/* convert.c: see convert.h. */
#include "data/convert.h"

#include "mlc.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- float formats ---- */

float mlc_convert_from_bf16(uint16_t bits)
{
    uint32_t word = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
}

float mlc_convert_from_f16(uint16_t bits)
{
    int exponent = bits >> 10 & 31, fraction = bits & 1023;
    float magnitude = exponent == 31 ? (fraction ? NAN : INFINITY)
                      : exponent     ? ldexpf((float)(fraction + 1024), exponent - 25)
                                     : ldexpf((float)fraction, -24);
    return bits >> 15 ? -magnitude : magnitude;
}

/* Rounds to a format of `fraction` stored bits and smallest normal exponent `lowest`, whose infinity is `infinity`. */
static uint16_t round_to(double value, int fraction, int lowest, uint16_t infinity)
{
    uint16_t sign = signbit(value) ? 0x8000 : 0;
    if (isnan(value))
        return (uint16_t)(sign | infinity | 1U << (fraction - 1));
    if (value == 0 || isinf(value))
        return (uint16_t)(sign | (value == 0 ? 0 : infinity));
    int exponent = ilogb(value) < lowest ? lowest : ilogb(value);
    uint32_t steps = (uint32_t)nearbyint(ldexp(fabs(value), fraction - exponent)); /* multiples of one unit in the last place */
    uint32_t bits = steps + ((uint32_t)(exponent - lowest) << fraction);           /* a carry runs into the exponent by itself */
    return (uint16_t)(sign | (bits > infinity ? infinity : bits));
}

uint16_t mlc_convert_to_f16(double value)
{
    return round_to(value, 10, -14, 0x7c00);
}

uint16_t mlc_convert_to_bf16(double value)
{
    return round_to(value, 7, -126, 0x7f80);
}

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
    if (dtype == MLC_I32)
        return is_integer(npy);
    if (dtype == MLC_BOOL)
        return npy->kind == 'b' || (npy->kind == 'u' && npy->item_bytes == 1);
    return !is_integer(npy) || npy->item_bytes <= 2;
}

static const char *dtype_name(int32_t dtype)
{
    static const char *const NAMES[] = {"f32", "bf16", "f16", "i32", "bool"};
    return NAMES[dtype];
}

int mlc_convert_check(const mlc_npy *npy, int32_t dtype, const char *path, const char *input, mlc_error *error)
{
    if (feeds(npy, dtype))
        return MLC_OK;
    return mlc_error_set(error, MLC_BAD_INPUT, "%s: dtype %c%d does not feed input %s, which is %s", path, npy->kind, npy->item_bytes,
                         input,
                         dtype_name(dtype));
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
    if (dtype == MLC_F32 && npy->kind == 'f' && npy->item_bytes == 4) {
        memcpy(to, npy->data + first * 4, (size_t)count * 4);
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        double value = number_at(npy, first + i);
        if (dtype == MLC_F32)
            ((float *)to)[i] = (float)value;
        else
            ((uint16_t *)to)[i] = dtype == MLC_BF16 ? mlc_convert_to_bf16(value) : mlc_convert_to_f16(value);
    }
}

int mlc_convert_row(const mlc_npy *npy, int64_t first, int64_t count, const mlc_input *input, void *to, const char *path, mlc_error *error)
{
    if (input->tensor.dtype == MLC_I32)
        return convert_integers(npy, first, count, input->limit, to, path, error);
    if (input->tensor.dtype == MLC_BOOL)
        return convert_bools(npy, first, count, to, path, error);
    convert_floats(npy, first, count, input->tensor.dtype, to);
    return MLC_OK;
}

void mlc_convert_shape_text(char *text, size_t size, const int64_t *shape, int rank)
{
    size_t used = (size_t)snprintf(text, size, "[");
    for (int i = 0; i < rank && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%lld", i ? ", " : "", (long long)shape[i]);
    if (used < size)
        snprintf(text + used, size - used, "]");
}
