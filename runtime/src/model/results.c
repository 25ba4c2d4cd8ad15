/* results.c: see results.h. */
#include "model/results.h"

#include "model/finite.h"

void mlc_squares_combine(void *into, const void *from, size_t bytes)
{
    mlc_squares *own = into;
    const mlc_squares *other = from;
    for (size_t i = 0; i < bytes / sizeof *own; i++) {
        mlc_exact_merge(&own[i].sum, &other[i].sum);
        own[i].bad = mlc_flaw_first(own[i].bad, other[i].bad);
    }
}

void mlc_flaws_combine(void *into, const void *from, size_t bytes)
{
    int64_t *own = into;
    const int64_t *other = from;
    for (size_t i = 0; i < bytes / sizeof *own; i++)
        own[i] = mlc_flaw_first(own[i], other[i]);
}
