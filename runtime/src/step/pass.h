/* pass.h: one walk of all threads of a rank over a list, and what it leaves. Between executor.c, which says what to walk and what
 * follows from it, pass.c, which walks, and microbatch.c, which runs a chunk on a microbatch. */
#ifndef MLC_PASS_H
#define MLC_PASS_H

#include "model/rank.h"

/* What a second walk over a step that failed looks for. */
enum mlc_search { MLC_SEARCH_NONE, MLC_SEARCH_LOSS, MLC_SEARCH_GRADIENT };

/* The first value that is not finite, by stage, then microbatch, then parameter. */
typedef struct mlc_finding {
    int64_t stage; /* INT64_MAX: none */
    int64_t microbatch;
    int64_t parameter;
} mlc_finding;

/* One walk over a list, shared by the threads that make it. Thread 0 alone writes what is not atomic, before a barrier. */
typedef struct mlc_pass {
    mlc_rank *rank;
    int kind;                /* of the chain */
    const mlc_chain *chain;
    const mlc_chunk *chunks;
    const mlc_feed *feed;
    int64_t first;           /* the feed's number of local microbatch 0 */
    int64_t count;           /* microbatches of this replica */
    bool update;
    double share;            /* multiplies every weight */
    enum mlc_search search;
    int stage;               /* of the last forward action */
    bool exchanged;          /* statistics are those of all ranks */
    double weight_sum;       /* of all microbatches; read with what follows when the list has ended */
    int64_t bad_microbatch;  /* the first with a loss that is not finite, or -1, */
    int64_t bad_column;      /* and the first part of it that is not */
    int64_t bad_parameter;   /* the first with a gradient that is not finite, or -1 */
    int64_t flaw;            /* the first that the update left, of all ranks (finite.h), or -1 */
    mlc_finding found;
    bool refuses;            /* some rank has met an index out of range */
    mlc_refusal refused;     /* the first, of all ranks */
} mlc_pass;

static inline bool mlc_finding_comes_before(const mlc_finding *a, const mlc_finding *b)
{
    if (a->stage != b->stage)
        return a->stage < b->stage;
    return a->microbatch != b->microbatch ? a->microbatch < b->microbatch : a->parameter < b->parameter;
}

/* By the lead thread: a value that is not finite. */
static inline void mlc_pass_find(mlc_pass *run, int64_t stage, int64_t microbatch, int64_t parameter)
{
    mlc_finding found = {stage, microbatch, parameter};
    if (mlc_finding_comes_before(&found, &run->found))
        run->found = found;
}

/* Walks the list once; what STATISTICS found of all ranks is added to the totals. Returns a status: a peer was lost (the board then
 * keeps the action), or some rank could not fill its inputs. */
int mlc_pass_walk(mlc_pass *run);

/* What is done to parameters outside a step: the sweeps of MLC_AT_START or MLC_AT_COPIES. */
void mlc_pass_prepare(mlc_rank *rank, int at);

/* In the search for a loss, when the list has ended: which parts of it that microbatches have left are not finite. */
void mlc_microbatch_search(mlc_pass *run);

/* A compute action of the list; every thread calls it. False on every thread: the lead thread could not get what it reads. */
bool mlc_microbatch_run(mlc_pass *run, mlc_env *env, const mlc_action *action);

/* A part of the step that is the runtime's own, for traces and reports of a hang. */
int64_t mlc_pass_begin_part(const mlc_pass *run, const mlc_env *env, const char *name);
void mlc_pass_end_part(const mlc_pass *run, const mlc_env *env, const char *name, int64_t started);

#endif
