/* coordinate.h: what a rank is called in messages: its number and its coordinate. */
#ifndef MLC_COORDINATE_H
#define MLC_COORDINATE_H

#include "mlc_mesh.h"

#define MLC_RANK_NAME_BYTES 96

/* "rank 3 (place 1, replica 1)"; of the axes behind those two, those that have more than one index. Returns `text`. */
const char *mlc_rank_name(char text[MLC_RANK_NAME_BYTES], const mlc_mesh *mesh, int rank);

#endif
