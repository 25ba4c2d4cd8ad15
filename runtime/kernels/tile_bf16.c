/* tile_bf16.c: tile.c over pairs of bf16. */
#include "tile.h"

#ifdef MLC_PAIRS
#define MLC_TILE_OF_PAIRS
#include "tile.c"
#endif
