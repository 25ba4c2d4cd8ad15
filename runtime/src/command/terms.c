/* terms.c: see terms.h. */
#include "command/terms.h"

#include "mlc.h"
#include "system/dtype.h"
#include "system/file.h"

#include <stdio.h>
#include <string.h>

#define VERSION 1           /* of what is said at a meeting */
#define DESCRIPTION_LINES 60

_Static_assert(sizeof(mlc_error) <= MLC_MEETING_BYTES && sizeof(mlc_term) <= MLC_MEETING_BYTES &&
               (MLC_TERMS + 1) * sizeof(uint64_t) <= MLC_MEETING_BYTES, "what is shared fits the board");

/* ---- gathering ---- */

static uint64_t hash_text(uint64_t hash, const char *text)
{
    do
        hash = (hash ^ (unsigned char)*text) * UINT64_C(0x100000001b3);
    while (*text++);
    return hash;
}

void mlc_terms_add(mlc_terms *terms, const char *name, const char *value)
{
    bool room = terms->count < MLC_TERMS;
    int i = room ? terms->count++ : MLC_TERMS - 1;
    uint64_t start = room ? UINT64_C(0xcbf29ce484222325) : terms->digests[i];
    terms->digests[i] = hash_text(hash_text(start, name), value);
    snprintf(terms->terms[i].name, sizeof terms->terms[i].name, "%.63s", room ? name : "other options");
    snprintf(terms->terms[i].value, sizeof terms->terms[i].value, "%s", room ? value : "others");
}

static void add_whole(mlc_terms *terms, const char *name, int64_t value)
{
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)value);
    mlc_terms_add(terms, name, text);
}

/* The items behind the model's hash, so that what differs has a name. */
static void add_description(mlc_terms *terms, const char *description)
{
    char line[1024];
    for (int i = 0; i < DESCRIPTION_LINES && *description; i++) {
        size_t length = strcspn(description, "\n");
        snprintf(line, sizeof line, "%.*s", (int)(length < sizeof line ? length : sizeof line - 1), description);
        char *equals = strchr(line, '=');
        if (equals)
            *equals = 0;
        mlc_terms_add(terms, line, equals ? equals + 1 : "");
        description += length + (description[length] == '\n');
    }
}

/* The program's file: kernels and tables are in no hash of the model. */
static void add_program(mlc_terms *terms)
{
    mlc_mapping file;
    mlc_error unread = {0};
    mlc_sha256 hash;
    uint8_t digest[32];
    char hex[65] = "unknown";
    if (!mlc_mapping_open(&file, "/proc/self/exe", &unread)) {
        mlc_sha256_begin(&hash);
        mlc_sha256_add(&hash, file.base, file.bytes);
        mlc_sha256_end(&hash, digest);
        mlc_sha256_hex(digest, hex);
        mlc_mapping_close(&file);
    }
    mlc_terms_add(terms, "SHA-256 of the program", hex);
}

void mlc_terms_gather(mlc_terms *terms, const mlc_model *model, const mlc_options *options)
{
    char name[64], value[32];
    terms->count = 0;
    mlc_terms_add(terms, "model", model->name);
    snprintf(value, sizeof value, "pp %d, dp %d", model->mesh.size[MLC_PP], model->mesh.size[MLC_DP]);
    mlc_terms_add(terms, "layout", value);
    add_whole(terms, "batch", model->batch);
    add_whole(terms, "microbatches", model->microbatches);
    add_description(terms, model->description);
    mlc_terms_add(terms, "hash of the model", model->hash);
    mlc_options_list(options, terms);
    for (int i = 0; i < model->scalar_count; i++) {
        if (!model->scalars[i].option)
            continue;
        snprintf(name, sizeof name, "--%s", model->scalars[i].name);
        snprintf(value, sizeof value, "%.*g", mlc_dtype_wide(model)->wide->most_digits, options->scalars[i]);
        mlc_terms_add(terms, name, value);
    }
    add_program(terms);
}

/* ---- comparing ---- */

static int compare_versions(mlc_meeting *meeting, bool *common, mlc_error *error)
{
    int64_t least = VERSION, most = -VERSION;
    if (meeting->fold(meeting, &least, false, error) || meeting->fold(meeting, &most, false, error))
        return error->status;
    *common = least != -most;
    return *common ? mlc_error_set(error, MLC_USAGE, "the ranks run programs of different versions of mlc") : MLC_OK;
}

/* An error of one rank, the lowest that has one, becomes that of all. */
static int share_errors(mlc_meeting *meeting, const mlc_error *own, bool *common, mlc_error *error)
{
    int64_t rank = own->status ? meeting->rank : meeting->ranks;
    mlc_error shared = *own;
    if (meeting->fold(meeting, &rank, false, error))
        return error->status;
    if (rank == meeting->ranks)
        return MLC_OK;
    if (meeting->share(meeting, (int)rank, &shared, sizeof shared, error))
        return error->status;
    *common = true;
    if (rank == 0)
        return mlc_error_set(error, shared.status, "%s", shared.text);
    return mlc_error_set(error, shared.status, "rank %d: %.1400s", (int)rank, shared.text);
}

static int first_difference(const mlc_terms *own, int count, const uint64_t *digests)
{
    for (int i = 0; i < MLC_TERMS; i++)
        if ((i < own->count) != (i < count) || (i < count && own->digests[i] != digests[i]))
            return i;
    return MLC_TERMS;
}

static mlc_term term_at(const mlc_terms *terms, int number)
{
    return number < terms->count ? terms->terms[number] : (mlc_term){"the end of the options", ""};
}

static int describe(mlc_term first, mlc_term other, int rank, int64_t count, mlc_error *error)
{
    char more[64] = "";
    if (count > 1)
        snprintf(more, sizeof more, " (%lld ranks differ from rank 0)", (long long)count);
    if (!strcmp(first.name, other.name))
        return mlc_error_set(error, MLC_USAGE, "the ranks differ in %s: %s at rank 0, %s at rank %d%s", first.name, first.value, other.value,
                             rank, more);
    return mlc_error_set(error, MLC_USAGE, "the ranks differ: %s %s at rank 0, %s %s at rank %d%s", first.name, first.value, other.name,
                         other.value, rank, more);
}

static int compare_terms(const mlc_terms *own, mlc_meeting *meeting, bool *common, mlc_error *error)
{
    struct { int64_t count; uint64_t digests[MLC_TERMS]; } first = {own->count, {0}};
    memcpy(first.digests, own->digests, sizeof first.digests);
    if (meeting->share(meeting, 0, &first, sizeof first, error))
        return error->status;
    int64_t number = first_difference(own, (int)first.count, first.digests), least = number * meeting->ranks + meeting->rank;
    if (meeting->fold(meeting, &least, false, error))
        return error->status;
    int64_t lowest = least / meeting->ranks, count = number == lowest && meeting->rank;
    if (lowest == MLC_TERMS)
        return MLC_OK;
    int rank = (int)(least % meeting->ranks);
    mlc_term own_term = term_at(own, (int)lowest), other = own_term, zero = own_term;
    if (meeting->fold(meeting, &count, true, error) || meeting->share(meeting, rank, &other, sizeof other, error) ||
        meeting->share(meeting, 0, &zero, sizeof zero, error))
        return error->status;
    *common = true;
    return describe(zero, other, rank, count, error);
}

int mlc_terms_compare(const mlc_terms *own, mlc_meeting *meeting, bool *common, mlc_error *error)
{
    mlc_error before = *error;
    *error = (mlc_error){0};
    *common = false;
    if (compare_versions(meeting, common, error) || share_errors(meeting, &before, common, error))
        return error->status;
    return compare_terms(own, meeting, common, error);
}
