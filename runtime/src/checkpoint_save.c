/* checkpoint_save.c: writing a checkpoint; see checkpoint.h.
 *
 *   rank 0       makes DIR/.step-00000100.tmp and every file in it: headers and indexes whole, data a hole
 *   every rank   puts the elements that it owns into the files, and syncs them
 *   every rank   reads its share of the files back: their SHA-256
 *   rank 0       writes state.json with the hashes of all files
 *   rank 0       renames to DIR/step-00000100, then replaces DIR/latest
 *
 * The ranks agree after each part. So a save that fails or is killed leaves a temporary name at most, never a half checkpoint
 * under a whole one's name.
 */
#include "accord.h"
#include "checkpoint.h"
#include "checkpoint_files.h"
#include "safetensors.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SHARD_BYTES (4LL << 30)

/* A checkpoint being written. */
typedef struct saving {
    mlc_rank *rank;
    char written[MLC_PATH_BYTES]; /* the directory under its temporary name */
    mlc_error *error;
} saving;

/* ---- the files: of each stem the shards, then their index ---- */

typedef struct part {
    char name[MLC_NAME_BYTES];
    const char *stem;
    const mlc_entries *entries;
    int64_t first, last; /* entries of a shard */
    bool is_index;
} part;

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

static void shard_name(char name[MLC_NAME_BYTES], const char *stem, int64_t shard, int64_t shards)
{
    snprintf(name, MLC_NAME_BYTES, "%s-%05lld-of-%05lld.safetensors", stem, (long long)shard + 1, (long long)shards);
}

static int64_t part_count(const mlc_catalog *catalog)
{
    return shard_count(&catalog->parameters) + 1 + shard_count(&catalog->states) + 1;
}

static part part_at(const mlc_catalog *catalog, int64_t number)
{
    int64_t models = shard_count(&catalog->parameters) + 1;
    bool model = number < models;
    part file = {.stem = model ? "model" : "optimizer", .entries = model ? &catalog->parameters : &catalog->states};
    int64_t shard = model ? number : number - models, shards = shard_count(file.entries);
    file.is_index = shard == shards;
    if (file.is_index) {
        snprintf(file.name, sizeof file.name, "%s.safetensors.index.json", file.stem);
        return file;
    }
    for (int64_t i = 0; i < shard; i++)
        file.first = shard_end(file.entries, file.first);
    file.last = shard_end(file.entries, file.first);
    shard_name(file.name, file.stem, shard, shards);
    return file;
}

/* ---- rank 0: the directory and its files ---- */

static void put_index(mlc_writer *index, const char *stem, const mlc_entries *entries)
{
    int64_t bytes = 0, shards = shard_count(entries), shard = 0;
    for (int64_t i = 0; i < entries->count; i++)
        bytes += entries->items[i].elements * (int64_t)sizeof(float);
    mlc_writer_print(index, "{\n  \"metadata\": {\"total_size\": %lld},\n  \"weight_map\": {", (long long)bytes);
    for (int64_t first = 0; first < entries->count; first = shard_end(entries, first), shard++) {
        int64_t last = shard_end(entries, first);
        for (int64_t i = first; i < last; i++) {
            char name[MLC_NAME_BYTES];
            shard_name(name, stem, shard, shards);
            mlc_writer_print(index, "%s\n    ", i ? "," : "");
            mlc_writer_quote(index, entries->items[i].name);
            mlc_writer_print(index, ": \"%s\"", name);
        }
    }
    mlc_writer_print(index, "\n  }\n}\n");
}

static int create_index(const part *file, const char *path, mlc_error *error)
{
    mlc_writer index;
    if (mlc_writer_open(&index, path, false, error))
        return error->status;
    put_index(&index, file->stem, file->entries);
    return mlc_writer_close(&index, true);
}

static int create_part(const saving *save, const part *file)
{
    char path[MLC_PATH_BYTES];
    if (mlc_path_join(path, save->written, file->name, save->error))
        return save->error->status;
    if (file->is_index)
        return create_index(file, path, save->error);
    return mlc_safetensors_create(path, file->entries, file->first, file->last, save->error);
}

static int create_files(saving *save, const char *directory)
{
    if (mlc_directory_make(directory, save->error))
        return save->error->status;
    mlc_directory_remove(save->written);
    if (mkdir(save->written, 0777))
        return mlc_error_system(save->error, MLC_BAD_INPUT, "%s", save->written);
    const mlc_catalog *catalog = &save->rank->catalog;
    for (int64_t i = 0; i < part_count(catalog); i++) {
        part file = part_at(catalog, i);
        if (create_part(save, &file))
            return save->error->status;
    }
    return MLC_OK;
}

/* ---- every rank: its elements ---- */

static int fill_files(const saving *save)
{
    char path[MLC_PATH_BYTES];
    const mlc_catalog *catalog = &save->rank->catalog;
    for (int64_t i = 0; i < part_count(catalog); i++) {
        part file = part_at(catalog, i);
        if (file.is_index)
            continue;
        if (mlc_path_join(path, save->written, file.name, save->error) ||
            mlc_safetensors_fill(path, file.entries, file.first, file.last, save->rank, save->error))
            return save->error->status;
    }
    return MLC_OK;
}

/* ---- state.json ---- */

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

static void put_state(mlc_writer *state, const mlc_rank *rank)
{
    mlc_writer_print(state, "{\n  \"format\": \"" MLC_CHECKPOINT_FORMAT "\",\n  \"model\": ");
    mlc_writer_quote(state, rank->model->name);
    mlc_writer_print(state, ",\n  \"step\": %lld,\n  \"cursor\": %lld,\n  \"seed\": %llu,\n", (long long)rank->step,
                     (long long)rank->cursor, (unsigned long long)rank->seed);
    mlc_writer_print(state, "  \"order\": \"%s\",\n  \"examples\": %lld,\n", rank->sequential ? "sequential" : "shuffled",
                     (long long)rank->examples);
    mlc_writer_print(state, "  \"hash\": \"%s\",\n", rank->model->hash);
    put_items(state, rank->model->description ? rank->model->description : "");
    mlc_writer_print(state, "  \"files\": {");
}

static void put_files(mlc_writer *state, const mlc_catalog *catalog, const mlc_hashed_files *files)
{
    for (int64_t i = files->first; i < files->first + files->count; i++) {
        char hex[65];
        part file = part_at(catalog, i);
        mlc_sha256_hex(files->digests[i - files->first], hex);
        mlc_writer_print(state, "%s\n    \"%s\": \"%s\"", i ? "," : "", file.name, hex);
    }
}

/* The last line holds the SHA-256 of all bytes before it. */
static void put_checksum(mlc_writer *state)
{
    char hex[65];
    mlc_writer_print(state, "\n  },\n");
    mlc_writer_hex(state, hex);
    mlc_writer_print(state, "  \"checksum\": \"%s\"\n}\n", hex);
}

static int path_of_part(const mlc_hashed_files *files, int64_t number, char path[MLC_PATH_BYTES], mlc_error *error)
{
    const saving *save = files->context;
    part file = part_at(&save->rank->catalog, number);
    return mlc_path_join(path, save->written, file.name, error);
}

/* All ranks read the files back; `state` is rank 0's, NULL elsewhere. */
static int hash_files(saving *save, mlc_writer *state)
{
    const mlc_catalog *catalog = &save->rank->catalog;
    mlc_hashed_files files = {.path_of = path_of_part, .context = save};
    int64_t count = part_count(catalog);
    for (; files.first < count; files.first += MLC_HASHED_FILES) {
        files.count = count - files.first < MLC_HASHED_FILES ? count - files.first : MLC_HASHED_FILES;
        if (mlc_hashed_files_read(&files, save->rank, save->error))
            return save->error->status;
        if (state)
            put_files(state, catalog, &files);
    }
    return MLC_OK;
}

/* Rank 0 writes state.json while all read the files back. Returns what all ranks know of that; what goes wrong here alone is
 * recorded only. */
static int save_state(saving *save)
{
    char path[MLC_PATH_BYTES];
    mlc_writer state;
    if (mlc_path_join(path, save->written, "state.json", save->error) || mlc_writer_open(&state, path, false, save->error))
        return hash_files(save, NULL);
    put_state(&state, save->rank);
    int status = hash_files(save, &state);
    put_checksum(&state);
    if (!mlc_writer_close(&state, true))
        mlc_directory_sync(save->written, save->error);
    return status;
}

/* ---- rank 0: the name ---- */

/* Gives the written directory its name. One of that name (a damaged one, or the same step again) is swapped out and removed. */
static int publish(char *written, char *name, mlc_error *error)
{
    if (!mlc_path_is_directory(name))
        return rename(written, name) ? mlc_error_system(error, MLC_FAILED, "%s", name) : MLC_OK;
    if (syscall(SYS_renameat2, AT_FDCWD, written, AT_FDCWD, name, 2 /* RENAME_EXCHANGE */)) {
        mlc_directory_remove(name); /* a file system that cannot swap */
        if (rename(written, name))
            return mlc_error_system(error, MLC_FAILED, "%s", name);
    }
    mlc_directory_remove(written);
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
    return mlc_directory_sync(directory, error);
}

static int name_files(saving *save, const char *directory)
{
    char step[MLC_NAME_BYTES], path[MLC_PATH_BYTES];
    snprintf(step, sizeof step, "step-%08lld", (long long)save->rank->step);
    if (mlc_path_join(path, directory, step, save->error) || publish(save->written, path, save->error) ||
        mlc_directory_sync(directory, save->error))
        return save->error->status;
    return save_latest(directory, step, save->error);
}

/* ---- the whole ---- */

static int save_parts(saving *save, const char *directory)
{
    bool first = save->rank->rank == 0;
    if (first)
        create_files(save, directory);
    if (mlc_accord(save->rank, save->error))
        return save->error->status;
    fill_files(save);
    if (mlc_accord(save->rank, save->error))
        return save->error->status;
    int status = first ? save_state(save) : hash_files(save, NULL);
    return status ? status : mlc_accord(save->rank, save->error);
}

/* After a failure: what rank 0 removes is gone before any rank leaves, and perhaps ends all processes. */
static int wait_clean(mlc_rank *rank, int status)
{
    char nothing = 0;
    mlc_error ignored = {0};
    mlc_accord_block(rank, &nothing, sizeof nothing, &ignored);
    return status;
}

int mlc_checkpoint_save(mlc_rank *rank, const char *directory, mlc_error *error)
{
    char hidden[MLC_NAME_BYTES];
    saving save = {.rank = rank, .error = error};
    snprintf(hidden, sizeof hidden, ".step-%08lld.tmp", (long long)rank->step);
    if (mlc_path_join(save.written, directory, hidden, error))
        return error->status; /* the same on every rank */
    int status = save_parts(&save, directory);
    if (rank->rank == 0 && (status || name_files(&save, directory)))
        mlc_directory_remove(save.written);
    return status ? wait_clean(rank, status) : mlc_accord(rank, error);
}
