/* alike.c: see alike.h. */
#include "checkpoint/alike.h"

#include "checkpoint/identity.h"
#include "model/accord.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef char identity[MLC_IDENTITY_BYTES];

/* The first input that differs from rank 0's, on the lowest rank where it does. */
typedef struct finding {
    int32_t item; /* option * inputs + input; as many as there are: none */
    int32_t rank;
    int32_t count; /* ranks where it differs */
    identity has;
} finding;

static void combine_findings(void *into, const void *from, size_t bytes)
{
    finding *own = into;
    const finding *other = from;
    for (size_t i = 0; i < bytes / sizeof *own; i++) {
        int32_t count = own[i].item == other[i].item ? own[i].count + other[i].count : -1;
        if (other[i].item < own[i].item || (other[i].item == own[i].item && other[i].rank < own[i].rank))
            own[i] = other[i];
        own[i].count = count >= 0 ? count : own[i].count;
    }
}

/* Compares `items` identities with those of rank 0, which `first` takes. found->item < items: they differ. Returns a status. */
static int compare(mlc_rank *rank, const identity *own, identity *first, int items, finding *found, mlc_error *error)
{
    if (rank->rank == 0)
        memcpy(first, own, (size_t)items * sizeof *own);
    if (mlc_accord_block(rank, first, (size_t)items * sizeof *first, error))
        return error->status;
    *found = (finding){.rank = rank->rank, .count = 1};
    while (found->item < items && !strcmp(own[found->item], first[found->item]))
        found->item++;
    if (found->item < items)
        memcpy(found->has, own[found->item], sizeof found->has);
    int status = mlc_exchange(&rank->world, found, sizeof *found, sizeof *found, combine_findings);
    return status ? mlc_error_set(error, status, "%s", rank->world.error->text) : MLC_OK;
}

/* "content X at rank 0, Y at rank 3 (2 ranks differ from rank 0)". */
static void print_finding(char text[200], const finding *found, const identity *first)
{
    char more[64] = "";
    if (found->count > 1)
        snprintf(more, sizeof more, " (%d ranks differ from rank 0)", found->count);
    snprintf(text, 200, "content %s at rank 0, %s at rank %d%s", first[found->item], found->has, found->rank, more);
}

static int compare_data(mlc_rank *rank, const identity *own, identity *first, int items, mlc_error *error)
{
    finding found;
    char text[200];
    int inputs = rank->model->input_count;
    if (compare(rank, own, first, items, &found, error) || found.item == items)
        return error->status;
    print_finding(text, &found, first);
    return mlc_error_set(error, MLC_BAD_INPUT, "the ranks differ in %s: what feeds input %s has %s",
                         found.item < inputs ? "--data" : "--evaluate", rank->model->inputs[found.item % inputs].tensor.name, text);
}

static int compare_content(mlc_rank *rank, const char *path, const identity *own, mlc_error *error)
{
    identity first = "";
    finding found;
    char text[200];
    if (compare(rank, own, &first, 1, &found, error) || found.item == 1)
        return error->status;
    print_finding(text, &found, &first);
    return mlc_error_set(error, MLC_BAD_INPUT, "%s: the ranks read different files there: %s", path, text);
}

int mlc_alike_files(mlc_rank *rank, const char *path, const mlc_bundle *const *bundles, int count, mlc_error *error)
{
    identity own;
    if (rank->world.ranks == 1)
        return error->status;
    mlc_identity_of_files(bundles, count, own);
    return compare_content(rank, path, &own, error);
}

int mlc_alike_bytes(mlc_rank *rank, const char *path, const void *data, size_t bytes, mlc_error *error)
{
    identity own;
    if (rank->world.ranks == 1)
        return error->status;
    mlc_identity_of_bytes(data, bytes, own);
    return compare_content(rank, path, &own, error);
}

int mlc_alike_data(mlc_rank *rank, const mlc_data *training, const mlc_data *evaluation, mlc_error *error)
{
    int inputs = rank->model->input_count, items = 2 * inputs;
    if (rank->world.ranks == 1)
        return error->status;
    identity *both = calloc(2 * (size_t)items + 1, sizeof *both); /* this rank's, then rank 0's */
    if (!both)
        mlc_error_set(error, MLC_FAILED, "data: out of memory");
    if (mlc_accord(rank, error)) {
        free(both);
        return error->status;
    }
    for (int i = 0; i < items; i++) {
        const mlc_data *data = i < inputs ? training : evaluation;
        if (data->model)
            mlc_identity_of_input(data, i % inputs, both[i]);
    }
    compare_data(rank, both, both + items, items, error);
    free(both);
    return error->status;
}
