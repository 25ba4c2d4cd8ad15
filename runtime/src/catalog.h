/* catalog.h: the tensors of a session by the names that files give them. */
#ifndef MLC_CATALOG_H
#define MLC_CATALOG_H

#include "error.h"
#include "mlc_abi.h"

/* One f32 tensor of a file: a parameter, an optimizer state (<parameter>/<state>), or, where the name has a '*', one slice of it. */
typedef struct mlc_entry {
    char *name;
    const int64_t *shape;
    int rank;
    int64_t elements;
    uint64_t at; /* offset in the arena */
} mlc_entry;

typedef struct mlc_entries {
    mlc_entry *items;
    int64_t count;
} mlc_entries;

typedef struct mlc_catalog {
    mlc_entries parameters; /* in the model's order, '*' counted out */
    mlc_entries states;     /* the same */
    mlc_entries whole;      /* both, '*' not counted out, sorted by name: what the digest walks */
} mlc_catalog;

/* Makes the catalog of a model. Returns a status. */
int mlc_catalog_open(mlc_catalog *catalog, const mlc_model *model, mlc_error *error);
void mlc_catalog_close(mlc_catalog *catalog);

#endif
