/* catalog.c: see catalog.h. */
#include "model/catalog.h"

#include "model/rank.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- names ---- */

static mlc_tensor master_of(const mlc_parameter *parameter)
{
    return (mlc_tensor){.name = parameter->name, .rank = parameter->rank, .shape = parameter->shape, .at = MLC_NONE};
}

/* Is the leading dim of this tensor of the parameter counted out over the '*' of its name? */
static bool is_counted(const mlc_parameter *parameter, const mlc_tensor *tensor)
{
    return strchr(parameter->name, '*') && parameter->rank > 0 && tensor->rank > 0 && tensor->shape[0] == parameter->shape[0];
}

static int64_t slices_of(const mlc_parameter *parameter, const mlc_tensor *tensor)
{
    return is_counted(parameter, tensor) ? tensor->shape[0] : 1;
}

/* The name of slice `index` (-1: of the whole tensor), allocated. */
static char *entry_name(const mlc_parameter *parameter, const char *state, int64_t index)
{
    const char *name = parameter->name, *star = index >= 0 ? strchr(name, '*') : NULL;
    size_t size = strlen(name) + (state ? strlen(state) : 0) + 24;
    char *text = malloc(size);
    if (text && star)
        snprintf(text, size, "%.*s%lld%s%s%s", (int)(star - name), name, (long long)index, star + 1, state ? "/" : "", state ? state : "");
    else if (text)
        snprintf(text, size, "%s%s%s", name, state ? "/" : "", state ? state : "");
    return text;
}

/* The tensor that entries are made of. */
typedef struct source {
    const mlc_parameter *parameter;
    mlc_tensor tensor;
    int number; /* of the parameter */
    int state;  /* -1: the master */
} source;

static bool add_entry(mlc_entries *entries, const source *from, int64_t slice, mlc_entry entry)
{
    entry.name = entry_name(from->parameter, from->state < 0 ? NULL : from->tensor.name, slice);
    entry.parameter = from->number;
    entry.state = from->state;
    entry.elements = mlc_elements(entry.shape, entry.rank);
    entry.first = slice < 0 ? 0 : slice * entry.elements;
    entries->items[entries->count++] = entry;
    return entry.name != NULL;
}

static bool add_whole(mlc_entries *entries, const source *from)
{
    return add_entry(entries, from, -1, (mlc_entry){.shape = from->tensor.shape, .rank = from->tensor.rank});
}

static bool add_slices(mlc_entries *entries, const source *from)
{
    const mlc_tensor *tensor = &from->tensor;
    if (!is_counted(from->parameter, tensor))
        return add_whole(entries, from);
    bool whole = true;
    for (int64_t i = 0; i < tensor->shape[0]; i++)
        whole &= add_entry(entries, from, i, (mlc_entry){.shape = tensor->shape + 1, .rank = tensor->rank - 1});
    return whole;
}

static bool add_parameter(mlc_catalog *catalog, const mlc_parameter *parameter, int number)
{
    source from = {parameter, master_of(parameter), number, -1};
    bool whole = add_slices(&catalog->parameters, &from);
    whole &= add_whole(&catalog->whole, &from);
    for (int s = 0; s < parameter->state_count; s++) {
        from = (source){parameter, parameter->states[s], number, s};
        whole &= add_slices(&catalog->states, &from);
        whole &= add_whole(&catalog->whole, &from);
    }
    return whole;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const mlc_entry *)a)->name, ((const mlc_entry *)b)->name);
}

/* ---- owners ---- */

/* The piece of a parameter in a rank's shard, NULL when it has none. */
static const mlc_piece *piece_of(const mlc_rank *rank, int parameter)
{
    int low = 0, high = rank->shard.count; /* the last piece of this parameter or one before it is below `high` */
    while (low < high) {
        int middle = low + (high - low) / 2;
        bool before = rank->shard.pieces[middle].parameter <= parameter;
        low = before ? middle + 1 : low;
        high = before ? high : middle;
    }
    const mlc_piece *piece = low ? &rank->shard.pieces[low - 1] : NULL;
    return piece && piece->parameter == parameter ? piece : NULL;
}

/* Are elements of a master or state those of the parameter? Of a rule that is not elementwise a state may have another shape. */
static bool is_alike(const mlc_parameter *parameter, int state)
{
    return state < 0 || mlc_tensor_elements(&parameter->states[state]) == mlc_parameter_elements(parameter);
}

/* Where a rank has elements of a master, or, in its piece, of a state. */
static mlc_lying lying_of(const mlc_rank *rank, int parameter, int state, const mlc_piece *piece)
{
    const mlc_model *model = rank->model;
    int64_t unit = (int64_t)mlc_wide_bytes(model);
    if (state < 0)
        return (mlc_lying){mlc_rank_held(rank, parameter)->master, unit, mlc_arranged_master(model, parameter)};
    int64_t begin = is_alike(&model->parameters[parameter], state) ? piece->begin : 0;
    return (mlc_lying){piece->states[state] - (uint64_t)(begin * unit), unit, mlc_arranged_state(model, parameter, state)};
}

static mlc_owned own_run(const mlc_rank *rank, int parameter, int state)
{
    const mlc_parameter *p = &rank->model->parameters[parameter];
    const mlc_piece *piece = piece_of(rank, parameter);
    if (!piece)
        return (mlc_owned){.rank = rank->rank};
    bool alike = is_alike(p, state);
    int64_t end = alike ? piece->end : mlc_tensor_elements(&p->states[state]);
    return (mlc_owned){alike ? piece->begin : 0, end, rank->rank, lying_of(rank, parameter, state, piece), 0};
}

/* What lies in [begin, end) of a run. */
static mlc_owned clipped(mlc_owned run, int64_t begin, int64_t end)
{
    int64_t low = run.begin > begin ? run.begin : begin, high = run.end < end ? run.end : end;
    return (mlc_owned){low, high > low ? high : low, run.rank, run.lies, run.first};
}

mlc_owned mlc_owned_at(const mlc_rank *rank, int parameter, int state, int64_t element)
{
    const mlc_parameter *p = &rank->model->parameters[parameter];
    bool alike = is_alike(p, state);
    int64_t end;
    mlc_coordinate at = {.at = {[MLC_PP] = p->owner}};
    at.at[MLC_DP] = mlc_owners_replica(&rank->catalog.owners, parameter, alike ? element : 0, &end);
    mlc_owned owned = {.begin = element, .end = alike ? end : mlc_tensor_elements(&p->states[state]), .rank = mlc_mesh_rank(&rank->model->mesh, &at)};
    return owned.rank == rank->rank ? clipped(own_run(rank, parameter, state), element, owned.end) : owned;
}

/* The same run, whose elements count from that of an entry on. */
static mlc_owned counted(mlc_owned run, int64_t first)
{
    return (mlc_owned){run.begin - first, run.end - first, run.rank, run.lies, first};
}

mlc_owned mlc_entry_owned(const mlc_rank *rank, const mlc_entry *entry, int64_t element)
{
    mlc_owned owned = mlc_owned_at(rank, entry->parameter, entry->state, entry->first + element);
    int64_t last = entry->first + entry->elements;
    owned.end = owned.end < last ? owned.end : last;
    return counted(owned, entry->first);
}

mlc_owned mlc_entry_own(const mlc_rank *rank, const mlc_entry *entry)
{
    mlc_owned run = clipped(own_run(rank, entry->parameter, entry->state), entry->first, entry->first + entry->elements);
    return counted(run, entry->first);
}

const char *mlc_owned_look(const mlc_rank *rank, const mlc_owned *owned, int64_t begin, int64_t *count, mlc_strip *strip)
{
    return mlc_lying_look(&rank->arena, &owned->lies, owned->first + begin, owned->first + owned->end, count, strip);
}

/* ---- opening and closing ---- */

static bool allocate(mlc_catalog *catalog, const mlc_model *model)
{
    int64_t parameters = 1, states = 1, whole = 1;
    for (int p = 0; p < model->parameter_count; p++) {
        const mlc_parameter *parameter = &model->parameters[p];
        mlc_tensor master = master_of(parameter);
        parameters += slices_of(parameter, &master);
        for (int s = 0; s < parameter->state_count; s++)
            states += slices_of(parameter, &parameter->states[s]);
        whole += 1 + parameter->state_count;
    }
    catalog->parameters.items = calloc((size_t)parameters, sizeof(mlc_entry));
    catalog->states.items = calloc((size_t)states, sizeof(mlc_entry));
    catalog->whole.items = calloc((size_t)whole, sizeof(mlc_entry));
    catalog->parameters.dtype = catalog->states.dtype = catalog->whole.dtype = mlc_dtype_wide(model);
    return catalog->parameters.items && catalog->states.items && catalog->whole.items;
}

int mlc_catalog_open(mlc_catalog *catalog, const mlc_model *model, mlc_error *error)
{
    *catalog = (mlc_catalog){0};
    bool whole = allocate(catalog, model);
    for (int p = 0; whole && p < model->parameter_count; p++)
        whole = add_parameter(catalog, &model->parameters[p], p);
    if (!whole)
        return mlc_error_set(error, MLC_FAILED, "catalog: out of memory");
    qsort(catalog->whole.items, (size_t)catalog->whole.count, sizeof(mlc_entry), by_name);
    return mlc_owners_open(&catalog->owners, model, error);
}

static void entries_free(mlc_entries *entries)
{
    for (int64_t i = 0; i < entries->count; i++)
        free(entries->items[i].name);
    free(entries->items);
}

void mlc_catalog_close(mlc_catalog *catalog)
{
    entries_free(&catalog->parameters);
    entries_free(&catalog->states);
    entries_free(&catalog->whole);
    mlc_owners_close(&catalog->owners);
    *catalog = (mlc_catalog){0};
}
