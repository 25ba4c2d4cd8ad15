/* finite.c: see finite.h. */
#include "model/finite.h"

#include <stdio.h>

#define VIEW 4096 /* elements looked at a time */

/* Is one of `count` elements of the wide dtype at a place of the arena not finite? */
static bool is_flawed(const mlc_rank *rank, uint64_t at, int64_t count)
{
    const mlc_dtype_row *dtype = mlc_dtype_wide(rank->model);
    double room[VIEW];
    for (int64_t done = 0; done < count; done += VIEW) {
        int64_t some = count - done < VIEW ? count - done : VIEW;
        const void *x = mlc_memory_view(&rank->arena, at + (uint64_t)(done * dtype->bytes), (size_t)(some * dtype->bytes), room);
        if (!dtype->wide->finite(x, some))
            return true;
    }
    return false;
}

/* The number of what is not finite in a piece of a parameter, from number `first` on; -1: nothing. */
static int64_t search_piece(const mlc_rank *rank, const mlc_piece *piece, int64_t first)
{
    const mlc_parameter *parameter = &rank->model->parameters[piece->parameter];
    uint64_t master = mlc_rank_held(rank, piece->parameter)->master + (uint64_t)piece->begin * mlc_wide_bytes(rank->model);
    if (first <= 0 && is_flawed(rank, master, piece->end - piece->begin))
        return 0;
    for (int64_t s = first > 0 ? first - 1 : 0; s < parameter->state_count; s++) {
        int64_t elements = mlc_rank_state_elements(rank->model, piece, (int)s);
        if (is_flawed(rank, piece->states[s], elements))
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
