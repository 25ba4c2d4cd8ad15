/* evaluate.h: the loss over whole files, by the evaluation chain. */
#ifndef MLC_EVALUATE_H
#define MLC_EVALUATE_H

#include "data.h"

typedef struct mlc_evaluation {
    double loss;
    int64_t tokens; /* evaluated: all windows, each once */
    int64_t examples;
} mlc_evaluation;

/* Every window counts once. What does not fill a microbatch is evaluated in smaller sets, each window of a set repeated so that
 * the set fills the batch, and weighted by its share: for a loss that is a mean over rows this is exact. All ranks call it and get
 * the same. Returns a status, its sentence in rank->error. */
int mlc_evaluate(mlc_rank *rank, const mlc_data *data, mlc_evaluation *evaluation);

#endif
