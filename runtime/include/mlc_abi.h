/* mlc_abi.h: what an emitted model and the runtime know of each other.
 *
 * An emitted model is tables and straight-line functions. The runtime owns memory, threads, files and the walk over the tables.
 * Every buffer is named by its offset in the rank's arena, a multiple of 64 bytes. Nothing here allocates.
 *
 * Ranks form a mesh (mlc_mesh.h): a rank has a place along the pipeline, pp of them, and a replica, dp of them. A stage is a range of
 * the chain of layer calls; stage s lies on one place, a place holds one or more stages (its chunks, in ascending order). All
 * that a rank does and holds is its role's, and the roles are the places; only the shard of optimizer state, the microbatches and
 * the peers depend on the replica.
 *
 *   tables.h    rows, parameters, shards: where every tensor lies          mlc_emitted_model
 *   actions.c   regions, channels and the action lists of every place      mlc_emitted_schedule
 */
#ifndef MLC_ABI_H
#define MLC_ABI_H

#include "mlc_mesh.h"

#include <stdint.h>

#define MLC_ABI_VERSION 13
#define MLC_NONE UINT64_MAX /* an offset that names no buffer */

enum mlc_dtype { MLC_F32, MLC_BF16, MLC_F16, MLC_I32, MLC_BOOL, MLC_F64, MLC_DTYPES }; /* bool: one byte, 0 or 1 */

/* What changes from step to step. Lies in the arena at a fixed place. The runtime writes it before a step, but for what the step makes
 * itself: rows read it, and nobody else does before the step has ended. */
typedef struct mlc_record {
    uint64_t seed;
    int64_t step;       /* from 0 */
    int64_t steps;
    int64_t microbatch; /* 0: of what is of no microbatch (initial values, updates) */
    char one[8];        /* a scalar of the wide dtype, as the next two: 1, the cotangent of a loss whose microbatch has no weight of its own */
    char scale[8];      /* made by WEIGH: of loss gradients, 1 / sum of weights */
    char clip[8];       /* made by CLIP: of loss gradients, so that their norm is at most `limit` */
    int32_t held;       /* made by WEIGH and CLIP: 1: something is wrong, and UPDATE changes nothing */
    int32_t reserved;
    char mean[8];       /* of the wide dtype: 1 / mlc_model.microbatches, of what is accumulated */
    char limit[8];      /* the same: mlc_model.clip */
    double share;       /* of a microbatch in the sums of weights: 1, or less where its rows repeat */
    char scalars[];     /* of the wide dtype, by index in mlc_model.scalars; the first is step, the second steps */
} mlc_record;

struct mlc_team;

#define MLC_FLAWS 256 /* numbers for what values of a parameter are looked through: more than it has states */

/* What a worker thread passes to every function it runs. One per thread, written by that thread only. */
typedef struct mlc_env {
    char *arena;
    char *scratch;            /* of this thread: mlc_model.scratch_bytes_per_thread, 64-byte aligned */
    struct mlc_team *team;
    const mlc_record *record;
    const int64_t *microbatch; /* its number in the step, over all replicas; in the arena, at a place of its own for each of a list */
    uint64_t path;            /* hash of the call path of the current row, keys random numbers */
    int thread;
    int threads;
    int fold;                 /* accumulating results: 0 write, 1 add in place */
    int64_t subject;          /* what a kernel that looks through values looks at: parameter * MLC_FLAWS + what of it (src/model/finite.h) */
    int gated;                /* of a device: 1: kernels of sweeps do nothing where the record is `held` */
    void *stream;             /* of a device: where rows put their kernels; the addresses above are then the device's. NULL: this thread computes */
    struct mlc_calls *calls;  /* of a device: those of a sweep that are not on the stream yet */
    struct mlc_listener *listener; /* NULL: nobody wants to know when kernels begin */
} mlc_env;

/* Who wants to know when kernels begin. */
typedef struct mlc_listener {
    void (*begin)(struct mlc_listener *listener, const char *function, const char *kernel, double flops);
} mlc_listener;

/* All threads of a rank call it with equal `at`; at[i] is the arena offset of operand i.
 * Every thread has passed a barrier before the call, and passes one after it. */
typedef void (*mlc_function)(const mlc_env *env, const uint64_t *at);

/* Elementwise over flat elements [begin, end); begin is a multiple of 1024. Called by one thread; no barrier inside. */
typedef void (*mlc_flat_function)(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end);

/* A place in the arena that a microbatch has for itself. The low 48 bits of an operand of a row count from the start of its
 * region's slot, the high 16 bits number the region; region 0 is the arena itself, with one slot at 0.
 *
 *   address = base + (n % slots) * stride + offset,   n: the microbatch's number in the list, from 0 in every step or round
 */
#define MLC_REGION_SHIFT 48
#define MLC_OFFSET_MASK ((UINT64_C(1) << MLC_REGION_SHIFT) - 1)

typedef struct mlc_region {
    const char *name;
    uint64_t base;
    uint64_t stride;
    int32_t slots;
} mlc_region;

/* One function call on given buffers. */
typedef struct mlc_row {
    mlc_function run;
    const uint64_t *at;
    int32_t count; /* of operands */
    uint64_t path;
    const char *name; /* "h.3 forward": for traces, profiles and messages */
    double flops;     /* of the model's meaning; recomputation is counted apart */
} mlc_row;

typedef struct mlc_rows {
    const mlc_row *rows;
    int64_t count;
    int64_t head;     /* of an action in two parts: rows of the first; else 0 */
} mlc_rows;

typedef struct mlc_tensor {
    const char *name;
    int32_t dtype;
    int32_t rank;
    const int64_t *shape;
    uint64_t at;
} mlc_tensor;

/* A parameter. Its master has the wide dtype. Checkpoint names: a '*' in the name counts the leading dim out. */
typedef struct mlc_parameter {
    const char *name;
    int32_t rank;
    const int64_t *shape;
    int32_t fed;               /* 0 loss gradient, 1 accumulate effect, 2 none */
    int32_t uses;              /* layer calls that use it */
    int32_t owner;             /* place of the first use: holds the optimizer state */
    const mlc_tensor *states;  /* optimizer state, of the wide dtype, whole shapes; `at` is MLC_NONE */
    int32_t state_count;
    uint64_t path;             /* hash of the name, keys the random numbers of init */
} mlc_parameter;

/* The indices of a dim in panels of `size`; panels lie `stride` elements apart. */
typedef struct mlc_panels {
    int32_t dim;
    int64_t size;
    int64_t stride;
} mlc_panels;

/* How a tensor lies that is not row-major without gaps. An element lies at the sum of stride * index; of a dim in panels, stride * (index mod
 * size) + panels' stride * (index div size). No two lie at one place. Nobody reads or writes gaps. */
typedef struct mlc_arrangement {
    int32_t rank;
    const int64_t *shape;
    const int64_t *strides;   /* in elements */
    const mlc_panels *panels; /* of the dims that have any, each once */
    int32_t panel_count;
    int64_t elements;         /* of the buffer, gaps included */
} mlc_arrangement;

/* How what is kept of a parameter lies. NULL: canonical, that is row-major without gaps. */
typedef struct mlc_arranged {
    const mlc_arrangement *master;        /* and each of its gradients */
    const mlc_arrangement *copy;
    const mlc_arrangement *const *states; /* of a rule that runs over the whole; NULL: all are canonical. What a replica has of others is */
} mlc_arranged;

/* A parameter as a place holds it: wherever one of its stages uses it. */
typedef struct mlc_held {
    int32_t parameter;
    uint64_t master;             /* whole */
    uint64_t copy;               /* bf16 copy that the forward pass reads, rounded from the master; MLC_NONE when it reads the master */
    mlc_flat_function init_flat; /* at[0]: master; or */
    mlc_function init;           /* at[0]: master; then work buffers */
    const uint64_t *init_at;
} mlc_held;

/* The gradient of one use of a parameter. */
typedef struct mlc_use {
    int32_t parameter;
    int32_t index;          /* among the parameter's uses, in chain order */
    int32_t phase;          /* MLC_FORWARD, MLC_INPUT_GRADIENT or MLC_WEIGHT_GRADIENT: the half of an action that adds to it */
    const uint64_t *levels; /* level 0 takes the microbatches of a group; the others hold group sums of the tree; mlc_role.levels */
} mlc_use;

/* How the replicas of its owner share out a parameter (src/shard.h). */
enum mlc_sharing {
    MLC_SLICED, /* a rule that is elementwise: each updates equal shares of the blocks of 1024 elements of all of them, in canonical order */
    MLC_WHOLE,  /* any other: one replica updates it */
    MLC_STILL,  /* frozen, or fed by nothing: each answers for shares of the blocks, as of sliced ones */
};

/* A parameter in the hands of its owner. Its gradient is that of use 0. */
typedef struct mlc_own {
    int32_t parameter;
    int32_t sharing;
    mlc_flat_function update_flat; /* MLC_SLICED; at: master, gradient, states..., the same masters and states as results, reads... */
    mlc_function update;           /* MLC_WHOLE; at: master, gradient, states..., results (new master, new states...), reads..., work */
    const uint64_t *reads;         /* scalars of the record */
    int32_t read_count;
    uint64_t work;                 /* MLC_WHOLE: bytes of results and work memory */
} mlc_own;

enum mlc_source { MLC_SOURCE_DATA, MLC_SOURCE_FOLLOWING };

typedef struct mlc_input {
    mlc_tensor tensor;   /* first dim: the rows of one microbatch */
    int32_t source;
    int32_t of;          /* MLC_SOURCE_FOLLOWING: index of the input it follows */
    int32_t shift;       /* MLC_SOURCE_FOLLOWING: how many tokens later */
    int64_t limit;       /* i32: values are in [0, limit); -1: any, or as mlc_model.domains says */
} mlc_input;

/* The elements of a row of an i32 input up to `end`, from the end of the domain before it on: each is in [low, high], or `passed`.
 * They repeat from the end of the last one of the input on. */
typedef struct mlc_domain {
    int32_t input;
    int64_t end;
    int64_t low;
    int64_t high;
    int64_t passed; /* MLC_NO_VALUE: none */
} mlc_domain;

#define MLC_NO_VALUE INT64_MIN

/* A run-time scalar: an option of the program (--rate), or computed at the start of each step by mlc_model.set_scalars. */
typedef struct mlc_scalar {
    const char *name;
    double value;   /* default, as the wide dtype has it */
    int32_t option; /* 1: --name sets it; 2: it does, and only training reads it */
} mlc_scalar;

/* A number that each microbatch leaves: the loss, its add_loss parts in chain order, then reports and metrics. */
typedef struct mlc_column {
    const char *name;
    int32_t stage; /* that makes it */
} mlc_column;

typedef struct mlc_value {
    int32_t column;
    uint64_t at; /* scalar of the wide dtype, as a row's operand; there from the forward rows of the microbatch to the end of the list */
} mlc_value;

typedef struct mlc_binding {
    int32_t input;
    uint64_t at; /* as a row's operand */
} mlc_binding;

/* A stage of a chain on its place. */
typedef struct mlc_chunk {
    int32_t stage;
    mlc_rows forward;
    mlc_rows input_gradient;     /* of the train chain; NULL, 0 elsewhere */
    mlc_rows weight_gradient;
    mlc_rows backward;           /* both halves, layer by layer */
    const mlc_binding *inputs;   /* filled before forward; live as long as a row reads them */
    int32_t input_count;
    uint64_t weight_at;          /* scalar of the wide dtype as a value's, the weight of the microbatch; MLC_NONE: 1 */
    const mlc_value *values;     /* what this stage leaves for the columns of the chain */
    int32_t value_count;
    const mlc_use *uses;         /* of the train chain */
    int32_t use_count;
    mlc_tensor logits;           /* sample and decode, of the last stage: [..., context or 1, vocabulary]; `at` as a row's operand, else MLC_NONE */
} mlc_chunk;

/* A forward chain: train, evaluate, sample or decode. */
typedef struct mlc_chain {
    const mlc_column *columns;
    int32_t column_count;
    int32_t losses;              /* the first so many columns add up to the loss of a microbatch; 0 in sample and decode */
    int32_t logits_stage;        /* sample and decode; -1 elsewhere */
} mlc_chain;

enum mlc_chain_kind { MLC_TRAIN, MLC_EVALUATE, MLC_SAMPLE, MLC_DECODE, MLC_CHAINS };

/* ---- what a rank does ---- */

enum mlc_action_kind {
    MLC_FORWARD,         /* rows of a chunk on a microbatch */
    MLC_BACKWARD,
    MLC_INPUT_GRADIENT,
    MLC_WEIGHT_GRADIENT,
    MLC_FORWARD_REST,    /* the second part of the action before it */
    MLC_BACKWARD_REST,
    MLC_INPUT_GRADIENT_REST,
    MLC_RECEIVE,         /* wait until a message has arrived in its slot */
    MLC_FREE,            /* the slot of a message may be written again */
    MLC_SEND,            /* a message is complete in its outbox slot: it may go */
    MLC_SENT,            /* wait until it has gone: its outbox slot may be written again */
    MLC_FOLDF,           /* the group of a microbatch is complete: its sums of the uses of a chunk that F adds to join those that wait */
    MLC_FOLDI,           /* the same of input gradients */
    MLC_FOLDW,           /* and of weight gradients */
    MLC_STATISTICS,      /* all ranks exchange the columns of all microbatches */
    MLC_REDUCE,          /* a turn of halving: gradients of a chunk, until each replica has the sum over all of what its shard owns */
    MLC_SHARE,           /* the gradient of a use goes to the owner of the parameter, which adds it to that of use 0 */
    MLC_NORM,            /* gradients are scaled; all ranks exchange the sums of squares */
    MLC_UPDATE,          /* each shard is updated */
    MLC_SPREAD,          /* new values of a parameter go from its owner to a place that shares it */
    MLC_GATHER,          /* a turn of doubling: new values of all that the place holds go to its other replicas */
    MLC_VERDICT,         /* all ranks learn what the update left that is not finite */
};

/* One row of a rank's program. Compute and folds: `of` is a chunk of the place (not a stage), `microbatch` counts from 0 within the replica's
 * share. Transfer: `of` is a channel, `microbatch` the message of that number. The others: 0; but MLC_REDUCE is of a chunk, MLC_SHARE of a
 * use and MLC_SPREAD of a place, and `microbatch` is a turn (mlc_mesh.h) of MLC_REDUCE and MLC_GATHER, a parameter of the other two. */
typedef struct mlc_action {
    int32_t kind;
    int32_t of;
    int32_t microbatch;
} mlc_action;

typedef struct mlc_actions {
    const mlc_action *actions;
    int32_t count;
} mlc_actions;

enum mlc_channel_kind {
    MLC_ACTIVATION, /* states that cross a cut: place `from` to place `to` of the same replica */
    MLC_GRADIENT,   /* their cotangents, the other way */
    MLC_REDUCTION,  /* gradients of a parameter that both places use, same replica */
    MLC_PARAMETER,  /* new values of a parameter that both places use, same replica */
    MLC_REPLICAS,   /* from == to: sums of gradients and new values between replicas that are neighbours in their cohort (mlc_mesh.h) */
    MLC_TREE,       /* statistics: between a rank and its neighbours in the binary tree of all ranks; from, to -1 */
};

/* A directed edge between two ranks, or between all that are neighbours in a cohort or tree. Messages have slot_bytes bytes and arrive in
 * the order in which they were sent. Message n of a list (a step, a round; each counts from 0) lies in slot n % slots of the receiver's
 * inbox and in slot n % outbox_slots of the sender's outbox. A receiver has one block of slots (slots * slot_bytes bytes) and one header for each sender: of MLC_REPLICAS in the
 * order of mlc_cohort_neighbour, of MLC_TREE of mlc_mesh_tree_neighbour. The same for outboxes. */
typedef struct mlc_channel {
    const char *name;
    int32_t kind;
    int32_t chain;          /* MLC_ACTIVATION, MLC_GRADIENT: enum mlc_chain_kind; else -1 */
    int32_t from, to;       /* places */
    uint64_t slot_bytes;    /* a multiple of 64 */
    int32_t slots;
    int32_t outbox_slots;
    uint64_t inbox;         /* offset in the receiver's arena */
    uint64_t headers;       /* offset in the receiver's arena, MLC_HEADER_BYTES a sender */
    uint64_t outbox;        /* offset in the sender's arena */
} mlc_channel;

#define MLC_HEADER_BYTES 256

/* The program of a place. */
typedef struct mlc_program {
    const mlc_region *regions; /* [0] is the arena */
    int32_t region_count;
    mlc_actions lists[MLC_CHAINS]; /* train: one step. others: one round of forward passes */
} mlc_program;

typedef struct mlc_schedule {
    const mlc_program *places; /* [pp] */
    const mlc_channel *channels;
    int32_t channel_count;
    int32_t rounds[MLC_CHAINS]; /* microbatches of a list, of one replica */
} mlc_schedule;

/* Bytes of the arena. */
typedef struct mlc_area {
    uint64_t at;
    uint64_t bytes;
} mlc_area;

/* ---- sweeps ---- */

/* What happens to gradients and parameters: kernels that go over all of them; a rule over what a rank has, in place of a row for each.
 *
 * A sweep takes parameters, or uses of them, and calls its kernels in their order. In a step nothing but the record decides what runs. */

/* When a sweep runs. MLC_AT_FOLD is of all three folds. */
enum mlc_sweep_at {
    MLC_AT_FOLD,
    MLC_AT_STATISTICS, /* before they are exchanged */
    MLC_AT_WEIGH,  /* behind that, in a step */
    MLC_AT_REDUCE, /* before turn 0 of a chunk */
    MLC_AT_SHARE,  /* before messages, if any */
    MLC_AT_NORM,   /* before squares are exchanged */
    MLC_AT_CLIP,   /* behind that */
    MLC_AT_UPDATE, /* what it leaves is exchanged by VERDICT */
    MLC_AT_START,  /* before the first step */
    MLC_AT_COPIES, /* when masters are new for another reason than an update */
    MLC_AT_SEARCH, /* of a second walk, for a gradient that is not finite: behind a compute action */
    MLC_AT_END,
};

/* What a sweep goes over. */
enum mlc_sweep_over {
    MLC_OVER_USES,   /* of the action's chunk, in its phases; of all phases at REDUCE */
    MLC_OVER_USE,    /* of SHARE, where it lies on this place */
    MLC_OVER_PIECES, /* of the rank's shard */
    MLC_OVER_HELD,   /* parameters of the place */
    MLC_OVER_RANK,   /* one thread, once */
    MLC_OVER_END,
};

/* Conditions, as bits: all of them hold of what a sweep takes. */
enum mlc_sweep_only {
    MLC_ONLY_LOSS = 1,         /* fed by a loss gradient */
    MLC_ONLY_ACCUMULATED = 2,  /* fed by an accumulate effect */
    MLC_ONLY_HERE = 4,         /* all uses are on the place of the owner */
    MLC_ONLY_SPREAD = 8,       /* some are not: SHARE has added them up */
    MLC_ONLY_ELEMENTWISE = 16, /* its update, or initial value where parameters are held, runs over a range of elements */
    MLC_ONLY_WHOLE = 32,       /* it runs over the whole */
    MLC_ONLY_FURTHER = 64,     /* a use behind the first, on the place of the owner */
};

/* Which elements. All kernels of a sweep go over some elements, while these are in the first cache; but for MLC_RANGE_TENSOR. */
enum mlc_sweep_range {
    MLC_RANGE_WHOLE,
    MLC_RANGE_SHARD,  /* those that the rank updates */
    MLC_RANGE_TENSOR, /* whole tensors of any shape: all threads are done with a kernel before the next one begins */
    MLC_RANGE_END,
};

/* What a kernel is given. An operand may be several or none: there is a call for each, none where there is none. A kernel on
 * tensors of parameters looks at one, or has two operands and changes the first and nothing else; it is given elements in canonical order,
 * wherever they lie. */
enum mlc_sweep_operand {
    MLC_OPERAND_NONE,
    MLC_OPERAND_SUM,        /* accumulator 0 of each use on this place */
    MLC_OPERAND_WAITING,    /* of each use the sums that its group completes, the last one first */
    MLC_OPERAND_KEPT,       /* at FOLD: where the sum waits until its sibling is complete */
    MLC_OPERAND_GRADIENT,   /* accumulator 0 of the first use */
    MLC_OPERAND_FURTHER,    /* of each use behind it, in chain order */
    MLC_OPERAND_MASTER,
    MLC_OPERAND_COPY,       /* bf16, where there is one */
    MLC_OPERAND_STATE,      /* each */
    MLC_OPERAND_NEW_MASTER, /* results of an update that runs over the whole */
    MLC_OPERAND_NEW_STATE,
    MLC_OPERAND_SCALE,      /* slots of the record */
    MLC_OPERAND_CLIP,
    MLC_OPERAND_MEAN,
    MLC_OPERAND_LIMIT,
    MLC_OPERAND_SHARE,
    MLC_OPERAND_HELD,
    MLC_OPERAND_VALUE,      /* of each microbatch, chunk by chunk: each number that it left for a column */
    MLC_OPERAND_WEIGHT,     /* its weight, for each of these */
    MLC_OPERAND_NUMBER,     /* its number in the step */
    MLC_OPERAND_STATISTICS, /* what the list finds: mlc_role.results */
    MLC_OPERAND_SQUARES,
    MLC_OPERAND_NORM,
    MLC_OPERAND_FLAW,
    MLC_OPERAND_END,
};

#define MLC_SWEEP_OPERANDS 5 /* that a kernel has at most */

typedef struct mlc_sweep_call {
    const char *kernel;
    mlc_flat_function run; /* NULL: the update of the piece, the initial value of the held parameter, on operands of its own */
    int32_t operands[5]; /* MLC_SWEEP_OPERANDS */
} mlc_sweep_call;

typedef struct mlc_sweep {
    int32_t at;
    int32_t over;
    int32_t only;
    int32_t range;
    int32_t gated; /* 1: does nothing where the record is `held` */
    const mlc_sweep_call *calls;
    int32_t call_count;
} mlc_sweep;

/* What the ranks of one place have in common. */
typedef struct mlc_role {
    uint64_t arena_bytes;        /* the inbox, then the private part */
    uint64_t inbox_bytes;        /* a multiple of 4096: the inbox lies at 0, and so where senders of any place expect it */
    uint64_t record;             /* offset of the mlc_record */
    uint64_t microbatches;       /* offset of an int64 for each microbatch of the longest list */
    uint64_t results;            /* offset of what a list finds (src/model/results.h) */
    int32_t levels;              /* accumulators a use: how many group sums are held at once */
    const mlc_chunk *chunks[MLC_CHAINS];
    int32_t chunk_count;         /* of every chain alike */
    const mlc_held *held;        /* in order of parameter */
    int32_t held_count;
    const mlc_own *owned;        /* in order of parameter */
    int32_t owned_count;
    mlc_area states;             /* each replica lays out the states of its pieces there, in order, each on 64 bytes */
    mlc_area work;               /* the same of results and work memory of its whole updates */
    mlc_area guests;             /* sums of a chunk that are kept for an absent replica (mlc_mesh.h) */
} mlc_role;

/* A number of the file that was fixed at compile time, and what it was: `heads: int = 12`. bool: 0 or 1. */
typedef struct mlc_constant {
    const char *name;
    double value;
} mlc_constant;

typedef struct mlc_model {
    int32_t abi_version;
    const char *name;
    const char *hash;            /* hex: names, shapes, dtypes, recipe, batch, M, G; what a checkpoint must match */
    const char *description;     /* the items behind `hash`, one a line, "item=value": names what differs */
    mlc_mesh mesh;
    int32_t stages;
    const mlc_role *roles;       /* [pp] */
    const mlc_schedule *schedule;
    const mlc_sweep *sweeps;     /* those of one action in the order in which they run */
    int32_t sweep_count;
    uint64_t scratch_bytes_per_thread;
    int32_t operands;            /* the most that a row has */
    const mlc_parameter *parameters;
    int32_t parameter_count;
    const mlc_arranged *arranged; /* [parameter_count]; NULL: all are canonical */
    const mlc_input *inputs;     /* tensor.at is MLC_NONE */
    int32_t input_count;
    const mlc_domain *domains;   /* in order of input; of inputs without a limit */
    int32_t domain_count;
    const mlc_scalar *scalars;   /* [0] step, [1] steps */
    int32_t scalar_count;
    void (*set_scalars)(void *scalars);  /* of a record: computes the curves from step, steps and the options */
    int32_t rate;                /* index of the scalar that metrics print as the rate, -1 when there is none */
    mlc_chain chains[MLC_CHAINS];
    int32_t samples;             /* 0: the model cannot sample, its third chain is empty */
    int32_t time;                /* index of the scalar that holds the time which the fourth chain computes; 0: that chain is empty */
    int32_t microbatches;        /* M, over all replicas */
    int32_t groups;              /* G, over all replicas */
    double clip;                 /* largest global gradient norm; 0: none */
    double flops;                /* of one microbatch, forward and backward, recomputation apart */
    double recomputed_flops;     /* of one microbatch, beside them */
    int64_t batch;               /* rows of a microbatch */
    int64_t tokens;              /* elements of the first input in a microbatch when it is i32 [batch, context], else batch */
    const char *compiler;        /* version of mlc; NULL: not known */
    const mlc_constant *constants; /* of the file, in its order */
    int32_t constant_count;
    int32_t wide;                /* enum mlc_dtype, MLC_F32 or MLC_F64: of masters, gradients, states, scalars, losses and weights */
} mlc_model;

#endif
