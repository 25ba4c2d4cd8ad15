/* trace.c: see trace.h. */
#include "report/trace.h"

#include "model/action.h"
#include "report/outputs.h"
#include "system/file.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LINE_BYTES 4096    /* the most that one event takes in the file */
#define ROUNDS 6           /* of exchanges that place the clocks */
#define PARTS_OF_ACTION 4  /* what the runtime itself notes in an action: inputs, folding */
#define PARTS_OF_STEP 16

typedef struct event {
    const char *name;  /* NULL: the action */
    mlc_action action;
    double flops;
    int64_t started, done, passed;
} event;

/* The events of one thread since the last flush. */
typedef struct lane {
    _Alignas(64) event *events;
    int64_t count;
} lane;

struct mlc_trace {
    const mlc_model *model;
    int rank;
    int place;
    int threads;
    int64_t capacity; /* events of a thread in one step */
    lane *lanes;
    mlc_writer *writer; /* NULL: no file */
    mlc_error error;    /* of the file */
    bool said;          /* the caller knows of it */
    int64_t origin;     /* what is 0 in the file, on this rank's clock */
    mlc_profile *profile; /* NULL: none */
};

int64_t mlc_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* ---- buffers ---- */

/* Actions and rows of a step, and the runtime's own parts. */
static int64_t events_in_step(const mlc_rank *rank)
{
    mlc_actions list = rank->program->lists[MLC_TRAIN];
    int64_t count = PARTS_OF_STEP;
    for (int i = 0; i < list.count; i++) {
        const mlc_action *action = &list.actions[i];
        count += 1 + PARTS_OF_ACTION;
        if (mlc_action_computes(action))
            count += mlc_action_rows(&rank->role->chunks[MLC_TRAIN][action->of], action).count;
    }
    return count;
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

static mlc_trace *trace_allocate(mlc_rank *rank, bool file, bool profile, mlc_error *error)
{
    mlc_trace *trace = calloc(1, sizeof *trace);
    bool whole = trace;
    if (trace) {
        trace->model = rank->model;
        trace->rank = rank->rank;
        trace->place = rank->place;
        trace->threads = rank->team->threads;
        trace->capacity = events_in_step(rank);
        trace->writer = file ? malloc(sizeof *trace->writer) : NULL;
        if (trace->writer) {
            trace->writer->fd = -1;
            trace->writer->error = &trace->error;
        }
        trace->profile = profile ? mlc_profile_open(rank) : NULL;
        whole = (trace->writer || !file) && allocate_lanes(trace) && (trace->profile || !profile);
    }
    if (!whole)
        mlc_error_set(error, MLC_FAILED, "trace: out of memory");
    return trace;
}

void mlc_trace_close(mlc_trace *trace)
{
    if (!trace)
        return;
    if (trace->writer)
        mlc_writer_close(trace->writer, false);
    for (int i = 0; trace->lanes && i < trace->threads; i++)
        free(trace->lanes[i].events);
    free(trace->lanes);
    mlc_profile_close(trace->profile);
    free(trace->writer);
    free(trace);
}

/* ---- the file ---- */

static const char HEAD[] = "[\n{\"name\":\"process_name\"";

/* A line that names the rank. That of rank 0 is the first event, so that all others start with a comma. */
static void put_process(mlc_trace *trace, const mlc_rank *rank)
{
    mlc_writer_print(trace->writer,
                     "%s\n{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":%d,\"tid\":0,"
                     "\"args\":{\"name\":\"rank %d: place %d, replica %d\"}},\n"
                     "{\"name\":\"process_sort_index\",\"ph\":\"M\",\"pid\":%d,\"tid\":0,\"args\":{\"sort_index\":%d}}",
                     rank->rank ? "," : "[", rank->rank, rank->rank, rank->place, rank->replica, rank->rank, rank->rank);
}

/* Appends what the buffer holds, alone: the lock is for file systems of several machines, where appending is not enough. */
static int put_batch(mlc_trace *trace)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET}, unlock = {.l_type = F_UNLCK, .l_whence = SEEK_SET};
    bool locked = !fcntl(trace->writer->fd, F_SETLKW, &lock);
    mlc_writer_flush(trace->writer);
    if (locked)
        fcntl(trace->writer->fd, F_SETLK, &unlock);
    return trace->error.status;
}

/* Rank 0 makes the file anew. */
static int create_file(mlc_trace *trace, const char *path, mlc_error *error)
{
    if (mlc_output_clear(path, HEAD, false, error))
        return error->status;
    mlc_writer_open(trace->writer, path, true, &trace->error);
    mlc_writer_close(trace->writer, false);
    return trace->error.status ? mlc_error_set(error, trace->error.status, "%s", trace->error.text) : MLC_OK;
}

static int append_to_file(mlc_trace *trace, const mlc_rank *rank, const char *path, mlc_error *error)
{
    if (!mlc_path_is_file(path) && rank->rank)
        return mlc_error_set(error, MLC_BAD_INPUT, "--trace %s: wants a file that all ranks see", path);
    if (!mlc_writer_open(trace->writer, path, true, &trace->error)) {
        put_process(trace, rank);
        if (!rank->rank)
            put_batch(trace);
    }
    return trace->error.status ? mlc_error_set(error, trace->error.status, "%s", trace->error.text) : MLC_OK;
}

/* ---- one clock ----
 * In each exchange, rank 0 enters, then this rank leaves; and this rank enters, then rank 0 leaves. So, with o what this clock is
 * ahead of that of rank 0:   entered - left0 <= o <= left - entered0.   Where 0 is possible, the clock is taken to be the same. */

typedef struct moments {
    int64_t origin;
    int64_t entered[ROUNDS];
    int64_t left[ROUNDS];
} moments;

static int meet(mlc_rank *rank, moments *own)
{
    own->origin = mlc_clock();
    for (int i = 0; i < ROUNDS; i++) {
        char nothing[64] = {0};
        own->entered[i] = mlc_clock();
        int status = mlc_exchange(&rank->world, nothing, sizeof nothing, 1, mlc_combine_or);
        if (status)
            return status;
        own->left[i] = mlc_clock();
    }
    return MLC_OK;
}

static int align_clock(mlc_trace *trace, mlc_rank *rank)
{
    moments own, first = {0};
    if (meet(rank, &own))
        return rank->error.status;
    if (!rank->rank)
        first = own;
    if (mlc_exchange(&rank->world, &first, sizeof first, 1, mlc_combine_or))
        return rank->error.status;
    int64_t low = INT64_MIN, high = INT64_MAX;
    for (int i = 0; i < ROUNDS; i++) {
        int64_t least = own.entered[i] - first.left[i], most = own.left[i] - first.entered[i];
        low = least > low ? least : low;
        high = most < high ? most : high;
    }
    trace->origin = first.origin + (low <= 0 && high >= 0 ? 0 : low + (high - low) / 2);
    return MLC_OK;
}

/* Rank 0 makes the file and its first line before the others know that there is one. */
static int open_file(mlc_trace *trace, mlc_rank *rank, const char *path, mlc_error *error)
{
    if (!rank->rank && !create_file(trace, path, error))
        append_to_file(trace, rank, path, error);
    if (mlc_agree(&rank->world, error))
        return error->status;
    if (rank->rank)
        append_to_file(trace, rank, path, error);
    return mlc_agree(&rank->world, error) ? error->status : align_clock(trace, rank);
}

mlc_trace *mlc_trace_open(mlc_rank *rank, const char *path, bool profile, mlc_error *error)
{
    bool totals = profile && !rank->rank;
    mlc_trace *trace = path || totals ? trace_allocate(rank, path != NULL, totals, error) : NULL;
    if (!mlc_agree(&rank->world, error) && path)
        open_file(trace, rank, path, error);
    if (!error->status)
        return trace;
    mlc_trace_close(trace);
    return NULL;
}

/* ---- events ---- */

static void note(mlc_trace *trace, const mlc_env *env, event e)
{
    lane *lane = &trace->lanes[env->thread];
    if (lane->count < trace->capacity)
        lane->events[lane->count++] = e;
}

void mlc_trace_row(mlc_trace *trace, const mlc_env *env, const char *name, double flops, int64_t started, int64_t done, int64_t passed)
{
    if (trace->profile && env->thread == 0)
        mlc_profile_row(trace->profile, name, flops, started, passed);
    note(trace, env, (event){.name = name, .flops = flops, .started = started, .done = done, .passed = passed});
}

void mlc_trace_action(mlc_trace *trace, const mlc_env *env, const mlc_action *action, int64_t started, int64_t done)
{
    note(trace, env, (event){.action = *action, .started = started, .done = done, .passed = done});
}

/* A complete event; `wait` is the time at the barrier behind the row. Times are microseconds. */
static void put_event(mlc_trace *trace, int thread, const event *e)
{
    mlc_writer *writer = trace->writer;
    char action[MLC_ACTION_NAME_BYTES];
    if (!e->name)
        mlc_action_name(action, trace->model, trace->place, &e->action);
    if (writer->used + LINE_BYTES > sizeof writer->buffer)
        put_batch(trace);
    mlc_writer_print(writer, ",\n{\"name\":");
    mlc_writer_quote(writer, e->name ? e->name : action);
    mlc_writer_print(writer, ",\"cat\":\"%s\",\"ph\":\"X\",\"pid\":%d,\"tid\":%d,\"ts\":%.3f,\"dur\":%.3f", e->name ? "row" : "action",
                     trace->rank, thread, (double)(e->started - trace->origin) / 1e3, (double)(e->done - e->started) / 1e3);
    if (e->name)
        mlc_writer_print(writer, ",\"args\":{\"wait\":%.3f,\"flops\":%.17g}", (double)(e->passed - e->done) / 1e3, e->flops);
    mlc_writer_print(writer, "}");
}

int mlc_trace_flush(mlc_trace *trace, mlc_error *error)
{
    for (int i = 0; i < trace->threads; i++) {
        for (int64_t k = 0; k < trace->lanes[i].count; k++) {
            if (trace->writer)
                put_event(trace, i, &trace->lanes[i].events[k]);
        }
        trace->lanes[i].count = 0;
    }
    if (!trace->error.status || trace->said)
        return MLC_OK;
    trace->said = true;
    return mlc_error_set(error, trace->error.status, "%s", trace->error.text);
}

mlc_profile *mlc_trace_profile(const mlc_trace *trace)
{
    return trace ? trace->profile : NULL;
}

bool mlc_trace_failed(const mlc_trace *trace)
{
    return trace && trace->error.status;
}

int mlc_trace_finish(mlc_trace *trace, mlc_rank *rank, mlc_error *error)
{
    if (trace && !mlc_trace_flush(trace, error) && trace->writer)
        put_batch(trace);
    if (mlc_trace_failed(trace))
        mlc_error_set(error, trace->error.status, "%s", trace->error.text);
    if (mlc_agree(&rank->world, error) || rank->rank || !trace || !trace->writer)
        return error->status;
    mlc_writer_print(trace->writer, "\n]\n");
    mlc_writer_close(trace->writer, false);
    return trace->error.status ? mlc_error_set(error, trace->error.status, "%s", trace->error.text) : MLC_OK;
}
