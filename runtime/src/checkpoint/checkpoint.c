/* checkpoint.c: finding and loading; see checkpoint.h. checkpoint_save.c writes. */
#include "checkpoint/checkpoint.h"

#include "checkpoint/alike.h"
#include "checkpoint/bundle.h"
#include "checkpoint/checkpoint_files.h"
#include "checkpoint/checkpoint_items.h"
#include "checkpoint/checkpoint_steps.h"
#include "data/convert.h"
#include "model/accord.h"
#include "model/arranged.h"
#include "model/finite.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- finding ---- */

/* Is the last part of a path one of the files that name a step? */
static const char *naming_file(const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    return !strcmp(name, "best") || !strcmp(name, "latest") ? name : NULL;
}

/* The step that a file of a directory names. */
static int resolve_named(const char *directory, const char *file, char path[MLC_PATH_BYTES], mlc_error *error)
{
    char name[MLC_NAME_BYTES];
    int folder = mlc_folder_open(directory, error);
    if (folder < 0)
        return error->status;
    int status = mlc_step_named(folder, file, directory, name, NULL, error);
    close(folder);
    return status ? status : mlc_path_join(path, directory, name, error);
}

static int resolve(const char *given, char path[MLC_PATH_BYTES], mlc_error *error)
{
    char latest[MLC_PATH_BYTES], directory[MLC_PATH_BYTES];
    const char *naming = naming_file(given);
    if (mlc_path_join(latest, given, "latest", error))
        return error->status;
    snprintf(path, MLC_PATH_BYTES, "%s", given);
    if (naming && mlc_path_is_file(given)) {
        snprintf(directory, sizeof directory, "%.*s", naming == given ? 1 : (int)(naming - given - 1), naming == given ? "." : given);
        return resolve_named(*directory ? directory : "/", naming, path, error);
    }
    return !access(latest, F_OK) ? resolve_named(given, "latest", path, error) : MLC_OK;
}

int mlc_checkpoint_resolve(mlc_rank *rank, const char *given, char path[MLC_PATH_BYTES], mlc_error *error)
{
    memset(path, 0, MLC_PATH_BYTES);
    if (rank->rank == 0)
        resolve(given, path, error);
    return mlc_accord(rank, error) ? error->status : mlc_accord_block(rank, path, MLC_PATH_BYTES, error);
}

/* ---- the files of a checkpoint, as its state lists them ---- */

typedef struct listing {
    const mlc_json *state;
    const char *directory;
    int folder;
} listing;

/* A file that is listed, and is there. */
static int check_file(const listing *list, const mlc_json_node *file, mlc_error *error)
{
    if (!mlc_json_string(file) || !*file->key || strchr(file->key, '/') || strlen(file->key) >= MLC_NAME_BYTES)
        return mlc_error_set(error, MLC_BAD_INPUT, "%s/state.json: damaged: file %.200s", list->directory, file->key);
    int fd = mlc_folder_read(list->folder, file->key, list->directory, error);
    if (fd >= 0)
        close(fd);
    return error->status;
}

static int check_files(const listing *list, int64_t *count, mlc_error *error)
{
    *count = 0;
    if (!mlc_state_files(list->state))
        return mlc_error_set(error, MLC_BAD_INPUT, "%s/state.json: damaged: no files", list->directory);
    for (const mlc_json_node *file = mlc_state_files(list->state); file; file = mlc_json_next(list->state, file), ++*count)
        if (check_file(list, file, error))
            return error->status;
    return MLC_OK;
}

static void name_of_listed(const mlc_hashed_files *files, int64_t number, char name[MLC_NAME_BYTES])
{
    const listing *list = files->context;
    const mlc_json_node *file = mlc_state_files(list->state);
    for (int64_t i = 0; i < number; i++)
        file = mlc_json_next(list->state, file);
    snprintf(name, MLC_NAME_BYTES, "%s", file->key);
}

/* Compares hashes that were read with those that are listed. */
static int compare_files(const listing *list, const mlc_hashed_files *files, mlc_error *error)
{
    char hex[65];
    int64_t number = 0;
    for (const mlc_json_node *file = mlc_state_files(list->state); file; file = mlc_json_next(list->state, file), number++) {
        if (number < files->first || number >= files->first + files->count)
            continue;
        mlc_sha256_hex(files->digests[number - files->first], hex);
        if (strcmp(hex, mlc_json_string(file)))
            return mlc_error_set(error, MLC_BAD_INPUT, "%s/%s: damaged: its checksum does not match", list->directory, file->key);
    }
    return MLC_OK;
}

static int verify_files(mlc_rank *rank, const listing *list, mlc_error *error)
{
    mlc_hashed_files files = {.name_of = name_of_listed, .context = list, .folder = list->folder, .path = list->directory};
    int64_t count;
    check_files(list, &count, error);
    if (mlc_accord(rank, error))
        return error->status;
    for (; files.first < count; files.first += MLC_HASHED_FILES) {
        files.count = count - files.first < MLC_HASHED_FILES ? count - files.first : MLC_HASHED_FILES;
        if (mlc_hashed_files_read(&files, rank, error) || compare_files(list, &files, error))
            return error->status;
    }
    return MLC_OK;
}

/* All ranks go on with one state: with others each they would verify other files, and end apart. */
static int compare_states(mlc_rank *rank, int folder, const char *path, mlc_error *error)
{
    size_t bytes = 0;
    char *text = mlc_folder_text(folder, "state.json", path, MLC_STATE_BYTES, &bytes, error);
    if (!mlc_accord(rank, error))
        mlc_alike_bytes(rank, path, text, bytes, error);
    free(text);
    return error->status;
}

/* Opens a step directory and checks that it is whole. `state` is to be freed whatever comes out. */
static int open_whole(mlc_rank *rank, mlc_json *state, const char *path, mlc_error *error)
{
    listing list = {state, path, -1};
    *state = (mlc_json){0};
    if (!mlc_path_is_directory(path))
        mlc_error_set(error, MLC_BAD_INPUT, "%s: no such directory", path);
    else
        list.folder = mlc_folder_open(path, error);
    if (list.folder >= 0)
        mlc_state_open(state, list.folder, path, error);
    bool whole = !mlc_accord(rank, error) && !compare_states(rank, list.folder, path, error) && !verify_files(rank, &list, error);
    if (list.folder >= 0)
        close(list.folder);
    return whole ? MLC_OK : error->status;
}

/* ---- the newest ---- */

/* Says which runs there are when `latest` does not. */
static int refuse_several(const char *directory, const mlc_step *one, const mlc_step *other, mlc_error *error)
{
    return mlc_error_set(error, MLC_BAD_INPUT, "%s: `latest` names no step that can be read, and there are steps of several runs: %s of run "
                         "%.8s, %s of run %.8s; name one: --resume %s/%s", directory, one->name, one->run, other->name, other->run,
                         directory, one->name);
}

/* The run that `latest` names, else the only one there; "" when no step can be read. */
static int find_run(int folder, const char *directory, char run[MLC_RUN_BYTES], mlc_error *error)
{
    char name[MLC_NAME_BYTES];
    mlc_error ignored = {0};
    mlc_steps steps = {.folder = folder};
    mlc_step step, first = {0};
    run[0] = 0;
    if (!mlc_step_named(folder, "latest", directory, name, NULL, &ignored))
        mlc_step_run(folder, name, run);
    while (!*run && mlc_steps_next(&steps, &step)) {
        if (*step.run && *first.run && strcmp(step.run, first.run))
            return refuse_several(directory, &first, &step, error);
        if (!*first.run)
            first = step;
    }
    if (!*run)
        memcpy(run, first.run, MLC_RUN_BYTES);
    return MLC_OK;
}

/* A search for the newest, of rank 0. */
typedef struct search {
    int folder; /* -1: there is no directory */
    mlc_steps steps;
    char run[MLC_RUN_BYTES];
    mlc_step step;
    int64_t passed_over;
} search;

static int begin_search(search *found, const char *directory, mlc_error *error)
{
    *found = (search){.folder = -1};
    if (!mlc_path_is_directory(directory))
        return MLC_OK;
    found->folder = found->steps.folder = mlc_folder_open(directory, error);
    return found->folder < 0 ? error->status : find_run(found->folder, directory, found->run, error);
}

/* The next older step that is of the run, or that cannot be read. "": no more. */
static int find_next(search *found, const char *directory, char path[MLC_PATH_BYTES], mlc_error *error)
{
    bool more = found->folder >= 0 && mlc_steps_next(&found->steps, &found->step);
    while (more && *found->step.run && strcmp(found->step.run, found->run))
        more = mlc_steps_next(&found->steps, &found->step);
    if (more)
        return mlc_path_join(path, directory, found->step.name, error);
    if (found->passed_over)
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: no checkpoint there is whole; start afresh in another directory, or with --fresh",
                             directory);
    return MLC_OK;
}

static void pass_over(mlc_rank *rank, search *found, const mlc_error *why)
{
    char text[sizeof why->text + 40];
    found->passed_over++;
    snprintf(text, sizeof text, "checkpoint passed over: %s", why->text);
    if (rank->rank == 0 && rank->note)
        rank->note(rank->listener, text);
}

/* A name that is a link to a directory is none of ours. Rank 0 decides. */
static int check_linked(mlc_rank *rank, const search *found, const char *path, mlc_error *error)
{
    int folder = rank->rank ? -1 : mlc_folder_enter(found->folder, found->step.name);
    if (folder >= 0)
        close(folder);
    else if (rank->rank == 0)
        mlc_error_system(error, MLC_BAD_INPUT, "%s: not a directory of its own", path);
    return mlc_accord(rank, error);
}

static int search_newest(mlc_rank *rank, search *found, const char *directory, char path[MLC_PATH_BYTES], mlc_error *error)
{
    while (true) {
        mlc_error why = {0};
        mlc_json state = {0};
        memset(path, 0, MLC_PATH_BYTES);
        if (rank->rank == 0)
            find_next(found, directory, path, error);
        if (mlc_accord(rank, error) || mlc_accord_block(rank, path, MLC_PATH_BYTES, error) || !*path)
            return error->status;
        int status = check_linked(rank, found, path, &why) ? why.status : open_whole(rank, &state, path, &why);
        mlc_json_free(&state);
        if (status != MLC_BAD_INPUT)
            return status ? mlc_error_set(error, status, "%s", why.text) : MLC_OK;
        pass_over(rank, found, &why);
    }
}

int mlc_checkpoint_newest(mlc_rank *rank, const char *directory, char path[MLC_PATH_BYTES], mlc_error *error)
{
    search found = {.folder = -1};
    memset(path, 0, MLC_PATH_BYTES);
    if (rank->rank == 0)
        begin_search(&found, directory, error);
    if (!mlc_accord(rank, error))
        search_newest(rank, &found, directory, path, error);
    if (found.folder >= 0)
        close(found.folder);
    return error->status;
}

/* ---- a checkpoint being loaded ---- */

typedef struct loading {
    mlc_rank *rank;
    const char *path;
    mlc_allowed allowed;
    mlc_json state;
    mlc_error *error;
    uint64_t step, cursor, seed;
} loading;

static const mlc_json_node *state_member(const loading *load, const char *key)
{
    return mlc_json_member(&load->state, &load->state.nodes[0], key);
}

static int match_state(loading *load)
{
    const char *format = mlc_json_string(state_member(load, "format"));
    bool whole = mlc_json_whole(state_member(load, "step"), &load->step) && mlc_json_whole(state_member(load, "cursor"), &load->cursor) &&
                 mlc_json_whole(state_member(load, "seed"), &load->seed) && load->step < INT64_MAX && load->cursor < INT64_MAX;
    if (!format || strcmp(format, MLC_CHECKPOINT_FORMAT) || !whole)
        return mlc_error_set(load->error, MLC_BAD_INPUT, "%s/state.json: damaged, or not of format \"" MLC_CHECKPOINT_FORMAT "\"",
                             load->path);
    if (mlc_items_check_allowed(load->rank, &load->state, load->allowed, load->error))
        return load->error->status;
    return mlc_items_match(load->rank, &load->state, load->path, load->allowed, load->error);
}

static int match_entry(const loading *load, const mlc_entry *entry, const mlc_stored *stored)
{
    if (!stored)
        return mlc_error_set(load->error, MLC_BAD_INPUT, "%s: tensor %s is missing", load->path, entry->name);
    const char *dtype = mlc_dtype_wide(load->rank->model)->stored;
    bool fits = !strcmp(stored->dtype, dtype) && stored->rank == entry->rank;
    for (int i = 0; fits && i < entry->rank; i++)
        fits = stored->shape[i] == entry->shape[i];
    if (fits)
        return MLC_OK;
    char theirs[128], ours[128];
    mlc_convert_shape_text(theirs, sizeof theirs, stored->shape, stored->rank);
    mlc_convert_shape_text(ours, sizeof ours, entry->shape, entry->rank);
    return mlc_error_set(load->error, MLC_BAD_INPUT, "%s: tensor %s: the checkpoint has %s%s, this program %s%s", load->path, entry->name,
                         stored->dtype, theirs, dtype, ours);
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
    uint64_t unit = mlc_wide_bytes(rank->model);
    if (held) {
        mlc_lying master = {held->master, (int64_t)unit, mlc_arranged_master(rank->model, entry->parameter)};
        mlc_lying_write(&rank->arena, &master, entry->first, entry->first + entry->elements, data);
    }
    mlc_owned own = mlc_entry_own(rank, entry);
    if (entry->state >= 0 && own.begin < own.end)
        mlc_lying_write(&rank->arena, &own.lies, own.first + own.begin, own.first + own.end, data + (uint64_t)own.begin * unit);
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

/* No checkpoint is written of values that are not finite (checkpoint_save.c); this one is, or was changed. */
static int check_values(const loading *load)
{
    char name[MLC_FLAW_BYTES];
    int64_t flaw = mlc_finite_search(load->rank, -1);
    return flaw < 0 ? MLC_OK : mlc_error_set(load->error, MLC_BAD_INPUT, "%s: %s is not finite", load->path,
                                             mlc_flaw_name(name, load->rank->model, flaw));
}

static int load_tensors(const loading *load)
{
    const mlc_catalog *catalog = &load->rank->catalog;
    mlc_bundle model = {0}, optimizer = {0};
    bool open = !mlc_bundle_open_directory(&model, load->path, "model", load->error) &&
                !mlc_bundle_open_directory(&optimizer, load->path, "optimizer", load->error);
    if (open && !match_entries(load, &model, &catalog->parameters))
        match_entries(load, &optimizer, &catalog->states);
    if (!mlc_accord(load->rank, load->error) &&
        !mlc_alike_files(load->rank, load->path, (const mlc_bundle *[]){&model, &optimizer}, 2, load->error)) {
        take_entries(load, &model, &catalog->parameters);
        take_entries(load, &optimizer, &catalog->states);
        if (!mlc_bundle_check(&model, load->error) && !mlc_bundle_check(&optimizer, load->error))
            check_values(load);
        mlc_accord(load->rank, load->error);
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
    load->rank->is_resumed = true;
    load->rank->resumed = (int64_t)load->step;
    snprintf(load->rank->run, MLC_RUN_BYTES, "%s", mlc_state_run(&load->state));
    mlc_items_say(load->rank, &load->state, load->path, load->allowed);
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
