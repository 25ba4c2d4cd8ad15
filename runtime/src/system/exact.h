/* exact.h: a sum of f64 numbers that does not depend on their order.
 *
 * A fixed-point integer of 2208 bits in 32-bit limbs, lowest first, in two's complement; bit 0 stands for 2^-1074, the smallest f64.
 *
 *   limb    0        1                          67           68
 *   bits    [0,32)   [32,64)     ...            [2144,2176)  [2176,2208)
 *
 * A finite f64 is a multiple of 2^-1074 below 2^1024 in magnitude: 2098 bits; the others count up to 2^109 of them and hold the sign.
 * Sums of 1024 squares of f32, and products of two f32, are exact in f64 up to the rounding of the sum. Squares of f64 are rounded to
 * f64 themselves, overflow from 2^512 on, and vanish below 2^-537.
 */
#ifndef MLC_EXACT_H
#define MLC_EXACT_H

#include <stdint.h>

#ifndef MLC_ANYWHERE
#define MLC_ANYWHERE /* before functions that kernels of a device call too: there it says so */
#endif

#define MLC_EXACT_LIMBS 69
#define MLC_BLOCK 1024 /* elements of a flat parameter whose squares are summed in f64 in index order */

typedef struct mlc_exact {
    uint32_t limbs[MLC_EXACT_LIMBS];
} mlc_exact;

/* Adds a finite number. */
MLC_ANYWHERE void mlc_exact_add(mlc_exact *sum, double x);

/* sum += other. */
MLC_ANYWHERE void mlc_exact_merge(mlc_exact *sum, const mlc_exact *other);

/* The sum rounded once to f64 (nearest, ties to even). */
MLC_ANYWHERE double mlc_exact_value(const mlc_exact *sum);

#endif
