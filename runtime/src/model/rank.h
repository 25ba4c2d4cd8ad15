/* rank.h: everything one rank of a model owns. Internal; mlc.h is what users see. A process has one rank, or, with the transport
 * `threads` and in the library, all of them. */
#ifndef MLC_RANK_H
#define MLC_RANK_H

#include "mlc.h"
#include "model/catalog.h"
#include "model/shard.h"
#include "system/arena.h"
#include "system/dtype.h"
#include "system/error.h"
#include "system/home.h"
#include "system/threads.h"
#include "world/world.h"

#include <stdbool.h>

struct mlc_trace;
typedef struct mlc_tables mlc_tables;
typedef struct mlc_collective mlc_collective;
typedef struct mlc_rank mlc_rank;

/* Where the rows of a microbatch come from. `fill` writes rows [begin, end) of one model input to `to` (the start of the whole
 * buffer); it is called by all threads at once with disjoint rows and may not allocate. `microbatch` counts over all replicas from
 * the start of the step, or is one of those that mlc_executor_forward was given. Returns a status. `record` is what a message calls a
 * row: the number of its record in the data; NULL: its number in the step. */
typedef struct mlc_feed {
    int (*fill)(const struct mlc_feed *feed, const mlc_rank *rank, int input, int64_t microbatch, int64_t begin, int64_t end, void *to,
                mlc_error *error);
    int64_t (*record)(const struct mlc_feed *feed, const mlc_rank *rank, int64_t microbatch, int64_t row);
} mlc_feed;

/* What a pass over microbatches measured; the same on every rank. */
typedef struct mlc_result {
    double loss;        /* sum(weight * loss) / sum(weight) */
    double weight;      /* sum(weight) */
    double grad_norm;   /* before clipping */
    double clip_factor; /* what loss gradients are multiplied by */
    uint64_t signals;   /* set by some rank: bit 0, stop at the end of the step */
} mlc_result;

struct mlc_rank {
    const mlc_model *model;
    const mlc_role *role;
    const mlc_program *program;
    mlc_shard shard;
    int rank;
    int place;            /* its coordinate on pp */
    int replica;          /* its coordinate on dp */
    mlc_arena arena;
    mlc_team *team;
    mlc_world world;
    mlc_catalog catalog;
    mlc_record *record;   /* in the arena */
    mlc_error error;
    uint64_t seed;
    int64_t steps;        /* of the whole run: the length of the schedule */
    int64_t step;         /* steps done */
    int64_t cursor;       /* examples consumed, over all replicas */
    int sequential;       /* --order, as a checkpoint records it */
    int64_t examples;     /* N of the run's data; 0: unknown, the data is the caller's */
    char *identity;       /* what else a checkpoint must match, "data.INPUT=identity" a line; NULL: nothing */
    char run[MLC_RUN_BYTES]; /* whose checkpoints it writes; "": of no run */
    bool is_resumed;      /* a checkpoint was loaded, or written */
    int64_t resumed;      /* the step of that one */
    bool beside;          /* its checkpoints may lie among those of other runs */
    int64_t keep;         /* steps of this run that stay when another is written; 0: all */
    mlc_home home;        /* rank 0: the directory that it writes checkpoints to */
    void (*note)(void *listener, const char *text); /* takes what is worth a line; NULL: nobody */
    void *listener;
    double *scalars;      /* option values by scalar index; what set_scalars computes is in the record only */
    double *metrics;      /* of the last pass: by column, losses apart */
    mlc_result result;
    const _Atomic uint64_t *signals; /* what this rank puts into the next exchange; NULL: nothing */
    struct mlc_trace *trace; /* NULL, or who wants the times of rows */
    mlc_tables *tables;         /* of the executor (tables.h) */
    mlc_collective *collective; /* of the executor (collective.h) */
    struct mlc_wires *wires;    /* of a GPU with others (step/wire.h); else NULL */
};

static inline void *mlc_rank_at(const mlc_rank *rank, uint64_t at)
{
    return rank->arena.base + at;
}

/* The offset in the arena that an operand means for local microbatch n of a list (mlc_abi.h, mlc_region). */
static inline uint64_t mlc_rank_resolve(const mlc_rank *rank, uint64_t operand, int64_t n)
{
    const mlc_region *region = &rank->program->regions[operand >> MLC_REGION_SHIFT];
    return region->base + (uint64_t)(n % region->slots) * region->stride + (operand & MLC_OFFSET_MASK);
}

/* Elements of a shape. */
static inline int64_t mlc_elements(const int64_t *shape, int rank)
{
    int64_t elements = 1;
    for (int i = 0; i < rank; i++)
        elements *= shape[i];
    return elements;
}

static inline int64_t mlc_tensor_elements(const mlc_tensor *tensor)
{
    return mlc_elements(tensor->shape, tensor->rank);
}

static inline int64_t mlc_parameter_elements(const mlc_parameter *parameter)
{
    return mlc_elements(parameter->shape, parameter->rank);
}

/* Elements and bytes of one row of an input. */
static inline int64_t mlc_input_row_elements(const mlc_input *input)
{
    return mlc_tensor_elements(&input->tensor) / input->tensor.shape[0];
}

static inline int64_t mlc_input_row_bytes(const mlc_input *input)
{
    return mlc_input_row_elements(input) * mlc_dtype_of(input->tensor.dtype)->bytes;
}

/* Writes the run-time scalars of a step as a record has them: options, step, steps and curves. */
void mlc_rank_put_scalars(const mlc_rank *rank, int64_t step, void *scalars);

/* How a place holds a parameter, NULL when it does not. What it holds is in order of parameter. */
const mlc_held *mlc_role_held(const mlc_role *role, int parameter);

/* The same of the rank's own place, looked up. */
const mlc_held *mlc_rank_held(const mlc_rank *rank, int parameter);

/* Elements of a state that a piece has: its own of an elementwise rule, the whole of another. */
int64_t mlc_rank_state_elements(const mlc_model *model, const mlc_piece *piece, int state);

#endif
