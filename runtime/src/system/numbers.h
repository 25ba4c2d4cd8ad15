/* numbers.h: the smaller and the larger of two numbers, and where one falls in a list. */
#ifndef MLC_NUMBERS_H
#define MLC_NUMBERS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* The last of `count` numbers in ascending order, `size` bytes apart, that is at most `number`; 0 where none is. */
static inline int mlc_last_at_most(const uint64_t *numbers, size_t size, int count, uint64_t number)
{
    int low = 0, high = count;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        uint64_t found;
        memcpy(&found, (const char *)numbers + (size_t)middle * size, sizeof found);
        if (found <= number)
            low = middle;
        else
            high = middle;
    }
    return low;
}

#endif
