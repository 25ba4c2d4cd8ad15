/* gradient.c: see gradient.h. */
#include "step/gradient.h"

#include "model/finite.h"
#include "model/tables.h"

void mlc_gradient_begin(const mlc_env *env)
{
    mlc_worker *worker = mlc_worker_of(env);
    worker->squares = (mlc_exact){{0}};
    worker->bad_parameter = -1;
    worker->flaw = -1;
}

mlc_exact mlc_gradient_squares(const mlc_rank *rank)
{
    mlc_exact sum = {{0}};
    for (int i = 0; i < rank->team->threads; i++)
        mlc_exact_merge(&sum, &rank->team->workers[i].squares);
    return sum;
}

int64_t mlc_gradient_bad(const mlc_rank *rank)
{
    int64_t lowest = -1;
    for (int i = 0; i < rank->team->threads; i++) {
        int64_t bad = rank->team->workers[i].bad_parameter;
        if (bad >= 0 && (lowest < 0 || bad < lowest))
            lowest = bad;
    }
    return lowest;
}

int64_t mlc_gradient_flaw(const mlc_rank *rank)
{
    int64_t first = -1;
    for (int i = 0; i < rank->team->threads; i++)
        first = mlc_flaw_first(first, rank->team->workers[i].flaw);
    return first;
}

void *mlc_gradient_of(const mlc_rank *rank, int parameter)
{
    bool here = rank->model->parameters[parameter].owner == rank->place && mlc_is_fed(rank, parameter);
    return here ? mlc_rank_at(rank, mlc_use_at(rank, parameter, 0)->use->levels[0]) : NULL;
}
