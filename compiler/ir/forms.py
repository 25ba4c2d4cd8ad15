"""How a value of the whole model lies on the ranks of one axis of the mesh, and what functions of such ranks are.

    Whole    every rank has all of it
    Cut      each rank has one of equal runs of a factor, by its index on the axis, and all of every other factor
    Term     each rank has numbers of the shape of the whole, whose sum or maximum over all ranks is the value

Bits must not depend on how many ranks there are, so sums over a factor that is cut are taken over a number of strips of it that is
given, whatever the axis has: each rank has its strips in order, a Term has one value a strip, and they are added by the pairwise tree
over all strips (parallel/tree.py). The number of ranks divides that of strips.

A claim says which value of the whole function a local one is, and how it lies. That claims hold is proved (parallel/shard_proof.py).
"""

from __future__ import annotations

from mlc.frozen import frozen
from mlc.ir.factors import Join
from mlc.ir.function import Function
from mlc.ir.program import Step
from mlc.ir.types import Dim, Factor, TensorType, dim


@frozen
class Whole:
    """Every rank has all of it."""

    def __str__(self) -> str:
        return "whole"


@frozen
class Cut:
    """Along a factor of a dim: the index in it is index // inner % size."""

    dim: int
    inner: int
    size: int

    def __str__(self) -> str:
        return f"cut {self.dim}:{self.inner}:{self.size}"


@frozen
class Term:
    """A term of the value, joined by Join.SUM or Join.MAX."""

    join: Join

    def __str__(self) -> str:
        return f"term of {self.join.name.lower()}"


Form = Whole | Cut | Term

WHOLE = Whole()


@frozen
class Claim:
    """What a local value is.

    name:   of the value of the whole function
    strip:  of a Term: which of the rank's; of a Cut: the same, None: it is all that the rank has
    """

    name: str
    form: Form
    strip: int | None

    def __str__(self) -> str:
        which = "" if self.strip is None else f", strip {self.strip}"
        return f"%{self.name} ({self.form}{which})"


@frozen
class RankFunction:
    """A function as every rank of the axis runs it; its instructions may be those of ops/mesh.py.

    claims:  of every value but those of `position`, by its name; parameters and results say by them what they are
    """

    function: Function
    claims: tuple[tuple[str, Claim], ...]


@frozen
class RankVariant:
    """A variant as every rank of the axis runs it."""

    forward: RankFunction
    input_gradient: RankFunction
    weight_gradient: RankFunction

    @property
    def functions(self) -> tuple[RankFunction, RankFunction, RankFunction]:
        return self.forward, self.input_gradient, self.weight_gradient


@frozen
class Axis:
    """How many ranks an axis of the mesh has, and over how many strips sums are taken; the first divides the second."""

    name: str
    parts: int
    strips: int

    @property
    def own(self) -> int:
        """Strips of a rank."""
        return self.strips // self.parts


@frozen
class RankStep:
    """A step, and what each rank of an axis does of it.

    whole:       every dim as the product of its factors
    parameters:  how each model parameter is held, by name
    variants:    by unit; None for one that the train chain does not call
    """

    whole: Step
    axis: Axis
    parameters: tuple[tuple[str, Form], ...]
    variants: tuple[RankVariant | None, ...]


def scaled(kind: TensorType, cut: Cut, size: int) -> TensorType:
    """The type with `size` steps of a factor where the cut has all; the type has as many as it has."""
    d = kind.dims[cut.dim]
    inner = d.size
    factors: list[Factor] = []
    for factor in d.factors:
        inner //= factor.size
        factors.append(Factor(factor.label, size) if inner == cut.inner and factor.size > 1 else factor)
    made = Dim(tuple(factors))
    wanted = d.size * size // cut.size
    dims = (*kind.dims[: cut.dim], made if made.size == wanted else dim(wanted), *kind.dims[cut.dim + 1 :])
    return TensorType(kind.dtype, dims)


def local_type(kind: TensorType, claim: Claim, axis: Axis) -> TensorType:
    """The type of a local value, by that of the whole one."""
    match claim.form:
        case Cut(_, _, size):
            return scaled(kind, claim.form, size // (axis.parts if claim.strip is None else axis.strips))
        case _:
            return kind


def local_name(claim: Claim) -> str:
    """A name for a local value; no value of a whole function has # in its name."""
    which = "" if claim.strip is None else f".{claim.strip}"
    match claim.form:
        case Whole():
            return claim.name
        case Cut(d, inner, size):
            return f"{claim.name}#{d}.{inner}.{size}{which}"
        case Term():
            return f"{claim.name}#term{which}"
