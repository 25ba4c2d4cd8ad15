/* tokens.c: see tokens.h.
 *
 * An llm.c shard: 256 x int32 header: magic, version, number of tokens, zeros; then the tokens.
 */
#include "data/tokens.h"

#include "data/foreign.h"
#include "data/npy.h"
#include "mlc.h"

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

/* The whole file is tokens of this width. */
static void take_whole(mlc_token_file *file, int token_bytes, bool is_signed)
{
    file->token_bytes = token_bytes;
    file->is_signed = is_signed;
    file->tokens = (int64_t)(file->mapping.bytes / (uint64_t)token_bytes);
    file->data = file->mapping.base;
}

static int open_indexed(mlc_token_file *file, mlc_error *error)
{
    if (mlc_megatron_open(&file->megatron, file->path, file->mapping.bytes, error))
        return error->status;
    take_whole(file, file->megatron.token_bytes, file->megatron.is_signed);
    return MLC_OK;
}

/* What is neither a shard nor indexed: 16-bit tokens, if nothing speaks against it. */
static int open_assumed(mlc_token_file *file, mlc_error *error)
{
    const uint8_t *bytes = file->mapping.base;
    uint64_t size = file->mapping.bytes;
    const char *path = file->path, *kind = mlc_foreign_kind(bytes, size);
    if (!kind && mlc_foreign_is_text(bytes, size))
        kind = "text";
    if (kind)
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: this is %s, not 16-bit tokens; write u8:%s for its bytes, u16:%s if it is tokens "
                             "after all", path, kind, path, path);
    if (size % 2)
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: truncated: %llu bytes are no whole number of uint16 tokens (write u8:%s if its "
                             "tokens are bytes)", path, (unsigned long long)size, path);
    int width = mlc_foreign_width(bytes, size);
    if (width)
        return mlc_error_set(error, MLC_BAD_INPUT,
                             "%s: its 16-bit words are the halves of %d-bit numbers: write %s:%s; u16:%s if they are tokens after all", path,
                             8 * width, width == 8 ? "i64" : "u32", path, path);
    take_whole(file, 2, false);
    file->is_assumed = true;
    return MLC_OK;
}

static int open_bin(mlc_token_file *file, mlc_error *error)
{
    if (mlc_megatron_is_indexed(file->path))
        return open_indexed(file, error);
    return looks_like_shard(file) ? open_shard(file, error) : open_assumed(file, error);
}

/* ---- a width that the user states ---- */

static const struct {
    const char *name;
    mlc_width width;
} WIDTHS[] = {{"u8:", {1, false}},  {"u16:", {2, false}}, {"u32:", {4, false}},
              {"i32:", {4, true}}, {"u64:", {8, false}}, {"i64:", {8, true}}};

mlc_width mlc_width_take(const char **pattern)
{
    for (size_t i = 0; i < sizeof WIDTHS / sizeof *WIDTHS; i++)
        if (!strncmp(*pattern, WIDTHS[i].name, strlen(WIDTHS[i].name))) {
            *pattern += strlen(WIDTHS[i].name);
            return WIDTHS[i].width;
        }
    return (mlc_width){0};
}

/* Bytes may be those of any file; wider numbers are not stated of a file that says itself what it holds. */
static int open_stated(mlc_token_file *file, mlc_width width, mlc_error *error)
{
    const char *says = mlc_foreign_kind(file->mapping.base, file->mapping.bytes);
    if (!says && mlc_megatron_is_indexed(file->path))
        says = "the data of the Megatron index beside it";
    if (says && width.bytes > 1)
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: this is %s: %d-bit numbers cannot be stated of it", file->path, says,
                             8 * width.bytes);
    if (file->mapping.bytes % (uint64_t)width.bytes)
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: truncated: %llu bytes are no whole number of %d-bit tokens", file->path,
                             (unsigned long long)file->mapping.bytes, 8 * width.bytes);
    take_whole(file, width.bytes, width.is_signed);
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

static int open_bytes(mlc_token_file *file, mlc_error *error)
{
    const char *kind = mlc_foreign_kind(file->mapping.base, file->mapping.bytes);
    if (!kind)
        kind = mlc_foreign_encoding(file->mapping.base, file->mapping.bytes);
    if (kind)
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: this is %s; convert it to what the model reads, or write u8:%s for its bytes as "
                             "they are", file->path, kind, file->path);
    take_whole(file, 1, false);
    return MLC_OK;
}

static int open_file(mlc_token_file *file, mlc_width width, mlc_error *error)
{
    if (!width.bytes && mlc_path_ends(file->path, ".npy"))
        return open_array(file, error);
    if (mlc_mapping_open(&file->mapping, file->path, error))
        return error->status;
    if (!file->mapping.bytes)
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: the file is empty", file->path);
    if (width.bytes)
        return open_stated(file, width, error);
    return mlc_path_ends(file->path, ".bin") ? open_bin(file, error) : open_bytes(file, error);
}

/* ---- streams ---- */

/* The path, allocated; of the index of a Megatron data set its .bin. */
static char *path_of(const char *path, mlc_width width)
{
    char *made = strdup(path);
    size_t length = strlen(path);
    if (!made || width.bytes || !mlc_path_ends(path, ".idx"))
        return made;
    memcpy(made + length - 3, "bin", 3);
    if (!mlc_path_is_file(made) || !mlc_megatron_is_indexed(made))
        memcpy(made + length - 3, "idx", 3);
    return made;
}

/* By path; of equal ones, in the order in which they were given: their places in one array. */
static int compare_places(const void *a, const void *b)
{
    char *const *left = *(char *const *const *)a, *const *right = *(char *const *const *)b;
    int order = strcmp(*left, *right);
    return order ? order : (left > right) - (left < right);
}

/* A pattern that matches both an index and its .bin means the .bin once: NULL in the place of the later ones. */
static bool drop_repeated(char **paths, int count)
{
    char ***places = malloc(sizeof *places * (size_t)count + 1);
    if (!places)
        return false;
    for (int i = 0; i < count; i++)
        places[i] = &paths[i];
    qsort(places, (size_t)count, sizeof *places, compare_places);
    for (int i = 1, kept = 0; i < count; i++) {
        bool again = mlc_path_ends(*places[i], ".bin") && !strcmp(*places[kept], *places[i]);
        if (again)
            free(*places[i]), *places[i] = NULL;
        else
            kept = i;
    }
    return free(places), true;
}

/* Takes the path over. */
static int add_file(mlc_tokens *tokens, char *path, mlc_width width, mlc_error *error)
{
    mlc_token_file *file = &tokens->files[tokens->count++];
    file->path = path;
    if (open_file(file, width, error))
        return error->status;
    if (file->tokens < tokens->extent)
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: %lld tokens are fewer than one window of %lld", path, (long long)file->tokens,
                             (long long)tokens->extent);
    file->windows = (file->tokens - tokens->extent) / tokens->stride + 1;
    file->first_window = tokens->windows;
    tokens->windows += file->windows;
    return MLC_OK;
}

int mlc_tokens_open(mlc_tokens *tokens, char *const *paths, int count, mlc_width width, int64_t stride, int64_t extent, mlc_error *error)
{
    *tokens = (mlc_tokens){.stride = stride, .extent = extent, .files = calloc((size_t)count, sizeof *tokens->files)};
    char **made = calloc((size_t)count + 1, sizeof *made);
    bool ready = tokens->files && made;
    for (int i = 0; ready && i < count; i++)
        ready = (made[i] = path_of(paths[i], width));
    if (!ready || !drop_repeated(made, count))
        mlc_error_set(error, MLC_FAILED, "tokens: out of memory");
    for (int i = 0; made && i < count; i++) {
        if (error->status)
            free(made[i]);
        else if (made[i])
            add_file(tokens, made[i], width, error);
    }
    free(made);
    return error->status;
}

void mlc_tokens_close(mlc_tokens *tokens)
{
    for (int i = 0; i < tokens->count; i++) {
        mlc_mapping_close(&tokens->files[i].mapping);
        mlc_megatron_close(&tokens->files[i].megatron);
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
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: token %lld at offset %lld is not in 0 to %lld%s%s", file->path, (long long)token,
                             (long long)(file->data - file->mapping.base + i * file->token_bytes), (long long)limit - 1,
                             file->is_assumed ? "; nothing says that its tokens are 16-bit: if they are not, write u8: or u32: before "
                                              : "",
                             file->is_assumed ? file->path : "");
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

int mlc_tokens_check(const mlc_tokens *tokens, int64_t window, int64_t shift, int64_t count, mlc_error *error)
{
    const mlc_token_file *file = file_of(tokens, window);
    int64_t first = (window - file->first_window) * tokens->stride + shift;
    uint64_t begin = (uint64_t)(file->data - file->mapping.base + first * file->token_bytes);
    return mlc_mapping_check_range(&file->mapping, file->path, begin, begin + (uint64_t)(count * file->token_bytes), error);
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

static int check_assumed(const mlc_token_file *file, int64_t limit, mlc_error *error)
{
    if (!file->is_assumed || limit <= 65536)
        return MLC_OK;
    return mlc_error_set(error, MLC_BAD_INPUT,
                         "%s: nothing says how wide its tokens are, and 16 bits do not hold %lld of them: write u32:%s (u16:%s if they are "
                         "16-bit all the same), or give an llm.c shard, a .npy array, or a Megatron .bin with its .idx",
                         file->path, (long long)limit, file->path, file->path);
}

int mlc_tokens_scan(const mlc_tokens *tokens, int64_t limit, mlc_error *error)
{
    for (int i = 0; i < tokens->count; i++)
        if (check_assumed(&tokens->files[i], limit, error))
            return error->status;
    for (int i = 0; i < tokens->count; i++)
        if (tokens->files[i].mapping.bytes <= SCAN_BYTES && scan_file(&tokens->files[i], limit, error))
            return error->status;
    return MLC_OK;
}
