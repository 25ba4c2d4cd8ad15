/* options.h: the options of a program. */
#ifndef MLC_OPTIONS_H
#define MLC_OPTIONS_H

#include "error.h"
#include "mlc_abi.h"

#include <stdbool.h>
#include <stdio.h>

/* Texts of an option that may repeat. */
typedef struct mlc_list {
    char **items;
    int count;
} mlc_list;

typedef struct mlc_options {
    mlc_list data;
    mlc_list evaluate;
    mlc_list allow;
    int64_t steps;       /* 0: not given */
    int64_t seed;        /* -1: not given */
    int64_t threads;     /* 0: not given */
    int64_t every;       /* 0: not given */
    int64_t sample;      /* -1: not given */
    double temperature;
    double timeout;      /* seconds; 0: none */
    const char *order;
    const char *log;
    const char *trace;
    const char *checkpoint;
    const char *resume;
    const char *weights;
    const char *prompt;
    const char *transport; /* NULL: not given */
    bool hash;
    bool profile;
    bool print_plan;
    bool dry_run;
    bool help;
    float *scalars;      /* by scalar index */
    char **texts;        /* what the lists point into */
} mlc_options;

/* Reads argv for a model. Returns a status: MLC_USAGE with the nearest name for an unknown option. */
int mlc_options_parse(mlc_options *options, const mlc_model *model, int argc, char **argv, mlc_error *error);
void mlc_options_free(mlc_options *options);

/* Writes the list of options. */
void mlc_options_print_help(const mlc_model *model, FILE *out);

#endif
