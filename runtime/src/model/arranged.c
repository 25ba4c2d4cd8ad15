/* arranged.c: see arranged.h. */
#include "model/arranged.h"

#include "model/rank.h"

#include <string.h>

/* ---- of parameters ---- */

const mlc_arrangement *mlc_arranged_master(const mlc_model *model, int parameter)
{
    return model->arranged ? model->arranged[parameter].master : NULL;
}

const mlc_arrangement *mlc_arranged_copy(const mlc_model *model, int parameter)
{
    return model->arranged ? model->arranged[parameter].copy : NULL;
}

const mlc_arrangement *mlc_arranged_state(const mlc_model *model, int parameter, int state)
{
    return model->arranged && model->arranged[parameter].states ? model->arranged[parameter].states[state] : NULL;
}

/* ---- where elements lie ---- */

static const mlc_panels *panels_of(const mlc_arrangement *of, int dim)
{
    for (int i = 0; i < of->panel_count; i++)
        if (of->panels[i].dim == dim)
            return &of->panels[i];
    return NULL;
}

static int64_t place_in(const mlc_arrangement *of, int dim, int64_t index)
{
    const mlc_panels *panels = panels_of(of, dim);
    return panels ? index % panels->size * of->strides[dim] + index / panels->size * panels->stride : index * of->strides[dim];
}

/* Elements that lie at equal steps. */
typedef struct run {
    int64_t at;
    int64_t step;
    int64_t count;
} run;

/* From an element on, to the end of its row or panel at most. */
static run run_at(const mlc_arrangement *of, int64_t element, int64_t most)
{
    int last = of->rank - 1;
    int64_t rest = element / of->shape[last], index = element % of->shape[last], at = place_in(of, last, index);
    for (int dim = last - 1; dim >= 0; dim--) {
        at += place_in(of, dim, rest % of->shape[dim]);
        rest /= of->shape[dim];
    }
    const mlc_panels *panels = panels_of(of, last);
    int64_t row = of->shape[last] - index, panel = panels ? panels->size - index % panels->size : row;
    int64_t count = row < panel ? row : panel;
    return (run){at, of->strides[last], count < most ? count : most};
}

/* ---- copying ---- */

/* count elements, which are `from_step` and `to_step` elements apart. */
#define COPY(type)                                                                                                                 \
    static void copy_##type(char *to, int64_t to_step, const char *from, int64_t from_step, int64_t count)                         \
    {                                                                                                                              \
        for (int64_t i = 0; i < count; i++) {                                                                                      \
            type element;                                                                                                          \
            memcpy(&element, from + i * from_step * (int64_t)sizeof element, sizeof element);                                      \
            memcpy(to + i * to_step * (int64_t)sizeof element, &element, sizeof element);                                          \
        }                                                                                                                          \
    }
COPY(uint16_t)
COPY(uint32_t)
COPY(uint64_t)

static void copy(int64_t bytes, char *to, int64_t to_step, const char *from, int64_t from_step, int64_t count)
{
    if (to_step == 1 && from_step == 1)
        memcpy(to, from, (size_t)(count * bytes));
    else if (bytes == 2)
        copy_uint16_t(to, to_step, from, from_step, count);
    else if (bytes == 4)
        copy_uint32_t(to, to_step, from, from_step, count);
    else
        copy_uint64_t(to, to_step, from, from_step, count);
}

static uint64_t place_of(const mlc_lying *of, int64_t element)
{
    return of->at + (uint64_t)(element * of->bytes);
}

void mlc_lying_read(const mlc_arena *arena, const mlc_lying *of, int64_t begin, int64_t end, void *to)
{
    char *next = to;
    if (!of->arranged && begin < end)
        mlc_memory_read(arena, place_of(of, begin), to, (size_t)((end - begin) * of->bytes));
    for (int64_t i = begin; of->arranged && i < end;) {
        run it = run_at(of->arranged, i, end - i);
        copy(of->bytes, next, 1, arena->base + place_of(of, it.at), it.step, it.count);
        next += it.count * of->bytes;
        i += it.count;
    }
}

void mlc_lying_write(const mlc_arena *arena, const mlc_lying *of, int64_t begin, int64_t end, const void *from)
{
    const char *next = from;
    if (!of->arranged && begin < end)
        mlc_memory_write(arena, place_of(of, begin), from, (size_t)((end - begin) * of->bytes));
    for (int64_t i = begin; of->arranged && i < end;) {
        run it = run_at(of->arranged, i, end - i);
        copy(of->bytes, arena->base + place_of(of, it.at), it.step, next, 1, it.count);
        next += it.count * of->bytes;
        i += it.count;
    }
}

const char *mlc_lying_look(const mlc_arena *arena, const mlc_lying *of, int64_t begin, int64_t end, int64_t *count, mlc_strip *strip)
{
    bool in_place = !of->arranged && !arena->gpu;
    *count = !in_place && end - begin > MLC_STRIP ? MLC_STRIP : end - begin;
    if (!of->arranged)
        return mlc_memory_view(arena, place_of(of, begin), (size_t)(*count * of->bytes), strip->elements);
    mlc_lying_read(arena, of, begin, begin + *count, strip->elements);
    return strip->elements;
}

/* ---- sanity ---- */

/* The largest place; -1: some stride or panel is none. */
static int64_t reach(const mlc_arrangement *of)
{
    int64_t most = 0;
    for (int i = 0; i < of->panel_count; i++)
        if (of->panels[i].dim < 0 || of->panels[i].dim >= of->rank || of->panels[i].size < 1 || of->panels[i].stride < 0)
            return -1;
    for (int dim = 0; dim < of->rank; dim++) {
        const mlc_panels *panels = panels_of(of, dim);
        int64_t extent = of->shape[dim], inner = panels && panels->size < extent ? panels->size : extent;
        if (extent < 1 || of->strides[dim] < 0)
            return -1;
        most += (inner - 1) * of->strides[dim] + (panels ? (extent - 1) / panels->size * panels->stride : 0);
    }
    return most;
}

static bool fits(const mlc_arrangement *of, int64_t elements)
{
    int64_t has = 1;
    if (!of)
        return true;
    if (of->rank < 1 || reach(of) < 0 || reach(of) >= of->elements)
        return false;
    for (int dim = 0; dim < of->rank; dim++)
        has *= of->shape[dim];
    return has == elements;
}

const char *mlc_arranged_fault(const mlc_model *model, int *parameter)
{
    uint64_t strips = (uint64_t)MLC_STRIPS * MLC_STRIP * mlc_wide_bytes(model);
    for (int p = 0; model->arranged && p < model->parameter_count; p++) {
        const mlc_parameter *of = &model->parameters[p];
        *parameter = p;
        bool whole = fits(model->arranged[p].master, mlc_parameter_elements(of)) && fits(model->arranged[p].copy, mlc_parameter_elements(of));
        for (int s = 0; whole && s < of->state_count; s++)
            whole = fits(mlc_arranged_state(model, p, s), mlc_tensor_elements(&of->states[s]));
        if (!whole)
            return "is arranged beyond its buffer";
        if (model->scratch_bytes_per_thread < strips)
            return "is arranged, and there is no room for its elements in order";
    }
    return NULL;
}
