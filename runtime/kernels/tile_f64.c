/* tile_f64.c: tile.c in f64. */
#define MLC_ELEMENT_BYTES 8
#include "tile.c"
