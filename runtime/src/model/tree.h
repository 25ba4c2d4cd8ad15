/* tree.h: the order in which group sums add up: the bottom-up pairwise tree over groups 0 .. G - 1.
 *
 * Neighbours join, (0 1) (2 3) ..., then their sums, ((0 1) (2 3)) ...; an odd last one moves up. So [a, b) and [b, c) join when
 * [a, b) is an aligned power of two of groups and [b, c) is as many, or all that are left. A replica holds a contiguous share of the
 * groups; when groups come in ascending order, the subtrees that cannot join yet wait on a stack:
 *
 *   G = 6, share 3 4 5   after 3: (3)   after 4: (3) (4)   after 5: (3) (45)      its roots: (3) (45)
 *          share 0 1 2   after 0: (0)   after 1: (01)      after 2: (01) (2)      its roots: (01) (2)
 *   all roots in order   (01)   (01) (2)   (01) (2)+(3) = (0123)   (0123)+(45)
 *
 * Pure arithmetic on ranges, no data.
 */
#ifndef MLC_TREE_H
#define MLC_TREE_H

#include <stdbool.h>

#define MLC_TREE_DEPTH 64 /* the most subtrees that wait at once, for any number of groups */

/* A stack of neighbouring subtrees: the first group of each, and where the last ends. */
typedef struct mlc_tree {
    int groups;
    int depth;
    int end;
    int starts[MLC_TREE_DEPTH];
} mlc_tree;

/* Are [a, b) and [b, c) the two halves of a node of the tree? */
bool mlc_tree_joins(int groups, int a, int b, int c);

/* An empty stack for the groups from `begin` on. */
mlc_tree mlc_tree_begin(int groups, int begin);

/* Puts the subtree [tree->end, end) on the stack; returns with how many of the topmost, one after the other, it joins. */
int mlc_tree_push(mlc_tree *tree, int end);

/* The groups of replica d are [mlc_tree_share(G, dp, d), mlc_tree_share(G, dp, d + 1)). */
int mlc_tree_share(int groups, int replicas, int replica);

/* The stack after all groups of a replica but the last, and with how many the last joins: mlc_tree_push(&tree, end) from there. */
mlc_tree mlc_tree_before_last(int groups, int replicas, int replica);

/* The maximal subtrees in a replica's share: its roots. */
mlc_tree mlc_tree_roots(int groups, int replicas, int replica);

/* The maximal subtrees that lie in groups [begin, end). */
mlc_tree mlc_tree_cover(int groups, int begin, int end);

/* How many accumulators a use needs on any replica: one that takes microbatches, and those that wait beside it. */
int mlc_tree_levels(int groups, int replicas);

/* The most roots of any replica, and of any aligned run of 2^n of them. */
int mlc_tree_most_roots(int groups, int replicas);

#endif
