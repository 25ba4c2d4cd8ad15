/* attention.c: softmax attention and its derivative by blocks of queries and keys, no T x T buffer (Dao et al. 2022).
 *
 * In comments s is a score before scaling, p = exp(scale s - lse) a probability, q a query and k a key within their blocks.
 * Operands of tiles have the summed index first, so the forward pass keeps scores as [key][query]: maxima and sums over keys are
 * then sums of rows, and p is at once the operand of y = p v. The derivative sums p over queries: it keeps them as [query][key].
 * q, k, v, y are elements of the tile, or bf16 where that is f32: packing refuses the rest. Rows of elements are operands where they lie;
 * packed are bf16, rows that collide in a cache, and vectors of more than what lies there. All buffers are elements in scratch; block sizes and pitches are those that mlc_kernel.h counts.
 */
#include <stddef.h>

#include "pack.h"

enum { QUERIES = MLC_QUERY_BLOCK, KEYS = MLC_KEY_BLOCK, QUERY_PITCH = MLC_PITCH(QUERIES), KEY_PITCH = MLC_PITCH(KEYS) };

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t padded(int64_t n)
{
    return (n + MLC_STRIP - 1) / MLC_STRIP * MLC_STRIP;
}

static const void *at(const void *x, int dtype, int64_t elements)
{
    return (const char *)x + elements * mlc_element_bytes(dtype);
}

static mlc_element *take(mlc_element **scratch, int64_t elements)
{
    mlc_element *taken = *scratch;
    *scratch += elements;
    return taken;
}

/* Keys of the block at `key` that the query at `query` sees, of `keys`: a first part of them. */
static int64_t seen_by(const mlc_attention *s, int64_t query, int64_t key, int64_t keys)
{
    const int64_t seen = s->causal ? least(keys, query - key + 1) : keys;
    return seen < 0 ? 0 : seen;
}

/* Height of the row panels that `rows` are cut into, as equal as can be. */
static int64_t panel_height(int64_t rows)
{
    const int64_t panels = (rows + MLC_TILE_ROWS - 1) / MLC_TILE_ROWS;
    return (rows + panels - 1) / panels;
}

/* An operand of the tile: strides of its rows (or 1: of its columns) and of what is summed over. */
typedef struct operand {
    const mlc_element *x;
    int64_t row, k;
} operand;

/* Rows of a buffer that has what is summed over first. */
static operand packed(const mlc_element *x, int64_t pitch)
{
    const operand found = {x, 1, pitch};
    return found;
}

static operand from(operand x, int64_t row)
{
    x.x += row * x.row;
    return x;
}

/* x[rows][depth], rows `stride` apart, as the rows of a product: where it lies, or packed as [depth][pitch]. */
static operand rows_of(const mlc_attention *s, const void *x, int64_t stride, int64_t rows, int64_t depth, mlc_element *to, int64_t pitch)
{
    const operand here = {x, stride, 1};
    if (s->dtype == MLC_ELEMENT && !mlc_collides(stride))
        return here;
    MLC_OF_ELEMENT(mlc_pack_transposed)(to, pitch, x, s->dtype, stride, rows, depth);
    return packed(to, pitch);
}

/* x[depth][columns], `stride` apart, as the columns of a product: where it lies if that is whole vectors, or packed as [depth][pitch]. */
static operand columns_of(const mlc_attention *s, const void *x, int64_t stride, int64_t depth, int64_t columns, mlc_element *to, int64_t pitch)
{
    const operand here = {x, 1, stride};
    if (s->dtype == MLC_ELEMENT && columns % MLC_LANES == 0 && !mlc_collides(stride))
        return here;
    MLC_OF_ELEMENT(mlc_pack_rows)(to, pitch, x, s->dtype, stride, depth, columns);
    return packed(to, pitch);
}

/* c[rows][columns] (+)= sum over depth of a[rows][depth] b[depth][columns]; columns are rounded up to whole vectors. */
static void multiply(int64_t rows, int64_t columns, int64_t depth, operand a, operand b, mlc_element *c, int64_t c_pitch, int add)
{
    if (rows == 0)
        return;
    const int64_t height = panel_height(rows);
    for (int64_t i = 0; i < rows; i += height)
        for (int64_t j = 0; j < columns; j += MLC_TILE_COLUMNS)
            MLC_OF_ELEMENT(mlc_tile)((int)least(height, rows - i), columns - j > MLC_LANES ? 2 : 1, depth, from(a, i).x, a.row,
                a.k, b.x + j, b.k, c + i * c_pitch + j, c_pitch, add, NULL);
}

/* Writes rows as the dtype of the result, each divided by its divisor if there are divisors. */
static void store_rows(void *to, int dtype, int64_t stride, const mlc_element *from, int64_t pitch, int64_t rows, int64_t columns,
    const mlc_element *divisors)
{
    for (int64_t i = 0; i < rows; i++) {
        const mlc_element *x = from + i * pitch;
        const mlc_element divisor = divisors ? divisors[i] : 1;
        if (dtype == MLC_BF16) {
            uint16_t *y = (uint16_t *)to + i * stride;
            MLC_SIMD for (int64_t j = 0; j < columns; j++) y[j] = mlc_bf16_of_f32((float)(x[j] / divisor));
        } else {
            mlc_element *y = (mlc_element *)to + i * stride;
            MLC_SIMD for (int64_t j = 0; j < columns; j++) y[j] = x[j] / divisor;
        }
    }
}

/* Forward: one block of queries of one head. */
typedef struct forward {
    const mlc_attention *shape;
    const void *k, *v;      /* of this head */
    const uint8_t *mask;    /* [keys] of this batch index, or NULL */
    int64_t query, queries; /* the first, and how many */
    mlc_element *queries_dq;      /* q^T [head][QUERY_PITCH] */
    mlc_element *keys_dk;         /* k^T [head][KEY_PITCH] */
    mlc_element *values_ke;       /* v [KEYS][MLC_PITCH(value)] */
    mlc_element *p_kq;            /* scores, then probabilities times `sum`, [KEYS][QUERY_PITCH] */
    mlc_element *y_qe;            /* y times `sum` [QUERIES][MLC_PITCH(value)] */
    mlc_element *most, *sum;      /* of a query, over the keys so far: largest scaled score; sum of exp(scaled score - most) */
    mlc_element *shrink;          /* exp(most before - most) */
    mlc_element *shift;           /* `most`, or 0 while it is -inf */
} forward;

/* Scores of the keys `k` of the block at `key`, and of `columns` queries from q on. */
static void forward_scores(const forward *f, operand k, int64_t q, int64_t columns, int64_t key, int64_t keys)
{
    const int64_t seen = seen_by(f->shape, f->query + q + columns - 1, key, keys);
    multiply(seen, columns, f->shape->head, k, packed(f->queries_dq + q, QUERY_PITCH), f->p_kq + q, QUERY_PITCH, 0);
}

/* Scores of one vector of queries from q on become probabilities, unseen ones 0; `most`, `sum` and `shrink` are brought up to date. */
static void forward_softmax(const forward *f, int64_t q, int64_t key, int64_t keys)
{
    const mlc_attention *s = f->shape;
    const uint8_t *mask = f->mask ? f->mask + key : NULL;
    const int64_t all = s->causal ? f->query + q - key + 1 : keys; /* keys that each of the queries sees: the first so many */
    const int64_t seen = seen_by(s, f->query + q + MLC_LANES - 1, key, keys);
    const mlc_vector_int last = mlc_vector_count((int32_t)(all < 0 ? -MLC_LANES : all) - 1); /* key that each query sees last */
    const mlc_vector scale = mlc_vector_of((mlc_element)s->scale), nothing = mlc_vector_of(-__builtin_inff()), zero = {0};
    const mlc_vector before = mlc_vector_load(f->most + q);
    mlc_element *p = f->p_kq + q;
    mlc_vector most = before;
    for (int64_t k = 0; k < seen; k++) {
        mlc_vector x = mlc_vector_load(p + k * QUERY_PITCH) * scale;
        if (mask && !mask[k])
            x = nothing;
        if (k >= all)
            x = mlc_vector_select(last >= (int32_t)k, x, nothing);
        mlc_vector_store(p + k * QUERY_PITCH, x);
        most = mlc_vector_larger(x, most);
    }
    const mlc_vector shift = mlc_vector_select(most == nothing, zero, most), shrink = mlc_vector_exp(before - shift);
    mlc_vector sum = mlc_vector_load(f->sum + q) * shrink;
    for (int64_t k = 0; k < seen; k++) {
        const mlc_vector x = mlc_vector_exp(mlc_vector_load(p + k * QUERY_PITCH) - shift);
        mlc_vector_store(p + k * QUERY_PITCH, x);
        sum += x;
    }
    for (int64_t k = seen; k < keys; k++)
        mlc_vector_store(p + k * QUERY_PITCH, zero);
    mlc_vector_store(f->most + q, most);
    mlc_vector_store(f->sum + q, sum);
    mlc_vector_store(f->shrink + q, shrink);
}

/* y = shrink y + p v */
static void forward_values(const forward *f, int64_t key, int64_t keys)
{
    const mlc_attention *s = f->shape;
    const int64_t pitch = MLC_PITCH(s->value), height = panel_height(f->queries);
    const operand v = columns_of(s, at(f->v, s->dtype, key * s->v_time), s->v_time, keys, s->value, f->values_ke, pitch);
    for (int64_t q = 0; key > 0 && q < f->queries; q++) {
        const mlc_element shrink = f->shrink[q];
        mlc_element *y = f->y_qe + q * pitch;
        if (shrink != 1)
            MLC_SIMD for (int64_t j = 0; j < s->value; j++) y[j] *= shrink;
    }
    for (int64_t q = 0; q < f->queries; q += height) {
        const int64_t rows = least(height, f->queries - q), seen = seen_by(s, f->query + q + rows - 1, key, keys);
        if (seen > 0)
            multiply(rows, s->value, seen, packed(f->p_kq + q, QUERY_PITCH), v, f->y_qe + q * pitch, pitch, key > 0);
    }
}

static void forward_block(const forward *f)
{
    const mlc_attention *s = f->shape;
    for (int64_t q = 0; q < padded(f->queries); q++) {
        f->most[q] = -__builtin_inff();
        f->sum[q] = 0;
    }
    for (int64_t key = 0; key < s->keys; key += KEYS) {
        const int64_t keys = seen_by(s, f->query + f->queries - 1, key, least(KEYS, s->keys - key));
        if (keys == 0)
            break;
        const operand k = rows_of(s, at(f->k, s->dtype, key * s->k_time), s->k_time, keys, s->head, f->keys_dk, KEY_PITCH);
        for (int64_t q = 0; q < padded(f->queries); q += MLC_TILE_COLUMNS) { /* a strip of scores stays in the first cache */
            const int64_t columns = least(MLC_TILE_COLUMNS, padded(f->queries) - q);
            forward_scores(f, k, q, columns, key, keys);
            for (int64_t i = 0; i < columns; i += MLC_LANES)
                forward_softmax(f, q + i, key, keys);
        }
        forward_values(f, key, keys);
    }
}

/* Long and short causal blocks in turn, so that equal shares of items are about equal work. */
static int64_t query_block(int64_t i, int64_t blocks)
{
    return i % 2 ? blocks - 1 - i / 2 : i / 2;
}

void MLC_OF_ELEMENT(mlc_attention_forward)(const mlc_env *env, const mlc_attention *s, const void *q, const void *k, const void *v, const uint8_t *mask,
    void *y, mlc_element *lse)
{
    const int64_t blocks = (s->time + QUERIES - 1) / QUERIES, pitch = MLC_PITCH(s->value);
    mlc_element *scratch = (mlc_element *)env->scratch;
    forward f = {.shape = s};
    f.p_kq = take(&scratch, KEYS * QUERY_PITCH);
    f.most = take(&scratch, QUERY_PITCH);
    f.sum = take(&scratch, QUERY_PITCH);
    f.shrink = take(&scratch, QUERY_PITCH);
    f.values_ke = take(&scratch, KEYS * pitch);
    f.y_qe = take(&scratch, QUERIES * pitch);
    f.queries_dq = take(&scratch, s->head * QUERY_PITCH);
    f.keys_dk = take(&scratch, s->head * KEY_PITCH);
    const mlc_range range = mlc_share(env, s->batch * s->heads * blocks);
    for (int64_t item = range.begin; item < range.end; item++) {
        const int64_t b = item / blocks / s->heads, h = item / blocks % s->heads, g = h / (s->heads / s->groups);
        f.query = query_block(item % blocks, blocks) * QUERIES;
        f.queries = least(QUERIES, s->time - f.query);
        f.k = at(k, s->dtype, b * s->k_batch + g * s->k_head);
        f.v = at(v, s->dtype, b * s->v_batch + g * s->v_head);
        f.mask = mask ? mask + b * s->keys : NULL;
        MLC_OF_ELEMENT(mlc_pack_transposed)(f.queries_dq, QUERY_PITCH, at(q, s->dtype, b * s->q_batch + f.query * s->q_time + h * s->q_head), s->dtype,
            s->q_time, f.queries, s->head);
        forward_block(&f);
        store_rows((void *)at(y, s->dtype, b * s->y_batch + f.query * s->y_time + h * s->y_head), s->dtype, s->y_time, f.y_qe, pitch,
            f.queries, s->value, f.sum);
        mlc_element *to = lse + (b * s->heads + h) * s->time + f.query;
        MLC_SIMD for (int64_t i = 0; i < f.queries; i++) to[i] = f.most[i] + MLC_OF_ELEMENT(mlc_log)(f.sum[i]);
    }
}

/* Derivative: one block of queries of one head against the keys of its group. d_x is the gradient of x. */
typedef struct backward {
    const mlc_attention *shape;
    const void *k, *v;        /* of this group */
    const uint8_t *mask;      /* [keys] of this batch index, or NULL */
    int64_t query, queries;   /* the first, and how many */
    int64_t d_pitch, e_pitch; /* MLC_PITCH of head and of value */
    mlc_element *q_dq, *q_qd;       /* q^T [head][QUERY_PITCH], q [QUERIES][d_pitch] */
    mlc_element *dy_eq, *dy_qe;     /* dy^T [value][QUERY_PITCH], dy [QUERIES][e_pitch] */
    mlc_element *k_dk, *k_kd;       /* k^T [head][KEY_PITCH], k [KEYS][d_pitch] */
    mlc_element *v_ek;              /* v^T [value][KEY_PITCH] */
    mlc_element *p_qk;              /* scores, then probabilities [QUERIES][KEY_PITCH] */
    mlc_element *ds_qk;             /* gradient of p, then of the unscaled scores [QUERIES][KEY_PITCH] */
    operand q_rows, dy_rows;        /* q and dy by query */
    operand q_columns, dy_columns;  /* the same, summed over queries */
    operand k_columns;              /* k, summed over keys */
    mlc_element *lse, *delta;       /* of a query; delta: sum of dy y */
    mlc_element_int *visible; /* of a key of the block: -1, or 0 where the mask hides it */
    mlc_element *dq_qd;             /* [QUERIES][d_pitch] */
    mlc_element *dk_kd, *dv_ke;     /* [all keys][d_pitch], [all keys][e_pitch] */
} backward;

/* p_qk = q k^T and ds_qk = dy v^T of some queries, as far as they see keys. */
static void backward_scores(const backward *f, int64_t q, int64_t rows, int64_t key, int64_t keys)
{
    const mlc_attention *s = f->shape;
    const int64_t seen = seen_by(s, f->query + q + rows - 1, key, keys);
    multiply(rows, seen, s->head, from(f->q_rows, q), packed(f->k_dk, KEY_PITCH), f->p_qk + q * KEY_PITCH, KEY_PITCH, 0);
    multiply(rows, seen, s->value, from(f->dy_rows, q), packed(f->v_ek, KEY_PITCH), f->ds_qk + q * KEY_PITCH, KEY_PITCH, 0);
}

/* Scores of a query become probabilities, and ds_qk the gradient of the unscaled scores; both 0 where it does not see a key. */
static void backward_probabilities(const backward *f, int64_t q, int64_t key, int64_t keys)
{
    const mlc_vector scale = mlc_vector_of((mlc_element)f->shape->scale), zero = {0};
    mlc_element *p = f->p_qk + q * KEY_PITCH, *ds = f->ds_qk + q * KEY_PITCH;
    const int32_t seen = (int32_t)seen_by(f->shape, f->query + q, key, keys);
    const mlc_vector lse = mlc_vector_of(f->lse[q]), delta = mlc_vector_of(f->delta[q]);
    int32_t k = 0;
    for (; k < seen; k += MLC_LANES) {
        const mlc_vector_int sees = (mlc_vector_count(k) < seen) & mlc_vector_load_int(f->visible + k);
        const mlc_vector x = mlc_vector_exp(mlc_vector_fma(mlc_vector_load(p + k), scale, -lse));
        mlc_vector_store(ds + k, mlc_vector_select(sees, x * (mlc_vector_load(ds + k) - delta) * scale, zero));
        mlc_vector_store(p + k, mlc_vector_select(sees, x, zero));
    }
    for (; k < padded(keys); k += MLC_LANES) {
        mlc_vector_store(p + k, zero);
        mlc_vector_store(ds + k, zero);
    }
}

/* p_qk and ds_qk of the block of keys: some queries at a time, whose scores stay in the first cache. */
static void backward_both(const backward *f, int64_t key, int64_t keys)
{
    const int64_t height = panel_height(f->queries);
    for (int64_t q = 0; q < f->queries; q += height) {
        const int64_t rows = least(height, f->queries - q);
        backward_scores(f, q, rows, key, keys);
        for (int64_t i = 0; i < rows; i++)
            backward_probabilities(f, q + i, key, keys);
    }
}

/* The operand from the k-th of what is summed over on. */
static operand later(operand x, int64_t k)
{
    x.x += k * x.k;
    return x;
}

/* dv += p^T dy, dk += ds^T q, dq += ds k */
static void backward_gradients(const backward *f, int64_t key, int64_t keys)
{
    const mlc_attention *s = f->shape;
    const int64_t d = f->d_pitch, e = f->e_pitch, key_height = panel_height(keys), query_height = panel_height(f->queries);
    for (int64_t k = 0; k < keys; k += key_height) {
        const int64_t first = s->causal && key + k > f->query ? key + k - f->query : 0, depth = f->queries - first,
            rows = least(key_height, keys - k);
        if (depth <= 0)
            break;
        const mlc_element *p = f->p_qk + first * KEY_PITCH + k, *ds = f->ds_qk + first * KEY_PITCH + k;
        multiply(rows, s->value, depth, packed(p, KEY_PITCH), later(f->dy_columns, first), f->dv_ke + (key + k) * e, e, 1);
        multiply(rows, s->head, depth, packed(ds, KEY_PITCH), later(f->q_columns, first), f->dk_kd + (key + k) * d, d, 1);
    }
    for (int64_t q = 0; q < f->queries; q += query_height) {
        const int64_t rows = least(query_height, f->queries - q), seen = seen_by(s, f->query + q + rows - 1, key, keys);
        const operand ds = {f->ds_qk + q * KEY_PITCH, KEY_PITCH, 1};
        if (seen > 0)
            multiply(rows, s->head, seen, ds, f->k_columns, f->dq_qd + q * d, d, key > 0);
    }
}

static void backward_block(backward *f)
{
    const mlc_attention *s = f->shape;
    for (int64_t key = 0; key < s->keys; key += KEYS) {
        const int64_t keys = seen_by(s, f->query + f->queries - 1, key, least(KEYS, s->keys - key));
        if (keys == 0)
            break;
        const void *k = at(f->k, s->dtype, key * s->k_time);
        MLC_OF_ELEMENT(mlc_pack_transposed)(f->k_dk, KEY_PITCH, k, s->dtype, s->k_time, keys, s->head);
        f->k_columns = columns_of(s, k, s->k_time, keys, s->head, f->k_kd, f->d_pitch);
        MLC_OF_ELEMENT(mlc_pack_transposed)(f->v_ek, KEY_PITCH, at(f->v, s->dtype, key * s->v_time), s->dtype, s->v_time, keys, s->value);
        for (int64_t i = 0; i < padded(keys); i++)
            f->visible[i] = -(i < keys && (!f->mask || f->mask[key + i]));
        backward_both(f, key, keys);
        backward_gradients(f, key, keys);
    }
}

/* Lane by lane, sums over the value dim of dy y of one query; what is behind the last whole vector joins the first lane. */
MLC_INLINE mlc_vector delta_of_query(const mlc_element *dy, const void *y, const int bf16, int64_t values)
{
    const uint16_t *narrow = y;
    const mlc_element *wide = y;
    mlc_vector sum = {0};
    int64_t j = 0;
    for (; j + MLC_LANES <= values; j += MLC_LANES) {
        mlc_vector row = {0};
        if (bf16)
            MLC_SIMD for (int i = 0; i < MLC_LANES; i++) row[i] = (mlc_element)mlc_f32_of_bf16(narrow[j + i]);
        else
            row = mlc_vector_load(wide + j);
        sum += mlc_vector_load(dy + j) * row;
    }
    for (; j < values; j++)
        sum[0] += dy[j] * (bf16 ? (mlc_element)mlc_f32_of_bf16(narrow[j]) : wide[j]);
    return sum;
}

/* delta[q] = sum over the value dim of dy y. Sums of queries lie below each other, p_qk; what was lanes is added up for many at once. */
static void backward_delta(const backward *f, const void *y)
{
    const mlc_attention *s = f->shape;
    for (int64_t q = 0; q < f->queries; q++) {
        const mlc_element *dy = later(f->dy_columns, q).x;
        const void *row = at(y, s->dtype, q * s->y_time);
        const mlc_vector sum = s->dtype == MLC_BF16 ? delta_of_query(dy, row, 1, s->value) : delta_of_query(dy, row, 0, s->value);
        mlc_vector_store(f->p_qk + q * MLC_LANES, sum);
    }
    MLC_OF_ELEMENT(mlc_pack_transposed)(f->ds_qk, QUERY_PITCH, f->p_qk, MLC_ELEMENT, MLC_LANES, f->queries, MLC_LANES);
    for (int64_t q = 0; q < f->queries; q += MLC_LANES) {
        mlc_vector sum = mlc_vector_load(f->ds_qk + q);
        for (int64_t i = 1; i < MLC_LANES; i++)
            sum += mlc_vector_load(f->ds_qk + i * QUERY_PITCH + q);
        mlc_vector_store(f->delta + q, sum);
    }
}

static backward backward_of(const mlc_env *env, const mlc_attention *s)
{
    mlc_element *scratch = (mlc_element *)env->scratch;
    backward f = {.shape = s, .d_pitch = MLC_PITCH(s->head), .e_pitch = MLC_PITCH(s->value)};
    f.p_qk = take(&scratch, QUERIES * KEY_PITCH);
    f.ds_qk = take(&scratch, QUERIES * KEY_PITCH);
    f.lse = take(&scratch, QUERY_PITCH);
    f.delta = take(&scratch, QUERY_PITCH);
    f.visible = (mlc_element_int *)take(&scratch, QUERY_PITCH);
    f.q_qd = take(&scratch, QUERIES * f.d_pitch);
    f.dy_qe = take(&scratch, QUERIES * f.e_pitch);
    f.dq_qd = take(&scratch, QUERIES * f.d_pitch);
    f.k_kd = take(&scratch, KEYS * f.d_pitch);
    f.q_dq = take(&scratch, s->head * QUERY_PITCH);
    f.dy_eq = take(&scratch, s->value * QUERY_PITCH);
    f.k_dk = take(&scratch, s->head * KEY_PITCH);
    f.v_ek = take(&scratch, s->value * KEY_PITCH);
    f.dk_kd = take(&scratch, s->keys * f.d_pitch);
    f.dv_ke = take(&scratch, s->keys * f.e_pitch);
    return f;
}

void MLC_OF_ELEMENT(mlc_attention_vjp)(const mlc_env *env, const mlc_attention *s, const void *q, const void *k, const void *v, const uint8_t *mask,
    const void *y, const mlc_element *lse, const void *dy, void *dq, void *dk, void *dv)
{
    const int64_t ratio = s->heads / s->groups, blocks = (s->time + QUERIES - 1) / QUERIES;
    backward f = backward_of(env, s);
    const mlc_range range = mlc_share(env, s->batch * s->groups);
    for (int64_t item = range.begin; item < range.end; item++) {
        const int64_t b = item / s->groups, g = item % s->groups;
        f.k = at(k, s->dtype, b * s->k_batch + g * s->k_head);
        f.v = at(v, s->dtype, b * s->v_batch + g * s->v_head);
        f.mask = mask ? mask + b * s->keys : NULL;
        __builtin_memset(f.dk_kd, 0, (size_t)(s->keys * (f.d_pitch + f.e_pitch)) * sizeof(mlc_element)); /* dv_ke follows */
        for (int64_t i = 0; i < ratio * blocks; i++) {
            const int64_t h = g * ratio + i / blocks;
            f.query = i % blocks * QUERIES;
            f.queries = least(QUERIES, s->time - f.query);
            const void *q_block = at(q, s->dtype, b * s->q_batch + f.query * s->q_time + h * s->q_head);
            const void *dy_block = at(dy, s->dtype, b * s->dy_batch + f.query * s->dy_time + h * s->dy_head);
            f.q_rows = rows_of(s, q_block, s->q_time, f.queries, s->head, f.q_dq, QUERY_PITCH);
            f.q_columns = columns_of(s, q_block, s->q_time, f.queries, s->head, f.q_qd, f.d_pitch);
            f.dy_rows = rows_of(s, dy_block, s->dy_time, f.queries, s->value, f.dy_eq, QUERY_PITCH);
            f.dy_columns = columns_of(s, dy_block, s->dy_time, f.queries, s->value, f.dy_qe, f.e_pitch);
            __builtin_memcpy(f.lse, lse + (b * s->heads + h) * s->time + f.query, (size_t)f.queries * sizeof(mlc_element));
            backward_delta(&f, at(y, s->dtype, b * s->y_batch + f.query * s->y_time + h * s->y_head));
            backward_block(&f);
            store_rows((void *)at(dq, s->dtype, b * s->dq_batch + f.query * s->dq_time + h * s->dq_head), s->dtype, s->dq_time, f.dq_qd,
                f.d_pitch, f.queries, s->head, NULL);
        }
        store_rows((void *)at(dk, s->dtype, b * s->dk_batch + g * s->dk_head), s->dtype, s->dk_time, f.dk_kd, f.d_pitch, s->keys, s->head,
            NULL);
        store_rows((void *)at(dv, s->dtype, b * s->dv_batch + g * s->dv_head), s->dtype, s->dv_time, f.dv_ke, f.e_pitch, s->keys,
            s->value, NULL);
    }
}
