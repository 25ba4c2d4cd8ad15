"""The action tables of a program, made from plan.json and from nothing else: an edited plan gives an edited program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mlc.emit.literals import c_string, initializer, packed, write_array
from mlc.emit.writer import Writer
from mlc.parallel.entries import Entries
from mlc.parallel.planned import CHAINS, Channel, Place, Planned

_KINDS = {
    "F": "MLC_FORWARD",
    "I": "MLC_INPUT_GRADIENT",
    "W": "MLC_WEIGHT_GRADIENT",
    "B": "MLC_BACKWARD",
}

#: Actions in one line of a list.
_ACTIONS_A_LINE = 4


def actions_text(planned: Planned) -> str:
    """actions.c: regions, channels and lists."""
    writer = Writer()
    writer.line("/* What every place does, from plan.json: the slots of microbatches, the messages, which action comes next. */")
    writer.line("#include <stddef.h>")
    writer.line('#include "mlc_abi.h"')
    writer.line()
    channels = list(planned.channels)
    table = write_array(writer, "mlc_channel", "channels", [_channel(c) for c in planned.channels.values()])
    places = [_place(writer, place, channels) for place in planned.places]
    write_array(writer, "mlc_program", "places", places)
    writer.line("extern const mlc_schedule mlc_emitted_schedule;")
    rounds = ", ".join(str(planned.rounds.get(chain, 0)) for chain in CHAINS)
    with writer.block("const mlc_schedule mlc_emitted_schedule =", "};"):
        writer.line(f".places = places, .channels = {table}, .channel_count = {len(channels)}, .rounds = {{{rounds}}},")
    return writer.text()


def _channel(channel: Channel) -> str:
    """An mlc_channel."""
    chain = f"MLC_{channel.chain.upper()}" if channel.chain else "-1"
    sizes = (channel.slot_bytes, channel.slots, channel.outbox_slots)
    places = (channel.inbox, channel.headers, channel.outbox)
    return initializer((c_string(channel.name), f"MLC_{channel.kind.upper()}", chain, channel.source, channel.target, *sizes, *places))


def _place(writer: Writer, place: Place, channels: list[str]) -> str:
    """Define the tables of a place; returns its mlc_program."""
    rows = [initializer((c_string(r.name), r.base, r.stride, r.slots)) for r in place.regions.values()]
    regions = write_array(writer, "mlc_region", f"place{place.number}_regions", rows)
    numbers = {name: n for n, name in enumerate(channels)}
    lists = []
    for chain in CHAINS:
        words = list(_actions(place.lists[chain], numbers)) if chain in place.lists else []
        name = write_array(writer, "mlc_action", f"place{place.number}_{chain}", packed(words, _ACTIONS_A_LINE))
        lists.append(initializer((name, len(words))))
    return initializer((regions, len(rows), initializer(lists)))


def _actions(entries: Entries, numbers: Mapping[str, int]) -> Iterator[str]:
    """The mlc_action of each row; of a channel that does not exist, -1."""

    def head(kind: str, of: int | str) -> str:
        number = numbers.get(of, -1) if isinstance(of, str) else of
        return f"{{{_KINDS.get(kind, f'MLC_{kind}')}, {number}, "

    return entries.texts(head, lambda microbatch: f"{microbatch}}}")
