/* profile.c: see profile.h. */
#include "report/profile.h"

#include "report/trace.h"
#include "system/file.h"

#include <stdlib.h>
#include <string.h>

/* A kernel of a function, a row or a part. The strings are constants of the program, so that addresses tell them apart. */
typedef struct total {
    const char *function; /* NULL: a row, or a part */
    const char *name;     /* NULL: an empty slot */
    int64_t calls;
    int64_t nanoseconds;
    double flops;
} total;

struct mlc_profile {
    mlc_listener listener;
    mlc_rank *rank;
    total *totals; /* open addressing, then sorted */
    int64_t slots; /* a power of two */
    int64_t count;
    total now;     /* the kernel that runs; name NULL: none */
    int64_t began; /* when it did */
    double peak;   /* FLOP/s of all threads; 0: not known */
    bool lost;     /* there was no memory for one more */
};

/* ---- totals ---- */

static total *slot_of(total *totals, int64_t slots, const total *of)
{
    uint64_t slot = ((uint64_t)(uintptr_t)of->name ^ (uint64_t)(uintptr_t)of->function << 7) * 0x9E3779B97F4A7C15 >> 20;
    for (slot &= (uint64_t)slots - 1; totals[slot].name && (totals[slot].name != of->name || totals[slot].function != of->function);)
        slot = (slot + 1) & ((uint64_t)slots - 1);
    return &totals[slot];
}

/* Room for one more. */
static bool make_room(mlc_profile *profile)
{
    if (2 * (profile->count + 1) <= profile->slots)
        return true;
    int64_t slots = profile->slots ? 2 * profile->slots : 256;
    total *totals = calloc((size_t)slots, sizeof *totals);
    if (!totals)
        return false;
    for (int64_t i = 0; i < profile->slots; i++)
        if (profile->totals[i].name)
            *slot_of(totals, slots, &profile->totals[i]) = profile->totals[i];
    free(profile->totals);
    profile->totals = totals;
    profile->slots = slots;
    return true;
}

static void add(mlc_profile *profile, total of, int64_t nanoseconds)
{
    if (!make_room(profile)) {
        profile->lost = true;
        return;
    }
    total *sum = slot_of(profile->totals, profile->slots, &of);
    profile->count += !sum->name;
    sum->function = of.function;
    sum->name = of.name;
    sum->calls++;
    sum->nanoseconds += nanoseconds;
    sum->flops += of.flops;
}

static void begin(mlc_listener *listener, const char *function, const char *kernel, double flops)
{
    mlc_profile *profile = (mlc_profile *)listener; /* its first member */
    int64_t now = mlc_clock();
    if (profile->now.name)
        add(profile, profile->now, now - profile->began);
    profile->now = (total){.function = function, .name = kernel, .flops = flops};
    profile->began = now;
}

void mlc_profile_row(mlc_profile *profile, const char *name, double flops, int64_t started, int64_t passed)
{
    if (profile->now.name && profile->began >= started)
        add(profile, profile->now, passed - profile->began);
    else
        add(profile, (total){.name = name, .flops = flops}, passed - started);
    profile->now.name = NULL;
}

/* ---- the whole ---- */

mlc_profile *mlc_profile_open(mlc_rank *rank)
{
    mlc_profile *profile = calloc(1, sizeof *profile);
    if (!profile)
        return NULL;
    profile->listener.begin = begin;
    profile->rank = rank;
    rank->team->workers[0].env.listener = &profile->listener;
    return profile;
}

void mlc_profile_close(mlc_profile *profile)
{
    if (!profile)
        return;
    profile->rank->team->workers[0].env.listener = NULL;
    free(profile->totals);
    free(profile);
}

/* ---- the table ---- */

static int compare_totals(const void *a_, const void *b_)
{
    const total *a = a_, *b = b_;
    if (a->nanoseconds != b->nanoseconds)
        return a->nanoseconds > b->nanoseconds ? -1 : 1;
    int by_name = strcmp(a->name, b->name);
    return by_name ? by_name : strcmp(a->function ? a->function : "", b->function ? b->function : "");
}

/* Moves the used slots to the front, the longest first. Nothing can be added any more. */
static void sort(mlc_profile *profile)
{
    int64_t count = 0;
    for (int64_t i = 0; i < profile->slots; i++)
        if (profile->totals[i].name)
            profile->totals[count++] = profile->totals[i];
    if (count)
        qsort(profile->totals, (size_t)count, sizeof *profile->totals, compare_totals);
    profile->slots = 0;
}

static int64_t sum_of(const mlc_profile *profile)
{
    int64_t sum = 0;
    for (int64_t i = 0; i < profile->count; i++)
        sum += profile->totals[i].nanoseconds;
    return sum;
}

static void print_total(const mlc_profile *profile, const total *of, int64_t sum, FILE *out)
{
    fprintf(out, "%10.3f %6.2f %8lld ", (double)of->nanoseconds / 1e6, sum ? 100.0 * (double)of->nanoseconds / (double)sum : 0,
            (long long)of->calls);
    double rate = of->nanoseconds ? of->flops / (double)of->nanoseconds : 0;
    if (rate > 0)
        fprintf(out, "%10.1f ", rate);
    else
        fprintf(out, "%10s ", "-");
    if (rate > 0 && profile->peak > 0)
        fprintf(out, "%6.1f  ", 100 * rate * 1e9 / profile->peak);
    else
        fprintf(out, "%6s  ", "-");
    fprintf(out, "%s%s%s\n", of->function ? of->function : "", of->function ? "  " : "", of->name);
}

void mlc_profile_print(mlc_profile *profile, FILE *out)
{
    sort(profile);
    profile->peak = mlc_profile_peak(profile->rank);
    int64_t sum = sum_of(profile);
    if (profile->peak > 0)
        fprintf(out, "peak of %d thread%s: %.1f GFLOP/s of fused multiply-adds on registers\n", profile->rank->team->threads,
                profile->rank->team->threads > 1 ? "s" : "", profile->peak / 1e9);
    fprintf(out, "%10s %6s %8s %10s %6s  %s\n", "ms", "%", "calls", "GFLOP/s", "% peak", "kernel");
    for (int64_t i = 0; i < profile->count; i++)
        print_total(profile, &profile->totals[i], sum, out);
    if (profile->lost)
        fprintf(out, "out of memory: some kernels are left out\n");
}

int mlc_profile_write(const mlc_profile *profile, const char *path, mlc_error *error)
{
    mlc_writer *writer = malloc(sizeof *writer);
    if (!writer)
        return mlc_error_set(error, MLC_FAILED, "--profile-json: out of memory");
    if (!mlc_writer_open(writer, path, false, error)) {
        mlc_writer_print(writer, MLC_PROFILE_HEAD "%.17g, \"threads\": %d, \"kernels\": [", profile->peak / 1e9,
                         profile->rank->team->threads);
        for (int64_t i = 0; i < profile->count; i++) {
            const total *of = &profile->totals[i];
            mlc_writer_print(writer, "%s\n{\"name\": ", i ? "," : "");
            mlc_writer_quote(writer, of->name);
            mlc_writer_print(writer, ", \"function\": ");
            mlc_writer_quote(writer, of->function ? of->function : "");
            mlc_writer_print(writer, ", \"ms\": %.17g, \"calls\": %lld, \"flops\": %.17g}", (double)of->nanoseconds / 1e6, (long long)of->calls,
                             of->flops);
        }
        mlc_writer_print(writer, "\n]}\n");
        mlc_writer_close(writer, false);
    }
    free(writer);
    return error->status;
}
