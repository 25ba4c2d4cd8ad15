"""Ranks as a mesh: coordinates, the exchanges of cohorts, and that nothing else computes with the numbers of ranks."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from mlc.mesh import AXES, Cohort, Mesh

SIZES = st.integers(1, 40) | st.integers(1, 1 << 20)
SMALL = range(1, 41)


@given(st.tuples(*(st.integers(1, 9) for _ in AXES)), st.integers(0, 1 << 20))
def test_every_rank_has_one_coordinate(sizes: tuple[int, ...], number: int) -> None:
    mesh = Mesh(**dict(zip(AXES, sizes, strict=True)))
    rank = number % mesh.ranks
    assert mesh.rank(mesh.coordinate(rank)) == rank
    assert all(0 <= index < size for index, size in zip(mesh.coordinate(rank), mesh.sizes, strict=True))


def test_places_of_a_replica_are_numbered_one_after_the_other() -> None:
    mesh = Mesh(pp=3, dp=2)
    assert [(mesh.coordinate(rank).pp, mesh.coordinate(rank).dp) for rank in range(6)] == [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)]


# ------------------------------------------------------------------------------------------------------------------ cohorts


@pytest.mark.parametrize("size", SMALL)
def test_portions_are_shared_out(size: int) -> None:
    """Each member has one at the end, and what a point holds after a turn is all of those that agree with it."""
    cohort = Cohort(size)
    assert sorted(cohort.portion(member) for member in range(size)) == list(range(size))
    for turn in range(cohort.turns + 1):
        for point in range(1 << cohort.turns):
            alike = [cohort.portion(m) for m in range(size) if (m ^ point) & ((1 << turn) - 1) == 0]
            assert list(range(*cohort.portions(point, turn))) == sorted(alike)


def pairwise(values: list[object]) -> object:
    """The bottom-up pairwise tree; an odd last one moves up."""
    while len(values) > 1:
        pairs: list[object] = list(zip(values[::2], values[1::2], strict=False))
        values = pairs + values[len(pairs) * 2 :]
    return values[0]


@pytest.mark.parametrize("size", SMALL)
def test_halving_adds_up_along_the_tree(size: int) -> None:
    """Every portion of the sum ends on its member, added up as the tree of all members says."""
    cohort = Cohort(size)
    held: dict[int, dict[int, object]] = {p: {} for p in range(1 << cohort.turns)}
    held.update((m, dict.fromkeys(range(size), m)) for m in range(size))
    for turn in range(cohort.turns):
        after: dict[int, dict[int, object]] = {}
        for point, own in held.items():
            other = held[point ^ 1 << turn]
            left, right = (own, other) if point < point ^ 1 << turn else (other, own)
            assert bool(own) <= cohort.is_present(point, turn)
            kept = range(*cohort.portions(point, turn + 1))
            after[point] = {u: (left[u], right[u]) if u in left and u in right else (left | right)[u] for u in kept if u in left | right}
        held = after
    tree = pairwise(list(range(size)))
    assert [held[m] for m in range(size)] == [{cohort.portion(m): tree} for m in range(size)]


def edges(cohort: Cohort, member: int) -> dict[int, int]:
    """The members that one exchanges with, by block."""
    found = {block: cohort.neighbour(member, block) for block in range(cohort.blocks)}
    return {block: other for block, other in found.items() if other >= 0}


@pytest.mark.parametrize("size", SMALL)
def test_exchanges_have_blocks_at_both_ends(size: int) -> None:
    cohort = Cohort(size)
    for member in range(size):
        assert member not in edges(cohort, member).values()
        assert max(Counter(edges(cohort, member).values()).values(), default=1) == 1
        assert all(member in edges(cohort, other).values() for other in edges(cohort, member).values())
    wanted = {
        (cohort.host(p), cohort.host(p ^ 1 << r)) for r in range(cohort.turns) for p in range(1 << cohort.turns)
        if cohort.is_present(p, r) or cohort.is_present(p ^ 1 << r, r)
    }  # fmt: skip
    assert {(a, b) for a, b in wanted if a != b} <= {(m, o) for m in range(size) for o in edges(cohort, m).values()}


@given(SIZES, st.data())
def test_large_cohorts_need_few_neighbours(size: int, data: st.DataObject) -> None:
    cohort = Cohort(size)
    member = data.draw(st.integers(0, size - 1))
    found = edges(cohort, member)
    assert len(found) <= cohort.blocks <= max(2 * cohort.turns - 1, 0)
    assert all(member in edges(cohort, other).values() for other in found.values())
    before = cohort.portions(member, 0)
    for turn in range(cohort.turns):
        own, other = cohort.portions(member, turn + 1), cohort.portions(member ^ 1 << turn, turn + 1)
        assert sorted([*own, *other])[0] == before.begin
        assert max(own.end, other.end) == before.end
        assert own.end == other.begin or other.end == own.begin
        before = own


PROGRAM = """
#include "mlc_mesh.h"
#include <stdio.h>

static void show(int n, int member)
{
    mlc_portions portion = mlc_cohort_portions(n, member, mlc_cohort_turns(n));
    printf("%d %d %d %d %d", mlc_cohort_turns(n), mlc_cohort_blocks(n), mlc_cohort_guest(n, member), portion.begin, portion.end);
    for (int r = 0; r <= mlc_cohort_turns(n); r++)
        printf(" %d %d", mlc_cohort_portions(n, member, r).begin, mlc_cohort_portions(n, member, r).end);
    for (int b = 0; b < mlc_cohort_blocks(n); b++)
        printf(" %d", mlc_cohort_neighbour(n, member, b));
    printf(" %d\\n", mlc_cohort_member(n, mlc_cohort_portion(n, member)));
}

int main(void)
{
    mlc_mesh mesh = {.size = {[MLC_TP] = 2, [MLC_CP] = 3, [MLC_EP] = 4, [MLC_PP] = 5, [MLC_DP] = 6}};
    for (int rank = 0; rank < mlc_mesh_ranks(&mesh); rank += 7) {
        mlc_coordinate at = mlc_mesh_coordinate(&mesh, rank);
        printf("%d %d %d %d %d %d\\n", at.at[0], at.at[1], at.at[2], at.at[3], at.at[4], mlc_mesh_rank(&mesh, &at));
    }
    static const int LARGE[] = {1023, 1024, 1025, 65536, 99991, 1048575, 1048576};
    for (int n = 1; n <= 40; n++)
        for (int member = 0; member < n; member++)
            show(n, member);
    for (int i = 0; i < 7; i++)
        for (int64_t k = 0; k < 20; k++)
            show(LARGE[i], (int)(k * 7919 * 7919 % LARGE[i]));
    return 0;
}
"""


def shown(size: int, member: int) -> list[int]:
    """What the program prints of a member."""
    cohort = Cohort(size)
    runs = [end for turn in range(cohort.turns + 1) for end in cohort.portions(member, turn)]
    blocks = [cohort.neighbour(member, block) for block in range(cohort.blocks)]
    return [cohort.turns, cohort.blocks, cohort.guest(member), *cohort.portions(member, cohort.turns), *runs, *blocks, member]


def test_both_languages_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "mesh.c").write_text(PROGRAM)
    flags = ["-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'runtime' / 'include'}"]
    subprocess.run(["cc", *flags, "mesh.c", "-o", "mesh"], cwd=tmp_path, check=True)
    text = subprocess.run([tmp_path / "mesh"], capture_output=True, text=True, check=True).stdout
    got = [list(map(int, line.split())) for line in text.splitlines()]
    mesh = Mesh(tp=2, cp=3, ep=4, pp=5, dp=6)
    want = [[*mesh.coordinate(rank), rank] for rank in range(0, mesh.ranks, 7)]
    want += [shown(size, member) for size in SMALL for member in range(size)]
    large = (1023, 1024, 1025, 65536, 99991, 1048575, 1048576)
    want += [shown(size, k * 7919 * 7919 % size) for size in large for k in range(20)]
    assert got == want


# ------------------------------------------------------------------------------------------------------------------ nowhere else

#: Arithmetic on numbers of ranks: a remainder or quotient of one, a product with one or with the sizes of the axes within a replica.
ARITHMETIC = {
    ".c": re.compile(
        r"\b(rank|peer|replica|member|receiver|sender)(->rank)? *[%/] *\w|\b(rank|replica)(->rank|->replica)? \* (?!sizeof)\w"
        r"|\b2 \* \w*(->)?rank\b|\(\w*(->)?rank - 1\)"
        r"|size\[MLC_(PP|TP|CP|EP)\] *[*%/]|[*%/] *[\w>.&-]*size\[MLC_(PP|TP|CP|EP)\]"
    ),
    ".py": re.compile(r"\b(rank|replica) *(%|//)|\breplica \* *(\w+\.)*pp\b|\bpp *\* *(\w+\.)*dp\b"),
}


def code_of(path: Path) -> str:
    """The text of a source without comments and strings."""
    text = path.read_text(encoding="utf-8")
    quoted = r'"""(?s:.*?)"""|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\''
    comment = r"#[^\n]*" if path.suffix == ".py" else r"/\*(?s:.*?)\*/"
    return re.sub(f"{comment}|{quoted}", lambda m: "\n" * m.group().count("\n"), text)


def test_ranks_are_numbers_to_the_mesh_alone() -> None:
    folders = (ROOT / "compiler", ROOT / "runtime" / "include", ROOT / "runtime" / "src", ROOT / "runtime" / "transports")
    paths = [p for folder in folders for p in folder.rglob("*") if p.suffix in (".py", ".c", ".h") and p.stem not in ("mesh", "mlc_mesh")]
    assert len(paths) > 200
    found: list[str] = []
    for path in paths:
        form = ARITHMETIC[".py" if path.suffix == ".py" else ".c"]
        for number, line in enumerate(code_of(path).splitlines(), 1):
            if form.search(line):
                found.append(f"{path.name}:{number}: {line.strip()}")
    assert found == []


@pytest.mark.parametrize(
    ("suffix", "line"),
    [
        (".c", "int rank = replica * model->mesh.size[MLC_PP] + place;"),
        (".c", "int place = rank % model->mesh.size[MLC_PP];"),
        (".c", "int above = (world->rank - 1) / 2 + 2 * world->rank;"),
        (".c", "int first = rank->replica * pp;"),
        (".py", "rank = replica * pp + place"),
        (".py", "place, replica = rank % pp, rank // pp"),
        (".py", "ranks = layout.pp * layout.dp"),
    ],
)
def test_arithmetic_is_found(suffix: str, line: str) -> None:
    assert ARITHMETIC[suffix].search(line)
