/* checkpoint.c: see checkpoint.h.
 *
 * Saving:   the files of DIR/.step-00000100.tmp written and synced -> renamed to DIR/step-00000100 -> DIR/latest replaced.
 * A save that is killed leaves a temporary name, never a half checkpoint under a whole one's name.
 * Directories are read with getdents64, because opendir allocates.
 */
#include "checkpoint.h"

#include "bundle.h"
#include "convert.h"
#include "json.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SHARD_BYTES (4LL << 30)
#define FORMAT "mlc checkpoint 1"
#define NAME_BYTES 64

/* ---- directories ---- */

/* Calls visit(context, name) for each name in a directory but . and .. ; stops when visit returns false. */
static void each_name(const char *directory, bool (*visit)(void *context, const char *name), void *context)
{
    _Alignas(8) char buffer[8192];
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return;
    bool more = true;
    for (long bytes; more && (bytes = syscall(SYS_getdents64, fd, buffer, sizeof buffer)) > 0;) {
        struct dirent64 *entry;
        for (long at = 0; more && at < bytes; at += entry->d_reclen) {
            entry = (struct dirent64 *)(buffer + at);
            more = !strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..") || visit(context, entry->d_name);
        }
    }
    close(fd);
}

static bool remove_name(void *directory, const char *name)
{
    char path[MLC_PATH_BYTES];
    mlc_error ignored = {0};
    if (!mlc_path_join(path, directory, name, &ignored))
        unlink(path);
    return true;
}

/* Removes a directory of files. */
static void remove_directory(char *directory)
{
    each_name(directory, remove_name, directory);
    rmdir(directory);
}

static int sync_directory(const char *directory, mlc_error *error)
{
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd))
        mlc_error_system(error, MLC_FAILED, "%s: cannot be synced", directory);
    if (fd >= 0)
        close(fd);
    return error->status;
}

/* Makes a directory and those above it. */
static int make_directory(const char *directory, mlc_error *error)
{
    char path[MLC_PATH_BYTES];
    snprintf(path, sizeof path, "%s", directory);
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        mkdir(path, 0777);
        *slash = '/';
    }
    if (mkdir(path, 0777) && errno != EEXIST)
        return mlc_error_system(error, MLC_BAD_INPUT, "%s", directory);
    return mlc_path_is_directory(path) ? MLC_OK : mlc_error_set(error, MLC_BAD_INPUT, "%s: not a directory", directory);
}

/* ---- saving ---- */

/* The end of the shard that starts at entry `first`: as many tensors as fit, at least one. */
static int64_t shard_end(const mlc_entries *entries, int64_t first)
{
    int64_t bytes = 0, i = first;
    for (; i < entries->count; i++) {
        bytes += entries->items[i].elements * (int64_t)sizeof(float);
        if (i > first && bytes > SHARD_BYTES)
            break;
    }
    return i;
}

static int64_t shard_count(const mlc_entries *entries)
{
    int64_t shards = 0;
    for (int64_t first = 0; first < entries->count; first = shard_end(entries, first))
        shards++;
    return shards;
}

static void shard_name(char name[NAME_BYTES], const char *stem, int64_t shard, int64_t shards)
{
    snprintf(name, NAME_BYTES, "%s-%05lld-of-%05lld.safetensors", stem, (long long)shard + 1, (long long)shards);
}

/* Says in state.json that a file belongs to the checkpoint. */
static void put_file(mlc_writer *state, const char *name, const char *hex, bool *begun)
{
    mlc_writer_print(state, "%s\n    \"%s\": \"%s\"", *begun ? "," : "", name, hex);
    *begun = true;
}

static void put_index(mlc_writer *index, const char *stem, const mlc_entries *entries)
{
    int64_t bytes = 0, shards = shard_count(entries), shard = 0;
    for (int64_t i = 0; i < entries->count; i++)
        bytes += entries->items[i].elements * (int64_t)sizeof(float);
    mlc_writer_print(index, "{\n  \"metadata\": {\"total_size\": %lld},\n  \"weight_map\": {", (long long)bytes);
    for (int64_t first = 0; first < entries->count; first = shard_end(entries, first), shard++)
        for (int64_t i = first; i < shard_end(entries, first); i++) {
            char name[NAME_BYTES];
            shard_name(name, stem, shard, shards);
            mlc_writer_print(index, "%s\n    ", i ? "," : "");
            mlc_writer_quote(index, entries->items[i].name);
            mlc_writer_print(index, ": \"%s\"", name);
        }
    mlc_writer_print(index, "\n  }\n}\n");
}

static int save_index(mlc_writer *state, const char *directory, const char *stem, const mlc_entries *entries, bool *begun, mlc_error *error)
{
    char name[NAME_BYTES], path[MLC_PATH_BYTES], hex[65];
    mlc_writer index;
    snprintf(name, sizeof name, "%s.safetensors.index.json", stem);
    if (mlc_path_join(path, directory, name, error) || mlc_writer_open(&index, path, false, error))
        return error->status;
    put_index(&index, stem, entries);
    mlc_writer_hex(&index, hex);
    if (!mlc_writer_close(&index, true))
        put_file(state, name, hex, begun);
    return error->status;
}

static int save_tensors(mlc_writer *state, const mlc_session *session, const char *directory, const char *stem, const mlc_entries *entries,
                        bool *begun, mlc_error *error)
{
    int64_t shards = shard_count(entries), shard = 0;
    for (int64_t first = 0; first < entries->count; first = shard_end(entries, first), shard++) {
        char name[NAME_BYTES], path[MLC_PATH_BYTES], hex[65];
        shard_name(name, stem, shard, shards);
        if (mlc_path_join(path, directory, name, error) ||
            mlc_safetensors_write(path, entries, first, shard_end(entries, first), session->arena.base, hex, error))
            return error->status;
        put_file(state, name, hex, begun);
    }
    return save_index(state, directory, stem, entries, begun, error);
}

/* The items behind the model's hash, one a line of its description. */
static void put_items(mlc_writer *state, const char *description)
{
    mlc_writer_print(state, "  \"items\": [");
    for (const char *line = description; *line;) {
        char text[900];
        int length = (int)strcspn(line, "\n");
        snprintf(text, sizeof text, "%.*s", length < 899 ? length : 899, line);
        mlc_writer_print(state, "%s\n    ", line == description ? "" : ",");
        mlc_writer_quote(state, text);
        line += length + (line[length] == '\n');
    }
    mlc_writer_print(state, "\n  ],\n");
}

static void put_state(mlc_writer *state, const mlc_session *session)
{
    mlc_writer_print(state, "{\n  \"format\": \"" FORMAT "\",\n  \"model\": ");
    mlc_writer_quote(state, session->model->name);
    mlc_writer_print(state, ",\n  \"step\": %lld,\n  \"cursor\": %lld,\n  \"seed\": %llu,\n", (long long)session->step,
                     (long long)session->cursor, (unsigned long long)session->seed);
    mlc_writer_print(state, "  \"order\": \"%s\",\n  \"examples\": %lld,\n", session->sequential ? "sequential" : "shuffled",
                     (long long)session->examples);
    mlc_writer_print(state, "  \"hash\": \"%s\",\n", session->model->hash);
    put_items(state, session->model->description ? session->model->description : "");
}

/* The last line holds the SHA-256 of all bytes before it. */
static void put_checksum(mlc_writer *state)
{
    char hex[65];
    mlc_writer_hex(state, hex);
    mlc_writer_print(state, "  \"checksum\": \"%s\"\n}\n", hex);
}

static int save_files(mlc_writer *state, const mlc_session *session, const char *directory, mlc_error *error)
{
    bool begun = false;
    put_state(state, session);
    mlc_writer_print(state, "  \"files\": {");
    save_tensors(state, session, directory, "model", &session->catalog.parameters, &begun, error);
    if (!error->status)
        save_tensors(state, session, directory, "optimizer", &session->catalog.states, &begun, error);
    mlc_writer_print(state, "\n  },\n");
    put_checksum(state);
    return mlc_writer_close(state, true);
}

static int save_directory(const mlc_session *session, const char *directory, mlc_error *error)
{
    char path[MLC_PATH_BYTES];
    mlc_writer state;
    if (mkdir(directory, 0777))
        return mlc_error_system(error, MLC_BAD_INPUT, "%s", directory);
    if (mlc_path_join(path, directory, "state.json", error) || mlc_writer_open(&state, path, false, error))
        return error->status;
    return save_files(&state, session, directory, error) ? error->status : sync_directory(directory, error);
}

/* Gives the written directory its name. One of that name (a damaged one, or the same step again) is swapped out and removed. */
static int publish(char *written, char *name, mlc_error *error)
{
    if (!mlc_path_is_directory(name))
        return rename(written, name) ? mlc_error_system(error, MLC_FAILED, "%s", name) : MLC_OK;
    if (renameat2(AT_FDCWD, written, AT_FDCWD, name, RENAME_EXCHANGE)) {
        remove_directory(name); /* a file system that cannot swap */
        if (rename(written, name))
            return mlc_error_system(error, MLC_FAILED, "%s", name);
    }
    remove_directory(written);
    return MLC_OK;
}

static int save_latest(const char *directory, const char *step, mlc_error *error)
{
    char path[MLC_PATH_BYTES], written[MLC_PATH_BYTES];
    mlc_writer latest;
    if (mlc_path_join(path, directory, "latest", error) || mlc_path_join(written, directory, ".latest.tmp", error) ||
        mlc_writer_open(&latest, written, false, error))
        return error->status;
    mlc_writer_print(&latest, "%s\n", step);
    if (mlc_writer_close(&latest, true))
        return error->status;
    if (rename(written, path))
        return mlc_error_system(error, MLC_FAILED, "%s", path);
    return sync_directory(directory, error);
}

int mlc_checkpoint_save(const mlc_session *session, const char *directory, mlc_error *error)
{
    char step[NAME_BYTES], hidden[NAME_BYTES], path[MLC_PATH_BYTES], written[MLC_PATH_BYTES];
    snprintf(step, sizeof step, "step-%08lld", (long long)session->step);
    snprintf(hidden, sizeof hidden, ".step-%08lld.tmp", (long long)session->step);
    if (make_directory(directory, error) || mlc_path_join(path, directory, step, error) || mlc_path_join(written, directory, hidden, error))
        return error->status;
    remove_directory(written);
    if (save_directory(session, written, error) || publish(written, path, error)) {
        remove_directory(written);
        return error->status;
    }
    return sync_directory(directory, error) ? error->status : save_latest(directory, step, error);
}

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
    char name[NAME_BYTES];
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

int mlc_checkpoint_newest(const char *directory, char path[MLC_PATH_BYTES], void (*skipped)(const mlc_error *why), mlc_error *error)
{
    search found = {.best = INT64_MAX};
    do {
        found = (search){.below = found.best, .best = -1};
        each_name(directory, consider, &found);
        path[0] = 0;
        if (found.best < 0)
            return MLC_OK;
        mlc_error why = {0};
        if (mlc_path_join(path, directory, found.name, error))
            return error->status;
        if (!mlc_checkpoint_verify(path, &why))
            return MLC_OK;
        if (skipped)
            skipped(&why);
    } while (found.best > 0);
    path[0] = 0;
    return MLC_OK;
}

static bool clean_name(void *directory, const char *name)
{
    char path[MLC_PATH_BYTES];
    mlc_error ignored = {0};
    bool left = (!strncmp(name, ".step-", 6) && mlc_path_ends(name, ".tmp")) || !strcmp(name, ".latest.tmp");
    if (left && !mlc_path_join(path, directory, name, &ignored)) {
        remove_directory(path);
        unlink(path);
    }
    return true;
}

int mlc_checkpoint_prepare(const char *directory, mlc_error *error)
{
    char path[MLC_PATH_BYTES];
    if (make_directory(directory, error))
        return error->status;
    if (access(directory, W_OK | X_OK))
        return mlc_error_system(error, MLC_BAD_INPUT, "%s: checkpoints cannot be written there", directory);
    snprintf(path, sizeof path, "%s", directory);
    each_name(path, clean_name, path);
    return MLC_OK;
}

/* Reads the one line of a `latest` file in a directory. */
static int read_latest(const char *directory, const char *latest, char path[MLC_PATH_BYTES], mlc_error *error)
{
    char name[NAME_BYTES] = "";
    mlc_mapping text;
    if (mlc_mapping_open(&text, latest, error))
        return error->status;
    for (size_t i = 0; i < text.bytes && i < NAME_BYTES - 1 && text.base[i] != '\n'; i++)
        name[i] = (char)text.base[i];
    mlc_mapping_close(&text);
    if (step_of(name) < 0)
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: damaged: names no checkpoint", latest);
    return mlc_path_join(path, directory, name, error);
}

int mlc_checkpoint_resolve(const char *given, char path[MLC_PATH_BYTES], mlc_error *error)
{
    char latest[MLC_PATH_BYTES];
    if (!mlc_path_is_directory(given))
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: no such directory", given);
    if (mlc_path_join(latest, given, "latest", error) || mlc_path_join(path, given, "", error))
        return error->status;
    path[strlen(path) - 1] = 0;
    return mlc_path_is_file(latest) ? read_latest(given, latest, path, error) : MLC_OK;
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
    return !memcmp(end, HEAD, sizeof HEAD - 1) && !memcmp(end + sizeof HEAD - 1, hex, 64) && !memcmp(end + sizeof HEAD - 1 + 64, TAIL, sizeof TAIL - 1);
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

static int verify_file(const char *directory, const mlc_json_node *file, mlc_error *error)
{
    char path[MLC_PATH_BYTES], hex[65];
    uint8_t digest[32];
    const char *expected = mlc_json_string(file);
    mlc_mapping mapping;
    if (!expected || strchr(file->key, '/'))
        return mlc_error_set(error, MLC_BAD_INPUT, "%s/state.json: damaged: file %.200s", directory, file->key);
    if (mlc_path_join(path, directory, file->key, error) || mlc_mapping_open(&mapping, path, error))
        return error->status;
    mlc_sha256 hash;
    mlc_sha256_begin(&hash);
    mlc_sha256_add(&hash, mapping.base, mapping.bytes);
    mlc_sha256_end(&hash, digest);
    mlc_sha256_hex(digest, hex);
    mlc_mapping_close(&mapping);
    if (strcmp(hex, expected))
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: damaged: its checksum does not match", path);
    return MLC_OK;
}

static int verify_files(const mlc_json *state, const char *directory, mlc_error *error)
{
    const mlc_json_node *files = mlc_json_member(state, &state->nodes[0], "files");
    if (!files || files->kind != MLC_JSON_OBJECT)
        return mlc_error_set(error, MLC_BAD_INPUT, "%s/state.json: damaged: no files", directory);
    for (const mlc_json_node *file = mlc_json_first(state, files); file; file = mlc_json_next(state, file))
        if (verify_file(directory, file, error))
            return error->status;
    return MLC_OK;
}

int mlc_checkpoint_verify(const char *path, mlc_error *error)
{
    mlc_json state;
    if (open_state(&state, path, error))
        return error->status;
    verify_files(&state, path, error);
    mlc_json_free(&state);
    return error->status;
}

/* ---- matching ---- */

/* A checkpoint being loaded. */
typedef struct loading {
    mlc_session *session;
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
    const char *description = load->session->model->description ? load->session->model->description : "";
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
    if (!strcmp(hash, load->session->model->hash))
        return MLC_OK;
    const char *description = load->session->model->description;
    return description && *description ? match_items(load) : differ(load, "hash", 4, hash, load->session->model->hash);
}

/* Order and number of examples, when both sides have data of their own. */
static int match_data(const loading *load)
{
    const mlc_session *session = load->session;
    uint64_t examples;
    const char *order = mlc_json_string(state_member(load, "order")), *ours = session->sequential ? "sequential" : "shuffled";
    if (!order || !mlc_json_whole(state_member(load, "examples"), &examples))
        return mlc_error_set(load->error, MLC_BAD_INPUT, "%s/state.json: damaged: no order or examples", load->path);
    if (!examples || !session->examples)
        return MLC_OK;
    if (strcmp(order, ours) && differ(load, "order", 5, order, ours))
        return load->error->status;
    char theirs[24], own[24];
    snprintf(theirs, sizeof theirs, "%llu", (unsigned long long)examples);
    snprintf(own, sizeof own, "%lld", (long long)session->examples);
    return strcmp(theirs, own) ? differ(load, "examples", 8, theirs, own) : MLC_OK;
}

static int match_state(loading *load)
{
    const char *format = mlc_json_string(state_member(load, "format"));
    bool whole = mlc_json_whole(state_member(load, "step"), &load->step) && mlc_json_whole(state_member(load, "cursor"), &load->cursor) &&
                 mlc_json_whole(state_member(load, "seed"), &load->seed) && load->step < INT64_MAX && load->cursor < INT64_MAX;
    if (!format || strcmp(format, FORMAT) || !whole)
        return mlc_error_set(load->error, MLC_BAD_INPUT, "%s/state.json: damaged, or not of format \"" FORMAT "\"", load->path);
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

/* Checks the tensors of a bundle, or, when that was done, copies them. */
static int load_entries(const loading *load, const mlc_bundle *bundle, const mlc_entries *entries, bool copy)
{
    int64_t held = 0;
    for (int64_t i = 0; i < bundle->count; i++)
        held += bundle->files[i].count;
    for (int64_t i = 0; i < entries->count; i++) {
        const mlc_entry *entry = &entries->items[i];
        const mlc_safetensors *file;
        const mlc_stored *stored = mlc_bundle_find(bundle, entry->name, &file);
        if (match_entry(load, entry, stored))
            return load->error->status;
        if (copy)
            memcpy(mlc_session_at(load->session, entry->at), file->data + stored->begin, (size_t)entry->elements * sizeof(float));
    }
    if (held != entries->count)
        return mlc_error_set(load->error, MLC_BAD_INPUT, "%s: %lld tensors, this program has %lld", load->path, (long long)held,
                             (long long)entries->count);
    return MLC_OK;
}

static int load_tensors(const loading *load)
{
    const mlc_catalog *catalog = &load->session->catalog;
    mlc_bundle model = {0}, optimizer = {0};
    if (!mlc_bundle_open_directory(&model, load->path, "model", load->error))
        mlc_bundle_open_directory(&optimizer, load->path, "optimizer", load->error);
    for (int copy = 0; copy < 2 && !load->error->status; copy++) {
        load_entries(load, &model, &catalog->parameters, copy);
        if (!load->error->status)
            load_entries(load, &optimizer, &catalog->states, copy);
    }
    mlc_bundle_close(&model);
    mlc_bundle_close(&optimizer);
    return load->error->status;
}

static int load_checked(loading *load)
{
    if (verify_files(&load->state, load->path, load->error) || match_state(load) || load_tensors(load))
        return load->error->status;
    load->session->step = (int64_t)load->step;
    load->session->cursor = (int64_t)load->cursor;
    load->session->seed = load->seed;
    return MLC_OK;
}

int mlc_checkpoint_load(mlc_session *session, const char *given, mlc_allowed allowed, mlc_error *error)
{
    char path[MLC_PATH_BYTES];
    if (mlc_checkpoint_resolve(given, path, error))
        return error->status;
    loading load = {.session = session, .path = path, .allowed = allowed, .error = error};
    if (open_state(&load.state, path, error))
        return error->status;
    load_checked(&load);
    mlc_json_free(&load.state);
    return error->status;
}
