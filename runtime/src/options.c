/* options.c: see options.h. One table is the parser and the help. */
#include "options.h"

#include "mlc.h"
#include "threads.h"

#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum kind { FLAG, TEXT, LIST, COUNT, WHOLE, REAL };

typedef struct option {
    const char *name;
    const char *argument; /* NULL: a flag */
    enum kind kind;       /* COUNT: at least 1; WHOLE: at least 0; REAL: at least 0 */
    size_t at;            /* in mlc_options */
    const char *help;
} option;

#define FIELD(name) offsetof(mlc_options, name)

static const option OPTIONS[] = {
    {"data", "[INPUT=]PATTERN", LIST, FIELD(data), "train on these files: text, tokens (.bin) or arrays (.npy); may repeat"},
    {"steps", "N", COUNT, FIELD(steps), "steps in total, resumed ones included (1000)"},
    {"seed", "S", WHOLE, FIELD(seed), "of parameters, random numbers and the order of examples (0)"},
    {"order", "ORDER", TEXT, FIELD(order), "of examples: shuffled, or sequential (shuffled)"},
    {"threads", "T", COUNT, FIELD(threads), "worker threads of each rank (the CPUs of the machine, shared out)"},
    {"log", "FILE", TEXT, FIELD(log), "write one JSON object a step"},
    {"checkpoint", "DIR", TEXT, FIELD(checkpoint), "write checkpoints: every --every steps and at the end"},
    {"every", "K", COUNT, FIELD(every), "write a checkpoint, and evaluate, every K steps (at the end only)"},
    {"resume", "DIR|auto", TEXT, FIELD(resume), "go on from a checkpoint; auto: the newest whole one of --checkpoint, if any"},
    {"allow", "ITEM", LIST, FIELD(allow), "let a difference between checkpoint and run, or a missing weight, pass; may repeat"},
    {"weights", "FILE|DIR", TEXT, FIELD(weights), "start from parameters in safetensors files, by name"},
    {"evaluate", "[INPUT=]PATTERN", LIST, FIELD(evaluate), "report the loss over these files; may repeat"},
    {"sample", "N", WHOLE, FIELD(sample), "write N tokens that follow the prompt"},
    {"prompt", "TEXT", TEXT, FIELD(prompt), "what sampling starts from: text, or token numbers when the vocabulary exceeds 256"},
    {"temperature", "X", REAL, FIELD(temperature), "of sampling; 0 takes the likeliest token (1)"},
    {"hash", NULL, FLAG, FIELD(hash), "end the output with the digest of parameters and optimizer state"},
    {"profile", NULL, FLAG, FIELD(profile), "write the time of each row of the step"},
    {"trace", "FILE", TEXT, FIELD(trace), "write the actions and rows of each step as Chrome trace events"},
    {"timeout", "SECONDS", REAL, FIELD(timeout), "end with a report when no rank moves for so long (never)"},
    {"transport", "X", TEXT, FIELD(transport), "how ranks meet: local (processes), threads, mpi (local; mpi under mpirun and srun)"},
    {"print-plan", NULL, FLAG, FIELD(print_plan), "write plan.json and end"},
    {"dry-run", NULL, FLAG, FIELD(dry_run), "open everything, take no step"},
    {"help", NULL, FLAG, FIELD(help), "write this and end"},
};

#define OPTION_COUNT ((int)(sizeof OPTIONS / sizeof *OPTIONS))

/* ---- names ---- */

static int least(int a, int b, int c)
{
    int low = a < b ? a : b;
    return low < c ? low : c;
}

/* Edits (insert, delete, replace) between two names; names over 63 letters are cut. */
static int distance(const char *a, const char *b)
{
    int row[64], width = (int)strnlen(b, 63);
    for (int j = 0; j <= width; j++)
        row[j] = j;
    for (int i = 0; a[i] && i < 63; i++) {
        int diagonal = row[0];
        row[0] = i + 1;
        for (int j = 0; j < width; j++) {
            int above = row[j + 1];
            row[j + 1] = least(above + 1, row[j] + 1, diagonal + (a[i] != b[j]));
            diagonal = above;
        }
    }
    return row[width];
}

static const char *nearest(const mlc_model *model, const char *name)
{
    const char *best = OPTIONS[0].name;
    for (int i = 1; i < OPTION_COUNT; i++)
        if (distance(name, OPTIONS[i].name) < distance(name, best))
            best = OPTIONS[i].name;
    for (int i = 0; i < model->scalar_count; i++)
        if (model->scalars[i].option && distance(name, model->scalars[i].name) < distance(name, best))
            best = model->scalars[i].name;
    return best;
}

static bool is_named(const char *name, const char *text, size_t length)
{
    return strlen(name) == length && !memcmp(name, text, length);
}

static const option *option_named(const char *text, size_t length)
{
    for (int i = 0; i < OPTION_COUNT; i++)
        if (is_named(OPTIONS[i].name, text, length))
            return &OPTIONS[i];
    return NULL;
}

static int scalar_named(const mlc_model *model, const char *text, size_t length)
{
    for (int i = 0; i < model->scalar_count; i++)
        if (model->scalars[i].option && is_named(model->scalars[i].name, text, length))
            return i;
    return -1;
}

/* ---- values ---- */

static int set_integer(const option *option, int64_t *to, const char *text, mlc_error *error)
{
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    int64_t low = option->kind == COUNT;
    if (errno || !*text || *end || value < low)
        return mlc_error_set(error, MLC_USAGE, "--%s %s: wants a whole number of at least %lld", option->name, text, (long long)low);
    *to = value;
    return MLC_OK;
}

static int read_real(const char *name, const char *text, double *value, mlc_error *error)
{
    char *end;
    *value = strtod(text, &end);
    if (!*text || *end || !isfinite(*value))
        return mlc_error_set(error, MLC_USAGE, "--%s %s: wants a number", name, text);
    return MLC_OK;
}

static int set_option(mlc_options *options, const option *option, char *text, mlc_error *error)
{
    char *field = (char *)options + option->at;
    switch (option->kind) {
    case FLAG:
        *(bool *)field = true;
        return MLC_OK;
    case TEXT:
        *(const char **)field = text;
        return MLC_OK;
    case LIST:
        ((mlc_list *)field)->items[((mlc_list *)field)->count++] = text;
        return MLC_OK;
    case REAL:
        if (read_real(option->name, text, (double *)field, error))
            return error->status;
        if (*(double *)field < 0)
            mlc_error_set(error, MLC_USAGE, "--%s %s: must not be negative", option->name, text);
        return error->status;
    default:
        return set_integer(option, (int64_t *)field, text, error);
    }
}

static int set_scalar(mlc_options *options, const mlc_model *model, int scalar, const char *text, mlc_error *error)
{
    double value;
    if (read_real(model->scalars[scalar].name, text, &value, error))
        return error->status;
    options->scalars[scalar] = (float)value;
    return MLC_OK;
}

/* ---- the command line ---- */

/* Reads argv[i] and its value; returns how many words that took, 0 on an error. */
static int read_word(mlc_options *options, const mlc_model *model, int left, char **argv, mlc_error *error)
{
    char *word = argv[0];
    if (strncmp(word, "--", 2) || !word[2]) {
        mlc_error_set(error, MLC_USAGE, "%s: options start with --; see --help", word);
        return 0;
    }
    char *equals = strchr(word, '=');
    size_t length = equals ? (size_t)(equals - word) - 2 : strlen(word) - 2;
    const option *option = option_named(word + 2, length);
    int scalar = option ? -1 : scalar_named(model, word + 2, length);
    if (!option && scalar < 0) {
        char name[64];
        snprintf(name, sizeof name, "%.*s", (int)(length < 63 ? length : 63), word + 2);
        mlc_error_set(error, MLC_USAGE, "unknown option --%s; the nearest is --%s", name, nearest(model, name));
        return 0;
    }
    bool flag = option && option->kind == FLAG;
    if ((flag && equals) || (!flag && !equals && left < 2)) {
        mlc_error_set(error, MLC_USAGE, flag ? "--%.*s takes no value" : "--%.*s wants a value", (int)length, word + 2);
        return 0;
    }
    char *text = flag ? NULL : equals ? equals + 1 : argv[1];
    int status = option ? set_option(options, option, text, error) : set_scalar(options, model, scalar, text, error);
    return status ? 0 : flag || equals ? 1 : 2;
}

static bool is_transport(const char *name)
{
    return !strcmp(name, "threads") || !strcmp(name, "local") || !strcmp(name, "mpi");
}

static int check(const mlc_options *options, mlc_error *error)
{
    if (strcmp(options->order, "shuffled") && strcmp(options->order, "sequential"))
        return mlc_error_set(error, MLC_USAGE, "--order %s: wants shuffled or sequential", options->order);
    if (options->transport && !is_transport(options->transport))
        return mlc_error_set(error, MLC_USAGE, "--transport %s: wants threads, local or mpi", options->transport);
    if (options->threads > MLC_MAX_THREADS)
        return mlc_error_set(error, MLC_USAGE, "--threads %lld: at most %d", (long long)options->threads, MLC_MAX_THREADS);
    if (options->resume && options->weights)
        return mlc_error_set(error, MLC_USAGE, "--resume and --weights exclude each other: a checkpoint holds its weights");
    if (options->resume && !strcmp(options->resume, "auto") && !options->checkpoint)
        return mlc_error_set(error, MLC_USAGE, "--resume auto wants --checkpoint DIR, where it looks");
    if (options->every && !options->checkpoint && !options->evaluate.count)
        return mlc_error_set(error, MLC_USAGE, "--every wants --checkpoint or --evaluate");
    return MLC_OK;
}

static int allocate(mlc_options *options, const mlc_model *model, int argc, mlc_error *error)
{
    options->scalars = calloc((size_t)model->scalar_count + 1, sizeof *options->scalars);
    options->texts = calloc(3 * (size_t)argc, sizeof *options->texts);
    if (!options->scalars || !options->texts)
        return mlc_error_set(error, MLC_FAILED, "options: out of memory");
    options->data.items = options->texts;
    options->evaluate.items = options->texts + argc;
    options->allow.items = options->texts + 2 * argc;
    for (int i = 0; i < model->scalar_count; i++)
        options->scalars[i] = model->scalars[i].value;
    return MLC_OK;
}

int mlc_options_parse(mlc_options *options, const mlc_model *model, int argc, char **argv, mlc_error *error)
{
    *options = (mlc_options){.seed = -1, .sample = -1, .temperature = 1, .order = "shuffled", .prompt = ""};
    if (allocate(options, model, argc > 0 ? argc : 1, error))
        return error->status;
    for (int i = 1; i < argc && !error->status;)
        i += read_word(options, model, argc - i, argv + i, error);
    return error->status ? error->status : check(options, error);
}

void mlc_options_free(mlc_options *options)
{
    free(options->scalars);
    free(options->texts);
    *options = (mlc_options){0};
}

void mlc_options_print_help(const mlc_model *model, FILE *out)
{
    fprintf(out, "%s: a training program made by mlc\n\n", model->name);
    for (int i = 0; i < OPTION_COUNT; i++) {
        char left[64];
        snprintf(left, sizeof left, "--%s%s%s", OPTIONS[i].name, OPTIONS[i].argument ? " " : "",
                 OPTIONS[i].argument ? OPTIONS[i].argument : "");
        fprintf(out, "  %-28s %s\n", left, OPTIONS[i].help);
    }
    bool any = false;
    for (int i = 0; i < model->scalar_count; i++) {
        if (!model->scalars[i].option)
            continue;
        if (!any)
            fprintf(out, "\nrun-time constants of the model:\n");
        any = true;
        char left[64];
        snprintf(left, sizeof left, "--%s X", model->scalars[i].name);
        fprintf(out, "  %-28s (%g)\n", left, (double)model->scalars[i].value);
    }
    fprintf(out,
            "\nexit codes: 0 success, 1 wrong input, 2 usage, 3 a rank failed or was lost, 4 no progress within --timeout,\n"
            "            5 loss or gradient not finite\n");
}
