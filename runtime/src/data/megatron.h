/* megatron.h: the index of a Megatron data set, X.idx beside X.bin: what the bytes of X.bin are, and where documents begin.
 *
 *   "MMIDIDX\0\0"  version u64 = 1  dtype u8  sequences u64  documents u64
 *   lengths i32[sequences]  byte offsets i64[sequences]  document bounds i64[documents]: numbers of sequences, from 0 up
 *
 * All little-endian. Sequences lie one after the other in X.bin and fill it.
 */
#ifndef MLC_MEGATRON_H
#define MLC_MEGATRON_H

#include "system/file.h"

#define MLC_MEGATRON_HEADER_BYTES 34

typedef struct mlc_megatron {
    mlc_mapping mapping; /* of the .idx; base NULL: there is none */
    int token_bytes;
    bool is_signed;
    uint64_t sequences;
    uint64_t documents;
} mlc_megatron;

/* Does `path` end in .bin and is there an .idx beside it that is a Megatron index? */
bool mlc_megatron_is_indexed(const char *path);

/* Opens the index beside X.bin, whose bytes are `bytes`, and checks that both fit. Returns a status; the message names the .idx. */
int mlc_megatron_open(mlc_megatron *megatron, const char *path, uint64_t bytes, mlc_error *error);
void mlc_megatron_close(mlc_megatron *megatron);

/* The sequence that document `i` begins with; i == documents - 1: how many sequences there are. */
uint64_t mlc_megatron_document(const mlc_megatron *megatron, uint64_t i);

#endif
