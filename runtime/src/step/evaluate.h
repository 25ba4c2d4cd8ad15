/* evaluate.h: loss and metrics over whole files, by the evaluation chain. */
#ifndef MLC_EVALUATE_H
#define MLC_EVALUATE_H

#include "data/data.h"

typedef struct mlc_evaluation {
    double loss;
    int64_t tokens;        /* evaluated: all windows, each once; records, where the model has no tokens */
    int64_t examples;
    const double *metrics; /* of the chain's columns behind its losses: rank->metrics */
} mlc_evaluation;

/* Every window counts once. What does not fill a microbatch is evaluated in smaller sets, each window of a set repeated so that
 * the set fills the batch, and weighted by its share: for a loss that is a mean over rows this is exact. Metrics are weighted as the
 * loss is. `batches` > 0: at most so many microbatches, of windows w * N / W, w = 0, 1, ..., W - 1, W = batches * batch, of the N
 * that there are. All ranks call it and get the same bits in every layout. Returns a status, its sentence in rank->error. */
int mlc_evaluate(mlc_rank *rank, const mlc_data *data, int64_t batches, mlc_evaluation *evaluation);

#endif
