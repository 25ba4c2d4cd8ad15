/* stored.h: models that only store: parameters, shards and the tree of ranks, for any number of places and replicas; one rank of
 * them, or all as threads of this process. For tests of what is read and written. */
#ifndef MLC_STORED_H
#define MLC_STORED_H

#include "check.h"
#include "data/order.h"
#include "model/rank.h"
#include "step/open.h"
#include "sweeps.h"
#include "transports.h"

#include <pthread.h>

enum { STORED_PARAMETERS = 8, STORED_RANKS = 12, TREE_SLOT = 1024, TREE_BYTES = 16384, PIECE_BLOCK = 1024 };

/* A parameter and its states; `whole`: its rule is not elementwise. */
typedef struct stored_kind {
    const char *name;
    int rank;
    const int64_t *shape;
    mlc_tensor states[2];
    int state_count;
    bool whole;
} stored_kind;

/* The least that is a step: its end. */
enum { STORED_ACTIONS = 4 };
static const mlc_action STORED_STEP[STORED_ACTIONS] = {{MLC_STATISTICS, 0, 0}, {MLC_NORM, 0, 0}, {MLC_UPDATE, 0, 0}, {MLC_VERDICT, 0, 0}};

/* All tables of one layout. */
typedef struct stored {
    mlc_model model; /* first: stored_of */
    const stored_kind *kinds;
    mlc_parameter parameters[STORED_PARAMETERS];
    mlc_held held[STORED_RANKS][STORED_PARAMETERS];                /* by place */
    mlc_own owned[STORED_RANKS][STORED_PARAMETERS];                /* by place */
    mlc_role roles[STORED_RANKS];
    mlc_program programs[STORED_RANKS];
    mlc_region arena;
    mlc_channel tree;
    mlc_schedule schedule;
} stored;

static inline const stored *stored_of(const mlc_rank *rank)
{
    return (const stored *)rank->model;
}

static inline uint64_t stored_place_bytes(uint64_t *top, uint64_t bytes)
{
    uint64_t at = *top;
    *top += (bytes + 63) / 64 * 64;
    return at;
}

/* Models that only store update nothing. Room for all states, of which a replica has its own. */
static inline void stored_own(stored *all, int place)
{
    mlc_role *role = &all->roles[place];
    uint64_t states = 0;
    for (int p = 0; p < all->model.parameter_count; p++) {
        const mlc_parameter *parameter = &all->parameters[p];
        bool whole = all->kinds[p].whole;
        if (parameter->owner != place)
            continue;
        for (int s = 0; s < parameter->state_count; s++)
            states += ((uint64_t)mlc_tensor_elements(&parameter->states[s]) * sizeof(float) + 63) / 64 * 64;
        all->owned[place][role->owned_count++] = (mlc_own){.parameter = p, .sharing = whole ? MLC_WHOLE : MLC_STILL};
    }
    role->states = (mlc_area){stored_place_bytes(&role->arena_bytes, states), states};
}

/* The first parameter is held by the last place too; bf16: masters are valid in the own pieces alone when dp > 1. */
static inline void stored_fill_role(stored *all, int place, bool bf16)
{
    mlc_role *role = &all->roles[place];
    *role = (mlc_role){.arena_bytes = TREE_BYTES, .inbox_bytes = TREE_BYTES, .levels = 1, .held = all->held[place],
                       .owned = all->owned[place]};
    role->record = stored_place_bytes(&role->arena_bytes, 256);
    role->results = stored_place_bytes(&role->arena_bytes, 304 + 3 * 288);
    for (int p = 0; p < all->model.parameter_count; p++) {
        const mlc_parameter *parameter = &all->parameters[p];
        if (parameter->owner != place && !(p == 0 && place == all->model.mesh.size[MLC_PP] - 1))
            continue;
        uint64_t bytes = (uint64_t)mlc_parameter_elements(parameter) * sizeof(float);
        uint64_t master = stored_place_bytes(&role->arena_bytes, bytes);
        all->held[place][role->held_count++] = (mlc_held){.parameter = p, .master = master, .copy = bf16 ? master : MLC_NONE};
    }
    stored_own(all, place);
    all->arena = (mlc_region){"arena", 0, 0, 1};
    all->programs[place] = (mlc_program){.regions = &all->arena, .region_count = 1, .lists[MLC_TRAIN] = {STORED_STEP, STORED_ACTIONS}};
}

static inline stored *stored_make(const stored_kind *kinds, int count, int pp, int dp, bool bf16)
{
    stored *all = calloc(1, sizeof *all);
    CHECK(all && pp * dp <= STORED_RANKS && count <= STORED_PARAMETERS);
    all->kinds = kinds;
    all->tree = (mlc_channel){.name = "tree", .kind = MLC_TREE, .chain = -1, .from = -1, .to = -1, .slot_bytes = TREE_SLOT, .slots = 2,
                              .outbox_slots = 2, .inbox = 1024, .headers = 0, .outbox = 8192};
    all->schedule = (mlc_schedule){.places = all->programs, .channels = &all->tree, .channel_count = 1, .rounds = {1, 1, 1}};
    all->model = (mlc_model){.abi_version = MLC_ABI_VERSION, .name = "stored", .hash = "57", .description = "a=1\n", .mesh = MLC_MESH(pp, dp),
                             .stages = pp, .roles = all->roles, .schedule = &all->schedule, .scratch_bytes_per_thread = 64,
                             .parameters = all->parameters, .parameter_count = count, .microbatches = dp, .groups = dp, .batch = 1};
    sweeps_set(&all->model);
    for (int p = 0; p < count; p++)
        all->parameters[p] = (mlc_parameter){.name = kinds[p].name, .rank = kinds[p].rank, .shape = kinds[p].shape, .fed = 2,
                                             .owner = p * pp / count, .states = kinds[p].states, .state_count = kinds[p].state_count};
    for (int place = 0; place < pp; place++)
        stored_fill_role(all, place, bf16);
    return all;
}

/* ---- values: a function of tensor and element ---- */

static inline float stored_value(int parameter, int state, int64_t element, uint64_t salt)
{
    uint64_t bits = mlc_order_mix(salt * 131 + (uint64_t)(parameter * 7 + state + 1) * 0x100000000 + (uint64_t)element);
    return (float)(int32_t)(bits >> 40);
}

static inline float *stored_floats(const mlc_rank *rank, uint64_t at)
{
    return mlc_rank_at(rank, at);
}

/* Elements of a state that a piece has. */
static inline int64_t stored_state_elements(const mlc_rank *rank, const mlc_piece *piece, int state)
{
    const mlc_tensor *whole = &rank->model->parameters[piece->parameter].states[state];
    return stored_of(rank)->kinds[piece->parameter].whole ? mlc_tensor_elements(whole) : piece->end - piece->begin;
}

/* Where a master is valid it holds its values; elsewhere something else. */
static inline void stored_set(mlc_rank *rank, uint64_t salt)
{
    for (int h = 0; h < rank->role->held_count; h++) {
        const mlc_held *held = &rank->role->held[h];
        int64_t elements = mlc_parameter_elements(&rank->model->parameters[held->parameter]);
        bool valid = held->copy == MLC_NONE || (rank->model->mesh.size[MLC_DP] == 1 && rank->model->parameters[held->parameter].owner == rank->place);
        for (int64_t i = 0; i < elements; i++)
            stored_floats(rank, held->master)[i] = valid ? stored_value(held->parameter, -1, i, salt) : (float)(-1 - rank->rank);
    }
    for (int i = 0; i < rank->shard.count; i++) {
        const mlc_piece *piece = &rank->shard.pieces[i];
        float *master = stored_floats(rank, mlc_rank_held(rank, piece->parameter)->master);
        for (int64_t e = piece->begin; e < piece->end; e++)
            master[e] = stored_value(piece->parameter, -1, e, salt);
        int64_t first = stored_of(rank)->kinds[piece->parameter].whole ? 0 : piece->begin;
        for (int s = 0; s < rank->model->parameters[piece->parameter].state_count; s++)
            for (int64_t e = 0; e < stored_state_elements(rank, piece, s); e++)
                stored_floats(rank, piece->states[s])[e] = stored_value(piece->parameter, s, first + e, salt);
    }
}

/* Masters whole at every holder. */
static inline void stored_expect_masters(const mlc_rank *rank, uint64_t salt)
{
    for (int h = 0; h < rank->role->held_count; h++) {
        const mlc_held *held = &rank->role->held[h];
        int64_t elements = mlc_parameter_elements(&rank->model->parameters[held->parameter]);
        for (int64_t i = 0; i < elements; i++)
            CHECK(stored_floats(rank, held->master)[i] == stored_value(held->parameter, -1, i, salt));
    }
}

/* And states in the own pieces. */
static inline void stored_expect(const mlc_rank *rank, uint64_t salt)
{
    stored_expect_masters(rank, salt);
    for (int i = 0; i < rank->shard.count; i++) {
        const mlc_piece *piece = &rank->shard.pieces[i];
        int64_t first = stored_of(rank)->kinds[piece->parameter].whole ? 0 : piece->begin;
        for (int s = 0; s < rank->model->parameters[piece->parameter].state_count; s++)
            for (int64_t e = 0; e < stored_state_elements(rank, piece, s); e++)
                CHECK(stored_floats(rank, piece->states[s])[e] == stored_value(piece->parameter, s, first + e, salt));
    }
}

/* ---- one rank ---- */

/* With `threads` threads; its model is freed with it. */
static inline mlc_rank *stored_open(stored *all, int number, int threads)
{
    mlc_error error = {0};
    mlc_rank *rank = mlc_rank_open(&all->model, number, &(mlc_open_options){.threads = threads}, 0, -1, &error);
    if (!rank)
        fprintf(stderr, "%s\n", error.text);
    CHECK(rank);
    return rank;
}

static inline mlc_rank *stored_alone(const stored_kind *kinds, int count, int threads)
{
    return stored_open(stored_make(kinds, count, 1, 1, false), 0, threads);
}

static inline void stored_close(mlc_rank *rank)
{
    const mlc_model *model = rank->model;
    mlc_rank_close(rank);
    free((void *)(uintptr_t)model);
}

/* ---- all ranks, as threads ---- */

typedef struct stored_seat {
    stored *all;
    mlc_hub *hub;
    int number;
    int threads;
    void (*run)(mlc_rank *rank, void *context);
    void *context;
    pthread_barrier_t *together;
} stored_seat;

static inline void *stored_start(void *context)
{
    const stored_seat *seat = context;
    mlc_error error = {0};
    mlc_rank *rank = stored_open(seat->all, seat->number, seat->threads);
    mlc_hub_attach(seat->hub, &rank->world);
    CHECK(!rank->world.transport->open(&rank->world, &error));
    seat->run(rank, seat->context);
    pthread_barrier_wait(seat->together);
    rank->world.transport->close(&rank->world);
    pthread_barrier_wait(seat->together); /* others write into this arena until then */
    mlc_rank_close(rank);
    return NULL;
}

/* Opens all ranks of a layout, runs `run` on each, closes them. Frees the tables. */
static inline void stored_run(stored *all, int threads, void (*run)(mlc_rank *rank, void *context), void *context)
{
    mlc_error error = {0};
    pthread_barrier_t together;
    pthread_t handles[STORED_RANKS];
    stored_seat seats[STORED_RANKS];
    mlc_hub *hub;
    int ranks = mlc_mesh_ranks(&all->model.mesh);
    CHECK(!mlc_hub_open(&hub, ranks, &error) && !pthread_barrier_init(&together, NULL, (unsigned)ranks));
    for (int i = 0; i < ranks; i++) {
        seats[i] = (stored_seat){all, hub, i, threads, run, context, &together};
        CHECK(!pthread_create(&handles[i], NULL, stored_start, &seats[i]));
    }
    for (int i = 0; i < ranks; i++)
        CHECK(!pthread_join(handles[i], NULL));
    mlc_hub_close(hub);
    pthread_barrier_destroy(&together);
    free(all);
}

#endif
