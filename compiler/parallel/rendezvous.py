"""Where the lists of places meet: which row of one waits for which row of another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from mlc.parallel.collectives import OF_ALL_RANKS
from mlc.parallel.entries import Entry
from mlc.parallel.planned import Planned


class Rendezvous:
    """The rows of a chain's lists that wait for other places to come to theirs.

    A row that all places meet at waits for a stream of its own, which has the number behind theirs; that one waits for each place in turn.

    all_places:  of that stream, (position, place, position that the place must be past)
    """

    def __init__(self, planned: Planned, chain: str):
        self.planned = planned
        self.everybody = planned.pp
        self._rows: list[list[tuple[int, Entry]]] = []
        self._at: list[defaultdict[tuple[str, int, int], list[int]]] = []
        for place in planned.places:
            entries = place.lists[chain]
            ends = np.flatnonzero(entries.endings).tolist()
            rows = [(at, entries[at]) for at in ends]
            known: defaultdict[tuple[str, int, int], list[int]] = defaultdict(list)
            for at, entry in rows:
                known[_key(entry)].append(at)
            self._rows.append(rows)
            self._at.append(known)
        self._never = 1 + max(len(place.lists[chain]) for place in planned.places)
        self._met = [[at for at, entry in rows if entry.kind in OF_ALL_RANKS] for rows in self._rows]
        most = max(map(len, self._met))
        self.all_places: list[tuple[int, int, int]] = []
        for n in range(most if self.everybody > 1 else 0):
            for place, met in enumerate(self._met):
                need = met[n] - 1 if n < len(met) else self._never
                self.all_places.append((len(self.all_places), place, need))

    def waits(self, place: int) -> list[tuple[int, int, int]]:
        """(position, other place, position that it must be past) of the rows of a place."""
        if self.everybody == 1:
            return []
        found = [(at, self.everybody, (n + 1) * self.everybody - 1) for n, at in enumerate(self._met[place])]
        counts: defaultdict[tuple[str, int, int], int] = defaultdict(int)
        for at, entry in self._rows[place]:
            other = self.partner(place, entry)
            if other is None:
                continue
            key = _key(entry)
            theirs = self._at[other][key]
            found.append((at, other, theirs[counts[key]] - 1 if counts[key] < len(theirs) else self._never))
            counts[key] += 1
        return found

    def partner(self, place: int, entry: Entry) -> int | None:
        """The other place that takes part in an action."""
        if entry.kind not in ("SHARE", "SPREAD"):
            return None
        parameter, of = self.planned.parameters[entry.microbatch], int(entry.of)
        other = self.planned.stages[parameter.uses[of][0]] if entry.kind == "SHARE" else of
        ends = {other, parameter.owner} - {place}
        return next(iter(ends), None)

    def why(self, place: int, entry: Entry, reached: Sequence[int]) -> str:
        """For whom a row waits, in words."""
        other = self.partner(place, entry)
        if other is not None:
            return f"place {other} to come to it"
        nth = self._met[place].index(reached[place])
        late = [p for p, met in enumerate(self._met) if nth >= len(met) or reached[p] < met[nth]]
        return f"{', '.join(f'place {p}' for p in late[:3])}{' and others' * (len(late) > 3)} to come to it"


def _key(entry: Entry) -> tuple[str, int, int]:
    return entry.kind, int(entry.of), entry.microbatch
