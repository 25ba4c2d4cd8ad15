/* tile.c: the register block. One body; the compiler makes a version of it for every number of rows and vectors. */
#include "tile.h"

#ifdef MLC_TILE_OF_PAIRS
typedef mlc_pair factor; /* of a and b */
typedef __m512bh factors;
#define MLC_TILE mlc_tile_bf16

MLC_INLINE factors load_factors(const factor *x)
{
    return (factors)_mm512_loadu_si512((const void *)x);
}

MLC_INLINE factors spread(factor x)
{
    return (factors)_mm512_set1_epi32((int32_t)x);
}

MLC_INLINE mlc_vector multiply_add(factors a, factors b, mlc_vector c)
{
    return _mm512_dpbf16_ps(c, a, b);
}

#else
typedef mlc_element factor;
typedef mlc_vector factors;
#define MLC_TILE MLC_OF_ELEMENT(mlc_tile)
#define load_factors mlc_vector_load
#define spread mlc_vector_of
#define multiply_add mlc_vector_fma
#endif

#define MLC_TILE_PARAMETERS                                                                                                        \
    int64_t depth, const factor *a, int64_t a_row, int64_t a_pitch, const factor *b, int64_t b_pitch, mlc_element *c,              \
        int64_t c_pitch, int add, mlc_ahead *ahead

typedef void (*tile_function)(MLC_TILE_PARAMETERS);

/* Applies M to each row of the largest tile; rows beyond `rows`, a constant after inlining, leave no code. */
#define MLC_EACH_ROW(M) M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7) M(8) M(9) M(10) M(11) M(12) M(13)

#define MLC_ROW_DECLARE(i) mlc_vector c##i##_0 = zero, c##i##_1 = zero;

#define MLC_ROW_PREFETCH(i)                                                                                                        \
    if (i < rows) {                                                                                                                \
        __builtin_prefetch(c + i * c_pitch, 1);                                                                                    \
        __builtin_prefetch(c + i * c_pitch + vectors * MLC_LANES - 1, 1);                                                          \
    }

/* One more k. Rows are addressed from three pointers by small multiples of their stride, which instructions know; what the compiler is kept
 * from is a pointer for each row, for which it has no registers. */
#define MLC_STEP()                                                                                                                 \
    do {                                                                                                                           \
        const factors b0 = load_factors(b), b1 = vectors == 2 ? load_factors(b + MLC_LANES) : b0;                                  \
        MLC_EACH_ROW(MLC_ROW_MULTIPLY)                                                                                             \
        a += a_pitch, a_5 += a_pitch, a_10 += a_pitch;                                                                             \
        b += b_pitch;                                                                                                              \
        __asm__("" : "+r"(a), "+r"(a_5), "+r"(a_10));                                                                                                              \
    } while (0)

#define MLC_ROW_MULTIPLY(i)                                                                                                        \
    if (i < rows) {                                                                                                                \
        const factors x = spread((i < 5 ? a : i < 10 ? a_5 : a_10)[i % 5 * a_row]);                                                                       \
        c##i##_0 = multiply_add(x, b0, c##i##_0);                                                                                  \
        if (vectors == 2)                                                                                                          \
            c##i##_1 = multiply_add(x, b1, c##i##_1);                                                                              \
    }

#define MLC_ROW_ADD(i)                                                                                                             \
    if (i < rows) {                                                                                                                \
        c##i##_0 += mlc_vector_load(c + i * c_pitch);                                                                              \
        if (vectors == 2)                                                                                                          \
            c##i##_1 += mlc_vector_load(c + i * c_pitch + MLC_LANES);                                                              \
    }

#define MLC_ROW_STORE(i)                                                                                                           \
    if (i < rows) {                                                                                                                \
        mlc_vector_store(c + i * c_pitch, c##i##_0);                                                                               \
        if (vectors == 2)                                                                                                          \
            mlc_vector_store(c + i * c_pitch + MLC_LANES, c##i##_1);                                                               \
    }

enum { FETCH = 8 }; /* a line every so many k */

MLC_INLINE void fetch(mlc_ahead *ahead)
{
    __builtin_prefetch(ahead->x + *ahead->offsets * ahead->size + ahead->line * 64, 0, 2);
    const int last = ++ahead->line == ahead->lines;
    ahead->line = last ? 0 : ahead->line;
    ahead->offsets += last;
    ahead->runs -= last;
}

MLC_INLINE void tile(const int rows, const int vectors, MLC_TILE_PARAMETERS)
{
    const mlc_vector zero = {0};
    MLC_EACH_ROW(MLC_ROW_DECLARE)
    MLC_EACH_ROW(MLC_ROW_PREFETCH)
    const factor *a_5 = rows > 5 ? a + 5 * a_row : a, *a_10 = rows > 10 ? a + 10 * a_row : a;
    int64_t k = 0;
    for (; ahead && ahead->runs > 0 && k + FETCH <= depth; k += FETCH) {
        fetch(ahead);
        for (int i = 0; i < FETCH; i++)
            MLC_STEP();
    }
    for (; k < depth; k++)
        MLC_STEP();
    if (add) {
        MLC_EACH_ROW(MLC_ROW_ADD)
    }
    MLC_EACH_ROW(MLC_ROW_STORE)
}

#define MLC_TILE_FUNCTIONS(rows)                                                                                                   \
    static void tile_##rows##_1(MLC_TILE_PARAMETERS)                                                                               \
    {                                                                                                                              \
        tile(rows, 1, depth, a, a_row, a_pitch, b, b_pitch, c, c_pitch, add, ahead);                                                             \
    }                                                                                                                              \
    static void tile_##rows##_2(MLC_TILE_PARAMETERS)                                                                               \
    {                                                                                                                              \
        tile(rows, 2, depth, a, a_row, a_pitch, b, b_pitch, c, c_pitch, add, ahead);                                                             \
    }
#define MLC_TILE_ENTRY(rows) {tile_##rows##_1, tile_##rows##_2},

#if MLC_TILE_ROWS == 14
#define MLC_EACH_HEIGHT(M) M(1) M(2) M(3) M(4) M(5) M(6) M(7) M(8) M(9) M(10) M(11) M(12) M(13) M(14)
#elif MLC_TILE_ROWS == 12
#define MLC_EACH_HEIGHT(M) M(1) M(2) M(3) M(4) M(5) M(6) M(7) M(8) M(9) M(10) M(11) M(12)
#elif MLC_TILE_ROWS == 6
#define MLC_EACH_HEIGHT(M) M(1) M(2) M(3) M(4) M(5) M(6)
#else
#define MLC_EACH_HEIGHT(M) M(1) M(2) M(3) M(4)
#endif

MLC_EACH_HEIGHT(MLC_TILE_FUNCTIONS)

static const tile_function tiles[MLC_TILE_ROWS][2] = {MLC_EACH_HEIGHT(MLC_TILE_ENTRY)};

void MLC_TILE(int rows, int vectors, MLC_TILE_PARAMETERS)
{
    tiles[rows - 1][vectors - 1](depth, a, a_row, a_pitch, b, b_pitch, c, c_pitch, add, ahead);
}
