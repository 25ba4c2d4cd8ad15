/* pack.c: strips of operands, copied along lanes, transposed along k, or gathered. bf16 becomes f32 on the way.
 *
 * `dtype` is a constant where it is looked at: MLC_ELEMENT, or for tiles of f32 MLC_BF16 too. */
#include "pack.h"

MLC_INLINE mlc_element element(const void *x, int dtype, int64_t i)
{
    return dtype == MLC_BF16 ? (mlc_element)mlc_f32_of_bf16(((const uint16_t *)x)[i]) : ((const mlc_element *)x)[i];
}

#if MLC_LANES == 16 && MLC_ELEMENT_BYTES == 4

/* Up to 16 elements from x[i]; the rest 0, not read. */
MLC_INLINE __m512 load_part(const void *x, int dtype, int64_t i, __mmask16 part)
{
    if (dtype == MLC_F32)
        return _mm512_maskz_loadu_ps(part, (const float *)x + i);
#if defined(__AVX512BW__) && defined(__AVX512VL__)
    const __m256i narrow = _mm256_maskz_loadu_epi16(part, (const uint16_t *)x + i);
#else
    uint16_t lanes[16] = {0};
    __builtin_memcpy(lanes, (const uint16_t *)x + i, 2 * (size_t)__builtin_popcount(part));
    const __m256i narrow = _mm256_loadu_si256((const void *)lanes);
#endif
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16));
}

MLC_INLINE void copy_lanes(mlc_element *to, const void *x, int dtype, int64_t i, int count, int width)
{
    (void)width;
    _mm512_storeu_ps(to, load_part(x, dtype, i, (__mmask16)((1u << count) - 1)));
}

/* r[i] lane j becomes r[j] lane i. */
MLC_INLINE void transpose(__m512 r[16])
{
    __m512 t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(t[i]), _mm512_castps_pd(t[i + 2])));
        r[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(t[i]), _mm512_castps_pd(t[i + 2])));
        r[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(t[i + 1]), _mm512_castps_pd(t[i + 3])));
        r[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(t[i + 1]), _mm512_castps_pd(t[i + 3])));
    }
    for (int i = 0; i < 16; i += 8)
        for (int j = 0; j < 4; j++) {
            t[i + j] = _mm512_shuffle_f32x4(r[i + j], r[i + j + 4], 0x88);
            t[i + j + 4] = _mm512_shuffle_f32x4(r[i + j], r[i + j + 4], 0xDD);
        }
    for (int j = 0; j < 8; j++) {
        r[j] = _mm512_shuffle_f32x4(t[j], t[j + 8], 0x88);
        r[j + 8] = _mm512_shuffle_f32x4(t[j], t[j + 8], 0xDD);
    }
}

/* to[k * pitch + lane] = x[lanes[lane] + k], k < depth <= 16 */
MLC_INLINE void transpose_block(mlc_element *to, int64_t pitch, const void *x, int dtype, const int64_t *lanes, int64_t base, int count,
    int width, int64_t depth)
{
    (void)width;
    const __mmask16 part = (__mmask16)((1u << depth) - 1);
    __m512 r[16];
    for (int i = 0; i < 16; i++)
        r[i] = i < count ? load_part(x, dtype, lanes[i] + base, part) : _mm512_setzero_ps();
    transpose(r);
    for (int k = 0; k < 16; k++)
        if (k < depth)
            _mm512_storeu_ps(to + k * pitch, r[k]);
}

#else

MLC_INLINE void copy_lanes(mlc_element *to, const void *x, int dtype, int64_t i, int count, int width)
{
    MLC_SIMD for (int j = 0; j < count; j++) to[j] = element(x, dtype, i + j);
    for (int j = count; j < width; j++)
        to[j] = 0;
}

MLC_INLINE void transpose_block(mlc_element *to, int64_t pitch, const void *x, int dtype, const int64_t *lanes, int64_t base, int count,
    int width, int64_t depth)
{
    for (int64_t k = 0; k < depth; k++)
        for (int i = 0; i < width; i++)
            to[k * pitch + i] = i < count ? element(x, dtype, lanes[i] + base + k) : 0;
}

#endif

/* k from k0 to end - 1 of a strip that lies side by side; as many rows of memory beyond are fetched. */
MLC_INLINE void copy_band(const mlc_packing *p, const mlc_strip *strip, int64_t k0, int64_t end, const int dtype)
{
    const int64_t size = mlc_element_bytes(dtype), lane = p->lanes[strip->first], pitch = p->pitch, *ks = p->ks + k0;
    const int64_t count = end - k0, fetched = p->depth - end < count ? p->depth - end : count;
    const char *x = (const char *)p->x + lane * size;
    const int lanes = strip->count, width = strip->width;
    mlc_element *to = strip->to + k0 * pitch;
    for (int64_t k = 0; k < fetched; k++)
        __builtin_prefetch(x + ks[count + k] * size);
    for (int64_t k = 0; k < count; k++, to += pitch)
        copy_lanes(to, x, dtype, ks[k], lanes, width);
}

MLC_INLINE void gather_band(const mlc_packing *p, const mlc_strip *strip, int64_t k0, int64_t end, const int dtype)
{
    const int64_t *lanes = p->lanes + strip->first;
    for (int64_t k = k0; k < end; k++)
        for (int i = 0; i < strip->width; i++)
            strip->to[k * p->pitch + i] = i < strip->count ? element(p->x, dtype, lanes[i] + p->ks[k]) : 0;
}

/* Rows of memory in bands of 8, so that neighbouring strips of a row follow each other soon. */
MLC_INLINE void pack_lanes(const mlc_packing *p, const mlc_strip *strips, int count, const int dtype)
{
    enum { BAND = 8 };
    for (int64_t k = 0; k < p->depth; k += BAND)
        for (int s = 0; s < count; s++) {
            const int64_t end = k + BAND < p->depth ? k + BAND : p->depth;
            if (mlc_side_by_side(p, strips + s))
                copy_band(p, strips + s, k, end, dtype);
            else
                gather_band(p, strips + s, k, end, dtype);
        }
}

MLC_INLINE void pack_transposed(const mlc_packing *p, const mlc_strip *strips, int count, const int dtype)
{
    for (int s = 0; s < count; s++) {
        const mlc_strip *strip = strips + s;
        for (int64_t k = 0; k < p->depth;) {
            const int64_t run = p->k_run - (p->k_begin + k) % p->k_run, rest = p->depth - k;
            int64_t depth = run < rest ? run : rest;
            depth = depth < MLC_STRIP ? depth : MLC_STRIP;
            transpose_block(strip->to + k * p->pitch, p->pitch, p->x, dtype, p->lanes + strip->first, p->ks[k], strip->count,
                strip->width, depth);
            k += depth;
        }
    }
}

void MLC_OF_ELEMENT(mlc_pack)(const mlc_packing *p, const mlc_strip *strips, int count)
{
    const int transposed = p->k_run > 1;
    switch (p->dtype) {
    case MLC_ELEMENT:
        (transposed ? pack_transposed(p, strips, count, MLC_ELEMENT) : pack_lanes(p, strips, count, MLC_ELEMENT));
        break;
#if MLC_ELEMENT_BYTES == 4
    case MLC_BF16:
        (transposed ? pack_transposed(p, strips, count, MLC_BF16) : pack_lanes(p, strips, count, MLC_BF16));
        break;
#endif
    default:
        __builtin_trap(); /* emitted for no other dtype */
    }
}

mlc_ahead MLC_OF_ELEMENT(mlc_ahead_of)(const mlc_packing *p, int64_t first, int64_t count)
{
    const int transposed = p->k_run > 1;
    const int64_t size = mlc_element_bytes(p->dtype), *lanes = p->lanes + first;
    const int64_t *across = transposed ? lanes : p->ks, *along = transposed ? p->ks : lanes;
    const int64_t runs = transposed ? count : p->depth, length = transposed ? p->depth : count;
    mlc_ahead ahead = {.size = size};
    if (count > 0 && along[length - 1] - along[0] == length - 1) {
        ahead.x = (const char *)p->x + along[0] * size;
        ahead.offsets = across;
        ahead.runs = runs;
        ahead.lines = (length * size + 63) / 64;
    }
    return ahead;
}

MLC_INLINE void pack_matrix_transposed(mlc_element *to, int64_t pitch, const void *x, const int dtype, int64_t stride, int64_t rows,
    int64_t depth)
{
    for (int64_t i = 0; i < rows; i += MLC_STRIP) {
        const int count = (int)(rows - i < MLC_STRIP ? rows - i : MLC_STRIP);
        int64_t lanes[MLC_STRIP];
        for (int j = 0; j < MLC_STRIP; j++)
            lanes[j] = (i + j) * stride;
        for (int64_t k = 0; k < depth; k += MLC_STRIP)
            transpose_block(to + k * pitch + i, pitch, x, dtype, lanes, k, count, MLC_STRIP, depth - k < MLC_STRIP ? depth - k : MLC_STRIP);
    }
}

MLC_INLINE void pack_matrix_rows(mlc_element *to, int64_t pitch, const void *x, const int dtype, int64_t stride, int64_t rows, int64_t depth)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t k = 0; k < depth; k += MLC_STRIP)
            copy_lanes(to + i * pitch + k, x, dtype, i * stride + k, (int)(depth - k < MLC_STRIP ? depth - k : MLC_STRIP), MLC_STRIP);
}

void MLC_OF_ELEMENT(mlc_pack_transposed)(mlc_element *to, int64_t pitch, const void *x, int dtype, int64_t stride, int64_t rows,
    int64_t depth)
{
    switch (dtype) {
    case MLC_ELEMENT:
        pack_matrix_transposed(to, pitch, x, MLC_ELEMENT, stride, rows, depth);
        break;
#if MLC_ELEMENT_BYTES == 4
    case MLC_BF16:
        pack_matrix_transposed(to, pitch, x, MLC_BF16, stride, rows, depth);
        break;
#endif
    default:
        __builtin_trap();
    }
}

void MLC_OF_ELEMENT(mlc_pack_rows)(mlc_element *to, int64_t pitch, const void *x, int dtype, int64_t stride, int64_t rows, int64_t depth)
{
    switch (dtype) {
    case MLC_ELEMENT:
        pack_matrix_rows(to, pitch, x, MLC_ELEMENT, stride, rows, depth);
        break;
#if MLC_ELEMENT_BYTES == 4
    case MLC_BF16:
        pack_matrix_rows(to, pitch, x, MLC_BF16, stride, rows, depth);
        break;
#endif
    default:
        __builtin_trap();
    }
}
