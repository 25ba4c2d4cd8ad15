/* purpose.c: see purpose.h. Tables say which option wants which; the rest is what one option says of its own value. */
#include "command/purpose.h"

#include "mlc.h"
#include "system/threads.h"
#include "transports.h"

#include <string.h>

/* An option has an effect only beside one of others. */
typedef struct wish {
    const char *option;
    const char *wants[4];
    const char *why;
} wish;

static const wish WISHES[] = {
    {"steps", {"data", "resume", "dry-run"}, "training alone takes steps"},
    {"order", {"data"}, "training alone orders examples"},
    {"log", {"data", "evaluate"}, "only steps and evaluations are logged"},
    {"checkpoint", {"data"}, "only training writes checkpoints"},
    {"every", {"data"}, "it counts steps of training"},
    {"every", {"checkpoint", "evaluate"}, "that is what is done so often"},
    {"profile", {"data", "sample"}, "steps of training, or a text, are what is timed"},
    {"profile-json", {"data", "sample"}, "steps of training, or a text, are what is timed"},
    {"trace", {"data"}, "the steps of training are what is traced"},
    {"print-launches", {"data"}, "the steps of training are what is listed"},
    {"keep", {"checkpoint"}, "it counts checkpoints"},
    {"fresh", {"checkpoint"}, "it begins a run in a directory of checkpoints"},
    {"allow", {"resume", "weights", "checkpoint"}, "it lets a difference from what is loaded pass"},
    {"fit", {"weights"}, "only their shapes can differ"},
    {"evaluate-batches", {"evaluate"}, "there is nothing to evaluate"},
    {"grace", {"data"}, "only training goes on for a while when it is told to stop"},
    {"prompt", {"sample"}, "nothing is sampled without it"},
    {"temperature", {"sample"}, "nothing is sampled without it"},
    {"top-k", {"sample"}, "nothing is sampled without it"},
    {"top-p", {"sample"}, "nothing is sampled without it"},
};

/* Options that end the program before anything is read: each stands alone. */
static const char *const ALONE[] = {"print-plan", "version", "completion"};

/* Is it one of names that stand between bars? */
static bool is_one_of(const char *name, const char *names)
{
    size_t length = strlen(name);
    for (; names && !strchr(name, '|'); names = strchr(names, '|') ? strchr(names, '|') + 1 : NULL)
        if (!strncmp(names, name, length) && (names[length] == '|' || !names[length]))
            return true;
    return false;
}

static int check_values(const mlc_options *options, mlc_error *error)
{
    if (strcmp(options->order, "shuffled") && strcmp(options->order, "sequential"))
        return mlc_error_set(error, MLC_USAGE, "--order %s: wants shuffled or sequential", options->order);
    if (options->transport && !is_one_of(options->transport, MLC_TRANSPORTS))
        return mlc_error_set(error, MLC_USAGE, "--transport %s: wants one of " MLC_TRANSPORTS, options->transport);
    if (options->completion && !is_one_of(options->completion, "bash|zsh|fish"))
        return mlc_error_set(error, MLC_USAGE, "--completion %s: wants bash, zsh or fish", options->completion);
    if (options->threads > MLC_MAX_THREADS)
        return mlc_error_set(error, MLC_USAGE, "--threads %lld: at most %d", (long long)options->threads, MLC_MAX_THREADS);
    if (options->top_p <= 0 || options->top_p > 1)
        return mlc_error_set(error, MLC_USAGE, "--top-p %g: wants a probability above 0 and at most 1", options->top_p);
    return MLC_OK;
}

static int check_alone(const mlc_options *options, mlc_error *error)
{
    for (size_t i = 0; i < sizeof ALONE / sizeof *ALONE; i++)
        if (mlc_options_given(options, ALONE[i]) && options->count > 1)
            return mlc_error_set(error, MLC_USAGE, "--%s ends the program before anything else: give it alone", ALONE[i]);
    return MLC_OK;
}

/* "--data, --resume or --dry-run". */
static void list_wants(const wish *wish, char text[128])
{
    int length = 0;
    *text = 0;
    for (int i = 0; i < 4 && wish->wants[i]; i++) {
        bool last = i == 3 || !wish->wants[i + 1];
        length += snprintf(text + length, 128 - (size_t)length, "%s--%s", !i ? "" : last ? " or " : ", ", wish->wants[i]);
    }
}

static int check_wish(const mlc_options *options, const wish *wish, mlc_error *error)
{
    if (!mlc_options_given(options, wish->option))
        return MLC_OK;
    for (int i = 0; i < 4 && wish->wants[i]; i++)
        if (mlc_options_given(options, wish->wants[i]))
            return MLC_OK;
    char wants[128];
    list_wants(wish, wants);
    return mlc_error_set(error, MLC_USAGE, "--%s wants %s: %s", wish->option, wants, wish->why);
}

/* Constants of the model that no evaluation and no sample depends on. */
static int check_scalars(const mlc_options *options, const mlc_model *model, mlc_error *error)
{
    bool trains = options->data.count || options->dry_run;
    for (int i = 0; !trains && i < model->scalar_count; i++)
        if (options->scalars_given[i] && model->scalars[i].option == 2)
            return mlc_error_set(error, MLC_USAGE, "--%s wants --data: only training reads it", model->scalars[i].name);
    return MLC_OK;
}

static int check_pairs(const mlc_options *options, mlc_error *error)
{
    if (options->resume && options->weights)
        return mlc_error_set(error, MLC_USAGE, "--resume and --weights exclude each other: a checkpoint holds its weights");
    if (options->fresh && options->resume && !strcmp(options->resume, "auto"))
        return mlc_error_set(error, MLC_USAGE, "--fresh and --resume auto exclude each other: one begins a run, the other goes on with one");
    if (options->temperature == 0 && (options->top_k || mlc_options_given(options, "top-p")))
        return mlc_error_set(error, MLC_USAGE, "--temperature 0 takes the likeliest token: --top-k and --top-p would be ignored");
    if (options->resume && !strcmp(options->resume, "auto") && !options->checkpoint)
        return mlc_error_set(error, MLC_USAGE, "--resume auto wants --checkpoint DIR, where it looks");
    return MLC_OK;
}

static int check_purpose(const mlc_options *options, mlc_error *error)
{
    bool purpose = options->data.count || options->evaluate.count || options->sample >= 0 || options->hash || options->dry_run;
    return purpose ? MLC_OK : mlc_error_set(error, MLC_USAGE, "nothing to do: give --data FILE to train; see --help");
}

int mlc_purpose_check(const mlc_options *options, const mlc_model *model, mlc_error *error)
{
    if (options->help)
        return MLC_OK;
    if (check_values(options, error) || check_alone(options, error))
        return error->status;
    if (options->print_plan || options->version || options->completion)
        return MLC_OK;
    for (size_t i = 0; i < sizeof WISHES / sizeof *WISHES; i++)
        if (check_wish(options, &WISHES[i], error))
            return error->status;
    if (check_scalars(options, model, error))
        return error->status;
    return check_pairs(options, error) ? error->status : check_purpose(options, error);
}
