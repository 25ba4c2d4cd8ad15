/* npy.h: NumPy's .npy files.
 *
 *   "\x93NUMPY"  major  minor  header length (u16 in version 1, u32 in 2 and 3)  header: a Python dict in text  data
 *   {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }
 */
#ifndef MLC_NPY_H
#define MLC_NPY_H

#include "system/file.h"

#define MLC_NPY_RANK 8

typedef struct mlc_npy {
    mlc_mapping mapping;
    char kind;      /* f, i, u, b */
    int item_bytes; /* 1, 2, 4, 8 */
    int rank;
    int64_t shape[MLC_NPY_RANK];
    int64_t elements;
    const uint8_t *data; /* may be unaligned */
} mlc_npy;

/* Maps a file and checks it. Returns a status; the message names the file. */
int mlc_npy_open(mlc_npy *npy, const char *path, mlc_error *error);
void mlc_npy_close(mlc_npy *npy);

#endif
