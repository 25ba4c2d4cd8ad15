/* weights_kind.h: files that are not what --weights reads: what they are, and the way out. */
#ifndef MLC_WEIGHTS_KIND_H
#define MLC_WEIGHTS_KIND_H

#include <stdint.h>

/* What a file that is no safetensors file is, as the end of a sentence; NULL: not known. */
const char *mlc_weights_kind(const uint8_t *data, uint64_t bytes);

/* The same by the name of a file that lies where weights were looked for; NULL: none of weights. */
const char *mlc_weights_kind_of_name(const char *name);

#endif
