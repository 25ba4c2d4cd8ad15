/* thin.h: products of a vector and a matrix, which read the matrix once, as it lies. */
#ifndef MLC_THIN_H
#define MLC_THIN_H

#include "tile.h"

#define MLC_THIN_COLUMNS 2048 /* of one call at most */

/* c[j] = sum over k of x[k] * w[j * w_column + k * w_k], k < depth; w_column or w_k is 1.
 * Sums are those of contractions: over k in ascending order from 0 in each block of k_block, then over the blocks in ascending order.
 * scratch: elements of MLC_THIN_SCRATCH */
typedef struct mlc_thin {
    const mlc_element *x;
    const void *w;
    int w_dtype;
    int64_t w_column, w_k, depth, k_block;
    int together; /* 2: products of pairs of bf16 are added at once (tile.h), else 1 */
    mlc_element *scratch;
} mlc_thin;

#define MLC_THIN_SCRATCH (MLC_THIN_COLUMNS + 2 * MLC_STRIP * MLC_THIN_DEPTH)
#define MLC_THIN_DEPTH 128 /* of what is exchanged at once, a multiple of MLC_STRIP */

/* Whether there is a way to read the matrix as it lies. Depth side by side in words of two is even. */
MLC_INLINE int mlc_thin_takes(const mlc_thin *s)
{
    return s->w_column == 1 || (s->w_k == 1 && (s->together == 1 || (s->w_column % 2 == 0 && s->depth % 2 == 0)));
}

/* Columns [begin, end), at most MLC_THIN_COLUMNS, to c[0] and on; c has room for MLC_LANES more. */
void MLC_OF_ELEMENT(mlc_thin_product)(const mlc_thin *s, int64_t begin, int64_t end, mlc_element *c);

#endif
