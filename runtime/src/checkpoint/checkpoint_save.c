/* checkpoint_save.c: writing a checkpoint; see checkpoint.h.
 *
 *   rank 0       makes DIR/.mlc-<random> and every file in it: headers and indexes whole, data a hole
 *   every rank   puts the elements that it owns into the files, and syncs them
 *   every rank   reads its share of the files back: their SHA-256
 *   rank 0       writes state.json with the hashes of all files
 *   rank 0       renames to DIR/step-00000100, then replaces DIR/latest
 *
 * The ranks agree after each part. So a save that fails or is killed leaves a temporary name at most, never a half checkpoint
 * under a whole one's name. Every name is reached from the directory's descriptor, and none through a link.
 */
#include "checkpoint/checkpoint.h"
#include "checkpoint/checkpoint_files.h"
#include "checkpoint/checkpoint_home.h"
#include "checkpoint/checkpoint_items.h"
#include "checkpoint/checkpoint_steps.h"
#include "checkpoint/safetensors.h"
#include "model/accord.h"
#include "model/finite.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SHARD_BYTES (4LL << 30)

/* A checkpoint being written. */
typedef struct saving {
    mlc_rank *rank;
    char temporary[MLC_NAME_BYTES];
    char written[MLC_PATH_BYTES]; /* the directory under its temporary name, for messages */
    int folder;                   /* it */
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
        bytes += entries->items[i].elements * entries->dtype->bytes;
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
        bytes += entries->items[i].elements * entries->dtype->bytes;
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

static int create_index(const saving *save, const part *file)
{
    mlc_writer index;
    if (mlc_folder_create(&index, save->folder, file->name, save->written, save->error))
        return save->error->status;
    put_index(&index, file->stem, file->entries);
    return mlc_writer_close(&index, true);
}

static int create_part(const saving *save, const part *file)
{
    if (file->is_index)
        return create_index(save, file);
    return mlc_safetensors_create(save->folder, file->name, save->written, file->entries, file->first, file->last, save->error);
}

static int create_files(saving *save)
{
    const mlc_home *home = &save->rank->home;
    if (mlc_home_choose(home, save->temporary, save->error))
        return save->error->status;
    if (mkdirat(home->folder, save->temporary, 0777))
        return mlc_error_system(save->error, MLC_FAILED, "%s: checkpoints cannot be written there", home->path);
    return MLC_OK;
}

static int fill_folder(saving *save)
{
    const mlc_catalog *catalog = &save->rank->catalog;
    for (int64_t i = 0; i < part_count(catalog); i++) {
        part file = part_at(catalog, i);
        if (create_part(save, &file))
            return save->error->status;
    }
    return MLC_OK;
}

/* ---- every rank: its elements ---- */

/* Opens the directory that rank 0 has made. */
static int open_folder(saving *save, const char *directory)
{
    int above = mlc_folder_open(directory, save->error);
    if (above < 0)
        return save->error->status;
    save->folder = mlc_folder_enter(above, save->temporary);
    if (save->folder < 0)
        mlc_error_system(save->error, MLC_FAILED, "%s/%s", directory, save->temporary);
    close(above);
    return save->error->status ? save->error->status : mlc_path_join(save->written, directory, save->temporary, save->error);
}

static int fill_files(const saving *save)
{
    const mlc_catalog *catalog = &save->rank->catalog;
    for (int64_t i = 0; i < part_count(catalog); i++) {
        part file = part_at(catalog, i);
        if (file.is_index)
            continue;
        if (mlc_safetensors_fill(save->folder, file.name, save->written, file.entries, file.first, file.last, save->rank, save->error))
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
    mlc_writer_print(state, "  \"run\": \"%s\",\n", *rank->run ? rank->run : MLC_RUN_UNNAMED);
    mlc_items_put(state, rank);
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

static void name_of_part(const mlc_hashed_files *files, int64_t number, char name[MLC_NAME_BYTES])
{
    const saving *save = files->context;
    part file = part_at(&save->rank->catalog, number);
    memcpy(name, file.name, MLC_NAME_BYTES);
}

/* All ranks read the files back; `state` is rank 0's, NULL elsewhere. */
static int hash_files(saving *save, mlc_writer *state)
{
    const mlc_catalog *catalog = &save->rank->catalog;
    mlc_hashed_files files = {.name_of = name_of_part, .context = save, .folder = save->folder, .path = save->written};
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
    mlc_writer state;
    if (mlc_folder_create(&state, save->folder, "state.json", save->written, save->error))
        return hash_files(save, NULL);
    put_state(&state, save->rank);
    int status = hash_files(save, &state);
    put_checksum(&state);
    if (!mlc_writer_close(&state, true) && fsync(save->folder))
        mlc_error_system(save->error, MLC_FAILED, "%s: cannot be synced", save->written);
    return status;
}

/* ---- the whole ---- */

/* Rank 0 holds the directory and makes its part of it; the others learn the name. */
static int begin(saving *save, const char *directory)
{
    mlc_rank *rank = save->rank;
    if (rank->rank == 0 && !mlc_home_retake(rank, directory, save->error))
        create_files(save);
    if (mlc_accord(rank, save->error) || mlc_accord_block(rank, save->temporary, sizeof save->temporary, save->error))
        return save->error->status;
    if (!open_folder(save, directory) && rank->rank == 0)
        fill_folder(save);
    return mlc_accord(rank, save->error);
}

static int save_parts(saving *save, const char *directory)
{
    if (begin(save, directory))
        return save->error->status;
    fill_files(save);
    if (mlc_accord(save->rank, save->error))
        return save->error->status;
    int status = save->rank->rank == 0 ? save_state(save) : hash_files(save, NULL);
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

/* Nothing is published that is not finite. All ranks know. */
static int check_values(const saving *save)
{
    char name[MLC_FLAW_BYTES];
    int64_t flaw = mlc_finite_search(save->rank, -1);
    if (flaw >= 0)
        mlc_error_set(save->error, MLC_NOT_FINITE, "no checkpoint of step %lld: %s is not finite", (long long)save->rank->step,
                      mlc_flaw_name(name, save->rank->model, flaw));
    return mlc_accord(save->rank, save->error);
}

int mlc_checkpoint_save(mlc_rank *rank, const char *directory, mlc_error *error)
{
    saving save = {.rank = rank, .folder = -1, .error = error};
    if (check_values(&save))
        return error->status;
    int status = save_parts(&save, directory);
    if (save.folder >= 0)
        close(save.folder);
    if (rank->rank == 0 && *save.temporary && (status || mlc_home_publish(rank, save.temporary, error)))
        mlc_home_discard(rank, save.temporary);
    if (status)
        return wait_clean(rank, status);
    if (mlc_accord(rank, error))
        return error->status;
    rank->is_resumed = true;
    rank->resumed = rank->step;
    return MLC_OK;
}
