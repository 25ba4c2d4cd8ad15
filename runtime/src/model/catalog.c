/* catalog.c: see catalog.h. */
#include "model/catalog.h"

#include "model/rank.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- names ---- */

static mlc_tensor master_of(const mlc_parameter *parameter)
{
    return (mlc_tensor){parameter->name, MLC_F32, parameter->rank, parameter->shape, MLC_NONE};
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

/* The piece of a shard that holds an element of a parameter, NULL when none does. */
static const mlc_piece *piece_in(const mlc_shard *shard, int parameter, int64_t element)
{
    int low = 0, high = shard->count; /* the last piece that starts at or before the element is below `high` */
    while (low < high) {
        int middle = low + (high - low) / 2;
        const mlc_piece *piece = &shard->pieces[middle];
        bool before = piece->parameter < parameter || (piece->parameter == parameter && piece->begin <= element);
        low = before ? middle + 1 : low;
        high = before ? high : middle;
    }
    const mlc_piece *piece = low ? &shard->pieces[low - 1] : NULL;
    return piece && piece->parameter == parameter && element < piece->end ? piece : NULL;
}

static uint64_t master_at(const mlc_role *role, int parameter)
{
    int i = 0;
    while (i < role->held_count && role->held[i].parameter != parameter)
        i++;
    return i < role->held_count ? role->held[i].master : MLC_NONE;
}

/* What a piece says of a state: the same elements, or, of a rule that is not elementwise, all of them. */
static mlc_owned state_owned(const mlc_parameter *parameter, int state, const mlc_piece *piece, int64_t element, int rank)
{
    int64_t elements = mlc_tensor_elements(&parameter->states[state]);
    bool alike = elements == mlc_parameter_elements(parameter);
    int64_t begin = alike ? piece->begin : 0, end = alike ? piece->end : elements;
    return (mlc_owned){element, end, rank, piece->states[state] + (uint64_t)(element - begin) * sizeof(float)};
}

mlc_owned mlc_owned_at(const mlc_model *model, int parameter, int state, int64_t element)
{
    const mlc_parameter *p = &model->parameters[parameter];
    const mlc_role *role = &model->roles[p->owner];
    bool alike = state < 0 || mlc_tensor_elements(&p->states[state]) == mlc_parameter_elements(p);
    for (int replica = 0; replica < model->dp; replica++) {
        const mlc_piece *piece = piece_in(&role->shards[replica], parameter, alike ? element : 0);
        int rank = replica * model->pp + p->owner;
        if (piece && state >= 0)
            return state_owned(p, state, piece, element, rank);
        if (piece)
            return (mlc_owned){element, piece->end, rank, master_at(role, parameter) + (uint64_t)element * sizeof(float)};
    }
    return (mlc_owned){element, element, -1, MLC_NONE};
}

mlc_owned mlc_entry_owned(const mlc_model *model, const mlc_entry *entry, int64_t element)
{
    mlc_owned owned = mlc_owned_at(model, entry->parameter, entry->state, entry->first + element);
    int64_t end = owned.end - entry->first;
    return (mlc_owned){element, end < entry->elements ? end : entry->elements, owned.rank, owned.at};
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
    return catalog->parameters.items && catalog->states.items && catalog->whole.items;
}

static int check_shards(const mlc_catalog *catalog, const mlc_model *model, mlc_error *error)
{
    for (int64_t i = 0; i < catalog->whole.count; i++) {
        const mlc_entry *entry = &catalog->whole.items[i];
        mlc_owned owned = {0};
        for (int64_t at = 0; at < entry->elements && owned.rank >= 0; at = owned.end)
            owned = mlc_entry_owned(model, entry, at);
        if (owned.rank < 0)
            return mlc_error_set(error, MLC_BAD_INPUT, "model %s: element %lld of %s is in no shard", model->name, (long long)owned.begin,
                                 entry->name);
    }
    return MLC_OK;
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
    return check_shards(catalog, model, error);
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
    *catalog = (mlc_catalog){0};
}
