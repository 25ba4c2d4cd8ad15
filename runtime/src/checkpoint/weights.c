/* weights.c: see weights.h. */
#include "checkpoint/weights.h"

#include "checkpoint/alike.h"
#include "checkpoint/hub_config.h"
#include "checkpoint/naming.h"
#include "checkpoint/weights_kind.h"
#include "data/convert.h"
#include "model/accord.h"
#include "model/arranged.h"
#include "system/numbers.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INDEX ".safetensors.index.json"

/* Weights being loaded. */
typedef struct loading {
    mlc_rank *rank;
    const char *path;
    mlc_weights_terms terms;
    mlc_bundle bundle;
    mlc_naming naming;
    mlc_error *error;
} loading;

static bool is_listed(mlc_allowed list, const char *name)
{
    return mlc_allowed_takes(list, name, strlen(name));
}

static bool is_allowed(const loading *load, const char *name)
{
    return is_listed(load->terms.allowed, name);
}

static void note(const loading *load, const char *text)
{
    if (load->rank->note && !load->rank->rank)
        load->rank->note(load->rank->listener, text);
}

/* ---- tensors without a parameter ---- */

static bool is_buffer(const mlc_stored *stored)
{
    return mlc_path_ends(stored->name, ".attn.bias") || mlc_path_ends(stored->name, ".attn.masked_bias") ||
           mlc_path_ends(stored->name, ".rotary_emb.inv_freq");
}

/* Does a tensor that is used hold the same bytes (a tied weight that is stored twice)? */
static bool is_copy(const loading *load, const mlc_safetensors *file, const mlc_stored *stored)
{
    const mlc_entries *entries = &load->rank->catalog.parameters;
    for (int64_t i = 0; i < entries->count; i++) {
        const mlc_named *found = mlc_naming_find(&load->naming, entries->items[i].name);
        const mlc_stored *used = found ? found->stored : NULL;
        bool alike = used && used != stored && !strcmp(used->dtype, stored->dtype) && used->rank == stored->rank &&
                     !memcmp(used->shape, stored->shape, sizeof used->shape);
        if (alike && !memcmp(found->file->data + used->begin, file->data + stored->begin, stored->end - stored->begin))
            return true;
    }
    return false;
}

/* ---- a head that is or is not the embedding ---- */

static bool is_head(const char *name)
{
    static const char *const HEADS[] = {"lm_head.weight", "head.weight", "output.weight", "unembed.weight", "embed_out.weight"};
    for (size_t i = 0; i < sizeof HEADS / sizeof *HEADS; i++)
        if (mlc_path_ends(name, HEADS[i]))
            return true;
    return false;
}

/* The constant that ties the head to the embedding, NULL when the model has none. */
static const mlc_constant *find_tied(const mlc_model *model)
{
    for (int i = 0; i < model->constant_count; i++)
        if (!strcmp(model->constants[i].name, "tied") || !strcmp(model->constants[i].name, "tie_word_embeddings"))
            return &model->constants[i];
    return NULL;
}

/* What would mend a head that only one side has: "" or "; ...". */
static void advise_head(const loading *load, const char *name, bool missing, char advice[256])
{
    const mlc_constant *tied = find_tied(load->rank->model);
    *advice = 0;
    if (!is_head(name))
        return;
    if (tied && (tied->value != 0) != missing)
        snprintf(advice, 256, "; the head of this file is %s: compile with -D %s=%s", missing ? "its embedding" : "no copy of its embedding",
                 tied->name, missing ? "True" : "False");
    else if (missing)
        snprintf(advice, 256, "; most files without a head use their embedding for it: so would a model that multiplies with its table");
}

/* ---- checks of a parameter ---- */

static bool is_float(const char *dtype)
{
    const mlc_dtype_row *row = mlc_dtype_stored(dtype);
    return row && row->kind == MLC_KIND_FLOAT;
}

static int report_missing(const loading *load, const mlc_entry *entry)
{
    char advice[256], near[300] = "";
    const char *nearest = mlc_naming_nearest(&load->naming, entry->name);
    advise_head(load, entry->name, true, advice);
    if (nearest && !*advice)
        snprintf(near, sizeof near, "; the nearest name in the file is %.200s", nearest);
    return mlc_error_set(load->error, MLC_BAD_INPUT, "%s: parameter %s is missing%s%s (--allow %s keeps its initial value)", load->path,
                         entry->name, advice, near, entry->name);
}

/* The only dim in which two shapes of one rank differ; -1: none; -2: several, or the ranks differ. */
static int differing_dim(const mlc_entry *entry, const mlc_stored *stored)
{
    int found = stored->rank == entry->rank ? -1 : -2;
    for (int i = 0; found != -2 && i < entry->rank; i++)
        if (stored->shape[i] != entry->shape[i])
            found = found == -1 ? i : -2;
    return found;
}

static bool is_fitted(const loading *load, const mlc_entry *entry, const mlc_stored *stored)
{
    return is_listed(load->terms.fitted, entry->name) || is_listed(load->terms.fitted, stored->name);
}

/* What would mend a shape that differs: "" or "; ...". */
static void advise_shape(const mlc_entry *entry, const mlc_stored *stored, char advice[300])
{
    int dim = differing_dim(entry, stored);
    *advice = 0;
    if (dim >= 0)
        snprintf(advice, 300, "; --fit %.150s takes the first %lld of dim %d%s", entry->name,
                 (long long)smaller(stored->shape[dim], entry->shape[dim]), dim,
                 stored->shape[dim] < entry->shape[dim] ? ", the others keep their initial values" : "");
    else if (stored->rank == 2 && entry->rank == 2 && stored->shape[0] == entry->shape[1] && stored->shape[1] == entry->shape[0])
        snprintf(advice, 300, "; it is stored transposed, as the Conv1D of GPT-2 is [in, out] and a Linear [out, in]: give linear "
                              "the other layout= in the model");
    else if (stored->elements == (uint64_t)entry->elements)
        snprintf(advice, 300, "; as many elements, so declare the parameter in the shape of the file");
}

static int report_shape(const loading *load, const mlc_entry *entry, const mlc_stored *stored)
{
    char theirs[128], ours[128], advice[300];
    mlc_convert_shape_text(theirs, sizeof theirs, stored->shape, stored->rank);
    mlc_convert_shape_text(ours, sizeof ours, entry->shape, entry->rank);
    advise_shape(entry, stored, advice);
    return mlc_error_set(load->error, MLC_BAD_INPUT, "%s: tensor %s has shape %s, parameter %s has %s%s", load->path, stored->name, theirs,
                         entry->name, ours, advice);
}

static void note_fit(const loading *load, const mlc_entry *entry, const mlc_stored *stored, int dim)
{
    char text[600];
    bool cut = stored->shape[dim] > entry->shape[dim];
    snprintf(text, sizeof text, "%.200s: %lld of %lld along dim %d %s", entry->name, (long long)smaller(stored->shape[dim], entry->shape[dim]),
             (long long)(cut ? stored->shape[dim] : entry->shape[dim]), dim,
             cut ? "are taken, the rest of the file's is cut" : "come from the file, the others keep their initial values");
    note(load, text);
}

/* Names without marks may be those of two parameters, of which the file has one. */
static int report_shared(const loading *load, const mlc_entry *entry, const mlc_stored *stored)
{
    return mlc_error_set(load->error, MLC_BAD_INPUT, "%s: tensor %s would be parameter %s and another one, whose names differ only by what "
                         "wrappers put before them; the file must have both", load->path, stored->name, entry->name);
}

static int check_entry(const loading *load, const mlc_entry *entry)
{
    const mlc_named *found = mlc_naming_find(&load->naming, entry->name);
    if (!found && is_allowed(load, entry->name))
        return MLC_OK;
    if (!found)
        return report_missing(load, entry);
    mlc_stored *stored = found->stored;
    if (stored->used)
        return report_shared(load, entry, stored);
    stored->used = true;
    if (!is_float(stored->dtype))
        return mlc_error_set(load->error, MLC_BAD_INPUT, "%s: tensor %s: dtype %s is not F32, F16, BF16 or F64", load->path, stored->name,
                             stored->dtype);
    int dim = differing_dim(entry, stored);
    if (dim >= 0 && is_fitted(load, entry, stored))
        note_fit(load, entry, stored, dim);
    else if (dim != -1)
        return report_shape(load, entry, stored);
    return MLC_OK;
}

static int check_unused(const loading *load, const mlc_safetensors *file, const mlc_stored *stored)
{
    if (is_buffer(stored) || stored->used || is_allowed(load, stored->name) || is_copy(load, file, stored))
        return MLC_OK;
    char advice[256];
    advise_head(load, stored->name, false, advice);
    return mlc_error_set(load->error, MLC_BAD_INPUT, "%s: the model has no parameter for tensor %s%s (--allow %s ignores it)", load->path,
                         stored->name, advice, stored->name);
}

/* ---- values ---- */

/* The first value of a tensor that is not finite as a master has it, -1: none. */
static int64_t find_bad(const mlc_named *found, const mlc_dtype_row *wide)
{
    const uint8_t *data = found->file->data + found->stored->begin;
    const mlc_dtype_row *from = mlc_dtype_stored(found->stored->dtype);
    int64_t elements = (int64_t)found->stored->elements;
    if (from == wide && wide->wide->finite(data, elements))
        return -1;
    for (int64_t i = 0; i < elements; i++)
        if (!isfinite(mlc_dtype_round(wide, from->load(data, i))))
            return i;
    return -1;
}

/* Looks through what this rank takes. */
static int check_values(const loading *load, const mlc_entry *entry)
{
    const mlc_named *found = mlc_naming_find(&load->naming, entry->name);
    if (!found || !mlc_rank_held(load->rank, entry->parameter) || is_allowed(load, entry->name))
        return MLC_OK;
    const mlc_dtype_row *wide = mlc_dtype_wide(load->rank->model);
    int64_t bad = find_bad(found, wide);
    mlc_accord_work(load->rank);
    if (bad < 0)
        return MLC_OK;
    return mlc_error_set(load->error, MLC_BAD_INPUT, "%s: tensor %s: element %lld is %s (--allow %s takes it)", load->path,
                         found->stored->name, (long long)bad,
                         mlc_dtype_stored(found->stored->dtype)->bytes > wide->bytes ? "not finite, or does not fit f32" : "not finite",
                         entry->name);
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
    for (int64_t i = 0; i < entries->count; i++)
        if (check_values(load, &entries->items[i]))
            return load->error->status;
    return MLC_OK;
}

/* Elements of a file, from number `first` of its tensor on, into a master. */
static void take_block(const loading *load, const mlc_dtype_row *from, const uint8_t *data, int64_t first, const mlc_lying *to, int64_t at,
                       int64_t count)
{
    const mlc_dtype_row *wide = mlc_dtype_wide(load->rank->model);
    const mlc_arena *arena = &load->rank->arena;
    mlc_strip strip;
    if (from == wide) {
        mlc_lying_write(arena, to, at, at + count, data + first * wide->bytes);
        return;
    }
    for (int64_t done = 0; done < count; done += MLC_STRIP) {
        int64_t n = smaller(MLC_STRIP, count - done);
        for (int64_t i = 0; i < n; i++)
            wide->store(strip.elements, i, from->load(data, first + done + i));
        mlc_lying_write(arena, to, at + done, at + done + n, strip.elements);
    }
}

/* Takes a parameter, if this rank holds it: blocks of `count` elements, of which the file and the model have their own numbers. */
static void take_entry(const loading *load, const mlc_entry *entry)
{
    const mlc_named *found = mlc_naming_find(&load->naming, entry->name);
    const mlc_held *held = mlc_rank_held(load->rank, entry->parameter);
    if (!found || !held)
        return;
    const mlc_stored *stored = found->stored;
    const uint8_t *data = found->file->data + stored->begin;
    const mlc_dtype_row *from = mlc_dtype_stored(stored->dtype);
    const mlc_model *model = load->rank->model;
    mlc_lying to = {held->master, (int64_t)mlc_wide_bytes(model), mlc_arranged_master(model, entry->parameter)};
    int dim = differing_dim(entry, stored), first = dim < 0 ? 0 : dim;
    int64_t blocks = 1, theirs = 1, ours = 1;
    for (int i = 0; i < entry->rank; i++) {
        blocks *= i < first ? entry->shape[i] : 1;
        theirs *= i < first ? 1 : stored->shape[i];
        ours *= i < first ? 1 : entry->shape[i];
    }
    for (int64_t block = 0; block < blocks; block++)
        take_block(load, from, data, block * theirs, &to, entry->first + block * ours, smaller(theirs, ours));
    mlc_accord_work(load->rank);
}

static int take_entries(loading *load)
{
    mlc_rank *rank = load->rank;
    for (int64_t i = 0; i < rank->catalog.parameters.count; i++)
        take_entry(load, &rank->catalog.parameters.items[i]);
    mlc_bundle_check(&load->bundle, load->error);
    return mlc_accord(rank, load->error);
}

/* ---- files ---- */

/* A directory in which no safetensors file has the name that is looked for: what lies there instead. */
static int report_directory(loading *load, const char *path)
{
    char name[256] = "";
    const char *kind = NULL;
    DIR *directory = opendir(path);
    for (struct dirent *entry; directory && (entry = readdir(directory));) {
        const char *own = mlc_weights_kind_of_name(entry->d_name);
        if (own && (!*name || strcmp(entry->d_name, name) < 0)) {
            snprintf(name, sizeof name, "%s", entry->d_name);
            kind = own;
        }
    }
    if (directory)
        closedir(directory);
    return mlc_error_set(load->error, MLC_BAD_INPUT, "%.400s: holds no model.safetensors and no model" INDEX "%s%s%s%s", path,
                         kind ? "; " : "", kind ? name : "", kind ? " is " : "", kind ? kind : "");
}

static bool holds(const char *directory, const char *name)
{
    char path[MLC_PATH_BYTES];
    mlc_error ignored = {0};
    return !mlc_path_join(path, directory, name, &ignored) && mlc_path_is_file(path);
}

static int open_directory(loading *load, const char *path)
{
    if (!holds(path, "model.safetensors") && !holds(path, "model" INDEX))
        return report_directory(load, path);
    return mlc_bundle_open_directory(&load->bundle, path, "model", load->error);
}

/* The directory of a file; "." where it has none. */
static void directory_of(char directory[MLC_PATH_BYTES], const char *path)
{
    snprintf(directory, MLC_PATH_BYTES, "%s", path);
    char *slash = strrchr(directory, '/');
    if (!slash)
        strcpy(directory, ".");
    else
        slash[slash == directory] = 0;
}

/* Opens files and finds the directory they are in. */
static int open_files(loading *load, const char *path, char directory[MLC_PATH_BYTES])
{
    if (mlc_path_is_directory(path)) {
        snprintf(directory, MLC_PATH_BYTES, "%s", path);
        return open_directory(load, path);
    }
    directory_of(directory, path);
    if (!mlc_path_ends(path, INDEX))
        return mlc_bundle_open_file(&load->bundle, path, load->error);
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    char stem[256];
    snprintf(stem, sizeof stem, "%.*s", (int)(strlen(name) - strlen(INDEX)), name);
    return mlc_bundle_open_directory(&load->bundle, directory, stem, load->error);
}

static bool hub_allows(const void *context, const char *name)
{
    return is_allowed(context, name);
}

static void hub_note(const void *context, const char *text)
{
    note(context, text);
}

static int compare(loading *load, const char *directory)
{
    char path[MLC_PATH_BYTES];
    mlc_hub hub = {hub_allows, hub_note, load};
    if (mlc_path_join(path, directory, "config.json", load->error))
        return load->error->status;
    return mlc_hub_compare(load->rank->model, path, hub, load->error);
}

int mlc_weights_load(mlc_rank *rank, const char *path, mlc_weights_terms terms, mlc_error *error)
{
    char found[MLC_PATH_BYTES], directory[MLC_PATH_BYTES];
    loading load = {.rank = rank, .path = path, .terms = terms, .error = error};
    if (mlc_checkpoint_resolve(rank, path, found, error))
        return error->status;
    if (!open_files(&load, found, directory) && !compare(&load, directory) && !mlc_naming_open(&load.naming, &load.bundle, error))
        check(&load);
    if (!mlc_accord(rank, error) && !mlc_alike_files(rank, path, (const mlc_bundle *[]){&load.bundle}, 1, error))
        take_entries(&load);
    mlc_naming_close(&load.naming);
    mlc_bundle_close(&load.bundle);
    return error->status;
}
