/* sample.h: text from a model: the prompt padded on the right, logits read at its last position, one token at a time. */
#ifndef MLC_SAMPLE_H
#define MLC_SAMPLE_H

#include "session.h"

#include <stdio.h>

/* The text so far, as the model sees it, and room for one draw. */
typedef struct mlc_sampler {
    mlc_feed feed;
    int32_t *tokens; /* [context] */
    int64_t length;  /* tokens in use */
    int64_t context;
    int64_t vocabulary;
    double *weights; /* [vocabulary] */
} mlc_sampler;

/* Makes all that sampling needs, and checks the prompt. Returns a status: MLC_USAGE for a model that cannot be sampled. */
int mlc_sampler_open(mlc_sampler *text, const mlc_model *model, const char *prompt, mlc_error *error);
void mlc_sampler_close(mlc_sampler *text);

/* Writes prompt and `count` tokens that follow it to `out`. The prompt is bytes; token numbers separated by spaces or commas when
 * the vocabulary exceeds 256, and so is the output. A text longer than the context is cut to its last tokens. temperature 0 takes
 * the likeliest token, the lowest on ties. The same seed gives the same text. Allocates nothing. Returns a status. */
int mlc_sample(mlc_session *session, mlc_sampler *text, const char *prompt, int64_t count, double temperature, FILE *out);

#endif
