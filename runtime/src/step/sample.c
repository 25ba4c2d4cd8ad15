/* sample.c: see sample.h. */
#include "step/sample.h"

#include "data/convert.h"
#include "data/order.h"
#include "model/accord.h"
#include "step/executor.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The text in every row of the first input, zeros in the others. */
static int fill_from_window(const mlc_feed *feed, const mlc_rank *rank, int input, int64_t microbatch, int64_t begin, int64_t end, void *to,
                            mlc_error *error)
{
    (void)microbatch, (void)error;
    const mlc_sampler *text = (const mlc_sampler *)feed;
    size_t bytes = (size_t)mlc_input_row_bytes(&rank->model->inputs[input]);
    for (int64_t row = begin; row < end; row++) {
        char *at = (char *)to + (size_t)row * bytes;
        if (input == 0)
            memcpy(at, text->tokens, bytes);
        else
            memset(at, 0, bytes);
    }
    return MLC_OK;
}

static void push(mlc_sampler *text, int32_t token)
{
    if (text->length == text->context) {
        text->known = -1;
        for (int64_t i = 1; i < text->context; i++)
            text->tokens[i - 1] = text->tokens[i];
        text->length--;
    }
    text->tokens[text->length++] = token;
}

/* `out` may be NULL. */
static void put(const mlc_sampler *text, int32_t token, FILE *out)
{
    if (!out)
        return;
    if (text->vocabulary <= 256)
        fputc(token, out);
    else
        fprintf(out, "%d ", token);
    fflush(out);
}

/* ---- the prompt ---- */

static int take_token(mlc_sampler *text, long long token, FILE *out, mlc_error *error)
{
    if (token < 0 || token >= text->vocabulary)
        return mlc_error_set(error, MLC_BAD_INPUT, "--prompt: token %lld is not in 0 to %lld", token, (long long)text->vocabulary - 1);
    push(text, (int32_t)token);
    put(text, (int32_t)token, out);
    return MLC_OK;
}

static int take_bytes(mlc_sampler *text, const char *prompt, FILE *out, mlc_error *error)
{
    for (const unsigned char *c = (const unsigned char *)prompt; *c; c++)
        if (take_token(text, *c, out, error))
            return error->status;
    return MLC_OK;
}

static int take_numbers(mlc_sampler *text, const char *prompt, FILE *out, mlc_error *error)
{
    for (const char *at = prompt + strspn(prompt, " ,"); *at; at += strspn(at, " ,")) {
        char *end;
        errno = 0;
        long long token = strtoll(at, &end, 10);
        if (end == at || errno)
            return mlc_error_set(error, MLC_USAGE, "--prompt: wants token numbers: the vocabulary of %lld has no text here",
                                 (long long)text->vocabulary);
        if (take_token(text, token, out, error))
            return error->status;
        at = end;
    }
    return MLC_OK;
}

/* An empty prompt starts with a line feed, or token 0, which is not printed. `out` may be NULL. */
static int take_prompt(mlc_sampler *text, const char *prompt, FILE *out, mlc_error *error)
{
    text->length = text->known = 0;
    memset(text->tokens, 0, (size_t)text->context * sizeof *text->tokens);
    if ((text->vocabulary <= 256 ? take_bytes : take_numbers)(text, prompt, out, error))
        return error->status;
    if (!text->length)
        push(text, text->vocabulary <= 256 && text->vocabulary > '\n' ? '\n' : 0);
    return MLC_OK;
}

/* ---- drawing ---- */

static double logit_at(const void *logits, int32_t dtype, int64_t i)
{
    return mlc_dtype_of(dtype)->load(logits, i);
}

/* Leaves exp((logit - highest) / temperature) in text->weights; returns the likeliest token, *sum gets the sum. */
static int32_t weigh(mlc_sampler *text, const void *logits, int32_t dtype, double temperature, double *sum)
{
    int64_t best = 0;
    for (int64_t i = 1; i < text->vocabulary; i++)
        if (logit_at(logits, dtype, i) > logit_at(logits, dtype, best))
            best = i;
    double highest = logit_at(logits, dtype, best);
    *sum = 0;
    for (int64_t i = 0; temperature > 0 && i < text->vocabulary; i++)
        *sum += text->weights[i] = exp((logit_at(logits, dtype, i) - highest) / temperature);
    return (int32_t)best;
}

/* Does token a come before token b: likelier, or as likely and lower? */
static bool is_likelier(const mlc_sampler *text, int32_t a, int32_t b)
{
    return text->weights[a] != text->weights[b] ? text->weights[a] > text->weights[b] : a < b;
}

/* Lets the token at `at` of a heap of `count` sink to where it belongs. */
static void sink(mlc_sampler *text, int64_t at, int64_t count)
{
    int32_t *heap = text->heap;
    for (int64_t child = 2 * at + 1; child < count; child = 2 * at + 1) {
        child += child + 1 < count && is_likelier(text, heap[child + 1], heap[child]);
        if (!is_likelier(text, heap[child], heap[at]))
            return;
        int32_t token = heap[at];
        heap[at] = heap[child];
        heap[child] = token;
        at = child;
    }
}

/* Leaves weight only to the likeliest tokens: at most top_k, and no more than together have the share top_p of `sum`, at least one.
 * Returns the sum of what is left. */
static double keep_likeliest(mlc_sampler *text, const mlc_drawing *drawing, double sum)
{
    int64_t left = text->vocabulary, most = drawing->top_k ? drawing->top_k : left;
    double kept = 0;
    for (int64_t i = 0; i < left; i++)
        text->heap[i] = (int32_t)i;
    for (int64_t i = left / 2 - 1; i >= 0; i--)
        sink(text, i, left);
    for (; left && most > 0 && kept < drawing->top_p * sum; most--) {
        kept += text->weights[text->heap[0]];
        text->heap[0] = text->heap[--left];
        sink(text, 0, left);
    }
    for (int64_t i = 0; i < left; i++)
        text->weights[text->heap[i]] = 0;
    return kept;
}

/* A token with probability proportional to its weight; u is uniform in [0, 1). */
static int32_t draw(const mlc_sampler *text, double sum, double u)
{
    double reached = 0;
    int64_t last = 0;
    for (int64_t i = 0; i < text->vocabulary; i++) {
        reached += text->weights[i];
        if (text->weights[i] > 0)
            last = i;
        if (reached > u * sum)
            return (int32_t)i;
    }
    return (int32_t)last;
}

/* The token that follows the text, by the rank that has the logits: those of a chain, at one of its times. */
static int choose(mlc_rank *rank, mlc_sampler *text, const mlc_tensor *logits, int64_t time, const mlc_drawing *drawing, int64_t ordinal,
                  int32_t *token)
{
    double sum;
    uint64_t at = mlc_rank_resolve(rank, logits->at, 0);
    int64_t first = time * text->vocabulary * mlc_dtype_of(logits->dtype)->bytes;
    size_t bytes = (size_t)(text->vocabulary * mlc_dtype_of(logits->dtype)->bytes);
    const void *row = mlc_memory_view(&rank->arena, at + (uint64_t)first, bytes, text->heap);
    *token = weigh(text, row, logits->dtype, drawing->temperature, &sum);
    if (drawing->temperature == 0)
        return MLC_OK;
    if (!isfinite(sum))
        return mlc_error_set(&rank->error, MLC_NOT_FINITE, "sampling: the logits are not finite");
    if (drawing->top_k || drawing->top_p < 1)
        sum = keep_likeliest(text, drawing, sum);
    uint64_t bits = mlc_order_mix(mlc_order_mix(rank->seed ^ 0x73616d706c65) + (uint64_t)ordinal);
    *token = draw(text, sum, (double)(bits >> 11) * 0x1p-53);
    return MLC_OK;
}

/* What all ranks learn of a token. */
typedef struct drawn {
    int32_t token;
    int32_t unread; /* nobody takes what is written */
} drawn;

/* The logits of the token that follows, by the decode chain: it computes the times that it has not kept. */
static int decode(mlc_rank *rank, mlc_sampler *text)
{
    for (; text->known < text->length; text->known++) {
        rank->scalars[rank->model->time] = (double)text->known;
        if (mlc_executor_forward(rank, MLC_DECODE, &text->feed, 0, 1, 1))
            return rank->error.status;
        if (rank->result.signals)
            return MLC_OK;
    }
    return MLC_OK;
}

/* The same on every rank. */
static int next_token(mlc_rank *rank, mlc_sampler *text, const mlc_drawing *drawing, int64_t ordinal, FILE *out, drawn *next)
{
    *next = (drawn){0, out && ferror(out)};
    bool decodes = text->logits[1] && text->known >= 0;
    if (decodes ? decode(rank, text) : mlc_executor_forward(rank, MLC_SAMPLE, &text->feed, 0, 1, 1))
        return rank->error.status;
    if (rank->rank == text->drawer)
        choose(rank, text, text->logits[decodes], decodes ? 0 : text->length - 1, drawing, ordinal, &next->token);
    return mlc_accord(rank, &rank->error) ? rank->error.status : mlc_accord_block(rank, next, sizeof *next, &rank->error);
}

/* ---- the whole ---- */

/* The logits of the sample chain and of the decode chain, and the place that makes them. */
static void find_logits(mlc_sampler *text, const mlc_model *model)
{
    for (int place = 0; place < model->mesh.size[MLC_PP]; place++) {
        const mlc_role *role = &model->roles[place];
        for (int c = 0; c < role->chunk_count; c++)
            if (role->chunks[MLC_SAMPLE][c].stage == model->chains[MLC_SAMPLE].logits_stage) {
                text->drawer = mlc_mesh_member(&model->mesh, 0, MLC_PP, place);
                text->logits[0] = &role->chunks[MLC_SAMPLE][c].logits;
                text->logits[1] = model->time ? &role->chunks[MLC_DECODE][c].logits : NULL;
            }
    }
}

int mlc_sampler_open(mlc_sampler *text, const mlc_model *model, const char *prompt, mlc_error *error)
{
    *text = (mlc_sampler){.feed = {fill_from_window, NULL}};
    if (model->samples)
        find_logits(text, model);
    if (!text->logits[0])
        return mlc_error_set(error, MLC_USAGE, "model %s cannot be sampled: it returns no logits, or has no token input", model->name);
    text->context = mlc_input_row_elements(&model->inputs[0]);
    text->vocabulary = text->logits[0]->shape[text->logits[0]->rank - 1];
    text->tokens = calloc((size_t)text->context + 1, sizeof *text->tokens);
    text->weights = calloc((size_t)text->vocabulary, sizeof *text->weights);
    text->heap = calloc((size_t)text->vocabulary, sizeof *text->heap);
    if (!text->tokens || !text->weights || !text->heap)
        return mlc_error_set(error, MLC_FAILED, "sampling: out of memory");
    return take_prompt(text, prompt, NULL, error);
}

void mlc_sampler_close(mlc_sampler *text)
{
    free(text->tokens);
    free(text->weights);
    free(text->heap);
    *text = (mlc_sampler){0};
}

int mlc_sample(mlc_rank *rank, mlc_sampler *text, const char *prompt, int64_t count, const mlc_drawing *drawing, FILE *out)
{
    out = rank->rank == 0 ? out : NULL;
    if (take_prompt(text, prompt, out, &rank->error))
        return rank->error.status; /* the same on every rank */
    for (int64_t i = 0; i < count; i++) {
        drawn next;
        if (next_token(rank, text, drawing, i, out, &next))
            return rank->error.status;
        if (next.unread)
            break;
        push(text, next.token);
        put(text, next.token, out);
    }
    if (out)
        fputc('\n', out);
    return MLC_OK;
}
