/* mlc_mesh.h: the ranks of a run as a mesh: coordinates, neighbours and cohorts. Pure arithmetic, no data; nothing else computes with the
 * numbers of ranks. compiler/mesh.py says the same in Python.
 *
 * A rank is a point of a mesh with an axis for each way in which ranks share work. Its coordinate has an index on every axis: the index on
 * pp is its place, the index on dp its replica. Ranks are numbered along the axes in the order of enum mlc_axis, the first one closest:
 *
 *   pp 3, dp 2        place 0    place 1    place 2
 *   replica 0         rank 0     rank 1     rank 2
 *   replica 1         rank 3     rank 4     rank 5
 *
 * The ranks that differ on one axis alone are a cohort; its members are numbered by their index there.
 *
 * HALVING. The members of a cohort add up what each of them holds, and each ends with a part of the sum: in turn r a member exchanges
 * halves with the one whose number differs in bit r, so after it holds the sum over an aligned run of 2^(r+1) members, of what is left to
 * it. That is the bottom-up pairwise tree over members. A cohort of n members that is no power of two is one of 2^turns points in which
 * the last ones are absent. They have nothing to add, but points before them hand on what the sums need: member `host` does that for them.
 *
 *   n = 5, turns 3   point   0 1 2 3 4   5 6 7 (absent: points of members 1 2 3)
 *   turn 0           (0 1) (2 3) (4 5)         4 sends half of its own to 1, as point 5
 *   turn 1           (01 23: 0 with 2, 1 with 3)  (4 with 6, 5 with 7)
 *   turn 2           (0123 4: 0 with 4; 1 with 5, 2 with 6, 3 with 7: on one member each)
 *
 * What the members add up is cut into n portions, one for each at the end. After r turns a point holds the portions of all members whose
 * numbers agree with its own in the lowest r bits: they are neighbours in the order of portions, so each is a run [begin, end).
 * The way back, doubling, is the same exchanges in the opposite order.
 */
#ifndef MLC_MESH_H
#define MLC_MESH_H

#include <stdbool.h>
#include <stdint.h>

enum mlc_axis { MLC_TP, MLC_CP, MLC_EP, MLC_PP, MLC_DP, MLC_AXES };

typedef struct mlc_mesh {
    int32_t size[MLC_AXES]; /* each at least 1 */
} mlc_mesh;

typedef struct mlc_coordinate {
    int32_t at[MLC_AXES];
} mlc_coordinate;

/* A mesh of places and replicas alone, as an initialiser. */
#define MLC_MESH(pp, dp) {.size = {[MLC_TP] = 1, [MLC_CP] = 1, [MLC_EP] = 1, [MLC_PP] = (pp), [MLC_DP] = (dp)}}

#define MLC_MOST_RANKS (1 << 30)
#define MLC_TREE_NEIGHBOURS 3 /* of a rank in the tree of all: the one above, two below */

/* ---- ranks and coordinates ---- */

/* Are these the sizes of a mesh? */
static inline bool mlc_mesh_is_sane(const mlc_mesh *mesh)
{
    int64_t ranks = 1;
    for (int axis = 0; axis < MLC_AXES; axis++) {
        if (mesh->size[axis] < 1 || mesh->size[axis] > MLC_MOST_RANKS / ranks)
            return false;
        ranks *= mesh->size[axis];
    }
    return true;
}

static inline int mlc_mesh_ranks(const mlc_mesh *mesh)
{
    int ranks = 1;
    for (int axis = 0; axis < MLC_AXES; axis++)
        ranks *= mesh->size[axis];
    return ranks;
}

static inline mlc_coordinate mlc_mesh_coordinate(const mlc_mesh *mesh, int rank)
{
    mlc_coordinate coordinate;
    for (int axis = 0; axis < MLC_AXES; axis++) {
        coordinate.at[axis] = rank % mesh->size[axis];
        rank /= mesh->size[axis];
    }
    return coordinate;
}

static inline int mlc_mesh_rank(const mlc_mesh *mesh, const mlc_coordinate *coordinate)
{
    int rank = 0;
    for (int axis = MLC_AXES - 1; axis >= 0; axis--)
        rank = rank * mesh->size[axis] + coordinate->at[axis];
    return rank;
}

/* Number of a rank among those of its machine, where machines have so many each and are filled one after the other. */
static inline int mlc_mesh_local(int rank, int neighbours)
{
    return rank % neighbours;
}

static inline int mlc_mesh_index(const mlc_mesh *mesh, int rank, enum mlc_axis axis)
{
    return mlc_mesh_coordinate(mesh, rank).at[axis];
}

static inline int mlc_mesh_place(const mlc_mesh *mesh, int rank)
{
    return mlc_mesh_index(mesh, rank, MLC_PP);
}

static inline int mlc_mesh_replica(const mlc_mesh *mesh, int rank)
{
    return mlc_mesh_index(mesh, rank, MLC_DP);
}

/* The member of a rank's cohort along an axis that has this index there. */
static inline int mlc_mesh_member(const mlc_mesh *mesh, int rank, enum mlc_axis axis, int index)
{
    mlc_coordinate coordinate = mlc_mesh_coordinate(mesh, rank);
    coordinate.at[axis] = index;
    return mlc_mesh_rank(mesh, &coordinate);
}

/* ---- the tree of all ranks ---- */

/* The neighbour number 0 (above), 1 or 2 (below) of a rank, -1: it has none there. */
static inline int mlc_mesh_tree_neighbour(int ranks, int rank, int number)
{
    int64_t below = 2 * (int64_t)rank + number;
    if (number == 0)
        return rank > 0 ? (rank - 1) / 2 : -1;
    return below < ranks ? (int)below : -1;
}

/* Which neighbour of a rank another one is. */
static inline int mlc_mesh_tree_number(int rank, int other)
{
    return other > rank ? other - 2 * rank : 0;
}

/* ---- cohorts: halving and doubling ---- */

/* Rounds of a cohort of n members. */
static inline int mlc_cohort_turns(int n)
{
    int turns = 0;
    while (INT64_C(1) << turns < n)
        turns++;
    return turns;
}

/* The absent point that a member stands in for, -1: none. */
static inline int mlc_cohort_guest(int n, int member)
{
    int turns = mlc_cohort_turns(n), point = turns ? member + (1 << (turns - 1)) : 0;
    return turns && point >= n && point < INT64_C(1) << turns ? point : -1;
}

/* The member that does the work of a point. */
static inline int mlc_cohort_host(int n, int point)
{
    return point < n ? point : point - (1 << (mlc_cohort_turns(n) - 1));
}

/* Has any member of the aligned run of 2^turn points around this one something to add? */
static inline bool mlc_cohort_is_present(int n, int point, int turn)
{
    return point >> turn << turn < n;
}

/* Blocks of slots that a member has for those it exchanges with: one a turn, for itself, then for its guest. */
static inline int mlc_cohort_blocks(int n)
{
    int turns = mlc_cohort_turns(n);
    return n == 1 << turns ? turns : 2 * turns - 1;
}

/* The member behind a block, -1: it exchanges nothing there. */
static inline int mlc_cohort_neighbour(int n, int member, int block)
{
    int turns = mlc_cohort_turns(n), guest = mlc_cohort_guest(n, member);
    bool own = block < turns;
    if (!own && guest < 0)
        return -1;
    int other = own ? member ^ 1 << block : guest ^ 1 << (block - turns);
    if (!own && other >= n)
        return -1; /* two guests: their hosts have a block for it */
    return mlc_cohort_host(n, other) == member ? -1 : mlc_cohort_host(n, other);
}

/* The block of a member behind which another one is. */
static inline int mlc_cohort_block(int n, int member, int other)
{
    for (int block = 0; block < mlc_cohort_blocks(n); block++)
        if (mlc_cohort_neighbour(n, member, block) == other)
            return block;
    return -1;
}

/* A run of portions, and so of members in the order of portions. */
typedef struct mlc_portions {
    int begin;
    int end;
} mlc_portions;

/* How many members agree with a point in the lowest `bits` bits. */
static inline int mlc_cohort_count(int n, int point, int bits)
{
    int lowest = point & (int)((INT64_C(1) << bits) - 1);
    return lowest < n ? (n - 1 - lowest) / (int)(INT64_C(1) << bits) + 1 : 0;
}

/* The portions that a point holds after `turn` turns. */
static inline mlc_portions mlc_cohort_portions(int n, int point, int turn)
{
    int begin = 0;
    for (int bit = 0; bit < turn; bit++)
        if (point >> bit & 1)
            begin += mlc_cohort_count(n, point & ~(1 << bit), bit + 1);
    return (mlc_portions){begin, begin + mlc_cohort_count(n, point, turn)};
}

/* The portion that a member has at the end. */
static inline int mlc_cohort_portion(int n, int member)
{
    return mlc_cohort_portions(n, member, mlc_cohort_turns(n)).begin;
}

/* The member that has a portion. */
static inline int mlc_cohort_member(int n, int portion)
{
    int member = 0;
    for (int bit = 0; bit < mlc_cohort_turns(n); bit++)
        if (portion >= mlc_cohort_portions(n, member, bit + 1).end)
            member |= 1 << bit;
    return member;
}

#endif
