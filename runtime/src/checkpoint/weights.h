/* weights.h: parameters from safetensors files that others wrote. */
#ifndef MLC_WEIGHTS_H
#define MLC_WEIGHTS_H

#include "checkpoint/checkpoint.h"

/* What may differ between weights and model. Items are names or patterns (fnmatch) of parameters, tensors, or what config.json says. */
typedef struct mlc_weights_terms {
    mlc_allowed allowed; /* passes: a missing parameter keeps its initial value, an unknown tensor is ignored */
    mlc_allowed fitted;  /* tensors of another size along one dim: what is too much is cut, what is missing keeps its initial value */
} mlc_weights_terms;

/* Loads every parameter by name: from a file; from an index, or a directory with model.safetensors.index.json or model.safetensors;
 * from one of our checkpoints. Marks that wrappers leave in names do not count (naming.h). f32, f16, bf16 and f64 become the wide dtype of the model, all of
 * them finite. What a config.json beside them says is compared with the model (hub_config.h). Ignored: buffers (*.attn.bias,
 * *.attn.masked_bias, *.rotary_emb.inv_freq), and tensors that equal one that was used (tied weights). A missing or unknown tensor is
 * an error unless allowed. All ranks call it, each takes what it holds; bf16 copies are the caller's to refresh. What was
 * fitted or not compared is a note of rank 0. Changes nothing when it fails. Returns a status. */
int mlc_weights_load(mlc_rank *rank, const char *path, mlc_weights_terms terms, mlc_error *error);

#endif
