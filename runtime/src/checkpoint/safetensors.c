/* safetensors.c: see safetensors.h. */
#include "checkpoint/safetensors.h"

#include "checkpoint/weights_kind.h"
#include "data/foreign.h"
#include "mlc.h"
#include "model/accord.h"
#include "system/folder.h"
#include "system/json.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HEADER_BYTES (100 << 20)  /* longer headers are refused, as the reference implementation does */
#define WRITE_BYTES (1 << 24)     /* at a time */
#define SYNC_BYTES (1 << 28)

/* ---- reading ---- */

static uint64_t dtype_bytes(const char *dtype)
{
    static const struct {
        const char *name;
        uint64_t bytes;
    } DTYPES[] = {{"BOOL", 1}, {"U8", 1}, {"I8", 1}, {"F8_E5M2", 1}, {"F8_E4M3", 1}, {"I16", 2}, {"U16", 2}, {"F16", 2},
                  {"BF16", 2}, {"I32", 4}, {"U32", 4}, {"F32", 4}, {"F64", 8}, {"I64", 8}, {"U64", 8}};
    for (size_t i = 0; i < sizeof DTYPES / sizeof *DTYPES; i++)
        if (!strcmp(DTYPES[i].name, dtype))
            return DTYPES[i].bytes;
    return 0;
}

static bool read_shape(const mlc_json *json, const mlc_json_node *shape, mlc_stored *tensor)
{
    if (!shape || shape->kind != MLC_JSON_ARRAY || shape->count > MLC_SAFETENSORS_RANK)
        return false;
    tensor->elements = 1;
    for (const mlc_json_node *size = mlc_json_first(json, shape); size; size = mlc_json_next(json, size)) {
        uint64_t value;
        if (!mlc_json_whole(size, &value) || value > INT64_MAX || __builtin_mul_overflow(tensor->elements, value, &tensor->elements))
            return false;
        tensor->shape[tensor->rank++] = (int64_t)value;
    }
    return true;
}

static bool read_offsets(const mlc_json *json, const mlc_json_node *offsets, mlc_stored *tensor)
{
    if (!offsets || offsets->kind != MLC_JSON_ARRAY || offsets->count != 2)
        return false;
    const mlc_json_node *begin = mlc_json_first(json, offsets);
    return mlc_json_whole(begin, &tensor->begin) && mlc_json_whole(mlc_json_next(json, begin), &tensor->end);
}

static int read_tensor(const mlc_safetensors *file, const mlc_json_node *member, mlc_stored *tensor, mlc_error *error)
{
    const mlc_json *json = file->json;
    uint64_t held = file->mapping.bytes - (uint64_t)(file->data - file->mapping.base), bytes;
    const char *dtype = mlc_json_string(mlc_json_member(json, member, "dtype"));
    *tensor = (mlc_stored){.name = member->key};
    if (member->kind != MLC_JSON_OBJECT || member->count != 3)
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: damaged: tensor %.200s has not one dtype, shape and data_offsets", file->path,
                             member->key);
    if (!dtype || !dtype_bytes(dtype))
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: tensor %.200s: unknown dtype %.20s", file->path, member->key,
                             dtype ? dtype : "(none)");
    snprintf(tensor->dtype, sizeof tensor->dtype, "%s", dtype);
    bool fits = read_shape(json, mlc_json_member(json, member, "shape"), tensor) &&
                read_offsets(json, mlc_json_member(json, member, "data_offsets"), tensor) &&
                !__builtin_mul_overflow(tensor->elements, dtype_bytes(dtype), &bytes) && tensor->begin <= tensor->end &&
                tensor->end <= held && tensor->end - tensor->begin == bytes;
    if (!fits)
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: damaged or truncated: shape and offsets of tensor %.200s do not fit the file",
                             file->path,
                             member->key);
    return MLC_OK;
}

static int by_offset(const void *a, const void *b)
{
    const mlc_stored *one = a, *other = b;
    if (one->begin != other->begin)
        return one->begin < other->begin ? -1 : 1;
    return one->end < other->end ? -1 : one->end > other->end;
}

/* Tensors fill the data without holes, and none lies on another. Sorts them by offset. */
static int check_filled(mlc_safetensors *file, mlc_error *error)
{
    uint64_t held = file->mapping.bytes - (uint64_t)(file->data - file->mapping.base), at = 0;
    qsort(file->tensors, (size_t)file->count, sizeof *file->tensors, by_offset);
    for (int64_t i = 0; i < file->count; at = file->tensors[i++].end)
        if (file->tensors[i].begin != at)
            return mlc_error_set(error, MLC_BAD_INPUT, "%s: damaged: tensor %.200s starts at byte %llu of the data, where %llu is free",
                                 file->path, file->tensors[i].name, (unsigned long long)file->tensors[i].begin, (unsigned long long)at);
    if (at != held)
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: damaged: %llu bytes behind the last tensor belong to none", file->path,
                             (unsigned long long)(held - at));
    return MLC_OK;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const mlc_stored *)a)->name, ((const mlc_stored *)b)->name);
}

static int read_tensors(mlc_safetensors *file, mlc_error *error)
{
    const mlc_json_node *root = &file->json->nodes[0];
    if (root->kind != MLC_JSON_OBJECT)
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: damaged: the header is no JSON object", file->path);
    file->tensors = calloc((size_t)root->count + 1, sizeof *file->tensors);
    if (!file->tensors)
        return mlc_error_set(error, MLC_FAILED, "%s: out of memory", file->path);
    for (const mlc_json_node *member = mlc_json_first(file->json, root); member; member = mlc_json_next(file->json, member)) {
        if (strcmp(member->key, "__metadata__") && read_tensor(file, member, &file->tensors[file->count++], error))
            return error->status;
    }
    qsort(file->tensors, (size_t)file->count, sizeof *file->tensors, by_name);
    for (int64_t i = 1; i < file->count; i++)
        if (!strcmp(file->tensors[i].name, file->tensors[i - 1].name))
            return mlc_error_set(error, MLC_BAD_INPUT, "%s: damaged: tensor %.200s is there twice", file->path, file->tensors[i].name);
    if (check_filled(file, error))
        return error->status;
    qsort(file->tensors, (size_t)file->count, sizeof *file->tensors, by_name);
    return MLC_OK;
}

static int read_file(mlc_safetensors *file, mlc_error *error)
{
    uint64_t length = 0;
    if (file->mapping.bytes < 8)
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: truncated: %llu bytes are no safetensors file", file->path,
                             (unsigned long long)file->mapping.bytes);
    memcpy(&length, file->mapping.base, 8);
    bool long_header = length > file->mapping.bytes - 8 || length > HEADER_BYTES;
    const char *kind = long_header ? mlc_weights_kind(file->mapping.base, file->mapping.bytes) : NULL;
    if (long_header && !kind)
        kind = mlc_foreign_kind(file->mapping.base, file->mapping.bytes);
    if (kind)
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: is %s", file->path, kind);
    if (long_header)
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: truncated or no safetensors file: a header of %llu bytes, %llu are left",
                             file->path,
                             (unsigned long long)length, (unsigned long long)file->mapping.bytes - 8);
    file->data = file->mapping.base + 8 + length;
    file->json = calloc(1, sizeof *file->json);
    if (!file->json)
        return mlc_error_set(error, MLC_FAILED, "%s: out of memory", file->path);
    if (mlc_json_parse(file->json, (const char *)file->mapping.base + 8, length, file->path, error))
        return error->status;
    return read_tensors(file, error);
}

int mlc_safetensors_open(mlc_safetensors *file, const char *path, mlc_error *error)
{
    *file = (mlc_safetensors){.path = strdup(path)};
    if (!file->path)
        return mlc_error_set(error, MLC_FAILED, "%s: out of memory", path);
    if (mlc_mapping_open(&file->mapping, path, error) || read_file(file, error))
        mlc_safetensors_close(file);
    return error->status;
}

void mlc_safetensors_close(mlc_safetensors *file)
{
    if (file->json)
        mlc_json_free(file->json);
    free(file->json);
    free(file->tensors);
    free(file->path);
    mlc_mapping_close(&file->mapping);
    *file = (mlc_safetensors){0};
}

mlc_stored *mlc_safetensors_find(const mlc_safetensors *file, const char *name)
{
    mlc_stored key = {.name = name};
    return file->count ? bsearch(&key, file->tensors, (size_t)file->count, sizeof key, by_name) : NULL;
}

/* ---- writing ---- */

static void put_header(mlc_writer *writer, const mlc_entries *entries, int64_t first, int64_t last)
{
    uint64_t offset = 0;
    mlc_writer_print(writer, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int64_t i = first; i < last; i++) {
        const mlc_entry *entry = &entries->items[i];
        mlc_writer_print(writer, ",");
        mlc_writer_quote(writer, entry->name);
        mlc_writer_print(writer, ":{\"dtype\":\"%s\",\"shape\":[", entries->dtype->stored);
        for (int d = 0; d < entry->rank; d++)
            mlc_writer_print(writer, "%s%lld", d ? "," : "", (long long)entry->shape[d]);
        uint64_t end = offset + (uint64_t)(entry->elements * entries->dtype->bytes);
        mlc_writer_print(writer, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)offset, (unsigned long long)end);
        offset = end;
    }
    mlc_writer_print(writer, "}");
}

static uint64_t header_bytes(const mlc_entries *entries, int64_t first, int64_t last, mlc_error *error)
{
    mlc_writer counter;
    mlc_writer_open_counting(&counter, error);
    put_header(&counter, entries, first, last);
    return counter.bytes;
}

static uint64_t padded(uint64_t header)
{
    return (header + 7) / 8 * 8;
}

static uint64_t data_bytes(const mlc_entries *entries, int64_t first, int64_t last)
{
    uint64_t bytes = 0;
    for (int64_t i = first; i < last; i++)
        bytes += (uint64_t)(entries->items[i].elements * entries->dtype->bytes);
    return bytes;
}

int mlc_safetensors_create(int folder, const char *name, const char *path, const mlc_entries *entries, int64_t first, int64_t last,
                           mlc_error *error)
{
    uint64_t header = header_bytes(entries, first, last, error), length = padded(header);
    mlc_writer writer;
    if (mlc_folder_create(&writer, folder, name, path, error))
        return error->status;
    mlc_writer_put(&writer, &length, sizeof length);
    put_header(&writer, entries, first, last);
    mlc_writer_put(&writer, "        ", length - header);
    if (!mlc_writer_flush(&writer) && ftruncate(writer.fd, (off_t)(8 + length + data_bytes(entries, first, last))))
        mlc_error_system(error, MLC_FAILED, "%s: cannot be written", writer.path);
    return mlc_writer_close(&writer, false);
}

/* A file that this rank puts its elements into. */
typedef struct filling {
    int folder;
    const char *name;
    char path[MLC_PATH_BYTES]; /* for messages */
    int fd;           /* -1: nothing of it is here so far */
    int64_t unsynced; /* bytes written since the last sync */
    mlc_rank *rank;
    mlc_error *error;
} filling;

static int open_filling(filling *file)
{
    if (file->fd < 0)
        file->fd = mlc_folder_write(file->folder, file->name);
    return file->fd < 0 ? mlc_error_system(file->error, MLC_FAILED, "%s: cannot be written", file->path) : MLC_OK;
}

/* To the disk. Called now and then, so that no call of it takes long: nobody who waits for this rank takes it for stuck. */
static int sync_filling(filling *file)
{
    file->unsynced = 0;
    return fsync(file->fd) ? mlc_error_system(file->error, MLC_FAILED, "%s: cannot be synced", file->path) : MLC_OK;
}

static int put_bytes(filling *file, const char *data, uint64_t bytes, uint64_t at)
{
    while (bytes) {
        ssize_t done = pwrite(file->fd, data, bytes < WRITE_BYTES ? bytes : WRITE_BYTES, (off_t)at);
        if (done < 0 && errno != EINTR)
            return mlc_error_system(file->error, MLC_FAILED, "%s: cannot be written", file->path);
        if (done > 0) {
            data += done;
            bytes -= (uint64_t)done;
            at += (uint64_t)done;
            file->unsynced += done;
        }
        if (file->unsynced >= SYNC_BYTES && sync_filling(file))
            return file->error->status;
        mlc_accord_work(file->rank);
    }
    return MLC_OK;
}

/* Puts what this rank owns of an entry whose data starts at byte `at` of the file. */
static int put_entry(filling *file, const mlc_entry *entry, uint64_t at)
{
    mlc_owned own = mlc_entry_own(file->rank, entry);
    if (own.begin == own.end)
        return MLC_OK;
    uint64_t unit = mlc_wide_bytes(file->rank->model);
    mlc_strip strip;
    if (open_filling(file))
        return file->error->status;
    for (int64_t count, i = own.begin; i < own.end; i += count) {
        const char *elements = mlc_owned_look(file->rank, &own, i, &count, &strip);
        if (put_bytes(file, elements, (uint64_t)count * unit, at + (uint64_t)i * unit))
            return file->error->status;
    }
    return MLC_OK;
}

static int put_entries(filling *file, const mlc_entries *entries, int64_t first, int64_t last)
{
    uint64_t at = 8 + padded(header_bytes(entries, first, last, file->error));
    for (int64_t i = first; i < last; i++) {
        if (put_entry(file, &entries->items[i], at))
            return file->error->status;
        at += (uint64_t)(entries->items[i].elements * entries->dtype->bytes);
    }
    return MLC_OK;
}

int mlc_safetensors_fill(int folder, const char *name, const char *path, const mlc_entries *entries, int64_t first, int64_t last,
                         mlc_rank *rank, mlc_error *error)
{
    filling file = {.folder = folder, .name = name, .fd = -1, .rank = rank, .error = error};
    if (mlc_path_join(file.path, path, name, error))
        return error->status;
    if (rank->rank == 0) /* syncs the header that it wrote */
        open_filling(&file);
    if (!error->status && !put_entries(&file, entries, first, last) && file.fd >= 0)
        sync_filling(&file);
    if (file.fd >= 0 && close(file.fd))
        mlc_error_system(error, MLC_FAILED, "%s: cannot be closed", file.path);
    return error->status;
}
