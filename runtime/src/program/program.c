/* program.c: mlc_main: a model as a program.
 *
 * Every rank runs the same rank program (run_rank): open, data, load, train, evaluate, sample, digest. What one rank alone can fail
 * at ends in mlc_agree, so all end with one status and rank 0 says why; where others cannot be asked any more (a full disk between
 * two steps, no memory before the ranks have met) the rank says it itself and abandons the run.
 */
#include "checkpoint/alike.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/digest.h"
#include "checkpoint/identity.h"
#include "checkpoint/weights.h"
#include "command/about.h"
#include "command/completion.h"
#include "command/options.h"
#include "command/purpose.h"
#include "launch/launcher.h"
#include "launch/watchdog.h"
#include "program/metrics.h"
#include "report/outputs.h"
#include "report/trace.h"
#include "step/evaluate.h"
#include "step/executor.h"
#include "step/open.h"
#include "step/sample.h"
#include "step/wire.h"
#include "system/json.h"
#include "system/limit.h"
#include "system/signals.h"
#include "system/stack.h"
#include "system/voice.h"
#include "world/coordinate.h"
#include "world/launches.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LOADING_SECONDS 3600.0 /* what loading may take on a rank out of sight */
#define START_SECONDS 60.0     /* --start-timeout */
#define LEAST_START_SECONDS 10.0 /* even if --timeout is less: launchers take their time */
#define LAST_WORDS 2.0         /* for a reader of standard output to go on, when the run was told to stop */

/* The program of one rank. */
typedef struct program {
    const mlc_model *model;
    const mlc_options *options;
    mlc_launch *launch;
    int number;      /* of the rank */
    mlc_error early; /* until there is a rank, which has its own */
    mlc_error *error;
    bool alone;      /* what fails now, only this rank knows of */
    bool lost;       /* an output failed, which was said */
    bool mute;       /* standard output did */
    mlc_rank *rank;
    mlc_data data;
    mlc_data evaluation;
    mlc_metrics metrics;
    mlc_trace *trace;
    mlc_sampler sampler;
    mlc_watchdog watchdog;
    double seconds;  /* spent in steps */
    int64_t saved;   /* step of the last checkpoint, -1 before */
} program;

static bool is_first(const program *run)
{
    return run->number == 0;
}

/* ---- outputs that fail ---- */

/* An output that fails costs no step: rank 0 says so once, the run goes on without it and saves, and ends with MLC_FAILED. */
static void lose_output(program *run, const char *text)
{
    run->lost = true;
    if (!is_first(run))
        return;
    mlc_metrics_settle(&run->metrics);
    mlc_say("%s: error: %s; the run goes on without it\n", run->model->name, text);
}

/* After something was printed. */
static void look_at_output(program *run)
{
    int code = errno;
    if (run->mute || !ferror(stdout))
        return;
    char text[160];
    snprintf(text, sizeof text, "standard output: cannot be written: %s", strerror(code));
    run->mute = true;
    lose_output(run, text);
}

/* Standard output may be a pipe whose reader stands still: a run waits for it, but not for long once it was told to stop. */
static bool may_print(program *run)
{
    struct pollfd room = {.fd = STDOUT_FILENO, .events = POLLOUT};
    for (double waited = 0; !run->mute && poll(&room, 1, 100) == 0; waited += *mlc_signals_seen() ? 0.1 : 0) {
        if (waited < LAST_WORDS)
            continue;
        run->mute = true;
        lose_output(run, "standard output: nobody reads it");
    }
    return !run->mute;
}

/* ---- before step 0 ---- */

/* All ranks fail when one did. */
static int agree(program *run)
{
    return mlc_agree(&run->rank->world, run->error);
}

/* The CPUs of the machine, shared out among the ranks that it has. */
static int thread_count(const program *run)
{
    int share = mlc_cpu_count() / run->launch->neighbours;
    return run->options->threads ? (int)run->options->threads : share > 1 ? share : 1;
}

static void print_note(void *listener, const char *text)
{
    (void)listener;
    mlc_say("note: %s\n", text);
}

/* How long a rank waits for one that it cannot see. Elsewhere a watchdog sees all. */
static void set_patience(program *run, double seconds)
{
    run->rank->world.timeout = run->launch->kind == MLC_LAUNCH_MPI ? seconds : 0;
}

/* GPUs are connected in waits of a library; any rank may fail, and then all do. */
static int open_wire(program *run)
{
    mlc_limit limit;
    mlc_rank *rank = run->rank;
    bool waits = rank->arena.gpu && run->launch->ranks > 1;
    mlc_limit_begin(&limit, waits ? run->launch->start : 0, run->number ? 2 : 1, run->model->name, "the ranks have not connected their GPUs");
    int status = mlc_wire_open(rank, run->error);
    mlc_limit_end(&limit);
    return status;
}

static int open_rank(program *run)
{
    const mlc_options *options = run->options;
    mlc_open_options chosen = {.threads = thread_count(run), .seed = options->seed < 0 ? 0 : (uint64_t)options->seed,
                               .steps = options->steps};
    run->rank = mlc_rank_open(run->model, run->number, &chosen, mlc_launch_number(run->launch, run->number), mlc_launch_inbox(run->launch, run->number), run->error);
    if (!run->rank)
        return run->error->status;
    mlc_rank *rank = run->rank;
    run->error = &rank->error;
    memcpy(rank->scalars, options->scalars, (size_t)run->model->scalar_count * sizeof *rank->scalars);
    rank->sequential = !strcmp(options->order, "sequential");
    rank->signals = mlc_signals_seen();
    rank->note = print_note;
    rank->keep = options->keep;
    rank->world.timeout = run->launch->start;
    int status = mlc_launch_connect(run->launch, &rank->world, run->error);
    if (!status)
        status = open_wire(run);
    set_patience(run, options->timeout > 0 ? options->timeout : LOADING_SECONDS);
    return status;
}

static int start_rank(program *run)
{
    bool supervised = run->launch->kind == MLC_LAUNCH_MPI || run->launch->kind == MLC_LAUNCH_FORKED;
    mlc_watchdog_duty duty = {.seconds = run->options->timeout, .grace = run->options->grace, .supervised = supervised,
                              .start = run->launch->kind == MLC_LAUNCH_MPI ? 0 : run->launch->start,
                              .supervisor = run->launch->supervisor, .spoken = run->launch->spoken, .signals = mlc_signals_seen(),
                              .hasty = run->launch->hasty};
    mlc_watchdog_open(&run->watchdog, run->rank, duty, run->error);
    if (agree(run))
        return run->error->status;
    mlc_rank_initialize(run->rank);
    return MLC_OK;
}

static int open_data(program *run)
{
    const mlc_options *options = run->options;
    if (options->data.count)
        mlc_data_open(&run->data, run->model, options->data.items, options->data.count, "--data", run->error);
    run->rank->examples = run->data.examples;
    if (run->data.examples && !(run->rank->identity = mlc_identity_lines(&run->data)))
        mlc_error_set(run->error, MLC_FAILED, "data: out of memory");
    if (options->evaluate.count && !run->error->status)
        mlc_data_open(&run->evaluation, run->model, options->evaluate.items, options->evaluate.count, "--evaluate", run->error);
    return mlc_alike_data(run->rank, &run->data, &run->evaluation, run->error);
}

/* Before anything is opened for writing. */
static int check_outputs(program *run)
{
    if (is_first(run))
        mlc_outputs_check(run->options, &run->data, &run->evaluation, run->error);
    return agree(run);
}

static int match_seed(program *run, const char *path, uint64_t ours)
{
    mlc_rank *rank = run->rank;
    mlc_allowed allowed = {run->options->allow.items, run->options->allow.count};
    unsigned long long theirs = rank->seed, own = ours;
    if (run->options->seed < 0 || theirs == own)
        return MLC_OK;
    if (!mlc_allowed_takes(allowed, "seed", 4))
        return mlc_error_set(run->error, MLC_BAD_INPUT, "%s: seed: the checkpoint has %llu, this run %llu (--allow seed lets it pass)", path,
                             theirs, own);
    if (is_first(run))
        mlc_say("note: %s: seed: the checkpoint has %llu, this run %llu (allowed)\n", path, theirs, own);
    rank->seed = ours;
    return MLC_OK;
}

static int resume_from(program *run, const char *path)
{
    mlc_rank *rank = run->rank;
    uint64_t seed = rank->seed;
    mlc_allowed allowed = {run->options->allow.items, run->options->allow.count};
    if (mlc_checkpoint_load(rank, path, allowed, run->error) || match_seed(run, path, seed))
        return run->error->status;
    bool bounded = run->options->data.count || run->options->steps; /* else nothing says how many there are to be */
    if (rank->step > rank->steps && !bounded)
        rank->steps = rank->step;
    if (rank->step > rank->steps)
        return mlc_error_set(run->error, MLC_BAD_INPUT, "%s: %lld steps are done, more than --steps %lld", path, (long long)rank->step,
                             (long long)rank->steps);
    if (rank->step == rank->steps && run->options->data.count && is_first(run))
        mlc_say("note: %s: all %lld steps are done, so nothing is left to train; --steps N trains on\n", path,
                (long long)rank->steps);
    return MLC_OK;
}

static bool is_auto(const program *run)
{
    return run->options->resume && !strcmp(run->options->resume, "auto");
}

static int resume(program *run)
{
    const mlc_options *options = run->options;
    char newest[MLC_PATH_BYTES];
    if (!is_auto(run))
        return resume_from(run, options->resume);
    if (mlc_checkpoint_newest(run->rank, options->checkpoint, newest, run->error))
        return run->error->status;
    return *newest ? resume_from(run, newest) : MLC_OK;
}

/* Which run the checkpoints are of. */
static int claim(program *run)
{
    const mlc_options *options = run->options;
    mlc_claim claim = {.beside = options->fresh, .newest = is_auto(run), .dry = options->dry_run};
    claim.ways = options->resume ? "give another directory, or begin a run beside it (--fresh)"
                                 : "go on with it (--resume auto), give another directory, or begin a run beside it (--fresh)";
    return mlc_checkpoint_claim(run->rank, options->checkpoint, claim, run->error);
}

/* Where nothing is loaded, all that can be allowed is a directory without locks. */
static int check_allowed(const program *run)
{
    const mlc_options *options = run->options;
    for (int i = 0; i < options->allow.count && !options->resume && !options->weights; i++)
        if (strcmp(options->allow.items[i], "lock"))
            return mlc_error_set(run->error, MLC_USAGE, "--allow %s: nothing is loaded that could differ; give --resume or --weights",
                                 options->allow.items[i]);
    return MLC_OK;
}

/* The step whose launches are wanted is one that this run takes. */
static int check_listed(const program *run)
{
    int64_t step = run->options->print_launches, first = run->rank->step + 1, last = run->rank->steps;
    if (!step || (step >= first && step <= last))
        return MLC_OK;
    return mlc_error_set(run->error, MLC_USAGE, "--print-launches %lld: this run takes steps %lld to %lld", (long long)step, (long long)first,
                         (long long)last);
}

static int load_state(program *run)
{
    const mlc_options *options = run->options;
    mlc_allowed allowed = {options->allow.items, options->allow.count};
    mlc_weights_terms terms = {allowed, {options->fit.items, options->fit.count}};
    if (check_allowed(run))
        return run->error->status;
    bool writes = options->checkpoint && !options->dry_run;
    if (writes && mlc_checkpoint_prepare(run->rank, options->checkpoint, allowed, run->error))
        return run->error->status;
    if (options->resume && resume(run))
        return run->error->status;
    if (options->weights && mlc_weights_load(run->rank, options->weights, terms, run->error))
        return run->error->status;
    if (options->checkpoint && claim(run))
        return run->error->status;
    mlc_executor_refresh(run->rank);
    return check_listed(run);
}

static int open_reports(program *run)
{
    const mlc_options *options = run->options;
    bool trains = options->data.count;
    const char *log = options->dry_run ? NULL : options->log, *trace = options->dry_run ? NULL : options->trace;
    mlc_metrics_open(&run->metrics, run->rank, log, trains, run->error);
    if (options->sample >= 0 && !run->error->status)
        mlc_sampler_open(&run->sampler, run->model, options->prompt, run->error);
    bool profile = !options->dry_run && (options->profile || options->profile_json);
    if (profile && options->profile_json && is_first(run) && !run->error->status)
        mlc_output_clear(options->profile_json, MLC_PROFILE_HEAD, false, run->error);
    if (agree(run))
        return run->error->status;
    run->trace = mlc_trace_open(run->rank, trace, profile, run->error);
    return run->error->status;
}

/* ---- training ---- */

/* `error` is the run's, or one that does not end it. Where a directory was good at the start, it is the machine that fails now. */
static int save(program *run, mlc_error *error)
{
    if (!mlc_checkpoint_save(run->rank, run->options->checkpoint, error))
        run->saved = run->rank->step;
    if (error->status == MLC_BAD_INPUT)
        error->status = MLC_FAILED;
    return error->status;
}

/* A checkpoint that cannot be written between two steps costs none: it is said, and the next one holds them too. */
static int save_between(program *run)
{
    mlc_error failed = {0};
    int status = save(run, &failed);
    bool disk = status == MLC_FAILED && !mlc_launch_is_victim(&run->rank->world);
    if (!disk)
        return status ? mlc_error_set(run->error, status, "%s", failed.text) : MLC_OK;
    if (!is_first(run))
        return MLC_OK;
    mlc_metrics_settle(&run->metrics);
    mlc_say("%s: error: no checkpoint after step %lld: %s; the run goes on, and tries again at the next one\n", run->model->name,
            (long long)run->rank->step, failed.text);
    return MLC_OK;
}

/* The step failed for its data: the steps before it are whole, for nothing was updated since. */
static void save_before(program *run, int64_t first)
{
    mlc_error failed = {0}, *why = run->error;
    if (why->status != MLC_BAD_INPUT || !run->options->checkpoint || run->rank->step <= first || run->saved == run->rank->step)
        return;
    int status = save(run, &failed);
    size_t used = strlen(why->text), left = sizeof why->text - used;
    if (status)
        snprintf(why->text + used, left, "; nor can the steps before be saved: %.400s", failed.text);
    else
        snprintf(why->text + used, left, "; the %lld steps before are saved", (long long)run->rank->step);
}

/* "; accuracy 0.5, z 2": the model's own metrics. */
static void print_metrics(const program *run, const mlc_evaluation *evaluation)
{
    const mlc_chain *chain = &run->model->chains[MLC_EVALUATE];
    for (int i = chain->losses; i < chain->column_count; i++) {
        char value[32];
        mlc_json_number(value, evaluation->metrics[i - chain->losses]);
        printf("%s%s %s", i == chain->losses ? "; " : ", ", chain->columns[i].name, value);
    }
}

static void print_evaluation(const program *run, const mlc_evaluation *evaluation)
{
    bool tokens = mlc_counts_tokens(run->model);
    char loss[32];
    mlc_json_number(loss, evaluation->loss);
    printf("evaluation after %lld steps: loss %s over %lld %s", (long long)run->rank->step, loss, (long long)evaluation->examples,
           tokens ? "windows" : "records");
    if (tokens)
        printf(", %lld tokens", (long long)evaluation->tokens);
    print_metrics(run, evaluation);
    printf("\n");
    fflush(stdout);
}

/* A disk that is full costs the name `best`, not the run. */
static int name_best(program *run, double loss)
{
    mlc_error failed = {0};
    bool saved = run->options->checkpoint && run->saved == run->rank->step;
    int status = saved ? mlc_checkpoint_save_best(run->rank, loss, &failed) : MLC_OK;
    if (status && (status != MLC_FAILED || mlc_launch_is_victim(&run->rank->world)))
        return mlc_error_set(run->error, status, "%s", failed.text);
    if (status && is_first(run))
        mlc_say("%s: error: %s; the run goes on\n", run->model->name, failed.text);
    return MLC_OK;
}

static int report_evaluation(program *run)
{
    mlc_evaluation evaluation;
    if (mlc_evaluate(run->rank, &run->evaluation, run->options->evaluate_batches, &evaluation))
        return run->error->status;
    if (run->rank->result.signals) /* cut short: told to stop */
        return MLC_OK;
    if (name_best(run, evaluation.loss))
        return run->error->status;
    if (!is_first(run))
        return MLC_OK;
    mlc_metrics_settle(&run->metrics);
    if (may_print(run))
        print_evaluation(run, &evaluation);
    look_at_output(run);
    mlc_error failed = {0};
    if (mlc_metrics_evaluation(&run->metrics, run->rank, &evaluation, &failed))
        lose_output(run, failed.text);
    return MLC_OK;
}

static void report_step(program *run, int64_t spent)
{
    mlc_error trace = {0}, log = {0};
    if (run->trace && mlc_trace_flush(run->trace, &trace))
        lose_output(run, trace.text);
    if (mlc_metrics_step(&run->metrics, run->rank, spent, &log))
        lose_output(run, log.text);
}

/* What the ranks have launched, one after the other. Returns a status: a rank was lost. */
static int print_launches(program *run, mlc_launches *launches)
{
    const mlc_rank *rank = run->rank;
    char turn[8] = {0};
    for (int r = 0; r < run->launch->ranks; r++) {
        if (r == run->number && may_print(run)) {
            printf("launches of step %lld, rank %d (place %d, replica %d)\n", (long long)rank->step + 1, r, rank->place, rank->replica);
            if (!mlc_launches_print(launches, stdout))
                lose_output(run, "--print-launches: out of memory");
        }
        if (mlc_exchange(&run->rank->world, turn, sizeof turn, 1, mlc_combine_or))
            return run->error->status;
    }
    look_at_output(run);
    return MLC_OK;
}

/* A step, and what it launched where that is asked for. */
static int take_step(program *run, const mlc_feed *feed)
{
    mlc_world *world = &run->rank->world;
    if (run->rank->step + 1 != run->options->print_launches)
        return mlc_executor_step(run->rank, feed, true);
    mlc_launches *launches = world->launches = mlc_launches_open();
    int status = mlc_executor_step(run->rank, feed, true);
    world->launches = NULL;
    status = status ? status : print_launches(run, launches);
    mlc_launches_close(launches);
    return status;
}

static int train_step(program *run)
{
    mlc_rank *rank = run->rank;
    mlc_order order = {.seed = rank->seed, .examples = run->data.examples, .sequential = rank->sequential};
    mlc_data_feed feed = mlc_data_feed_make(&run->data, order, rank->cursor, 1);
    int64_t started = mlc_clock();
    rank->trace = run->trace;
    int status = take_step(run, &feed.feed);
    rank->trace = NULL;
    if (status)
        return status;
    rank->step++;
    rank->cursor += run->model->microbatches * run->model->batch;
    int64_t spent = mlc_clock() - started;
    run->seconds += (double)spent / 1e9;
    report_step(run, spent);
    return MLC_OK;
}

/* What happens every --every steps but the last. */
static int pause_training(program *run)
{
    if (run->options->checkpoint && save_between(run))
        return run->error->status;
    return run->options->evaluate.count ? report_evaluation(run) : MLC_OK;
}

static void print_summary(program *run, int64_t steps)
{
    char loss[32];
    if (!is_first(run) || !steps)
        return;
    mlc_json_number(loss, run->rank->result.loss);
    double tokens = (double)(steps * run->model->microbatches * run->model->tokens);
    if (may_print(run))
        printf("trained %lld steps: loss %s, %.0f %s/s, mfu unknown", (long long)steps, loss,
               run->seconds > 0 ? tokens / run->seconds : 0, mlc_unit(run->model));
    if (may_print(run) && run->model->recomputed_flops > 0)
        printf(", %.1f%% more work recomputed", 100 * run->model->recomputed_flops / run->model->flops);
    if (may_print(run))
        printf("\n");
    look_at_output(run);
}

static int train(program *run)
{
    mlc_rank *rank = run->rank;
    int64_t first = rank->step, every = run->options->every;
    run->saved = -1;
    while (rank->step < rank->steps && !rank->result.signals) {
        if (train_step(run)) {
            save_before(run, first);
            return run->error->status;
        }
        bool pause = every && rank->step % every == 0 && rank->step < rank->steps;
        if (pause && pause_training(run))
            return run->error->status;
    }
    mlc_metrics_settle(&run->metrics);
    if (run->options->checkpoint && rank->step > first && run->saved != rank->step)
        save(run, run->error);
    print_summary(run, rank->step - first); /* when all is saved: it may not be possible */
    return run->error->status;
}

/* From here on there is nothing to save: signals end the program at once. Those that came before are common to all ranks. */
static int end_training(program *run, uint64_t *signals)
{
    mlc_signals_release();
    *signals = *mlc_signals_seen();
    return mlc_exchange(&run->rank->world, signals, sizeof *signals, 1, mlc_combine_or);
}

static void print_stopped(const program *run, uint64_t signals)
{
    mlc_say("%s: stopped by signal %d after %lld steps%s\n", run->model->name, mlc_signals_first(signals),
            (long long)run->rank->step, run->options->checkpoint ? "" : "; nothing is saved without --checkpoint");
}

static int train_and_report(program *run)
{
    const mlc_options *options = run->options;
    uint64_t signals;
    if ((options->data.count && train(run)) || end_training(run, &signals))
        return run->error->status;
    if (signals && is_first(run))
        print_stopped(run, signals);
    if (signals)
        return MLC_OK;
    if (options->evaluate.count && report_evaluation(run))
        return run->error->status;
    if (options->sample < 0)
        return MLC_OK;
    mlc_drawing drawing = {options->temperature, options->top_k, options->top_p};
    run->rank->trace = options->data.count ? NULL : run->trace; /* where steps were timed, texts are not */
    int status = mlc_sample(run->rank, &run->sampler, options->prompt, options->sample, &drawing, stdout);
    run->rank->trace = NULL;
    look_at_output(run);
    return status;
}

/* The fewest and most threads of any rank. */
typedef struct thread_counts {
    int64_t least;
    int64_t most;
} thread_counts;

static void combine_threads(void *into, const void *from, size_t bytes)
{
    thread_counts *own = into;
    const thread_counts *other = from;
    for (size_t i = 0; i < bytes / sizeof *own; i++) {
        own[i].least = other[i].least < own[i].least ? other[i].least : own[i].least;
        own[i].most = other[i].most > own[i].most ? other[i].most : own[i].most;
    }
}

/* The ranks of a place map the same: those with the most threads most. */
static void print_memory(const program *run, int place, const thread_counts *threads)
{
    const mlc_model *model = run->model;
    uint64_t arena = model->roles[place].arena_bytes, scratch = model->scratch_bytes_per_thread;
    printf("memory");
    if (run->launch->ranks > 1)
        printf(" of a rank of place %d", place);
    printf(": %llu bytes mapped: arena %llu, scratch %lld x %llu", (unsigned long long)(arena + (uint64_t)threads->most * scratch),
           (unsigned long long)arena, (long long)threads->most, (unsigned long long)scratch);
    if (threads->least < threads->most)
        printf(" (%lld threads at least)", (long long)threads->least);
    printf("\n");
}

static int print_dry_run(program *run)
{
    const mlc_rank *rank = run->rank;
    thread_counts threads = {rank->team->threads, rank->team->threads};
    if (!agree(run))
        mlc_exchange(&run->rank->world, &threads, sizeof threads, sizeof threads, combine_threads);
    if (!run->error->status && is_first(run)) {
        printf("%s: %lld steps of %d microbatches of %lld, %lld done\n", run->model->name, (long long)rank->steps, run->model->microbatches,
               (long long)run->model->batch, (long long)rank->step);
        for (int place = 0; place < run->model->mesh.size[MLC_PP]; place++)
            print_memory(run, place, &threads);
        if (run->data.examples)
            printf("data: %lld %s\n", (long long)run->data.examples, mlc_counts_tokens(run->model) ? "windows" : "records");
    }
    return run->error->status;
}

/* All ranks know afterwards whether the trace is whole; rank 0 says what it has not said. Returns a status: a rank was lost. */
static int finish_trace(program *run)
{
    mlc_error failed = {0};
    bool said = mlc_trace_failed(run->trace);
    int status = mlc_trace_finish(run->trace, run->rank, &failed);
    if (status && mlc_launch_is_victim(&run->rank->world))
        return mlc_error_set(run->error, status, "%s", failed.text);
    if (status && !said)
        lose_output(run, failed.text);
    return MLC_OK;
}

static void report_profile(program *run)
{
    mlc_error failed = {0};
    mlc_profile_print(mlc_trace_profile(run->trace), stdout);
    const char *path = run->options->profile_json;
    if (path && mlc_profile_write(mlc_trace_profile(run->trace), path, &failed))
        lose_output(run, failed.text);
}

static int run_opened(program *run)
{
    const mlc_options *options = run->options;
    char hex[65];
    if (options->dry_run ? print_dry_run(run) : train_and_report(run))
        return run->error->status;
    look_at_output(run);
    if (mlc_trace_profile(run->trace))
        report_profile(run);
    look_at_output(run);
    if (options->trace && finish_trace(run))
        return run->error->status;
    if (options->hash && mlc_digest(run->rank, hex, run->error))
        return run->error->status;
    if (options->hash && is_first(run))
        printf("digest: %s\n", hex);
    look_at_output(run);
    return MLC_OK;
}

/* ---- the end of a rank ---- */

/* Closes what can still fail. Where one rank has lost an output, a run that went well ends with MLC_FAILED on all of them. */
static void close_reports(program *run)
{
    mlc_error failed = {0};
    mlc_watchdog_close(&run->watchdog);
    if (mlc_metrics_close(&run->metrics, &failed))
        lose_output(run, failed.text);
    bool lost = run->lost;
    if (!run->error->status && !mlc_exchange(&run->rank->world, &lost, sizeof lost, 1, mlc_combine_or))
        run->lost = lost;
}

/* What one rank among several knows is said with its name and place; sentences about waiting begin with the name. */
static void print_error(const program *run, bool own, bool waited)
{
    const mlc_model *model = run->model;
    const char *text = run->error->text;
    char name[MLC_RANK_NAME_BYTES], place[160] = "before it began";
    if (run->rank)
        mlc_watch_print_place(place, model, run->number, run->rank->world.status);
    if (!own || run->launch->ranks == 1)
        mlc_say("%s: error: %s\n", model->name, text);
    else if (waited)
        mlc_say("%s: error: %s, %s\n", model->name, text, place);
    else
        mlc_say("%s: error: %s %s: %s\n", model->name, mlc_rank_name(name, &model->mesh, run->number), place, text);
}

/* A launcher may end the others as soon as one has: so nobody leaves before rank 0 has spoken. */
static void let_speak(mlc_world *world)
{
    char nothing[64] = {0};
    mlc_exchange(world, nothing, sizeof nothing, 1, mlc_combine_or);
}

/* Who says why the run ended: rank 0 what all know; a rank what it alone knows; who lost another one, if nobody supervises them. */
static void end_rank(program *run)
{
    mlc_world *world = run->rank ? &run->rank->world : NULL;
    int status = run->error->status;
    bool victim = status && world && mlc_launch_is_victim(world);
    bool own = run->alone || victim || status == MLC_HANG;
    bool orphan = run->launch->supervisor && mlc_watch_is_process_stopped(run->launch->supervisor);
    bool heard = status == MLC_HANG; /* whoever found that nothing moves has said so before it told the others */
    bool speaks = victim ? (!run->launch->spoken && !heard) || orphan : own || is_first(run);
    if (status && speaks && mlc_launch_may_speak(run->launch))
        print_error(run, own, !run->alone);
    if (status && !own)
        let_speak(world);
    mlc_launch_leave(run->launch, world, run->number, status, !own);
}

static void close_rank(program *run)
{
    mlc_trace_close(run->trace);
    mlc_sampler_close(&run->sampler);
    mlc_data_close(&run->data);
    mlc_data_close(&run->evaluation);
    mlc_rank_close(run->rank);
}

/* All is loaded. From here on there may be something to save. */
static void begin(program *run)
{
    set_patience(run, run->options->timeout);
    atomic_store(&run->rank->world.status->begun, 1);
    if (run->options->data.count)
        mlc_signals_hold();
}

static int run_rank(mlc_launch *launch, int rank, void *context)
{
    program run = {.model = launch->model, .options = context, .launch = launch, .number = rank, .alone = true, .saved = -1,
                   .metrics = {.log.fd = -1, .progress.fd = -1}};
    run.error = &run.early;
    if (!open_rank(&run)) {
        run.alone = false;
        if (!start_rank(&run) && !open_data(&run) && !check_outputs(&run) && !load_state(&run) && !open_reports(&run)) {
            begin(&run);
            run_opened(&run);
        }
    }
    close_reports(&run);
    end_rank(&run);
    int status = run.error->status ? run.error->status : run.lost ? MLC_FAILED : MLC_OK;
    close_rank(&run);
    return status;
}

/* ---- the whole ---- */

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

/* What needs no ranks. Of the processes that a launcher started, the first one does it. */
static int print_only(const mlc_model *model, const mlc_options *options, bool first, mlc_error *error)
{
    if (!first)
        return MLC_OK;
    mlc_signals_close(); /* a reader that has seen enough of it ends the program, as it ends others */
    if (options->print_plan && !options->help)
        print_plan(error);
    else if (options->help)
        mlc_options_print_help(model, stdout);
    else if (options->version)
        mlc_about_print(model, stdout);
    else
        mlc_completion_print(model, options->completion, stdout);
    if (ferror(stdout))
        mlc_error_system(error, MLC_FAILED, "standard output: cannot be written");
    return error->status;
}

static int run_program(mlc_launch *launch, const mlc_error *undecided, mlc_options *options, mlc_error *error)
{
    if (mlc_purpose_check(options, launch->model, error))
        return error->status;
    if (options->help || options->print_plan || options->version || options->completion)
        return print_only(launch->model, options, launch->rank <= 0, error);
    if (undecided->status)
        return mlc_error_set(error, undecided->status, "%s", undecided->text);
    launch->signals = launch->hasty ? mlc_signals_seen() : NULL;
    int status = mlc_launch_run(launch, run_rank, options, error);
    mlc_signals_release();
    return status;
}

/* Ranks that a launcher started may have been given different programs and options. */
static int run_alike(mlc_launch *launch, const mlc_error *undecided, mlc_options *options, mlc_error *error)
{
    bool given = launch->kind == MLC_LAUNCH_JOINED || launch->kind == MLC_LAUNCH_MPI;
    mlc_terms *terms = given ? calloc(1, sizeof *terms) : NULL;
    if (given && !terms)
        return mlc_error_set(error, MLC_FAILED, "options: out of memory");
    if (given)
        mlc_terms_gather(terms, launch->model, options);
    launch->terms = terms;
    int status = run_program(launch, undecided, options, error);
    free(terms);
    return status;
}

static double start_seconds(const mlc_options *options)
{
    if (options->start_timeout >= 0)
        return options->start_timeout;
    double timeout = options->timeout > LEAST_START_SECONDS ? options->timeout : LEAST_START_SECONDS;
    return options->timeout > 0 && timeout < START_SECONDS ? timeout : START_SECONDS;
}

/* What mlc_main is called with. */
typedef struct call {
    const mlc_model *model;
    int argc;
    char **argv;
} call;

static int run_call(void *argument)
{
    const call *own = argument;
    const mlc_model *model = own->model;
    mlc_options options;
    mlc_launch launch;
    mlc_error error = {0}, undecided = {0};
    mlc_outputs_guard();
    mlc_signals_open();
    setvbuf(stdout, NULL, _IONBF, 0); /* a buffered stream would allocate when it is first used */
    int status = mlc_options_parse(&options, model, own->argc, own->argv, &error);
    mlc_launch_decide(&launch, model, options.transport, options.timeout, &undecided);
    launch.start = start_seconds(&options);
    launch.grace = options.grace;
    if (!status)
        status = run_alike(&launch, &undecided, &options, &error);
    if (error.status && !launch.begun)
        mlc_launch_refuse(&launch, &error);
    else if (error.status && !launch.said)
        mlc_say("%s: error: %s\n", model->name, error.text);
    mlc_options_free(&options);
    mlc_signals_close();
    return status;
}

int mlc_main(const mlc_model *model, int argc, char **argv)
{
    return mlc_stack_call(run_call, &(call){model, argc, argv});
}
