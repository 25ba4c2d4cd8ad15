/* sweeps.h: the sweeps of a model in f32, as a plan has them (compiler/plan/sweeps.py). */
#ifndef MLC_TEST_SWEEPS_H
#define MLC_TEST_SWEEPS_H

#include "mlc_kernel.h"

#include <stddef.h>

#define SWEEP(at, over, only, range, gated, calls) {at, over, only, range, gated, calls, sizeof(calls) / sizeof *(calls)}
#define GIVEN(name, first, second) {#name, mlc_##name##_f32, {MLC_OPERAND_##first, MLC_OPERAND_##second}}
#define OWN(name) {#name, NULL, {MLC_OPERAND_NONE}}

static const mlc_sweep_call SWEEP_FOLD[] = {GIVEN(add, SUM, WAITING), GIVEN(copy, KEPT, SUM)};
static const mlc_sweep_call SWEEP_JOIN[] = {GIVEN(add, SUM, WAITING)};
static const mlc_sweep_call SWEEP_ADD[] = {GIVEN(add, GRADIENT, SUM)};
static const mlc_sweep_call SWEEP_COPIES[] = {GIVEN(round, COPY, MASTER)};
static const mlc_sweep_call SWEEP_INITIAL[] = {OWN(initial)};
static const mlc_sweep_call SWEEP_SEARCH[] = {GIVEN(finite, SUM, NONE)};
static const mlc_sweep_call SWEEP_LOSS[] = {GIVEN(scale, GRADIENT, SCALE), GIVEN(squares, GRADIENT, NONE)};
static const mlc_sweep_call SWEEP_ACCUMULATED[] = {GIVEN(scale, GRADIENT, MEAN), GIVEN(finite, GRADIENT, NONE)};
static const mlc_sweep_call SWEEP_USES[] = {GIVEN(add, GRADIENT, FURTHER)};
static const mlc_sweep_call SWEEP_JOIN_USES[] = {GIVEN(add, SUM, WAITING), GIVEN(add, GRADIENT, FURTHER)};
static const mlc_sweep_call SWEEP_CLIP[] = {GIVEN(scale, GRADIENT, CLIP)};
static const mlc_sweep_call SWEEP_UPDATE[] = {OWN(update), GIVEN(round, COPY, MASTER), GIVEN(inspect, MASTER, NONE),
                                              GIVEN(inspect_copy, COPY, NONE), GIVEN(inspect, STATE, NONE)};
static const mlc_sweep_call SWEEP_UPDATE_WHOLE[] = {
    OWN(update),        GIVEN(copy, MASTER, NEW_MASTER),  GIVEN(round, COPY, MASTER),     GIVEN(inspect, MASTER, NONE),
    GIVEN(inspect_copy, COPY, NONE), GIVEN(copy, STATE, NEW_STATE), GIVEN(inspect, STATE, NONE)};
static const mlc_sweep_call SWEEP_STATISTICS[] = {
    {"refusals", mlc_refusals_f32, {MLC_OPERAND_STATISTICS}},
    {"account", mlc_account_f32, {MLC_OPERAND_STATISTICS, MLC_OPERAND_VALUE, MLC_OPERAND_WEIGHT, MLC_OPERAND_NUMBER, MLC_OPERAND_SHARE}}};
static const mlc_sweep_call SWEEP_WEIGH[] = {{"weigh", mlc_weigh_f32, {MLC_OPERAND_SCALE, MLC_OPERAND_HELD, MLC_OPERAND_STATISTICS}}};
static const mlc_sweep_call SWEEP_TOTAL[] = {GIVEN(total, SQUARES, NONE)};
static const mlc_sweep_call SWEEP_NORM[] = {
    {"norm", mlc_norm_f32, {MLC_OPERAND_NORM, MLC_OPERAND_CLIP, MLC_OPERAND_HELD, MLC_OPERAND_SQUARES, MLC_OPERAND_LIMIT}}};
static const mlc_sweep_call SWEEP_FIRST[] = {GIVEN(first, FLAW, NONE)};

/* Sweeps of all kinds of parameters. What belongs together is split where it is the same for several: tests look at results. */
#define SWEEPS_ALIKE                                                                                                               \
    SWEEP(MLC_AT_FOLD, MLC_OVER_USES, 0, MLC_RANGE_WHOLE, 0, SWEEP_FOLD),                                                          \
        SWEEP(MLC_AT_STATISTICS, MLC_OVER_RANK, 0, MLC_RANGE_WHOLE, 0, SWEEP_STATISTICS),                                          \
        SWEEP(MLC_AT_WEIGH, MLC_OVER_RANK, 0, MLC_RANGE_WHOLE, 0, SWEEP_WEIGH),                                                    \
        SWEEP(MLC_AT_SHARE, MLC_OVER_USE, MLC_ONLY_FURTHER, MLC_RANGE_SHARD, 0, SWEEP_ADD),                                        \
        SWEEP(MLC_AT_NORM, MLC_OVER_PIECES, MLC_ONLY_LOSS, MLC_RANGE_SHARD, 0, SWEEP_LOSS),                                        \
        SWEEP(MLC_AT_NORM, MLC_OVER_PIECES, MLC_ONLY_ACCUMULATED, MLC_RANGE_SHARD, 0, SWEEP_ACCUMULATED),                          \
        SWEEP(MLC_AT_NORM, MLC_OVER_RANK, 0, MLC_RANGE_WHOLE, 0, SWEEP_TOTAL),                                                     \
        SWEEP(MLC_AT_CLIP, MLC_OVER_RANK, 0, MLC_RANGE_WHOLE, 0, SWEEP_NORM),                                                      \
        SWEEP(MLC_AT_UPDATE, MLC_OVER_PIECES, MLC_ONLY_LOSS | MLC_ONLY_ELEMENTWISE, MLC_RANGE_SHARD, 1, SWEEP_CLIP),               \
        SWEEP(MLC_AT_UPDATE, MLC_OVER_PIECES, MLC_ONLY_LOSS | MLC_ONLY_WHOLE, MLC_RANGE_SHARD, 1, SWEEP_CLIP),                     \
        SWEEP(MLC_AT_UPDATE, MLC_OVER_PIECES, MLC_ONLY_ELEMENTWISE, MLC_RANGE_SHARD, 1, SWEEP_UPDATE),                             \
        SWEEP(MLC_AT_UPDATE, MLC_OVER_PIECES, MLC_ONLY_WHOLE, MLC_RANGE_TENSOR, 1, SWEEP_UPDATE_WHOLE),                            \
        SWEEP(MLC_AT_UPDATE, MLC_OVER_RANK, 0, MLC_RANGE_WHOLE, 0, SWEEP_FIRST),                                                   \
        SWEEP(MLC_AT_START, MLC_OVER_HELD, MLC_ONLY_ELEMENTWISE, MLC_RANGE_WHOLE, 0, SWEEP_INITIAL),                               \
        SWEEP(MLC_AT_START, MLC_OVER_HELD, MLC_ONLY_WHOLE, MLC_RANGE_TENSOR, 0, SWEEP_INITIAL),                                    \
        SWEEP(MLC_AT_START, MLC_OVER_HELD, 0, MLC_RANGE_WHOLE, 0, SWEEP_COPIES),                                                   \
        SWEEP(MLC_AT_COPIES, MLC_OVER_HELD, 0, MLC_RANGE_WHOLE, 0, SWEEP_COPIES),                                                  \
        SWEEP(MLC_AT_SEARCH, MLC_OVER_USES, 0, MLC_RANGE_WHOLE, 0, SWEEP_SEARCH)

/* With one replica sums of groups are whole when uses join, else when REDUCE begins. */
static const mlc_sweep SWEEPS_ALONE[] = {
    SWEEP(MLC_AT_SHARE, MLC_OVER_USE, 0, MLC_RANGE_SHARD, 0, SWEEP_JOIN),
    SWEEP(MLC_AT_NORM, MLC_OVER_PIECES, MLC_ONLY_HERE, MLC_RANGE_SHARD, 0, SWEEP_JOIN_USES),
    SWEEPS_ALIKE,
};
static const mlc_sweep SWEEPS_REDUCED[] = {
    SWEEP(MLC_AT_REDUCE, MLC_OVER_USES, 0, MLC_RANGE_WHOLE, 0, SWEEP_JOIN),
    SWEEP(MLC_AT_NORM, MLC_OVER_PIECES, MLC_ONLY_HERE, MLC_RANGE_SHARD, 0, SWEEP_USES),
    SWEEPS_ALIKE,
};

static inline void sweeps_set(mlc_model *model)
{
    bool alone = model->mesh.size[MLC_DP] == 1;
    model->sweeps = alone ? SWEEPS_ALONE : SWEEPS_REDUCED;
    model->sweep_count = alone ? sizeof SWEEPS_ALONE / sizeof *SWEEPS_ALONE : sizeof SWEEPS_REDUCED / sizeof *SWEEPS_REDUCED;
}

#endif
