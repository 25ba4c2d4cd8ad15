/* rank.c: see rank.h. */
#include "model/rank.h"

#include "model/tables.h"

const mlc_held *mlc_rank_held(const mlc_rank *rank, int parameter)
{
    return rank->tables->held[parameter];
}

int64_t mlc_rank_state_elements(const mlc_model *model, const mlc_piece *piece, int state)
{
    const mlc_parameter *parameter = &model->parameters[piece->parameter];
    bool whole = piece->end - piece->begin == mlc_parameter_elements(parameter);
    return whole ? mlc_tensor_elements(&parameter->states[state]) : piece->end - piece->begin;
}
