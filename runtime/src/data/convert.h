/* convert.h: elements of .npy arrays and safetensors in the dtypes of inputs and parameters. */
#ifndef MLC_CONVERT_H
#define MLC_CONVERT_H

#include "data/npy.h"
#include "system/dtype.h"

/* Can an array feed an input of this dtype (mlc.h, DATA)? Returns a status. */
int mlc_convert_check(const mlc_npy *npy, int32_t dtype, const char *path, const char *input, mlc_error *error);

/* Converts `count` elements from element `first` on to the dtype of the input, checking ranges. Any thread. */
int mlc_convert_row(const mlc_npy *npy, int64_t first, int64_t count, const mlc_input *input, void *to, const char *path, mlc_error *error);

/* "[12, 64]", cut to size. */
void mlc_convert_shape_text(char *text, size_t size, const int64_t *shape, int rank);

#endif
