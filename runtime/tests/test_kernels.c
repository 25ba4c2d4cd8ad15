/* test_kernels.c: contractions and attention against plain loops in double precision; equal bits for any number of threads.
 * test_kernels_f64.c makes the same tests of the kernels of f64. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../bench/team.h"
#include "tile.h"

#if MLC_ELEMENT_BYTES == 8
#define NARROW MLC_F64
#define UNIT 0x1p-27 /* of rounding, in that of f32; the loops round too */
#else
#define NARROW MLC_BF16
#define UNIT 1.0
#endif

static int failures;
static uint64_t random_state = 1;

static void check(int claim, const char *what, double got, double wanted)
{
    if (claim)
        return;
    if (failures++ < 40)
        printf("FAIL %s: got %g, wanted %g\n", what, got, wanted);
}

static int64_t draw(int64_t limit)
{
    random_state = mlc_splitmix64(random_state);
    return (int64_t)(random_state % (uint64_t)limit);
}

static mlc_element draw_float(void)
{
    return (mlc_element)draw(1 << 20) / (1 << 19) - 1;
}

/* An array with known values; `base` is one element off every alignment above that of the dtype, or off every one above twice that. */
typedef struct array {
    char *memory, *base;
    int64_t count;
    int dtype;
} array;

static array array_of(int64_t count, int dtype)
{
    const int64_t bytes = mlc_element_bytes(dtype), first = 1 + draw(2);
    array x = {.memory = malloc((size_t)(bytes * (count + first))), .count = count, .dtype = dtype};
    x.base = x.memory + bytes * first; /* malloc aligns to 16, and the last element ends the block */
    return x;
}

static mlc_element get(const array *x, int64_t i)
{
    return x->dtype == MLC_ELEMENT ? ((mlc_element *)x->base)[i] : (mlc_element)mlc_f32_of_bf16(((uint16_t *)x->base)[i]);
}

static void set(const array *x, int64_t i, mlc_element value)
{
    if (x->dtype == MLC_ELEMENT)
        ((mlc_element *)x->base)[i] = value;
    else
        ((uint16_t *)x->base)[i] = mlc_bf16_of_f32((float)value);
}

static array random_array(int64_t count, int dtype)
{
    const array x = array_of(count, dtype);
    for (int64_t i = 0; i < count; i++)
        set(&x, i, draw_float());
    return x;
}

static const int team_sizes[] = {1, 2, 3, 5};
enum { TEAMS = sizeof team_sizes / sizeof *team_sizes };

/* Contractions. */

typedef struct contract_case {
    const mlc_contraction *shape;
    const array *a, *b;
    mlc_element *c;
    int64_t rows, columns;
} contract_case;

static void store_block(const mlc_env *env, const void *closure, const mlc_element *c, int64_t pitch, int64_t batch, int64_t m0,
    int64_t rows, int64_t n0, int64_t columns)
{
    const contract_case *x = closure;
    (void)env;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) {
            mlc_element *to = x->c + (batch * x->rows + m0 + i) * x->columns + n0 + j;
            *to = isnan(*to) ? c[i * pitch + j] : INFINITY; /* given twice */
        }
}

static void run_contract(const mlc_env *env, const void *argument)
{
    const contract_case *x = argument;
    MLC_OF_ELEMENT(mlc_contract)(env, x->shape, x->a->base, x->b->base, store_block, x);
}

static int64_t extent_of(const mlc_index *index, int rank)
{
    int64_t extent = 1;
    for (int i = 0; i < rank; i++)
        extent *= index[i].extent;
    return extent;
}

static int64_t offset_of(const mlc_index *index, int rank, int64_t n, int of_b)
{
    int64_t offset = 0;
    for (int i = rank - 1; i >= 0; i--) {
        offset += n % index[i].extent * (of_b ? index[i].b : index[i].a);
        n /= index[i].extent;
    }
    return offset;
}

/* Elements that the strides of an operand reach. */
static int64_t span_of(const mlc_contraction *s, int of_b)
{
    const mlc_index *groups[4] = {s->batch, s->m, s->n, s->k};
    const int ranks[4] = {s->batch_rank, s->m_rank, s->n_rank, s->k_rank};
    int64_t last = 0;
    for (int g = 0; g < 4; g++)
        for (int i = 0; i < ranks[g]; i++)
            last += (groups[g][i].extent - 1) * (of_b ? groups[g][i].b : groups[g][i].a);
    return last + 1;
}

static void check_products(const contract_case *x, int64_t batches, int64_t depth)
{
    const mlc_contraction *s = x->shape;
    const int64_t all = batches * x->rows * x->columns, stride = all * depth > 4000000 ? 1 + all * depth / 4000000 : 1;
    for (int64_t e = 0; e < all; e += stride) {
        const int64_t batch = e / (x->rows * x->columns), i = e / x->columns % x->rows, j = e % x->columns;
        const int64_t at_a = offset_of(s->batch, s->batch_rank, batch, 0) + offset_of(s->m, s->m_rank, i, 0);
        const int64_t at_b = offset_of(s->batch, s->batch_rank, batch, 1) + offset_of(s->n, s->n_rank, j, 1);
        double sum = 0;
        for (int64_t k = 0; k < depth; k++)
            sum += (double)get(x->a, at_a + offset_of(s->k, s->k_rank, k, 0)) * get(x->b, at_b + offset_of(s->k, s->k_rank, k, 1));
        check(fabs(x->c[e] - sum) <= UNIT * (2e-6 * sqrt((double)depth) + 1e-6), "contraction", x->c[e], sum);
    }
}

static void test_contraction(const mlc_contraction *shape)
{
    const int64_t batches = extent_of(shape->batch, shape->batch_rank), depth = extent_of(shape->k, shape->k_rank);
    const array a = random_array(span_of(shape, 0), shape->a_dtype), b = random_array(span_of(shape, 1), shape->b_dtype);
    contract_case x = {shape, &a, &b, NULL, extent_of(shape->m, shape->m_rank), extent_of(shape->n, shape->n_rank)};
    const size_t bytes = (size_t)(batches * x.rows * x.columns) * sizeof(mlc_element);
    mlc_element *first = NULL;
    for (int t = 0; t < TEAMS; t++) {
        x.c = malloc(bytes);
        memset(x.c, 0xFF, bytes);
        team_run(team_sizes[t], MLC_ELEMENT_BYTES / 4 * MLC_CONTRACT_SCRATCH_BYTES, NULL, run_contract, &x);
        if (t == 0) {
            check_products(&x, batches, depth);
            first = x.c;
            continue;
        }
        check(memcmp(first, x.c, bytes) == 0, "contraction, bits for threads", team_sizes[t], 1);
        free(x.c);
    }
    free(first);
    free(a.memory);
    free(b.memory);
}

/* a [batch, m, k] and b [batch, k, n], each plain or with its last two dims exchanged in memory. */
static mlc_contraction product(int64_t batch, int64_t m, int64_t n, int64_t k, int a_transposed, int b_transposed, int a_dtype, int b_dtype)
{
    const mlc_contraction shape = {
        .batch_rank = batch > 1, .m_rank = 1, .n_rank = 1, .k_rank = 1,
        .batch = {{batch, m * k, k * n}},
        .m = {{m, a_transposed ? 1 : k, 0}},
        .n = {{n, 0, b_transposed ? k : 1}},
        .k = {{k, a_transposed ? m : 1, b_transposed ? 1 : n}},
        .a_dtype = a_dtype, .b_dtype = b_dtype,
    };
    return shape;
}

static void test_products(void)
{
    static const int64_t sizes[][4] = {
        {1, 1, 1, 1},     {1, 1, 1, 1000},  {1, 2, 3, 5},      {1, 14, 32, 16},  {1, 15, 33, 17},    {1, 13, 31, 384}, {1, 29, 65, 385},
            {1, 8, 700, 769},
        {1, 128, 16, 31}, {1, 521, 47, 67}, {1, 64, 64, 2048}, {1, 1, 1031, 64}, {1, 1031, 1, 64},   {3, 17, 19, 23},  {7, 5, 40, 3},
            {48, 16, 16, 16},
        {1, 251, 337, 400}, {1, 600, 350, 800}, {2, 113, 321, 769}, {1, 3, 5000, 2}, {1, 5000, 3, 2},
        {1, 1100, 1050, 20}, {1, 440, 500, 385}, {1, 30, 48, 1024}, {1, 100, 1024, 96},
        {7, 1, 40, 19}, {5, 33, 1, 70}, {90, 1, 1, 24}, {3, 1, 2100, 6},
    };
    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int layout = 0; layout < 4; layout++) {
            const int narrow = (int)(i + (unsigned)layout) % 4;
            const int64_t *s = sizes[i];
            const mlc_contraction plain = product(s[0], s[1], s[2], s[3], layout & 1, layout >> 1, MLC_ELEMENT, MLC_ELEMENT);
            const mlc_contraction mixed = product(s[0], s[1], s[2], s[3], layout & 1, layout >> 1, narrow & 1 ? NARROW : MLC_ELEMENT,
                narrow >> 1 ? NARROW : MLC_ELEMENT);
            test_contraction(&plain);
            test_contraction(&mixed);
        }
}

/* Matrices of any shape, each with rows or columns side by side and the others some way apart: a page, or so that pairs are torn. */
static void test_pitches(void)
{
    static const int64_t extents[] = {1, 2, 3, 7, 13, 14, 15, 16, 17, 31, 32, 33, 48, 61, 97, 128, 129, 163, 200, 401};
    static const int64_t gaps[] = {0, 0, 0, 1, 2, 6, 16};
    for (int round = 0; round < 60; round++) {
        const int64_t m = extents[draw(20)], n = extents[draw(20)], k = draw(8) == 0 ? 700 + draw(500) : extents[draw(20)];
        const int a_columns = (int)draw(2), b_columns = (int)draw(2), page = draw(5) == 0;
        const int64_t of_a = page && m * k < 40000 ? 1024 : (a_columns ? m : k) + gaps[draw(7)];
        const int64_t of_b = page && n * k < 40000 ? 1024 : (b_columns ? k : n) + gaps[draw(7)];
        const mlc_contraction shape = {
            .m_rank = 1, .n_rank = 1, .k_rank = 1,
            .m = {{m, a_columns ? 1 : of_a, 0}},
            .n = {{n, 0, b_columns ? of_b : 1}},
            .k = {{k, a_columns ? of_a : 1, b_columns ? 1 : of_b}},
            .a_dtype = draw(2) ? NARROW : MLC_ELEMENT, .b_dtype = draw(2) ? NARROW : MLC_ELEMENT,
        };
        test_contraction(&shape);
    }
}

/* Operands that repeat what lies there: a stride of a, of b, or some of them, is 0. */
static void test_repeated(void)
{
    for (int round = 0; round < 64; round++) {
        const int64_t m = round & 16 ? 37 : 1 + draw(3), n = round & 32 ? 48 : 1 + draw(40), k = 20;
        const mlc_contraction shape = {
            .m_rank = 1, .n_rank = 1, .k_rank = 1,
            .m = {{m, round & 1 ? 0 : k, 0}},
            .n = {{n, 0, round & 2 ? 0 : 1}},
            .k = {{k, round & 4 ? 0 : 1, round & 8 ? 0 : n}},
            .a_dtype = draw(2) ? NARROW : MLC_ELEMENT, .b_dtype = draw(2) ? NARROW : MLC_ELEMENT,
        };
        test_contraction(&shape);
    }
}

/* Rows of bf16 on even and odd places, of even and odd depth: pairs of neighbours are words, or are torn. */
static void test_torn_pairs(void)
{
    for (int round = 0; round < 32; round++) {
        const int64_t depth = 16 + round % 2, row = 18 + round / 2 % 2, matrix = 5 * row + 1 + round / 4 % 2;
        const mlc_contraction shape = {
            .batch_rank = 1, .m_rank = 1, .n_rank = 1, .k_rank = 1,
            .batch = {{2, matrix, 0}}, .m = {{5, row, 0}}, .n = {{20, 0, 1}}, .k = {{depth, 1, 20}},
            .a_dtype = NARROW, .b_dtype = NARROW,
        };
        test_contraction(&shape);
    }
}

/* Shuffles the memory order of the indices of one operand, with gaps between rows now and then. */
static void set_strides(mlc_index **indices, int count, int of_b)
{
    int64_t stride = draw(8) == 0 ? 2 : 1;
    for (int i = count - 1; i > 0; i--) {
        const int64_t j = draw(i + 1);
        mlc_index *other = indices[j];
        indices[j] = indices[i];
        indices[i] = other;
    }
    for (int i = 0; i < count; i++) {
        *(of_b ? &indices[i]->b : &indices[i]->a) = stride;
        stride = stride * indices[i]->extent + (draw(4) == 0 ? draw(5) : 0);
    }
}

/* Rows 0 and 7 are seven elements apart, and rows 2 to 5 are elsewhere. */
static void test_scattered_rows(void)
{
    const mlc_contraction shape = {
        .m_rank = 3, .n_rank = 1,
        .m = {{16, 6, 0}, {3, 297, 0}, {2, 1, 0}},
        .n = {{7, 0, 4}},
        .a_dtype = NARROW, .b_dtype = MLC_ELEMENT,
    };
    test_contraction(&shape);
}

static void test_groups(void)
{
    static const int64_t extents[] = {1, 2, 3, 4, 5, 7, 8, 16, 17, 33};
    for (int round = 0; round < 150; round++) {
        mlc_contraction s = {.a_dtype = draw(3) == 0 ? NARROW : MLC_ELEMENT, .b_dtype = draw(3) == 0 ? NARROW : MLC_ELEMENT};
        s.batch_rank = (int32_t)draw(3), s.m_rank = (int32_t)draw(4), s.n_rank = (int32_t)draw(4), s.k_rank = (int32_t)draw(5);
        mlc_index *of_a[3 * MLC_INDICES], *of_b[3 * MLC_INDICES];
        int a_count = 0, b_count = 0;
        mlc_index *groups[4] = {s.batch, s.m, s.n, s.k};
        const int ranks[4] = {s.batch_rank, s.m_rank, s.n_rank, s.k_rank};
        int64_t size = 1;
        for (int g = 0; g < 4; g++)
            for (int i = 0; i < ranks[g]; i++) {
                groups[g][i].extent = size > 200000 ? 1 : extents[draw(g == 0 ? 3 : 10)];
                size *= groups[g][i].extent;
                if (g != 2)
                    of_a[a_count++] = groups[g] + i;
                if (g != 1)
                    of_b[b_count++] = groups[g] + i;
            }
        set_strides(of_a, a_count, 0);
        set_strides(of_b, b_count, 1);
        test_contraction(&s);
    }
}

/* Attention. */

/* The operands and results of one attention, each in a layout of its own. */
typedef struct attention_case {
    mlc_attention shape;
    array q, k, v, dy;
    const uint8_t *mask;
    array y, dq, dk, dv;
    mlc_element *lse;
} attention_case;

enum { TENSORS = 8 };

/* Strides of [batch, time, heads, size]: time or heads outermost of the two, rows apart by `gap`. Returns the span. */
static int64_t set_layout(int64_t batch, int64_t time, int64_t heads, int64_t size, int64_t *by_batch, int64_t *by_time, int64_t *by_head)
{
    const int64_t row = size + (draw(3) == 0 ? draw(7) : 0), heads_outer = draw(2);
    *by_time = heads_outer ? row : row * heads;
    *by_head = heads_outer ? row * time : row;
    *by_batch = row * time * heads;
    return (batch - 1) * *by_batch + (time - 1) * *by_time + (heads - 1) * *by_head + size;
}

static void run_attention(const mlc_env *env, const void *argument)
{
    const attention_case *x = argument;
    MLC_OF_ELEMENT(mlc_attention_forward)(env, &x->shape, x->q.base, x->k.base, x->v.base, x->mask, x->y.base, x->lse);
    mlc_barrier(env);
    MLC_OF_ELEMENT(mlc_attention_vjp)(env, &x->shape, x->q.base, x->k.base, x->v.base, x->mask, x->y.base, x->lse, x->dy.base, x->dq.base, x->dk.base,
        x->dv.base);
}

static attention_case attention_of(mlc_attention s, int masked)
{
    attention_case x = {.shape = s};
    mlc_attention *o = &x.shape;
    x.q = random_array(set_layout(s.batch, s.time, s.heads, s.head, &o->q_batch, &o->q_time, &o->q_head), s.dtype);
    x.k = random_array(set_layout(s.batch, s.keys, s.groups, s.head, &o->k_batch, &o->k_time, &o->k_head), s.dtype);
    x.v = random_array(set_layout(s.batch, s.keys, s.groups, s.value, &o->v_batch, &o->v_time, &o->v_head), s.dtype);
    x.dy = random_array(set_layout(s.batch, s.time, s.heads, s.value, &o->dy_batch, &o->dy_time, &o->dy_head), s.dtype);
    x.y = random_array(set_layout(s.batch, s.time, s.heads, s.value, &o->y_batch, &o->y_time, &o->y_head), s.dtype);
    x.dq = random_array(set_layout(s.batch, s.time, s.heads, s.head, &o->dq_batch, &o->dq_time, &o->dq_head), s.dtype);
    x.dk = random_array(set_layout(s.batch, s.keys, s.groups, s.head, &o->dk_batch, &o->dk_time, &o->dk_head), s.dtype);
    x.dv = random_array(set_layout(s.batch, s.keys, s.groups, s.value, &o->dv_batch, &o->dv_time, &o->dv_head), s.dtype);
    x.lse = malloc((size_t)(s.batch * s.heads * s.time) * sizeof(mlc_element));
    if (masked) {
        uint8_t *mask = malloc((size_t)(s.batch * s.keys));
        for (int64_t i = 0; i < s.batch * s.keys; i++)
            mask[i] = i % s.keys == 0 || draw(3) > 0;
        x.mask = mask;
    }
    return x;
}

/* Probabilities of one query, in double precision; returns the log of the sum. */
static double probabilities(const attention_case *x, int64_t b, int64_t h, int64_t t, double *p)
{
    const mlc_attention *s = &x->shape;
    const int64_t g = h / (s->heads / s->groups);
    double most = -INFINITY, sum = 0;
    for (int64_t j = 0; j < s->keys; j++) {
        p[j] = 0;
        for (int64_t i = 0; i < s->head; i++)
            p[j] += (double)get(&x->q, b * s->q_batch + t * s->q_time + h * s->q_head + i) * get(&x->k,
                b * s->k_batch + j * s->k_time + g * s->k_head + i);
        p[j] = (s->causal && j > t) || (x->mask && !x->mask[b * s->keys + j]) ? -INFINITY : p[j] * s->scale;
        most = fmax(most, p[j]);
    }
    for (int64_t j = 0; j < s->keys; j++)
        sum += exp(p[j] - most);
    for (int64_t j = 0; j < s->keys; j++)
        p[j] = exp(p[j] - most) / sum;
    return most + log(sum);
}

static void check_near(const array *x, int64_t i, double wanted, double size, const char *what)
{
    const double tolerance = x->dtype == MLC_ELEMENT ? 2e-5 * UNIT : 2e-2;
    check(fabs(get(x, i) - wanted) <= tolerance * (size + fabs(wanted)), what, get(x, i), wanted);
}

/* One (batch, group): y, lse and dq are checked, dk and dv summed over the heads of the group and checked. */
static void check_group(const attention_case *x, int64_t b, int64_t g)
{
    const mlc_attention *s = &x->shape;
    const int64_t ratio = s->heads / s->groups;
    double *p = malloc((size_t)s->keys * sizeof *p), *ds = malloc((size_t)s->keys * sizeof *ds);
    double *dk = calloc((size_t)(s->keys * s->head), sizeof *dk), *dv = calloc((size_t)(s->keys * s->value), sizeof *dv);
    for (int64_t h = g * ratio; h < (g + 1) * ratio; h++)
        for (int64_t t = 0; t < s->time; t++) {
            const double lse = probabilities(x, b, h, t, p);
            check(fabs(x->lse[(b * s->heads + h) * s->time + t] - lse) <= 1e-5 * UNIT * (1 + fabs(lse)), "lse",
                x->lse[(b * s->heads + h) * s->time + t], lse);
            double delta = 0;
            for (int64_t j = 0; j < s->keys; j++)
                ds[j] = 0;
            for (int64_t i = 0; i < s->value; i++) {
                const double dy = get(&x->dy, b * s->dy_batch + t * s->dy_time + h * s->dy_head + i);
                double y = 0;
                for (int64_t j = 0; j < s->keys; j++) {
                    const double v = get(&x->v, b * s->v_batch + j * s->v_time + g * s->v_head + i);
                    y += p[j] * v;
                    ds[j] += dy * v;
                    dv[j * s->value + i] += p[j] * dy;
                }
                delta += dy * y;
                check_near(&x->y, b * s->y_batch + t * s->y_time + h * s->y_head + i, y, 0.3, "y");
            }
            for (int64_t j = 0; j < s->keys; j++)
                ds[j] = p[j] * (ds[j] - delta) * s->scale;
            for (int64_t i = 0; i < s->head; i++) {
                double dq = 0;
                for (int64_t j = 0; j < s->keys; j++) {
                    dq += ds[j] * get(&x->k, b * s->k_batch + j * s->k_time + g * s->k_head + i);
                    dk[j * s->head + i] += ds[j] * get(&x->q, b * s->q_batch + t * s->q_time + h * s->q_head + i);
                }
                check_near(&x->dq, b * s->dq_batch + t * s->dq_time + h * s->dq_head + i, dq, 0.3, "dq");
            }
        }
    for (int64_t j = 0; j < s->keys; j++) {
        for (int64_t i = 0; i < s->head; i++)
            check_near(&x->dk, b * s->dk_batch + j * s->dk_time + g * s->dk_head + i, dk[j * s->head + i], 0.5, "dk");
        for (int64_t i = 0; i < s->value; i++)
            check_near(&x->dv, b * s->dv_batch + j * s->dv_time + g * s->dv_head + i, dv[j * s->value + i], 0.5, "dv");
    }
    free(p), free(ds), free(dk), free(dv);
}

static void test_attention(mlc_attention shape, int masked)
{
    attention_case x = attention_of(shape, masked);
    const size_t forward_bytes = MLC_ELEMENT_BYTES / 4 * (size_t)MLC_ATTENTION_FORWARD_SCRATCH_BYTES(shape.head, shape.value);
    const size_t vjp_bytes = MLC_ELEMENT_BYTES / 4 * (size_t)MLC_ATTENTION_VJP_SCRATCH_BYTES(shape.keys, shape.head, shape.value);
    const array results[4] = {x.y, x.dq, x.dk, x.dv};
    char *first[4];
    for (int t = 0; t < TEAMS; t++) {
        team_run(team_sizes[t], forward_bytes > vjp_bytes ? forward_bytes : vjp_bytes, NULL, run_attention, &x);
        for (int64_t item = 0; t == 0 && item < shape.batch * shape.groups; item++)
            check_group(&x, item / shape.groups, item % shape.groups);
        for (int i = 0; i < 4; i++) {
            const size_t bytes = (size_t)(results[i].count * mlc_element_bytes(shape.dtype));
            if (t == 0)
                first[i] = memcpy(malloc(bytes), results[i].base, bytes);
            check(memcmp(first[i], results[i].base, bytes) == 0, "attention, bits for threads", team_sizes[t], i);
        }
    }
    for (int i = 0; i < 4; i++) {
        free(first[i]);
        free(results[i].memory);
    }
    free(x.q.memory), free(x.k.memory), free(x.v.memory), free(x.dy.memory), free(x.lse), free((void *)x.mask);
}

static void test_attentions(void)
{
    static const int64_t sizes[][7] = {
        /* batch, time, keys, heads, groups, head, value */
        {1, 1, 1, 1, 1, 1, 1},      {2, 64, 64, 3, 3, 32, 32},    {1, 129, 129, 2, 1, 16, 16}, {1, 257, 257, 2, 2, 64, 64},
            {2, 65, 65, 4, 2, 80, 80},
        {1, 31, 31, 6, 2, 96, 48},  {1, 100, 100, 2, 2, 128, 65}, {1, 70, 70, 1, 1, 192, 128}, {1, 33, 97, 2, 2, 7, 13},
            {1, 150, 40, 3, 1, 24, 5},
        {3, 17, 17, 5, 5, 33, 31},  {1, 300, 70, 1, 1, 20, 40},
    };
    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int kind = 0; kind < 8; kind++) {
            const int64_t *n = sizes[i];
            const mlc_attention s = {.batch = n[0], .time = n[1], .keys = n[2], .heads = n[3], .groups = n[4], .head = n[5], .value = n[6],
                                     .scale = 1.5f / sqrtf((float)n[5]), .causal = kind & 1, .dtype = kind & 2 ? NARROW : MLC_ELEMENT};
            test_attention(s, kind >> 2);
        }
}

/* A query that sees no key: y is NaN, lse -inf, and it adds nothing to the gradients. */
static void test_blind_query(void)
{
    const mlc_attention s = {.batch = 1, .time = 5, .keys = 70, .heads = 1, .groups = 1, .head = 8, .value = 8, .scale = 1,
        .dtype = MLC_ELEMENT};
    attention_case x = attention_of(s, 1);
    memset((void *)x.mask, 0, 70);
    team_run(1, MLC_ELEMENT_BYTES / 4 * (size_t)MLC_ATTENTION_VJP_SCRATCH_BYTES(70, 8, 8), NULL, run_attention, &x);
    check(isnan(get(&x.y, 0)) && x.lse[0] == -INFINITY && get(&x.dq, 0) == 0 && get(&x.dk, 0) == 0 && get(&x.dv, 0) == 0, "blind query",
        get(&x.y, 0), NAN);
    const array arrays[TENSORS] = {x.q, x.k, x.v, x.dy, x.y, x.dq, x.dk, x.dv};
    for (int i = 0; i < TENSORS; i++)
        free(arrays[i].memory);
    free(x.lse), free((void *)x.mask);
}

/* One row of many, made alone, and the same of columns: not a bit differs. */
static void test_thin_of(int64_t n, int64_t k, int w_transposed, int w_dtype, int x_dtype)
{
    enum { ROWS = 5 };
    const array x = random_array(ROWS * k, x_dtype), w = random_array(n * k, w_dtype);
    mlc_element *all = malloc((size_t)(ROWS * n) * sizeof *all), *one = malloc((size_t)n * sizeof *one), *tall = malloc((size_t)n * sizeof *tall);
    const mlc_contraction many = product(1, ROWS, n, k, 0, w_transposed, x_dtype, w_dtype);
    const contract_case whole = {&many, &x, &w, all, ROWS, n};
    const size_t scratch = MLC_ELEMENT_BYTES / 4 * MLC_CONTRACT_SCRATCH_BYTES;
    memset(all, 0xFF, (size_t)(ROWS * n) * sizeof *all);
    team_run(1, scratch, NULL, run_contract, &whole);
    for (int row = 0; row < ROWS; row += 2) {
        const array vector = {.base = x.base + row * k * mlc_element_bytes(x_dtype), .count = k, .dtype = x_dtype};
        const mlc_contraction thin = product(1, 1, n, k, 0, w_transposed, x_dtype, w_dtype);
        mlc_contraction turned = product(1, n, 1, k, !w_transposed, 1, w_dtype, x_dtype);
        const contract_case of_row = {&thin, &vector, &w, one, 1, n}, of_column = {&turned, &w, &vector, tall, n, 1};
        memset(one, 0xFF, (size_t)n * sizeof *one), memset(tall, 0xFF, (size_t)n * sizeof *tall);
        team_run(team_sizes[row / 2], scratch, NULL, run_contract, &of_row);
        team_run(team_sizes[row / 2 + 1], scratch, NULL, run_contract, &of_column);
        check(memcmp(one, all + row * n, (size_t)n * sizeof *one) == 0, "one row, bits", (double)n, (double)k);
        check(memcmp(tall, one, (size_t)n * sizeof *one) == 0, "one column, bits", (double)n, (double)k);
    }
    free(all), free(one), free(tall), free(x.memory), free(w.memory);
}

static void test_thin(void)
{
    static const int64_t sizes[][2] = {{1, 1}, {7, 5}, {16, 384}, {33, 385}, {100, 1}, {1, 777}, {257, 768}, {2049, 40}, {4100, 9}, {48, 3072}};
    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int kind = 0; kind < 8; kind++)
            test_thin_of(sizes[i][0], sizes[i][1], kind & 1, kind & 2 ? NARROW : MLC_ELEMENT, kind & 4 ? NARROW : MLC_ELEMENT);
}

/* Attention of one time: keys behind it may hold anything. */
typedef struct next_case {
    const mlc_attention *shape;
    const void *q, *k, *v;
    int32_t time;
    void *y;
} next_case;

static void run_next(const mlc_env *env, const void *argument)
{
    const next_case *x = argument;
    MLC_OF_ELEMENT(mlc_attention_next)(env, x->shape, x->q, x->k, x->v, &x->time, x->y);
}

static void test_next_of(mlc_attention sizes)
{
    attention_case x = attention_of(sizes, 0);
    const mlc_attention s = x.shape;
    const int64_t bytes = mlc_element_bytes(s.dtype);
    team_run(1, MLC_ELEMENT_BYTES / 4 * (size_t)MLC_ATTENTION_VJP_SCRATCH_BYTES(s.keys, s.head, s.value), NULL, run_attention, &x);
    char *row = malloc((size_t)(s.batch * s.heads * s.value * bytes));
    mlc_attention next = s;
    next.time = 1, next.y_batch = s.heads * s.value, next.y_head = s.value;
    for (int32_t time = 0; time < s.time; time += time % 3 ? 7 : 1) {
        const next_case of = {&next, x.q.base + time * s.q_time * bytes, x.k.base, x.v.base, time, row};
        team_run(team_sizes[time % TEAMS], MLC_ELEMENT_BYTES / 4 * (size_t)MLC_ATTENTION_NEXT_SCRATCH_BYTES(s.head, s.value), NULL, run_next, &of);
        for (int64_t b = 0; b < s.batch; b++)
            for (int64_t h = 0; h < s.heads; h++)
                check(memcmp(row + (b * s.heads + h) * s.value * bytes,
                             x.y.base + (b * s.y_batch + time * s.y_time + h * s.y_head) * bytes, (size_t)(s.value * bytes)) == 0,
                      "attention of one time, bits", time, (double)h);
    }
    free(row);
    const array arrays[TENSORS] = {x.q, x.k, x.v, x.dy, x.y, x.dq, x.dk, x.dv};
    for (int i = 0; i < TENSORS; i++)
        free(arrays[i].memory);
    free(x.lse), free((void *)x.mask);
}

static void test_next(void)
{
    static const int64_t sizes[][6] = {{1, 1, 1, 1, 1, 1}, {2, 70, 3, 3, 32, 32}, {1, 200, 2, 1, 64, 64}, {2, 65, 4, 2, 7, 13}, {1, 300, 1, 1, 130, 65}};
    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int narrow = 0; narrow < 2; narrow++) {
            const int64_t *n = sizes[i];
            const mlc_attention s = {.batch = n[0], .time = n[1], .keys = n[1], .heads = n[2], .groups = n[3], .head = n[4], .value = n[5],
                                     .scale = 1.5f / sqrtf((float)n[4]), .causal = 1, .dtype = narrow ? NARROW : MLC_ELEMENT};
            test_next_of(s);
        }
}

#if MLC_ELEMENT_BYTES == 4

typedef struct append_case {
    const mlc_appending *shape;
    const char *kept, *added;
    int32_t time;
    char *to;
} append_case;

static void run_append(const mlc_env *env, const void *argument)
{
    const append_case *x = argument;
    mlc_append(env, x->shape, x->kept, x->added, &x->time, x->to);
}

/* Beside what it keeps, and in its place. */
static void test_append(void)
{
    char kept[3 * 5 * 4], added[3 * 4], beside[3 * 5 * 4];
    for (unsigned i = 0; i < sizeof kept; i++)
        kept[i] = (char)i;
    memset(added, 99, sizeof added);
    const mlc_appending shape = {3, 5, 4};
    const append_case apart = {&shape, kept, added, 3, beside}, over = {&shape, kept, added, 3, kept};
    team_run(2, 64, NULL, run_append, &apart);
    for (int i = 0; i < (int)sizeof kept; i++)
        check(beside[i] == (i / 4 % 5 == 3 ? 99 : i), "append", beside[i], i);
    team_run(3, 64, NULL, run_append, &over);
    check(memcmp(kept, beside, sizeof kept) == 0, "append in place", kept[12], beside[12]);
}

#endif

int main(void)
{
#if MLC_ELEMENT_BYTES == 4
    test_append();
#endif
    test_thin();
    test_next();
    test_products();
    test_scattered_rows();
    test_pitches();
    test_repeated();
    test_torn_pairs();
    test_groups();
    test_attentions();
    test_blind_query();
    printf(failures ? "%d failures\n" : "kernels: ok\n", failures);
    return failures != 0;
}
