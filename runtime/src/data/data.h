/* data.h: the data of a run: files bound to model inputs, N examples, and feeds that fill microbatches from them. */
#ifndef MLC_DATA_H
#define MLC_DATA_H

#include "data/npy.h"
#include "data/order.h"
#include "data/tokens.h"
#include "model/rank.h"

/* Where the rows of one model input come from. */
typedef struct mlc_bound {
    enum { MLC_UNBOUND, MLC_BOUND_TOKENS, MLC_BOUND_ARRAY } kind;
    int source;    /* MLC_BOUND_TOKENS: the input whose stream it reads */
    int64_t shift; /* MLC_BOUND_TOKENS: how many tokens later */
} mlc_bound;

typedef struct mlc_data {
    const mlc_model *model;
    mlc_bound *bindings; /* by input */
    mlc_tokens *streams;   /* by input; empty where there is none */
    mlc_npy *arrays;       /* by input */
    char **array_paths;    /* by input, for messages */
    int64_t examples;      /* N */
} mlc_data;

/* Opens data for a model. arguments: `count` texts [INPUT=]PATTERN. `option` ("--data") is for messages. Returns a status. */
int mlc_data_open(mlc_data *data, const mlc_model *model, char *const *arguments, int count, const char *option, mlc_error *error);
void mlc_data_close(mlc_data *data);

/* A feed: row r of microbatch j shows example n = first + (j * batch + r) / repeat, through the order. */
typedef struct mlc_data_feed {
    mlc_feed feed;
    const mlc_data *data;
    mlc_order order;
    int64_t first;
    int64_t repeat;
} mlc_data_feed;

mlc_data_feed mlc_data_feed_make(const mlc_data *data, mlc_order order, int64_t first, int64_t repeat);

#endif
