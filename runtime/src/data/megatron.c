/* megatron.c: see megatron.h. */
#include "data/megatron.h"

#include "mlc.h"

#include <stdio.h>
#include <string.h>

static const char MAGIC[] = "MMIDIDX\0"; /* nine bytes with the one that ends the literal */

/* The .idx beside a .bin. False: the path does not end so, or is too long. */
static bool index_path(char to[MLC_PATH_BYTES], const char *path)
{
    size_t length = strlen(path);
    if (!mlc_path_ends(path, ".bin") || length >= MLC_PATH_BYTES)
        return false;
    memcpy(to, path, length + 1);
    memcpy(to + length - 3, "idx", 3);
    return true;
}

static bool has_magic(const mlc_mapping *mapping)
{
    return mapping->bytes >= sizeof MAGIC && !memcmp(mapping->base, MAGIC, sizeof MAGIC);
}

bool mlc_megatron_is_indexed(const char *path)
{
    char name[MLC_PATH_BYTES];
    mlc_mapping mapping;
    mlc_error ignored = {0};
    if (!index_path(name, path) || !mlc_path_is_file(name) || mlc_mapping_open(&mapping, name, &ignored))
        return false;
    bool found = has_magic(&mapping);
    mlc_mapping_close(&mapping);
    return found;
}

static uint64_t word_at(const mlc_megatron *megatron, uint64_t offset)
{
    uint64_t value;
    memcpy(&value, megatron->mapping.base + offset, sizeof value);
    return value;
}

static int32_t length_at(const mlc_megatron *megatron, uint64_t i)
{
    int32_t value;
    memcpy(&value, megatron->mapping.base + MLC_MEGATRON_HEADER_BYTES + 4 * i, sizeof value);
    return value;
}

static uint64_t offset_at(const mlc_megatron *megatron, uint64_t i)
{
    return word_at(megatron, MLC_MEGATRON_HEADER_BYTES + 4 * megatron->sequences + 8 * i);
}

uint64_t mlc_megatron_document(const mlc_megatron *megatron, uint64_t i)
{
    return word_at(megatron, MLC_MEGATRON_HEADER_BYTES + 12 * megatron->sequences + 8 * i);
}

/* Codes 1 to 8: u8 i8 i16 i32 i64 f64 f32 u16. */
static int read_dtype(mlc_megatron *megatron, const char *name, mlc_error *error)
{
    static const int BYTES[] = {0, 1, 1, 2, 4, 8, 0, 0, 2};
    int code = megatron->mapping.base[17];
    if (code < 1 || code > 8 || !BYTES[code])
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: dtype code %d at offset 17%s; tokens are u8 i8 i16 i32 i64 u16: 1 2 3 4 5 8", name,
                             code, code == 6 || code == 7 ? ": the data set holds floats" : " is unknown");
    megatron->token_bytes = BYTES[code];
    megatron->is_signed = code >= 2 && code <= 5;
    return MLC_OK;
}

static int read_header(mlc_megatron *megatron, const char *name, mlc_error *error)
{
    uint64_t bytes = megatron->mapping.bytes;
    if (bytes < MLC_MEGATRON_HEADER_BYTES)
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: truncated: a Megatron index has a header of %d bytes, the file holds %llu", name,
                             MLC_MEGATRON_HEADER_BYTES, (unsigned long long)bytes);
    if (word_at(megatron, 9) != 1)
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: version %llu at offset 9; a Megatron index has version 1", name,
                             (unsigned long long)word_at(megatron, 9));
    megatron->sequences = word_at(megatron, 18);
    megatron->documents = word_at(megatron, 26);
    uint64_t held = bytes - MLC_MEGATRON_HEADER_BYTES;
    bool fits = megatron->sequences <= held / 12 && megatron->documents <= held / 8;
    if (!fits || 12 * megatron->sequences + 8 * megatron->documents != held)
        return mlc_error_set(error, MLC_BAD_INPUT,
                             "%s: truncated, damaged or of another kind: the header promises %llu sequences and %llu document bounds, and "
                             "%llu bytes follow it",
                             name, (unsigned long long)megatron->sequences, (unsigned long long)megatron->documents,
                             (unsigned long long)held);
    return read_dtype(megatron, name, error);
}

/* Each sequence begins where the one before it ends, the last one where the .bin does. */
static int check_sequences(const mlc_megatron *megatron, const char *name, const char *path, uint64_t bytes, mlc_error *error)
{
    uint64_t at = 0, width = (uint64_t)megatron->token_bytes;
    for (uint64_t i = 0; i < megatron->sequences; i++) {
        if (length_at(megatron, i) < 0 || offset_at(megatron, i) != at)
            return mlc_error_set(error, MLC_BAD_INPUT, "%s: sequence %llu has length %d and begins at byte %llu; the one before ends at %llu",
                                 name, (unsigned long long)i, length_at(megatron, i), (unsigned long long)offset_at(megatron, i),
                                 (unsigned long long)at);
        at += (uint64_t)length_at(megatron, i) * width;
    }
    if (at != bytes)
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: its sequences fill %llu bytes, %s holds %llu", name, (unsigned long long)at, path,
                             (unsigned long long)bytes);
    return MLC_OK;
}

static int check_documents(const mlc_megatron *megatron, const char *name, mlc_error *error)
{
    for (uint64_t i = 0, before = 0; i < megatron->documents; i++) {
        uint64_t bound = mlc_megatron_document(megatron, i);
        if (bound < before || bound > megatron->sequences)
            return mlc_error_set(error, MLC_BAD_INPUT, "%s: document bound %llu is %llu, not in %llu to %llu", name, (unsigned long long)i,
                                 (unsigned long long)bound, (unsigned long long)before, (unsigned long long)megatron->sequences);
        before = bound;
    }
    return MLC_OK;
}

int mlc_megatron_open(mlc_megatron *megatron, const char *path, uint64_t bytes, mlc_error *error)
{
    char name[MLC_PATH_BYTES];
    *megatron = (mlc_megatron){0};
    if (!index_path(name, path))
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: has no .idx beside it", path);
    if (mlc_mapping_open(&megatron->mapping, name, error))
        return error->status;
    if (!has_magic(&megatron->mapping))
        mlc_error_set(error, MLC_BAD_INPUT, "%s: not a Megatron index: its first bytes are not MMIDIDX", name);
    else if (!read_header(megatron, name, error) && !check_sequences(megatron, name, path, bytes, error))
        check_documents(megatron, name, error);
    if (error->status)
        mlc_megatron_close(megatron);
    return error->status;
}

void mlc_megatron_close(mlc_megatron *megatron)
{
    mlc_mapping_close(&megatron->mapping);
    *megatron = (mlc_megatron){0};
}
