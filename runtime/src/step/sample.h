/* sample.h: text from a model, one token at a time.
 *
 * While the text fits into the context the decode chain makes the logits of each token from the one before and what it kept of all others;
 * a prompt is read by the same chain. A longer text is cut to its last tokens, which moves all of them to other times: then, and where
 * there is no decode chain, the sample chain computes the whole context, padded on the right, for each token. Both give the same logits as
 * far as kernels have the same order of sums for one row and for many (spec/numerics.md). */
#ifndef MLC_SAMPLE_H
#define MLC_SAMPLE_H

#include "model/rank.h"

#include <stdio.h>

/* The text so far, as the model sees it, and room for one draw. */
typedef struct mlc_sampler {
    mlc_feed feed;
    int32_t *tokens;       /* [context] */
    int64_t length;        /* tokens in use */
    int64_t known;         /* of them, those that the decode chain has kept; -1: it does not serve, for a token was cut off */
    int64_t context;
    int64_t vocabulary;
    int drawer;            /* the rank that has the logits, of replica 0; the same of both chains */
    const mlc_tensor *logits[2]; /* of the sample chain, of the decode chain; NULL: there is none */
    double *weights;       /* [vocabulary] */
    int32_t *heap;         /* [vocabulary]: tokens, the likeliest first */
} mlc_sampler;

/* How a token is drawn. */
typedef struct mlc_drawing {
    double temperature; /* 0: the likeliest token, the lowest on ties */
    int64_t top_k;      /* only so many of the likeliest; 0: all */
    double top_p;       /* only the likeliest that together have this probability; 1: all */
} mlc_drawing;

/* Makes all that sampling needs, and checks the prompt; on every rank. Returns a status: MLC_USAGE for a model that cannot be sampled. */
int mlc_sampler_open(mlc_sampler *text, const mlc_model *model, const char *prompt, mlc_error *error);
void mlc_sampler_close(mlc_sampler *text);

/* Writes prompt and `count` tokens that follow it to `out`. The prompt is bytes; token numbers separated by spaces or commas when
 * the vocabulary exceeds 256, and so is the output. A text longer than the context is cut to its last tokens. The same seed gives the
 * same text, whatever the layout. All ranks call it, rank 0 writes; `out` is not used elsewhere; when it takes no more, sampling ends.
 * Allocates nothing. Returns a status, its sentence in rank->error. */
int mlc_sample(mlc_rank *rank, mlc_sampler *text, const char *prompt, int64_t count, const mlc_drawing *drawing, FILE *out);

#endif
