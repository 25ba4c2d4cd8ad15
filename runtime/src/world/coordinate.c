/* coordinate.c: see coordinate.h. */
#include "world/coordinate.h"

#include <stdio.h>

const char *mlc_rank_name(char text[MLC_RANK_NAME_BYTES], const mlc_mesh *mesh, int rank)
{
    static const char *const NAMES[MLC_AXES] = {[MLC_TP] = "tp", [MLC_CP] = "cp", [MLC_EP] = "ep", [MLC_PP] = "place", [MLC_DP] = "replica"};
    mlc_coordinate coordinate = mlc_mesh_coordinate(mesh, rank);
    int used = snprintf(text, MLC_RANK_NAME_BYTES, "rank %d (place %d, replica %d", rank, coordinate.at[MLC_PP], coordinate.at[MLC_DP]);
    for (int axis = 0; axis < MLC_PP; axis++)
        if (mesh->size[axis] > 1)
            used += snprintf(text + used, (size_t)(MLC_RANK_NAME_BYTES - used), ", %s %d", NAMES[axis], coordinate.at[axis]);
    snprintf(text + used, (size_t)(MLC_RANK_NAME_BYTES - used), ")");
    return text;
}
