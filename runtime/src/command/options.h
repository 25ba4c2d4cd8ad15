/* options.h: the options of a program. */
#ifndef MLC_OPTIONS_H
#define MLC_OPTIONS_H

#include "mlc_abi.h"
#include "system/error.h"

#include <stdbool.h>
#include <stddef.h>
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
    mlc_list fit;
    int64_t steps;       /* 0: not given */
    int64_t seed;        /* -1: not given */
    int64_t threads;     /* 0: not given */
    int64_t every;       /* 0: not given */
    int64_t evaluate_batches; /* 0: not given */
    int64_t keep;        /* 0: not given */
    int64_t sample;      /* -1: not given */
    int64_t top_k;       /* 0: not given */
    double temperature;
    double top_p;
    double timeout;      /* seconds; 0: none */
    double start_timeout; /* seconds; negative: not given */
    double grace;        /* seconds */
    const char *order;
    const char *log;
    const char *trace;
    const char *profile_json;
    const char *checkpoint;
    const char *resume;
    const char *weights;
    const char *prompt;
    const char *transport; /* NULL: not given */
    bool fresh;
    bool hash;
    bool profile;
    bool print_plan;
    int64_t print_launches; /* a step, from 1; 0: not given */
    bool dry_run;
    const char *completion; /* NULL: not given */
    bool version;
    bool help;
    int count;           /* options on the command line */
    uint64_t given;      /* bit i: row i of the table stands on the command line */
    double *scalars;     /* by scalar index */
    char *scalars_given; /* the same */
    char **texts;        /* what the lists point into */
} mlc_options;

/* A row of the table of options. */
typedef struct mlc_option {
    const char *name;
    const char *argument; /* NULL: a flag; words in small letters are choices, FILE, DIR and PATTERN are paths */
    int kind;             /* FLAG, TEXT, LIST; COUNT: at least 1; WHOLE: at least 0; REAL: at least 0 */
    size_t at;            /* in mlc_options */
    const char *help;
} mlc_option;

/* The table; what --help and completion print. */
const mlc_option *mlc_options_table(int *count);

/* Is this option on the command line? `name` is one of the table. */
bool mlc_options_given(const mlc_options *options, const char *name);

/* Reads argv for a model, each word for itself (purpose.h: what they want of one another). Returns a status: MLC_USAGE with
 * advice (advice.h) for an unknown option, for an option given twice, for an empty value. */
int mlc_options_parse(mlc_options *options, const mlc_model *model, int argc, char **argv, mlc_error *error);
void mlc_options_free(mlc_options *options);

struct mlc_terms;

/* Adds what all ranks must have been given alike, as "--steps" and its value. Files of data are compared by their content, elsewhere. */
void mlc_options_list(const mlc_options *options, struct mlc_terms *terms);

/* Writes the list of options. */
void mlc_options_print_help(const mlc_model *model, FILE *out);

#endif
