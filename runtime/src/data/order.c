/* order.c: see order.h. */
#include "data/order.h"

#define ROUNDS 6

uint64_t mlc_order_mix(uint64_t x)
{
    x += 0x9E3779B97F4A7C15;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9;
    x = (x ^ x >> 27) * 0x94D049BB133111EB;
    return x ^ x >> 31;
}

/* Half the bits of the smallest even width that holds 0 to N - 1, at least 1. */
static int half_width(int64_t examples)
{
    int bits = examples > 1 ? 64 - __builtin_clzll((uint64_t)examples - 1) : 1;
    return (bits + 1) / 2;
}

static uint64_t network(uint64_t x, uint64_t key, int half)
{
    uint64_t mask = (1ULL << half) - 1, left = x >> half, right = x & mask;
    for (uint64_t round = 0; round < ROUNDS; round++) {
        uint64_t mixed = left ^ (mlc_order_mix(mlc_order_mix(key + round) ^ right) & mask);
        left = right;
        right = mixed;
    }
    return left << half | right;
}

int64_t mlc_order_window(const mlc_order *order, int64_t n)
{
    if (order->spread)
        return (int64_t)((__int128)n * order->examples / order->spread);
    int64_t epoch = n / order->examples, i = n % order->examples;
    if (order->sequential)
        return i;
    uint64_t key = mlc_order_mix(mlc_order_mix(order->seed) ^ (uint64_t)epoch), x = (uint64_t)i;
    int half = half_width(order->examples);
    do
        x = network(x, key, half);
    while (x >= (uint64_t)order->examples);
    return (int64_t)x;
}
