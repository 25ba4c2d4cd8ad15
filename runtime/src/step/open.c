/* open.c: see open.h. */
#include "step/open.h"

#include "model/arranged.h"
#include "model/tables.h"
#include "step/collective.h"
#include "step/executor.h"
#include "step/wire.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_STEPS 1000

static int64_t elements_of(const mlc_parameter *parameter)
{
    int64_t elements = 1;
    for (int d = 0; d < parameter->rank; d++)
        elements *= parameter->shape[d];
    return elements;
}

static double gradient_bytes(const mlc_rank *rank)
{
    const mlc_role *role = rank->role;
    double bytes = 0;
    for (int c = 0; c < role->chunk_count; c++) {
        const mlc_chunk *chunk = &role->chunks[MLC_TRAIN][c];
        for (int i = 0; i < chunk->use_count; i++)
            bytes += (double)role->levels * (double)elements_of(&rank->model->parameters[chunk->uses[i].parameter]);
    }
    return bytes * (double)mlc_wide_bytes(rank->model);
}

/* What the memory of a rank is for, in words. */
static void describe_parts(const mlc_rank *rank, char *text, size_t bytes)
{
    const mlc_role *role = rank->role;
    const mlc_parameter *largest = NULL;
    double parameters = 0, gradients = gradient_bytes(rank), lasting = (double)role->states.bytes;
    for (int i = 0; i < role->held_count; i++) {
        const mlc_parameter *parameter = &rank->model->parameters[role->held[i].parameter];
        size_t each = mlc_wide_bytes(rank->model) + (role->held[i].copy == MLC_NONE ? 0 : sizeof(uint16_t));
        parameters += (double)elements_of(parameter) * (double)each;
        if (!largest || elements_of(parameter) > elements_of(largest))
            largest = parameter;
    }
    lasting += parameters + gradients;
    snprintf(text, bytes, "%.1f MiB for parameters (%s is the largest), %.1f for gradients, %.1f for states, %.1f for messages and the values of "
             "microbatches; plan.json has all", parameters / 0x1p20, largest ? largest->name : "none", gradients / 0x1p20,
             (double)role->states.bytes / 0x1p20, ((double)role->arena_bytes - lasting) / 0x1p20);
}

static int open_memory(mlc_rank *rank, int threads, int number, int inbox_fd, mlc_error *error)
{
    const mlc_role *role = rank->role;
    char parts[320];
    describe_parts(rank, parts, sizeof parts);
    if (mlc_arena_open(&rank->arena, role->arena_bytes, rank->model->scratch_bytes_per_thread, threads, number, parts, error))
        return error->status;
    if (inbox_fd >= 0 && mlc_arena_map_inbox(&rank->arena, role->inbox_bytes, inbox_fd, error))
        return error->status;
    size_t record_bytes = sizeof *rank->record + (size_t)rank->model->scalar_count * mlc_wide_bytes(rank->model);
    rank->record = mlc_memory_stage(&rank->arena, role->record, record_bytes);
    if (!rank->record)
        return mlc_error_set(error, MLC_FAILED, "rank: out of memory");
    return mlc_team_open(&rank->team, threads, &rank->arena, rank->record, error);
}

/* The first error of opening is the rank's too. */
static int open_parts(mlc_rank *rank, int threads, int number, int inbox_fd)
{
    mlc_error *error = &rank->error;
    if (mlc_catalog_open(&rank->catalog, rank->model, error) ||
        mlc_shard_open(&rank->shard, &rank->catalog.owners, rank->place, rank->replica, error) || open_memory(rank, threads, number, inbox_fd, error) ||
        mlc_world_open(&rank->world, rank->model, rank->rank, &rank->arena, error) || mlc_tables_open(rank, error))
        return error->status;
    return mlc_collective_open(rank, error);
}

mlc_rank *mlc_rank_open(const mlc_model *model, int own, const mlc_open_options *options, int number, int inbox_fd, mlc_error *error)
{
    mlc_open_options chosen = options ? *options : (mlc_open_options){0};
    if (chosen.threads < 0 || chosen.threads > MLC_MAX_THREADS || chosen.steps < 0) {
        mlc_error_set(error, MLC_USAGE, "threads must be 1 to %d, steps at least 1", MLC_MAX_THREADS);
        return NULL;
    }
    if (mlc_executor_check_model(model, error) || mlc_executor_check_place(model, mlc_mesh_place(&model->mesh, own), error))
        return NULL;
    mlc_rank *rank = calloc(1, sizeof *rank);
    if (!rank) {
        mlc_error_set(error, MLC_FAILED, "rank: out of memory");
        return NULL;
    }
    rank->model = model;
    rank->rank = own;
    rank->place = mlc_mesh_place(&model->mesh, own);
    rank->replica = mlc_mesh_replica(&model->mesh, own);
    rank->role = &model->roles[rank->place];
    rank->program = &model->schedule->places[rank->place];
    rank->seed = chosen.seed;
    rank->steps = chosen.steps ? chosen.steps : DEFAULT_STEPS;
    if (open_parts(rank, chosen.threads ? chosen.threads : mlc_cpu_count(), number, inbox_fd)) {
        mlc_error_set(error, rank->error.status, "%s", rank->error.text);
        mlc_rank_close(rank);
        return NULL;
    }
    return rank;
}

void mlc_rank_close(mlc_rank *rank)
{
    if (!rank)
        return;
    mlc_wire_close(rank);
    mlc_collective_close(rank);
    mlc_tables_close(rank);
    mlc_world_close(&rank->world);
    mlc_team_close(rank->team);
    mlc_arena_close(&rank->arena);
    mlc_shard_close(&rank->shard);
    mlc_catalog_close(&rank->catalog);
    mlc_home_close(&rank->home);
    free(rank->identity);
    free(rank);
}

/* Ranks that share CPUs do not spin at barriers either. */
static void settle_spins(mlc_rank *rank)
{
    if (rank->world.transport && rank->world.spins < atomic_load(&rank->team->spins))
        atomic_store(&rank->team->spins, rank->world.spins);
}

void mlc_rank_initialize(mlc_rank *rank)
{
    settle_spins(rank);
    for (int i = 0; i < rank->shard.count; i++) {
        const mlc_piece *piece = &rank->shard.pieces[i];
        const mlc_parameter *parameter = &rank->model->parameters[piece->parameter];
        for (int s = 0; s < parameter->state_count; s++) {
            const mlc_arrangement *arranged = mlc_arranged_state(rank->model, piece->parameter, s);
            int64_t elements = mlc_arranged_elements(arranged, mlc_rank_state_elements(rank->model, piece, s));
            mlc_memory_clear(&rank->arena, piece->states[s], (size_t)elements * mlc_wide_bytes(rank->model));
        }
    }
    mlc_executor_initialize(rank);
}
