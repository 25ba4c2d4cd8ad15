/* exact.h: a sum of f64 numbers that does not depend on their order.
 *
 * A fixed-point integer of 640 bits in 32-bit limbs, lowest first, in two's complement; bit 0 stands for 2^-298, the square of the smallest
 * f32.
 *
 *   limb    0        1                          18       19
 *   bits    [0,32)   [32,64)     ...            [576,608) [608,640)
 *
 * A sum of 1024 squares of f32, in f64, is a multiple of 2^-298 below 2^266: 564 bits; the others count up to 2^75 blocks and hold the
 * sign. So is a product of two f32.
 */
#ifndef MLC_EXACT_H
#define MLC_EXACT_H

#include <stdint.h>

#define MLC_EXACT_LIMBS 20
#define MLC_BLOCK 1024 /* elements of a flat parameter whose squares are summed in f64 in index order */

typedef struct mlc_exact {
    uint32_t limbs[MLC_EXACT_LIMBS];
} mlc_exact;

/* Adds a finite number: below 2^266 in magnitude; what is below 2^-298 of it is cut off. */
void mlc_exact_add(mlc_exact *sum, double x);

/* sum += other. */
void mlc_exact_merge(mlc_exact *sum, const mlc_exact *other);

/* The sum rounded once to f64 (nearest, ties to even). */
double mlc_exact_value(const mlc_exact *sum);

/* The sums of squares of `blocks` consecutive blocks (1 to 8) of 1024 elements, each in f64 in index order. */
void mlc_exact_squares(const float *x, int blocks, double *sums);

/* The same for one block of `count` elements, at most 1024. */
double mlc_exact_squares_part(const float *x, int64_t count);

#endif
