"""Schedules to look at: on a terminal, and as SVG. One row a rank, time to the right, a cell an action: F3 is the forward of
microbatch 3, and with several chunks a rank F3a that of its first chunk."""

from __future__ import annotations

from collections.abc import Iterator

from mlc.parallel.actions import Action, Schedule
from mlc.parallel.placement import by_rank
from mlc.parallel.simulate import Simulation

_COLORS = {"F": "#a8c8f0", "I": "#f5c891", "W": "#b5dcab", "B": "#f0a8a8"}
_WORDS = {"F": "forward", "I": "input gradient", "W": "weight gradient", "B": "backward"}
#: Pixels: height of a row, width of the ranks' names, height of the legend, width of a short action.
_ROW, _MARGIN, _LEGEND, _CELL = 24, 64, 32, 34


def draw_text(schedule: Schedule, found: Simulation, width: int) -> str:
    """Rows of ranks in bands of at most `width` columns, one below the other; dashes fill an action's time, dots are idle time."""
    names = [f"rank {rank} " for rank in range(schedule.ranks)]
    margin = max(map(len, names))
    scale = max(map(len, map(_Labels(schedule).of, _all(schedule)))) / _short(found)
    columns = round(found.makespan * scale)
    rows = [_text_row(schedule, found, rank, scale, columns) for rank in range(schedule.ranks)]
    band = max(8, width - margin)
    bands = [
        "".join(f"{name:<{margin}}{row[first : first + band]}\n" for name, row in zip(names, rows)) for first in range(0, columns, band)
    ]
    return "\n".join(bands)


def _text_row(schedule: Schedule, found: Simulation, rank: int, scale: float, columns: int) -> str:
    labels = _Labels(schedule)
    row = ["."] * columns
    for action, start, end in zip(schedule.lists[rank], found.start[rank], found.end[rank]):
        first, behind = round(start * scale), round(end * scale)
        row[first:behind] = labels.of(action)[: behind - first].ljust(behind - first, "-")
    return "".join(row)


def draw_svg(schedule: Schedule, found: Simulation) -> str:
    """A whole SVG document; an action's name and times show when the pointer rests on it."""
    scale = _CELL / _short(found)
    width = _MARGIN + found.makespan * scale + 8
    height = _LEGEND + _ROW * schedule.ranks + 8
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.1f}" height="{height}" font-family="sans-serif" font-size="11">\n'
    return head + "".join((*_svg_legend(), *_svg_rows(schedule, found, scale))) + "</svg>\n"


def _svg_legend() -> Iterator[str]:
    yield '<rect width="100%" height="100%" fill="white"/>\n'
    for i, (kind, color) in enumerate(_COLORS.items()):
        left = _MARGIN + 130 * i
        yield f'<rect x="{left}" y="8" width="14" height="14" fill="{color}"/>\n'
        yield f'<text x="{left + 20}" y="19">{kind} {_WORDS[kind]}</text>\n'


def _svg_rows(schedule: Schedule, found: Simulation, scale: float) -> Iterator[str]:
    labels = _Labels(schedule)
    for rank, actions in enumerate(schedule.lists):
        top = _LEGEND + _ROW * rank
        yield f'<text x="4" y="{top + 16}">rank {rank}</text>\n'
        for action, start, end in zip(actions, found.start[rank], found.end[rank]):
            left, wide = _MARGIN + start * scale, (end - start) * scale
            label = labels.of(action)
            opacity = 1.0 - 0.5 * labels.chunk[action.stage] / schedule.chunks
            yield f'<g><title>{action}: {start:g} to {end:g}</title><rect x="{left:.2f}" y="{top}" width="{wide:.2f}" height="{_ROW - 3}" '
            yield f'fill="{_COLORS[action.kind]}" fill-opacity="{opacity:.2f}" stroke="white"/>'
            if wide > 7 * len(label):
                yield f'<text x="{left + wide / 2:.2f}" y="{top + 15}" text-anchor="middle">{label}</text>'
            yield "</g>\n"


class _Labels:
    """The names of actions in their row, where the rank is known: kind, microbatch, and chunk where there are several."""

    def __init__(self, schedule: Schedule):
        self.several = schedule.chunks > 1
        self.chunk = {s: c for stages in by_rank(schedule.placement, schedule.ranks) for c, s in enumerate(stages)}

    def of(self, action: Action) -> str:
        label = f"{action.kind}{action.microbatch}"
        return label + _letters(self.chunk[action.stage]) if self.several else label


def _letters(chunk: int) -> str:
    """a to z, then aa, ab, ..."""
    return (_letters(chunk // 26 - 1) if chunk >= 26 else "") + chr(ord("a") + chunk % 26)


def _all(schedule: Schedule) -> Iterator[Action]:
    for actions in schedule.lists:
        yield from actions


def _short(found: Simulation) -> float:
    """The time of a short action, a quarter of them being shorter, by which the drawing is scaled; 1 when nothing takes any."""
    times = sorted(end - start for starts, ends in zip(found.start, found.end) for start, end in zip(starts, ends) if end > start)
    return times[len(times) // 4] if times else 1.0
