/* contraction.c: binary contractions over index groups, packed and register-blocked (Goto and van de Geijn 2008).
 *
 * The result is cut into as many rectangles as there are threads. A thread walks its rectangle in blocks of c:
 *
 *   for each block of columns, for each block of rows
 *     for each block of k                                   (ascending; cut from the depth alone)
 *       pack b into panels of MLC_TILE_COLUMNS columns      (kept when the whole depth is one block)
 *       for each chunk of row panels: pack a, multiply panel by panel: c += a b
 *     epilogue
 *
 * An element of c is a sum over k blocks of sums over k, both ascending: its bits do not depend on where blocks of c lie.
 */
#include "pack.h"

enum {
    DEPTH = 384,          /* of a k block */
    COLUMN_PANELS = 320 / MLC_TILE_COLUMNS,
    COLUMNS = COLUMN_PANELS * MLC_TILE_COLUMNS,
    CHUNK_PANELS = 112 / MLC_TILE_ROWS, /* of a, packed at a time */
    ROW_PANELS = 532 / MLC_TILE_ROWS,   /* of a block of c */
    ROWS = ROW_PANELS * MLC_TILE_ROWS,
    A_PANEL = DEPTH * MLC_TILE_ROWS + MLC_STRIP, /* floats; a strip may write past its panel */
    B_PANEL = DEPTH * MLC_TILE_COLUMNS,
    C_PITCH = MLC_PITCH(COLUMNS),
};

/* What a thread works on, and its buffers in scratch. */
typedef struct contraction {
    const void *a, *b;
    int a_dtype, b_dtype;
    int batch_rank, m_rank, n_rank, k_rank;
    mlc_index batch[MLC_INDICES], m[MLC_INDICES], n[MLC_INDICES], k[MLC_INDICES];
    int64_t batches, rows, columns, depth;
    int64_t k_block; /* depth of a k block */
    float *a_panels, *b_panels, *c;
    int64_t *m_at, *n_at, *k_at;
} contraction;

enum {
    FLOATS = CHUNK_PANELS * A_PANEL + COLUMN_PANELS * B_PANEL + ROWS * C_PITCH,
    OFFSETS = ROWS + COLUMNS + DEPTH,
};
_Static_assert(4 * FLOATS + 8 * OFFSETS <= MLC_CONTRACT_SCRATCH_BYTES, "the buffers below do not fit");

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t parts_of(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* Drops indices of extent 1 and merges neighbours that are one index in memory. Returns the rank; *extent is the product. */
static int simplify(mlc_index *to, const mlc_index *from, int rank, int64_t *extent)
{
    int count = 0;
    *extent = 1;
    for (int i = 0; i < rank; i++) {
        *extent *= from[i].extent;
        if (from[i].extent == 1)
            continue;
        mlc_index *last = to + count - 1;
        if (count > 0 && last->a == from[i].a * from[i].extent && last->b == from[i].b * from[i].extent) {
            const mlc_index merged = {last->extent * from[i].extent, from[i].a, from[i].b};
            *last = merged;
        } else
            to[count++] = from[i];
    }
    return count;
}

/* offsets[i] = offset in a (or b) of element first + i of the group, i < count */
static void offsets_of(int64_t *offsets, const mlc_index *index, int rank, int64_t first, int64_t count, int of_b)
{
    if (rank == 0) {
        offsets[0] = 0;
        return;
    }
    const mlc_index inner = index[rank - 1];
    const int64_t stride = of_b ? inner.b : inner.a;
    for (int64_t i = 0; i < count;) {
        int64_t at = (first + i) % inner.extent * stride, outer = (first + i) / inner.extent;
        const int64_t run = least(inner.extent - (first + i) % inner.extent, count - i);
        for (int j = rank - 2; j >= 0; j--) {
            at += outer % index[j].extent * (of_b ? index[j].b : index[j].a);
            outer /= index[j].extent;
        }
        for (int64_t j = 0; j < run; j++)
            offsets[i + j] = at + j * stride;
        i += run;
    }
}

/* Elements of the group that lie side by side in a (or b); 1 when none do. */
static int64_t run_of(const mlc_index *index, int rank, int of_b)
{
    if (rank == 0)
        return 1;
    return (of_b ? index[rank - 1].b : index[rank - 1].a) == 1 ? index[rank - 1].extent : 1;
}

/* A packing reads along the longer of the two runs. */
static mlc_packing packing_of(const void *x, int dtype, int64_t lane_run, int64_t k_run)
{
    const mlc_packing packing = {.x = x, .dtype = dtype, .lane_run = lane_run, .k_run = lane_run < k_run ? k_run : 1};
    return packing;
}

static const void *shifted(const void *x, int dtype, int64_t elements)
{
    return (const char *)x + elements * (dtype == MLC_F32 ? 4 : 2);
}

/* First row of panel i of `panels` over `rows`: heights differ by one at most. */
static int64_t panel_row(int64_t rows, int64_t panels, int64_t i)
{
    return rows * i / panels;
}

static void pack_b(const contraction *s, const void *b, int64_t columns, int64_t k0, int64_t depth)
{
    enum { STRIP = MLC_TILE_COLUMNS < MLC_STRIP ? MLC_TILE_COLUMNS : MLC_STRIP };
    mlc_strip strips[COLUMNS / STRIP];
    int count = 0;
    for (int64_t j = 0; j < columns; j += STRIP) {
        float *panel = s->b_panels + j / MLC_TILE_COLUMNS * B_PANEL;
        const mlc_strip strip = {panel + j % MLC_TILE_COLUMNS, j, (int)least(STRIP, columns - j), STRIP};
        strips[count++] = strip;
    }
    offsets_of(s->k_at, s->k, s->k_rank, k0, depth, 1);
    mlc_packing packing = packing_of(b, s->b_dtype, run_of(s->n, s->n_rank, 1), run_of(s->k, s->k_rank, 1));
    packing.lanes = s->n_at;
    packing.ks = s->k_at;
    packing.k_begin = k0;
    packing.depth = depth;
    packing.pitch = MLC_TILE_COLUMNS;
    mlc_pack(&packing, strips, count);
}

/* Panels first to first + count - 1 of the `panels` over `rows`. k_at holds the offsets of the k block in a. */
static void pack_a(const contraction *s, const void *a, int64_t rows, int64_t panels, int64_t first, int64_t count, int64_t k0,
    int64_t depth)
{
    mlc_strip strips[CHUNK_PANELS];
    for (int64_t i = 0; i < count; i++) {
        const int64_t row = panel_row(rows, panels, first + i), height = panel_row(rows, panels, first + i + 1) - row;
        const mlc_strip strip = {s->a_panels + i * A_PANEL, row, (int)height, (int)height};
        strips[i] = strip;
    }
    mlc_packing packing = packing_of(a, s->a_dtype, run_of(s->m, s->m_rank, 0), run_of(s->k, s->k_rank, 0));
    packing.lanes = s->m_at;
    packing.ks = s->k_at;
    packing.k_begin = k0;
    packing.depth = depth;
    packing.pitch = MLC_TILE_ROWS;
    mlc_pack(&packing, strips, (int)count);
}

/* c (+)= a b for one chunk of row panels and all columns of the block */
static void multiply(const contraction *s, int64_t rows, int64_t panels, int64_t first, int64_t count, int64_t columns, int64_t depth,
    int add)
{
    for (int64_t i = 0; i < count; i++)
        for (int64_t j = 0; j < columns; j += MLC_TILE_COLUMNS) {
            const int64_t row = panel_row(rows, panels, first + i), height = panel_row(rows, panels, first + i + 1) - row;
            const int vectors = columns - j > MLC_LANES ? 2 : 1;
            const float *b = s->b_panels + j / MLC_TILE_COLUMNS * B_PANEL;
            mlc_tile((int)height, vectors, depth, s->a_panels + i * A_PANEL, MLC_TILE_ROWS, b, MLC_TILE_COLUMNS, s->c + row * C_PITCH + j,
                C_PITCH, add);
        }
}

/* One block of c. m_at and n_at hold its offsets; `packed`: b_panels hold b already. */
static void block(const contraction *s, const void *a, const void *b, int64_t rows, int64_t columns, int packed)
{
    const int64_t panels = parts_of(rows, MLC_TILE_ROWS);
    for (int64_t k0 = 0; k0 < s->depth; k0 += s->k_block) {
        const int64_t depth = least(s->k_block, s->depth - k0);
        if (!packed)
            pack_b(s, b, columns, k0, depth);
        offsets_of(s->k_at, s->k, s->k_rank, k0, depth, 0);
        for (int64_t first = 0; first < panels; first += CHUNK_PANELS) {
            const int64_t count = least(CHUNK_PANELS, panels - first);
            pack_a(s, a, rows, panels, first, count, k0, depth);
            multiply(s, rows, panels, first, count, columns, depth, k0 > 0);
        }
    }
}

/* The rectangle of one thread. */
typedef struct region {
    mlc_range batch, rows, columns;
} region;

static mlc_range part(int64_t extent, int64_t unit, int64_t parts, int64_t i)
{
    const int64_t units = parts_of(extent, unit);
    const mlc_range range = {units * i / parts * unit, least(units * (i + 1) / parts * unit, extent)};
    return range;
}

/* Time of the largest rectangle, in fused multiply-adds of one vector; packing an element costs about half of one. */
static double cost(const contraction *s, int64_t batches, int64_t rows, int64_t columns)
{
    const double vectors = (double)parts_of(columns, MLC_LANES), tall = rows < 4 ? 4.0 : (double)rows;
    const double packs_of_a = (double)parts_of(columns, COLUMNS), packs_of_b = s->depth > s->k_block ? (double)parts_of(rows, ROWS) : 1;
    return (double)batches * (tall * vectors + 0.5 * ((double)rows * packs_of_a + (double)columns * packs_of_b));
}

/* Cuts batch x rows x columns among the threads: the cheapest of all grids of that many rectangles. */
static region region_of(const contraction *s, const mlc_env *env)
{
    const int64_t threads = env->threads;
    int64_t best_b = 1, best_m = 1;
    double best = -1;
    for (int64_t tb = 1; tb <= threads; tb++) {
        if (threads % tb)
            continue;
        for (int64_t tm = 1; tm <= threads / tb; tm++) {
            if (threads / tb % tm)
                continue;
            const int64_t tn = threads / tb / tm;
            const double time = cost(s, parts_of(s->batches, tb), parts_of(s->rows, tm),
                parts_of(parts_of(s->columns, MLC_LANES), tn) * MLC_LANES);
            if (best < 0 || time < best) {
                best = time;
                best_b = tb;
                best_m = tm;
            }
        }
    }
    const int64_t best_n = threads / best_b / best_m, i = env->thread;
    const region r = {
        part(s->batches, 1, best_b, i / (best_m * best_n)),
        part(s->rows, 1, best_m, i / best_n % best_m),
        part(s->columns, MLC_LANES, best_n, i % best_n),
    };
    return r;
}

static void run_batch(const contraction *s, const mlc_env *env, const region *r, int64_t batch, mlc_epilogue epilogue, const void *closure)
{
    int64_t at_a, at_b;
    offsets_of(&at_a, s->batch, s->batch_rank, batch, 1, 0);
    offsets_of(&at_b, s->batch, s->batch_rank, batch, 1, 1);
    const void *a = shifted(s->a, s->a_dtype, at_a), *b = shifted(s->b, s->b_dtype, at_b);
    const int single = s->depth <= s->k_block;
    const int64_t rows = r->rows.end - r->rows.begin, columns = r->columns.end - r->columns.begin;
    const int64_t row_blocks = parts_of(rows, single ? CHUNK_PANELS * MLC_TILE_ROWS : ROWS), column_blocks = parts_of(columns, COLUMNS);
    for (int64_t j = 0; j < column_blocks; j++) {
        const mlc_range n = part(columns, MLC_TILE_COLUMNS, column_blocks, j);
        offsets_of(s->n_at, s->n, s->n_rank, r->columns.begin + n.begin, n.end - n.begin, 1);
        for (int64_t i = 0; i < row_blocks; i++) {
            const mlc_range m = part(rows, 1, row_blocks, i);
            offsets_of(s->m_at, s->m, s->m_rank, r->rows.begin + m.begin, m.end - m.begin, 0);
            block(s, a, b, m.end - m.begin, n.end - n.begin, single && i > 0);
            epilogue(env, closure, s->c, C_PITCH, batch, r->rows.begin + m.begin, m.end - m.begin, r->columns.begin + n.begin,
                n.end - n.begin);
        }
    }
}

void mlc_contract(const mlc_env *env, const mlc_contraction *contraction_, const void *a, const void *b, mlc_epilogue epilogue,
    const void *closure)
{
    contraction s = {.a = a, .b = b, .a_dtype = contraction_->a_dtype, .b_dtype = contraction_->b_dtype};
    s.batch_rank = simplify(s.batch, contraction_->batch, contraction_->batch_rank, &s.batches);
    s.m_rank = simplify(s.m, contraction_->m, contraction_->m_rank, &s.rows);
    s.n_rank = simplify(s.n, contraction_->n, contraction_->n_rank, &s.columns);
    s.k_rank = simplify(s.k, contraction_->k, contraction_->k_rank, &s.depth);
    s.k_block = parts_of(parts_of(s.depth, parts_of(s.depth, DEPTH)), 16) * 16;
    s.b_panels = (float *)env->scratch;
    s.a_panels = s.b_panels + COLUMN_PANELS * B_PANEL;
    s.c = s.a_panels + CHUNK_PANELS * A_PANEL;
    s.m_at = (int64_t *)(s.c + ROWS * C_PITCH);
    s.n_at = s.m_at + ROWS;
    s.k_at = s.n_at + COLUMNS;
    const region r = region_of(&s, env);
    if (r.rows.begin == r.rows.end || r.columns.begin == r.columns.end)
        return;
    for (int64_t batch = r.batch.begin; batch < r.batch.end; batch++)
        run_batch(&s, env, &r, batch, epilogue, closure);
}
