/* session.h: everything one model in one process owns. Internal; mlc.h is what users see. */
#ifndef MLC_SESSION_H
#define MLC_SESSION_H

#include "arena.h"
#include "catalog.h"
#include "error.h"
#include "mlc.h"
#include "threads.h"

#include <stdbool.h>

struct mlc_trace;

/* Where the rows of a microbatch come from. `fill` writes rows [begin, end) of every model input; it is called by all threads at
 * once with disjoint rows and may not allocate. Returns a status. */
typedef struct mlc_feed {
    int (*fill)(const struct mlc_feed *feed, const mlc_session *session, int64_t microbatch, int64_t begin, int64_t end, mlc_error *error);
} mlc_feed;

/* What a pass over microbatches measured. */
typedef struct mlc_result {
    double loss;        /* sum(weight * loss) / sum(weight) */
    double weight;      /* sum(weight) */
    double grad_norm;   /* before clipping */
    float clip_factor;  /* what loss gradients are multiplied by */
} mlc_result;

struct mlc_session {
    const mlc_model *model;
    mlc_arena arena;
    mlc_team *team;
    mlc_catalog catalog;
    mlc_record *record;   /* in the arena */
    mlc_error error;
    atomic_flag busy;
    uint64_t seed;
    int64_t steps;        /* of the whole run: the length of the schedule */
    int64_t step;         /* steps done */
    int64_t cursor;       /* examples consumed */
    int sequential;       /* --order, as a checkpoint records it */
    int64_t examples;     /* N of the run's data; 0: unknown, the data is the caller's */
    float *scalars;       /* option values by scalar index; what set_scalars computes is in the record only */
    double *metrics;      /* of the last pass */
    double *metric_sums;
    mlc_result result;
    struct mlc_trace *trace; /* NULL, or who wants the times of rows */
};

static inline void *mlc_session_at(const mlc_session *session, uint64_t at)
{
    return session->arena.base + at;
}

/* Elements of a tensor. */
static inline int64_t mlc_tensor_elements(const mlc_tensor *tensor)
{
    int64_t elements = 1;
    for (int i = 0; i < tensor->rank; i++)
        elements *= tensor->shape[i];
    return elements;
}

static inline int64_t mlc_dtype_bytes(int32_t dtype)
{
    return dtype == MLC_F32 || dtype == MLC_I32 ? 4 : dtype == MLC_BOOL ? 1 : 2;
}

/* Elements and bytes of one row of an input. */
static inline int64_t mlc_input_row_elements(const mlc_input *input)
{
    return mlc_tensor_elements(&input->tensor) / input->tensor.shape[0];
}

static inline int64_t mlc_input_row_bytes(const mlc_input *input)
{
    return mlc_input_row_elements(input) * mlc_dtype_bytes(input->tensor.dtype);
}

/* The row of an input's buffer. */
static inline void *mlc_input_row(const mlc_session *session, const mlc_input *input, int64_t row)
{
    return session->arena.base + input->tensor.at + row * mlc_input_row_bytes(input);
}

/* Makes a session like mlc_open, with an error to fill. */
mlc_session *mlc_session_open(const mlc_model *model, const mlc_open_options *options, mlc_error *error);

/* Sets parameters to their initial values and states to zero, as at step 0, from session->seed. */
void mlc_session_initialize(mlc_session *session);

#endif
