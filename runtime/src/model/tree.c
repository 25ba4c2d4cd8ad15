/* tree.c: see tree.h. */
#include "model/tree.h"

#include <stdbool.h>

static int larger(int a, int b)
{
    return a > b ? a : b;
}

static int smaller(int a, int b)
{
    return a < b ? a : b;
}

/* Are [a, b) and [b, c) the two halves of a node of the tree? */
static bool joins(int groups, int a, int b, int c)
{
    int size = b - a;
    return (size & (size - 1)) == 0 && a % (2 * size) == 0 && c == smaller(a + 2 * size, groups);
}

mlc_tree mlc_tree_begin(int groups, int begin)
{
    return (mlc_tree){.groups = groups, .end = begin};
}

int mlc_tree_push(mlc_tree *tree, int end)
{
    int start = tree->end, merges = 0;
    while (tree->depth > 0 && joins(tree->groups, tree->starts[tree->depth - 1], start, end)) {
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
        most = larger(most, tree.depth);
    }
    return most;
}

int mlc_tree_levels(int groups, int replicas)
{
    int most = 0;
    for (int d = 0; d < replicas; d++)
        most = larger(most, most_waiting(groups, replicas, d));
    return 1 + most;
}

int mlc_tree_most_roots(int groups, int replicas)
{
    int most = 0;
    for (int d = 0; d < replicas; d++)
        most = larger(most, mlc_tree_roots(groups, replicas, d).depth);
    return most;
}
