/* halving.c: see halving.h. */
#include "step/halving.h"

#include "mlc.h"

#include <stdlib.h>

/* A root, and where it lies: in level `at`, or, `arrived`, as number `at` of what the partner sends. */
typedef struct root {
    int begin;
    int end;
    bool arrived;
    int at;
} root;

/* The roots of a point, in order of groups. */
typedef struct forest {
    int count;
    root roots[2 * MLC_TREE_DEPTH];
} forest;

typedef struct walker {
    const mlc_model *model;
    mlc_halving *halving;
    int replicas;
    int levels;
} walker;

/* The groups of the run of 2^turn points around a point; empty where none is there. */
static mlc_tree cover(const walker *walk, int point, int turn)
{
    int groups = walk->model->groups, own = groups / walk->replicas;
    int64_t first = point >> turn << turn, last = first + (INT64_C(1) << turn);
    last = last < walk->replicas ? last : walk->replicas;
    return first < last ? mlc_tree_cover(groups, (int)(own * first), (int)(own * last)) : mlc_tree_begin(groups, 0);
}

static int end_of(const mlc_tree *tree, int i)
{
    return i + 1 < tree->depth ? tree->starts[i + 1] : tree->end;
}

static void add_join(mlc_joining *turn, bool arrived, bool adds, int from, int to)
{
    turn->joins[turn->join_count++] = (mlc_join){arrived, adds, from, to};
}

/* The sum of two neighbours: in a level of this point, which one of them has. */
static root join(mlc_joining *turn, root left, root right)
{
    root into = right.arrived ? left : right, from = right.arrived ? right : left;
    add_join(turn, from.arrived, true, from.at, into.at);
    return (root){left.begin, right.end, false, into.at};
}

static void push(const walker *walk, mlc_joining *turn, forest *all, root next)
{
    while (all->count && mlc_tree_joins(walk->model->groups, all->roots[all->count - 1].begin, next.begin, next.end))
        next = join(turn, all->roots[--all->count], next);
    all->roots[all->count++] = next;
}

static int free_level(const walker *walk, const forest *all)
{
    for (int level = 0; level < walk->levels; level++) {
        bool taken = false;
        for (int i = 0; i < all->count; i++)
            taken |= !all->roots[i].arrived && all->roots[i].at == level;
        if (!taken)
            return level;
    }
    return -1;
}

/* What arrived and joined nothing goes to levels of its own. False: there are too few. */
static bool settle(const walker *walk, mlc_joining *turn, forest *all)
{
    for (int i = 0; i < all->count; i++) {
        if (!all->roots[i].arrived)
            continue;
        int level = free_level(walk, all);
        if (level < 0)
            return false;
        add_join(turn, true, false, all->roots[i].at, level);
        all->roots[i] = (root){all->roots[i].begin, all->roots[i].end, false, level};
    }
    return true;
}

/* A turn: what goes, and how own and arrived roots become those of the next one. */
static bool walk_turn(const walker *walk, forest *own, int point, int number)
{
    int partner = point ^ 1 << number;
    mlc_tree theirs = cover(walk, partner, number);
    mlc_joining turn = {.turn = number, .point = point, .partner = partner, .sends = own->count > 0, .receives = theirs.depth > 0};
    forest arrived = {0}, all = {0};
    for (int i = 0; i < own->count; i++)
        turn.sent[turn.sent_count++] = own->roots[i].at;
    for (int i = 0; i < theirs.depth; i++)
        arrived.roots[arrived.count++] = (root){theirs.starts[i], end_of(&theirs, i), true, i};
    const forest *first = point < partner ? own : &arrived, *second = point < partner ? &arrived : own;
    for (int i = 0; i < first->count; i++)
        all.roots[all.count++] = first->roots[i];
    for (int i = 0; i < second->count; i++)
        push(walk, &turn, &all, second->roots[i]);
    if (!settle(walk, &turn, &all))
        return false;
    *own = all;
    if (turn.sends || turn.receives)
        walk->halving->items[walk->halving->count++] = turn;
    return true;
}

/* At the end the sum is in level 0. */
static void finish(const walker *walk, const forest *own, int point)
{
    for (int i = walk->halving->count - 1; i >= 0 && own->roots[0].at != 0; i--)
        if (walk->halving->items[i].point == point) {
            add_join(&walk->halving->items[i], false, false, own->roots[0].at, 0);
            return;
        }
}

/* Where a replica has its roots when its last microbatch is done: those before the last wait in 1, 2, ... */
static forest own_forest(const walker *walk, int replica)
{
    mlc_tree tree = cover(walk, replica, 0);
    forest own = {.count = tree.depth};
    for (int i = 0; i < tree.depth; i++)
        own.roots[i] = (root){tree.starts[i], end_of(&tree, i), false, i + 1 < tree.depth ? i + 1 : 0};
    return own;
}

/* In the last turn a replica and its guest are partners: what arrives lies in the levels of the guest. */
static void read_guest(mlc_halving *halving, int guest, const forest *theirs)
{
    mlc_joining *last = &halving->items[halving->count - 1];
    for (int i = 0; guest >= 0 && last->partner == guest && i < last->join_count; i++)
        if (last->joins[i].arrived)
            last->joins[i].from = theirs->roots[last->joins[i].from].at;
}

int mlc_halving_open(mlc_halving *halving, const mlc_model *model, int replica, int levels, mlc_error *error)
{
    int replicas = model->mesh.size[MLC_DP], turns = mlc_cohort_turns(replicas), guest = mlc_cohort_guest(replicas, replica);
    *halving = (mlc_halving){.most_roots = mlc_tree_most_roots(model->groups, replicas)};
    halving->items = calloc(2 * (size_t)turns + 1, sizeof *halving->items);
    if (!halving->items)
        return mlc_error_set(error, MLC_FAILED, "rank: out of memory");
    walker walk = {model, halving, replicas, levels}, hosting = {model, halving, replicas, halving->most_roots};
    forest own = own_forest(&walk, replica), theirs = {0};
    bool whole = true;
    for (int turn = 0; whole && turn < turns; turn++) {
        whole = walk_turn(&walk, &own, replica, turn);
        if (whole && guest >= 0 && turn + 1 < turns)
            whole = walk_turn(&hosting, &theirs, guest, turn);
    }
    if (!whole)
        return mlc_error_set(error, MLC_BAD_INPUT, "model %s: %d accumulators a use are too few for %d groups of %d replicas", model->name,
                             levels, model->groups, replicas);
    read_guest(halving, guest, &theirs);
    finish(&walk, &own, replica);
    return MLC_OK;
}

void mlc_halving_close(mlc_halving *halving)
{
    free(halving->items);
    *halving = (mlc_halving){0};
}
