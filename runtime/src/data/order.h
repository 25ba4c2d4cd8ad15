/* order.h: the order of examples: a keyed permutation of the N windows for each epoch. */
#ifndef MLC_ORDER_H
#define MLC_ORDER_H

#include <stdbool.h>
#include <stdint.h>

typedef struct mlc_order {
    uint64_t seed;
    int64_t examples; /* N */
    bool sequential;
    int64_t spread;   /* sequential, and > 0: only so many windows, at most N, evenly spaced */
} mlc_order;

/* The window that example n shows: p_e(n mod N), e = n div N; n mod N itself when sequential; n * N / spread, rounded down,
 * where windows are spread.
 *
 * p_e is a Feistel network of six rounds over 2k bits, 4^k >= N the smallest, keyed by seed, epoch and round; a result outside
 * the N windows is mapped again until it is inside (cycle walking, fewer than four times on average). */
int64_t mlc_order_window(const mlc_order *order, int64_t n);

/* splitmix64: x += 0x9E3779B97F4A7C15, then its mixing. */
uint64_t mlc_order_mix(uint64_t x);

#endif
