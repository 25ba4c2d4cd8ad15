/* trace.c: see trace.h. */
#include "trace.h"

#include "file.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct event {
    const char *name;
    double flops;
    int64_t started, done, passed;
} event;

/* The events of one thread since the last flush. */
typedef struct lane {
    _Alignas(64) event *events;
    int64_t count;
} lane;

typedef struct total {
    const char *name;
    int64_t calls;
    int64_t nanoseconds;
    double flops;
} total;

struct mlc_trace {
    int threads;
    int64_t capacity; /* events of a thread in one step */
    lane *lanes;
    mlc_writer *writer; /* NULL: no file */
    mlc_error error;    /* of the file */
    bool begun;
    int64_t origin;
    total *totals; /* open addressing by the name's address; NULL: no profile */
    int64_t slots; /* a power of two */
};

int64_t mlc_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* Rows of a step, and the runtime's own parts: inputs of each microbatch, gradients, update. */
static int64_t events_in_step(const mlc_model *model)
{
    int64_t rows = model->train->weight.count + model->train->forward.count + model->backward.count + 1;
    return model->microbatches * rows + 2;
}

static bool allocate_lanes(mlc_trace *trace)
{
    trace->lanes = aligned_alloc(64, (size_t)trace->threads * sizeof *trace->lanes);
    if (!trace->lanes)
        return false;
    memset(trace->lanes, 0, (size_t)trace->threads * sizeof *trace->lanes);
    bool whole = true;
    for (int i = 0; i < trace->threads; i++) {
        trace->lanes[i].events = calloc((size_t)trace->capacity, sizeof(event));
        whole &= trace->lanes[i].events != NULL;
    }
    return whole;
}

static bool allocate_totals(mlc_trace *trace)
{
    for (trace->slots = 16; trace->slots < 2 * trace->capacity;)
        trace->slots *= 2;
    trace->totals = calloc((size_t)trace->slots, sizeof *trace->totals);
    return trace->totals != NULL;
}

static void trace_free(mlc_trace *trace)
{
    for (int i = 0; trace->lanes && i < trace->threads; i++)
        free(trace->lanes[i].events);
    free(trace->lanes);
    free(trace->totals);
    free(trace->writer);
    free(trace);
}

static int open_file(mlc_trace *trace, const char *path, mlc_error *error)
{
    trace->writer = malloc(sizeof *trace->writer);
    if (!trace->writer)
        return mlc_error_set(error, MLC_FAILED, "trace: out of memory");
    if (mlc_writer_open(trace->writer, path, false, &trace->error))
        return mlc_error_set(error, trace->error.status, "%s", trace->error.text);
    mlc_writer_print(trace->writer, "[");
    return MLC_OK;
}

mlc_trace *mlc_trace_open(const mlc_session *session, const char *path, bool profile, mlc_error *error)
{
    mlc_trace *trace = calloc(1, sizeof *trace);
    if (trace) {
        trace->threads = session->team->threads;
        trace->capacity = events_in_step(session->model);
        trace->origin = mlc_clock();
    }
    if (!trace || !allocate_lanes(trace) || (profile && !allocate_totals(trace)))
        mlc_error_set(error, MLC_FAILED, "trace: out of memory");
    else if (!path || !open_file(trace, path, error))
        return trace;
    if (trace)
        trace_free(trace);
    return NULL;
}

void mlc_trace_row(mlc_trace *trace, const mlc_env *env, const char *name, double flops, int64_t started, int64_t done, int64_t passed)
{
    lane *lane = &trace->lanes[env->thread];
    if (lane->count < trace->capacity)
        lane->events[lane->count++] = (event){name, flops, started, done, passed};
}

/* A complete event; `wait` is the time at the barrier behind the row. Times are microseconds. */
static void write_event(mlc_trace *trace, int thread, const event *e)
{
    mlc_writer_print(trace->writer, "%s\n{\"name\":", trace->begun ? "," : "");
    mlc_writer_quote(trace->writer, e->name);
    mlc_writer_print(trace->writer,
                     ",\"cat\":\"row\",\"ph\":\"X\",\"pid\":0,\"tid\":%d,\"ts\":%.3f,\"dur\":%.3f,"
                     "\"args\":{\"wait\":%.3f,\"flops\":%.17g}}",
                     thread, (double)(e->started - trace->origin) / 1e3, (double)(e->done - e->started) / 1e3,
                     (double)(e->passed - e->done) / 1e3, e->flops);
    trace->begun = true;
}

static void add_total(mlc_trace *trace, const event *e)
{
    uint64_t slot = (uint64_t)(uintptr_t)e->name * 0x9E3779B97F4A7C15 >> 20;
    for (slot &= (uint64_t)trace->slots - 1; trace->totals[slot].name && trace->totals[slot].name != e->name;)
        slot = (slot + 1) & ((uint64_t)trace->slots - 1);
    total *sum = &trace->totals[slot];
    sum->name = e->name;
    sum->calls++;
    sum->nanoseconds += e->passed - e->started;
    sum->flops += e->flops;
}

int mlc_trace_flush(mlc_trace *trace, mlc_error *error)
{
    for (int i = 0; i < trace->threads; i++) {
        for (int64_t k = 0; k < trace->lanes[i].count; k++) {
            if (trace->writer)
                write_event(trace, i, &trace->lanes[i].events[k]);
            if (trace->totals && i == 0)
                add_total(trace, &trace->lanes[i].events[k]);
        }
        trace->lanes[i].count = 0;
    }
    return trace->error.status ? mlc_error_set(error, trace->error.status, "%s", trace->error.text) : MLC_OK;
}

int mlc_trace_close(mlc_trace *trace, mlc_error *error)
{
    if (!trace)
        return MLC_OK;
    mlc_trace_flush(trace, error);
    if (trace->writer) {
        mlc_writer_print(trace->writer, "\n]\n");
        mlc_writer_close(trace->writer, false);
        if (trace->error.status)
            mlc_error_set(error, trace->error.status, "%s", trace->error.text);
    }
    trace_free(trace);
    return error->status;
}

/* ---- profile ---- */

static bool is_longer(const total *a, const total *b)
{
    return a->nanoseconds != b->nanoseconds ? a->nanoseconds > b->nanoseconds : strcmp(a->name, b->name) < 0;
}

/* Moves the used slots to the front, the longest first. (qsort may allocate.) */
static int64_t sort_totals(mlc_trace *trace)
{
    int64_t count = 0;
    for (int64_t i = 0; i < trace->slots; i++) {
        total moving = trace->totals[i];
        if (!moving.name)
            continue;
        trace->totals[i].name = NULL;
        int64_t to = count++;
        for (; to > 0 && is_longer(&moving, &trace->totals[to - 1]); to--)
            trace->totals[to] = trace->totals[to - 1];
        trace->totals[to] = moving;
    }
    return count;
}

void mlc_trace_print_profile(mlc_trace *trace, FILE *out)
{
    int64_t sum = 0, count = sort_totals(trace);
    for (int64_t i = 0; i < count; i++)
        sum += trace->totals[i].nanoseconds;
    fprintf(out, "%10s %6s %8s %10s  %s\n", "ms", "%", "calls", "GFLOP/s", "row");
    for (int64_t i = 0; i < count; i++) {
        const total *row = &trace->totals[i];
        fprintf(out, "%10.3f %6.2f %8lld ", (double)row->nanoseconds / 1e6, sum ? 100.0 * (double)row->nanoseconds / (double)sum : 0,
                (long long)row->calls);
        if (row->flops > 0 && row->nanoseconds)
            fprintf(out, "%10.1f  %s\n", row->flops / (double)row->nanoseconds, row->name);
        else
            fprintf(out, "%10s  %s\n", "-", row->name);
    }
}
