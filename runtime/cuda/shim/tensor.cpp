/* tensor.cpp: ldmatrix and mma.sync, by the layouts of the "Parallel Thread Execution ISA" (section names below).
 * Sums run in ascending k with one rounding a product and one a sum; hardware differs in the last bits, so compare within a tolerance. */
#include "shim.h"

#include <string.h>

namespace mlc_shim {

enum Operation { MEET_LDMATRIX = MEET_ALIGNED, MEET_LDMATRIX_TRANS = MEET_ALIGNED + 8, MEET_MMA_BF16 = MEET_ALIGNED + 16, MEET_MMA_TF32 };

/* .aligned: all 32 lanes of the warp execute the instruction together. */
bool meet_aligned(int operation, uintptr_t pc, void (*combine)(Warp &, uint32_t))
{
    const Warp &warp = block->warps[current->warp];
    if (warp.exists != MLC_FULL || warp.live != MLC_FULL) {
        report("divergent warp", nullptr, pc, "an instruction of the whole warp, of which only lanes %08x are there", warp.live);
        return false;
    }
    return meet(operation, MLC_FULL, pc, combine);
}

/* "Warp-level matrix load instruction: ldmatrix": thread t of the warp gives the address of row t % 8 of matrix t / 8; it gets elements
 * (t / 4, 2 (t % 4)) and its right neighbour of each matrix; with .trans those of the transposed matrix. */
template <bool TRANS> static void combine_ldmatrix(Warp &warp, uint32_t)
{
    for (int lane = 0; lane < 32; lane++)
        for (int matrix = 0; matrix < warp.operand[0]; matrix++) {
            uint16_t pair[2];
            for (int i = 0; i < 2; i++) {
                const int row = TRANS ? lane % 4 * 2 + i : lane / 4, column = TRANS ? lane / 4 : lane % 4 * 2 + i;
                memcpy(&pair[i], (const char *)warp.in[matrix * 8 + row][0] + column * 2, 2);
            }
            memcpy((char *)warp.out[lane] + matrix * 4, pair, 4);
        }
}

void ldmatrix(uint32_t *r, int matrices, bool trans, const void *row)
{
    const uintptr_t pc = MLC_CALLER;
    Thread &self = *current;
    Warp &warp = block->warps[self.warp];
    static const uint64_t zeros[2] = {};
    warp.operand[self.lane] = matrices;
    warp.in[self.lane][0] = (uint64_t)row;
    if (self.lane < matrices * 8) {
        if ((uintptr_t)row % 16)
            report("misaligned", row, pc, "a row of ldmatrix");
        if (in_shared(row))
            touch(row, 16, READ, pc);
        else {
            report("wrong address", row, pc, "a row of ldmatrix that is not in shared memory");
            warp.in[self.lane][0] = (uint64_t)zeros;
        }
    }
    const int operation = (trans ? MEET_LDMATRIX_TRANS : MEET_LDMATRIX) + matrices;
    if (meet_aligned(operation, pc, trans ? combine_ldmatrix<true> : combine_ldmatrix<false>))
        memcpy(r, warp.out[self.lane], (size_t)matrices * 4);
}

static float bf16_half(uint32_t word, int half)
{
    return mlc_f32_of_bf16((uint16_t)(word >> half * 16));
}

/* "Matrix Fragments for mma.m16n8k16 with floating point type": groupID g = lane / 4, threadID_in_group t = lane % 4.
 *   a[i], i = 0..7   row g for i < 2 or 4 <= i < 6, else g + 8;   column 2 t + i % 2 for i < 4, else + 8
 *   b[i], i = 0..3   row 2 t + i % 2 for i < 2, else + 8;         column g
 *   c[i], i = 0..3   row g for i < 2, else g + 8;                 column 2 t + i % 2                                            */
static void combine_mma_bf16(Warp &warp, uint32_t)
{
    float a[16][16], b[16][8], c[16][8];
    for (int lane = 0; lane < 32; lane++) {
        const int g = lane / 4, t = lane % 4;
        uint32_t word[10];
        memcpy(word, warp.in[lane], sizeof word);
        for (int i = 0; i < 8; i++)
            a[g + i / 2 % 2 * 8][t * 2 + i % 2 + i / 4 * 8] = bf16_half(word[i / 2], i % 2);
        for (int i = 0; i < 4; i++)
            b[t * 2 + i % 2 + i / 2 * 8][g] = bf16_half(word[4 + i / 2], i % 2);
        for (int i = 0; i < 4; i++)
            c[g + i / 2 * 8][t * 2 + i % 2] = mlc_float(word[6 + i]);
    }
    for (int m = 0; m < 16; m++)
        for (int k = 0; k < 16; k++)
            for (int n = 0; n < 8; n++)
                c[m][n] += a[m][k] * b[k][n];
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++)
            memcpy((char *)warp.out[lane] + i * 4, &c[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2], 4);
}

/* "Matrix Fragments for mma.m16n8k8" (.tf32): a0 (g, t), a1 (g + 8, t), a2 (g, t + 4), a3 (g + 8, t + 4); b0 (t, g), b1 (t + 4, g);
 * c as above. The lower 13 bits of an operand are ignored. */
static void combine_mma_tf32(Warp &warp, uint32_t)
{
    float a[16][8], b[8][8], c[16][8];
    for (int lane = 0; lane < 32; lane++) {
        const int g = lane / 4, t = lane % 4;
        uint32_t word[10];
        memcpy(word, warp.in[lane], sizeof word);
        for (int i = 0; i < 4; i++)
            a[g + i % 2 * 8][t + i / 2 * 4] = mlc_float(word[i] & 0xFFFFE000u);
        for (int i = 0; i < 2; i++)
            b[t + i * 4][g] = mlc_float(word[4 + i] & 0xFFFFE000u);
        for (int i = 0; i < 4; i++)
            c[g + i / 2 * 8][t * 2 + i % 2] = mlc_float(word[6 + i]);
    }
    for (int m = 0; m < 16; m++)
        for (int k = 0; k < 8; k++)
            for (int n = 0; n < 8; n++)
                c[m][n] += a[m][k] * b[k][n];
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++)
            memcpy((char *)warp.out[lane] + i * 4, &c[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2], 4);
}

static void mma(int operation, float *c, const uint32_t *a, const uint32_t *b, uintptr_t pc, void (*combine)(Warp &, uint32_t))
{
    Warp &warp = block->warps[current->warp];
    const int lane = current->lane;
    memcpy(warp.in[lane], a, 16);
    memcpy((char *)warp.in[lane] + 16, b, 8);
    memcpy((char *)warp.in[lane] + 24, c, 16);
    if (meet_aligned(operation, pc, combine))
        memcpy(c, warp.out[lane], 16);
}

void mma_bf16(float *c, const uint32_t *a, const uint32_t *b)
{
    mma(MEET_MMA_BF16, c, a, b, MLC_CALLER, combine_mma_bf16);
}

void mma_tf32(float *c, const uint32_t *a, const uint32_t *b)
{
    mma(MEET_MMA_TF32, c, a, b, MLC_CALLER, combine_mma_tf32);
}

}
