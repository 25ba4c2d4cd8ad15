/* thin.c: see thin.h. What a token costs is the reading of all weights once, so that nothing is packed that could be used as it lies.
 *
 *   columns side by side    some rows of the matrix at once, each a long run; sums of all columns stay in the first cache
 *   depth side by side      strips of lanes are exchanged in the first cache, and each lane of a vector is the sum of one column
 *
 * Either way what is at work are a few rows of memory, too short for the machine to see what follows: while they are multiplied, the lines
 * of as many rows behind them are fetched.
 */
#include "pack.h"
#include "thin.h"

enum { ROWS = 8 };

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static const void *at(const void *x, int dtype, int64_t elements)
{
    return (const char *)x + elements * mlc_element_bytes(dtype);
}

#if MLC_ELEMENT_BYTES == 4

/* LANES numbers of bf16 */
MLC_INLINE mlc_vector load_narrow(const uint16_t *x)
{
#if defined(__AVX512F__)
    return (mlc_vector)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)x)), 16);
#elif defined(__AVX2__) && defined(__FMA__)
    return (mlc_vector)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)x)), 16);
#else
    mlc_vector v = {0};
    for (int i = 0; i < MLC_LANES; i++)
        v[i] = mlc_f32_of_bf16(x[i]);
    return v;
#endif
}

#endif

/* The first `count` of LANES elements, which may be all; 0 for the others, of which nothing is read. */
MLC_INLINE mlc_vector load_some(const void *x, int dtype, int64_t i, int64_t count)
{
#if MLC_ELEMENT_BYTES == 4
    if (dtype == MLC_BF16) {
        const uint16_t *from = (const uint16_t *)x + i;
        if (count >= MLC_LANES)
            return load_narrow(from);
        mlc_vector v = {0};
        for (int64_t lane = 0; lane < count; lane++)
            v[lane] = mlc_f32_of_bf16(from[lane]);
        return v;
    }
#endif
    (void)dtype;
    const mlc_element *from = (const mlc_element *)x + i;
    if (count >= MLC_LANES)
        return mlc_vector_load(from);
    mlc_vector v = {0};
    for (int64_t lane = 0; lane < count; lane++)
        v[lane] = from[lane];
    return v;
}

/* Lines that some rows further down will need: their columns follow each other soon enough to lie in the second cache by then. */
MLC_INLINE void fetch(const void *x)
{
    __builtin_prefetch(x, 0, 2);
}

/* sum[0] to sum[LANES - 1] go on over `rows` rows of the matrix, each `stride` elements behind the one before; `count` of them are there. */
MLC_INLINE void fold_lanes(mlc_element *sum, const mlc_element *x, const void *w, int dtype, int64_t stride, int rows, int64_t count)
{
    mlc_vector c = mlc_vector_load(sum);
    for (int k = 0; k < rows; k++)
        c = mlc_vector_fma(mlc_vector_of(x[k]), load_some(w, dtype, k * stride, count), c);
    mlc_vector_store(sum, c);
}

MLC_INLINE void fold_rows(mlc_element *sum, const mlc_element *x, const void *w, int dtype, int64_t stride, int rows, int64_t columns)
{
    enum { LINE = 64 };
    const int64_t bytes = mlc_element_bytes(dtype), line = LINE / bytes;
    int64_t j = 0;
    for (; j + line <= columns; j += line) {
        for (int k = 0; k < rows; k++)
            fetch((const char *)w + ((rows + k) * stride + j) * bytes);
        for (int64_t i = j; i < j + line; i += MLC_LANES)
            fold_lanes(sum + i, x, at(w, dtype, i), dtype, stride, rows, MLC_LANES);
    }
    for (; j < columns; j += MLC_LANES)
        fold_lanes(sum + j, x, at(w, dtype, j), dtype, stride, rows, least(MLC_LANES, columns - j));
}

MLC_INLINE void fold(mlc_element *sum, const mlc_element *x, const void *w, int dtype, int64_t stride, int64_t depth, int64_t columns)
{
    int64_t k = 0;
    for (; k + ROWS <= depth; k += ROWS)
        fold_rows(sum, x + k, at(w, dtype, k * stride), dtype, stride, ROWS, columns);
    for (; k < depth; k++)
        fold_rows(sum, x + k, at(w, dtype, k * stride), dtype, stride, 1, columns);
}

#ifdef MLC_PAIRS

/* x[k] and x[k + 1], which were bf16 */
MLC_INLINE __m512i pair_of(const float *x, int alone)
{
    return _mm512_set1_epi32((int32_t)(mlc_bits(x[0]) >> 16 | (alone ? 0 : mlc_bits(x[1]) & 0xFFFF0000u)));
}

MLC_INLINE mlc_vector add_pairs(mlc_vector sum, __m512i a, __m512i b)
{
    return (mlc_vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}

/* The first `count` of 32 halves; 0 for the others, of which nothing is read. */
MLC_INLINE __m512i load_halves(const uint16_t *x, int64_t count)
{
    return count >= 32 ? _mm512_loadu_si512(x) : _mm512_maskz_loadu_epi16(((__mmask32)1 << count) - 1, x);
}

/* sum[0] to sum[31], `count` of them, go on over `rows` pairs of rows; of the last one only the first is there where it is alone. */
MLC_INLINE void fold_pairs_lanes(float *sum, const __m512i *x, const uint16_t *w, int64_t stride, int rows, int alone, int64_t count)
{
    static const uint16_t places[32] = {0, 32, 1, 33, 2, 34, 3, 35, 4, 36, 5, 37, 6, 38, 7, 39, 8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45,
        14, 46, 15, 47};
    const __m512i low = _mm512_loadu_si512(places), high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    mlc_vector c[2] = {mlc_vector_load(sum), count > 16 ? mlc_vector_load(sum + 16) : (mlc_vector){0}};
    for (int k = 0; k < rows; k++) {
        const uint16_t *row = w + 2 * k * stride;
        const __m512i a = load_halves(row, count);
        const __m512i b = alone && k + 1 == rows ? _mm512_setzero_si512() : load_halves(row + stride, count);
        c[0] = add_pairs(c[0], x[k], _mm512_permutex2var_epi16(a, low, b));
        c[1] = add_pairs(c[1], x[k], _mm512_permutex2var_epi16(a, high, b));
    }
    mlc_vector_store(sum, c[0]);
    if (count > 16)
        mlc_vector_store(sum + 16, c[1]);
}

MLC_INLINE void fold_pairs_rows(float *sum, const float *x, const uint16_t *w, int64_t stride, int rows, int alone, int64_t columns)
{
    __m512i pairs[ROWS];
    int64_t j = 0;
    for (int k = 0; k < rows; k++)
        pairs[k] = pair_of(x + 2 * k, alone && k + 1 == rows);
    for (; j + 32 <= columns; j += 32) {
        for (int k = 0; k < 2 * rows; k++)
            fetch(w + (2 * rows + k) * stride + j);
        fold_pairs_lanes(sum + j, pairs, w + j, stride, rows, alone, 32);
    }
    if (j < columns)
        fold_pairs_lanes(sum + j, pairs, w + j, stride, rows, alone, columns - j);
}

/* As fold, of pairs of rows; one row is alone where depth is odd. */
static void fold_pairs(float *sum, const float *x, const uint16_t *w, int64_t stride, int64_t depth, int64_t columns)
{
    int64_t k = 0;
    for (; k + 2 * ROWS <= depth; k += 2 * ROWS)
        fold_pairs_rows(sum, x + k, w + k * stride, stride, ROWS, 0, columns);
    for (; k < depth; k += 2)
        fold_pairs_rows(sum, x + k, w + k * stride, stride, 1, k + 1 == depth, columns);
}

#endif

/* A dtype that is known where code is made for it. */
static void fold_of_dtype(mlc_element *sum, const mlc_element *x, const void *w, int dtype, int64_t stride, int64_t depth, int64_t columns)
{
#if MLC_ELEMENT_BYTES == 4
    if (dtype == MLC_BF16) {
        fold(sum, x, w, MLC_BF16, stride, depth, columns);
        return;
    }
#endif
    (void)dtype;
    fold(sum, x, w, MLC_ELEMENT, stride, depth, columns);
}

/* c (+)= sum, and sum = 0 */
static void add(mlc_element *c, mlc_element *sum, int64_t columns, int first)
{
    for (int64_t j = 0; j < columns; j += MLC_LANES) {
        const mlc_vector s = mlc_vector_load(sum + j);
        mlc_vector_store(c + j, first ? s : mlc_vector_load(c + j) + s);
        mlc_vector_store(sum + j, mlc_vector_of(0));
    }
}

static int64_t padded(int64_t n)
{
    return (n + MLC_LANES - 1) / MLC_LANES * MLC_LANES;
}

static void columns_beside(const mlc_thin *s, int64_t begin, int64_t columns, mlc_element *c)
{
    mlc_element *sum = s->scratch;
    for (int64_t j = 0; j < padded(columns); j++)
        sum[j] = 0;
    for (int64_t k0 = 0; k0 < s->depth; k0 += s->k_block) {
        const void *w = at(s->w, s->w_dtype, k0 * s->w_k + begin);
        const int64_t depth = least(s->k_block, s->depth - k0);
#ifdef MLC_PAIRS
        if (s->together == 2)
            fold_pairs(sum, s->x + k0, w, s->w_k, depth, columns);
        else
#endif
            fold_of_dtype(sum, s->x + k0, w, s->w_dtype, s->w_k, depth, columns);
        add(c, sum, padded(columns), k0 == 0);
    }
}

/* Lanes of a strip exchanged at once, and the vectors of the sums of as many columns. */
enum { WIDE = 2 * MLC_STRIP, VECTORS = WIDE / MLC_LANES };

/* Step i of fetching, in as many steps as elements of `bytes` in a row, WIDE rows of the matrix: those that follow the ones at work. */
MLC_INLINE void fetch_strip(const void *w, int64_t stride, int64_t bytes, int64_t i)
{
    enum { LINE = 64 };
    const int64_t lines = WIDE * bytes / LINE;
    for (int64_t line = i * lines; line < (i + 1) * lines; line++)
        fetch((const char *)w + (WIDE + line % WIDE) * stride * bytes + line / WIDE * LINE);
}

/* Columns of a strip, at most WIDE: sums over one block of k. */
static void fold_strip(const mlc_thin *s, int64_t column, int64_t columns, int64_t k0, int64_t depth, mlc_vector *sum)
{
    mlc_element *exchanged = s->scratch + MLC_THIN_COLUMNS;
    for (int64_t k = 0; k < depth; k += MLC_THIN_DEPTH) {
        const int64_t some = least(MLC_THIN_DEPTH, depth - k), bytes = mlc_element_bytes(s->w_dtype);
        const void *w = at(s->w, s->w_dtype, column * s->w_column + k0 + k);
        for (int64_t j = 0; j < columns; j += MLC_STRIP)
            MLC_OF_ELEMENT(mlc_pack_transposed)(exchanged + j, WIDE, at(w, s->w_dtype, j * s->w_column), s->w_dtype, s->w_column,
                least(MLC_STRIP, columns - j), some);
        for (int64_t i = 0; i < some; i++) {
            fetch_strip(w, s->w_column, bytes, i);
            for (int v = 0; v < VECTORS; v++)
                sum[v] = mlc_vector_fma(mlc_vector_of(s->x[k0 + k + i]), mlc_vector_load(exchanged + i * WIDE + v * MLC_LANES), sum[v]);
        }
    }
}

#ifdef MLC_PAIRS

/* The same of pairs, which are words that lie side by side. */
static void fold_strip_pairs(const mlc_thin *s, int64_t column, int64_t columns, int64_t k0, int64_t depth, mlc_vector *sum)
{
    float *exchanged = s->scratch + MLC_THIN_COLUMNS;
    for (int64_t k = 0; k < depth; k += 2 * MLC_THIN_DEPTH) {
        const int64_t some = least(MLC_THIN_DEPTH, (depth - k) / 2), stride = s->w_column / 2;
        const mlc_pair *w = (const mlc_pair *)s->w + (column * s->w_column + k0 + k) / 2;
        for (int64_t j = 0; j < columns; j += MLC_STRIP)
            mlc_pack_transposed(exchanged + j, WIDE, w + j * stride, MLC_F32, stride, least(MLC_STRIP, columns - j), some);
        for (int64_t i = 0; i < some; i++) {
            const __m512i pair = pair_of(s->x + k0 + k + 2 * i, 0);
            fetch_strip(w, stride, sizeof *w, i);
            for (int v = 0; v < VECTORS; v++)
                sum[v] = add_pairs(sum[v], pair, _mm512_loadu_si512(exchanged + i * WIDE + v * MLC_LANES));
        }
    }
}

#endif

static void depth_beside(const mlc_thin *s, int64_t begin, int64_t columns, mlc_element *c)
{
    for (int64_t j = 0; j < columns; j += WIDE) {
        const int64_t some = least(WIDE, columns - j);
        mlc_vector all[VECTORS] = {{0}};
        for (int64_t k0 = 0; k0 < s->depth; k0 += s->k_block) {
            mlc_vector sum[VECTORS] = {{0}};
#ifdef MLC_PAIRS
            if (s->together == 2)
                fold_strip_pairs(s, begin + j, some, k0, least(s->k_block, s->depth - k0), sum);
            else
#endif
                fold_strip(s, begin + j, some, k0, least(s->k_block, s->depth - k0), sum);
            for (int v = 0; v < VECTORS; v++)
                all[v] = k0 ? all[v] + sum[v] : sum[v];
        }
        for (int v = 0; v * MLC_LANES < some; v++)
            mlc_vector_store(c + j + v * MLC_LANES, all[v]);
    }
}

void MLC_OF_ELEMENT(mlc_thin_product)(const mlc_thin *s, int64_t begin, int64_t end, mlc_element *c)
{
    (s->w_column == 1 ? columns_beside : depth_beside)(s, begin, end - begin, c);
}
