/* tokens.c: see tokens.h.
 *
 * An llm.c shard: 256 x int32 header: magic, version, number of tokens, zeros; then the tokens.
 */
#include "tokens.h"

#include "mlc.h"
#include "npy.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define SHARD_HEADER_BYTES 1024
#define SCAN_BYTES (256 << 20) /* files up to this size are checked whole before step 0 */
#define SCAN_TOKENS 4096

/* ---- kinds of files ---- */

static int32_t word_at(const mlc_token_file *file, int word)
{
    int32_t value;
    memcpy(&value, file->mapping.base + 4 * word, sizeof value);
    return value;
}

/* A known magic, or a header of 256 words that are zero but for the first three: a shard, of a kind we know or not. */
static bool looks_like_shard(const mlc_token_file *file)
{
    if (file->mapping.bytes < sizeof(int32_t) || word_at(file, 0) == 0)
        return false;
    if (word_at(file, 0) == 20240520 || word_at(file, 0) == 20240801)
        return true;
    if (file->mapping.bytes < SHARD_HEADER_BYTES)
        return false;
    for (int i = 3; i < SHARD_HEADER_BYTES / 4; i++)
        if (word_at(file, i))
            return false;
    return true;
}

static int open_shard(mlc_token_file *file, mlc_error *error)
{
    if (file->mapping.bytes < SHARD_HEADER_BYTES)
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: truncated: an llm.c shard has a header of %d bytes, the file holds %llu",
                             file->path, SHARD_HEADER_BYTES, (unsigned long long)file->mapping.bytes);
    int32_t magic = word_at(file, 0), version = word_at(file, 1), tokens = word_at(file, 2);
    if (magic != 20240520 && magic != 20240801)
        return mlc_error_set(error, MLC_BAD_INPUT,
                             "%s: wrong magic at offset 0: %d; llm.c shards have 20240520 (uint16) or 20240801 (uint32)",
                             file->path, magic);
    int32_t expected = magic == 20240520 ? 1 : 7;
    if (version != expected)
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: version %d at offset 4; magic %d has version %d", file->path, version, magic,
                             expected);
    file->token_bytes = magic == 20240520 ? 2 : 4;
    uint64_t held = (file->mapping.bytes - SHARD_HEADER_BYTES) / (uint64_t)file->token_bytes;
    if (tokens < 0 || held != (uint64_t)tokens || (file->mapping.bytes - SHARD_HEADER_BYTES) % (uint64_t)file->token_bytes)
        return mlc_error_set(error, MLC_BAD_INPUT,
                             "%s: truncated or damaged: the header at offset 8 promises %d tokens, the file holds %llu",
                             file->path, tokens, (unsigned long long)held);
    file->tokens = tokens;
    file->data = file->mapping.base + SHARD_HEADER_BYTES;
    return MLC_OK;
}

static int open_bin(mlc_token_file *file, mlc_error *error)
{
    if (looks_like_shard(file))
        return open_shard(file, error);
    if (file->mapping.bytes % 2)
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: truncated: %llu bytes are no whole number of uint16 tokens", file->path,
                             (unsigned long long)file->mapping.bytes);
    file->token_bytes = 2;
    file->tokens = (int64_t)(file->mapping.bytes / 2);
    file->data = file->mapping.base;
    return MLC_OK;
}

static int open_array(mlc_token_file *file, mlc_error *error)
{
    mlc_npy npy;
    if (mlc_npy_open(&npy, file->path, error))
        return error->status;
    file->mapping = npy.mapping;
    if (npy.rank != 1 || (npy.kind != 'i' && npy.kind != 'u'))
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: a token stream is a one-dimensional array of integers", file->path);
    file->is_signed = npy.kind == 'i';
    file->token_bytes = npy.item_bytes;
    file->tokens = npy.elements;
    file->data = npy.data;
    return MLC_OK;
}

static int open_file(mlc_token_file *file, mlc_error *error)
{
    if (mlc_path_ends(file->path, ".npy"))
        return open_array(file, error);
    if (mlc_mapping_open(&file->mapping, file->path, error))
        return error->status;
    if (!file->mapping.bytes)
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: the file is empty", file->path);
    if (mlc_path_ends(file->path, ".bin"))
        return open_bin(file, error);
    file->token_bytes = 1;
    file->tokens = (int64_t)file->mapping.bytes;
    file->data = file->mapping.base;
    return MLC_OK;
}

/* ---- streams ---- */

static int add_file(mlc_tokens *tokens, const char *path, mlc_error *error)
{
    mlc_token_file *file = &tokens->files[tokens->count++];
    file->path = strdup(path);
    if (!file->path)
        return mlc_error_set(error, MLC_FAILED, "%s: out of memory", path);
    if (open_file(file, error))
        return error->status;
    if (file->tokens < tokens->extent)
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: %lld tokens are fewer than one window of %lld", path, (long long)file->tokens,
                             (long long)tokens->extent);
    file->windows = (file->tokens - tokens->extent) / tokens->stride + 1;
    file->first_window = tokens->windows;
    tokens->windows += file->windows;
    return MLC_OK;
}

int mlc_tokens_open(mlc_tokens *tokens, char *const *paths, int count, int64_t stride, int64_t extent, mlc_error *error)
{
    *tokens = (mlc_tokens){.stride = stride, .extent = extent, .files = calloc((size_t)count, sizeof *tokens->files)};
    if (!tokens->files)
        return mlc_error_set(error, MLC_FAILED, "tokens: out of memory");
    for (int i = 0; i < count; i++)
        if (add_file(tokens, paths[i], error))
            return error->status;
    return MLC_OK;
}

void mlc_tokens_close(mlc_tokens *tokens)
{
    for (int i = 0; i < tokens->count; i++) {
        mlc_mapping_close(&tokens->files[i].mapping);
        free(tokens->files[i].path);
    }
    free(tokens->files);
    *tokens = (mlc_tokens){0};
}

/* ---- reading ---- */

/* Token i as a signed number; what does not fit an i64 becomes -1, which no input takes. */
static int64_t token_at(const mlc_token_file *file, int64_t i)
{
    uint64_t bits = 0;
    memcpy(&bits, file->data + i * file->token_bytes, (size_t)file->token_bytes);
    int unused = 64 - 8 * file->token_bytes;
    if (file->is_signed)
        return (int64_t)(bits << unused) >> unused;
    return bits > INT64_MAX ? -1 : (int64_t)bits;
}

static int refuse(const mlc_token_file *file, int64_t first, int64_t count, int64_t limit, mlc_error *error)
{
    for (int64_t i = first; i < first + count; i++) {
        int64_t token = token_at(file, i);
        if (token >= 0 && token < limit)
            continue;
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: token %lld at offset %lld is not in 0 to %lld", file->path, (long long)token,
                             (long long)(file->data - file->mapping.base + i * file->token_bytes), (long long)limit - 1);
    }
    return MLC_OK;
}

static bool copy_bytes(const uint8_t *from, int64_t count, uint32_t limit, int32_t *restrict to)
{
    uint32_t highest = 0;
    for (int64_t i = 0; i < count; i++) {
        uint32_t token = from[i];
        to[i] = (int32_t)token;
        highest = token > highest ? token : highest;
    }
    return highest < limit;
}

static bool copy_any(const mlc_token_file *file, int64_t first, int64_t count, int64_t limit, int32_t *to)
{
    bool valid = true;
    for (int64_t i = 0; i < count; i++) {
        int64_t token = token_at(file, first + i);
        valid &= token >= 0 && token < limit;
        to[i] = (int32_t)token;
    }
    return valid;
}

static int read_from(const mlc_token_file *file, int64_t first, int64_t count, int64_t limit, int32_t *to, mlc_error *error)
{
    int64_t bound = limit < 0 ? (int64_t)INT32_MAX + 1 : limit;
    bool valid = file->token_bytes == 1 && !file->is_signed ? copy_bytes(file->data + first, count, (uint32_t)bound, to)
                                                            : copy_any(file, first, count, bound, to);
    return valid ? MLC_OK : refuse(file, first, count, bound, error);
}

static const mlc_token_file *file_of(const mlc_tokens *tokens, int64_t window)
{
    int low = 0, high = tokens->count - 1;
    while (low < high) {
        int middle = (low + high + 1) / 2;
        if (tokens->files[middle].first_window <= window)
            low = middle;
        else
            high = middle - 1;
    }
    return &tokens->files[low];
}

int mlc_tokens_read(const mlc_tokens *tokens, int64_t window, int64_t shift, int64_t count, int64_t limit, int32_t *to, mlc_error *error)
{
    const mlc_token_file *file = file_of(tokens, window);
    return read_from(file, (window - file->first_window) * tokens->stride + shift, count, limit, to, error);
}

static int scan_file(const mlc_token_file *file, int64_t limit, mlc_error *error)
{
    int32_t tokens[SCAN_TOKENS];
    for (int64_t first = 0; first < file->tokens; first += SCAN_TOKENS) {
        int64_t count = file->tokens - first < SCAN_TOKENS ? file->tokens - first : SCAN_TOKENS;
        if (read_from(file, first, count, limit, tokens, error))
            return error->status;
    }
    return MLC_OK;
}

int mlc_tokens_scan(const mlc_tokens *tokens, int64_t limit, mlc_error *error)
{
    for (int i = 0; i < tokens->count; i++)
        if (tokens->files[i].mapping.bytes <= SCAN_BYTES && scan_file(&tokens->files[i], limit, error))
            return error->status;
    return MLC_OK;
}
