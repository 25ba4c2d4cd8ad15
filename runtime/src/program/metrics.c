/* metrics.c: see metrics.h. */
#include "program/metrics.h"

#include "command/about.h"
#include "report/outputs.h"
#include "report/trace.h"
#include "system/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define TRIES 20

/* ---- the log of a resumed run ---- */

static const char HEAD[] = "{\"step\": ";

/* The bytes of an earlier log that stay: up to the first line of `step` or a later one, or one that was never finished. */
static uint64_t kept_bytes(const mlc_mapping *text, int64_t step)
{
    const size_t head = sizeof HEAD - 1;
    for (uint64_t at = 0; at < text->bytes;) {
        const char *line = (const char *)text->base + at;
        const char *end = memchr(line, '\n', text->bytes - at);
        bool ours = text->bytes - at > head && !memcmp(line, HEAD, head);
        if (ours && (!end || strtoll(line + head, NULL, 10) >= step))
            return at;
        if (!end)
            break;
        at += (uint64_t)(end - line) + 1;
    }
    return text->bytes;
}

/* Cuts from a log what the run that goes on at `step` writes again. */
static int cut_log(const char *log, int64_t step, mlc_error *error)
{
    mlc_mapping text;
    mlc_error ignored = {0};
    if (mlc_mapping_open(&text, log, &ignored))
        return MLC_OK; /* none yet, or no file */
    uint64_t kept = kept_bytes(&text, step), bytes = text.bytes;
    mlc_mapping_close(&text);
    if (kept < bytes && truncate(log, (off_t)kept))
        return mlc_error_system(error, MLC_BAD_INPUT, "%s", log);
    return MLC_OK;
}

/* Where whole lines end, if that can be known. */
static int64_t end_of(const mlc_writer *log)
{
    struct stat status;
    return !fstat(log->fd, &status) && S_ISREG(status.st_mode) ? status.st_size : -1;
}

/* Is the open log still what its name means? */
static bool is_named(const mlc_writer *log, const char *path)
{
    struct stat held, named;
    if (fstat(log->fd, &held) || !S_ISREG(held.st_mode))
        return true;
    return !stat(path, &named) && held.st_dev == named.st_dev && held.st_ino == named.st_ino;
}

/* Opens the log for one writer, after an earlier one was put aside: two that start at once would write into one. */
static int open_log(mlc_writer *log, const char *path, bool trains, bool resumed, mlc_error *failed, mlc_error *error)
{
    for (int try = 0; try < TRIES; try++) {
        if (mlc_writer_open(log, path, true, failed))
            return mlc_error_set(error, failed->status, "%s", failed->text);
        if (trains && end_of(log) >= 0 && mlc_file_lock(log->fd) == 1)
            return mlc_error_set(error, MLC_BAD_INPUT, "%s: another run writes its log there; wait for its end, or give another name",
                                 path);
        if (mlc_output_clear(path, HEAD, resumed, error))
            return error->status;
        if (is_named(log, path))
            return MLC_OK;
        mlc_writer_close(log, false);
    }
    return mlc_error_set(error, MLC_BAD_INPUT, "%s: is renamed or removed again and again", path);
}

int mlc_metrics_open(mlc_metrics *metrics, const mlc_rank *rank, const char *log, bool trains, mlc_error *error)
{
    int64_t step = rank->step;
    metrics->error = (mlc_error){0};
    mlc_progress_open(&metrics->progress, rank->rank != 0, mlc_clock());
    metrics->step_seconds = 0;
    metrics->log.fd = -1;
    if (!log || rank->rank)
        return MLC_OK;
    if (open_log(&metrics->log, log, trains, step > 0, &metrics->error, error) || (step && trains && cut_log(log, step, error)))
        return error->status;
    metrics->whole = end_of(&metrics->log);
    return MLC_OK;
}

static int64_t tokens_in_step(const mlc_model *model)
{
    return model->tokens * model->microbatches;
}

static void put_number(mlc_writer *log, const char *name, double value)
{
    char text[32];
    mlc_json_number(text, value);
    mlc_writer_print(log, ", \"%s\": %s", name, text);
}

static void put_rate(mlc_writer *log, const mlc_rank *rank)
{
    char text[32] = "null";
    const mlc_dtype_row *wide = mlc_dtype_wide(rank->model);
    if (rank->model->rate >= 0)
        mlc_dtype_print(wide, text, wide->load(rank->record->scalars, rank->model->rate));
    mlc_writer_print(log, ", \"rate\": %s", text);
}

/* A line that could not be written whole is taken back, and the log ends there. */
static int log_flush(mlc_metrics *metrics, mlc_error *error)
{
    if (!mlc_writer_flush(&metrics->log)) {
        metrics->whole = end_of(&metrics->log);
        return MLC_OK;
    }
    if (metrics->whole >= 0 && ftruncate(metrics->log.fd, metrics->whole))
        metrics->whole = -1;
    close(metrics->log.fd);
    metrics->log.fd = -1;
    return mlc_error_set(error, metrics->error.status, "%s", metrics->error.text);
}

/* The model's own metrics of a chain: its columns behind the losses. */
static void put_metrics(mlc_writer *log, const mlc_chain *chain, const char *prefix, const double *values)
{
    for (int i = chain->losses; i < chain->column_count; i++) {
        char name[256];
        snprintf(name, sizeof name, "%s%s", prefix, chain->columns[i].name);
        char text[32];
        mlc_json_number(text, values[i - chain->losses]);
        mlc_writer_print(log, ", ");
        mlc_writer_quote(log, name);
        mlc_writer_print(log, ": %s", text);
    }
}

static void log_step(mlc_metrics *metrics, const mlc_rank *rank, double seconds)
{
    mlc_writer *log = &metrics->log;
    const char *unit = mlc_unit(rank->model);
    double tokens = (double)tokens_in_step(rank->model);
    mlc_writer_print(log, "{\"step\": %lld", (long long)rank->step - 1);
    put_number(log, "loss", rank->result.loss);
    put_number(log, "grad_norm", rank->result.grad_norm);
    put_rate(log, rank);
    mlc_writer_print(log, ", \"%s\": %lld", unit, (long long)(rank->step * tokens_in_step(rank->model)));
    mlc_writer_print(log, ", \"step_ms\": %.3f, \"%s_per_s\": %.1f, \"mfu\": null", seconds * 1e3, unit, seconds > 0 ? tokens / seconds : 0);
    put_metrics(log, &rank->model->chains[MLC_TRAIN], "", rank->metrics);
    mlc_writer_print(log, "}\n");
}

static void show_progress(mlc_metrics *metrics, const mlc_rank *rank)
{
    double seconds = metrics->step_seconds;
    mlc_progress_state state = {.step = rank->step, .steps = rank->steps, .loss = rank->result.loss, .unit = mlc_unit(rank->model),
                                .per_second = seconds > 0 ? (double)tokens_in_step(rank->model) / seconds : 0,
                                .seconds = (double)(rank->steps - rank->step) * seconds};
    int64_t now = mlc_clock();
    if (mlc_progress_is_due(&metrics->progress, &state, now))
        mlc_progress_show(&metrics->progress, &state, now);
}

int mlc_metrics_step(mlc_metrics *metrics, const mlc_rank *rank, int64_t nanoseconds, mlc_error *error)
{
    double seconds = (double)nanoseconds / 1e9;
    metrics->step_seconds = metrics->step_seconds > 0 ? 0.95 * metrics->step_seconds + 0.05 * seconds : seconds;
    show_progress(metrics, rank);
    if (metrics->log.fd < 0)
        return MLC_OK;
    log_step(metrics, rank, seconds);
    return log_flush(metrics, error);
}

int mlc_metrics_evaluation(mlc_metrics *metrics, const mlc_rank *rank, const mlc_evaluation *evaluation, mlc_error *error)
{
    if (metrics->log.fd < 0)
        return MLC_OK;
    mlc_writer_print(&metrics->log, "{\"step\": %lld", (long long)rank->step - 1);
    put_number(&metrics->log, "evaluate_loss", evaluation->loss);
    mlc_writer_print(&metrics->log, ", \"evaluate_%s\": %lld", mlc_unit(rank->model), (long long)evaluation->tokens);
    put_metrics(&metrics->log, &rank->model->chains[MLC_EVALUATE], "evaluate_", evaluation->metrics);
    mlc_writer_print(&metrics->log, "}\n");
    return log_flush(metrics, error);
}

void mlc_metrics_settle(mlc_metrics *metrics)
{
    mlc_progress_settle(&metrics->progress);
}

int mlc_metrics_close(mlc_metrics *metrics, mlc_error *error)
{
    mlc_progress_close(&metrics->progress);
    if (metrics->log.fd >= 0 && mlc_writer_close(&metrics->log, false))
        mlc_error_set(error, metrics->error.status, "%s", metrics->error.text);
    return error->status;
}
