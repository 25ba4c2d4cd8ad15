/* layout.h: lays a hand-made model out over places and replicas, as the planner does for compiled ones: arenas, channels, lists,
 * shards. For tests of the runtime.
 *
 *   layout_begin     mesh and sizes of what crosses a cut; channels and inboxes
 *   layout_take, layout_region, layout_row, layout_hold, layout_use ...   what the stages consist of
 *   layout_end       what places own, lists
 *
 * Stage s lies on place s % pp. A step goes by windows of so many microbatches: forward through all stages, then backward; with
 * `split` W comes after all I of the window. Every private ring and every inbox has a slot for each microbatch of a window.
 */
#ifndef MLC_LAYOUT_H
#define MLC_LAYOUT_H

#include "check.h"
#include "model/rank.h"
#include "model/tree.h"
#include "step/open.h"
#include "sweeps.h"
#include "transports.h"

#include <pthread.h>

enum { PLACES = 4, CHUNKS = 2, STAGES = PLACES * CHUNKS, REPLICAS = 8, RANKS = 16, PARAMETERS = 4, MOST_STATES = 2 };
enum { MOST_REGIONS = 64, MOST_CHANNELS = 64, MOST_ACTIONS = 2048, MOST_ROWS = 16, MOST_OPERANDS = 8, MOST_LEVELS = 12, MOST_USES = 6 };
enum { TREE_SLOT = 1024, PAGE = 4096 };

/* The rows of one phase of a stage, and their operands. */
typedef struct layout_rows {
    mlc_row rows[MOST_ROWS];
    uint64_t at[MOST_ROWS][MOST_OPERANDS];
    int count;
} layout_rows;

/* A stage of a chain: where its states and cotangents lie, as operands. */
typedef struct layout_stage {
    uint64_t in, out;                   /* states from the stage before, to the one behind */
    uint64_t cotangent_in, cotangent_out; /* from the stage behind, to the one before */
    int in_channel, out_channel, cotangent_in_channel, cotangent_out_channel; /* -1: none */
    layout_rows forward, input_gradient, weight_gradient, backward;
    mlc_binding inputs[4];
    mlc_value values[4];
    mlc_use uses[MOST_USES];
    uint64_t levels[MOST_USES][MOST_LEVELS];
    mlc_chunk chunk;
} layout_stage;

typedef struct layout {
    mlc_model model; /* first */
    mlc_schedule schedule;
    int chunks, stages, window, outbox;
    bool split;
    mlc_role roles[PLACES];
    mlc_program programs[PLACES];
    mlc_region regions[PLACES][MOST_REGIONS];
    mlc_channel channels[MOST_CHANNELS];
    char names[MOST_CHANNELS][32];
    mlc_action actions[PLACES][MLC_CHAINS][MOST_ACTIONS];
    layout_stage stage[MLC_CHAINS][STAGES];
    mlc_chunk chunk[PLACES][MLC_CHAINS][CHUNKS];
    mlc_held held[PLACES][PARAMETERS];
    mlc_parameter parameters[PARAMETERS];
    bool flat[PARAMETERS]; /* its rule is elementwise */
    mlc_flat_function update_flat[PARAMETERS];
    mlc_function update[PARAMETERS];
    mlc_own owned[PLACES][PARAMETERS];
    uint64_t init_at[PLACES][PARAMETERS];
} layout;

/* ---- places in arenas ---- */

static inline uint64_t layout_take(layout *all, int place, uint64_t bytes)
{
    uint64_t at = all->roles[place].arena_bytes;
    all->roles[place].arena_bytes += (bytes + 63) / 64 * 64;
    return at;
}

/* The operand that means the start of a region. */
static inline uint64_t layout_name_region(layout *all, int place, uint64_t base, uint64_t stride, int slots)
{
    int number = all->programs[place].region_count++;
    CHECK(number < MOST_REGIONS);
    all->regions[place][number] = (mlc_region){"region", base, stride, slots};
    return (uint64_t)number << MLC_REGION_SHIFT;
}

/* A private ring with a slot for each microbatch of a window. */
static inline uint64_t layout_region(layout *all, int place, uint64_t bytes)
{
    uint64_t stride = (bytes + 63) / 64 * 64;
    return layout_name_region(all, place, layout_take(all, place, stride * (uint64_t)all->window), stride, all->window);
}

/* The same with a slot for each microbatch of a chain's list: what a microbatch leaves is looked at when the list has ended. */
static inline uint64_t layout_values(layout *all, int chain, int place, uint64_t bytes)
{
    uint64_t stride = (bytes + 63) / 64 * 64;
    int slots = all->schedule.rounds[chain];
    return layout_name_region(all, place, layout_take(all, place, stride * (uint64_t)slots), stride, slots);
}

static inline int layout_longest(const layout *all)
{
    int most = 0;
    for (int chain = 0; chain < MLC_DECODE; chain++)
        most = all->schedule.rounds[chain] > most ? all->schedule.rounds[chain] : most;
    return most;
}

/* ---- channels ---- */

static inline int layout_channel(layout *all, const char *name, int kind, int chain, int from, int to, uint64_t slot_bytes, int slots,
                                 int outbox_slots)
{
    int number = all->schedule.channel_count++;
    CHECK(number < MOST_CHANNELS);
    snprintf(all->names[number], sizeof all->names[number], "%s.%d", name, number);
    slot_bytes = (slot_bytes + 63) / 64 * 64;
    all->channels[number] = (mlc_channel){all->names[number], kind, chain, from, to, slot_bytes, slots, outbox_slots, 0, 0, 0};
    return number;
}

static inline uint64_t layout_blocks(const layout *all, const mlc_channel *channel)
{
    uint64_t neighbours = (uint64_t)mlc_cohort_blocks(all->model.mesh.size[MLC_DP]);
    return channel->kind == MLC_TREE ? MLC_TREE_NEIGHBOURS : channel->kind == MLC_REPLICAS ? neighbours : 1;
}

/* The tree lies at the same offsets everywhere, in the inbox with its outbox; then each place's own inboxes; then the outboxes. */
static inline void layout_arenas(layout *all)
{
    for (int place = 0; place < all->model.mesh.size[MLC_PP]; place++) {
        uint64_t *top = &all->roles[place].arena_bytes;
        for (int i = 0; i < all->schedule.channel_count; i++) {
            mlc_channel *channel = &all->channels[i];
            uint64_t blocks = layout_blocks(all, channel);
            if (channel->kind != MLC_TREE && channel->to != place)
                continue;
            channel->headers = layout_take(all, place, blocks * MLC_HEADER_BYTES);
            channel->inbox = layout_take(all, place, blocks * channel->slot_bytes * (uint64_t)channel->slots);
            if (channel->kind == MLC_TREE)
                channel->outbox = layout_take(all, place, blocks * channel->slot_bytes * (uint64_t)channel->outbox_slots);
        }
        *top = (*top + PAGE - 1) / PAGE * PAGE;
        all->roles[place].inbox_bytes = *top;
        layout_name_region(all, place, 0, 0, 1);
        for (int i = 0; i < all->schedule.channel_count; i++) {
            mlc_channel *channel = &all->channels[i];
            uint64_t slots = layout_blocks(all, channel) * (uint64_t)channel->outbox_slots;
            if (channel->kind != MLC_TREE && channel->from == place)
                channel->outbox = layout_take(all, place, slots * channel->slot_bytes);
        }
    }
}

static inline uint64_t layout_inbox(layout *all, int number)
{
    const mlc_channel *channel = &all->channels[number];
    return layout_name_region(all, channel->to, channel->inbox, channel->slot_bytes, channel->slots);
}

static inline uint64_t layout_outbox(layout *all, int number)
{
    const mlc_channel *channel = &all->channels[number];
    return layout_name_region(all, channel->from, channel->outbox, channel->slot_bytes, channel->outbox_slots);
}

/* What crosses the cut behind stage s, in places of its own when both stages lie on one place. */
static inline void layout_cut(layout *all, int chain, int s, uint64_t state_bytes, uint64_t cotangent_bytes)
{
    layout_stage *before = &all->stage[chain][s], *behind = before + 1;
    int place = s % all->model.mesh.size[MLC_PP];
    if (before->out_channel >= 0) {
        before->out = layout_outbox(all, before->out_channel);
        behind->in = layout_inbox(all, behind->in_channel);
    } else {
        before->out = behind->in = layout_region(all, place, state_bytes);
    }
    if (behind->cotangent_out_channel >= 0) {
        behind->cotangent_out = layout_outbox(all, behind->cotangent_out_channel);
        before->cotangent_in = layout_inbox(all, before->cotangent_in_channel);
    } else if (chain == MLC_TRAIN) {
        behind->cotangent_out = before->cotangent_in = layout_region(all, place, cotangent_bytes);
    }
}

static inline void layout_cut_channels(layout *all, int chain, int s, uint64_t state_bytes, uint64_t cotangent_bytes)
{
    int pp = all->model.mesh.size[MLC_PP], from = s % pp, to = (s + 1) % pp;
    layout_stage *before = &all->stage[chain][s], *behind = before + 1;
    if (from == to)
        return;
    before->out_channel = behind->in_channel =
        layout_channel(all, "act", MLC_ACTIVATION, chain, from, to, state_bytes, all->window, all->outbox);
    if (chain == MLC_TRAIN)
        behind->cotangent_out_channel = before->cotangent_in_channel =
            layout_channel(all, "grad", MLC_GRADIENT, chain, to, from, cotangent_bytes, all->window, all->outbox);
}

/* Between replicas, and of shared parameters between any two places. */
static inline void layout_collective_channels(layout *all, uint64_t slot_bytes, int slots)
{
    for (int from = 0; from < all->model.mesh.size[MLC_PP]; from++)
        for (int to = 0; to < all->model.mesh.size[MLC_PP]; to++)
            if (from != to) {
                layout_channel(all, "share", MLC_REDUCTION, -1, from, to, slot_bytes, slots, slots);
                layout_channel(all, "spread", MLC_PARAMETER, -1, from, to, slot_bytes, slots, slots);
            } else if (all->model.mesh.size[MLC_DP] > 1) {
                layout_channel(all, "replicas", MLC_REPLICAS, -1, from, to, slot_bytes, slots, slots);
            }
}

#define RESULTS_BYTES (304 + 16 * 288) /* of some columns */

typedef struct layout_shape {
    int pp, dp, chunks, microbatches, groups;
    int window;   /* 0: all microbatches of a replica */
    bool split;   /* I and W, else B */
    int outbox;   /* slots */
    int rounds;   /* of evaluate */
    uint64_t state_bytes, cotangent_bytes, collective_bytes;
    int collective_slots;
} layout_shape;

/* An allocated layout with its stages, channels and records; the caller frees it. */
static inline layout *layout_begin(layout_shape shape)
{
    layout *all = calloc(1, sizeof *all);
    CHECK(all && shape.pp <= PLACES && shape.chunks <= CHUNKS && shape.dp <= REPLICAS && shape.pp * shape.dp <= RANKS);
    int m = shape.microbatches / shape.dp;
    all->chunks = shape.chunks;
    all->stages = shape.pp * shape.chunks;
    all->window = shape.window ? shape.window : m;
    all->outbox = shape.outbox;
    all->split = shape.split;
    all->schedule = (mlc_schedule){all->programs, all->channels, 0, {m, shape.rounds, 1}};
    all->model = (mlc_model){.abi_version = MLC_ABI_VERSION, .hash = "0", .mesh = MLC_MESH(shape.pp, shape.dp), .stages = all->stages,
                             .roles = all->roles, .schedule = &all->schedule, .scratch_bytes_per_thread = 64, .operands = MOST_OPERANDS,
                             .parameters = all->parameters, .rate = -1, .microbatches = shape.microbatches, .groups = shape.groups};
    sweeps_set(&all->model);
    for (int chain = 0; chain < MLC_DECODE; chain++)
        for (int s = 0; s < all->stages; s++) {
            layout_stage *stage = &all->stage[chain][s];
            stage->chunk.weight_at = MLC_NONE;
            stage->in_channel = stage->out_channel = stage->cotangent_in_channel = stage->cotangent_out_channel = -1;
        }
    if (shape.pp * shape.dp > 1)
        layout_channel(all, "tree", MLC_TREE, -1, -1, -1, TREE_SLOT, 2, 2);
    for (int chain = 0; chain < MLC_DECODE; chain++)
        for (int s = 0; s + 1 < all->stages; s++)
            layout_cut_channels(all, chain, s, shape.state_bytes, shape.cotangent_bytes);
    layout_collective_channels(all, shape.collective_bytes, shape.collective_slots);
    layout_arenas(all);
    for (int chain = 0; chain < MLC_DECODE; chain++)
        for (int s = 0; s + 1 < all->stages; s++)
            layout_cut(all, chain, s, shape.state_bytes, shape.cotangent_bytes);
    for (int place = 0; place < shape.pp; place++) {
        all->roles[place].record = layout_take(all, place, 256);
        all->roles[place].microbatches = layout_take(all, place, sizeof(int64_t) * (uint64_t)layout_longest(all));
        all->roles[place].results = layout_take(all, place, RESULTS_BYTES);
        all->roles[place].levels = mlc_tree_levels(shape.groups, shape.dp);
    }
    return all;
}

/* ---- stages ---- */

/* Adds a row; operands may name regions. */
static inline void layout_row(layout_rows *rows, mlc_function run, const char *name, int count, const uint64_t *operands)
{
    int number = rows->count++;
    CHECK(number < MOST_ROWS && count <= MOST_OPERANDS);
    memcpy(rows->at[number], operands, (size_t)count * sizeof *operands);
    rows->rows[number] = (mlc_row){run, rows->at[number], count, 0, name, 1};
}

/* A place holds a parameter. */
static inline void layout_hold(layout *all, int place, int parameter, bool copied, mlc_flat_function init_flat, mlc_function init)
{
    mlc_role *role = &all->roles[place];
    uint64_t elements = (uint64_t)mlc_parameter_elements(&all->parameters[parameter]);
    mlc_held *held = &all->held[place][role->held_count];
    for (int i = 0; i < role->held_count; i++)
        if (all->held[place][i].parameter == parameter)
            return;
    CHECK(!role->held_count || held[-1].parameter < parameter);
    role->held_count++;
    *held = (mlc_held){parameter, layout_take(all, place, 4 * elements), copied ? layout_take(all, place, 2 * elements) : MLC_NONE,
                       init_flat, init, &all->init_at[place][parameter]};
    all->init_at[place][parameter] = held->master;
}

static inline const mlc_held *layout_held(const layout *all, int place, int parameter)
{
    for (int i = 0; i < all->roles[place].held_count; i++)
        if (all->held[place][i].parameter == parameter)
            return &all->held[place][i];
    return NULL;
}

/* A use of a parameter by a stage; returns its accumulator 0. */
static inline uint64_t layout_use(layout *all, int s, int parameter, int index, int phase)
{
    layout_stage *stage = &all->stage[MLC_TRAIN][s];
    int number = stage->chunk.use_count++, place = s % all->model.mesh.size[MLC_PP];
    CHECK(number < MOST_USES && all->roles[place].levels <= MOST_LEVELS);
    for (int i = 0; i < all->roles[place].levels; i++)
        stage->levels[number][i] = layout_take(all, place, 4 * (uint64_t)mlc_parameter_elements(&all->parameters[parameter]));
    stage->uses[number] = (mlc_use){parameter, index, phase, stage->levels[number]};
    return stage->levels[number][0];
}

/* The accumulator of use 0, at the owner. */
static inline uint64_t layout_gradient(const layout *all, int parameter)
{
    for (int s = 0; s < all->stages; s++)
        for (int u = 0; u < all->stage[MLC_TRAIN][s].chunk.use_count; u++) {
            const mlc_use *use = &all->stage[MLC_TRAIN][s].uses[u];
            if (use->parameter == parameter && use->index == 0)
                return use->levels[0];
        }
    return MLC_NONE;
}

/* ---- what places own ---- */

static inline uint64_t layout_floats(int64_t elements)
{
    return ((uint64_t)elements * sizeof(float) + 63) / 64 * 64;
}

/* Bytes of all states of a parameter. */
static inline uint64_t layout_state_bytes(const mlc_parameter *parameter)
{
    uint64_t bytes = 0;
    for (int s = 0; s < parameter->state_count; s++)
        bytes += layout_floats(mlc_tensor_elements(&parameter->states[s]));
    return bytes;
}

/* Room for the states of all parameters, for the results of all updates, and for as many sums of each use as there are levels. */
static inline void layout_own(layout *all, int place)
{
    mlc_role *role = &all->roles[place];
    uint64_t states = 0, work = 0, guests = 0;
    for (int p = 0; p < all->model.parameter_count; p++) {
        const mlc_parameter *parameter = &all->parameters[p];
        uint64_t bytes = layout_floats(mlc_parameter_elements(parameter));
        guests += (uint64_t)(parameter->uses * role->levels) * bytes;
        if (parameter->owner != place)
            continue;
        int sharing = all->update_flat[p] ? MLC_SLICED : all->update[p] ? MLC_WHOLE : MLC_STILL;
        uint64_t results = sharing == MLC_WHOLE ? bytes + layout_state_bytes(parameter) : 0;
        all->owned[place][role->owned_count++] = (mlc_own){p, sharing, all->update_flat[p], all->update[p], NULL, 0, results};
        states += layout_state_bytes(parameter);
        work += results;
    }
    role->owned = all->owned[place];
    role->states = (mlc_area){layout_take(all, place, states), states};
    role->work = (mlc_area){layout_take(all, place, work), work};
    role->guests = (mlc_area){layout_take(all, place, guests), guests};
}

/* ---- lists ---- */

typedef struct layout_list {
    layout *all;
    int place, chain;
} layout_list;

static inline void layout_act(layout_list *list, int kind, int of, int microbatch)
{
    mlc_actions *actions = &list->all->programs[list->place].lists[list->chain];
    CHECK(actions->count < MOST_ACTIONS);
    list->all->actions[list->place][list->chain][actions->count++] = (mlc_action){kind, of, microbatch};
}

/* The sums of a group of a chunk, where it is complete and not the replica's last. */
static inline void layout_fold(layout_list *list, int s, int phase, int j)
{
    const mlc_model *model = &list->all->model;
    int members = model->microbatches / model->groups, groups = model->groups / model->mesh.size[MLC_DP];
    bool used = false;
    for (int u = 0; u < list->all->stage[list->chain][s].chunk.use_count; u++)
        used |= list->all->stage[list->chain][s].uses[u].phase == phase;
    int kind = phase == MLC_FORWARD ? MLC_FOLDF : phase == MLC_INPUT_GRADIENT ? MLC_FOLDI : MLC_FOLDW;
    if (used && list->chain == MLC_TRAIN && (j + 1) % members == 0 && (j + 1) / members < groups)
        layout_act(list, kind, s / model->mesh.size[MLC_PP], j);
}

static inline void layout_transfer(layout_list *list, int kind, int channel, int microbatch)
{
    if (channel >= 0 && microbatch >= 0)
        layout_act(list, kind, channel, microbatch);
}

static inline void layout_forward(layout_list *list, int s, int j)
{
    const layout_stage *stage = &list->all->stage[list->chain][s];
    layout_transfer(list, MLC_RECEIVE, stage->in_channel, j);
    layout_transfer(list, MLC_SENT, stage->out_channel, j - list->all->outbox);
    layout_act(list, MLC_FORWARD, s / list->all->model.mesh.size[MLC_PP], j);
    layout_transfer(list, MLC_SEND, stage->out_channel, j);
    if (list->chain != MLC_TRAIN)
        layout_transfer(list, MLC_FREE, stage->in_channel, j);
    layout_fold(list, s, MLC_FORWARD, j);
}

static inline void layout_backward(layout_list *list, int s, int j)
{
    const layout_stage *stage = &list->all->stage[list->chain][s];
    layout_transfer(list, MLC_RECEIVE, stage->cotangent_in_channel, j);
    layout_transfer(list, MLC_SENT, stage->cotangent_out_channel, j - list->all->outbox);
    layout_act(list, list->all->split ? MLC_INPUT_GRADIENT : MLC_BACKWARD, s / list->all->model.mesh.size[MLC_PP], j);
    layout_transfer(list, MLC_SEND, stage->cotangent_out_channel, j);
    layout_transfer(list, MLC_FREE, stage->cotangent_in_channel, j);
    if (!list->all->split)
        layout_transfer(list, MLC_FREE, stage->in_channel, j);
    layout_fold(list, s, MLC_INPUT_GRADIENT, j);
    if (!list->all->split)
        layout_fold(list, s, MLC_WEIGHT_GRADIENT, j);
}

static inline void layout_weight(layout_list *list, int s, int j)
{
    layout_act(list, MLC_WEIGHT_GRADIENT, s / list->all->model.mesh.size[MLC_PP], j);
    layout_transfer(list, MLC_FREE, list->all->stage[list->chain][s].in_channel, j);
    layout_fold(list, s, MLC_WEIGHT_GRADIENT, j);
}

static inline void layout_window(layout_list *list, int first, int last)
{
    int pp = list->all->model.mesh.size[MLC_PP], stages = list->all->stages;
    bool trains = list->chain == MLC_TRAIN;
    for (int s = list->place; s < stages; s += pp)
        for (int j = first; j < last; j++)
            layout_forward(list, s, j);
    for (int s = stages - pp + list->place; trains && s >= 0; s -= pp)
        for (int j = first; j < last; j++)
            layout_backward(list, s, j);
    for (int s = list->place; trains && list->all->split && s < stages; s += pp)
        for (int j = first; j < last; j++)
            layout_weight(list, s, j);
}

/* The place of a use; -1: there is none of this index. */
static inline int layout_use_place(const layout *all, int parameter, int index)
{
    for (int s = 0; s < all->stages; s++)
        for (int u = 0; u < all->stage[MLC_TRAIN][s].chunk.use_count; u++) {
            const mlc_use *use = &all->stage[MLC_TRAIN][s].uses[u];
            if (use->parameter == parameter && use->index == index)
                return s % all->model.mesh.size[MLC_PP];
        }
    return -1;
}

/* Gradients of parameters that have uses on several places go to their owners. */
static inline void layout_share(layout_list *list, int parameter)
{
    int owner = list->all->model.parameters[parameter].owner;
    bool shared = false;
    for (int u = 0; layout_use_place(list->all, parameter, u) >= 0; u++)
        shared |= layout_use_place(list->all, parameter, u) != owner;
    for (int u = 0; shared && layout_use_place(list->all, parameter, u) >= 0; u++)
        if (list->place == owner || list->place == layout_use_place(list->all, parameter, u))
            layout_act(list, MLC_SHARE, u, parameter);
}

static inline void layout_spread(layout_list *list, int parameter)
{
    int owner = list->all->model.parameters[parameter].owner;
    for (int place = 0; place < list->all->model.mesh.size[MLC_PP]; place++)
        if (place != owner && (list->place == owner || list->place == place) && layout_held(list->all, place, parameter))
            layout_act(list, MLC_SPREAD, place, parameter);
}

static inline void layout_end_list(layout_list *list)
{
    const layout *all = list->all;
    int turns = mlc_cohort_turns(all->model.mesh.size[MLC_DP]);
    for (int c = 0; c < all->chunks; c++)
        for (int turn = 0; turn < turns; turn++)
            layout_act(list, MLC_REDUCE, c, turn);
    for (int p = 0; p < all->model.parameter_count; p++)
        layout_share(list, p);
    layout_act(list, MLC_NORM, 0, 0);
    layout_act(list, MLC_UPDATE, 0, 0);
    for (int p = 0; p < all->model.parameter_count; p++)
        if (all->update_flat[p] || all->update[p])
            layout_spread(list, p);
    for (int turn = turns - 1; turn >= 0; turn--)
        layout_act(list, MLC_GATHER, 0, turn);
    layout_act(list, MLC_VERDICT, 0, 0);
}

static inline void layout_write_list(layout *all, int place, int chain)
{
    layout_list list = {all, place, chain};
    int count = all->schedule.rounds[chain];
    for (int first = 0; first < count; first += all->window)
        layout_window(&list, first, first + all->window < count ? first + all->window : count);
    for (int s = place; s < all->stages; s += all->model.mesh.size[MLC_PP])
        for (int j = count - all->outbox < 0 ? 0 : count - all->outbox; j < count; j++) {
            layout_transfer(&list, MLC_SENT, all->stage[chain][s].out_channel, j);
            layout_transfer(&list, MLC_SENT, all->stage[chain][s].cotangent_out_channel, j);
        }
    if (chain != MLC_SAMPLE)
        layout_act(&list, MLC_STATISTICS, 0, 0);
    if (chain == MLC_TRAIN)
        layout_end_list(&list);
    all->programs[place].lists[chain].actions = all->actions[place][chain];
}

/* ---- the end ---- */

static inline mlc_rows layout_list_rows(const layout_rows *rows)
{
    return (mlc_rows){rows->rows, rows->count, 0};
}

static inline void layout_end_stage(layout *all, int chain, int s)
{
    layout_stage *stage = &all->stage[chain][s];
    mlc_chunk *chunk = &stage->chunk;
    chunk->stage = s;
    chunk->forward = layout_list_rows(&stage->forward);
    chunk->input_gradient = layout_list_rows(&stage->input_gradient);
    chunk->weight_gradient = layout_list_rows(&stage->weight_gradient);
    chunk->backward = layout_list_rows(&stage->backward);
    chunk->inputs = stage->inputs;
    chunk->values = stage->values;
    chunk->uses = stage->uses;
    if (!chunk->logits.name)
        chunk->logits.at = MLC_NONE;
    all->chunk[s % all->model.mesh.size[MLC_PP]][chain][s / all->model.mesh.size[MLC_PP]] = *chunk;
}

/* B is I, then W. */
static inline void layout_join(layout_stage *stage)
{
    for (int i = 0; i < stage->input_gradient.count; i++)
        layout_row(&stage->backward, stage->input_gradient.rows[i].run, stage->input_gradient.rows[i].name,
                   stage->input_gradient.rows[i].count, stage->input_gradient.at[i]);
    for (int i = 0; i < stage->weight_gradient.count; i++)
        layout_row(&stage->backward, stage->weight_gradient.rows[i].run, stage->weight_gradient.rows[i].name,
                   stage->weight_gradient.rows[i].count, stage->weight_gradient.at[i]);
}

static inline void layout_end(layout *all)
{
    for (int chain = 0; chain < MLC_DECODE; chain++)
        for (int s = 0; s < all->stages; s++) {
            layout_join(&all->stage[chain][s]);
            layout_end_stage(all, chain, s);
        }
    for (int place = 0; place < all->model.mesh.size[MLC_PP]; place++) {
        mlc_role *role = &all->roles[place];
        role->held = all->held[place];
        role->chunk_count = all->chunks;
        all->programs[place].regions = all->regions[place];
        layout_own(all, place);
        for (int chain = 0; chain < MLC_DECODE; chain++) {
            role->chunks[chain] = all->chunk[place][chain];
            layout_write_list(all, place, chain);
        }
    }
}

/* ---- running all ranks in this process ---- */

/* Works on one rank; its own thread, all ranks at once. */
typedef void (*layout_job)(mlc_rank *rank, void *context);

typedef struct layout_runner {
    const mlc_model *model;
    mlc_hub *hub;
    int number;
    mlc_open_options options;
    double timeout;
    layout_job job;
    void *context;
    mlc_rank *rank;
} layout_runner;

static inline void *layout_run_rank(void *argument)
{
    layout_runner *runner = argument;
    mlc_error error = {0};
    mlc_rank *rank = runner->rank = mlc_rank_open(runner->model, runner->number, &runner->options, 0, -1, &error);
    if (!rank)
        fprintf(stderr, "%s\n", error.text);
    CHECK(rank);
    rank->world.timeout = runner->timeout;
    if (runner->hub) {
        mlc_hub_attach(runner->hub, &rank->world);
        CHECK(!rank->world.transport->open(&rank->world, &rank->error));
    }
    mlc_rank_initialize(rank);
    runner->job(rank, runner->context);
    if (runner->hub)
        rank->world.transport->close(&rank->world);
    return NULL;
}

/* Runs job on every rank, then closes them. Several jobs after one another see the same ranks only within one call. */
static inline void layout_run(const mlc_model *model, mlc_open_options options, double timeout, layout_job job, void *context)
{
    layout_runner runners[RANKS];
    pthread_t handles[RANKS];
    int ranks = mlc_mesh_ranks(&model->mesh);
    mlc_hub *hub = NULL;
    mlc_error error = {0};
    CHECK(ranks <= RANKS && (ranks == 1 || !mlc_hub_open(&hub, ranks, &error)));
    for (int r = 0; r < ranks; r++) {
        runners[r] = (layout_runner){model, hub, r, options, timeout, job, context, NULL};
        CHECK(!pthread_create(&handles[r], NULL, layout_run_rank, &runners[r]));
    }
    for (int r = 0; r < ranks; r++)
        CHECK(!pthread_join(handles[r], NULL));
    for (int r = 0; r < ranks; r++)
        mlc_rank_close(runners[r].rank);
    mlc_hub_close(hub);
}

#endif
