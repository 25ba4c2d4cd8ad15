/* executor_check.c: tables that would make the executor crash or write where it may not (executor.h). */
#include "step/executor.h"

#include "model/action.h"
#include "model/arranged.h"
#include "model/results.h"
#include "model/tree.h"
#include "step/sweep.h"
#include "system/dtype.h"
#include "system/exact.h"
#include "system/numbers.h"

#include <stdlib.h>

static const char *const CHAINS[] = {"train", "evaluate", "sample", "decode"};

static int refuse_place(const mlc_model *model, int place, const char *what, int number, mlc_error *error)
{
    return mlc_error_set(error, MLC_BAD_INPUT, "model %s: place %d: %s %d is not sane", model->name, place, what, number);
}

/* ---- dtypes ---- */

static int refuse_dtype(const mlc_model *model, const mlc_tensor *tensor, mlc_error *error)
{
    return mlc_error_set(error, MLC_BAD_INPUT, "model %s: %s is of dtype %d, which this runtime does not have", model->name, tensor->name,
                         tensor->dtype);
}

static int check_dtypes(const mlc_model *model, mlc_error *error)
{
    const mlc_dtype_row *wide = mlc_dtype_of(model->wide);
    if (!wide || !wide->wide)
        return mlc_error_set(error, MLC_BAD_INPUT, "model %s: parameters of dtype %d, which this runtime does not have", model->name,
                             model->wide);
    for (int i = 0; i < model->input_count; i++)
        if (!mlc_dtype_of(model->inputs[i].tensor.dtype))
            return refuse_dtype(model, &model->inputs[i].tensor, error);
    return MLC_OK;
}

/* ---- the mesh ---- */

static int check_mesh(const mlc_model *model, mlc_error *error)
{
    if (model->abi_version != MLC_ABI_VERSION)
        return mlc_error_set(error, MLC_BAD_INPUT, "model %s: made for runtime ABI %d, this is %d", model->name, model->abi_version,
                             MLC_ABI_VERSION);
    if (!mlc_mesh_is_sane(&model->mesh) || model->stages < model->mesh.size[MLC_PP])
        return mlc_error_set(error, MLC_BAD_INPUT, "model %s: %d stages on %d places, %d replicas", model->name, model->stages, model->mesh.size[MLC_PP],
                             model->mesh.size[MLC_DP]);
    if (model->microbatches < 1 || model->groups < 1 || model->microbatches % model->groups)
        return mlc_error_set(error, MLC_BAD_INPUT, "model %s: %d microbatches do not form %d groups", model->name, model->microbatches,
                             model->groups);
    if (model->groups % model->mesh.size[MLC_DP])
        return mlc_error_set(error, MLC_BAD_INPUT, "model %s: %d groups cannot be dealt out to %d replicas", model->name, model->groups,
                             model->mesh.size[MLC_DP]);
    if (model->schedule->rounds[MLC_TRAIN] != model->microbatches / model->mesh.size[MLC_DP])
        return mlc_error_set(error, MLC_BAD_INPUT, "model %s: a list of %d microbatches for %d over %d replicas", model->name,
                             model->schedule->rounds[MLC_TRAIN], model->microbatches, model->mesh.size[MLC_DP]);
    return MLC_OK;
}

static int check_channels(const mlc_model *model, mlc_error *error)
{
    for (int i = 0; i < model->schedule->channel_count; i++) {
        const mlc_channel *channel = &model->schedule->channels[i];
        bool tree = channel->kind == MLC_TREE;
        bool known = tree || (channel->from >= 0 && channel->from < model->mesh.size[MLC_PP] && channel->to >= 0 && channel->to < model->mesh.size[MLC_PP]);
        if (!known || channel->kind < MLC_ACTIVATION || channel->kind > MLC_TREE || channel->slots < 1 || channel->outbox_slots < 1)
            return mlc_error_set(error, MLC_BAD_INPUT, "model %s: channel %s is not sane", model->name, channel->name);
    }
    return MLC_OK;
}

static int check_sweeps(const mlc_model *model, mlc_error *error)
{
    for (int i = 0; i < model->sweep_count; i++) {
        const char *fault = mlc_sweep_fault(&model->sweeps[i]);
        if (fault)
            return mlc_error_set(error, MLC_BAD_INPUT, "model %s: sweep %d %s", model->name, i, fault);
    }
    return MLC_OK;
}

/* ---- a place ---- */

static int check_regions(const mlc_model *model, int place, mlc_error *error)
{
    const mlc_program *program = &model->schedule->places[place];
    for (int i = 0; i < program->region_count; i++)
        if (program->regions[i].slots < 1 || program->regions[i].base > model->roles[place].arena_bytes)
            return refuse_place(model, place, "region", i, error);
    bool arena = program->region_count > 0 && program->regions[0].base == 0 && program->regions[0].slots == 1;
    return arena ? MLC_OK : refuse_place(model, place, "region", 0, error);
}

/* In order of parameter. Its owner holds it too, and both hold a copy or none does: what they exchange has one type. */
static int check_held(const mlc_model *model, int place, mlc_error *error)
{
    const mlc_role *role = &model->roles[place];
    for (int i = 0; i < role->held_count; i++) {
        const mlc_held *held = &role->held[i];
        int least = i ? held[-1].parameter + 1 : 0;
        if (held->parameter < least || held->parameter >= model->parameter_count)
            return refuse_place(model, place, "held parameter", i, error);
        const mlc_held *owners = mlc_role_held(&model->roles[model->parameters[held->parameter].owner], held->parameter);
        bool ranges = held->init_flat && mlc_arranged_master(model, held->parameter); /* of elements that do not lie one after the other */
        if (!owners || (owners->copy == MLC_NONE) != (held->copy == MLC_NONE) || ranges)
            return refuse_place(model, place, "held parameter", i, error);
    }
    return MLC_OK;
}

static bool has_words(const mlc_model *model, const mlc_own *own)
{
    int64_t words = INT64_C(3) + 2 * (int64_t)model->parameters[own->parameter].state_count + own->read_count;
    return !mlc_arranged_master(model, own->parameter) || words <= MLC_UPDATE_WORDS;
}

/* What it owns it also holds. That each parameter is owned once mlc_owners_open sees. */
static int check_owned(const mlc_model *model, int place, mlc_error *error)
{
    const mlc_role *role = &model->roles[place];
    for (int i = 0; i < role->owned_count; i++)
        if (!mlc_role_held(role, role->owned[i].parameter) || role->owned[i].read_count < 0 || !has_words(model, &role->owned[i]))
            return refuse_place(model, place, "owned parameter", i, error);
    const mlc_area areas[] = {role->states, role->work, role->guests};
    for (int i = 0; i < 3; i++)
        if (areas[i].bytes > role->arena_bytes || areas[i].at > role->arena_bytes - areas[i].bytes || areas[i].at % 64)
            return refuse_place(model, place, "area of shards", i, error);
    return MLC_OK;
}

static int check_row(const mlc_model *model, int place, const mlc_row *row, mlc_error *error)
{
    if (!row->run || row->count < 0 || row->count > model->operands)
        return mlc_error_set(error, MLC_BAD_INPUT, "model %s: row %s has %d operands, the most is %d", model->name, row->name, row->count,
                             model->operands);
    for (int i = 0; i < row->count; i++)
        if (row->at[i] >> MLC_REGION_SHIFT >= (uint64_t)model->schedule->places[place].region_count)
            return mlc_error_set(error, MLC_BAD_INPUT, "model %s: row %s names a region that place %d does not have", model->name,
                                 row->name, place);
    return MLC_OK;
}

static int check_rows(const mlc_model *model, int place, mlc_rows rows, mlc_error *error)
{
    for (int64_t i = 0; i < rows.count; i++)
        if (check_row(model, place, &rows.rows[i], error))
            return error->status;
    return MLC_OK;
}

static int check_uses(const mlc_model *model, int place, const mlc_chunk *chunk, mlc_error *error)
{
    for (int i = 0; i < chunk->use_count; i++) {
        const mlc_use *use = &chunk->uses[i];
        bool phase = use->phase == MLC_FORWARD || use->phase == MLC_INPUT_GRADIENT || use->phase == MLC_WEIGHT_GRADIENT;
        bool known = use->parameter >= 0 && use->parameter < model->parameter_count && use->index >= 0 &&
                     use->index < model->parameters[use->parameter].uses;
        if (!phase || !known || !mlc_role_held(&model->roles[place], use->parameter))
            return refuse_place(model, place, "use", i, error);
    }
    return MLC_OK;
}

static int check_chunk(const mlc_model *model, int place, int kind, const mlc_chunk *chunk, mlc_error *error)
{
    if (chunk->stage < 0 || chunk->stage >= model->stages)
        return refuse_place(model, place, "stage", chunk->stage, error);
    for (int i = 0; i < chunk->input_count; i++)
        if (chunk->inputs[i].input < 0 || chunk->inputs[i].input >= model->input_count)
            return refuse_place(model, place, "input", i, error);
    for (int i = 0; i < chunk->value_count; i++)
        if (chunk->values[i].column < 0 || chunk->values[i].column >= model->chains[kind].column_count)
            return refuse_place(model, place, "column", i, error);
    if (kind >= MLC_SAMPLE && !mlc_dtype_of(chunk->logits.dtype))
        return refuse_dtype(model, &chunk->logits, error);
    if (check_rows(model, place, chunk->forward, error) || check_rows(model, place, chunk->input_gradient, error) ||
        check_rows(model, place, chunk->weight_gradient, error) || check_rows(model, place, chunk->backward, error))
        return error->status;
    return check_uses(model, place, chunk, error);
}

static uint64_t longest_list(const mlc_model *model)
{
    int32_t most = 0;
    for (int kind = 0; kind < MLC_CHAINS; kind++)
        most = model->schedule->rounds[kind] > most ? model->schedule->rounds[kind] : most;
    return (uint64_t)most;
}

/* Of what any list finds. */
static uint64_t results_bytes(const mlc_model *model)
{
    int64_t most = 0;
    for (int kind = 0; kind < MLC_CHAINS; kind++)
        most = larger(most, mlc_statistics_count(&model->chains[kind]));
    return sizeof(mlc_results) + (uint64_t)most * sizeof(mlc_statistic);
}

static int check_role(const mlc_model *model, int place, mlc_error *error)
{
    const mlc_role *role = &model->roles[place];
    int levels = mlc_tree_levels(model->groups, model->mesh.size[MLC_DP]);
    if (role->levels < levels)
        return mlc_error_set(error, MLC_BAD_INPUT, "model %s: place %d: %d accumulators a use, %d groups need %d", model->name, place,
                             role->levels, model->groups, levels);
    uint64_t numbers = longest_list(model) * sizeof(int64_t);
    if (role->record >= role->arena_bytes || role->microbatches > role->arena_bytes - numbers || numbers > role->arena_bytes)
        return refuse_place(model, place, "record", 0, error);
    uint64_t results = results_bytes(model);
    if (results > role->arena_bytes || role->results > role->arena_bytes - results || role->results % 64)
        return refuse_place(model, place, "results", 0, error);
    if (check_regions(model, place, error) || check_held(model, place, error))
        return error->status;
    if (check_owned(model, place, error))
        return error->status;
    for (int kind = 0; kind < MLC_CHAINS; kind++)
        for (int c = 0; role->chunks[kind] && c < role->chunk_count; c++)
            if (check_chunk(model, place, kind, &role->chunks[kind][c], error))
                return error->status;
    return MLC_OK;
}

/* ---- a list ---- */

/* A list as far as it has been read: what comes next of each kind on each chunk and channel. */
typedef struct reader {
    const mlc_model *model;
    int place;
    int kind;     /* of the chain */
    int ends[MLC_VERDICT + 1]; /* actions of each kind of the end of a step that have come */
    int expected; /* all of them */
    const mlc_action *halved; /* the compute action before, where its rest has not come; else NULL */
    int32_t *next; /* [MLC_SENT + 1][width] */
    int width;
} reader;

static int refuse_action(const reader *list, int index, const char *why, mlc_error *error)
{
    return mlc_error_set(error, MLC_BAD_INPUT, "model %s: place %d: action %d of the %s list %s", list->model->name, list->place, index,
                         CHAINS[list->kind], why);
}

static bool is_own_end(const reader *list, const mlc_action *action)
{
    if (action->of < 0 || action->of >= list->model->schedule->channel_count)
        return false;
    const mlc_channel *channel = &list->model->schedule->channels[action->of];
    bool sends = action->kind == MLC_SEND || action->kind == MLC_SENT;
    bool states = channel->kind == MLC_ACTIVATION || channel->kind == MLC_GRADIENT;
    return states && channel->chain == list->kind && channel->from != channel->to && (sends ? channel->from : channel->to) == list->place;
}

/* Input gradients of a chunk are made by I and by B: both are in one order. */
static int32_t *next_of(const reader *list, const mlc_action *action)
{
    int kind = action->kind == MLC_BACKWARD ? MLC_INPUT_GRADIENT : action->kind;
    return &list->next[kind * list->width + action->of];
}

/* What is done in two parts: the rest comes next of all that computes, and nowhere else. */
static int read_part(reader *list, int index, const mlc_action *action, mlc_error *error)
{
    const mlc_action *of = list->halved;
    bool rest = mlc_action_is_rest(action);
    if (rest != (of != NULL) || (rest && (mlc_action_whole(action) != of->kind || action->of != of->of || action->microbatch != of->microbatch)))
        return refuse_action(list, index, rest ? "is the rest of no action before it" : "comes before the rest of an action", error);
    bool halved = !rest && mlc_action_is_halved(&list->model->roles[list->place].chunks[list->kind][action->of], action);
    list->halved = halved ? action : NULL;
    return MLC_OK;
}

static int read_early(reader *list, int index, const mlc_action *action, mlc_error *error)
{
    const mlc_role *role = &list->model->roles[list->place];
    bool computes = mlc_action_computes(action);
    if (list->expected)
        return refuse_action(list, index, "comes after the end of the step", error);
    if (computes ? !role->chunks[list->kind] || action->of < 0 || action->of >= role->chunk_count : !is_own_end(list, action))
        return refuse_action(list, index, computes ? "is of no chunk" : "is of no channel that ends here", error);
    if (computes && mlc_action_whole(action) != MLC_FORWARD && list->kind != MLC_TRAIN)
        return refuse_action(list, index, "is not a forward pass", error);
    if (computes && (read_part(list, index, action, error) || mlc_action_is_rest(action)))
        return error->status;
    int32_t *next = next_of(list, action);
    if (action->kind == MLC_WEIGHT_GRADIENT ? action->microbatch < *next : action->microbatch != *next)
        return refuse_action(list, index, "is out of order", error);
    *next = action->microbatch + 1;
    if (action->microbatch >= list->model->schedule->rounds[list->kind])
        return refuse_action(list, index, "is of a microbatch that there is not", error);
    return MLC_OK;
}

/* The sums of a group of a chunk, behind its last microbatch; not of the replica's last group. */
static int read_fold(const reader *list, int index, const mlc_action *action, mlc_error *error)
{
    const mlc_model *model = list->model;
    int members = model->microbatches / model->groups, group = action->microbatch / members, groups = model->groups / model->mesh.size[MLC_DP];
    bool chunk = action->of >= 0 && action->of < model->roles[list->place].chunk_count, last = action->microbatch % members == members - 1;
    if (list->kind != MLC_TRAIN || list->expected || list->halved || !chunk || !last || group + 1 >= groups)
        return refuse_action(list, index, "folds no sums of a group", error);
    return MLC_OK;
}

/* Is what an action of the end of a step is about there? That of SHARE and SPREAD collective_open.c sees. */
static bool is_there(const reader *list, const mlc_action *action)
{
    bool turn = action->kind == MLC_REDUCE || action->kind == MLC_GATHER, parameter = action->kind == MLC_SHARE || action->kind == MLC_SPREAD;
    int turns = mlc_cohort_turns(list->model->mesh.size[MLC_DP]);
    if ((turn && action->microbatch >= turns) || (parameter && action->microbatch >= list->model->parameter_count))
        return false;
    return action->kind != MLC_REDUCE || (action->of >= 0 && action->of < list->model->roles[list->place].chunk_count);
}

/* The end of a step begins with STATISTICS; of an evaluation it is all. */
static int read_end(reader *list, int index, const mlc_action *action, mlc_error *error)
{
    bool first = list->expected++ == 0;
    list->ends[action->kind]++;
    if (first != (action->kind == MLC_STATISTICS) || (!first && list->kind != MLC_TRAIN) || !is_there(list, action))
        return refuse_action(list, index, "does not belong there", error);
    return MLC_OK;
}

static int read_list(reader *list, mlc_error *error)
{
    mlc_actions actions = list->model->schedule->places[list->place].lists[list->kind];
    for (int i = 0; i < actions.count; i++) {
        const mlc_action *action = &actions.actions[i];
        if (action->kind < MLC_FORWARD || action->kind > MLC_VERDICT || action->microbatch < 0)
            return refuse_action(list, i, "is of no kind", error);
        bool folds = action->kind > MLC_SENT && action->kind < MLC_STATISTICS;
        if (folds ? read_fold(list, i, action, error)
                  : action->kind <= MLC_SENT ? read_early(list, i, action, error) : read_end(list, i, action, error))
            return error->status;
    }
    if (list->halved)
        return refuse_action(list, actions.count, "is missing: the rest of an action", error);
    int wanted = list->kind == MLC_TRAIN && actions.count;
    bool whole = !wanted || (list->ends[MLC_NORM] == 1 && list->ends[MLC_UPDATE] == 1 && list->ends[MLC_VERDICT] == 1);
    return whole ? MLC_OK : refuse_action(list, actions.count, "is missing: the step does not end", error);
}

static int check_lists(const mlc_model *model, int place, mlc_error *error)
{
    int chunks = model->roles[place].chunk_count, channels = model->schedule->channel_count;
    for (int kind = 0; kind < MLC_CHAINS; kind++) {
        reader list = {.model = model, .place = place, .kind = kind, .width = (chunks > channels ? chunks : channels) + 1};
        list.next = calloc((size_t)(MLC_SENT + 1) * (size_t)list.width, sizeof *list.next);
        int status = list.next ? read_list(&list, error) : mlc_error_set(error, MLC_FAILED, "model %s: out of memory", model->name);
        free(list.next);
        if (status)
            return status;
    }
    return MLC_OK;
}

int mlc_executor_check_model(const mlc_model *model, mlc_error *error)
{
    if (check_mesh(model, error) || check_dtypes(model, error) || check_channels(model, error) || check_sweeps(model, error))
        return error->status;
    int parameter = 0;
    const char *arranged = mlc_arranged_fault(model, &parameter);
    if (arranged)
        return mlc_error_set(error, MLC_BAD_INPUT, "model %s: parameter %s %s", model->name, model->parameters[parameter].name, arranged);
    for (int p = 0; p < model->parameter_count; p++)
        if (model->parameters[p].owner < 0 || model->parameters[p].owner >= model->mesh.size[MLC_PP])
            return mlc_error_set(error, MLC_BAD_INPUT, "model %s: parameter %s has no owner", model->name, model->parameters[p].name);
    return MLC_OK;
}

int mlc_executor_check_place(const mlc_model *model, int place, mlc_error *error)
{
    return check_role(model, place, error) ? error->status : check_lists(model, place, error);
}
