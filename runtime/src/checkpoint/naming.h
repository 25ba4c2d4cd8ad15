/* naming.h: the tensors of files of weights by the names that a model gives them. Wrappers of a model leave marks in names
 * (`_orig_mod.` of torch.compile, `module.` of data parallelism, `model.`, `transformer.` of heads): two names that differ in
 * those alone are one. */
#ifndef MLC_NAMING_H
#define MLC_NAMING_H

#include "checkpoint/bundle.h"

/* A stored tensor under its bare name. */
typedef struct mlc_named {
    char *bare;
    mlc_stored *stored;
    const mlc_safetensors *file;
} mlc_named;

typedef struct mlc_naming {
    mlc_named *items; /* sorted by bare name, then by name */
    int64_t count;
} mlc_naming;

/* Indexes the tensors of open files. Refuses a tensor that two files hold. Returns a status. */
int mlc_naming_open(mlc_naming *naming, const mlc_bundle *bundle, mlc_error *error);
void mlc_naming_close(mlc_naming *naming);

/* The tensor of a parameter: of its very name, else the only one of its bare name. NULL: none, or several. */
const mlc_named *mlc_naming_find(const mlc_naming *naming, const char *name);

/* Of the tensors that nothing uses, the one whose name is nearest; NULL when none is near. */
const char *mlc_naming_nearest(const mlc_naming *naming, const char *name);

#endif
