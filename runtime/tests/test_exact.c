/* test_exact.c: the exact sum of squares, and the order in which groups add up. */
#include "check.h"
#include "data/order.h"
#include "model/tree.h"
#include "system/dtype.h"
#include "system/exact.h"

#include <math.h>
#include <stdbool.h>

static float number(int i)
{
    uint64_t x = ((uint64_t)i + 1) * 0x9E3779B97F4A7C15;
    x ^= x >> 31;
    return ldexpf((float)(int32_t)x, -31 + (int)(x >> 32 & 15) - 8);
}

/* ---- the exact sum ---- */

static double squares(const float *x)
{
    return mlc_dtype_of(MLC_F32)->wide->squares(x, 1024);
}

static void check_exact(void)
{
    mlc_exact a = {{0}}, b = {{0}};
    CHECK(mlc_exact_value(&a) == 0);
    mlc_exact_add(&a, 0x1p-298);
    CHECK(mlc_exact_value(&a) == 0x1p-298);
    mlc_exact_add(&a, 0x1p265);
    CHECK(mlc_exact_value(&a) == 0x1p265);
    for (int i = 0; i < 2000; i++) { /* 2000 additions of half a unit and a bit, lost in f64 */
        mlc_exact_add(&b, 1 + 0x1p-52);
        mlc_exact_add(&b, 0x1p-60);
    }
    CHECK(mlc_exact_value(&b) == 2000 + 2000 * 0x1p-52);
    mlc_exact ties = {{0}};
    mlc_exact_add(&ties, 0x1p53);
    mlc_exact_add(&ties, 1);
    CHECK(mlc_exact_value(&ties) == 0x1p53);
    mlc_exact_add(&ties, 0x1p-298);
    CHECK(mlc_exact_value(&ties) == 0x1p53 + 2);
    float large[1024];
    for (int i = 0; i < 1024; i++)
        large[i] = 0x1.fffffep127F;
    mlc_exact top = {{0}};
    for (int i = 0; i < 100; i++)
        mlc_exact_add(&top, squares(large));
    CHECK(mlc_exact_value(&top) == 100 * squares(large));
    mlc_exact wide = {{0}}; /* what no f32 has: the smallest f64, and sums that leave the range of f64 */
    mlc_exact_add(&wide, 0x1p-1074);
    CHECK(mlc_exact_value(&wide) == 0x1p-1074);
    mlc_exact_add(&wide, 0x1.fffffffffffffp1023);
    CHECK(mlc_exact_value(&wide) == 0x1.fffffffffffffp1023);
    for (int i = 0; i < 1000; i++)
        mlc_exact_add(&wide, 0x1p1023);
    CHECK(isinf(mlc_exact_value(&wide)));
}

static void check_order_free(void)
{
    mlc_exact forward = {{0}}, backward = {{0}}, halves[2] = {{{0}}, {{0}}};
    for (int i = 0; i < 999; i++) {
        double x = ldexp(fabs(number(i)) + 1, i % 200 - 100), y = ldexp(fabs(number(998 - i)) + 1, (998 - i) % 200 - 100);
        mlc_exact_add(&forward, x);
        mlc_exact_add(&backward, y);
        mlc_exact_add(&halves[i % 2], x);
    }
    mlc_exact_merge(&halves[0], &halves[1]);
    CHECK(!memcmp(&forward, &backward, sizeof forward) && !memcmp(&forward, &halves[0], sizeof forward));
    float x[8 * 1024];
    double together[8];
    for (int i = 0; i < 8 * 1024; i++)
        x[i] = number(i);
    mlc_dtype_of(MLC_F32)->wide->squares_eight(x, together);
    for (int b = 0; b < 8; b++)
        CHECK(together[b] == squares(x + 1024 * b));
}

/* Numbers of both signs, of any magnitude: whole numbers of 2^-60 here, so that an integer knows the sum. */
static void check_signs(void)
{
    mlc_exact up = {{0}}, down = {{0}}, parts[2] = {{{0}}, {{0}}};
    __int128 sum = 0;
    for (int i = 0; i < 999; i++) {
        int64_t whole = (int64_t)(mlc_order_mix((uint64_t)i) >> 11) * (i % 3 ? 1 : -1);
        sum += whole;
        mlc_exact_add(&up, ldexp((double)whole, -60));
        mlc_exact_add(&parts[i % 2], ldexp((double)whole, -60));
        CHECK(mlc_exact_value(&up) == ldexp((double)sum, -60));
    }
    for (int i = 998; i >= 0; i--)
        mlc_exact_add(&down, ldexp((double)(int64_t)(mlc_order_mix((uint64_t)i) >> 11) * (i % 3 ? -1 : 1), -60));
    mlc_exact_merge(&parts[0], &parts[1]);
    CHECK(!memcmp(&parts[0], &up, sizeof up) && mlc_exact_value(&down) == -mlc_exact_value(&up));
    mlc_exact_merge(&up, &down);
    CHECK(mlc_exact_value(&up) == 0 && !signbit(mlc_exact_value(&up)));
    mlc_exact_add(&up, 0x1p250);
    mlc_exact_add(&up, -1);
    mlc_exact_add(&up, -0x1p250);
    mlc_exact_add(&up, 0x1p-320); /* below what is kept */
    CHECK(mlc_exact_value(&up) == -1);
}

/* ---- the tree ---- */

/* Brute force: the levels of the tree as lists of ranges; does one hold [begin, end)? */
static bool is_node(int groups, int begin, int end)
{
    for (int size = 1;; size *= 2) {
        for (int i = 0; i < groups; i += size)
            if (i == begin && (i + size < groups ? i + size : groups) == end)
                return true;
        if (size >= groups)
            return false;
    }
}

/* The roots of a share are its maximal nodes; all roots in order join to the whole, through nodes only. */
static void check_shares(int groups, int replicas)
{
    mlc_tree whole = mlc_tree_begin(groups, 0);
    for (int d = 0; d < replicas; d++) {
        mlc_tree own = mlc_tree_roots(groups, replicas, d), waiting = mlc_tree_before_last(groups, replicas, d);
        int first = groups / replicas * d, last = first + groups / replicas;
        mlc_tree cover = mlc_tree_cover(groups, first, last);
        CHECK(own.starts[0] == first && own.end == last && waiting.end == last - 1);
        CHECK(cover.depth == own.depth && cover.end == last && !memcmp(cover.starts, own.starts, (size_t)own.depth * sizeof *own.starts));
        int before = waiting.depth, merges = mlc_tree_push(&waiting, last);
        CHECK(own.depth == before - merges + 1 && own.depth == waiting.depth && own.depth <= mlc_tree_most_roots(groups, replicas));
        CHECK(before < mlc_tree_levels(groups, replicas));
        for (int i = 0; i < own.depth; i++) {
            int begin = own.starts[i], end = i + 1 < own.depth ? own.starts[i + 1] : last;
            CHECK(is_node(groups, begin, end));
            for (int a = first; a <= begin; a++)
                for (int b = end; b <= last; b++)
                    CHECK((a == begin && b == end) || !is_node(groups, a, b));
            mlc_tree_push(&whole, end);
            for (int k = 0; k < whole.depth; k++)
                CHECK(is_node(groups, whole.starts[k], k + 1 < whole.depth ? whole.starts[k + 1] : end));
        }
    }
    CHECK(whole.depth == 1 && whole.starts[0] == 0 && whole.end == groups);
}

static void check_tree(void)
{
    for (int groups = 1; groups <= 24; groups++)
        for (int replicas = 1; replicas <= groups; replicas++)
            if (groups % replicas == 0)
                check_shares(groups, replicas);
    CHECK(mlc_tree_levels(1, 1) == 1 && mlc_tree_levels(2, 1) == 2 && mlc_tree_levels(8, 1) == 4 && mlc_tree_levels(8, 8) == 1);
    CHECK(mlc_tree_most_roots(6, 2) == 2 && mlc_tree_most_roots(8, 2) == 1);
}

int main(void)
{
    check_exact();
    check_order_free();
    check_signs();
    check_tree();
    printf("test_exact: ok\n");
    return 0;
}
