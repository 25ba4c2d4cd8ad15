/* tables.c: see tables.h. */
#include "model/tables.h"

#include "system/numbers.h"

#include <stdlib.h>

#define LINE_WORDS 8 /* of a cache line */

/* ---- uses ---- */

static int refuse_use(const mlc_model *model, int place, const mlc_use *use, mlc_error *error)
{
    return mlc_error_set(error, MLC_BAD_INPUT, "model %s: place %d: use %d of parameter %d is not sane", model->name, place, use->index, use->parameter);
}

static int place_uses(const mlc_model *model, mlc_tables *tables, int place, const mlc_chunk *chunk, mlc_error *error)
{
    for (int u = 0; u < chunk->use_count; u++) {
        const mlc_use *use = &chunk->uses[u];
        bool known = use->parameter >= 0 && use->parameter < model->parameter_count && use->index >= 0 && use->index < model->parameters[use->parameter].uses;
        if (!known)
            return refuse_use(model, place, use, error);
        tables->uses[tables->first_use[use->parameter] + use->index] = (mlc_placed_use){use, place, chunk->stage};
        tables->shared[use->parameter] |= place != model->parameters[use->parameter].owner;
    }
    return MLC_OK;
}

/* The tables of other places are looked at for their uses alone: as many as the model's parameters have. */
static int open_uses(mlc_rank *rank, mlc_error *error)
{
    const mlc_model *model = rank->model;
    mlc_tables *tables = rank->tables;
    for (int p = 0; p < model->parameter_count; p++)
        tables->first_use[p + 1] = tables->first_use[p] + model->parameters[p].uses;
    int count = tables->first_use[model->parameter_count];
    tables->uses = calloc((size_t)count + 1, sizeof *tables->uses);
    if (!tables->uses)
        return mlc_error_set(error, MLC_FAILED, "rank: out of memory");
    for (int place = 0; place < model->mesh.size[MLC_PP]; place++)
        for (int c = 0; c < model->roles[place].chunk_count; c++)
            if (place_uses(model, tables, place, &model->roles[place].chunks[MLC_TRAIN][c], error))
                return error->status;
    for (int u = 0; u < count; u++)
        if (!tables->uses[u].use)
            return mlc_error_set(error, MLC_BAD_INPUT, "model %s: use %d of its parameters is on no place", model->name, u);
    return MLC_OK;
}

/* ---- the rest ---- */

static void open_links(mlc_rank *rank)
{
    for (int i = 0; i < rank->world.link_count; i++) {
        mlc_link *link = &rank->world.links[i];
        if (link->channel->kind != MLC_TREE && link->channel->from != link->channel->to)
            rank->tables->links[link->number] = link;
    }
}

static void open_tree(mlc_rank *rank)
{
    const mlc_model *model = rank->model;
    mlc_tables *tables = rank->tables;
    int replicas = model->mesh.size[MLC_DP];
    mlc_tree roots = tables->before_last = mlc_tree_before_last(model->groups, replicas, rank->replica);
    tables->merges = mlc_tree_push(&roots, mlc_tree_share(model->groups, replicas, rank->replica + 1));
}

/* Each worker's words lie on cache lines of their own. */
static bool open_words(mlc_rank *rank)
{
    size_t bases = ((size_t)rank->program->region_count / LINE_WORDS + 1) * LINE_WORDS;
    size_t operands = ((size_t)rank->model->operands / LINE_WORDS + 1) * LINE_WORDS;
    int threads = rank->team->threads;
    rank->tables->words = aligned_alloc(64, (size_t)threads * (bases + operands) * sizeof(uint64_t));
    for (int i = 0; rank->tables->words && i < threads; i++) {
        rank->team->workers[i].bases = rank->tables->words + (size_t)i * (bases + operands);
        rank->team->workers[i].operands = rank->team->workers[i].bases + bases;
    }
    return rank->tables->words != NULL;
}

static bool open_statistics(mlc_rank *rank)
{
    const mlc_model *model = rank->model;
    int64_t columns = 0;
    for (int chain = 0; chain < MLC_CHAINS; chain++)
        columns = larger(columns, model->chains[chain].column_count);
    size_t most = (size_t)columns + 1 + MLC_TALLY_METRICS;
    rank->tables->totals = calloc(most, sizeof *rank->tables->totals);
    rank->metrics = calloc((size_t)columns + 1, sizeof(double));
    return rank->tables->totals && rank->metrics;
}

static bool open_arrays(mlc_rank *rank)
{
    const mlc_model *model = rank->model;
    mlc_tables *tables = rank->tables;
    size_t parameters = (size_t)model->parameter_count + 1;
    tables->held = calloc(parameters, sizeof *tables->held);
    tables->first_use = calloc(parameters, sizeof *tables->first_use);
    tables->shared = calloc(parameters, sizeof *tables->shared);
    tables->links = calloc((size_t)model->schedule->channel_count + 1, sizeof *tables->links);
    rank->scalars = calloc((size_t)model->scalar_count + 1, sizeof *rank->scalars);
    return tables->held && tables->first_use && tables->shared && tables->links && rank->scalars;
}

int mlc_tables_open(mlc_rank *rank, mlc_error *error)
{
    const mlc_model *model = rank->model;
    rank->tables = calloc(1, sizeof *rank->tables);
    if (!rank->tables || !open_arrays(rank) || !open_words(rank) || !open_statistics(rank))
        return mlc_error_set(error, MLC_FAILED, "rank: out of memory");
    for (int i = 0; i < rank->role->held_count; i++)
        rank->tables->held[rank->role->held[i].parameter] = &rank->role->held[i];
    for (int i = 0; i < model->scalar_count; i++)
        rank->scalars[i] = model->scalars[i].value;
    open_links(rank);
    open_tree(rank);
    return open_uses(rank, error);
}

void mlc_tables_close(mlc_rank *rank)
{
    mlc_tables *tables = rank->tables;
    if (!tables)
        return;
    free(tables->held);
    free(tables->uses);
    free(tables->first_use);
    free(tables->shared);
    free(tables->links);
    free(tables->words);
    free(tables->totals);
    free(tables);
    free(rank->metrics);
    free(rank->scalars);
    rank->tables = NULL;
}
