"""Statements of one thread of a kernel: alone, or with the others of a warp or block that share the loops of an item."""

from __future__ import annotations

from collections.abc import Sequence

from mlc.diagnostics import InternalError
from mlc.emit import tree as c
from mlc.emit.body import Body
from mlc.emit.dtypes import stored
from mlc.emit.expressions import UNARY, index_text
from mlc.lower.expression import Index
from mlc.lower.loops import Loop, Statement, Store
from mlc.targets.cuda.launch import Named
from mlc.targets.cuda.packs import ELEMENT, Packs, packed


class DeviceBody(Body):
    """Statements of one thread. lane, lanes: the threads that share a loop of an item; "" where an item is a thread's."""

    def __init__(self, named: Named, integer: str, lane: str = "", lanes: str = "", scope: str = ""):
        self.own = dict(named.buffers)
        self.at = dict[int, str](enumerate("ijklnop"))
        super().__init__(self.own, self.at)
        self.sizes = named.sizes
        self.integer = integer
        self.lane = lane
        self.lanes = lanes
        self.scope = scope
        self.stores = False

    def statement(self, statement: Statement) -> c.Statement:
        """A loop inside a thread, in order; whatever is not a loop is as in C."""
        if not isinstance(statement, Loop):
            return super().statement(statement)
        counter = self.counters[statement.counter.number]
        return c.For(counter, "0", str(statement.counter.extent), self.statements(statement.body), kind=self.integer)

    def index(self, index: Index) -> str:
        """An index as text."""
        return index_text(index, self.names).within(UNARY)

    def item(self, statements: Sequence[Statement]) -> tuple[c.Statement, ...]:
        """The statements of an item that `lanes` threads share: each takes its iterations of a loop, what they have folded is combined in
        a fixed tree, and what stands outside of loops is computed by all, stored by the first."""
        made: list[c.Statement] = []
        for s in statements:
            match s:
                case Loop():
                    made += self._shared(s)
                case Store():
                    made.append(c.If(f"{self.lane} == 0", (self.statement(s),)))
                    self.stores = True
                case _:
                    made.append(self.statement(s))
        return tuple(made)

    def packs(self, packs: Packs) -> tuple[c.Statement, ...]:
        """A pack of elements, from `first` on."""
        counter, size, extent = packs.counter.number, packs.size, packs.counter.extent
        some = f"{extent} - first" if extent % size else str(size)
        names = {name: f"{self.buffers[buffer][0]}_{name.split()[1]}" for (buffer, _), name in packs.names.items()}
        loaded, first = {name for name, *_ in packs.loads}, Body(self.buffers, {**self.counters, counter: "first"})
        kinds = {name: f"mlc_pack<{stored(self.buffers[buffer][1]).type}, {size}>" for (buffer, _), name in packs.names.items()}
        load = [c.Define(kinds[name], f"{names[name]}(&{first.element(buffer, index)}, {some})") for name, buffer, index in packs.loads]
        clear = [c.Define(kinds[name], names[name]) for name in packs.names.values() if name not in loaded]
        put = [c.Do(f"{names[name]}.put(&{first.element(buffer, index)}, {some})") for name, buffer, index in packs.stores]
        self.own |= {name: (f"{names[name]}.v", self.buffers[buffer][1]) for (buffer, _), name in packs.names.items()}
        self.at[ELEMENT] = "e"
        element: tuple[c.Statement, ...] = (
            c.Define(f"const {self.integer}", self.counters[counter], "first + e"),
            c.Do(f"(void){self.counters[counter]}"),
            *self.statements(packs.body),
        )
        if extent % size:
            element = (c.If("first + e < " + str(extent), element),)
        return (*load, *clear, c.For("e", "0", str(size), element, kind="int", pragma="MLC_UNROLL"), *put)

    def _shared(self, loop: Loop) -> list[c.Statement]:
        """A loop whose iterations the lanes share out. What earlier statements stored is there for all of them."""
        if not loop.independent:
            raise InternalError("emit: the loop of a row has an order")
        before = [c.Do(f"mlc_{self.scope}_sync()")] if self.stores else []
        counter = self.counters[loop.counter.number]
        self.stores = self.stores or any(isinstance(s, Store) for s in loop.body)
        packs = packed(loop.body, loop.counter, self.sizes, int(self.lanes) if self.scope == "warp" else int(self.lanes) // 2)
        if packs:
            step = str(packs.size * int(self.lanes))
            shared = c.For("first", f"{packs.size} * {self.lane}", str(loop.counter.extent), self.packs(packs), step, kind=self.integer)
        else:
            shared = c.For(counter, self.lane, str(loop.counter.extent), self.statements(loop.body), self.lanes, kind=self.integer)
        part = ", part" if self.scope == "block" else ""
        return [*before, shared, *(c.Assign(n, f"mlc_{self.scope}_fold_{combine}({n}{part})") for n, combine in loop.folds)]
