/* foreign.c: see foreign.h. */
#include "data/foreign.h"

#include <stddef.h>
#include <string.h>

#define WINDOW_BYTES 65536 /* of a file, at its start, middle and end, are looked at */
#define ENOUGH 64          /* witnesses: each halves the chance of an accident */
#define SMALL_UPPER 16     /* upper halves below it: numbers below 2^20, more than any vocabulary has */

/* ---- magics ---- */

typedef struct magic {
    const char *name;
    uint64_t at;
    size_t length;
    const char *bytes;
} magic;

static const magic MAGICS[] = {
    {"a zip archive (.zip, .npz)", 0, 4, "PK\3\4"},
    {"a zstd archive", 0, 4, "\x28\xb5\x2f\xfd"},
    {"an xz archive", 0, 6, "\xfd" "7zXZ\0"},
    {"a bzip2 archive", 4, 6, "1AY&SY"},
    {"an lz4 archive", 0, 4, "\x04\x22\x4d\x18"},
    {"a 7z archive", 0, 6, "7z\xbc\xaf\x27\x1c"},
    {"a tar archive", 257, 5, "ustar"},
    {"an Arrow file", 0, 8, "ARROW1\0\0"},
    {"an Avro file", 0, 4, "Obj\1"},
    {"an HDF5 file", 0, 8, "\x89HDF\r\n\x1a\n"},
    {"a SQLite database", 0, 16, "SQLite format 3\0"},
    {"a PDF document", 0, 7, "%PDF-1."},
    {"a NumPy array (name it .npy)", 0, 6, "\x93NUMPY"},
    {"an llm.c shard (name it .bin)", 0, 4, "\x88\xd8\x34\x01"},
    {"an llm.c shard (name it .bin)", 0, 4, "\xa1\xd9\x34\x01"},
    {"the index of a Megatron data set (give its .bin, with the .idx beside it)", 0, 9, "MMIDIDX\0\0"},
    {"the index of a fairseq data set", 0, 8, "TNTIDX\0\0"},
    {"a PyTorch pickle", 0, 15, "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\x2e"},
    {"a program", 0, 4, "\x7f" "ELF"},
    {"a PNG image", 0, 8, "\x89PNG\r\n\x1a\n"},
};

static uint64_t little(const uint8_t *bytes, int count)
{
    uint64_t value = 0;
    for (int i = 0; i < count; i++)
        value |= (uint64_t)bytes[i] << (8 * i);
    return value;
}

static bool is_gzip(const uint8_t *bytes, uint64_t size)
{
    return size >= 18 && !memcmp(bytes, "\x1f\x8b\x08", 3) && !(bytes[3] & 0xe0) && (bytes[9] <= 13 || bytes[9] == 255);
}

/* Its last byte ends it; protocols 4 and 5 state the length of their first frame, 2 and 3 begin with a value. */
static bool is_pickle(const uint8_t *bytes, uint64_t size)
{
    if (size < 12 || bytes[0] != 0x80 || bytes[size - 1] != '.')
        return false;
    if (bytes[1] == 4 || bytes[1] == 5)
        return bytes[2] == 0x95 && little(bytes + 3, 8) <= size - 11;
    return (bytes[1] == 2 || bytes[1] == 3) && (bytes[2] == ']' || bytes[2] == '}') && bytes[3] == 'q' && !bytes[4];
}

static bool is_safetensors(const uint8_t *bytes, uint64_t size)
{
    return size > 10 && little(bytes, 8) <= size - 8 && bytes[8] == '{' && bytes[9] == '"' && little(bytes, 8) > 2;
}

static bool is_parquet(const uint8_t *bytes, uint64_t size)
{
    return size >= 12 && !memcmp(bytes, "PAR1", 4) && !memcmp(bytes + size - 4, "PAR1", 4);
}

/* A continuation mark, then the length of the schema. */
static bool is_arrow_stream(const uint8_t *bytes, uint64_t size)
{
    uint64_t length = size >= 8 ? little(bytes + 4, 4) : 0;
    return length >= 64 && length % 8 == 0 && length < size && !memcmp(bytes, "\xff\xff\xff\xff", 4);
}

const char *mlc_foreign_kind(const uint8_t *bytes, uint64_t size)
{
    for (size_t i = 0; i < sizeof MAGICS / sizeof *MAGICS; i++)
        if (MAGICS[i].at + MAGICS[i].length <= size && !memcmp(bytes + MAGICS[i].at, MAGICS[i].bytes, MAGICS[i].length))
            return MAGICS[i].name;
    return is_gzip(bytes, size)           ? "a gzip archive"
           : is_parquet(bytes, size)      ? "a Parquet file"
           : is_arrow_stream(bytes, size) ? "an Arrow stream"
           : is_pickle(bytes, size)       ? "a Python pickle"
           : is_safetensors(bytes, size)  ? "a safetensors file"
                                          : NULL;
}

/* ---- windows ---- */

typedef struct window {
    const uint8_t *bytes;
    uint64_t size;
} window;

/* Window `i` of 3: at the start, the middle and the end, each from a multiple of 8 bytes on; one that overlaps the one before is empty. */
static window window_of(const uint8_t *bytes, uint64_t size, int i)
{
    if (size <= WINDOW_BYTES)
        return (window){bytes, i ? 0 : size};
    uint64_t at = (size - WINDOW_BYTES) / 2 * (uint64_t)i / 8 * 8;
    return (window){bytes + at, size - at < WINDOW_BYTES ? size - at : WINDOW_BYTES};
}

/* ---- characters of several bytes ---- */

static const char *marked(const uint8_t *bytes, uint64_t size)
{
    if (size % 4 == 0 && size >= 8 && (!memcmp(bytes, "\xff\xfe\0\0", 4) || !memcmp(bytes, "\0\0\xfe\xff", 4)))
        return "UTF-32 text";
    if (size % 2 == 0 && size >= 4 && (!memcmp(bytes, "\xff\xfe", 2) || !memcmp(bytes, "\xfe\xff", 2)))
        return "UTF-16 text";
    return NULL;
}

/* Zero bytes at each place of a group of four, and groups. */
static void count_zeros(const uint8_t *bytes, uint64_t size, uint64_t zeros[4], uint64_t *groups)
{
    *groups = 0;
    for (int i = 0; i < 3; i++) {
        window part = window_of(bytes, size, i);
        for (uint64_t at = 0; at + 4 <= part.size; at += 4, ++*groups)
            for (int place = 0; place < 4; place++)
                zeros[place] += !part.bytes[at + (uint64_t)place];
    }
}

const char *mlc_foreign_encoding(const uint8_t *bytes, uint64_t size)
{
    uint64_t zeros[4] = {0}, groups;
    const char *name = marked(bytes, size);
    if (name || size % 2)
        return name;
    count_zeros(bytes, size, zeros, &groups);
    uint64_t many = groups - groups / 10, few = groups / 100;
    if (groups < ENOUGH)
        return NULL;
    bool high = zeros[1] >= many && zeros[3] >= many, low = zeros[0] >= many && zeros[2] >= many;
    if ((high && zeros[0] <= few && zeros[2] <= few) || (low && zeros[1] <= few && zeros[3] <= few))
        return "UTF-16 text, or 16-bit numbers";
    bool last = zeros[2] >= many && zeros[3] >= many && zeros[0] <= few, first = zeros[0] >= many && zeros[1] >= many && zeros[3] <= few;
    return size % 4 == 0 && (last || first) ? "UTF-32 text, or 32-bit numbers" : NULL;
}

/* ---- text ---- */

/* Bytes of the UTF-8 character at `at`, 0: none is there. */
static uint64_t character(const uint8_t *at, uint64_t size)
{
    if (*at < 0x80)
        return *at >= 32 ? *at != 127 : *at == '\n' || *at == '\r' || *at == '\t' || *at == '\f';
    uint64_t length = *at >= 0xf5 ? 0 : *at >= 0xf0 ? 4 : *at >= 0xe0 ? 3 : *at >= 0xc2 ? 2 : 0;
    for (uint64_t i = 1; i < length && i < size; i++)
        if ((at[i] & 0xc0) != 0x80)
            return 0;
    return length;
}

/* The window may begin and end within a character. */
static bool is_utf8(window part)
{
    uint64_t at = 0;
    while (at < 3 && at < part.size && (part.bytes[at] & 0xc0) == 0x80)
        at++;
    while (at < part.size) {
        uint64_t length = character(part.bytes + at, part.size - at);
        if (!length)
            return false;
        at += length;
    }
    return true;
}

bool mlc_foreign_is_text(const uint8_t *bytes, uint64_t size)
{
    bool seen[256] = {0};
    int different = 0;
    for (int i = 0; i < 3; i++)
        if (!is_utf8(window_of(bytes, size, i)))
            return false;
    for (uint64_t i = 0; i < size && i < WINDOW_BYTES; i++) {
        different += !seen[bytes[i]];
        seen[bytes[i]] = true;
    }
    return size >= 4 * ENOUGH && different >= 8;
}

/* ---- wider numbers ---- */

static int32_t number(const uint8_t *bytes)
{
    return (int32_t)(uint32_t)little(bytes, 4);
}

/* Is the upper half of these 4 bytes that of a small number? Of a negative one it is, where its lower half fits too. */
static bool is_small(const uint8_t *bytes)
{
    int32_t value = number(bytes);
    return value >= -256 && value < SMALL_UPPER << 16;
}

/* Can this word not be the upper half of a small number? */
static bool is_lower(const uint8_t *bytes)
{
    uint64_t word = little(bytes, 2);
    return word >= SMALL_UPPER && word != 0xffff;
}

int mlc_foreign_width(const uint8_t *bytes, uint64_t size)
{
    uint64_t lower = 0, even_lower = 0, odd_lower = 0;
    bool wide = size % 8 == 0;
    if (size % 4)
        return 0;
    for (int i = 0; i < 3; i++) {
        window part = window_of(bytes, size, i);
        for (uint64_t at = 0; at + 4 <= part.size; at += 4) {
            if (!is_small(part.bytes + at))
                return 0;
            bool is_odd = at / 4 % 2;
            lower += is_lower(part.bytes + at);
            odd_lower += is_odd && is_lower(part.bytes + at);
            even_lower += !is_odd && is_lower(part.bytes + at);
            wide &= !is_odd || number(part.bytes + at) == (number(part.bytes + at - 4) < 0 ? -1 : 0);
        }
    }
    if (lower < ENOUGH)
        return 0;
    return wide && !odd_lower && even_lower >= ENOUGH ? 8 : 4;
}
