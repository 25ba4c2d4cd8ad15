/* weights.c: see weights.h. */
#include "weights.h"

#include "accord.h"
#include "bundle.h"
#include "convert.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PREFIX "transformer."

/* Weights being loaded. */
typedef struct loading {
    mlc_rank *rank;
    const char *path;
    mlc_allowed allowed;
    mlc_bundle bundle;
    mlc_error *error;
} loading;

static bool is_allowed(const loading *load, const char *name)
{
    return mlc_allowed_takes(load->allowed, name, strlen(name));
}

/* ---- names ---- */

/* The stored tensor of a name: as it is, with the prefix, or without it. */
static mlc_stored *find(const loading *load, const char *name, const mlc_safetensors **file)
{
    char longer[1024];
    mlc_stored *stored = mlc_bundle_find(&load->bundle, name, file);
    if (!stored && snprintf(longer, sizeof longer, PREFIX "%s", name) < (int)sizeof longer)
        stored = mlc_bundle_find(&load->bundle, longer, file);
    if (!stored && !strncmp(name, PREFIX, strlen(PREFIX)))
        stored = mlc_bundle_find(&load->bundle, name + strlen(PREFIX), file);
    return stored;
}

static bool is_buffer(const mlc_stored *stored)
{
    return mlc_path_ends(stored->name, ".attn.bias") || mlc_path_ends(stored->name, ".attn.masked_bias");
}

/* Does a tensor that is used hold the same bytes (a tied weight that is stored twice)? */
static bool is_copy(const loading *load, const mlc_safetensors *file, const mlc_stored *stored)
{
    const mlc_entries *entries = &load->rank->catalog.parameters;
    for (int64_t i = 0; i < entries->count; i++) {
        const mlc_safetensors *other;
        const mlc_stored *used = find(load, entries->items[i].name, &other);
        bool alike = used && used != stored && !strcmp(used->dtype, stored->dtype) && used->rank == stored->rank &&
                     !memcmp(used->shape, stored->shape, sizeof used->shape);
        if (alike && !memcmp(other->data + used->begin, file->data + stored->begin, stored->end - stored->begin))
            return true;
    }
    return false;
}

/* ---- checks ---- */

static bool is_float(const char *dtype)
{
    return !strcmp(dtype, "F32") || !strcmp(dtype, "F16") || !strcmp(dtype, "BF16") || !strcmp(dtype, "F64");
}

static int check_entry(const loading *load, const mlc_entry *entry)
{
    const mlc_safetensors *file;
    mlc_stored *stored = find(load, entry->name, &file);
    if (!stored && is_allowed(load, entry->name))
        return MLC_OK;
    if (!stored)
        return mlc_error_set(load->error, MLC_BAD_INPUT, "%s: parameter %s is missing (--allow %s keeps its initial value)", load->path,
                             entry->name, entry->name);
    stored->used = true;
    if (!is_float(stored->dtype))
        return mlc_error_set(load->error, MLC_BAD_INPUT, "%s: tensor %s: dtype %s is not F32, F16, BF16 or F64", load->path, stored->name,
                             stored->dtype);
    bool fits = stored->rank == entry->rank;
    for (int i = 0; fits && i < entry->rank; i++)
        fits = stored->shape[i] == entry->shape[i];
    if (fits)
        return MLC_OK;
    char theirs[128], ours[128];
    mlc_convert_shape_text(theirs, sizeof theirs, stored->shape, stored->rank);
    mlc_convert_shape_text(ours, sizeof ours, entry->shape, entry->rank);
    return mlc_error_set(load->error, MLC_BAD_INPUT, "%s: tensor %s has shape %s, parameter %s has %s", load->path, stored->name, theirs,
                         entry->name, ours);
}

static int check_unused(const loading *load, const mlc_safetensors *file, const mlc_stored *stored)
{
    if (is_buffer(stored) || stored->used || is_allowed(load, stored->name) || is_copy(load, file, stored))
        return MLC_OK;
    return mlc_error_set(load->error, MLC_BAD_INPUT, "%s: the model has no parameter for tensor %s (--allow %s ignores it)", load->path,
                         stored->name, stored->name);
}

static int check(const loading *load)
{
    const mlc_entries *entries = &load->rank->catalog.parameters;
    for (int64_t i = 0; i < entries->count; i++)
        if (check_entry(load, &entries->items[i]))
            return load->error->status;
    for (int64_t f = 0; f < load->bundle.count; f++)
        for (int64_t i = 0; i < load->bundle.files[f].count; i++)
            if (check_unused(load, &load->bundle.files[f], &load->bundle.files[f].tensors[i]))
                return load->error->status;
    return MLC_OK;
}

/* ---- copying ---- */

static float value_at(const char *dtype, const uint8_t *data, int64_t i)
{
    uint16_t half;
    double wide;
    if (!strcmp(dtype, "F64")) {
        memcpy(&wide, data + 8 * i, sizeof wide);
        return (float)wide;
    }
    memcpy(&half, data + 2 * i, sizeof half);
    return dtype[0] == 'B' ? mlc_convert_from_bf16(half) : mlc_convert_from_f16(half);
}

/* Takes a parameter, if this rank holds it. */
static void take_entry(const loading *load, const mlc_entry *entry)
{
    const mlc_safetensors *file;
    const mlc_stored *stored = find(load, entry->name, &file);
    const mlc_held *held = mlc_rank_held(load->rank, entry->parameter);
    if (!stored || !held)
        return;
    float *to = (float *)mlc_rank_at(load->rank, held->master) + entry->first;
    const uint8_t *data = file->data + stored->begin;
    if (!strcmp(stored->dtype, "F32"))
        memcpy(to, data, (size_t)entry->elements * sizeof(float));
    else
        for (int64_t i = 0; i < entry->elements; i++)
            to[i] = value_at(stored->dtype, data, i);
    mlc_accord_work(load->rank);
}

/* ---- the interface ---- */

static int open_bundle(loading *load, const char *path)
{
    if (mlc_path_is_directory(path))
        return mlc_bundle_open_directory(&load->bundle, path, "model", load->error);
    return mlc_bundle_open_file(&load->bundle, path, load->error);
}

int mlc_weights_load(mlc_rank *rank, const char *path, mlc_allowed allowed, mlc_error *error)
{
    char found[MLC_PATH_BYTES];
    loading load = {.rank = rank, .path = path, .allowed = allowed, .error = error};
    if (mlc_checkpoint_resolve(rank, path, found, error))
        return error->status;
    if (!open_bundle(&load, found))
        check(&load);
    if (!mlc_accord(rank, error))
        for (int64_t i = 0; i < rank->catalog.parameters.count; i++)
            take_entry(&load, &rank->catalog.parameters.items[i]);
    mlc_bundle_close(&load.bundle);
    return error->status;
}
