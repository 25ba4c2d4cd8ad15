/* contraction.c: binary contractions over index groups, packed and register-blocked (Goto and van de Geijn 2008).
 *
 * The result is cut into as many rectangles as there are threads. A thread walks its rectangle in blocks of c. In a block one
 * operand stays, the other one passes by in chunks, so that each is packed as seldom as can be:
 *
 *   for each block of rows and columns
 *     for each block of k                                      (ascending; cut from the depth alone)
 *       pack the operand that stays into panels                (kept for the next block when the whole depth is one block)
 *       for each chunk of the other one: pack it, and multiply panel by panel: c += a b
 *         after the last block of k: epilogue of each piece of c, a row panel by some columns, while it is in the first cache
 *
 * Panels of a have MLC_TILE_ROWS rows, panels of b MLC_TILE_COLUMNS columns; both have k outside.
 * An element of c is a sum over k blocks of sums over k, both ascending: its bits do not depend on where blocks of c lie.
 */
#include "pack.h"

enum {
    DEPTH = 384,     /* of a k block */
    SIDE = 1024,     /* rows or columns of a block of c, at most */
    PIECE = 512,     /* columns of a piece of c, at most */
    STAYING = 161792, /* floats of the operand that stays: 30 panels of a or 13 of b at full depth */
    PASSING = 24576,  /* floats of a chunk of the other one: 4 panels of a or 2 of b at full depth */
    OFFSETS = 2 * SIDE + DEPTH,
    C_FLOATS = MLC_CONTRACT_SCRATCH_BYTES / 4 - STAYING - PASSING - 2 * OFFSETS,
};
_Static_assert(PASSING >= DEPTH * MLC_TILE_COLUMNS && PASSING >= DEPTH * MLC_TILE_ROWS + MLC_STRIP, "a chunk holds a panel");
_Static_assert(C_FLOATS >= MLC_TILE_ROWS * MLC_PITCH(PIECE), "c holds a piece");

/* What a thread works on, and its buffers in scratch. */
typedef struct contraction {
    const void *a, *b;
    int a_dtype, b_dtype;
    int batch_rank, m_rank, n_rank, k_rank;
    mlc_index batch[MLC_INDICES], m[MLC_INDICES], n[MLC_INDICES], k[MLC_INDICES];
    int64_t batches, rows, columns, depth;
    int64_t k_block;          /* depth of a k block */
    int64_t a_panel, b_panel; /* floats of a panel; a strip may write past the end of a row panel */
    int64_t piece;            /* columns of a piece of c */
    float *staying, *passing, *c;
    int64_t *m_at, *n_at, *k_at;
} contraction;

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

/* Columns first to first + columns - 1 of the block, at b_panels. n_at holds the offsets of the block. */
static void pack_b(const contraction *s, const void *b, float *b_panels, int64_t first, int64_t columns, int64_t k0, int64_t depth)
{
    enum { STRIP = MLC_TILE_COLUMNS < MLC_STRIP ? MLC_TILE_COLUMNS : MLC_STRIP };
    mlc_strip strips[SIDE / STRIP];
    int count = 0;
    for (int64_t j = 0; j < columns; j += STRIP) {
        float *panel = b_panels + j / MLC_TILE_COLUMNS * s->b_panel;
        const mlc_strip strip = {panel + j % MLC_TILE_COLUMNS, first + j, (int)least(STRIP, columns - j), STRIP};
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

/* Panels first to first + count - 1 of the `panels` over `rows`, at a_panels. m_at holds the offsets of the block. */
static void pack_a(const contraction *s, const void *a, float *a_panels, int64_t rows, int64_t panels, int64_t first, int64_t count,
    int64_t k0, int64_t depth)
{
    mlc_strip strips[SIDE / MLC_TILE_ROWS + 1];
    for (int64_t i = 0; i < count; i++) {
        const int64_t row = panel_row(rows, panels, first + i), height = panel_row(rows, panels, first + i + 1) - row;
        const mlc_strip strip = {a_panels + i * s->a_panel, row, (int)height, (int)height};
        strips[i] = strip;
    }
    offsets_of(s->k_at, s->k, s->k_rank, k0, depth, 0);
    mlc_packing packing = packing_of(a, s->a_dtype, run_of(s->m, s->m_rank, 0), run_of(s->k, s->k_rank, 0));
    packing.lanes = s->m_at;
    packing.ks = s->k_at;
    packing.k_begin = k0;
    packing.depth = depth;
    packing.pitch = MLC_TILE_ROWS;
    mlc_pack(&packing, strips, (int)count);
}

/* What is done with c. */
typedef struct finish {
    const mlc_env *env;
    mlc_epilogue epilogue;
    const void *closure;
} finish;

/* A block of c. */
typedef struct block {
    const void *a, *b; /* of its batch index */
    int64_t batch;
    mlc_range m, n;
    int64_t rows, columns, panels; /* how many; row panels */
} block;

/* c (+)= a b for row panels [first, end) and columns [n0, n1) of the block, then the epilogue if this is the last of k.
 * c has room for the block, or for one piece when k has one block. */
static void multiply(const contraction *s, const finish *f, const block *x, int64_t first, int64_t end, const float *a_panels, int64_t n0,
    int64_t n1, const float *b_panels, int64_t k0, int64_t depth)
{
    const int single = s->depth <= s->k_block;
    const int64_t pitch = MLC_PITCH(single ? s->piece : x->columns);
    for (int64_t i = first; i < end; i++, a_panels += s->a_panel) {
        const int64_t row = panel_row(x->rows, x->panels, i), height = panel_row(x->rows, x->panels, i + 1) - row;
        for (int64_t j = n0; j < n1; j += s->piece) {
            const int64_t columns = least(s->piece, n1 - j);
            const float *b = b_panels + (j - n0) / MLC_TILE_COLUMNS * s->b_panel;
            float *c = single ? s->c : s->c + row * pitch + j;
            for (int64_t at = 0; at < columns; at += MLC_TILE_COLUMNS, b += s->b_panel)
                mlc_tile((int)height, columns - at > MLC_LANES ? 2 : 1, depth, a_panels, MLC_TILE_ROWS, b, MLC_TILE_COLUMNS, c + at, pitch,
                    k0 > 0);
            if (k0 + depth == s->depth)
                f->epilogue(f->env, f->closure, c, pitch, x->batch, x->m.begin + row, height, x->n.begin + j, columns);
        }
    }
}

/* a stays, b passes by. `packed`: a is there already. */
static void block_with_a(const contraction *s, const finish *f, const block *x, int packed)
{
    for (int64_t k0 = 0; k0 < s->depth; k0 += s->k_block) {
        const int64_t depth = least(s->k_block, s->depth - k0);
        if (!packed)
            pack_a(s, x->a, s->staying, x->rows, x->panels, 0, x->panels, k0, depth);
        for (int64_t j = 0; j < x->columns; j += s->piece) {
            const int64_t end = least(j + s->piece, x->columns);
            pack_b(s, x->b, s->passing, j, end - j, k0, depth);
            multiply(s, f, x, 0, x->panels, s->staying, j, end, s->passing, k0, depth);
        }
    }
}

/* b stays, a passes by. `packed`: b is there already. */
static void block_with_b(const contraction *s, const finish *f, const block *x, int packed)
{
    const int64_t chunk = PASSING / s->a_panel;
    for (int64_t k0 = 0; k0 < s->depth; k0 += s->k_block) {
        const int64_t depth = least(s->k_block, s->depth - k0);
        if (!packed)
            pack_b(s, x->b, s->staying, 0, x->columns, k0, depth);
        for (int64_t i = 0; i < x->panels; i += chunk) {
            const int64_t end = least(i + chunk, x->panels);
            pack_a(s, x->a, s->passing, x->rows, x->panels, i, end - i, k0, depth);
            multiply(s, f, x, i, end, s->passing, 0, x->columns, s->staying, k0, depth);
        }
    }
}

/* How a rectangle is cut into blocks. */
typedef struct blocking {
    int a_stays;
    int64_t row_blocks, column_blocks;
    double packed; /* rows and columns packed, those packed again included */
} blocking;

static blocking blocking_with_a(const contraction *s, int64_t rows, int64_t columns)
{
    const int single = s->depth <= s->k_block;
    const int64_t row_blocks = parts_of(rows, least(SIDE, STAYING / s->a_panel * MLC_TILE_ROWS));
    const int64_t fit = (C_FLOATS / parts_of(rows, row_blocks) - MLC_LANES) / MLC_TILE_COLUMNS * MLC_TILE_COLUMNS;
    const int64_t column_blocks = parts_of(columns, single ? SIDE : least(SIDE, fit));
    const blocking x = {1, row_blocks, column_blocks, (double)(row_blocks * columns) + (double)(single ? 1 : column_blocks) * (double)rows};
    return x;
}

static blocking blocking_with_b(const contraction *s, int64_t rows, int64_t columns)
{
    const int single = s->depth <= s->k_block;
    const int64_t column_blocks = parts_of(columns, least(SIDE, STAYING / s->b_panel * MLC_TILE_COLUMNS));
    const int64_t width = parts_of(parts_of(columns, MLC_TILE_COLUMNS), column_blocks) * MLC_TILE_COLUMNS;
    const int64_t row_blocks = parts_of(rows, single ? SIDE : least(SIDE, C_FLOATS / MLC_PITCH(width)));
    const blocking x = {0, row_blocks, column_blocks, (double)(single ? 1 : row_blocks) * (double)columns + (double)(column_blocks * rows)};
    return x;
}

static blocking blocking_of(const contraction *s, int64_t rows, int64_t columns)
{
    const blocking a = blocking_with_a(s, rows, columns), b = blocking_with_b(s, rows, columns);
    return a.packed < b.packed ? a : b;
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
    return (double)batches * (tall * vectors + 0.5 * blocking_of(s, rows, columns).packed);
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

/* Block i of the rectangle, in the order in which the operand that stays changes last. */
static void run_block(const contraction *s, const finish *f, const region *r, const blocking *cut, block x, int64_t i)
{
    const int single = s->depth <= s->k_block;
    const int64_t row = cut->a_stays ? i / cut->column_blocks : i % cut->row_blocks;
    const int64_t column = cut->a_stays ? i % cut->column_blocks : i / cut->row_blocks;
    const mlc_range m = part(r->rows.end - r->rows.begin, 1, cut->row_blocks, row);
    const mlc_range n = part(r->columns.end - r->columns.begin, MLC_TILE_COLUMNS, cut->column_blocks, column);
    x.rows = m.end - m.begin;
    x.columns = n.end - n.begin;
    x.panels = parts_of(x.rows, MLC_TILE_ROWS);
    x.m.begin = r->rows.begin + m.begin;
    x.n.begin = r->columns.begin + n.begin;
    offsets_of(s->m_at, s->m, s->m_rank, x.m.begin, x.rows, 0);
    offsets_of(s->n_at, s->n, s->n_rank, x.n.begin, x.columns, 1);
    if (cut->a_stays)
        block_with_a(s, f, &x, single && column > 0);
    else
        block_with_b(s, f, &x, single && row > 0);
}

static void run_batch(const contraction *s, const finish *f, const region *r, int64_t batch)
{
    int64_t at_a, at_b;
    offsets_of(&at_a, s->batch, s->batch_rank, batch, 1, 0);
    offsets_of(&at_b, s->batch, s->batch_rank, batch, 1, 1);
    const block x = {.a = shifted(s->a, s->a_dtype, at_a), .b = shifted(s->b, s->b_dtype, at_b), .batch = batch};
    const blocking cut = blocking_of(s, r->rows.end - r->rows.begin, r->columns.end - r->columns.begin);
    for (int64_t i = 0; i < cut.row_blocks * cut.column_blocks; i++)
        run_block(s, f, r, &cut, x, i);
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
    s.a_panel = s.k_block * MLC_TILE_ROWS + MLC_STRIP;
    s.b_panel = s.k_block * MLC_TILE_COLUMNS;
    s.piece = least(PIECE, PASSING / s.b_panel * MLC_TILE_COLUMNS);
    s.staying = (float *)env->scratch;
    s.passing = s.staying + STAYING;
    s.c = s.passing + PASSING;
    s.m_at = (int64_t *)(s.c + C_FLOATS);
    s.n_at = s.m_at + SIDE;
    s.k_at = s.n_at + SIDE;
    const region r = region_of(&s, env);
    if (r.rows.begin == r.rows.end || r.columns.begin == r.columns.end)
        return;
    const finish last = {env, epilogue, closure};
    for (int64_t batch = r.batch.begin; batch < r.batch.end; batch++)
        run_batch(&s, &last, &r, batch);
}
