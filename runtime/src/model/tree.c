/* tree.c: see tree.h. */
#include "model/tree.h"

#include "system/numbers.h"

bool mlc_tree_joins(int groups, int a, int b, int c)
{
    int64_t size = b - a, end = a + 2 * size;
    return (size & (size - 1)) == 0 && a % (2 * size) == 0 && c == (end < groups ? end : groups);
}

mlc_tree mlc_tree_begin(int groups, int begin)
{
    return (mlc_tree){.groups = groups, .end = begin};
}

int mlc_tree_push(mlc_tree *tree, int end)
{
    int start = tree->end, merges = 0;
    while (tree->depth > 0 && mlc_tree_joins(tree->groups, tree->starts[tree->depth - 1], start, end)) {
        start = tree->starts[--tree->depth];
        merges++;
    }
    tree->starts[tree->depth++] = start;
    tree->end = end;
    return merges;
}

int mlc_tree_share(int groups, int replicas, int replica)
{
    return groups / replicas * replica;
}

mlc_tree mlc_tree_before_last(int groups, int replicas, int replica)
{
    mlc_tree tree = mlc_tree_begin(groups, mlc_tree_share(groups, replicas, replica));
    for (int g = tree.end + 1; g < mlc_tree_share(groups, replicas, replica + 1); g++)
        mlc_tree_push(&tree, g);
    return tree;
}

mlc_tree mlc_tree_roots(int groups, int replicas, int replica)
{
    mlc_tree tree = mlc_tree_before_last(groups, replicas, replica);
    mlc_tree_push(&tree, mlc_tree_share(groups, replicas, replica + 1));
    return tree;
}

/* The largest stack before any group of a replica's share. */
static int most_waiting(int groups, int replicas, int replica)
{
    mlc_tree tree = mlc_tree_begin(groups, mlc_tree_share(groups, replicas, replica));
    int most = 0;
    for (int g = tree.end + 1; g < mlc_tree_share(groups, replicas, replica + 1); g++) {
        mlc_tree_push(&tree, g);
        most = (int)larger(most, tree.depth);
    }
    return most;
}

mlc_tree mlc_tree_cover(int groups, int begin, int end)
{
    mlc_tree tree = mlc_tree_begin(groups, begin);
    while (tree.end < end) {
        int64_t size = 1;
        while (tree.end % (2 * size) == 0 && size < groups && (tree.end + 2 * size <= end || end == groups))
            size *= 2;
        tree.starts[tree.depth++] = tree.end;
        tree.end = tree.end + size < end ? (int)(tree.end + size) : end;
    }
    return tree;
}

/* Replicas before the last of which each other one is like one: with as many groups as a power of two holds, what joins repeats. */
static int kinds(int groups, int replicas)
{
    int own = groups / replicas;
    int64_t span = 1;
    while (span < own)
        span *= 2;
    span /= own & -own;
    return span < replicas ? (int)span : replicas;
}

int mlc_tree_levels(int groups, int replicas)
{
    int most = most_waiting(groups, replicas, replicas - 1);
    for (int d = 0; d < kinds(groups, replicas); d++)
        most = (int)larger(most, most_waiting(groups, replicas, d));
    return 1 + most;
}

int mlc_tree_most_roots(int groups, int replicas)
{
    int most = mlc_tree_roots(groups, replicas, replicas - 1).depth;
    for (int d = 0; d < kinds(groups, replicas); d++)
        most = (int)larger(most, mlc_tree_roots(groups, replicas, d).depth);
    return most;
}
