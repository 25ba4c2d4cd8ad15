/* shard.h: who updates what: the rule by which the replicas of a place share out the parameters that the place owns.
 * compiler/parallel/shards.py says the same in Python.
 *
 * What a place owns falls into portions, one for each replica (mlc_mesh.h). A run of portions [a, b) of dp has
 *
 *   sliced, still   blocks [B * a / dp, B * b / dp) of the B blocks of 1024 elements of all such parameters, one after the other
 *   whole           those in whose portion the middle of their blocks lies
 *
 * so nothing here grows with the number of replicas.
 */
#ifndef MLC_SHARD_H
#define MLC_SHARD_H

#include "mlc_abi.h"
#include "system/error.h"

/* What one replica updates: elements [begin, end) of a parameter, both multiples of 1024 or the end of the tensor. */
typedef struct mlc_piece {
    int parameter;
    int64_t begin;
    int64_t end;
    const uint64_t *states;        /* of element `begin` of each state; of a rule that is not elementwise, of the whole state */
    mlc_flat_function update_flat; /* as of mlc_own, over elements from `begin` on; or */
    mlc_function update;
    const uint64_t *update_at;     /* both NULL: frozen, or fed by nothing. Of what is arranged (arranged.h) the buffers of master and gradient */
} mlc_piece;

/* The pieces of one replica, in order of parameter. */
typedef struct mlc_shard {
    mlc_piece *pieces;
    int count;
    uint64_t *words; /* behind the pieces */
} mlc_shard;

/* A parameter among all of its sharing on its owner. */
typedef struct mlc_owner {
    const mlc_own *own; /* NULL: nobody owns it */
    int place;
    int64_t first;      /* blocks of those before it */
    int64_t blocks;
    int64_t elements;
    int64_t total;      /* blocks of all */
} mlc_owner;

/* The owners of all parameters of a model. */
typedef struct mlc_owners {
    const mlc_model *model;
    int replicas;
    mlc_owner *items; /* by parameter */
} mlc_owners;

/* Refuses a model in which a parameter is not owned once, by the place that it names. Returns a status. */
int mlc_owners_open(mlc_owners *owners, const mlc_model *model, mlc_error *error);
void mlc_owners_close(mlc_owners *owners);

typedef struct mlc_run {
    int64_t begin;
    int64_t end; /* <= begin: empty */
} mlc_run;

/* The elements of a parameter that a run of portions has. */
mlc_run mlc_owners_elements(const mlc_owners *owners, int parameter, mlc_portions portions);

/* The replica that answers for an element of a parameter, and, into `end`, how far it does. */
int mlc_owners_replica(const mlc_owners *owners, int parameter, int64_t element, int64_t *end);

/* What a replica of a place updates; masters and gradients are where the place has them. Returns a status. */
int mlc_shard_open(mlc_shard *shard, const mlc_owners *owners, int place, int replica, mlc_error *error);
void mlc_shard_close(mlc_shard *shard);

#endif
