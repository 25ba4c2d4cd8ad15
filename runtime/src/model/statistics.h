/* statistics.h: what all ranks exchange after the last microbatch of a list: the sums of weights, losses and metrics, and what stops a run.
 *
 * A sum over microbatches is exact: each term is weight * value in f64, the terms are added in fixed point (exact.h) and the sum is rounded
 * once, so it depends neither on the order of microbatches nor on who had them, and nobody needs a table of them all.
 */
#ifndef MLC_STATISTICS_H
#define MLC_STATISTICS_H

#include "mlc_abi.h"
#include "system/exact.h"

#include <stddef.h>

/* A sum of f64 terms. What is not finite in it is remembered apart: bit 0, +infinity; 1, -infinity; 2, not a number. */
typedef struct mlc_tally {
    mlc_exact sum;
    uint32_t odd;
} mlc_tally;

MLC_ANYWHERE void mlc_tally_add(mlc_tally *tally, double term);
MLC_ANYWHERE void mlc_tally_merge(mlc_tally *tally, const mlc_tally *other);

/* The sum rounded once to f64; an infinity, or not a number, where a term was. */
MLC_ANYWHERE double mlc_tally_value(const mlc_tally *tally);

/* The first part of a loss that is not finite, by microbatch, then column. */
typedef struct mlc_flawed_loss {
    int64_t microbatch; /* INT64_MAX: none */
    int64_t column;
} mlc_flawed_loss;

/* What has been noted; of one rank, then of all. */
typedef struct mlc_notes {
    uint64_t signals;
    uint64_t failed;  /* 1: some rank could not fill its inputs */
    uint64_t refused; /* 1: some rank has met an index out of range */
    mlc_flawed_loss flawed;
    int64_t losses;   /* columns of the chain that are parts of the loss */
} mlc_notes;

enum { MLC_TALLY_WEIGHT, MLC_TALLY_LOSS, MLC_TALLY_METRICS }; /* the last: of the first metric; the others follow */

#define MLC_STATISTIC_BYTES 288 /* at most, of a unit that all ranks exchange in an action */

/* One unit of what is exchanged: the notes, or a tally. */
typedef struct mlc_statistic {
    int64_t is_tally;
    union {
        mlc_notes notes;
        mlc_tally tally;
    } of;
} mlc_statistic;

#ifndef __cplusplus
_Static_assert(sizeof(mlc_statistic) == MLC_STATISTIC_BYTES, "compiler/parallel/collectives.py counts messages by it");
#endif

/* Of a chain: the notes, the weight, the loss, the metrics. */
static inline int mlc_statistics_count(const mlc_chain *chain)
{
    return 1 + MLC_TALLY_METRICS + chain->column_count - chain->losses;
}

/* Nothing noted, nothing summed; of a chain with so many columns that are parts of the loss. */
void mlc_statistics_clear(mlc_statistic *statistics, int count, int losses);

static inline MLC_ANYWHERE mlc_notes *mlc_statistics_notes(mlc_statistic *statistics)
{
    return &statistics[0].of.notes;
}

static inline MLC_ANYWHERE mlc_tally *mlc_statistics_tally(mlc_statistic *statistics, int number)
{
    return &statistics[1 + number].of.tally;
}

/* What a stage left for a column of a microbatch, with its weight. The first column counts the weight too. */
MLC_ANYWHERE void mlc_statistics_account(mlc_statistic *statistics, int64_t column, int64_t microbatch, double weight, double value);

/* For mlc_exchange: units of sizeof(mlc_statistic). */
MLC_ANYWHERE void mlc_statistics_combine(void *into, const void *from, size_t bytes);

#endif
