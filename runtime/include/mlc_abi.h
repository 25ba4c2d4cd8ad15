/* mlc_abi.h: what an emitted model and the runtime know of each other.
 *
 * An emitted model is tables and straight-line functions. The runtime owns memory, threads, files and the walk over the tables.
 * Every buffer is named by its offset in the rank's arena, a multiple of 64 bytes. Nothing here allocates.
 */
#ifndef MLC_ABI_H
#define MLC_ABI_H

#include <stdint.h>

#define MLC_ABI_VERSION 1
#define MLC_NONE UINT64_MAX /* an offset that names no buffer */

enum mlc_dtype { MLC_F32, MLC_BF16, MLC_F16, MLC_I32, MLC_BOOL }; /* bool: one byte, 0 or 1 */

/* What changes between steps and microbatches. Lies in the arena at a fixed place; kernels read it, the runtime writes it. */
typedef struct mlc_record {
    uint64_t seed;
    int64_t step;       /* from 0 */
    int64_t steps;
    int64_t microbatch; /* of the step, over all replicas */
    int64_t reserved[4];
    float scalars[];    /* by index in mlc_model.scalars; [0] is step, [1] is steps */
} mlc_record;

struct mlc_team;

/* What a worker thread passes to every function it runs. One per thread, written by that thread only. */
typedef struct mlc_env {
    char *arena;
    char *scratch;            /* of this thread: mlc_model.scratch_bytes_per_thread, 64-byte aligned */
    struct mlc_team *team;
    const mlc_record *record;
    uint64_t path;            /* hash of the call path of the current row, keys random numbers */
    int thread;
    int threads;
    int fold;                 /* accumulating results: 0 write, 1 add in place */
} mlc_env;

/* All threads of a rank call it with equal `at`; at[i] is the arena offset of operand i.
 * Every thread has passed a barrier before the call, and passes one after it. */
typedef void (*mlc_function)(const mlc_env *env, const uint64_t *at);

/* Elementwise over flat elements [begin, end); begin is a multiple of 1024. Called by one thread; no barrier inside. */
typedef void (*mlc_flat_function)(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end);

/* One function call on given buffers. */
typedef struct mlc_row {
    mlc_function run;
    const uint64_t *at;
    uint64_t path;
    const char *name; /* "h.3 forward": for traces, profiles and messages */
    double flops;     /* of the model's meaning; recomputation is counted apart */
} mlc_row;

typedef struct mlc_rows {
    const mlc_row *rows;
    int64_t count;
} mlc_rows;

typedef struct mlc_tensor {
    const char *name;
    int32_t dtype;
    int32_t rank;
    const int64_t *shape;
    uint64_t at;
} mlc_tensor;

/* A parameter with its optimizer state. Its master is f32. Checkpoint names: a '*' in the name counts the leading dim out. */
typedef struct mlc_parameter {
    mlc_tensor master;
    uint64_t copy;             /* bf16 copy that the forward pass reads, rounded from the master; MLC_NONE when it reads the master */
    uint64_t gradient;         /* f32: the whole gradient after reduction; equals accumulators[0] of the first use */
    int32_t fed;               /* 0 loss gradient, 1 accumulate effect, 2 none */
    int32_t uses;              /* layer calls that use it, in chain order */
    const uint64_t *accumulators; /* [uses][levels]: level 0 takes the microbatches of a group; the others hold group sums of the tree */
    const mlc_tensor *states;  /* optimizer state, f32 */
    int32_t state_count;
    mlc_flat_function init_flat; /* at[0]: master; or */
    mlc_function init;           /* at[0]: master; then work buffers */
    const uint64_t *init_at;
    mlc_flat_function update_flat; /* at: master, gradient, states...; results in place; or */
    mlc_function update;           /* at: master, gradient, states..., new master, new states... (work buffers), then others */
    const uint64_t *update_at;     /* both NULL: frozen */
    uint64_t path;                 /* hash of the name, keys the random numbers of init */
} mlc_parameter;

enum mlc_source { MLC_SOURCE_DATA, MLC_SOURCE_FOLLOWING };

typedef struct mlc_input {
    mlc_tensor tensor;   /* first dim: the rows of one microbatch */
    int32_t source;
    int32_t of;          /* MLC_SOURCE_FOLLOWING: index of the input it follows */
    int32_t shift;       /* MLC_SOURCE_FOLLOWING: how many tokens later */
    int64_t limit;       /* i32: values are in [0, limit); -1: any */
} mlc_input;

/* A run-time f32: an option of the program (--rate), or computed at the start of each step by mlc_model.set_scalars. */
typedef struct mlc_scalar {
    const char *name;
    float value;    /* default */
    int32_t option; /* 1: --name sets it */
} mlc_scalar;

typedef struct mlc_metric {
    const char *name;
    uint64_t at; /* f32 scalar of one microbatch */
} mlc_metric;

/* A forward chain: train, evaluate or sample. */
typedef struct mlc_chain {
    mlc_rows forward;
    uint64_t loss;               /* f32 scalar; MLC_NONE in sample */
    const mlc_metric *losses;    /* add_loss effects, in chain order: added to the loss of the microbatch */
    int32_t loss_count;
    const mlc_metric *metrics;   /* reports and metrics */
    int32_t metric_count;
    mlc_rows weight;             /* none or one row, from inputs to `weight_at`; run before forward */
    uint64_t weight_at;          /* f32 scalar */
    mlc_tensor logits;           /* sample: [..., context, vocabulary] of the first input; at = MLC_NONE elsewhere */
} mlc_chain;

enum mlc_action_kind { MLC_FORWARD, MLC_BACKWARD, MLC_INPUT_GRADIENT, MLC_WEIGHT_GRADIENT };

/* One row of a rank's program. */
typedef struct mlc_action {
    int16_t kind;
    int16_t chunk;
    int32_t microbatch;
} mlc_action;

typedef struct mlc_model {
    int32_t abi_version;
    const char *name;
    const char *hash;            /* hex: names, shapes, dtypes, recipe, batch, M, G; what a checkpoint must match */
    const char *description;     /* the items behind `hash`, one a line, "item=value": names what differs */
    uint64_t arena_bytes;
    uint64_t scratch_bytes_per_thread;
    uint64_t record;             /* offset of the mlc_record */
    uint64_t seed_at;            /* f32 scalar: the cotangent of the loss, the weight of the microbatch */
    const mlc_parameter *parameters;
    int32_t parameter_count;
    const mlc_input *inputs;
    int32_t input_count;
    const mlc_scalar *scalars;   /* [0] step, [1] steps */
    int32_t scalar_count;
    void (*set_scalars)(float *scalars); /* computes the curves from step, steps and the options */
    int32_t rate;                /* index of the scalar that metrics print as the rate, -1 when there is none */
    const mlc_chain *train;
    const mlc_chain *evaluate;
    const mlc_chain *sample;     /* NULL when the model cannot */
    mlc_rows backward;           /* of the train chain: I then W, layer by layer, last layer first */
    const mlc_action *actions;   /* one step */
    int32_t action_count;
    int32_t microbatches;        /* M */
    int32_t groups;              /* G */
    int32_t levels;              /* accumulators a use: how many group sums are held at once */
    float clip;                  /* largest global gradient norm; 0: none */
    double flops;                /* of one microbatch, forward and backward, recomputation apart */
    int64_t batch;               /* rows of a microbatch */
    int64_t tokens;              /* elements of the first input in a microbatch when it is i32 [batch, context], else batch */
} mlc_model;

#endif
