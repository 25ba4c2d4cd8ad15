/* json.c: see json.h. Recursive descent, at most 64 levels deep, with a bound on how many values it keeps. */
#include "system/json.h"

#include "mlc.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEPTH 64
#define NODES (4 << 20) /* values of a text: several hundred megabytes of nodes; no header of tensors comes near */

typedef struct reader {
    mlc_json *json;
    const char *start, *at, *end;
    char *write; /* next free byte of json->strings; there is room: no decoded text is longer than its source */
    int depth;
    bool failed;
} reader;

static int64_t read_value(reader *from);

static int64_t fail(reader *from)
{
    from->failed = true;
    return -1;
}

static void skip_spaces(reader *from)
{
    while (from->at < from->end && strchr(" \t\r\n", *from->at) && *from->at)
        from->at++;
}

static bool take(reader *from, char c)
{
    skip_spaces(from);
    if (from->at == from->end || *from->at != c)
        return false;
    from->at++;
    return true;
}

static int64_t add_node(reader *from, enum mlc_json_kind kind)
{
    mlc_json *json = from->json;
    if (json->count == NODES)
        return fail(from);
    if (json->count == json->capacity) {
        int64_t capacity = 2 * json->capacity + 64;
        mlc_json_node *nodes = realloc(json->nodes, (size_t)capacity * sizeof *nodes);
        if (!nodes)
            return fail(from);
        json->nodes = nodes;
        json->capacity = capacity;
    }
    json->nodes[json->count] = (mlc_json_node){.kind = kind, .first = -1, .next = -1};
    return json->count++;
}

/* ---- strings ---- */

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static long read_hex(reader *from)
{
    long value = 0;
    for (int i = 0; i < 4; i++) {
        int digit = from->at < from->end ? hex_digit(*from->at++) : -1;
        if (digit < 0)
            return fail(from);
        value = value * 16 + digit;
    }
    return value;
}

static void write_utf8(reader *from, long c)
{
    char *to = from->write;
    if (c < 0x80) {
        *to++ = (char)c;
    } else if (c < 0x800) {
        *to++ = (char)(0xC0 | c >> 6);
        *to++ = (char)(0x80 | (c & 63));
    } else if (c < 0x10000) {
        *to++ = (char)(0xE0 | c >> 12);
        *to++ = (char)(0x80 | (c >> 6 & 63));
        *to++ = (char)(0x80 | (c & 63));
    } else {
        *to++ = (char)(0xF0 | c >> 18);
        *to++ = (char)(0x80 | (c >> 12 & 63));
        *to++ = (char)(0x80 | (c >> 6 & 63));
        *to++ = (char)(0x80 | (c & 63));
    }
    from->write = to;
}

/* After \u: a code point, two escapes when it lies above the basic plane. A zero would end the text early: refused. */
static void read_unicode(reader *from)
{
    long c = read_hex(from);
    if (c >= 0xD800 && c < 0xDC00 && from->end - from->at >= 6 && from->at[0] == '\\' && from->at[1] == 'u') {
        from->at += 2;
        long low = read_hex(from);
        c = low >= 0xDC00 && low < 0xE000 ? 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00) : -1;
    }
    if (from->failed || c <= 0 || (c >= 0xD800 && c < 0xE000))
        fail(from);
    else
        write_utf8(from, c);
}

static void read_escape(reader *from)
{
    static const char LETTERS[] = "\"\\/bfnrt", MEANINGS[] = "\"\\/\b\f\n\r\t";
    char c = from->at < from->end ? *from->at++ : 0;
    const char *letter = c ? strchr(LETTERS, c) : NULL;
    if (letter)
        *from->write++ = MEANINGS[letter - LETTERS];
    else if (c == 'u')
        read_unicode(from);
    else
        fail(from);
}

/* After the opening quote. */
static const char *read_string(reader *from)
{
    const char *text = from->write;
    while (!from->failed) {
        if (from->at == from->end || (unsigned char)*from->at < 0x20)
            break;
        char c = *from->at++;
        if (c == '"') {
            *from->write++ = 0;
            return text;
        }
        if (c == '\\')
            read_escape(from);
        else
            *from->write++ = c;
    }
    fail(from);
    return NULL;
}

/* ---- values ---- */

static void read_digits(reader *from)
{
    const char *start = from->at;
    while (from->at < from->end && *from->at >= '0' && *from->at <= '9')
        *from->write++ = *from->at++;
    if (from->at == start)
        fail(from);
}

static bool copy_if(reader *from, const char *letters)
{
    if (from->at == from->end || !*from->at || !strchr(letters, *from->at))
        return false;
    *from->write++ = *from->at++;
    return true;
}

static int64_t read_number(reader *from)
{
    int64_t node = add_node(from, MLC_JSON_NUMBER);
    const char *text = from->write;
    copy_if(from, "-");
    read_digits(from);
    if (copy_if(from, "."))
        read_digits(from);
    if (copy_if(from, "eE")) {
        copy_if(from, "+-");
        read_digits(from);
    }
    *from->write++ = 0;
    if (from->failed)
        return -1;
    from->json->nodes[node].text = text;
    return node;
}

static int64_t read_word(reader *from, const char *word, enum mlc_json_kind kind, bool truth)
{
    size_t length = strlen(word);
    if ((size_t)(from->end - from->at) < length || memcmp(from->at, word, length))
        return fail(from);
    from->at += length;
    int64_t node = add_node(from, kind);
    if (node >= 0)
        from->json->nodes[node].truth = truth;
    return node;
}

/* One element, or key and value of one member. */
static int64_t read_child(reader *from, enum mlc_json_kind kind)
{
    const char *key = NULL;
    if (kind == MLC_JSON_OBJECT) {
        key = take(from, '"') ? read_string(from) : NULL;
        if (!key || !take(from, ':'))
            return fail(from);
    }
    int64_t child = read_value(from);
    if (child >= 0)
        from->json->nodes[child].key = key;
    return child;
}

/* After the opening bracket. */
static int64_t read_children(reader *from, enum mlc_json_kind kind, char close)
{
    int64_t node = add_node(from, kind), last = -1;
    if (node < 0 || take(from, close))
        return node;
    do {
        int64_t child = read_child(from, kind);
        if (child < 0)
            return fail(from);
        mlc_json_node *nodes = from->json->nodes;
        *(last < 0 ? &nodes[node].first : &nodes[last].next) = child;
        nodes[node].count++;
        last = child;
    } while (take(from, ','));
    return take(from, close) ? node : fail(from);
}

static int64_t read_text(reader *from)
{
    int64_t node = add_node(from, MLC_JSON_STRING);
    const char *text = read_string(from);
    if (node < 0 || !text)
        return fail(from);
    from->json->nodes[node].text = text;
    return node;
}

static int64_t read_any(reader *from)
{
    skip_spaces(from);
    if (from->at == from->end)
        return fail(from);
    switch (*from->at) {
    case '{':
        from->at++;
        return read_children(from, MLC_JSON_OBJECT, '}');
    case '[':
        from->at++;
        return read_children(from, MLC_JSON_ARRAY, ']');
    case '"':
        from->at++;
        return read_text(from);
    case 't':
        return read_word(from, "true", MLC_JSON_BOOL, true);
    case 'f':
        return read_word(from, "false", MLC_JSON_BOOL, false);
    case 'n':
        return read_word(from, "null", MLC_JSON_NULL, false);
    default:
        return read_number(from);
    }
}

static int64_t read_value(reader *from)
{
    if (from->failed || from->depth == DEPTH)
        return fail(from);
    from->depth++;
    int64_t node = read_any(from);
    from->depth--;
    return from->failed ? -1 : node;
}

/* ---- the interface ---- */

int mlc_json_parse(mlc_json *json, const char *text, size_t bytes, const char *what, mlc_error *error)
{
    *json = (mlc_json){.strings = malloc(2 * bytes + 16)};
    if (!json->strings)
        return mlc_error_set(error, MLC_FAILED, "%s: out of memory", what);
    reader from = {.json = json, .start = text, .at = text, .end = text + bytes, .write = json->strings};
    read_value(&from);
    skip_spaces(&from);
    if (!from.failed && from.at == from.end)
        return MLC_OK;
    bool many = json->count == NODES;
    mlc_json_free(json);
    if (many)
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: damaged: JSON of more than %d values", what, NODES);
    return mlc_error_set(error, MLC_BAD_INPUT, "%s: damaged: not JSON at offset %lld", what, (long long)(from.at - text));
}

void mlc_json_free(mlc_json *json)
{
    free(json->nodes);
    free(json->strings);
    *json = (mlc_json){0};
}

const mlc_json_node *mlc_json_first(const mlc_json *json, const mlc_json_node *node)
{
    return node->first < 0 ? NULL : &json->nodes[node->first];
}

const mlc_json_node *mlc_json_next(const mlc_json *json, const mlc_json_node *node)
{
    return node->next < 0 ? NULL : &json->nodes[node->next];
}

const mlc_json_node *mlc_json_member(const mlc_json *json, const mlc_json_node *node, const char *key)
{
    if (node->kind != MLC_JSON_OBJECT)
        return NULL;
    for (const mlc_json_node *member = mlc_json_first(json, node); member; member = mlc_json_next(json, member))
        if (!strcmp(member->key, key))
            return member;
    return NULL;
}

bool mlc_json_whole(const mlc_json_node *node, uint64_t *value)
{
    if (!node || node->kind != MLC_JSON_NUMBER || node->text[0] == '-')
        return false;
    char *end;
    errno = 0;
    *value = strtoull(node->text, &end, 10);
    return !errno && !*end;
}

const char *mlc_json_string(const mlc_json_node *node)
{
    return node && node->kind == MLC_JSON_STRING ? node->text : NULL;
}

void mlc_json_number(char text[32], double value)
{
    if (!isfinite(value)) {
        snprintf(text, 32, "null");
        return;
    }
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, 32, "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            return;
    }
}
