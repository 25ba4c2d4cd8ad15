/* contraction.c: binary contractions over index groups, register-blocked, packed where that pays (Goto and van de Geijn 2008).
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
 * An operand that the tile reads as fast where it lies is not packed (lies_well below); of such a b only a last panel that ends within
 * a vector is, so that nothing beyond b is read.
 * Where the machine multiplies pairs of bf16, panels of two such operands hold pairs of neighbours in k, and all is half as deep.
 * An element of c is a sum over k blocks of sums over k, both ascending: its bits do not depend on where blocks of c lie.
 */
#include "pack.h"
#include "thin.h"

enum {
    DEPTH = 384,      /* of a k block, of elements or pairs */
    SIDE = 1024,      /* rows or columns of a block of c, at most */
    PIECE = 512,      /* columns of a piece of c, at most; 64 at full depth: the lines that its epilogue writes fit into a store queue */
    STAYING = 161792, /* elements of the operand that stays: 30 panels of a or 13 of b at full depth */
    PASSING = 24576,  /* elements of a chunk of the other one: 4 panels of a or 2 of b at full depth */
    OFFSETS = 2 * SIDE + 2 * DEPTH,
    FEW_COLUMNS = 128, /* with no more, rows of a that lie side by side are read where they lie: a row of lines for each k fits no first cache */
    FEW_ROWS = 160,    /* with no more, b is read where it lies beside such an a */
    SOME_ROWS = 1024,  /* with no more, b is read where it lies beside an a that is packed */
    C_ELEMENTS = MLC_CONTRACT_SCRATCH_BYTES / 4 - STAYING - PASSING - 2 * OFFSETS, /* of f32 the scratch is full */
};
_Static_assert(PASSING >= DEPTH * MLC_TILE_COLUMNS && PASSING >= DEPTH * MLC_TILE_ROWS + MLC_STRIP, "a chunk holds a panel");
_Static_assert(C_ELEMENTS >= MLC_TILE_ROWS * MLC_PITCH(PIECE), "c holds a piece");
_Static_assert(PASSING >= MLC_THIN_SCRATCH && C_ELEMENTS >= MLC_THIN_COLUMNS + MLC_LANES, "a thin product has room");

/* What a thread works on, and its buffers in scratch. */
typedef struct contraction {
    const void *a, *b;
    int a_dtype, b_dtype;
    int batch_rank, m_rank, n_rank, k_rank;
    mlc_index batch[MLC_INDICES], m[MLC_INDICES], n[MLC_INDICES], k[MLC_INDICES];
    int64_t batches, rows, columns, depth;
    int64_t k_block;          /* depth of a k block */
    int together;             /* k that an element of a panel holds: 2 of pairs of bf16, else 1 */
    int64_t a_panel, b_panel; /* elements of a panel; a strip may write past the end of a row panel */
    int a_here, b_here;       /* the tile reads a (or b) where it lies */
    int64_t a_row, a_k, b_k;  /* strides of an operand that lies well, in what the tile reads: of rows and k, of k */
    int64_t piece;            /* columns of a piece of c */
    mlc_element *staying, *passing, *c;
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

/* The stride of a group that is one index at most; 0 of none. */
static int64_t stride_of(const mlc_index *index, int rank, int of_b)
{
    return rank == 0 ? 0 : of_b ? index[0].b : index[0].a;
}

/* Whether all pairs of a lie as words do: on even places, with k side by side and none left over. */
static int pairs_lie_well(const contraction *s)
{
    const int64_t row = stride_of(s->m, s->m_rank, 0), k = stride_of(s->k, s->k_rank, 0);
    int64_t odd = (int64_t)((uintptr_t)s->a % sizeof(mlc_pair)) | (row % 2) | (s->depth % 2);
    for (int i = 0; i < s->batch_rank; i++)
        odd |= s->batch[i].a % 2;
    return odd == 0 && s->m_rank <= 1 && s->k_rank == 1 && k == 1 && !mlc_collides(row / 2);
}

/* Decides what is read where it lies: a whose k lie side by side; a whose rows do, where that saves much; b whose columns do, likewise.
 * The tile takes any strides of a (0: what is repeated), and of b only columns side by side. */
static void see_what_lies_well(contraction *s)
{
    if (s->together == 2) {
        s->a_here = pairs_lie_well(s);
        s->a_k = 1;
        s->a_row = stride_of(s->m, s->m_rank, 0) / 2;
        return;
    }
    const int one_k = s->k_rank <= 1;
    s->a_row = stride_of(s->m, s->m_rank, 0);
    s->a_k = stride_of(s->k, s->k_rank, 0);
    s->b_k = stride_of(s->k, s->k_rank, 1);
    if (s->a_dtype == MLC_ELEMENT && one_k && s->m_rank <= 1)
        s->a_here = s->a_k <= 1 ? !mlc_collides(s->a_row) : s->a_row <= 1 && s->columns <= FEW_COLUMNS && !mlc_collides(s->a_k);
    if (s->b_dtype == MLC_ELEMENT && one_k && s->n_rank <= 1)
        s->b_here = stride_of(s->n, s->n_rank, 1) == 1 && s->rows <= (s->a_here ? FEW_ROWS : SOME_ROWS) && !mlc_collides(s->b_k);
}

static const void *shifted(const void *x, int dtype, int64_t elements)
{
    return (const char *)x + elements * mlc_element_bytes(dtype);
}

/* First row of panel i of `panels` over `rows`: heights differ by one at most. */
static int64_t panel_row(int64_t rows, int64_t panels, int64_t i)
{
    return rows * i / panels;
}

/* How a and b are packed in the k block at k0: along the longer of the two runs. k_at takes the offsets of that block. */

static mlc_packing packing_of_a(const contraction *s, const void *a, int64_t k0, int64_t depth)
{
    const int64_t lane_run = run_of(s->m, s->m_rank, 0), k_run = run_of(s->k, s->k_rank, 0);
    const mlc_packing packing = {.x = a, .dtype = s->a_dtype, .lanes = s->m_at, .ks = s->k_at, .lane_run = lane_run,
        .k_run = lane_run < k_run ? k_run : 1, .k_begin = k0, .depth = depth, .pitch = MLC_TILE_ROWS};
    offsets_of(s->k_at, s->k, s->k_rank, k0, depth, 0);
    return packing;
}

static mlc_packing packing_of_b(const contraction *s, const void *b, int64_t k0, int64_t depth)
{
    const int64_t lane_run = run_of(s->n, s->n_rank, 1), k_run = run_of(s->k, s->k_rank, 1);
    const mlc_packing packing = {.x = b, .dtype = s->b_dtype, .lanes = s->n_at, .ks = s->k_at, .lane_run = lane_run,
        .k_run = lane_run < k_run ? k_run : 1, .k_begin = k0, .depth = depth, .pitch = MLC_TILE_COLUMNS};
    offsets_of(s->k_at, s->k, s->k_rank, k0, depth, 1);
    return packing;
}

/* A block of c. */
typedef struct block {
    const void *a, *b; /* of its batch index */
    int64_t batch, m0, n0;
    int64_t rows, columns, panels; /* how many; row panels */
} block;

static void pack(const contraction *s, const mlc_packing *packing, const mlc_strip *strips, int count)
{
#ifdef MLC_PAIRS
    if (s->together == 2) {
        mlc_pack_bf16(packing, strips, count);
        return;
    }
#endif
    (void)s;
    MLC_OF_ELEMENT(mlc_pack)(packing, strips, count);
}

/* Row panels [first, end) of the block. */
static void pack_a(const contraction *s, const mlc_packing *packing, const block *x, mlc_element *a_panels, int64_t first, int64_t end)
{
    mlc_strip strips[SIDE / MLC_TILE_ROWS + 1];
    for (int64_t i = first; i < end; i++) {
        const int64_t row = panel_row(x->rows, x->panels, i), height = panel_row(x->rows, x->panels, i + 1) - row;
        const mlc_strip strip = {a_panels + (i - first) * s->a_panel, row, (int)height, (int)height};
        strips[i - first] = strip;
    }
    pack(s, packing, strips, (int)(end - first));
}

/* Columns of b, a multiple of a panel's or the last ones, of which the tile reads some where they lie: all whole vectors of theirs. */
static int64_t whole_columns(int64_t columns)
{
    const int64_t rest = columns % MLC_TILE_COLUMNS;
    return rest == MLC_LANES ? columns : columns - rest;
}

/* Columns [first, end) of the block, or what of them must be packed. */
static void pack_b(const contraction *s, const mlc_packing *packing, mlc_element *b_panels, int64_t first, int64_t end)
{
    enum { STRIP = MLC_TILE_COLUMNS < MLC_STRIP ? MLC_TILE_COLUMNS : MLC_STRIP };
    mlc_strip strips[SIDE / STRIP];
    int count = 0;
    for (int64_t j = s->b_here ? whole_columns(end - first) : 0; j < end - first; j += STRIP) {
        mlc_element *panel = b_panels + j / MLC_TILE_COLUMNS * s->b_panel;
        const mlc_strip strip = {panel + j % MLC_TILE_COLUMNS, first + j, (int)least(STRIP, end - first - j), STRIP};
        strips[count++] = strip;
    }
    pack(s, packing, strips, count);
}

/* What is done with c. */
typedef struct finish {
    const mlc_env *env;
    MLC_OF_ELEMENT(mlc_epilogue) epilogue;
    const void *closure;
} finish;

/* A part of the block: row panels [first, end) by columns [n0, n1), with their operands, in one block of k. */
typedef struct product {
    int64_t first, end, n0, n1;
    const mlc_element *a_panels, *b_panels;
    int64_t k0, depth;
    mlc_ahead ahead; /* what the next chunk is packed from */
} product;

/* A panel as the tile reads it: strides of rows and of k. */
typedef struct panel {
    const mlc_element *x;
    int64_t row, k;
} panel;

/* Row panel i of the block, whose first row is `row`. */
static panel panel_of_a(const contraction *s, const block *x, const product *p, int64_t i, int64_t row)
{
    const panel packed = {p->a_panels + (i - p->first) * s->a_panel, 1, MLC_TILE_ROWS};
    if (!s->a_here)
        return packed;
    const int64_t first = s->m_at[row] / s->together + p->k0 / s->together * s->a_k;
    const panel here = {(const mlc_element *)x->a + first, s->a_row, s->a_k};
    return here;
}

/* Columns j on, `vectors` of them, a panel's first. */
static panel panel_of_b(const contraction *s, const block *x, const product *p, int64_t j, int vectors)
{
    const panel packed = {p->b_panels + (j - p->n0) / MLC_TILE_COLUMNS * s->b_panel, 0, MLC_TILE_COLUMNS};
    if (!s->b_here || p->n1 - j < vectors * MLC_LANES)
        return packed;
    const panel here = {(const mlc_element *)x->b + s->n_at[j] + p->k0 * s->b_k, 0, s->b_k};
    return here;
}

/* A register block of c at `c`, in the block of k of `p`. */
static void multiply_panels(const contraction *s, const panel *a, const panel *b, int64_t rows, int vectors, mlc_element *c, int64_t pitch,
    product *p)
{
#ifdef MLC_PAIRS
    if (s->together == 2) {
        mlc_tile_bf16((int)rows, vectors, parts_of(p->depth, 2), (const mlc_pair *)a->x, a->row, a->k, (const mlc_pair *)b->x, b->k, c, pitch,
            p->k0 > 0, &p->ahead);
        return;
    }
#endif
    (void)s;
    MLC_OF_ELEMENT(mlc_tile)((int)rows, vectors, p->depth, a->x, a->row, a->k, b->x, b->k, c, pitch, p->k0 > 0, &p->ahead);
}

/* c (+)= a b, then the epilogue if this is the last block of k. c has room for one piece when k has one block, else for the block. */
static void multiply(const contraction *s, const finish *f, const block *x, product *p)
{
    const int single = s->depth <= s->k_block;
    const int64_t pitch = MLC_PITCH(single ? s->piece : x->columns);
    for (int64_t i = p->first; i < p->end; i++) {
        const int64_t row = panel_row(x->rows, x->panels, i), height = panel_row(x->rows, x->panels, i + 1) - row;
        const panel a = panel_of_a(s, x, p, i, row);
        for (int64_t j = p->n0; j < p->n1; j += s->piece) {
            const int64_t columns = least(s->piece, p->n1 - j);
            mlc_element *c = single ? s->c : s->c + row * pitch + j;
            for (int64_t l = 0; l < columns; l += MLC_TILE_COLUMNS) {
                const int vectors = columns - l > MLC_LANES ? 2 : 1;
                const panel b = panel_of_b(s, x, p, j + l, vectors);
                multiply_panels(s, &a, &b, height, vectors, c + l, pitch, p);
            }
            if (p->k0 + p->depth == s->depth)
                f->epilogue(f->env, f->closure, c, pitch, x->batch, x->m0 + row, height, x->n0 + j, columns);
        }
    }
}

/* a stays, b passes by. `packed`: a is there already. */
static void block_with_a(const contraction *s, const finish *f, const block *x, int packed)
{
    for (int64_t k0 = 0; k0 < s->depth; k0 += s->k_block) {
        product p = {.end = x->panels, .a_panels = s->staying, .b_panels = s->passing, .k0 = k0, .depth = least(s->k_block, s->depth - k0)};
        if (!packed && !s->a_here) {
            const mlc_packing a = packing_of_a(s, x->a, k0, p.depth);
            pack_a(s, &a, x, s->staying, 0, x->panels);
        }
        const mlc_packing b = packing_of_b(s, x->b, k0, p.depth);
        for (; p.n0 < x->columns; p.n0 = p.n1) {
            p.n1 = least(p.n0 + s->piece, x->columns);
            pack_b(s, &b, s->passing, p.n0, p.n1);
            p.ahead = MLC_OF_ELEMENT(mlc_ahead_of)(&b, p.n1, least(s->piece, x->columns - p.n1));
            multiply(s, f, x, &p);
        }
    }
}

/* b stays, a passes by. `packed`: b is there already. */
static void block_with_b(const contraction *s, const finish *f, const block *x, int packed)
{
    const int64_t chunk = PASSING / s->a_panel;
    for (int64_t k0 = 0; k0 < s->depth; k0 += s->k_block) {
        product p = {.n1 = x->columns, .a_panels = s->passing, .b_panels = s->staying, .k0 = k0, .depth = least(s->k_block, s->depth - k0)};
        if (!packed) {
            const mlc_packing b = packing_of_b(s, x->b, k0, p.depth);
            pack_b(s, &b, s->staying, 0, x->columns);
        }
        const mlc_packing a = packing_of_a(s, x->a, k0, p.depth);
        for (; p.first < x->panels; p.first = p.end) {
            p.end = least(p.first + chunk, x->panels);
            const int64_t row = panel_row(x->rows, x->panels, p.end), next = least(p.end + chunk, x->panels);
            if (!s->a_here)
                pack_a(s, &a, x, s->passing, p.first, p.end);
            p.ahead = MLC_OF_ELEMENT(mlc_ahead_of)(&a, row, panel_row(x->rows, x->panels, next) - row);
            multiply(s, f, x, &p);
        }
    }
}

/* How a rectangle is cut into blocks. */
typedef struct blocking {
    int a_stays;
    int64_t row_blocks, column_blocks;
    int64_t packed; /* rows and columns packed, those packed again included */
} blocking;

/* The operand that stays has `staying` lanes, at most `limit` in a block; the other one `passing`, as many as there is room for. When k
 * has several blocks c holds a whole block: then fewer lanes that stay may leave room for all that pass. */
static blocking blocking_with(const contraction *s, int a_stays, int64_t staying, int64_t limit, int64_t passing)
{
    const int several = s->depth > s->k_block;
    const int64_t unit = a_stays ? MLC_TILE_ROWS : MLC_TILE_COLUMNS;
    const int stays = !(a_stays ? s->a_here : s->b_here), passes = !(a_stays ? s->b_here : s->a_here); /* packed */
    blocking best = {.a_stays = a_stays, .packed = INT64_MAX};
    int64_t others = 0;
    for (int64_t lanes = least(limit, staying); others != 1 && (others == 0 || lanes >= limit / 2); lanes -= unit) {
        const int64_t blocks = parts_of(staying, lanes), widest = parts_of(parts_of(staying, blocks), unit) * unit;
        const int64_t room = a_stays ? (C_ELEMENTS / widest - 32) / MLC_TILE_COLUMNS * MLC_TILE_COLUMNS : C_ELEMENTS / MLC_PITCH(widest);
        others = parts_of(passing, several ? least(SIDE, room) : SIDE);
        const int64_t packed = (passes ? blocks * passing : 0) + (stays ? (several ? others : 1) * staying : 0);
        if (packed < best.packed) {
            best.row_blocks = a_stays ? blocks : others;
            best.column_blocks = a_stays ? others : blocks;
            best.packed = packed;
        }
        if (!several)
            break;
    }
    return best;
}

static blocking blocking_of(const contraction *s, int64_t rows, int64_t columns)
{
    const int64_t most_rows = least(SIDE, STAYING / s->a_panel * MLC_TILE_ROWS);
    const int64_t most_columns = least(SIDE, STAYING / s->b_panel * MLC_TILE_COLUMNS);
    const blocking a = blocking_with(s, 1, rows, most_rows, columns), b = blocking_with(s, 0, columns, most_columns, rows);
    return a.packed <= b.packed ? a : b;
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
    return (double)batches * (tall * vectors + 0.5 * (double)blocking_of(s, rows, columns).packed);
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
    x.m0 = r->rows.begin + m.begin;
    x.n0 = r->columns.begin + n.begin;
    offsets_of(s->m_at, s->m, s->m_rank, x.m0, x.rows, 0);
    offsets_of(s->n_at, s->n, s->n_rank, x.n0, x.columns, 1);
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

static int together_of(int a_dtype, int b_dtype)
{
#ifdef MLC_PAIRS
    return a_dtype == MLC_BF16 && b_dtype == MLC_BF16 ? 2 : 1;
#else
    (void)a_dtype, (void)b_dtype;
    return 1;
#endif
}

/* x[k] of the vector of a thin product, as elements of the tile. */
static void widen_vector(const contraction *s, const void *x, int dtype, int of_b, mlc_element *to)
{
    for (int64_t k0 = 0; k0 < s->depth; k0 += DEPTH) {
        const int64_t depth = least(DEPTH, s->depth - k0);
        offsets_of(s->k_at, s->k, s->k_rank, k0, depth, of_b);
        for (int64_t k = 0; k < depth; k++)
            to[k0 + k] = dtype == MLC_BF16 ? (mlc_element)mlc_f32_of_bf16(((const uint16_t *)x)[s->k_at[k]])
                                           : ((const mlc_element *)x)[s->k_at[k]];
    }
}

/* A product with one row, or one column, whose matrix can be read as it lies (thin.h). Threads share out vectors of columns, or rows, of
 * all batch indices. Returns whether it is one. */
static int run_thin(const contraction *s, const finish *f)
{
    const int tall = s->rows > 1, rank = tall ? s->m_rank : s->n_rank;
    if ((s->rows > 1 && s->columns > 1) || rank > 1 || s->k_rank > 1 || s->depth > STAYING)
        return 0;
    const mlc_index one = {1, 1, 1}, across = rank ? (tall ? s->m : s->n)[0] : one, along = s->k_rank ? s->k[0] : one;
    mlc_thin thin = {.x = s->staying, .w_dtype = tall ? s->a_dtype : s->b_dtype, .w_column = tall ? across.a : across.b,
        .w_k = tall ? along.a : along.b, .depth = s->depth, .k_block = s->k_block, .together = s->together, .scratch = s->passing};
    if (!mlc_thin_takes(&thin))
        return 0;
    const int64_t extent = tall ? s->rows : s->columns, units = parts_of(extent, MLC_LANES);
    const mlc_range all = mlc_share(f->env, s->batches * units);
    int64_t widened = -1; /* the batch index whose vector x is */
    for (int64_t unit = all.begin, next; unit < all.end; unit = next) {
        const int64_t batch = unit / units, begin = (unit - batch * units) * MLC_LANES;
        next = least(unit + MLC_THIN_COLUMNS / MLC_LANES, least((batch + 1) * units, all.end));
        const int64_t count = least((next - unit) * MLC_LANES, extent - begin);
        if (batch != widened) {
            int64_t at_a, at_b;
            offsets_of(&at_a, s->batch, s->batch_rank, batch, 1, 0);
            offsets_of(&at_b, s->batch, s->batch_rank, batch, 1, 1);
            const void *a = shifted(s->a, s->a_dtype, at_a), *b = shifted(s->b, s->b_dtype, at_b);
            widen_vector(s, tall ? b : a, tall ? s->b_dtype : s->a_dtype, tall, s->staying);
            thin.w = tall ? a : b;
            widened = batch;
        }
        MLC_OF_ELEMENT(mlc_thin_product)(&thin, begin, begin + count, s->c);
        if (tall)
            f->epilogue(f->env, f->closure, s->c, 1, batch, begin, count, 0, 1);
        else
            f->epilogue(f->env, f->closure, s->c, count, batch, 0, 1, begin, count);
    }
    return 1;
}

void MLC_OF_ELEMENT(mlc_contract)(const mlc_env *env, const mlc_contraction *contraction_, const void *a, const void *b,
    MLC_OF_ELEMENT(mlc_epilogue) epilogue,
    const void *closure)
{
    contraction s = {.a = a, .b = b, .a_dtype = contraction_->a_dtype, .b_dtype = contraction_->b_dtype};
    s.batch_rank = simplify(s.batch, contraction_->batch, contraction_->batch_rank, &s.batches);
    s.m_rank = simplify(s.m, contraction_->m, contraction_->m_rank, &s.rows);
    s.n_rank = simplify(s.n, contraction_->n, contraction_->n_rank, &s.columns);
    s.k_rank = simplify(s.k, contraction_->k, contraction_->k_rank, &s.depth);
    s.together = together_of(s.a_dtype, s.b_dtype);
    see_what_lies_well(&s);
    s.k_block = parts_of(parts_of(s.depth, parts_of(s.depth, s.together * DEPTH)), 16) * 16;
    s.a_panel = s.k_block / s.together * MLC_TILE_ROWS + MLC_STRIP;
    s.b_panel = s.k_block / s.together * MLC_TILE_COLUMNS;
    s.piece = least(PIECE, PASSING / s.b_panel * MLC_TILE_COLUMNS);
    s.staying = (mlc_element *)env->scratch;
    s.passing = s.staying + STAYING;
    s.c = s.passing + PASSING;
    s.m_at = (int64_t *)(s.c + C_ELEMENTS);
    s.n_at = s.m_at + SIDE;
    s.k_at = s.n_at + SIDE;
    const finish last = {env, epilogue, closure};
    if (run_thin(&s, &last))
        return;
    const region r = region_of(&s, env);
    if (r.rows.begin == r.rows.end || r.columns.begin == r.columns.end)
        return;
    for (int64_t batch = r.batch.begin; batch < r.batch.end; batch++)
        run_batch(&s, &last, &r, batch);
}
