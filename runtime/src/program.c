/* program.c: mlc_main: a model as a program. */
#include "checkpoint.h"
#include "digest.h"
#include "evaluate.h"
#include "executor.h"
#include "metrics.h"
#include "options.h"
#include "sample.h"
#include "trace.h"
#include "watchdog.h"
#include "weights.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The only global: what a signal handler can reach. */
static volatile sig_atomic_t stop_signal;

typedef struct program {
    const mlc_model *model;
    mlc_options options;
    mlc_error error;
    mlc_session *session;
    mlc_data data;
    mlc_data evaluation;
    mlc_metrics metrics;
    mlc_trace *trace;
    mlc_sampler sampler;
    mlc_watchdog watchdog;
    double seconds; /* spent in steps */
    int64_t saved;  /* step of the last checkpoint, -1 before */
} program;

/* ---- signals ---- */

static void take_signal(int signal)
{
    stop_signal = signal;
}

/* What SIGTERM and SIGUSR1 do: take_signal while there is something to save, SIG_DFL otherwise. */
static void set_signals(void (*handler)(int))
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);
}

/* ---- before step 0 ---- */

/* A launcher that started several ranks of a program that has one. */
static int check_launcher(mlc_error *error)
{
    static const char *const SIZES[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS", "WORLD_SIZE"};
    for (size_t i = 0; i < sizeof SIZES / sizeof *SIZES; i++) {
        const char *size = getenv(SIZES[i]);
        if (size && atoi(size) > 1)
            return mlc_error_set(error, MLC_USAGE, "%s=%s: a launcher started several ranks, this program has one", SIZES[i], size);
    }
    return MLC_OK;
}

static int print_plan(mlc_error *error)
{
    char path[MLC_PATH_BYTES];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - sizeof "/plan.json");
    if (length < 0)
        return mlc_error_system(error, MLC_BAD_INPUT, "/proc/self/exe");
    path[length] = 0;
    char *slash = strrchr(path, '/');
    strcpy(slash ? slash : path, "/plan.json");
    mlc_mapping plan;
    if (mlc_mapping_open(&plan, path, error))
        return error->status;
    fwrite(plan.base, 1, plan.bytes, stdout);
    mlc_mapping_close(&plan);
    return MLC_OK;
}

static int open_session(program *run)
{
    const mlc_options *options = &run->options;
    mlc_open_options chosen = {.threads = (int)options->threads, .seed = options->seed < 0 ? 0 : (uint64_t)options->seed,
                               .steps = options->steps};
    run->session = mlc_session_open(run->model, &chosen, &run->error);
    if (!run->session)
        return run->error.status;
    memcpy(run->session->scalars, options->scalars, (size_t)run->model->scalar_count * sizeof(float));
    run->session->sequential = !strcmp(options->order, "sequential");
    return MLC_OK;
}

static int open_data(program *run)
{
    const mlc_options *options = &run->options;
    if (options->data.count && mlc_data_open(&run->data, run->model, options->data.items, options->data.count, "--data", &run->error))
        return run->error.status;
    run->session->examples = run->data.examples;
    if (options->evaluate.count)
        mlc_data_open(&run->evaluation, run->model, options->evaluate.items, options->evaluate.count, "--evaluate", &run->error);
    return run->error.status;
}

static void note_skipped(const mlc_error *why)
{
    fprintf(stderr, "note: checkpoint passed over: %s\n", why->text);
}

static int resume_from(program *run, const char *path)
{
    mlc_session *session = run->session;
    uint64_t seed = session->seed;
    mlc_allowed allowed = {run->options.allow.items, run->options.allow.count};
    bool seed_given = run->options.seed >= 0;
    if (mlc_checkpoint_load(session, path, allowed, &run->error))
        return run->error.status;
    bool seed_allowed = false;
    for (int i = 0; i < allowed.count; i++)
        seed_allowed |= !strcmp(allowed.items[i], "seed");
    if (seed_given && seed != session->seed && !seed_allowed)
        return mlc_error_set(&run->error, MLC_BAD_INPUT, "%s: seed: the checkpoint has %llu, this run %llu (--allow seed lets it pass)",
                             path,
                             (unsigned long long)session->seed, (unsigned long long)seed);
    if (seed_given)
        session->seed = seed;
    if (session->step > session->steps)
        return mlc_error_set(&run->error, MLC_BAD_INPUT, "%s: %lld steps are done, more than --steps %lld", path, (long long)session->step,
                             (long long)session->steps);
    return MLC_OK;
}

static int resume(program *run)
{
    const mlc_options *options = &run->options;
    char newest[MLC_PATH_BYTES];
    if (strcmp(options->resume, "auto"))
        return resume_from(run, options->resume);
    if (mlc_checkpoint_newest(options->checkpoint, newest, note_skipped, &run->error))
        return run->error.status;
    return *newest ? resume_from(run, newest) : MLC_OK;
}

static int load_state(program *run)
{
    mlc_allowed allowed = {run->options.allow.items, run->options.allow.count};
    if (run->options.checkpoint && mlc_checkpoint_prepare(run->options.checkpoint, &run->error))
        return run->error.status;
    if (run->options.resume && resume(run))
        return run->error.status;
    if (run->options.weights && mlc_weights_load(run->session, run->options.weights, allowed, &run->error))
        return run->error.status;
    mlc_executor_refresh(run->session);
    return MLC_OK;
}

static int open_reports(program *run)
{
    const mlc_options *options = &run->options;
    if (mlc_metrics_open(&run->metrics, options->log, run->session->step, &run->error))
        return run->error.status;
    if (options->sample >= 0 && mlc_sampler_open(&run->sampler, run->model, options->prompt, &run->error))
        return run->error.status;
    if (options->trace || options->profile)
        run->trace = mlc_trace_open(run->session, options->trace, options->profile, &run->error);
    return run->error.status ? run->error.status : mlc_watchdog_open(&run->watchdog, run->session, options->timeout, &run->error);
}

/* ---- training ---- */

static int save(program *run)
{
    run->saved = run->session->step;
    return mlc_checkpoint_save(run->session, run->options.checkpoint, &run->error);
}

static int fail_session(program *run)
{
    return mlc_error_set(&run->error, run->session->error.status, "%s", run->session->error.text);
}

static int report_evaluation(program *run)
{
    mlc_evaluation evaluation;
    if (mlc_evaluate(run->session, &run->evaluation, &evaluation))
        return fail_session(run);
    char loss[32];
    mlc_metrics_number(loss, evaluation.loss);
    mlc_metrics_settle(&run->metrics);
    printf("evaluation after %lld steps: loss %s over %lld windows, %lld tokens\n", (long long)run->session->step, loss,
           (long long)evaluation.examples, (long long)evaluation.tokens);
    fflush(stdout);
    return mlc_metrics_evaluation(&run->metrics, run->session, evaluation.loss, evaluation.tokens, &run->error);
}

static int train_step(program *run)
{
    mlc_session *session = run->session;
    mlc_order order = {session->seed, run->data.examples, session->sequential};
    mlc_data_feed feed = mlc_data_feed_make(&run->data, order, session->cursor, 1);
    int64_t started = mlc_clock();
    session->trace = run->trace;
    int status = mlc_executor_step(session, &feed.feed, true);
    session->trace = NULL;
    if (status)
        return fail_session(run);
    session->step++;
    session->cursor += run->model->microbatches * run->model->batch;
    int64_t spent = mlc_clock() - started;
    run->seconds += (double)spent / 1e9;
    if (run->trace && mlc_trace_flush(run->trace, &run->error))
        return run->error.status;
    return mlc_metrics_step(&run->metrics, session, spent, &run->error);
}

/* What happens every --every steps but the last. */
static int pause_training(program *run)
{
    if (run->options.checkpoint && save(run))
        return run->error.status;
    return run->options.evaluate.count ? report_evaluation(run) : MLC_OK;
}

static int print_summary(const program *run, int64_t steps)
{
    char loss[32];
    mlc_metrics_number(loss, run->session->result.loss);
    double tokens = (double)(steps * run->model->microbatches * run->model->tokens);
    printf("trained %lld steps: loss %s, %.0f tokens/s, mfu unknown\n", (long long)steps, loss,
           run->seconds > 0 ? tokens / run->seconds : 0);
    return MLC_OK;
}

static int train(program *run)
{
    mlc_session *session = run->session;
    int64_t first = session->step, every = run->options.every;
    run->saved = -1;
    while (session->step < session->steps && !stop_signal) {
        if (train_step(run))
            return run->error.status;
        bool pause = every && session->step % every == 0 && session->step < session->steps;
        if (pause && pause_training(run))
            return run->error.status;
    }
    mlc_metrics_settle(&run->metrics);
    if (session->step > first)
        print_summary(run, session->step - first);
    if (run->options.checkpoint && session->step > first && run->saved != session->step)
        save(run);
    return run->error.status;
}

static int train_and_report(program *run)
{
    const mlc_options *options = &run->options;
    if (options->data.count && train(run))
        return run->error.status;
    set_signals(SIG_DFL);
    if (stop_signal) {
        fprintf(stderr, "%s: stopped by signal %d after %lld steps%s\n", run->model->name, (int)stop_signal, (long long)run->session->step,
                options->checkpoint ? "" : "; nothing is saved without --checkpoint");
        return MLC_OK;
    }
    if (options->evaluate.count && report_evaluation(run))
        return run->error.status;
    if (options->sample < 0)
        return MLC_OK;
    if (mlc_sample(run->session, &run->sampler, options->prompt, options->sample, options->temperature, stdout))
        return fail_session(run);
    return MLC_OK;
}

static void print_dry_run(const program *run)
{
    const mlc_session *session = run->session;
    printf("%s: %lld steps of %d microbatches of %lld, %lld done\n", run->model->name, (long long)session->steps, run->model->microbatches,
           (long long)run->model->batch, (long long)session->step);
    printf("memory: %llu bytes mapped: arena %llu, scratch %d x %llu\n", (unsigned long long)session->arena.bytes,
           (unsigned long long)session->arena.arena_bytes, session->team->threads,
           (unsigned long long)session->arena.scratch_bytes_per_thread);
    if (run->data.examples)
        printf("data: %lld examples\n", (long long)run->data.examples);
}

static int run_opened(program *run)
{
    if (run->options.dry_run)
        print_dry_run(run);
    else if (train_and_report(run))
        return run->error.status;
    if (run->options.profile)
        mlc_trace_print_profile(run->trace, stdout);
    if (run->options.hash) {
        char hex[65];
        mlc_digest(run->session, hex);
        printf("digest: %s\n", hex);
    }
    return MLC_OK;
}

/* ---- the whole ---- */

static int check_purpose(program *run)
{
    const mlc_options *options = &run->options;
    bool purpose = options->data.count || options->evaluate.count || options->sample >= 0 || options->hash || options->dry_run;
    if (!purpose)
        return mlc_error_set(&run->error, MLC_USAGE, "nothing to do: give --data FILE to train; see --help");
    if (options->checkpoint && !options->data.count)
        return mlc_error_set(&run->error, MLC_USAGE, "--checkpoint wants --data: only training writes checkpoints");
    return check_launcher(&run->error);
}

static int run_program(program *run)
{
    if (run->options.help) {
        mlc_options_print_help(run->model, stdout);
        return MLC_OK;
    }
    if (run->options.print_plan)
        return print_plan(&run->error);
    stop_signal = 0;
    set_signals(run->options.data.count ? take_signal : SIG_DFL);
    if (check_purpose(run) || open_session(run) || open_data(run) || load_state(run) || open_reports(run))
        return run->error.status;
    return run_opened(run);
}

static void close_program(program *run)
{
    mlc_watchdog_close(&run->watchdog);
    mlc_metrics_close(&run->metrics, &run->error);
    mlc_trace_close(run->trace, &run->error);
    mlc_sampler_close(&run->sampler);
    mlc_data_close(&run->data);
    mlc_data_close(&run->evaluation);
    mlc_close(run->session);
    mlc_options_free(&run->options);
}

int mlc_main(const mlc_model *model, int argc, char **argv)
{
    program run = {.model = model, .metrics.log.fd = -1};
    setvbuf(stdout, NULL, _IONBF, 0); /* a buffered stream would allocate when it is first used */
    if (!mlc_options_parse(&run.options, model, argc, argv, &run.error))
        run_program(&run);
    close_program(&run);
    if ((fflush(stdout) || ferror(stdout)) && !run.error.status)
        mlc_error_set(&run.error, MLC_FAILED, "standard output: cannot be written");
    if (run.error.status)
        fprintf(stderr, "%s: error: %s\n", model->name, run.error.text);
    return run.error.status;
}
