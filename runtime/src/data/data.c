/* data.c: see data.h. */
#include "data/data.h"

#include "data/convert.h"

#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- which input a file feeds ---- */

static int input_named(const mlc_model *model, const char *name, size_t length)
{
    for (int i = 0; i < model->input_count; i++)
        if (strlen(model->inputs[i].tensor.name) == length && !memcmp(model->inputs[i].tensor.name, name, length))
            return i;
    return -1;
}

static bool is_token_input(const mlc_input *input)
{
    return input->tensor.dtype == MLC_I32 && input->tensor.rank == 2;
}

/* The input that a file without a name feeds: the first token input, or the only input that must come from data. */
static int input_default(const mlc_model *model)
{
    int only = -1, needed = 0;
    for (int i = 0; i < model->input_count; i++) {
        if (model->inputs[i].source != MLC_SOURCE_DATA)
            continue;
        if (is_token_input(&model->inputs[i]))
            return i;
        only = i;
        needed++;
    }
    return needed == 1 ? only : -1;
}

/* Splits [INPUT=]PATTERN; the pattern still has its width in front. A name is only taken as one when it is an input's: patterns may hold '='. */
static int input_of(const mlc_model *model, const char *argument, const char **pattern, const char *option, mlc_error *error)
{
    const char *equals = strchr(argument, '=');
    *pattern = argument;
    if (equals) {
        int named = input_named(model, argument, (size_t)(equals - argument));
        if (named >= 0) {
            *pattern = equals + 1;
            return named;
        }
        if (!memchr(argument, '/', (size_t)(equals - argument)) && !memchr(argument, '.', (size_t)(equals - argument)))
            return mlc_error_set(error, MLC_USAGE, "%s %s: model %s has no input %.*s", option, argument, model->name,
                                 (int)(equals - argument), argument), -1;
    }
    int chosen = input_default(model), fed = 0;
    for (int i = 0; i < model->input_count; i++)
        fed += model->inputs[i].source == MLC_SOURCE_DATA;
    if (!fed)
        mlc_error_set(error, MLC_USAGE, "%s %s: model %s reads none of its inputs, so there is no data to give", option, argument,
                      model->name);
    else if (chosen < 0)
        mlc_error_set(error, MLC_USAGE, "%s %s: model %s has no token input and more than one input: write %s INPUT=%s", option, argument,
                      model->name, option, argument);
    return chosen;
}

/* ---- binding ---- */

/* Tokens that an input reads later than input `base`, -1 when it does not follow it. */
static int64_t shift_from(const mlc_data *data, int input, int base)
{
    int64_t shift = 0;
    for (int hops = 0; hops <= data->model->input_count; hops++) {
        if (input == base)
            return shift;
        const mlc_input *follower = &data->model->inputs[input];
        const mlc_bound *binding = &data->bindings[input];
        bool own = binding->kind == MLC_BOUND_ARRAY || (binding->kind == MLC_BOUND_TOKENS && binding->source == input);
        if (follower->source != MLC_SOURCE_FOLLOWING || own)
            return -1;
        shift += follower->shift;
        input = follower->of;
    }
    return -1;
}

/* Tokens that a window of the stream of input `base` must hold. */
static int64_t extent_of(const mlc_data *data, int base)
{
    int64_t extent = 0;
    for (int i = 0; i < data->model->input_count; i++) {
        int64_t shift = shift_from(data, i, base);
        int64_t needed = shift + mlc_input_row_elements(&data->model->inputs[i]);
        if (shift >= 0 && needed > extent)
            extent = needed;
    }
    return extent;
}

static int bind_stream(mlc_data *data, int input, mlc_width width, char *const *paths, int count, mlc_error *error)
{
    const mlc_input *fed = &data->model->inputs[input];
    if (!is_token_input(fed))
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: input %s is not i32 of two dims, so it takes no tokens: give it a .npy array",
                             paths[0],
                             fed->tensor.name);
    data->bindings[input] = (mlc_bound){MLC_BOUND_TOKENS, input, 0};
    return mlc_tokens_open(&data->streams[input], paths, count, width, mlc_input_row_elements(fed), extent_of(data, input), error);
}

static int check_array(const mlc_data *data, int input, const char *path, mlc_error *error)
{
    const mlc_tensor *tensor = &data->model->inputs[input].tensor;
    const mlc_npy *npy = &data->arrays[input];
    bool fits = npy->rank == tensor->rank;
    for (int i = 1; fits && i < tensor->rank; i++)
        fits = npy->shape[i] == tensor->shape[i];
    if (!fits) {
        char row[128], got[128];
        mlc_convert_shape_text(row, sizeof row, tensor->shape + 1, tensor->rank - 1);
        mlc_convert_shape_text(got, sizeof got, npy->shape, npy->rank);
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: shape %s; input %s wants [rows%s%s", path, got, tensor->name,
                             tensor->rank > 1 ? ", " : "", row + 1);
    }
    if (npy->shape[0] == 0)
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: the array has no rows", path);
    return mlc_convert_check(npy, tensor->dtype, path, tensor->name, error);
}

static int bind_array(mlc_data *data, int input, const char *path, mlc_error *error)
{
    data->bindings[input] = (mlc_bound){MLC_BOUND_ARRAY, input, 0};
    data->array_paths[input] = strdup(path);
    if (!data->array_paths[input])
        return mlc_error_set(error, MLC_FAILED, "%s: out of memory", path);
    return mlc_npy_open(&data->arrays[input], path, error) ? error->status : check_array(data, input, path, error);
}

/* Is this .npy file a token stream for the input, by its rank? */
static bool is_stream_array(const mlc_data *data, int input, const char *path)
{
    mlc_npy npy;
    mlc_error ignored = {0};
    if (!is_token_input(&data->model->inputs[input]) || mlc_npy_open(&npy, path, &ignored))
        return false;
    bool flat = npy.rank == 1;
    mlc_npy_close(&npy);
    return flat;
}

static int bind_files(mlc_data *data, int input, mlc_width width, char *const *paths, int count, mlc_error *error)
{
    const char *name = data->model->inputs[input].tensor.name;
    if (data->bindings[input].kind != MLC_UNBOUND)
        return mlc_error_set(error, MLC_USAGE, "input %s is given twice", name);
    if (width.bytes || !mlc_path_ends(paths[0], ".npy") || is_stream_array(data, input, paths[0]))
        return bind_stream(data, input, width, paths, count, error);
    if (count > 1)
        return mlc_error_set(error, MLC_BAD_INPUT, "input %s: %d files match, but an array is one file", name, count);
    return bind_array(data, input, paths[0], error);
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* The run of digits at *at without its leading zeros; *at moves behind it. */
static const char *take_digits(const char **at, size_t *length)
{
    while (**at == '0' && is_digit((*at)[1]))
        ++*at;
    const char *digits = *at;
    while (is_digit(**at))
        ++*at;
    *length = (size_t)(*at - digits);
    return digits;
}

/* Runs of digits compare as numbers: shard_2 comes before shard_10. Names that are equal so compare as bytes. */
static int compare_natural(const char *a, const char *b)
{
    const char *whole_a = a, *whole_b = b;
    while (*a && *b) {
        if (is_digit(*a) && is_digit(*b)) {
            size_t n, m;
            const char *x = take_digits(&a, &n), *y = take_digits(&b, &m);
            int order = n != m ? (n < m ? -1 : 1) : memcmp(x, y, n);
            if (order)
                return order;
        } else if (*a != *b) {
            return (unsigned char)*a < (unsigned char)*b ? -1 : 1;
        } else {
            a++, b++;
        }
    }
    return *a ? 1 : *b ? -1 : strcmp(whole_a, whole_b);
}

static int compare_names(const void *a, const void *b)
{
    return compare_natural(*(char *const *)a, *(char *const *)b);
}

static int bind_argument(mlc_data *data, const char *argument, const char *option, mlc_error *error)
{
    const char *pattern;
    int input = input_of(data->model, argument, &pattern, option, error);
    if (input < 0)
        return error->status;
    mlc_width width = mlc_width_take(&pattern);
    char *literal = (char *)(uintptr_t)pattern;
    if (mlc_path_is_file(pattern))
        return bind_files(data, input, width, &literal, 1, error);
    glob_t found;
    int code = glob(pattern, GLOB_NOSORT, NULL, &found);
    int status;
    if (code)
        status = mlc_error_set(error, MLC_BAD_INPUT, "%s %s: no such file, and no file matches", option, argument);
    else
        qsort(found.gl_pathv, found.gl_pathc, sizeof *found.gl_pathv, compare_names);
    if (!code)
        status = bind_files(data, input, width, found.gl_pathv, (int)found.gl_pathc, error);
    if (!code)
        globfree(&found);
    return status;
}

/* Inputs that data does not hold by name follow another one. */
static int bind_followers(mlc_data *data, const char *option, mlc_error *error)
{
    const mlc_model *model = data->model;
    for (int i = 0; i < model->input_count; i++) {
        for (int base = 0; base < model->input_count && data->bindings[i].kind == MLC_UNBOUND; base++)
            if (data->bindings[base].kind == MLC_BOUND_TOKENS && data->bindings[base].source == base && shift_from(data, i, base) >= 0)
                data->bindings[i] = (mlc_bound){MLC_BOUND_TOKENS, base, shift_from(data, i, base)};
        if (data->bindings[i].kind == MLC_UNBOUND)
            return mlc_error_set(error, MLC_USAGE, "input %s has no data: give %s %s=FILE", model->inputs[i].tensor.name, option,
                                 model->inputs[i].tensor.name);
    }
    return MLC_OK;
}

/* ---- examples ---- */

static int64_t examples_of(const mlc_data *data, int input)
{
    const mlc_bound *binding = &data->bindings[input];
    return binding->kind == MLC_BOUND_ARRAY ? data->arrays[input].shape[0] : data->streams[binding->source].windows;
}

static int count_examples(mlc_data *data, mlc_error *error)
{
    const mlc_model *model = data->model;
    if (!model->input_count)
        return mlc_error_set(error, MLC_BAD_INPUT, "model %s has no inputs", model->name);
    data->examples = examples_of(data, 0);
    for (int i = 1; i < model->input_count; i++)
        if (examples_of(data, i) != data->examples)
            return mlc_error_set(error, MLC_BAD_INPUT, "input %s has %lld examples, input %s has %lld", model->inputs[0].tensor.name,
                                 (long long)data->examples, model->inputs[i].tensor.name, (long long)examples_of(data, i));
    return MLC_OK;
}

/* The tightest range of the inputs that read the stream of `base`. */
static int64_t stream_limit(const mlc_data *data, int base)
{
    int64_t limit = -1;
    for (int i = 0; i < data->model->input_count; i++) {
        int64_t own = data->model->inputs[i].limit;
        bool reads = data->bindings[i].kind == MLC_BOUND_TOKENS && data->bindings[i].source == base;
        if (reads && own >= 0 && (limit < 0 || own < limit))
            limit = own;
    }
    return limit;
}

static int scan_streams(const mlc_data *data, mlc_error *error)
{
    for (int i = 0; i < data->model->input_count; i++)
        if (data->streams[i].count && mlc_tokens_scan(&data->streams[i], stream_limit(data, i), error))
            return error->status;
    return MLC_OK;
}

/* ---- opening and closing ---- */

static int allocate(mlc_data *data, mlc_error *error)
{
    size_t count = (size_t)data->model->input_count + 1;
    data->bindings = calloc(count, sizeof *data->bindings);
    data->streams = calloc(count, sizeof *data->streams);
    data->arrays = calloc(count, sizeof *data->arrays);
    data->array_paths = calloc(count, sizeof *data->array_paths);
    bool whole = data->bindings && data->streams && data->arrays && data->array_paths;
    return whole ? MLC_OK : mlc_error_set(error, MLC_FAILED, "data: out of memory");
}

/* Arrays are bound before streams: what is bound to an array does not lengthen the windows of a stream. */
static int bind_all(mlc_data *data, char *const *arguments, int count, const char *option, mlc_error *error)
{
    for (int arrays = 1; arrays >= 0; arrays--)
        for (int i = 0; i < count; i++)
            if (mlc_path_ends(arguments[i], ".npy") == arrays && bind_argument(data, arguments[i], option, error))
                return error->status;
    return bind_followers(data, option, error);
}

int mlc_data_open(mlc_data *data, const mlc_model *model, char *const *arguments, int count, const char *option, mlc_error *error)
{
    *data = (mlc_data){.model = model};
    if (allocate(data, error) || bind_all(data, arguments, count, option, error) || count_examples(data, error) ||
        scan_streams(data, error))
        mlc_data_close(data);
    return error->status;
}

void mlc_data_close(mlc_data *data)
{
    bool whole = data->bindings && data->streams && data->arrays && data->array_paths;
    for (int i = 0; whole && i < data->model->input_count; i++) {
        mlc_tokens_close(&data->streams[i]);
        mlc_npy_close(&data->arrays[i]);
        free(data->array_paths[i]);
    }
    free(data->bindings);
    free(data->streams);
    free(data->arrays);
    free(data->array_paths);
    *data = (mlc_data){0};
}

/* ---- feeds ---- */

/* The name of the first file that feeds an input. */
static const char *path_of(const mlc_data *data, int input)
{
    const mlc_bound *binding = &data->bindings[input];
    return binding->kind == MLC_BOUND_ARRAY ? data->array_paths[input] : data->streams[binding->source].files[0].path;
}

/* A value was refused: its message names input and record, too. */
static int say_record(const mlc_data *data, int input, int64_t record, mlc_error *error)
{
    size_t used = strlen(error->text);
    snprintf(error->text + used, sizeof error->text - used, " (input %s, record %lld)", data->model->inputs[input].tensor.name,
             (long long)record);
    return error->status;
}

static int check_domains(const mlc_data *data, int input, int64_t record, const void *row, mlc_error *error)
{
    const mlc_domain *domain;
    const mlc_input *kind = &data->model->inputs[input];
    int64_t at = -1;
    char range[80];
    if (kind->tensor.dtype == MLC_I32)
        at = mlc_domain_find(data->model, input, row, mlc_input_row_elements(kind), &domain);
    if (at < 0)
        return MLC_OK;
    mlc_domain_text(range, domain);
    return mlc_error_set(error, MLC_BAD_INPUT, "%s: input %s, record %lld: value %d (element %lld) is not in %s", path_of(data, input),
                         kind->tensor.name, (long long)record, ((const int32_t *)row)[at], (long long)at, range);
}

static int read_row(const mlc_data *data, int i, int64_t window, void *to, mlc_error *error)
{
    const mlc_input *input = &data->model->inputs[i];
    const mlc_bound *binding = &data->bindings[i];
    int64_t elements = mlc_input_row_elements(input);
    int status = binding->kind == MLC_BOUND_TOKENS
                     ? mlc_tokens_read(&data->streams[binding->source], window, binding->shift, elements, input->limit, to, error)
                     : mlc_convert_row(&data->arrays[i], window * elements, elements, input, to, data->array_paths[i], error);
    return status ? say_record(data, i, window, error) : check_domains(data, i, window, to, error);
}

static int64_t record_of(const mlc_feed *feed, const mlc_rank *rank, int64_t microbatch, int64_t row)
{
    const mlc_data_feed *from = (const mlc_data_feed *)feed;
    return mlc_order_window(&from->order, from->first + (microbatch * rank->model->batch + row) / from->repeat);
}

/* After a row of an input was read. */
static int check_file(const mlc_data *data, int i, int64_t window, mlc_error *error)
{
    const mlc_bound *binding = &data->bindings[i];
    const mlc_npy *array = &data->arrays[i];
    int64_t elements = mlc_input_row_elements(&data->model->inputs[i]), bytes = elements * array->item_bytes;
    if (binding->kind == MLC_BOUND_TOKENS)
        return mlc_tokens_check(&data->streams[binding->source], window, binding->shift, elements, error);
    uint64_t begin = (uint64_t)(array->data - array->mapping.base + window * bytes);
    return mlc_mapping_check_range(&array->mapping, data->array_paths[i], begin, begin + (uint64_t)bytes, error);
}

/* What was read, or refused, counts only if its file is still whole afterwards. */
static int fill_row(const mlc_data *data, int i, int64_t window, void *to, mlc_error *error)
{
    mlc_error own = {0};
    int status = read_row(data, i, window, to, &own);
    if (check_file(data, i, window, error))
        return error->status;
    return status ? mlc_error_set(error, status, "%s", own.text) : MLC_OK;
}

static int fill_from_data(const mlc_feed *feed, const mlc_rank *rank, int input, int64_t microbatch, int64_t begin, int64_t end, void *to,
                          mlc_error *error)
{
    const mlc_data_feed *from = (const mlc_data_feed *)feed;
    int64_t bytes = mlc_input_row_bytes(&from->data->model->inputs[input]);
    for (int64_t row = begin; row < end; row++) {
        if (fill_row(from->data, input, record_of(feed, rank, microbatch, row), (char *)to + row * bytes, error))
            return error->status;
    }
    return MLC_OK;
}

mlc_data_feed mlc_data_feed_make(const mlc_data *data, mlc_order order, int64_t first, int64_t repeat)
{
    return (mlc_data_feed){{fill_from_data, record_of}, data, order, first, repeat};
}
