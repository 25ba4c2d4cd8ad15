/* statistics.c: see statistics.h. */
#include "model/statistics.h"

#include <math.h>

enum { UP = 1, DOWN = 2, NO_NUMBER = 4 };

MLC_ANYWHERE void mlc_tally_add(mlc_tally *tally, double term)
{
    if (isfinite(term))
        mlc_exact_add(&tally->sum, term);
    else
        tally->odd |= isnan(term) ? NO_NUMBER : term > 0 ? UP : DOWN;
}

MLC_ANYWHERE void mlc_tally_merge(mlc_tally *tally, const mlc_tally *other)
{
    mlc_exact_merge(&tally->sum, &other->sum);
    tally->odd |= other->odd;
}

MLC_ANYWHERE double mlc_tally_value(const mlc_tally *tally)
{
    if (!tally->odd)
        return mlc_exact_value(&tally->sum);
    return tally->odd == UP ? INFINITY : tally->odd == DOWN ? -INFINITY : NAN;
}

#ifndef __cplusplus /* the host's */

void mlc_statistics_clear(mlc_statistic *statistics, int count, int losses)
{
    for (int i = 0; i < count; i++)
        statistics[i] = (mlc_statistic){.is_tally = i > 0, .of.tally = {{{0}}, 0}};
    statistics[0].of.notes = (mlc_notes){.flawed = {INT64_MAX, INT64_MAX}, .losses = losses};
}

#endif

static MLC_ANYWHERE void note_flaw(mlc_notes *notes, int64_t microbatch, int64_t column)
{
    mlc_flawed_loss *first = &notes->flawed;
    if (microbatch < first->microbatch || (microbatch == first->microbatch && column < first->column))
        first->microbatch = microbatch, first->column = column;
}

MLC_ANYWHERE void mlc_statistics_account(mlc_statistic *statistics, int64_t column, int64_t microbatch, double weight, double value)
{
    int metric = (int)(column - mlc_statistics_notes(statistics)->losses);
    double term = weight * value;
    mlc_tally_add(mlc_statistics_tally(statistics, metric < 0 ? MLC_TALLY_LOSS : MLC_TALLY_METRICS + metric), term);
    if (column == 0 && metric < 0)
        mlc_tally_add(mlc_statistics_tally(statistics, MLC_TALLY_WEIGHT), weight);
    if (metric < 0 && !isfinite(term))
        note_flaw(mlc_statistics_notes(statistics), microbatch, column);
}

static MLC_ANYWHERE void combine_notes(mlc_notes *own, const mlc_notes *other)
{
    own->signals |= other->signals;
    own->failed |= other->failed;
    own->refused |= other->refused;
    note_flaw(own, other->flawed.microbatch, other->flawed.column);
}

MLC_ANYWHERE void mlc_statistics_combine(void *into, const void *from, size_t bytes)
{
    mlc_statistic *own = (mlc_statistic *)into;
    const mlc_statistic *other = (const mlc_statistic *)from;
    for (size_t i = 0; i < bytes / sizeof *own; i++) {
        if (own[i].is_tally)
            mlc_tally_merge(&own[i].of.tally, &other[i].of.tally);
        else
            combine_notes(&own[i].of.notes, &other[i].of.notes);
    }
}
