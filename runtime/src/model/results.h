/* results.h: what the walk over a list finds, in the arena at mlc_role.results: for the ranks that exchange it in the middle of the list, and
 * for the host, which reads it when the list has ended. compiler/parallel/planned.py counts the bytes. */
#ifndef MLC_RESULTS_H
#define MLC_RESULTS_H

#include "model/statistics.h"

#ifndef __cplusplus
#include "model/rank.h"
#endif

/* Of gradients: the sum of their squares, and the first parameter with one that is not finite, -1: none. */
typedef struct mlc_squares {
    mlc_exact sum;
    int64_t bad;
} mlc_squares;

typedef struct mlc_results {
    double norm;                /* of gradients, before clipping */
    int64_t flaw;               /* the first that the update left (finite.h), -1: none */
    mlc_squares squares;        /* of this rank, after NORM of all */
    mlc_statistic statistics[]; /* the same, after STATISTICS: those of the list */
} mlc_results;

#ifndef __cplusplus /* the host's */

_Static_assert(sizeof(mlc_results) == 304, "compiler/parallel/planned.py counts results by it");
_Static_assert(sizeof(mlc_squares) <= MLC_STATISTIC_BYTES, "compiler/parallel/collectives.py counts messages by it");

static inline mlc_results *mlc_results_of(const mlc_rank *rank)
{
    return mlc_rank_at(rank, rank->role->results);
}

/* For mlc_exchange: units of sizeof(mlc_squares), of flaws. */
void mlc_squares_combine(void *into, const void *from, size_t bytes);
void mlc_flaws_combine(void *into, const void *from, size_t bytes);

#endif

#endif
