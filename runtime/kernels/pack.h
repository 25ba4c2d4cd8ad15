/* pack.h: copies of operands in the order in which the tile reads them, as elements of the tile. */
#ifndef MLC_PACK_H
#define MLC_PACK_H

#include "tile.h"

#define MLC_STRIP 16 /* lanes of a strip at most */

/* A strip: `count` lanes packed side by side, to[k * pitch + lane]. Lanes count to width - 1 become 0.
 * On AVX-512 a strip may write zeros or scraps up to MLC_STRIP lanes from to[k * pitch], in ascending k: what lies there must be
 * its own next k, or unused. */
typedef struct mlc_strip {
    mlc_element *to;
    int64_t first; /* its first lane in the lane offsets */
    int count, width;
} mlc_strip;

/* An operand seen as lanes x depth: element (lane, k) is x[lanes[lane] + ks[k]]. lane_run and k_run: neighbours in lane (in k)
 * lie side by side in memory except at multiples of the run, counted from lane_begin (k_begin); 1: never. */
typedef struct mlc_packing {
    const void *x;
    int dtype;
    const int64_t *lanes, *ks;
    int64_t lane_run, k_run, k_begin, depth, pitch;
} mlc_packing;

/* A strip with one break at most is whole when its ends are as far apart as they are in a whole one. */
MLC_INLINE int mlc_side_by_side(const mlc_packing *p, const mlc_strip *strip)
{
    const int64_t *lanes = p->lanes + strip->first, last = strip->count - 1;
    return last == 0 || (p->lane_run >= last && lanes[last] - lanes[0] == last);
}

void MLC_OF_ELEMENT(mlc_pack)(const mlc_packing *packing, const mlc_strip *strips, int count);

#ifdef MLC_PAIRS
/* The same of bf16 into pairs: strips and pitch count these, depth k, as many as there are; of an odd number the last is beside a 0. */
void mlc_pack_bf16(const mlc_packing *packing, const mlc_strip *strips, int count);
#endif

/* What packing lanes [first, first + count) reads, if each k (or lane) of it lies side by side; else nothing. */
mlc_ahead MLC_OF_ELEMENT(mlc_ahead_of)(const mlc_packing *packing, int64_t first, int64_t count);

/* A matrix in memory: element (i, k) is x[i * stride + k], i < rows, k < depth. What follows the rows (or the depth) up to a
 * multiple of MLC_STRIP becomes 0; `pitch` is at least that. */

/* to[k * pitch + i] = element (i, k) */
void MLC_OF_ELEMENT(mlc_pack_transposed)(mlc_element *to, int64_t pitch, const void *x, int dtype, int64_t stride, int64_t rows,
    int64_t depth);

/* to[i * pitch + k] = element (i, k) */
void MLC_OF_ELEMENT(mlc_pack_rows)(mlc_element *to, int64_t pitch, const void *x, int dtype, int64_t stride, int64_t rows, int64_t depth);

#endif
