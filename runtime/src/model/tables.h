/* tables.h: what a rank derives from the tables of its model when it opens, so that a step looks nothing up and allocates nothing. */
#ifndef MLC_TABLES_H
#define MLC_TABLES_H

#include "model/rank.h"
#include "model/statistics.h"
#include "model/tree.h"

/* A use of a parameter, and where it lies. */
typedef struct mlc_placed_use {
    const mlc_use *use;
    int place;
    int stage;
} mlc_placed_use;

struct mlc_tables {
    const mlc_held **held;    /* by parameter; NULL: this place does not hold it */
    mlc_placed_use *uses;     /* of all places, by parameter, then in chain order */
    int *first_use;           /* by parameter: index in `uses`; one more at the end */
    bool *shared;             /* by parameter: a use lies on another place than the owner */
    mlc_link **links;         /* by channel between two places: this rank's end, NULL when it has none */
    mlc_tree before_last;     /* subtrees that wait when the last group of the replica's share ends */
    int merges;               /* with how many of them the last group joins */
    uint64_t *words;          /* of the workers: bases and operands */
    mlc_statistic *totals;    /* of all lists since mlc_executor_clear, of all ranks */
};

/* Makes the tables of a rank whose team and links exist, and rank->metrics, rank->scalars. Returns a status. */
int mlc_tables_open(mlc_rank *rank, mlc_error *error);
void mlc_tables_close(mlc_rank *rank);

/* Uses of a parameter that have a gradient. */
static inline int mlc_use_count(const mlc_rank *rank, int parameter)
{
    return rank->tables->first_use[parameter + 1] - rank->tables->first_use[parameter];
}

static inline const mlc_placed_use *mlc_use_at(const mlc_rank *rank, int parameter, int use)
{
    return &rank->tables->uses[rank->tables->first_use[parameter] + use];
}

/* Has it a gradient? */
static inline bool mlc_is_fed(const mlc_rank *rank, int parameter)
{
    return rank->model->parameters[parameter].fed != 2 && mlc_use_count(rank, parameter) > 0;
}

#endif
