/* catalog.c: see catalog.h. */
#include "catalog.h"

#include "session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Is the leading dim of this tensor of the parameter counted out over the '*' of its name? */
static bool is_counted(const mlc_parameter *parameter, const mlc_tensor *tensor)
{
    const mlc_tensor *master = &parameter->master;
    return strchr(master->name, '*') && master->rank > 0 && tensor->rank > 0 && tensor->shape[0] == master->shape[0];
}

static int64_t pieces_of(const mlc_parameter *parameter, const mlc_tensor *tensor)
{
    return is_counted(parameter, tensor) ? tensor->shape[0] : 1;
}

/* The name of piece `index` (-1: of the whole tensor), allocated. */
static char *entry_name(const mlc_parameter *parameter, const char *state, int64_t index)
{
    const char *name = parameter->master.name, *star = index >= 0 ? strchr(name, '*') : NULL;
    size_t size = strlen(name) + (state ? strlen(state) : 0) + 24;
    char *text = malloc(size);
    if (text && star)
        snprintf(text, size, "%.*s%lld%s%s%s", (int)(star - name), name, (long long)index, star + 1, state ? "/" : "", state ? state : "");
    else if (text)
        snprintf(text, size, "%s%s%s", name, state ? "/" : "", state ? state : "");
    return text;
}

static bool add_whole(mlc_entries *entries, const mlc_parameter *parameter, const mlc_tensor *tensor, const char *state)
{
    mlc_entry *entry = &entries->items[entries->count++];
    *entry = (mlc_entry){entry_name(parameter, state, -1), tensor->shape, tensor->rank, mlc_tensor_elements(tensor), tensor->at};
    return entry->name != NULL;
}

static bool add_pieces(mlc_entries *entries, const mlc_parameter *parameter, const mlc_tensor *tensor, const char *state)
{
    if (!is_counted(parameter, tensor))
        return add_whole(entries, parameter, tensor, state);
    int64_t elements = mlc_tensor_elements(tensor) / tensor->shape[0];
    for (int64_t i = 0; i < tensor->shape[0]; i++) {
        mlc_entry *entry = &entries->items[entries->count++];
        uint64_t at = tensor->at + (uint64_t)(i * elements) * sizeof(float);
        *entry = (mlc_entry){entry_name(parameter, state, i), tensor->shape + 1, tensor->rank - 1, elements, at};
        if (!entry->name)
            return false;
    }
    return true;
}

static bool add_parameter(mlc_catalog *catalog, const mlc_parameter *parameter)
{
    bool whole = add_pieces(&catalog->parameters, parameter, &parameter->master, NULL);
    whole &= add_whole(&catalog->whole, parameter, &parameter->master, NULL);
    for (int s = 0; s < parameter->state_count; s++) {
        const mlc_tensor *state = &parameter->states[s];
        whole &= add_pieces(&catalog->states, parameter, state, state->name);
        whole &= add_whole(&catalog->whole, parameter, state, state->name);
    }
    return whole;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const mlc_entry *)a)->name, ((const mlc_entry *)b)->name);
}

static bool allocate(mlc_catalog *catalog, const mlc_model *model)
{
    int64_t parameters = 1, states = 1, whole = 1;
    for (int p = 0; p < model->parameter_count; p++) {
        const mlc_parameter *parameter = &model->parameters[p];
        parameters += pieces_of(parameter, &parameter->master);
        for (int s = 0; s < parameter->state_count; s++)
            states += pieces_of(parameter, &parameter->states[s]);
        whole += 1 + parameter->state_count;
    }
    catalog->parameters.items = calloc((size_t)parameters, sizeof(mlc_entry));
    catalog->states.items = calloc((size_t)states, sizeof(mlc_entry));
    catalog->whole.items = calloc((size_t)whole, sizeof(mlc_entry));
    return catalog->parameters.items && catalog->states.items && catalog->whole.items;
}

int mlc_catalog_open(mlc_catalog *catalog, const mlc_model *model, mlc_error *error)
{
    *catalog = (mlc_catalog){0};
    bool whole = allocate(catalog, model);
    for (int p = 0; whole && p < model->parameter_count; p++)
        whole = add_parameter(catalog, &model->parameters[p]);
    if (!whole)
        return mlc_error_set(error, MLC_FAILED, "catalog: out of memory");
    qsort(catalog->whole.items, (size_t)catalog->whole.count, sizeof(mlc_entry), by_name);
    return MLC_OK;
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
