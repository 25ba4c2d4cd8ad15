/* test_faults.c: steps that fail, on every rank alike: values that are not finite, inputs that cannot be read, lost and silent
 * peers, tables that are not sane. */
#include "step/executor.h"
#include "step/open.h"
#include "sums.h"

/* ---- steps that fail ---- */

/* What every rank must end with. */
typedef struct failure {
    int status;
    const char *text;
} failure;

static void fail_job(mlc_rank *rank, void *context)
{
    const failure *failure = context;
    rank->step = 7;
    CHECK(mlc_executor_step(rank, &FEED, true) == failure->status);
    CHECK_HOLDS(rank->error.text, failure->text);
    for (int64_t i = 0; rank->place == 0 && i < SHARED; i++)
        CHECK(((float *)mlc_rank_at(rank, mlc_rank_held(rank, P_SHARED)->master))[i] == number(80, 0, i));
}

static void check_failure(layout_shape shape, int threads, failure failure)
{
    layout *all = sums_make(shape, 0, false);
    layout_run(&all->model, (mlc_open_options){.threads = threads, .steps = 9}, 60, fail_job, &failure);
    free(all);
}

static void check_poison(enum poison what, int stage, int64_t microbatch, layout_shape shape, const char *text)
{
    poison.what = what, poison.stage = stage, poison.microbatch = microbatch;
    for (int threads = 1; threads <= 2; threads++)
        check_failure(shape, threads, (failure){MLC_NOT_FINITE, text});
    poison.microbatch = -1;
}

static const layout_shape FOUR = {2, 2, 1, 8, 4, 2, false, 1, 1, 0, 0, 4096, 1}, EIGHT = {4, 1, 2, 4, 2, 0, true, 1, 1, 0, 0, 4096, 1},
                          ONE = {1, 1, 1, 6, 2, 1, false, 1, 1, 0, 0, 64, 1};

static void check_failures(void)
{
    weighted = true;
    check_poison(IN_LOSS, 0, 5, ONE, "step 7, stage 0, microbatch 5: the loss is not finite");
    check_poison(IN_LOSS, 1, 5, FOUR, "step 7, stage 1, microbatch 5: the loss is not finite");
    check_poison(IN_LOSS, 0, 3, FOUR, "step 7, stage 0, microbatch 3: the loss is not finite");
    check_poison(IN_STATE, 0, 6, FOUR, "step 7, stage 0, microbatch 6: the loss is not finite");
    check_poison(IN_STATE, 2, 1, EIGHT, "step 7, stage 2, microbatch 1: the loss is not finite");
    check_poison(IN_GRADIENT, 0, 4, ONE, "step 7, stage 0, microbatch 4: the gradient of shared is not finite");
    check_poison(IN_GRADIENT, 1, 6, FOUR, "step 7, stage 1, microbatch 6: the gradient of shared is not finite");
    check_poison(IN_GRADIENT, 7, 2, EIGHT, "step 7, stage 7, microbatch 2: the gradient of shared is not finite");
    check_poison(IN_SUM, 0, 0, FOUR,
                 "step 7, stage 0, microbatch 7: the gradient of shared is not finite (each microbatch is, their sum is not)");
    for (int threads = 1; threads <= 2; threads++) {
        unread = 3;
        check_failure(ONE, threads, (failure){MLC_BAD_INPUT, "microbatch 3 cannot be read"});
        unread = 6;
        check_failure(FOUR, threads, (failure){MLC_BAD_INPUT, "microbatch 6 cannot be read"});
    }
    unread = -1;
}

/* The last rank leaves; the others learn it wherever they wait. */
static void leave_job(mlc_rank *rank, void *context)
{
    int steps = rank->rank + 1 < rank->world.ranks ? 3 : *(int *)context;
    int status = MLC_OK;
    for (int step = 0; step < steps && !status; step++)
        status = mlc_executor_step(rank, &FEED, true);
    if (steps < 3)
        rank->world.transport->abandon(&rank->world, MLC_FAILED);
    else
        CHECK(status == MLC_FAILED && rank->error.text[0]);
}

/* The last rank does nothing for longer than the others wait. */
static void sleep_job(mlc_rank *rank, void *context)
{
    (void)context;
    if (rank->rank + 1 == rank->world.ranks)
        usleep(1500000);
    else
        CHECK(mlc_executor_step(rank, &FEED, true) == MLC_HANG);
}

static void check_peers(void)
{
    for (int threads = 1; threads <= 3; threads++)
        for (int steps = 0; steps < 3; steps++) {
            layout *all = sums_make(steps ? FOUR : EIGHT, 0, true);
            layout_run(&all->model, (mlc_open_options){.threads = threads}, 60, leave_job, &steps);
            free(all);
        }
    layout *all = sums_make(FOUR, 0, true);
    layout_run(&all->model, (mlc_open_options){.threads = 2}, 0.3, sleep_job, NULL);
    free(all);
}

/* ---- tables that are not sane ---- */

/* The rank of a place refuses them; where the fault is of its place alone, no other rank looks at it. */
static void refuse_at(layout *all, int place, const char *part)
{
    mlc_error error = {0};
    CHECK(!mlc_rank_open(&all->model, place, NULL, 0, -1, &error) && error.status == MLC_BAD_INPUT);
    CHECK_HOLDS(error.text, part);
    free(all);
}

static void refuse(layout *all, const char *part)
{
    refuse_at(all, 0, part);
}

static void check_other_places(void)
{
    layout *all = sums_make(FOUR, 0, false);
    mlc_error error = {0};
    all->stage[MLC_TRAIN][1].forward.at[0][0] = UINT64_C(999) << MLC_REGION_SHIFT;
    all->actions[1][MLC_TRAIN][1].microbatch = 1;
    mlc_rank *rank = mlc_rank_open(&all->model, 0, &(mlc_open_options){.threads = 1}, 0, -1, &error);
    CHECK(rank && !error.status);
    mlc_rank_close(rank);
    free(all);
}

/* A kernel on tensors has two operands at most. */
static const mlc_sweep_call ADD_THREE[] = {{"add", mlc_add_f32, {MLC_OPERAND_SUM, MLC_OPERAND_WAITING, MLC_OPERAND_SUM}}};
static const mlc_sweep THREE_TENSORS[] = {SWEEP(MLC_AT_FOLD, MLC_OVER_USES, 0, MLC_RANGE_WHOLE, 0, ADD_THREE)};

static void check_refusals(void)
{
    layout *all = sums_make(FOUR, 0, false);
    all->model.abi_version++;
    refuse(all, "ABI");
    all = sums_make(FOUR, 0, false);
    all->model.groups = 3;
    refuse(all, "8 microbatches do not form 3 groups");
    all = sums_make(FOUR, 0, false);
    all->model.groups = 1;
    refuse(all, "1 groups cannot be dealt out to 2 replicas");
    all = sums_make(FOUR, 0, false);
    all->schedule.rounds[MLC_TRAIN] = 8;
    refuse(all, "a list of 8 microbatches");
    all = sums_make(FOUR, 0, false);
    all->roles[1].levels = 0;
    refuse_at(all, 1, "place 1: 0 accumulators a use, 4 groups need 2");
    all = sums_make(FOUR, 0, false);
    all->roles[1].results = all->roles[1].arena_bytes - 64;
    refuse_at(all, 1, "place 1: results 0 is not sane");
    all = sums_make(FOUR, 0, false);
    all->stage[MLC_TRAIN][1].forward.at[0][0] = UINT64_C(999) << MLC_REGION_SHIFT;
    refuse_at(all, 1, "names a region that place 1 does not have");
    all = sums_make(FOUR, 0, false);
    all->actions[0][MLC_TRAIN][0].of = 2;
    refuse(all, "place 0: action 0 of the train list is of no chunk");
    all = sums_make(FOUR, 0, false);
    all->actions[1][MLC_TRAIN][1].microbatch = 1;
    refuse_at(all, 1, "place 1: action 1 of the train list is out of order");
    all = sums_make(FOUR, 0, false);
    all->programs[0].lists[MLC_TRAIN].count--;
    refuse(all, "the step does not end");
    all = sums_make(FOUR, 0, false);
    all->model.sweeps = THREE_TENSORS, all->model.sweep_count = 1;
    refuse(all, "sweep 0 gives a kernel what there is not");
    all = sums_make(FOUR, 0, false);
    for (int i = 0; i < all->schedule.channel_count; i++)
        if (all->channels[i].kind == MLC_PARAMETER)
            all->channels[i].kind = MLC_REDUCTION;
    refuse(all, "no channel that takes values");
}

int main(void)
{
    check_refusals();
    check_other_places();
    check_failures();
    check_peers();
    printf("test_faults: ok\n");
    return 0;
}
