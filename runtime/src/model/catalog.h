/* catalog.h: the tensors of a model by the names that files give them, and the ranks that hold their elements. */
#ifndef MLC_CATALOG_H
#define MLC_CATALOG_H

#include "mlc_abi.h"
#include "model/arranged.h"
#include "model/shard.h"
#include "system/dtype.h"
#include "system/error.h"

/* One tensor of a file, of the model's wide dtype: a parameter, an optimizer state (<parameter>/<state>), or, where the name has a
 * '*', one slice of it. */
typedef struct mlc_entry {
    char *name;
    const int64_t *shape;
    int rank;
    int64_t elements;
    int64_t first; /* of the whole tensor's elements, the first of this entry */
    int parameter;
    int state;     /* -1: the master */
} mlc_entry;

typedef struct mlc_entries {
    mlc_entry *items;
    int64_t count;
    const mlc_dtype_row *dtype; /* of every element: the model's wide dtype */
} mlc_entries;

typedef struct mlc_catalog {
    mlc_entries parameters; /* in the model's order, '*' counted out */
    mlc_entries states;     /* the same */
    mlc_entries whole;      /* both, '*' not counted out, sorted by name: what the digest walks */
    mlc_owners owners;
} mlc_catalog;

/* Makes the catalog of a model. Refuses a model in which a parameter is not owned once. Returns a status. */
int mlc_catalog_open(mlc_catalog *catalog, const mlc_model *model, mlc_error *error);
void mlc_catalog_close(mlc_catalog *catalog);

/* Elements [begin, end) that one rank answers for: its shard updates them, and their values are valid there. */
typedef struct mlc_owned {
    int64_t begin;
    int64_t end;
    int rank;
    mlc_lying lies; /* where elements of the whole tensor lie, if the rank that asks has them */
    int64_t first;  /* of these, the one that is element 0 here */
} mlc_owned;

struct mlc_rank;

/* The longest run from `element` on of a whole master (state -1) or optimizer state. */
mlc_owned mlc_owned_at(const struct mlc_rank *rank, int parameter, int state, int64_t element);

/* The same of an entry: elements count from its own first one. */
mlc_owned mlc_entry_owned(const struct mlc_rank *rank, const mlc_entry *entry, int64_t element);

/* Elements from `begin` on that this rank owns, one after the other: mlc_lying_look. */
const char *mlc_owned_look(const struct mlc_rank *rank, const mlc_owned *owned, int64_t begin, int64_t *count, mlc_strip *strip);

/* What this rank owns of an entry: one run, which may be empty. */
mlc_owned mlc_entry_own(const struct mlc_rank *rank, const mlc_entry *entry);

#endif
