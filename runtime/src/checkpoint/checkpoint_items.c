/* checkpoint_items.c: see checkpoint_items.h. */
#include "checkpoint/checkpoint_items.h"

#include "checkpoint/checkpoint_steps.h"

#include <fnmatch.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINE_BYTES 900 /* of an item in a state; longer ones are cut */
#define SCALARS 256
#define JUMP 0.1F

/* A comparison. `say`: differences are said instead of refused. */
typedef struct matching {
    const mlc_rank *rank;
    const mlc_json *state;
    const char *path;
    mlc_allowed allowed;
    mlc_error *error;
    bool say;
    bool changed; /* something was said */
} matching;

/* ---- lists of items: a text of lines on this side, an array of strings on the other ---- */

bool mlc_allowed_takes(mlc_allowed allowed, const char *item, size_t length)
{
    char name[LINE_BYTES];
    snprintf(name, sizeof name, "%.*s", (int)(length < LINE_BYTES ? length : LINE_BYTES - 1), item);
    for (int i = 0; i < allowed.count; i++)
        if (!strcmp(allowed.items[i], name) || !fnmatch(allowed.items[i], name, 0))
            return true;
    return false;
}

static const mlc_json_node *member(const matching *of, const char *key)
{
    return mlc_json_member(of->state, &of->state->nodes[0], key);
}

static const mlc_json_node *first_line(const matching *of, const char *list)
{
    const mlc_json_node *lines = member(of, list);
    return lines && lines->kind == MLC_JSON_ARRAY ? mlc_json_first(of->state, lines) : NULL;
}

/* The value of an item in a list of the checkpoint, NULL when it has none. */
static const char *value_theirs(const matching *of, const char *list, const char *item, size_t length)
{
    for (const mlc_json_node *line = first_line(of, list); line; line = mlc_json_next(of->state, line)) {
        const char *text = mlc_json_string(line);
        if (text && !strncmp(text, item, length) && text[length] == '=')
            return text + length + 1;
    }
    return NULL;
}

/* The value of an item in lines of this side, up to its line's end; NULL when it has none. */
static const char *value_ours(const char *lines, const char *item, size_t length)
{
    for (const char *line = lines; *line;) {
        size_t bytes = strcspn(line, "\n");
        if (bytes > length && !strncmp(line, item, length) && line[length] == '=')
            return line + length + 1;
        line += bytes + (line[bytes] == '\n');
    }
    return NULL;
}

static bool same_line(const char *text, const char *line)
{
    size_t length = strcspn(line, "\n"), cut = LINE_BYTES - 10;
    return strlen(text) == length ? !memcmp(text, line, length) : length > cut && !strncmp(text, line, cut);
}

static const char *lines_of(const char *text)
{
    return text ? text : "";
}

/* ---- what is said ---- */

__attribute__((format(printf, 2, 3))) static void say(matching *of, const char *format, ...)
{
    char text[2 * LINE_BYTES];
    va_list arguments;
    of->changed = true;
    if (of->rank->rank || !of->rank->note)
        return;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    of->rank->note(of->rank->listener, text);
}

/* ---- items ---- */

/* Items of later versions: a checkpoint without a run cannot have them. */
static bool is_later(const matching *of, const char *item)
{
    static const char *const STARTS[] = {"layer.", "rule.", "curve.", "chain=", "chain\n"};
    if (strcmp(mlc_state_run(of->state), MLC_RUN_UNNAMED))
        return false;
    for (size_t i = 0; i < sizeof STARTS / sizeof *STARTS; i++)
        if (!strncmp(item, STARTS[i], strlen(STARTS[i])))
            return true;
    return false;
}

/* Masters and states have another dtype: the tensors of the one cannot be those of the other. */
static bool is_width(const char *item, size_t length, const char *theirs, const char *ours)
{
    return length == strlen("precision") && !strncmp(item, "precision", length) && !strncmp(theirs, "f64", 3) != !strncmp(ours, "f64", 3);
}

static int differ(matching *of, const char *item, size_t length, const char *theirs, const char *ours)
{
    int their_length = (int)strcspn(theirs, "\n"), our_length = (int)strcspn(ours, "\n"), name = (int)length;
    bool shape = !strncmp(item, "parameter.", strlen("parameter.")); /* another shape cannot be loaded */
    if (of->say) {
        say(of, "%s: %.*s: the checkpoint has %.*s, this program %.*s (allowed)", of->path, name, item, their_length, theirs, our_length,
            ours);
        return MLC_OK;
    }
    if (shape)
        return mlc_error_set(of->error, MLC_BAD_INPUT, "%s: %.*s: the checkpoint has %.*s, this program %.*s", of->path, name, item,
                             their_length, theirs, our_length, ours);
    if (is_width(item, length, theirs, ours))
        return mlc_error_set(of->error, MLC_BAD_INPUT, "%s: precision: the checkpoint has %.*s, this program %.*s (--weights takes its "
                             "parameters, without the optimizer's state)", of->path, their_length, theirs, our_length, ours);
    if (mlc_allowed_takes(of->allowed, item, length))
        return MLC_OK;
    return mlc_error_set(of->error, MLC_BAD_INPUT, "%s: %.*s: the checkpoint has %.*s, this program %.*s (--allow %.*s lets it pass)",
                         of->path, name, item, their_length, theirs, our_length, ours, name, item);
}

/* Every item of this side, then those that only the checkpoint has. */
static int match_lines(matching *of, const char *list, const char *lines)
{
    for (const char *line = lines; *line;) {
        size_t bytes = strcspn(line, "\n"), length = strcspn(line, "=\n");
        const char *theirs = value_theirs(of, list, line, length), *ours = line[length] == '=' ? line + length + 1 : "";
        bool same = theirs ? same_line(theirs, ours) : is_later(of, line);
        if (!same && differ(of, line, length, theirs ? theirs : "(nothing)", ours))
            return of->error->status;
        line += bytes + (line[bytes] == '\n');
    }
    for (const mlc_json_node *line = first_line(of, list); line; line = mlc_json_next(of->state, line)) {
        const char *text = mlc_json_string(line) ? mlc_json_string(line) : "";
        size_t length = strcspn(text, "=");
        if (!value_ours(lines, text, length) && differ(of, text, length, text[length] ? text + length + 1 : "", "(nothing)"))
            return of->error->status;
    }
    return MLC_OK;
}

static int match_model(matching *of)
{
    const mlc_model *model = of->rank->model;
    const char *hash = mlc_json_string(member(of, "hash"));
    if (!hash)
        return mlc_error_set(of->error, MLC_BAD_INPUT, "%s/state.json: damaged: no hash", of->path);
    if (!strcmp(hash, model->hash))
        return MLC_OK;
    bool itemised = model->description && *model->description;
    return itemised ? match_lines(of, "items", model->description) : differ(of, "hash", 4, hash, model->hash);
}

/* Order, number and identity of examples, when both sides have data of their own. */
static int match_data(matching *of)
{
    const mlc_rank *rank = of->rank;
    uint64_t examples;
    const char *order = mlc_json_string(member(of, "order")), *ours = rank->sequential ? "sequential" : "shuffled";
    if (!order || !mlc_json_whole(member(of, "examples"), &examples))
        return mlc_error_set(of->error, MLC_BAD_INPUT, "%s/state.json: damaged: no order or examples", of->path);
    if (!examples || !rank->examples)
        return MLC_OK;
    if (strcmp(order, ours) && differ(of, "order", 5, order, ours))
        return of->error->status;
    char theirs[24], own[24];
    snprintf(theirs, sizeof theirs, "%llu", (unsigned long long)examples);
    snprintf(own, sizeof own, "%lld", (long long)rank->examples);
    if (strcmp(theirs, own) && differ(of, "examples", 8, theirs, own))
        return of->error->status;
    bool both = rank->identity && *rank->identity && first_line(of, "terms");
    return both ? match_lines(of, "terms", rank->identity) : MLC_OK;
}

int mlc_items_match(const mlc_rank *rank, const mlc_json *state, const char *path, mlc_allowed allowed, mlc_error *error)
{
    matching of = {.rank = rank, .state = state, .path = path, .allowed = allowed, .error = error};
    return match_model(&of) ? error->status : match_data(&of);
}

/* ---- settings ---- */

/* The rate of a step as the run computes it, NAN where there is none. */
static double rate_of(const mlc_rank *rank, int64_t step)
{
    const mlc_model *model = rank->model;
    double scalars[SCALARS];
    if (model->rate < 0 || model->scalar_count > SCALARS || model->scalar_count < 2 || !rank->scalars)
        return NAN;
    mlc_rank_put_scalars(rank, step, scalars);
    return mlc_dtype_wide(model)->load(scalars, model->rate);
}

static void put_lines(mlc_writer *state, const char *lines)
{
    for (const char *line = lines; *line;) {
        char text[LINE_BYTES];
        size_t length = strcspn(line, "\n");
        snprintf(text, sizeof text, "%.*s", (int)(length < LINE_BYTES ? length : LINE_BYTES - 1), line);
        mlc_writer_print(state, "%s\n    ", line == lines ? "" : ",");
        mlc_writer_quote(state, text);
        line += length + (line[length] == '\n');
    }
}

void mlc_items_put(mlc_writer *state, const mlc_rank *rank)
{
    const mlc_model *model = rank->model;
    char text[32] = "null", line[256];
    double rate = rank->step ? rate_of(rank, rank->step - 1) : NAN;
    mlc_writer_print(state, "  \"terms\": [");
    put_lines(state, lines_of(rank->identity));
    mlc_writer_print(state, "\n  ],\n  \"settings\": [\n    \"steps=%lld\"", (long long)rank->steps);
    for (int i = 0; i < model->scalar_count && rank->scalars; i++) {
        if (!model->scalars[i].option)
            continue;
        mlc_dtype_print(mlc_dtype_wide(rank->model), text, rank->scalars[i]);
        snprintf(line, sizeof line, "%.200s=%s", model->scalars[i].name, text);
        mlc_writer_print(state, ",\n    ");
        mlc_writer_quote(state, line);
    }
    mlc_dtype_print(mlc_dtype_wide(model), text, rate);
    mlc_writer_print(state, "\n  ],\n  \"rate\": %s,\n", isfinite(rate) ? text : "null");
}

static void say_setting(matching *of, const char *name, const char *ours)
{
    const char *theirs = value_theirs(of, "settings", name, strlen(name));
    if (theirs && strcmp(theirs, ours))
        say(of, "%s: --%s was %s, is %s", of->path, name, theirs, ours);
}

static void say_settings(matching *of)
{
    const mlc_rank *rank = of->rank;
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)rank->steps);
    say_setting(of, "steps", text);
    for (int i = 0; i < rank->model->scalar_count && rank->scalars; i++) {
        if (!rank->model->scalars[i].option)
            continue;
        mlc_dtype_print(mlc_dtype_wide(of->rank->model), text, rank->scalars[i]);
        say_setting(of, rank->model->scalars[i].name, text);
    }
}

/* Where nothing else differs, a change from step to step is the curve's own. */
static void say_jump(matching *of)
{
    const mlc_json_node *last = member(of, "rate");
    char before[32], after[32];
    if (!of->changed || !last || last->kind != MLC_JSON_NUMBER || of->rank->step >= of->rank->steps)
        return;
    const mlc_dtype_row *wide = mlc_dtype_wide(of->rank->model);
    double was = strtod(last->text, NULL), is = rate_of(of->rank, of->rank->step);
    if (!(fabs(is - was) > JUMP * fmax(fabs(is), fabs(was))))
        return;
    mlc_dtype_print(wide, before, was);
    mlc_dtype_print(wide, after, is);
    say(of, "%s: the rate jumps from %s in the last step that was done (number %lld) to %s in the next", of->path, before,
        (long long)of->rank->step, after);
}

void mlc_items_say(const mlc_rank *rank, const mlc_json *state, const char *path, mlc_allowed allowed)
{
    mlc_error ignored = {0};
    matching of = {.rank = rank, .state = state, .path = path, .allowed = allowed, .error = &ignored, .say = true};
    if (!strcmp(mlc_state_run(state), MLC_RUN_UNNAMED) && !first_line(&of, "settings"))
        say(&of, "%s: an earlier version wrote it: data, layers and the optimizer's rule are not compared", path);
    uint64_t examples = 0;
    mlc_json_whole(member(&of, "examples"), &examples);
    if (rank->examples && !examples)
        say(&of, "%s: written by a session, which was handed its data, so the data is not compared", path);
    match_model(&of);
    match_data(&of);
    say_settings(&of);
    say_jump(&of);
}

/* ---- patterns that name nothing ---- */

static bool names_line(const char *pattern, const char *line)
{
    return mlc_allowed_takes((mlc_allowed){(char *const[]){(char *)(uintptr_t)pattern}, 1}, line, strcspn(line, "=\n"));
}

static bool names_ours(const char *pattern, const char *lines)
{
    for (const char *line = lines; *line; line += strcspn(line, "\n"), line += *line == '\n')
        if (names_line(pattern, line))
            return true;
    return false;
}

static bool names_theirs(const matching *of, const char *pattern, const char *list)
{
    for (const mlc_json_node *line = first_line(of, list); line; line = mlc_json_next(of->state, line))
        if (mlc_json_string(line) && names_line(pattern, mlc_json_string(line)))
            return true;
    return false;
}

static bool names_input(const char *pattern, const mlc_model *model)
{
    char term[256];
    for (int i = 0; i < model->input_count; i++) {
        snprintf(term, sizeof term, "data.%.200s", model->inputs[i].tensor.name);
        if (names_line(pattern, term))
            return true;
    }
    return false;
}

int mlc_items_check_allowed(const mlc_rank *rank, const mlc_json *state, mlc_allowed allowed, mlc_error *error)
{
    matching of = {.rank = rank, .state = state};
    for (int i = 0; i < allowed.count; i++) {
        const char *pattern = allowed.items[i];
        bool known = names_ours(pattern, "seed\norder\nexamples\nlock\nhash\n") || names_ours(pattern, lines_of(rank->model->description)) ||
                     names_input(pattern, rank->model) || names_theirs(&of, pattern, "items") || names_theirs(&of, pattern, "terms");
        if (!known)
            return mlc_error_set(error, MLC_USAGE, "--allow %s: neither checkpoint nor program has an item of this name; the message "
                                 "about a difference names it", pattern);
    }
    return MLC_OK;
}
