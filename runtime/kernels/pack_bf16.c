/* pack_bf16.c: strips of bf16 operands as pairs of neighbours in k. Transposed, pairs are words that move as they are; along lanes, two
 * rows are put together. */
#include "pack.h"

#ifdef MLC_PAIRS

/* Up to `count` bf16 from x, the rest 0, not read. */
MLC_INLINE __m512i load_words(const uint16_t *x, int64_t count)
{
    return _mm512_maskz_loadu_epi16(count < 32 ? (__mmask32)((1u << count) - 1) : ~(__mmask32)0, x);
}

MLC_INLINE __m512i load_lanes(const uint16_t *x, int count)
{
    return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16((__mmask16)((1u << count) - 1), x));
}

/* r[i] word j becomes r[j] word i. */
MLC_INLINE void transpose(__m512i r[16])
{
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 16; i += 8)
        for (int j = 0; j < 4; j++) {
            t[i + j] = _mm512_shuffle_i32x4(r[i + j], r[i + j + 4], 0x88);
            t[i + j + 4] = _mm512_shuffle_i32x4(r[i + j], r[i + j + 4], 0xDD);
        }
    for (int j = 0; j < 8; j++) {
        r[j] = _mm512_shuffle_i32x4(t[j], t[j + 8], 0x88);
        r[j + 8] = _mm512_shuffle_i32x4(t[j], t[j + 8], 0xDD);
    }
}

/* k from k0 on, up to 32 of them that lie side by side in each lane. */
MLC_INLINE void pack_words(const mlc_packing *p, const mlc_strip *strip, mlc_pair *to, int64_t k0, int64_t depth)
{
    const int64_t *lanes = p->lanes + strip->first;
    __m512i r[16];
    for (int i = 0; i < 16; i++)
        r[i] = i < strip->count ? load_words((const uint16_t *)p->x + lanes[i] + p->ks[k0], depth) : _mm512_setzero_si512();
    transpose(r);
    for (int k = 0; k < 16; k++)
        if (2 * k < depth)
            _mm512_storeu_si512(to + (k0 / 2 + k) * p->pitch, r[k]);
}

/* Two rows that lie side by side along lanes. */
MLC_INLINE void pack_rows(const mlc_packing *p, const mlc_strip *strip, mlc_pair *to, int64_t k)
{
    const uint16_t *x = (const uint16_t *)p->x + p->lanes[strip->first];
    const __m512i low = load_lanes(x + p->ks[k], strip->count);
    const __m512i high = k + 1 < p->depth ? load_lanes(x + p->ks[k + 1], strip->count) : _mm512_setzero_si512();
    _mm512_storeu_si512(to + k / 2 * p->pitch, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
}

MLC_INLINE void gather_rows(const mlc_packing *p, const mlc_strip *strip, mlc_pair *to, int64_t k)
{
    const uint16_t *x = p->x;
    for (int i = 0; i < strip->width; i++) {
        const int64_t lane = i < strip->count ? p->lanes[strip->first + i] : 0;
        const uint32_t low = i < strip->count ? x[lane + p->ks[k]] : 0;
        const uint32_t high = i < strip->count && k + 1 < p->depth ? x[lane + p->ks[k + 1]] : 0;
        to[k / 2 * p->pitch + i] = low | high << 16;
    }
}

void mlc_pack_bf16(const mlc_packing *p, const mlc_strip *strips, int count)
{
    enum { WORDS = 2 * MLC_STRIP, BAND = 8 };
    const int whole = p->k_run > 1 && p->k_run % 2 == 0 && p->k_begin % 2 == 0; /* no pair is torn */
    for (int s = 0; whole && s < count; s++)
        for (int64_t k = 0; k < p->depth;) {
            const int64_t run = p->k_run - (p->k_begin + k) % p->k_run, rest = p->depth - k;
            int64_t depth = run < rest ? run : rest;
            depth = depth < WORDS ? depth : WORDS;
            pack_words(p, strips + s, (mlc_pair *)strips[s].to, k, depth);
            k += depth;
        }
    for (int64_t k0 = 0; !whole && k0 < p->depth; k0 += BAND)
        for (int s = 0; s < count; s++)
            for (int64_t k = k0; k < k0 + BAND && k < p->depth; k += 2) {
                if (mlc_side_by_side(p, strips + s))
                    pack_rows(p, strips + s, (mlc_pair *)strips[s].to, k);
                else
                    gather_rows(p, strips + s, (mlc_pair *)strips[s].to, k);
            }
}

#endif
