"""The ways in which ranks may share the work of an instruction: read from what its op says of factors, whatever the op is."""

from __future__ import annotations

from collections.abc import Mapping

from mlc.frozen import frozen
from mlc.ir.factors import Division, Join, Letter, Offset, divisions, values_of
from mlc.ir.forms import WHOLE, Cut, Form, Term
from mlc.ir.function import Instruction
from mlc.ir.op import Op

IOTA = "iota"

SUM = Term(Join.SUM)


@frozen
class Way:
    """One way. needs: the form of each operand; makes: that of each result.

    letter:  the letter that is cut; None: each rank does the whole of the instruction, or of each strip of the terms it is given
    """

    needs: tuple[Form, ...]
    makes: tuple[Form, ...]
    letter: Letter | None


def ways(instruction: Instruction, ops: Mapping[str, Op], strips: int) -> tuple[Way, ...]:
    """All ways, the whole first. A factor is cut where it has as many runs as there are strips."""
    factors = ops[instruction.op].factors
    operands, results = instruction.operands, instruction.results
    found = [Way((WHOLE,) * len(operands), (WHOLE,) * len(results), None)]
    for division in divisions(instruction, factors.letters(instruction)):
        if division.size % strips == 0 and _fits(instruction, division, ops):
            found.append(_divided(instruction, division))
    for terms in factors.linear(instruction):
        if terms:
            needs = tuple(SUM if n in terms else WHOLE for n in range(len(operands)))
            found.append(Way(needs, (SUM,) * len(results), None))
    return tuple(dict.fromkeys(found))


def _fits(instruction: Instruction, division: Division, ops: Mapping[str, Op]) -> bool:
    """Whether a part can be told where it lies: by one number, where it begins, if it is a run of the whole letter."""
    outermost = division.inner * division.size == division.letter.size
    match division.letter.offset:
        case Offset.NONE:
            return True
        case Offset.INDEX:
            return outermost and ops[instruction.op].factors.part is not None
        case Offset.POSITION:
            return outermost and instruction.op == IOTA and not instruction.operands


def _divided(instruction: Instruction, division: Division) -> Way:
    letter = division.letter
    sites = {site.slot: Cut(site.dim, site.inner * division.inner, division.size) for site in letter.sites}
    lacking: Form = WHOLE if letter.join is Join.KEPT else Term(letter.join)
    count = len(instruction.operands)
    forms = [sites.get(slot, WHOLE if slot < count else lacking) for slot in range(len(values_of(instruction)))]
    return Way(tuple(forms[:count]), tuple(forms[count:]), letter)
