/* weights.h: parameters from safetensors files that others wrote. */
#ifndef MLC_WEIGHTS_H
#define MLC_WEIGHTS_H

#include "checkpoint.h"

/* Loads every parameter by name, with or without a leading "transformer.": from a file; from a directory with
 * model.safetensors.index.json, or model.safetensors; or from one of our checkpoints. f32, f16, bf16 and f64 become f32.
 * Ignored: buffers *.attn.bias and *.attn.masked_bias, and tensors that equal one that was used (tied weights). A missing or
 * unknown tensor is an error unless allowed by name. All ranks call it, each takes what it holds; bf16 copies are the caller's to
 * refresh. Changes nothing when it fails. Returns a status. */
int mlc_weights_load(mlc_rank *rank, const char *path, mlc_allowed allowed, mlc_error *error);

#endif
