/* options.c: see options.h. One table is the parser and the help. */
#include "command/options.h"

#include "command/advice.h"
#include "command/terms.h"
#include "mlc.h"
#include "system/dtype.h"
#include "system/file.h"
#include "transports.h"

#include <errno.h>
#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum kind { FLAG, TEXT, LIST, COUNT, WHOLE, REAL };

typedef mlc_option option;

#define FIELD(name) offsetof(mlc_options, name)

static const option OPTIONS[] = {
    {"data", "[INPUT=]PATTERN", LIST, FIELD(data),
     "train on these files: text, tokens (.bin) or arrays (.npy); may repeat; u8: u16: u32: i32: u64: i64: before it say how wide tokens are"},
    {"steps", "N", COUNT, FIELD(steps), "steps in total, resumed ones included (1000)"},
    {"seed", "S", WHOLE, FIELD(seed), "of parameters, random numbers and the order of examples (0)"},
    {"order", "shuffled|sequential", TEXT, FIELD(order), "of examples (shuffled)"},
    {"threads", "T", COUNT, FIELD(threads), "worker threads of each rank (the CPUs of the machine, shared out)"},
    {"log", "FILE", TEXT, FIELD(log), "write one JSON object a step"},
    {"checkpoint", "DIR", TEXT, FIELD(checkpoint), "write checkpoints: every --every steps and at the end"},
    {"every", "K", COUNT, FIELD(every), "write a checkpoint, and evaluate, every K steps (at the end only)"},
    {"keep", "N", COUNT, FIELD(keep), "of the checkpoints of this run keep the last N, and the best by --evaluate (all)"},
    {"fresh", NULL, FLAG, FIELD(fresh), "begin a run of its own in a --checkpoint directory that holds steps of others, which stay"},
    {"resume", "DIR|auto", TEXT, FIELD(resume), "go on from a checkpoint; auto: the newest whole one of the run in --checkpoint"},
    {"allow", "ITEM", LIST, FIELD(allow), "let a difference of checkpoint or weights from the model pass: a name or pattern; may repeat"},
    {"weights", "FILE|DIR", TEXT, FIELD(weights), "start from parameters in safetensors files, by name"},
    {"fit", "NAME", LIST, FIELD(fit), "cut or fill up a weight that is longer or shorter along one dim: a name or pattern; may repeat"},
    {"evaluate", "[INPUT=]PATTERN", LIST, FIELD(evaluate), "report loss and metrics over these files; may repeat"},
    {"evaluate-batches", "N", COUNT, FIELD(evaluate_batches), "evaluate N microbatches, evenly spread over the files (all)"},
    {"sample", "N", WHOLE, FIELD(sample), "write N tokens that follow the prompt"},
    {"prompt", "TEXT", TEXT, FIELD(prompt), "what sampling starts from: text, or token numbers when the vocabulary exceeds 256"},
    {"temperature", "X", REAL, FIELD(temperature), "of sampling; 0 takes the likeliest token (1)"},
    {"top-k", "K", COUNT, FIELD(top_k), "sample from the K likeliest tokens only (all)"},
    {"top-p", "P", REAL, FIELD(top_p), "sample from the likeliest tokens that together have probability P only (1: all)"},
    {"hash", NULL, FLAG, FIELD(hash), "end the output with the digest of parameters and optimizer state"},
    {"profile", NULL, FLAG, FIELD(profile), "write the time of each kernel of steps, or of a text, and its share of the peak"},
    {"profile-json", "FILE", TEXT, FIELD(profile_json), "the same, and as JSON to a file"},
    {"trace", "FILE", TEXT, FIELD(trace), "write the actions and rows of each step as Chrome trace events"},
    {"timeout", "SECONDS", REAL, FIELD(timeout), "end with a report when no rank moves for so long (never)"},
    {"start-timeout", "SECONDS", REAL, FIELD(start_timeout), "end when the ranks have not met, or none moves before step 0 (60)"},
    {"grace", "SECONDS", REAL, FIELD(grace), "when told to stop, end by force once nothing has moved for so long (30)"},
    {"transport", MLC_TRANSPORTS, TEXT, FIELD(transport), "how ranks meet; local: processes (local; mpi under mpirun and srun)"},
    {"print-plan", NULL, FLAG, FIELD(print_plan), "write plan.json and end"},
    {"print-launches", "K", COUNT, FIELD(print_launches), "write each row of step K with its operands, and each message, of every rank"},
    {"dry-run", NULL, FLAG, FIELD(dry_run), "open everything, take no step"},
    {"version", NULL, FLAG, FIELD(version), "write compiler, model and target, and end"},
    {"completion", "bash|zsh|fish", TEXT, FIELD(completion), "write a script that completes these options in a shell, and end"},
    {"help", NULL, FLAG, FIELD(help), "write this and end; so does -h"},
};

#define LISTS 4 /* options of kind LIST */
#define OPTION_COUNT ((int)(sizeof OPTIONS / sizeof *OPTIONS))

/* ---- names ---- */

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
    if (end == text || *end || value < low)
        return mlc_error_set(error, MLC_USAGE, "--%s %s: wants a whole number of at least %lld", option->name, text, (long long)low);
    if (errno)
        return mlc_error_set(error, MLC_USAGE, "--%s %s: the largest number is %lld", option->name, text, (long long)INT64_MAX);
    *to = value;
    return MLC_OK;
}

/* What is too large or small for an f64 becomes the largest or smallest one, not infinite or 0. */
static int read_real(const char *name, const char *text, double *value, mlc_error *error)
{
    char *end;
    errno = 0;
    *value = strtod(text, &end);
    if (errno == ERANGE && fabs(*value) <= DBL_MIN)
        *value = DBL_TRUE_MIN;
    if (errno == ERANGE && isinf(*value))
        *value = copysign(DBL_MAX, *value);
    if (!*text || *end || !isfinite(*value))
        return mlc_error_set(error, MLC_USAGE, "--%s %s: wants a number", name, text);
    return MLC_OK;
}

/* What is said of checkpoints is a line each. */
static bool has_controls(const char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < ' ' || *text == 127)
            return true;
    return false;
}

/* Counts an option as given. A second value of what has one would be ignored, or hide the first: refused. So is an empty value; an
 * empty prompt has a meaning. */
static int note_given(mlc_options *options, const option *option, const char *text, mlc_error *error)
{
    uint64_t bit = UINT64_C(1) << (option - OPTIONS);
    bool again = options->given & bit;
    options->given |= bit;
    if (again && option->kind != LIST && option->kind != FLAG)
        return mlc_error_set(error, MLC_USAGE, "--%s is given twice", option->name);
    if (text && !*text && option->at != FIELD(prompt))
        return mlc_error_set(error, MLC_USAGE, "--%s wants a value; the one given is empty", option->name);
    if (text && option->at == FIELD(checkpoint) && has_controls(text))
        return mlc_error_set(error, MLC_USAGE, "--%s: the name of the directory has a line break, or another control character", option->name);
    return MLC_OK;
}

static int set_option(mlc_options *options, const option *option, char *text, mlc_error *error)
{
    char *field = (char *)options + option->at;
    if (note_given(options, option, text, error))
        return error->status;
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
    const char *name = model->scalars[scalar].name;
    double value;
    if (options->scalars_given[scalar]++)
        return mlc_error_set(error, MLC_USAGE, "--%s is given twice", name);
    if (read_real(name, text, &value, error))
        return error->status;
    options->scalars[scalar] = mlc_dtype_round(mlc_dtype_wide(model), value);
    if (!isfinite(options->scalars[scalar]))
        return mlc_error_set(error, MLC_USAGE, "--%s %s: does not fit an f32: the largest is %g", name, text, (double)FLT_MAX);
    if (options->scalars[scalar] == 0 && value != 0)
        return mlc_error_set(error, MLC_USAGE, "--%s %s: would be 0 as an f32: the smallest is %g", name, text, (double)FLT_TRUE_MIN);
    return MLC_OK;
}

/* ---- the command line ---- */

/* A word where an option should stand: one with a single dash, or a value that belongs to none. */
static void refuse_word(const mlc_model *model, const char *word, mlc_error *error)
{
    char advice[MLC_ADVICE_BYTES] = "see --help";
    size_t length = word[0] == '-' ? strcspn(word + 1, "=") : 0;
    if (length && (option_named(word + 1, length) || scalar_named(model, word + 1, length) >= 0))
        snprintf(advice, sizeof advice, "did you mean --%.*s?", (int)length, word + 1);
    else if (length && strcspn(word + 1, "0123456789."))
        mlc_advice_of_option(model, word + 1, length, advice, sizeof advice);
    mlc_error_set(error, MLC_USAGE, "%.200s: options start with --; %s", word, advice);
}

/* Reads argv[i] and its value; returns how many words that took, 0 on an error. */
static int read_word(mlc_options *options, const mlc_model *model, int left, char **argv, mlc_error *error)
{
    char *word = argv[0];
    if (!strcmp(word, "-h")) {
        options->help = true;
        return 1;
    }
    if (strncmp(word, "--", 2) || !word[2]) {
        refuse_word(model, word, error);
        return 0;
    }
    char *equals = strchr(word, '=');
    size_t length = equals ? (size_t)(equals - word) - 2 : strlen(word) - 2;
    const option *option = option_named(word + 2, length);
    int scalar = option ? -1 : scalar_named(model, word + 2, length);
    if (!option && scalar < 0) {
        char advice[MLC_ADVICE_BYTES];
        mlc_advice_of_option(model, word + 2, length, advice, sizeof advice);
        mlc_error_set(error, MLC_USAGE, "unknown option --%.*s: %s", (int)(length < 63 ? length : 63), word + 2, advice);
        return 0;
    }
    bool flag = option && option->kind == FLAG;
    if ((flag && equals) || (!flag && !equals && left < 2)) {
        mlc_error_set(error, MLC_USAGE, flag ? "--%.*s takes no value" : "--%.*s wants a value", (int)length, word + 2);
        return 0;
    }
    options->count++;
    char *text = flag ? NULL : equals ? equals + 1 : argv[1];
    int status = option ? set_option(options, option, text, error) : set_scalar(options, model, scalar, text, error);
    return status ? 0 : flag || equals ? 1 : 2;
}

static int allocate(mlc_options *options, const mlc_model *model, int argc, mlc_error *error)
{
    options->scalars = calloc((size_t)model->scalar_count + 1, sizeof *options->scalars);
    options->scalars_given = calloc((size_t)model->scalar_count + 1, sizeof *options->scalars_given);
    options->texts = calloc(LISTS * (size_t)argc, sizeof *options->texts);
    if (!options->scalars || !options->scalars_given || !options->texts)
        return mlc_error_set(error, MLC_FAILED, "options: out of memory");
    options->data.items = options->texts;
    options->evaluate.items = options->texts + argc;
    options->allow.items = options->texts + 2 * argc;
    options->fit.items = options->texts + 3 * argc;
    for (int i = 0; i < model->scalar_count; i++)
        options->scalars[i] = model->scalars[i].value;
    return MLC_OK;
}

/* How the ranks meet is known also where another word is wrong: they are told of that. */
static void find_transport(mlc_options *options, int argc, char **argv)
{
    static const char name[] = "--transport";
    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], name, sizeof name - 1))
            continue;
        char *rest = argv[i] + sizeof name - 1, *value = *rest == '=' ? rest + 1 : *rest || i + 1 == argc ? NULL : argv[i + 1];
        if (value && (!strcmp(value, "local") || !strcmp(value, "mpi")))
            options->transport = value;
    }
}

int mlc_options_parse(mlc_options *options, const mlc_model *model, int argc, char **argv, mlc_error *error)
{
    *options = (mlc_options){.start_timeout = -1, .grace = 30, .seed = -1, .sample = -1, .temperature = 1, .top_p = 1, .order = "shuffled",
                             .prompt = ""};
    if (allocate(options, model, argc > 0 ? argc : 1, error))
        return error->status;
    for (int i = 1; i < argc && !error->status;)
        i += read_word(options, model, argc - i, argv + i, error);
    if (error->status)
        find_transport(options, argc, argv);
    return error->status;
}

bool mlc_options_given(const mlc_options *options, const char *name)
{
    const option *option = option_named(name, strlen(name));
    return option && options->given >> (option - OPTIONS) & 1;
}

const mlc_option *mlc_options_table(int *count)
{
    *count = OPTION_COUNT;
    return OPTIONS;
}

void mlc_options_free(mlc_options *options)
{
    free(options->scalars);
    free(options->scalars_given);
    free(options->texts);
    *options = (mlc_options){0};
}

/* Options in which ranks may differ: it is not what they compute, or compared by what it names. */
static const char *const OWN[] = {"data", "evaluate", "threads", "log", "transport", "print-plan", "version", "completion", "help"};

static bool is_own(const option *option)
{
    for (size_t i = 0; i < sizeof OWN / sizeof *OWN; i++)
        if (!strcmp(option->name, OWN[i]))
            return true;
    return false;
}

/* The value of an option as text; a list as its items. */
static void print_value(const mlc_options *options, const option *option, char text[MLC_PATH_BYTES])
{
    const char *field = (const char *)options + option->at;
    const mlc_list *list = (const mlc_list *)field;
    size_t used = 0;
    text[0] = 0;
    switch (option->kind) {
    case FLAG:
        strcpy(text, *(const bool *)field ? "given" : "not given");
        return;
    case TEXT:
        snprintf(text, MLC_PATH_BYTES, "%s", *(const char *const *)field ? *(const char *const *)field : "not given");
        return;
    case LIST:
        for (int i = 0; i < list->count && used < MLC_PATH_BYTES; i++)
            used += (size_t)snprintf(text + used, MLC_PATH_BYTES - used, "%s%s", i ? ", " : "", list->items[i]);
        return;
    case REAL:
        snprintf(text, MLC_PATH_BYTES, *(const double *)field < 0 ? "not given" : "%.17g", *(const double *)field);
        return;
    default:
        snprintf(text, MLC_PATH_BYTES, *(const int64_t *)field < (option->kind == COUNT) ? "not given" : "%lld",
                 (long long)*(const int64_t *)field);
    }
}

void mlc_options_list(const mlc_options *options, struct mlc_terms *terms)
{
    char name[64], value[MLC_PATH_BYTES];
    mlc_terms_add(terms, "--data", options->data.count ? "given" : "not given");
    mlc_terms_add(terms, "--evaluate", options->evaluate.count ? "given" : "not given");
    for (int i = 0; i < OPTION_COUNT; i++) {
        if (is_own(&OPTIONS[i]))
            continue;
        snprintf(name, sizeof name, "--%s", OPTIONS[i].name);
        print_value(options, &OPTIONS[i], value);
        mlc_terms_add(terms, name, value);
    }
}

void mlc_options_print_help(const mlc_model *model, FILE *out)
{
    fprintf(out, "%s: a training program made by mlc\n\n", model->name);
    for (int i = 0; i < OPTION_COUNT; i++) {
        char left[64];
        snprintf(left, sizeof left, "--%s%s%s", OPTIONS[i].name, OPTIONS[i].argument ? " " : "",
                 OPTIONS[i].argument ? OPTIONS[i].argument : "");
        fprintf(out, "  %-29s %s\n", left, OPTIONS[i].help);
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
        fprintf(out, "  %-29s (%g)\n", left, (double)model->scalars[i].value);
    }
    fprintf(out,
            "\nexit codes: 0 success, 1 wrong input, 2 usage, 3 a rank failed or was lost, 4 no progress within --timeout,\n"
            "            5 loss, gradient or update not finite\n");
}
