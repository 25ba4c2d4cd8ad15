/* shard.c: see shard.h. */
#include "model/shard.h"

#include "model/arranged.h"
#include "model/rank.h"
#include "system/exact.h"
#include "system/numbers.h"

#include <stdlib.h>

#define LINE 64 /* bytes: where buffers start */

/* ---- owners ---- */

static int refuse(const mlc_owners *owners, int place, int parameter, const char *what, mlc_error *error)
{
    const char *name = parameter >= 0 && parameter < owners->model->parameter_count ? owners->model->parameters[parameter].name : "?";
    return mlc_error_set(error, MLC_BAD_INPUT, "model %s: place %d: parameter %s %s", owners->model->name, place, name, what);
}

static int add_owned(mlc_owners *owners, int place, const mlc_own *own, int64_t totals[], mlc_error *error)
{
    const mlc_model *model = owners->model;
    int p = own->parameter;
    if (p < 0 || p >= model->parameter_count || model->parameters[p].owner != place)
        return refuse(owners, place, p, "is another place's", error);
    if (owners->items[p].own)
        return refuse(owners, place, p, "is owned twice", error);
    bool flat = own->update_flat, whole = own->update;
    if (own->sharing < MLC_SLICED || own->sharing > MLC_STILL || flat != (own->sharing == MLC_SLICED) || (whole && own->sharing != MLC_WHOLE))
        return refuse(owners, place, p, "is not shared out as its update wants it", error);
    int64_t elements = mlc_parameter_elements(&model->parameters[p]), blocks = (elements + MLC_BLOCK - 1) / MLC_BLOCK;
    owners->items[p] = (mlc_owner){own, place, totals[own->sharing], blocks, elements, 0};
    totals[own->sharing] += blocks;
    return MLC_OK;
}

static int add_place(mlc_owners *owners, int place, mlc_error *error)
{
    const mlc_role *role = &owners->model->roles[place];
    int64_t totals[MLC_STILL + 1] = {0};
    for (int i = 0; i < role->owned_count; i++) {
        if (i && role->owned[i].parameter <= role->owned[i - 1].parameter)
            return refuse(owners, place, role->owned[i].parameter, "is not in order", error);
        if (add_owned(owners, place, &role->owned[i], totals, error))
            return error->status;
    }
    for (int i = 0; i < role->owned_count; i++)
        owners->items[role->owned[i].parameter].total = totals[role->owned[i].sharing];
    return MLC_OK;
}

int mlc_owners_open(mlc_owners *owners, const mlc_model *model, mlc_error *error)
{
    *owners = (mlc_owners){.model = model, .replicas = model->mesh.size[MLC_DP]};
    owners->items = calloc((size_t)model->parameter_count + 1, sizeof *owners->items);
    if (!owners->items)
        return mlc_error_set(error, MLC_FAILED, "owners: out of memory");
    for (int place = 0; place < model->mesh.size[MLC_PP]; place++)
        if (add_place(owners, place, error))
            return error->status;
    for (int p = 0; p < model->parameter_count; p++)
        if (!owners->items[p].own)
            return refuse(owners, model->parameters[p].owner, p, "is owned by nobody", error);
    return MLC_OK;
}

void mlc_owners_close(mlc_owners *owners)
{
    free(owners->items);
    *owners = (mlc_owners){0};
}

/* The portion that has a whole parameter. */
static int portion_of(const mlc_owners *owners, const mlc_owner *owner)
{
    return (int)(owners->replicas * (2 * owner->first + owner->blocks) / (2 * owner->total));
}

mlc_run mlc_owners_elements(const mlc_owners *owners, int parameter, mlc_portions portions)
{
    const mlc_owner *owner = &owners->items[parameter];
    if (owner->own->sharing == MLC_WHOLE) {
        int portion = portion_of(owners, owner);
        return (mlc_run){0, portion >= portions.begin && portion < portions.end ? owner->elements : 0};
    }
    int64_t low = owner->total * portions.begin / owners->replicas - owner->first;
    int64_t high = owner->total * portions.end / owners->replicas - owner->first;
    return (mlc_run){larger(low, 0) * MLC_BLOCK, smaller(high * MLC_BLOCK, owner->elements)};
}

int mlc_owners_replica(const mlc_owners *owners, int parameter, int64_t element, int64_t *end)
{
    const mlc_owner *owner = &owners->items[parameter];
    *end = owner->elements;
    if (owner->own->sharing == MLC_WHOLE)
        return mlc_cohort_member(owners->replicas, portion_of(owners, owner));
    int64_t block = owner->first + element / MLC_BLOCK;
    int portion = (int)(((block + 1) * owners->replicas - 1) / owner->total);
    *end = mlc_owners_elements(owners, parameter, (mlc_portions){portion, portion + 1}).end;
    return mlc_cohort_member(owners->replicas, portion);
}

/* ---- the shard of a replica ---- */

typedef struct builder {
    const mlc_owners *owners;
    uint64_t unit;   /* bytes of an element of the wide dtype */
    const mlc_role *role;
    uint64_t states; /* what comes next */
    uint64_t work;
    uint64_t *words;
} builder;

static uint64_t take(const builder *of, uint64_t *next, int64_t elements)
{
    uint64_t at = *next;
    *next += ((uint64_t)elements * of->unit + LINE - 1) / LINE * LINE;
    return at;
}

/* The accumulator of use 0; MLC_NONE: it has no gradient. */
static uint64_t gradient_of(const mlc_role *role, int parameter)
{
    for (int c = 0; role->chunks[MLC_TRAIN] && c < role->chunk_count; c++)
        for (int u = 0; u < role->chunks[MLC_TRAIN][c].use_count; u++) {
            const mlc_use *use = &role->chunks[MLC_TRAIN][c].uses[u];
            if (use->parameter == parameter && use->index == 0)
                return use->levels[0];
        }
    return MLC_NONE;
}

/* The words of a piece: its states, then the operands of its update. */
static int words_of(const mlc_model *model, const mlc_own *own)
{
    int states = model->parameters[own->parameter].state_count;
    return states + 2 + 2 * states + 1 + own->read_count + 1;
}

/* Of the buffer of a whole state. */
static int64_t state_elements(const builder *of, const mlc_piece *piece, int state)
{
    const mlc_model *model = of->owners->model;
    int64_t elements = mlc_tensor_elements(&model->parameters[piece->parameter].states[state]);
    return mlc_arranged_elements(mlc_arranged_state(model, piece->parameter, state), elements);
}

static void place_states(builder *of, mlc_piece *piece, const mlc_parameter *parameter, bool whole)
{
    piece->states = of->words;
    for (int s = 0; s < parameter->state_count; s++)
        *of->words++ = take(of, &of->states, whole ? state_elements(of, piece, s) : piece->end - piece->begin);
}

/* Results of a rule that is not elementwise lie beside what it reads. */
static void place_results(builder *of, const mlc_piece *piece, const mlc_parameter *parameter, bool whole)
{
    const mlc_arrangement *arranged = mlc_arranged_master(of->owners->model, piece->parameter);
    *of->words = whole ? take(of, &of->work, mlc_arranged_elements(arranged, piece->end)) : piece->update_at[0];
    of->words++;
    for (int s = 0; s < parameter->state_count; s++)
        *of->words++ = whole ? take(of, &of->work, state_elements(of, piece, s)) : piece->states[s];
}

static void place_update(builder *of, mlc_piece *piece, const mlc_own *own, const mlc_parameter *parameter)
{
    bool arranged = mlc_arranged_master(of->owners->model, piece->parameter);
    uint64_t first = arranged ? 0 : (uint64_t)piece->begin * of->unit, work = of->work;
    piece->update_flat = own->update_flat;
    piece->update = own->update;
    piece->update_at = of->words;
    *of->words++ = mlc_role_held(of->role, own->parameter)->master + first;
    *of->words++ = gradient_of(of->role, own->parameter) + first;
    for (int s = 0; s < parameter->state_count; s++)
        *of->words++ = piece->states[s];
    place_results(of, piece, parameter, own->update);
    for (int i = 0; i < own->read_count; i++)
        *of->words++ = own->reads[i];
    *of->words++ = of->work;
    of->work = work + own->work;
}

static void add_piece(builder *of, mlc_shard *shard, const mlc_own *own, mlc_run elements)
{
    const mlc_parameter *parameter = &of->owners->model->parameters[own->parameter];
    mlc_piece *piece = &shard->pieces[shard->count++];
    *piece = (mlc_piece){.parameter = own->parameter, .begin = elements.begin, .end = elements.end};
    place_states(of, piece, parameter, own->sharing == MLC_WHOLE);
    if (own->update_flat || own->update)
        place_update(of, piece, own, parameter);
}

int mlc_shard_open(mlc_shard *shard, const mlc_owners *owners, int place, int replica, mlc_error *error)
{
    const mlc_role *role = &owners->model->roles[place];
    int portion = mlc_cohort_portion(owners->replicas, replica), words = 1;
    for (int i = 0; i < role->owned_count; i++)
        words += words_of(owners->model, &role->owned[i]);
    *shard = (mlc_shard){.pieces = calloc((size_t)role->owned_count + 1, sizeof *shard->pieces),
                         .words = calloc((size_t)words, sizeof *shard->words)};
    if (!shard->pieces || !shard->words)
        return mlc_error_set(error, MLC_FAILED, "shard: out of memory");
    builder of = {owners, mlc_wide_bytes(owners->model), role, role->states.at, role->work.at, shard->words};
    for (int i = 0; i < role->owned_count; i++) {
        mlc_run elements = mlc_owners_elements(owners, role->owned[i].parameter, (mlc_portions){portion, portion + 1});
        if (elements.begin < elements.end)
            add_piece(&of, shard, &role->owned[i], elements);
    }
    if (of.states > role->states.at + role->states.bytes || of.work > role->work.at + role->work.bytes)
        return mlc_error_set(error, MLC_BAD_INPUT, "model %s: place %d: there is no room for the shard of replica %d", owners->model->name,
                             place, replica);
    return MLC_OK;
}

void mlc_shard_close(mlc_shard *shard)
{
    free(shard->pieces);
    free(shard->words);
    *shard = (mlc_shard){0};
}
