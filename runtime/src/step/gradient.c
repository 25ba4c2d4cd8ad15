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

int64_t mlc_gradient_bad(const mlc_team *team)
{
    int64_t lowest = -1;
    for (int i = 0; i < team->threads; i++)
        lowest = mlc_flaw_first(lowest, team->workers[i].bad_parameter);
    return lowest;
}

void *mlc_gradient_of(const mlc_rank *rank, int parameter)
{
    bool here = rank->model->parameters[parameter].owner == rank->place && mlc_is_fed(rank, parameter);
    return here ? mlc_rank_at(rank, mlc_use_at(rank, parameter, 0)->use->levels[0]) : NULL;
}
