/* checkpoint.c: finding and loading; see checkpoint.h. checkpoint_save.c writes. */
#include "checkpoint.h"

#include "accord.h"
#include "bundle.h"
#include "checkpoint_files.h"
#include "convert.h"
#include "json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- finding ---- */

/* The step of a checkpoint's name, -1 when it is none. */
static int64_t step_of(const char *name)
{
    if (strncmp(name, "step-", 5) || strlen(name) < 13 || strlen(name) > 23 || name[5 + strspn(name + 5, "0123456789")])
        return -1;
    return strtoll(name + 5, NULL, 10);
}

typedef struct search {
    int64_t below, best;
    char name[MLC_NAME_BYTES];
} search;

static bool consider(void *context, const char *name)
{
    search *found = context;
    int64_t step = step_of(name);
    if (step > found->best && step < found->below) {
        found->best = step;
        snprintf(found->name, sizeof found->name, "%s", name);
    }
    return true;
}

static bool clean_name(void *directory, const char *name)
{
    char path[MLC_PATH_BYTES];
    mlc_error ignored = {0};
    bool left = (!strncmp(name, ".step-", 6) && mlc_path_ends(name, ".tmp")) || !strcmp(name, ".latest.tmp");
    if (left && !mlc_path_join(path, directory, name, &ignored)) {
        mlc_directory_remove(path);
        unlink(path);
    }
    return true;
}

static int clean(const char *directory, mlc_error *error)
{
    char path[MLC_PATH_BYTES];
    if (mlc_directory_make(directory, error))
        return error->status;
    snprintf(path, sizeof path, "%s", directory);
    mlc_directory_each(path, clean_name, path);
    return MLC_OK;
}

int mlc_checkpoint_prepare(mlc_rank *rank, const char *directory, mlc_error *error)
{
    if (rank->rank == 0)
        clean(directory, error);
    if (mlc_accord(rank, error))
        return error->status;
    if (access(directory, W_OK | X_OK))
        mlc_error_system(error, MLC_BAD_INPUT, "%s: checkpoints cannot be written there", directory);
    return mlc_accord(rank, error);
}

/* Reads the one line of a `latest` file in a directory. */
static int read_latest(const char *directory, const char *latest, char path[MLC_PATH_BYTES], mlc_error *error)
{
    char name[MLC_NAME_BYTES] = "";
    mlc_mapping text;
    if (mlc_mapping_open(&text, latest, error))
        return error->status;
    for (size_t i = 0; i < text.bytes && i < MLC_NAME_BYTES - 1 && text.base[i] != '\n'; i++)
        name[i] = (char)text.base[i];
    mlc_mapping_close(&text);
    if (step_of(name) < 0)
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: damaged: names no checkpoint", latest);
    return mlc_path_join(path, directory, name, error);
}

static int resolve(const char *given, char path[MLC_PATH_BYTES], mlc_error *error)
{
    char latest[MLC_PATH_BYTES];
    if (mlc_path_join(latest, given, "latest", error))
        return error->status;
    snprintf(path, MLC_PATH_BYTES, "%s", given);
    return mlc_path_is_file(latest) ? read_latest(given, latest, path, error) : MLC_OK;
}

int mlc_checkpoint_resolve(mlc_rank *rank, const char *given, char path[MLC_PATH_BYTES], mlc_error *error)
{
    memset(path, 0, MLC_PATH_BYTES);
    if (rank->rank == 0)
        resolve(given, path, error);
    return mlc_accord(rank, error) ? error->status : mlc_accord_block(rank, path, MLC_PATH_BYTES, error);
}

/* ---- verifying ---- */

/* Whether a state.json ends in the checksum of what stands before it. */
static bool state_is_whole(const mlc_mapping *text)
{
    static const char HEAD[] = "  \"checksum\": \"", TAIL[] = "\"\n}\n";
    char hex[65];
    uint8_t digest[32];
    size_t tail = sizeof HEAD - 1 + 64 + sizeof TAIL - 1;
    if (text->bytes < tail)
        return false;
    const char *end = (const char *)text->base + text->bytes - tail;
    mlc_sha256 hash;
    mlc_sha256_begin(&hash);
    mlc_sha256_add(&hash, text->base, text->bytes - tail);
    mlc_sha256_end(&hash, digest);
    mlc_sha256_hex(digest, hex);
    return !memcmp(end, HEAD, sizeof HEAD - 1) && !memcmp(end + sizeof HEAD - 1, hex, 64) &&
           !memcmp(end + sizeof HEAD - 1 + 64, TAIL, sizeof TAIL - 1);
}

/* state.json, checked against its own checksum. */
static int open_state(mlc_json *json, const char *directory, mlc_error *error)
{
    char path[MLC_PATH_BYTES];
    mlc_mapping text;
    *json = (mlc_json){0};
    if (mlc_path_join(path, directory, "state.json", error) || mlc_mapping_open(&text, path, error))
        return error->status;
    if (state_is_whole(&text))
        mlc_json_parse(json, (const char *)text.base, text.bytes, path, error);
    else
        mlc_error_set(error, MLC_BAD_INPUT, "%s: damaged: its checksum does not match", path);
    mlc_mapping_close(&text);
    return error->status;
}

/* ---- the files of a checkpoint, as its state lists them ---- */

typedef struct listing {
    const mlc_json *state;
    const char *directory;
} listing;

static const mlc_json_node *first_file(const listing *list)
{
    const mlc_json_node *files = mlc_json_member(list->state, &list->state->nodes[0], "files");
    return files && files->kind == MLC_JSON_OBJECT ? mlc_json_first(list->state, files) : NULL;
}

/* A file that is listed, and is there. */
static int check_file(const listing *list, const mlc_json_node *file, mlc_error *error)
{
    char path[MLC_PATH_BYTES];
    mlc_mapping mapping;
    if (!mlc_json_string(file) || strchr(file->key, '/'))
        return mlc_error_set(error, MLC_BAD_INPUT, "%s/state.json: damaged: file %.200s", list->directory, file->key);
    if (!mlc_path_join(path, list->directory, file->key, error) && !mlc_mapping_open(&mapping, path, error))
        mlc_mapping_close(&mapping);
    return error->status;
}

static int check_files(const listing *list, int64_t *count, mlc_error *error)
{
    *count = 0;
    if (!first_file(list))
        return mlc_error_set(error, MLC_BAD_INPUT, "%s/state.json: damaged: no files", list->directory);
    for (const mlc_json_node *file = first_file(list); file; file = mlc_json_next(list->state, file), ++*count)
        if (check_file(list, file, error))
            return error->status;
    return MLC_OK;
}

static int path_of_listed(const mlc_hashed_files *files, int64_t number, char path[MLC_PATH_BYTES], mlc_error *error)
{
    const listing *list = files->context;
    const mlc_json_node *file = first_file(list);
    for (int64_t i = 0; i < number; i++)
        file = mlc_json_next(list->state, file);
    return mlc_path_join(path, list->directory, file->key, error);
}

/* Compares hashes that were read with those that are listed. */
static int compare_files(const listing *list, const mlc_hashed_files *files, mlc_error *error)
{
    char hex[65];
    int64_t number = 0;
    for (const mlc_json_node *file = first_file(list); file; file = mlc_json_next(list->state, file), number++) {
        if (number < files->first || number >= files->first + files->count)
            continue;
        mlc_sha256_hex(files->digests[number - files->first], hex);
        if (strcmp(hex, mlc_json_string(file)))
            return mlc_error_set(error, MLC_BAD_INPUT, "%s/%s: damaged: its checksum does not match", list->directory, file->key);
    }
    return MLC_OK;
}

static int verify_files(mlc_rank *rank, const mlc_json *state, const char *directory, mlc_error *error)
{
    listing list = {state, directory};
    mlc_hashed_files files = {.path_of = path_of_listed, .context = &list};
    int64_t count;
    check_files(&list, &count, error);
    if (mlc_accord(rank, error))
        return error->status;
    for (; files.first < count; files.first += MLC_HASHED_FILES) {
        files.count = count - files.first < MLC_HASHED_FILES ? count - files.first : MLC_HASHED_FILES;
        if (mlc_hashed_files_read(&files, rank, error) || compare_files(&list, &files, error))
            return error->status;
    }
    return MLC_OK;
}

/* Opens a step directory and checks that it is whole. `state` is to be freed whatever comes out. */
static int open_whole(mlc_rank *rank, mlc_json *state, const char *path, mlc_error *error)
{
    *state = (mlc_json){0};
    if (!mlc_path_is_directory(path))
        mlc_error_set(error, MLC_BAD_INPUT, "%s: no such directory", path);
    else
        open_state(state, path, error);
    return mlc_accord(rank, error) ? error->status : verify_files(rank, state, path, error);
}

/* ---- the newest ---- */

/* The newest checkpoint below a step, "" when there is none. */
static int find_below(search *found, const char *directory, char path[MLC_PATH_BYTES], mlc_error *error)
{
    *found = (search){.below = found->best, .best = -1};
    mlc_directory_each(directory, consider, found);
    return found->best < 0 ? MLC_OK : mlc_path_join(path, directory, found->name, error);
}

int mlc_checkpoint_newest(mlc_rank *rank, const char *directory, char path[MLC_PATH_BYTES], void (*skipped)(const mlc_error *why),
                          mlc_error *error)
{
    search found = {.best = INT64_MAX};
    while (true) {
        mlc_error why = {0};
        mlc_json state;
        memset(path, 0, MLC_PATH_BYTES);
        if (rank->rank == 0)
            find_below(&found, directory, path, error);
        if (mlc_accord(rank, error) || mlc_accord_block(rank, path, MLC_PATH_BYTES, error) || !*path)
            return error->status;
        int status = open_whole(rank, &state, path, &why);
        mlc_json_free(&state);
        if (status != MLC_BAD_INPUT)
            return status ? mlc_error_set(error, status, "%s", why.text) : MLC_OK;
        if (skipped && rank->rank == 0)
            skipped(&why);
    }
}

/* ---- matching ---- */

/* A checkpoint being loaded. */
typedef struct loading {
    mlc_rank *rank;
    const char *path;
    mlc_allowed allowed;
    mlc_json state;
    mlc_error *error;
    uint64_t step, cursor, seed;
} loading;

static bool is_allowed(const loading *load, const char *item, size_t length)
{
    for (int i = 0; i < load->allowed.count; i++)
        if (strlen(load->allowed.items[i]) == length && !memcmp(load->allowed.items[i], item, length))
            return true;
    return false;
}

static int differ(const loading *load, const char *item, size_t length, const char *theirs, const char *ours)
{
    int their_length = (int)strcspn(theirs, "\n"), our_length = (int)strcspn(ours, "\n");
    if (!strncmp(item, "parameter.", strlen("parameter."))) /* another shape cannot be loaded */
        return mlc_error_set(load->error, MLC_BAD_INPUT, "%s: %.*s: the checkpoint has %.*s, this program %.*s", load->path, (int)length,
                             item, their_length, theirs, our_length, ours);
    if (is_allowed(load, item, length))
        return MLC_OK;
    return mlc_error_set(load->error, MLC_BAD_INPUT, "%s: %.*s: the checkpoint has %.*s, this program %.*s (--allow %.*s lets it pass)",
                         load->path,
                         (int)length, item, their_length, theirs, our_length, ours, (int)length, item);
}

static const mlc_json_node *state_member(const loading *load, const char *key)
{
    return mlc_json_member(&load->state, &load->state.nodes[0], key);
}

/* The value of an item among the checkpoint's, NULL when it has none. */
static const char *item_theirs(const loading *load, const char *item, size_t length)
{
    const mlc_json_node *items = state_member(load, "items");
    if (!items || items->kind != MLC_JSON_ARRAY)
        return NULL;
    for (const mlc_json_node *line = mlc_json_first(&load->state, items); line; line = mlc_json_next(&load->state, line)) {
        const char *text = mlc_json_string(line);
        if (text && !strncmp(text, item, length) && text[length] == '=')
            return text + length + 1;
    }
    return NULL;
}

/* The value of an item among the model's, up to its line's end; NULL when it has none. */
static const char *item_ours(const char *description, const char *item, size_t length)
{
    for (const char *line = description; *line;) {
        size_t bytes = strcspn(line, "\n");
        if (bytes > length && !strncmp(line, item, length) && line[length] == '=')
            return line + length + 1;
        line += bytes + (line[bytes] == '\n');
    }
    return NULL;
}

static bool same_line(const char *text, const char *line)
{
    size_t length = strcspn(line, "\n");
    return strlen(text) == length ? !memcmp(text, line, length) : length > 890 && !strncmp(text, line, 890);
}

/* Every item of the model, then those that only the checkpoint has. */
static int match_items(const loading *load)
{
    const char *description = load->rank->model->description ? load->rank->model->description : "";
    for (const char *line = description; *line;) {
        size_t bytes = strcspn(line, "\n"), length = strcspn(line, "=\n");
        const char *theirs = item_theirs(load, line, length), *ours = line[length] == '=' ? line + length + 1 : "";
        if ((!theirs || !same_line(theirs, ours)) && differ(load, line, length, theirs ? theirs : "(nothing)", ours))
            return load->error->status;
        line += bytes + (line[bytes] == '\n');
    }
    const mlc_json_node *items = state_member(load, "items");
    const mlc_json_node *line = items && items->kind == MLC_JSON_ARRAY ? mlc_json_first(&load->state, items) : NULL;
    for (; line; line = mlc_json_next(&load->state, line)) {
        const char *text = mlc_json_string(line) ? mlc_json_string(line) : "";
        size_t length = strcspn(text, "=");
        if (!item_ours(description, text, length) && differ(load, text, length, text[length] ? text + length + 1 : "", "(nothing)"))
            return load->error->status;
    }
    return MLC_OK;
}

static int match_hash(const loading *load)
{
    const char *hash = mlc_json_string(state_member(load, "hash"));
    if (!hash)
        return mlc_error_set(load->error, MLC_BAD_INPUT, "%s/state.json: damaged: no hash", load->path);
    if (!strcmp(hash, load->rank->model->hash))
        return MLC_OK;
    const char *description = load->rank->model->description;
    return description && *description ? match_items(load) : differ(load, "hash", 4, hash, load->rank->model->hash);
}

/* Order and number of examples, when both sides have data of their own. */
static int match_data(const loading *load)
{
    const mlc_rank *rank = load->rank;
    uint64_t examples;
    const char *order = mlc_json_string(state_member(load, "order")), *ours = rank->sequential ? "sequential" : "shuffled";
    if (!order || !mlc_json_whole(state_member(load, "examples"), &examples))
        return mlc_error_set(load->error, MLC_BAD_INPUT, "%s/state.json: damaged: no order or examples", load->path);
    if (!examples || !rank->examples)
        return MLC_OK;
    if (strcmp(order, ours) && differ(load, "order", 5, order, ours))
        return load->error->status;
    char theirs[24], own[24];
    snprintf(theirs, sizeof theirs, "%llu", (unsigned long long)examples);
    snprintf(own, sizeof own, "%lld", (long long)rank->examples);
    return strcmp(theirs, own) ? differ(load, "examples", 8, theirs, own) : MLC_OK;
}

static int match_state(loading *load)
{
    const char *format = mlc_json_string(state_member(load, "format"));
    bool whole = mlc_json_whole(state_member(load, "step"), &load->step) && mlc_json_whole(state_member(load, "cursor"), &load->cursor) &&
                 mlc_json_whole(state_member(load, "seed"), &load->seed) && load->step < INT64_MAX && load->cursor < INT64_MAX;
    if (!format || strcmp(format, MLC_CHECKPOINT_FORMAT) || !whole)
        return mlc_error_set(load->error, MLC_BAD_INPUT, "%s/state.json: damaged, or not of format \"" MLC_CHECKPOINT_FORMAT "\"",
                             load->path);
    return match_hash(load) ? load->error->status : match_data(load);
}

/* ---- loading ---- */

static int match_entry(const loading *load, const mlc_entry *entry, const mlc_stored *stored)
{
    if (!stored)
        return mlc_error_set(load->error, MLC_BAD_INPUT, "%s: tensor %s is missing", load->path, entry->name);
    bool fits = !strcmp(stored->dtype, "F32") && stored->rank == entry->rank;
    for (int i = 0; fits && i < entry->rank; i++)
        fits = stored->shape[i] == entry->shape[i];
    if (fits)
        return MLC_OK;
    char theirs[128], ours[128];
    mlc_convert_shape_text(theirs, sizeof theirs, stored->shape, stored->rank);
    mlc_convert_shape_text(ours, sizeof ours, entry->shape, entry->rank);
    return mlc_error_set(load->error, MLC_BAD_INPUT, "%s: tensor %s: the checkpoint has %s%s, this program F32%s", load->path, entry->name,
                         stored->dtype, theirs, ours);
}

static int match_entries(const loading *load, const mlc_bundle *bundle, const mlc_entries *entries)
{
    int64_t held = 0;
    for (int64_t i = 0; i < bundle->count; i++)
        held += bundle->files[i].count;
    for (int64_t i = 0; i < entries->count; i++) {
        const mlc_safetensors *file;
        if (match_entry(load, &entries->items[i], mlc_bundle_find(bundle, entries->items[i].name, &file)))
            return load->error->status;
    }
    if (held != entries->count)
        return mlc_error_set(load->error, MLC_BAD_INPUT, "%s: %lld tensors, this program has %lld", load->path, (long long)held,
                             (long long)entries->count);
    return MLC_OK;
}

/* Takes what this rank holds of an entry: a master whole, a state as far as it is its own. */
static void take_entry(const mlc_rank *rank, const mlc_entry *entry, const uint8_t *data)
{
    const mlc_held *held = entry->state < 0 ? mlc_rank_held(rank, entry->parameter) : NULL;
    if (held)
        memcpy(mlc_rank_at(rank, held->master + (uint64_t)entry->first * sizeof(float)), data, (size_t)entry->elements * sizeof(float));
    mlc_owned owned = {0};
    for (int64_t i = 0; entry->state >= 0 && i < entry->elements; i = owned.end) {
        owned = mlc_entry_owned(rank->model, entry, i);
        if (owned.rank == rank->rank)
            memcpy(mlc_rank_at(rank, owned.at), data + (uint64_t)i * sizeof(float), (size_t)(owned.end - i) * sizeof(float));
    }
}

static void take_entries(const loading *load, const mlc_bundle *bundle, const mlc_entries *entries)
{
    for (int64_t i = 0; i < entries->count; i++) {
        const mlc_safetensors *file;
        const mlc_stored *stored = mlc_bundle_find(bundle, entries->items[i].name, &file);
        take_entry(load->rank, &entries->items[i], file->data + stored->begin);
        mlc_accord_work(load->rank);
    }
}

static int load_tensors(const loading *load)
{
    const mlc_catalog *catalog = &load->rank->catalog;
    mlc_bundle model = {0}, optimizer = {0};
    bool open = !mlc_bundle_open_directory(&model, load->path, "model", load->error) &&
                !mlc_bundle_open_directory(&optimizer, load->path, "optimizer", load->error);
    if (open && !match_entries(load, &model, &catalog->parameters))
        match_entries(load, &optimizer, &catalog->states);
    if (!mlc_accord(load->rank, load->error)) {
        take_entries(load, &model, &catalog->parameters);
        take_entries(load, &optimizer, &catalog->states);
    }
    mlc_bundle_close(&model);
    mlc_bundle_close(&optimizer);
    return load->error->status;
}

static int load_whole(loading *load)
{
    match_state(load);
    if (mlc_accord(load->rank, load->error) || load_tensors(load))
        return load->error->status;
    load->rank->step = (int64_t)load->step;
    load->rank->cursor = (int64_t)load->cursor;
    load->rank->seed = load->seed;
    return MLC_OK;
}

int mlc_checkpoint_load(mlc_rank *rank, const char *given, mlc_allowed allowed, mlc_error *error)
{
    char path[MLC_PATH_BYTES];
    if (mlc_checkpoint_resolve(rank, given, path, error))
        return error->status;
    loading load = {.rank = rank, .path = path, .allowed = allowed, .error = error};
    if (!open_whole(rank, &load.state, path, error))
        load_whole(&load);
    mlc_json_free(&load.state);
    return error->status;
}
