/* finite.c: see finite.h. */
#include "model/finite.h"

#include "model/arranged.h"

#include <stdio.h>

static bool is_finite(const mlc_rank *rank, mlc_lying lies, int64_t begin, int64_t end)
{
    const mlc_dtype_row *dtype = mlc_dtype_wide(rank->model);
    mlc_strip strip;
    bool finite = true;
    for (int64_t count, at = begin; finite && at < end; at += count) {
        const char *elements = mlc_lying_look(&rank->arena, &lies, at, end, &count, &strip);
        finite = dtype->wide->finite(elements, count);
    }
    return finite;
}

/* The number of what is not finite in a piece of a parameter, from number `first` on; -1: nothing. */
static int64_t search_piece(const mlc_rank *rank, const mlc_piece *piece, int64_t first)
{
    const mlc_parameter *parameter = &rank->model->parameters[piece->parameter];
    const int64_t unit = (int64_t)mlc_wide_bytes(rank->model);
    mlc_lying master = {mlc_rank_held(rank, piece->parameter)->master, unit, mlc_arranged_master(rank->model, piece->parameter)};
    if (first <= 0 && !is_finite(rank, master, piece->begin, piece->end))
        return 0;
    for (int64_t s = first > 0 ? first - 1 : 0; s < parameter->state_count; s++) {
        mlc_lying state = {piece->states[s], unit, mlc_arranged_state(rank->model, piece->parameter, (int)s)};
        if (!is_finite(rank, state, 0, mlc_rank_state_elements(rank->model, piece, (int)s)))
            return 1 + s;
    }
    return -1;
}

int64_t mlc_finite_search(const mlc_rank *rank, int64_t after)
{
    int64_t found = -1;
    for (int i = 0; i < rank->shard.count; i++) {
        const mlc_piece *piece = &rank->shard.pieces[i];
        int64_t first = after + 1 - mlc_flaw_of(piece->parameter, 0);
        if ((!piece->update_flat && !piece->update) || piece->begin == piece->end || first >= MLC_FLAWS)
            continue;
        int64_t what = search_piece(rank, piece, first);
        if (what >= 0)
            found = mlc_flaw_first(found, mlc_flaw_of(piece->parameter, what));
    }
    return found;
}

char *mlc_flaw_name(char text[MLC_FLAW_BYTES], const mlc_model *model, int64_t flaw)
{
    const mlc_parameter *parameter = &model->parameters[flaw / MLC_FLAWS];
    int64_t what = flaw % MLC_FLAWS;
    if (what == 0)
        snprintf(text, MLC_FLAW_BYTES, "parameter %s", parameter->name);
    else if (what == MLC_FLAW_COPY)
        snprintf(text, MLC_FLAW_BYTES, "the bf16 copy of parameter %s", parameter->name);
    else
        snprintf(text, MLC_FLAW_BYTES, "state %s of parameter %s", parameter->states[what - 1].name, parameter->name);
    return text;
}
