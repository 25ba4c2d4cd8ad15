"""The action tables of a program, made from plan.json and from nothing else: an edited plan gives an edited program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mlc.emit import tree as c
from mlc.emit.literals import c_string, packed, write_array
from mlc.emit.printer import braced, c_text, designated, initializer
from mlc.parallel.entries import Entries
from mlc.parallel.planned import CHAINS, Channel, Place, Planned

_KINDS = {
    "F": "MLC_FORWARD",
    "I": "MLC_INPUT_GRADIENT",
    "W": "MLC_WEIGHT_GRADIENT",
    "B": "MLC_BACKWARD",
    "F+": "MLC_FORWARD_REST",
    "I+": "MLC_INPUT_GRADIENT_REST",
    "B+": "MLC_BACKWARD_REST",
}

#: Actions in one line of a list.
_ACTIONS_A_LINE = 4


def actions_text(planned: Planned) -> str:
    """actions.c: regions, channels and lists."""
    said = "What every place does, from plan.json: the slots of microbatches, the messages, which action comes next."
    nodes: list[c.Node] = [c.note(said), c.Directive("include <stddef.h>"), c.Directive('include "mlc_abi.h"'), c.Blank()]
    channels = list(planned.channels)
    table = write_array(nodes, "mlc_channel", "channels", [_channel(c) for c in planned.channels.values()])
    places = [_place(nodes, place, channels) for place in planned.places]
    write_array(nodes, "mlc_program", "places", places)
    rounds = initializer(planned.rounds.get(chain, 0) for chain in CHAINS)
    fields = f".places = places, .channels = {table}, .channel_count = {len(channels)}, .rounds = {rounds}"
    nodes.append(c.Define("extern const mlc_schedule", "mlc_emitted_schedule"))
    nodes.append(c.Constant("const mlc_schedule", "mlc_emitted_schedule", (fields,)))
    return c_text(nodes)


def _channel(channel: Channel) -> str:
    """An mlc_channel."""
    chain = f"MLC_{channel.chain.upper()}" if channel.chain else "-1"
    sizes = (channel.slot_bytes, channel.slots, channel.outbox_slots)
    places = (channel.inbox, channel.headers, channel.outbox)
    return initializer((c_string(channel.name), f"MLC_{channel.kind.upper()}", chain, channel.source, channel.target, *sizes, *places))


def _place(nodes: list[c.Node], place: Place, channels: list[str]) -> str:
    """Define the tables of a place; returns its mlc_program."""
    rows = [initializer((c_string(r.name), r.base, r.stride, r.slots)) for r in place.regions.values()]
    regions = write_array(nodes, "mlc_region", f"place{place.number}_regions", rows)
    numbers = {name: n for n, name in enumerate(channels)}
    lists = []
    for chain in CHAINS:
        words = list(_actions(place.lists[chain], numbers)) if chain in place.lists else []
        name = write_array(nodes, "mlc_action", f"place{place.number}_{chain}", packed(words, _ACTIONS_A_LINE))
        lists.append(initializer((name, len(words))))
    return designated({"regions": regions, "region_count": len(rows), "lists": initializer(lists)})


def _actions(entries: Entries, numbers: Mapping[str, int]) -> Iterator[str]:
    """The mlc_action of each row; of a channel that does not exist, -1."""

    def head(kind: str, of: int | str) -> str:
        number = numbers.get(of, -1) if isinstance(of, str) else of
        return f"{_KINDS.get(kind, f'MLC_{kind}')}, {number}, "

    return map(braced, entries.texts(head, str))
