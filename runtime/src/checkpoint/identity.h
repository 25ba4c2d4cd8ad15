/* identity.h: which data a run has: a content hash of what is mapped, without the names of files. */
#ifndef MLC_IDENTITY_H
#define MLC_IDENTITY_H

#include "checkpoint/bundle.h"
#include "data/data.h"

#define MLC_IDENTITY_BYTES 33 /* 32 hex digits and a 0 byte */

/* The identity of what feeds one model input: dtype, sizes, and bytes: all of up to 4 MiB, else 256 blocks of 4 KiB spread evenly from
 * the first to the last. So it costs as much for a terabyte as for a megabyte, and an edit between the blocks is not seen. Several
 * files count in their order. "" where an input follows another, or has no data. */
void mlc_identity_of_input(const mlc_data *data, int input, char hex[MLC_IDENTITY_BYTES]);

/* The same of bytes. */
void mlc_identity_of_bytes(const void *data, size_t bytes, char hex[MLC_IDENTITY_BYTES]);

/* The same of files that belong together, in their order. */
void mlc_identity_of_files(const mlc_bundle *const *bundles, int count, char hex[MLC_IDENTITY_BYTES]);

/* The lines "data.INPUT=IDENTITY", one for each input with data of its own; to be freed. NULL: out of memory. */
char *mlc_identity_lines(const mlc_data *data);

#endif
