/* naming.c: see naming.h. */
#include "checkpoint/naming.h"

#include "mlc.h"

#include <stdlib.h>
#include <string.h>

#define LONGEST 256    /* letters of a name that are compared when the nearest is looked for */
#define MOST 20000     /* names that are looked at for it */

static const char *const ANYWHERE[] = {"_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_forward_module."};
static const char *const IN_FRONT[] = {"module.", "model.", "transformer.", "base_model."};

/* Letters of the mark that stands here, 0: none. */
static size_t mark_at(const char *name, const char *const *marks, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (!strncmp(name, marks[i], strlen(marks[i])))
            return strlen(marks[i]);
    return 0;
}

/* Writes a name without its marks; bare may be name. */
static void strip(char *bare, const char *name)
{
    bool front = true;
    while (*name) {
        size_t mark = mark_at(name, ANYWHERE, sizeof ANYWHERE / sizeof *ANYWHERE);
        if (!mark && front)
            mark = mark_at(name, IN_FRONT, sizeof IN_FRONT / sizeof *IN_FRONT);
        name += mark;
        if (mark)
            continue;
        front = false;
        do
            *bare++ = *name;
        while (*name++ != '.' && *name);
    }
    *bare = 0;
}

static int by_bare(const void *a, const void *b)
{
    const mlc_named *one = a, *other = b;
    int order = strcmp(one->bare, other->bare);
    return order ? order : strcmp(one->stored->name, other->stored->name);
}

static int check_once(const mlc_naming *naming, mlc_error *error)
{
    for (int64_t i = 1; i < naming->count; i++) {
        const mlc_named *one = &naming->items[i - 1], *other = &naming->items[i];
        if (!strcmp(one->stored->name, other->stored->name))
            return mlc_error_set(error, MLC_BAD_INPUT, "tensor %.200s is in two files: %.400s and %.400s", one->stored->name, one->file->path,
                                 other->file->path);
    }
    return MLC_OK;
}

int mlc_naming_open(mlc_naming *naming, const mlc_bundle *bundle, mlc_error *error)
{
    int64_t count = 0;
    for (int64_t f = 0; f < bundle->count; f++)
        count += bundle->files[f].count;
    *naming = (mlc_naming){.items = calloc((size_t)count + 1, sizeof *naming->items)};
    for (int64_t f = 0; naming->items && f < bundle->count; f++)
        for (int64_t i = 0; i < bundle->files[f].count; i++) {
            mlc_named *item = &naming->items[naming->count];
            *item = (mlc_named){strdup(bundle->files[f].tensors[i].name), &bundle->files[f].tensors[i], &bundle->files[f]};
            naming->count += item->bare != NULL;
        }
    if (!naming->items || naming->count < count)
        return mlc_error_set(error, MLC_FAILED, "weights: out of memory");
    for (int64_t i = 0; i < count; i++)
        strip(naming->items[i].bare, naming->items[i].bare);
    qsort(naming->items, (size_t)count, sizeof *naming->items, by_bare);
    return check_once(naming, error);
}

void mlc_naming_close(mlc_naming *naming)
{
    for (int64_t i = 0; i < naming->count; i++)
        free(naming->items[i].bare);
    free(naming->items);
    *naming = (mlc_naming){0};
}

/* The first item whose bare name is not before this one. */
static int64_t lower_bound(const mlc_naming *naming, const char *bare)
{
    int64_t low = 0, high = naming->count;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (strcmp(naming->items[middle].bare, bare) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

const mlc_named *mlc_naming_find(const mlc_naming *naming, const char *name)
{
    char bare[1024];
    if (strlen(name) >= sizeof bare)
        return NULL;
    strip(bare, name);
    int64_t first = lower_bound(naming, bare), i = first;
    for (; i < naming->count && !strcmp(naming->items[i].bare, bare); i++)
        if (!strcmp(naming->items[i].stored->name, name))
            return &naming->items[i];
    return i == first + 1 ? &naming->items[first] : NULL;
}

/* Edits (insert, delete, replace) between two names, of which LONGEST letters count. */
static int distance(const char *a, const char *b)
{
    int row[LONGEST + 1], width = (int)strnlen(b, LONGEST);
    for (int j = 0; j <= width; j++)
        row[j] = j;
    for (int i = 0; a[i] && i < LONGEST; i++) {
        int diagonal = row[0];
        row[0] = i + 1;
        for (int j = 0; j < width; j++) {
            int above = row[j + 1], change = diagonal + (a[i] != b[j]);
            int edit = (above < row[j] ? above : row[j]) + 1;
            row[j + 1] = edit < change ? edit : change;
            diagonal = above;
        }
    }
    return row[width];
}

const char *mlc_naming_nearest(const mlc_naming *naming, const char *name)
{
    char bare[1024];
    if (strlen(name) >= sizeof bare)
        return NULL;
    strip(bare, name);
    const mlc_named *best = NULL;
    int nearest = (int)strlen(bare) / 2 + 1;
    for (int64_t i = 0; i < naming->count && i < MOST; i++) {
        int edits = naming->items[i].stored->used ? nearest : distance(bare, naming->items[i].bare);
        if (edits < nearest) {
            nearest = edits;
            best = &naming->items[i];
        }
    }
    return best ? best->stored->name : NULL;
}
