/* rank.c: see rank.h. */
#include "model/rank.h"

#include "model/tables.h"

const mlc_held *mlc_role_held(const mlc_role *role, int parameter)
{
    int low = 0, high = role->held_count;
    while (low < high) {
        int middle = (low + high) / 2;
        if (role->held[middle].parameter < parameter)
            low = middle + 1;
        else
            high = middle;
    }
    return low < role->held_count && role->held[low].parameter == parameter ? &role->held[low] : NULL;
}

const mlc_held *mlc_rank_held(const mlc_rank *rank, int parameter)
{
    return rank->tables->held[parameter];
}

void mlc_rank_put_scalars(const mlc_rank *rank, int64_t step, void *scalars)
{
    const mlc_model *model = rank->model;
    const mlc_dtype_row *wide = mlc_dtype_wide(model);
    for (int i = 0; i < model->scalar_count; i++)
        wide->store(scalars, i, i == 0 ? (double)step : i == 1 ? (double)rank->steps : rank->scalars[i]);
    if (model->set_scalars)
        model->set_scalars(scalars);
}

int64_t mlc_rank_state_elements(const mlc_model *model, const mlc_piece *piece, int state)
{
    const mlc_parameter *parameter = &model->parameters[piece->parameter];
    bool whole = piece->end - piece->begin == mlc_parameter_elements(parameter);
    return whole ? mlc_tensor_elements(&parameter->states[state]) : piece->end - piece->begin;
}
