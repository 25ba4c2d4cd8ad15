/* npy.c: see npy.h. */
#include "data/npy.h"

#include "mlc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The header's text, bounded. */
typedef struct cursor {
    const char *at, *end;
} cursor;

static void skip_spaces(cursor *text)
{
    while (text->at < text->end && (*text->at == ' ' || *text->at == '\n' || *text->at == '\t'))
        text->at++;
}

static bool take(cursor *text, const char *word)
{
    skip_spaces(text);
    size_t length = strlen(word);
    if ((size_t)(text->end - text->at) < length || memcmp(text->at, word, length))
        return false;
    text->at += length;
    return true;
}

/* Moves behind `'key':`. */
static bool find_key(cursor *text, const char *key)
{
    size_t length = strlen(key);
    for (; (size_t)(text->end - text->at) > length + 2; text->at++) {
        bool quoted = (text->at[0] == '\'' || text->at[0] == '"') && text->at[length + 1] == text->at[0];
        if (quoted && !memcmp(text->at + 1, key, length)) {
            text->at += length + 2;
            return take(text, ":");
        }
    }
    return false;
}

static bool take_number(cursor *text, int64_t *number)
{
    skip_spaces(text);
    const char *start = text->at;
    for (*number = 0; text->at < text->end && *text->at >= '0' && *text->at <= '9'; text->at++)
        if (__builtin_mul_overflow(*number, 10, number) || __builtin_add_overflow(*number, *text->at - '0', number))
            return false;
    return text->at > start;
}

static bool read_shape(mlc_npy *npy, cursor text)
{
    if (!find_key(&text, "shape") || !take(&text, "("))
        return false;
    npy->elements = 1;
    for (npy->rank = 0; !take(&text, ")"); npy->rank++) {
        int64_t *size = &npy->shape[npy->rank];
        if (npy->rank == MLC_NPY_RANK || !take_number(&text, size) || __builtin_mul_overflow(npy->elements, *size, &npy->elements))
            return false;
        if (!take(&text, ","))
            return take(&text, ")") && ++npy->rank;
    }
    return true;
}

/* descr: byte order, kind, bytes. */
static int read_type(mlc_npy *npy, const char *path, cursor text, mlc_error *error)
{
    if (!find_key(&text, "descr") || !(take(&text, "'") || take(&text, "\"")) || text.end - text.at < 4)
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: the header has no descr of a plain dtype", path);
    npy->kind = text.at[1];
    npy->item_bytes = text.at[2] - '0';
    bool plain = strchr("|<=", text.at[0]) && (text.at[3] == '\'' || text.at[3] == '"');
    bool known = (npy->kind == 'f' && strchr("248", text.at[2])) || (strchr("iu", npy->kind) && strchr("1248", text.at[2])) ||
                 (npy->kind == 'b' && npy->item_bytes == 1);
    int length = 0;
    while (length < 16 && text.at + length < text.end && !strchr("'\"", text.at[length]))
        length++;
    if (!plain || !known || !text.at[0] || !text.at[1] || !text.at[2])
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: dtype %.*s is not one of b1 i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8, little-endian", path,
                             length, text.at);
    return MLC_OK;
}

static int read_header(mlc_npy *npy, const char *path, cursor text, mlc_error *error)
{
    if (read_type(npy, path, text, error))
        return error->status;
    if (!read_shape(npy, text))
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: the header has no shape of at most %d dims", path, MLC_NPY_RANK);
    cursor order = text;
    if (!find_key(&order, "fortran_order"))
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: the header has no fortran_order", path);
    if (!take(&order, "False") && npy->rank > 1)
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: the array is in Fortran order; save numpy.ascontiguousarray(x)", path);
    return MLC_OK;
}

static int read_file(mlc_npy *npy, const char *path, mlc_error *error)
{
    const uint8_t *file = npy->mapping.base;
    uint64_t bytes = npy->mapping.bytes;
    if (!bytes)
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: the file is empty", path);
    if (bytes < 12 || memcmp(file, "\x93NUMPY", 6))
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: not a .npy file: its first bytes are not \\x93NUMPY", path);
    if (file[6] < 1 || file[6] > 3)
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: .npy version %d is unknown (1, 2, 3 are)", path, file[6]);
    uint64_t start = file[6] == 1 ? 10 : 12, length = file[8] | (uint64_t)file[9] << 8;
    if (file[6] > 1)
        length |= (uint64_t)file[10] << 16 | (uint64_t)file[11] << 24;
    if (length > bytes - start)
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: truncated: the header of %llu bytes ends behind the file", path,
                             (unsigned long long)length);
    const char *text = (const char *)file + start;
    if (read_header(npy, path, (cursor){text, text + length}, error))
        return error->status;
    uint64_t held = bytes - start - length, item = (uint64_t)npy->item_bytes;
    if ((uint64_t)npy->elements != held / item || held % item)
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: truncated or damaged: %lld elements of %d bytes, but %llu bytes of data", path,
                             (long long)npy->elements, npy->item_bytes, (unsigned long long)held);
    npy->data = file + start + length;
    return MLC_OK;
}

int mlc_npy_open(mlc_npy *npy, const char *path, mlc_error *error)
{
    *npy = (mlc_npy){0};
    if (mlc_mapping_open(&npy->mapping, path, error))
        return error->status;
    if (read_file(npy, path, error))
        mlc_npy_close(npy);
    return error->status;
}

void mlc_npy_close(mlc_npy *npy)
{
    mlc_mapping_close(&npy->mapping);
}
