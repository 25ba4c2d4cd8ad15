"""A compiled model in this process: its shared library through cffi, its tensors as NumPy views of the arenas.

All pp * dp ranks are threads of this process. Several models live side by side: each has its own library handle, arenas and threads.
A model serves one call at a time, and the process that opened it: its threads are not in a forked child.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import struct
import tempfile
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import cffi
import numpy as np

from mlc.diagnostics import NO_SPAN, Diagnostic, MlcError, nearest
from mlc.frozen import frozen, frozen_object
from mlc.ir.dtypes import dtype_of, row
from mlc.mesh import AXES, Mesh
from mlc.resources import runtime_folder

_HEADERS = ("mlc_mesh.h", "mlc_abi.h", "mlc.h")
#: What a header has that declares nothing: the preprocessor's lines, and functions with a body.
_NO_DECLARATIONS = re.compile(r"^#.*?$|^static inline .*?^}$", re.MULTILINE | re.DOTALL)
_MESSAGE_BYTES = 2048
_DIGEST_BYTES = 65

#: Of a 64-bit ELF file: where its table of sections is, which linkers put last, the bytes of an entry and their number.
_ELF_HEADER = struct.Struct("=40xQ10xHHxx")


@functools.cache
def _interface() -> Any:
    """The runtime's own headers as cffi reads them: without preprocessor lines and without what only C++ sees."""
    ffi: Any = cffi.FFI()
    for name in _HEADERS:
        text = (runtime_folder() / "include" / name).read_text(encoding="utf-8")
        text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
        text = re.sub(r"#ifdef __cplusplus.*?#endif", "", text, flags=re.DOTALL)
        ffi.cdef(_NO_DECLARATIONS.sub("", text))
    ffi.cdef("extern mlc_model mlc_emitted_model;")
    return ffi


@functools.cache
def _abi_version() -> int:
    text = (runtime_folder() / "include" / "mlc_abi.h").read_text(encoding="utf-8")
    found = re.search(r"#define MLC_ABI_VERSION (\d+)", text)
    assert found, "mlc_abi.h states its version"
    return int(found[1])


class _Session:
    """One open session: lives until the model and every view of its arena are gone."""

    def __init__(self, library: Path, threads: int | None, seed: int, steps: int):
        for name, value, most in (("threads", threads or 0, 2**31), ("seed", seed, 2**63), ("steps", steps, 2**63)):
            if not isinstance(value, (int, np.integer)) or not 0 <= value < most:
                raise _error("E0703", f"{name} {value!r} is not a whole number from 0 to {most - 1}")
        self.ffi = _interface()
        self.lib = _load(self.ffi, library)
        model = self.ffi.addressof(self.lib, "mlc_emitted_model")
        version = model.abi_version
        if version != _abi_version():
            _unload(self.ffi, self.lib)
            raise _error("E0704", f"{library} has version {version} of the runtime, this compiler {_abi_version()}")
        options = self.ffi.new("mlc_open_options *", {"threads": threads or 0, "seed": seed, "steps": steps})
        message = self.ffi.new("char[]", _MESSAGE_BYTES)
        self.pointer = self.lib.mlc_open(model, options, self.ffi.NULL, message, _MESSAGE_BYTES)
        if self.pointer == self.ffi.NULL:
            _unload(self.ffi, self.lib)
            raise _error("E0703", self.ffi.string(message).decode(errors="replace"))
        self.model = model
        self.process = os.getpid()
        self.calls: dict[str, _Call] = {}
        weakref.finalize(self, _close, self.ffi, self.lib, self.lib.mlc_close, self.pointer).atexit = False

    @contextlib.contextmanager
    def call(self, name: str) -> Iterator[None]:
        """The session is this caller's inside, and only its. raises: E0705 it is another's, or this process is a forked child"""
        if os.getpid() != self.process:
            help = "open the model in this process, or start processes by spawn or forkserver"
            message = f"model.{name}: this process was forked from the one that opened the model, and has none of its threads"
            raise _error("E0705", message, help)
        own = _Call(name, threading.get_ident())
        try:  # entered before the session is taken, so that an interrupt between the two leaves it free
            holder = self.calls.setdefault("running", own)
            if holder is not own:
                who = "this thread" if holder.thread == own.thread else "another thread"
                help = "a model serves one call at a time: use a lock, or open a model for each thread"
                raise _error("E0705", f"model.{name}: {who} is in model.{holder.name}", help)
            yield
        finally:
            try:
                self._release(own)
            finally:  # an interrupt that comes meanwhile leaves it free too
                self._release(own)

    def _release(self, own: _Call) -> None:
        if self.calls.get("running") is own:
            del self.calls["running"]

    def check(self, status: int) -> None:
        """raises: E0703 with the runtime's sentence when a call failed"""
        if status:
            raise _error("E0703", self.ffi.string(self.lib.mlc_session_message(self.pointer)).decode(errors="replace"))

    def warn(self) -> None:
        """Warns of what the last call had to say besides."""
        for line in self.ffi.string(self.lib.mlc_session_notes(self.pointer)).decode(errors="replace").splitlines():
            warnings.warn(line, stacklevel=3)

    def text(self, characters: Any) -> str:
        return self.ffi.string(characters).decode()

    def shape(self, view: Any) -> tuple[int, ...]:
        return tuple(view.shape[i] for i in range(view.rank))

    def dtype(self, number: int) -> str:
        """A dtype of enum mlc_dtype as the language names it: the same in small letters."""
        return self.ffi.typeof("enum mlc_dtype").elements[number].removeprefix("MLC_").lower()

    def array(self, view: Any) -> np.ndarray:
        """A NumPy view of a tensor in an arena; of a copy that is overwritten later, an array of its own that cannot be written."""
        word = dtype_of(self.dtype(view.dtype)).word
        array = np.asarray(_Memory(self, int(self.ffi.cast("uintptr_t", view.data)), self.shape(view), word))
        if not view.copy:
            return array
        array = array.copy()
        array.flags.writeable = False
        return array

    def master(self, parameter: int) -> np.ndarray:
        return self.array(self.lib.mlc_parameter_master(self.pointer, parameter))

    def gradients(self) -> dict[str, np.ndarray]:
        """Copies of the whole gradients of the last call, of the parameters that have one."""
        views = [self.lib.mlc_parameter_gradient(self.pointer, i) for i in range(self.model.parameter_count)]
        return {self.text(view.name): self.array(view).copy() for view in views if view.data != self.ffi.NULL}

    def state(self, parameter: int, state: int) -> np.ndarray:
        view = self.lib.mlc_parameter_state(self.pointer, parameter, state)
        if view.data == self.ffi.NULL:
            raise _error("E0703", "out of memory")
        return self.array(view)


@frozen_object
class _Call:
    """A call of a model's method by a thread."""

    name: str
    thread: int


def _close(ffi: Any, lib: Any, close: Callable[[Any], None], pointer: Any) -> None:
    """The end of a session, and of its hold on the library. Runs wherever Python collects, also inside of cffi while it holds its lock:
    so `close` was looked up before."""
    close(pointer)
    _unload(ffi, lib)


def _unload(ffi: Any, lib: Any) -> None:
    """Let go of a library, and have cffi forget it: its interface keeps all that it ever opened, some 20 KB each."""
    functions = lib.__dict__
    ffi.dlclose(lib)
    for name, one in (("_libraries", lib), ("_function_caches", functions)):
        kept = getattr(ffi, name, None)  # inside of cffi: where they are called otherwise, they stay
        if isinstance(kept, list):
            kept[:] = [other for other in kept if other is not one]


class _Memory:
    """Memory of a session as NumPy asks for it; the array that views it keeps it, and so the session, alive."""

    def __init__(self, session: _Session, address: int, shape: tuple[int, ...], dtype: Any):
        self.session = session
        self.__array_interface__ = {"version": 3, "data": (address, False), "shape": shape, "typestr": np.dtype(dtype).str}


def _check_whole(library: Path) -> None:
    """The loader hangs on a FIFO, and dies of a library that was cut short. raises: E0704"""
    try:
        if library.exists() and not library.is_file():
            raise _error("E0704", f"cannot open {library}: it is no file")
        with library.open("rb") as file:
            head = file.read(_ELF_HEADER.size)
            size = os.fstat(file.fileno()).st_size
    except (OSError, ValueError, RuntimeError) as problem:
        raise _error("E0704", f"cannot open {library}: {problem}") from problem
    if head[:5] != b"\x7fELF\x02" or len(head) < _ELF_HEADER.size:
        raise _error("E0704", f"cannot open {library}: it is no shared library of a 64-bit machine")
    offset, entry_bytes, entries = _ELF_HEADER.unpack(head)
    if offset + entry_bytes * entries > size:
        raise _error("E0704", f"cannot open {library}: it was cut short")


def _load(ffi: Any, library: Path) -> Any:
    """The library under a path of its own: the loader would hand out the old one for a file that was built anew.

    raises: E0704 not a library of mlc
    """
    _check_whole(library)
    with tempfile.TemporaryDirectory(prefix="mlc-") as folder:
        link = Path(folder) / library.name
        try:
            link.symlink_to(library.resolve())
            lib = ffi.dlopen(str(link), ffi.RTLD_NOW | ffi.RTLD_LOCAL)
            ffi.addressof(lib, "mlc_emitted_model")
        except (OSError, AttributeError) as problem:
            raise _error("E0704", f"cannot open {library}: {str(problem).replace(str(link), library.name)}") from problem
    return lib


@frozen
class InputType:
    """An input of a whole step: `shape` leads with microbatches times batch. i32 values are from `low` on and below `limit` (None: any);
    where places of a row differ, these are values that every place takes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    limit: int | None
    low: int = 0


class Tensors(Mapping[str, np.ndarray]):
    """Tensors by name, each a view of the arena without a copy: what is written there is what the model computes with."""

    def __init__(self, views: dict[str, Callable[[], np.ndarray]]):
        self._views = views

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._views:
            near = nearest(name, self._views)
            raise KeyError(f"no tensor `{name}`" + (f"; did you mean `{near}`?" if near else ""))
        return self._views[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)


class Model:
    """A compiled model: parameters to read and write, steps to take. Use it in a `with` block, or call close().

    raises, from every call: E0701 inputs do not fit, E0702 the model is closed, E0703 what the runtime reports, E0705 another call
    is running, or this process is a forked child. An interrupt (Ctrl-C) is raised when the call is done: a step is whole or not taken.
    """

    def __init__(self, library: str | os.PathLike[str], threads: int | None = None, seed: int = 0, steps: int = 0):
        self._open: _Session | None = _Session(Path(library), threads, seed, steps)
        self.inputs = tuple(self._input_type(i) for i in range(self._lib.mlc_input_count(self._pointer)))
        model = self._session.model
        self.microbatches: int = model.microbatches
        self.batch: int = model.batch
        self.tokens: int = model.tokens
        self.flops: float = model.flops
        mesh = Mesh(**{axis: model.mesh.size[n] for n, axis in enumerate(AXES)})
        self.ranks: int = mesh.ranks
        self.arena_bytes: int = sum(model.roles[mesh.coordinate(rank).pp].arena_bytes for rank in range(mesh.ranks))

    @property
    def _session(self) -> _Session:
        if self._open is None:
            raise _error("E0702", "the model is closed")
        return self._open

    @property
    def _lib(self) -> Any:
        return self._session.lib

    @property
    def _pointer(self) -> Any:
        return self._session.pointer

    def _input_type(self, index: int) -> InputType:
        session = self._session
        view = session.lib.mlc_input_view(session.pointer, index)
        rows, *rest = session.shape(view)
        shape = (rows * session.model.microbatches, *rest)
        name, dtype, limit = session.text(view.name), session.dtype(view.dtype), session.model.inputs[index].limit
        domains = [d for i in range(session.model.domain_count) if (d := session.model.domains[i]).input == index]
        if not domains:
            return InputType(name, dtype, shape, limit if limit >= 0 else None)
        return InputType(name, dtype, shape, min(d.high for d in domains) + 1, max(d.low for d in domains))

    @property
    def parameters(self) -> Tensors:
        """Masters by name: f32, or f64 where that is the recipe's precision."""
        session = self._session
        names = [session.text(session.model.parameters[i].name) for i in range(session.model.parameter_count)]
        return Tensors({name: functools.partial(session.master, i) for i, name in enumerate(names)})

    @property
    def optimizer_state(self) -> Tensors:
        """Optimizer states by `<parameter>/<state>`. One that is spread over replicas is a copy that cannot be written."""
        session, views = self._session, {}
        for i in range(session.model.parameter_count):
            parameter = session.model.parameters[i]
            for k in range(parameter.state_count):
                name = f"{session.text(parameter.name)}/{session.text(parameter.states[k].name)}"
                views[name] = functools.partial(session.state, i, k)
        return Tensors(views)

    def step(self, **inputs: Any) -> float:
        """One whole step; returns the loss before the update. Every input leads with microbatches * batch rows."""
        return self._run("step", inputs)

    def gradient(self, **inputs: Any) -> tuple[float, dict[str, np.ndarray]]:
        """The loss, and the whole gradient of every parameter that gets one, neither clipped nor applied. The arrays are copies."""
        session = self._session
        return self._run("gradient", inputs, lambda loss: (loss, session.gradients()))

    def evaluate(self, **inputs: Any) -> float:
        """The loss of the evaluation chain; rows are any multiple of the batch."""
        return self._run("evaluate", inputs)

    def _run(self, name: str, inputs: dict[str, Any], after: Callable[[float], Any] = float) -> Any:
        """A call with inputs; `after` makes its value of the loss, before another call may begin."""
        session = self._session
        self._check_names(inputs)
        arrays = [self._checked(kind, inputs[kind.name], name) for kind in self.inputs]
        counts = {len(array) for array in arrays}
        if len(counts) > 1:
            raise _error("E0701", f"inputs have different numbers of rows: {sorted(counts)}")
        pointers = session.ffi.new("const void *[]", [session.ffi.cast("const void *", array.ctypes.data) for array in arrays])
        loss = session.ffi.new("double *")
        rows = counts.pop() if counts else self.microbatches * self.batch
        with session.call(name):
            session.check(getattr(session.lib, f"mlc_session_{name}")(session.pointer, pointers, rows, loss))
            return after(loss[0])

    def _check_names(self, inputs: dict[str, Any]) -> None:
        known = [kind.name for kind in self.inputs]
        for name in inputs:
            if name not in known:
                near = nearest(name, known)
                raise _error("E0701", f"no input `{name}`; inputs are {', '.join(known)}", f"did you mean `{near}`?" if near else None)
        missing = [name for name in known if name not in inputs]
        if missing:
            raise _error("E0701", f"missing inputs: {', '.join(missing)}")

    def _checked(self, kind: InputType, value: Any, name: str) -> np.ndarray:
        """The value as the runtime reads it: C order, in the stored dtype."""
        array = _plain(kind, value)
        evaluated = name == "evaluate"
        rows_fit = array.ndim > 0 and (len(array) % self.batch == 0 if evaluated else len(array) == kind.shape[0])
        if not rows_fit or array.shape[1:] != kind.shape[1:]:
            rows = f"a multiple of {self.batch}" if evaluated else kind.shape[0]
            wanted = ", ".join(map(str, (rows, *kind.shape[1:])))
            raise _error("E0701", f"{kind.name}: wants {kind.dtype}[{wanted}], got {array.dtype}{list(array.shape)}")
        return np.ascontiguousarray(_stored(kind, array))

    @property
    def steps_done(self) -> int:
        return self._lib.mlc_session_steps_done(self._pointer)

    @property
    def gradient_norm(self) -> float:
        """Of the last step or gradient call, before clipping."""
        return self._lib.mlc_session_grad_norm(self._pointer)

    @property
    def metrics(self) -> dict[str, float]:
        """The model's own metrics in the last step or gradient call."""
        session, lib = self._session, self._lib
        count = lib.mlc_session_metric_count(session.pointer)
        names = [session.text(lib.mlc_session_metric_name(session.pointer, i)) for i in range(count)]
        return {name: lib.mlc_session_metric(session.pointer, i) for i, name in enumerate(names)}

    @property
    def scalars(self) -> dict[str, float]:
        """The run-time constants of the model's file with their defaults."""
        model = self._session.model
        rows = [model.scalars[i] for i in range(model.scalar_count)]
        return {self._session.text(row.name): row.value for row in rows if row.option}

    def set_scalar(self, name: str, value: float) -> None:
        """Set a run-time constant, as the program's option --NAME does."""
        wide = self._session.dtype(self._session.model.wide)
        if not abs(_number(name, value)) < dtype_of(wide).infinite:
            raise _error("E0703", f"{name}: {value!r} is no {wide} that is finite")
        self._call("set_scalar", _c_text(name), float(value))

    def set_steps(self, steps: int) -> None:
        """Set the length of the rate schedule."""
        if not isinstance(steps, (int, np.integer)) or not 1 <= steps < 2**63:
            raise _error("E0703", f"steps {steps!r} is not a whole number from 1")
        self._call("set_steps", int(steps))

    def save(self, folder: str | Path) -> Path:
        """Write a checkpoint into `folder`; returns its own folder. Nobody else writes into `folder` until the model is closed.

        raises: E0703 where another program writes, or steps of another run lie
        """
        self._call("save", _c_text(folder))
        self._session.warn()
        return Path(folder) / (Path(folder) / "latest").read_text().strip()

    def load(self, path: str | Path) -> None:
        """Load a checkpoint: its folder, or the folder that `save` was given."""
        self._call("load", _c_text(path))
        self._session.warn()

    def load_weights(self, path: str | Path, *, allow: Sequence[str] = (), fit: Sequence[str] = ()) -> None:
        """Load parameters by name from safetensors; `allow` and `fit` are what --allow and --fit of a program take."""
        lists = [[self._session.ffi.new("char[]", _c_text(item)) for item in items] for items in (allow, fit)]
        terms = [term for items in lists for term in (self._session.ffi.new("char *[]", items), len(items))]
        self._call("load_weights", _c_text(path), *terms)

    def digest(self) -> str:
        """SHA-256 over parameters, optimizer state, step and cursor, in hex."""
        hex_digits = self._session.ffi.new("char[]", _DIGEST_BYTES)
        self._call("digest", hex_digits)
        return self._session.text(hex_digits)

    def _call(self, name: str, *arguments: Any) -> None:
        session = self._session
        with session.call(name):
            session.check(getattr(session.lib, f"mlc_session_{name}")(session.pointer, *arguments))

    def close(self) -> None:
        """Compute nothing more, and let others save where this model did. The memory goes when the last view of it does."""
        if self._open is not None:
            self._open.lib.mlc_session_release(self._open.pointer)
        self._open = None

    def __enter__(self) -> Model:
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as problem:
        raise _error("E0703", f"{name}: {value!r} is no number") from problem


def _c_text(text: str | os.PathLike[str]) -> bytes:
    """A path or a name as C reads it, which ends at the first zero byte."""
    encoded = os.fsencode(text)
    if b"\0" in encoded:
        raise _error("E0703", f"{text!r} has a zero byte in it")
    return encoded


def _plain(kind: InputType, value: Any) -> np.ndarray:
    """The value as an array of nothing but its elements. raises: E0701 when it is none, or when elements of it are masked"""
    masked = int(np.ma.count_masked(value)) if isinstance(value, np.ma.MaskedArray) else 0
    if masked:
        message = f"{kind.name}: {masked} of {value.size} elements are masked, and a model knows no masks"
        raise _error("E0701", message, f"say what stands there: {kind.name}.filled(value); or give the mask as an input of its own")
    try:
        return np.asarray(value)
    except Exception as problem:  # whatever the value's own conversion raises: ragged lists, tensors of other devices
        raise _error("E0701", f"{kind.name}: {type(value).__name__} gives no array: {problem}") from problem


def _stored(kind: InputType, array: np.ndarray) -> np.ndarray:
    """An array as stored words of the input's dtype. raises: E0701 when the conversion would lose more than float rounding"""
    dtype = dtype_of(kind.dtype)
    match dtype.kind:
        case "int" if np.issubdtype(array.dtype, np.integer):
            bounds = np.iinfo(np.int32)
            if array.size and (array.min() < bounds.min or array.max() > bounds.max):
                raise _error("E0701", f"{kind.name}: {array.dtype} values do not fit {kind.dtype}")
            return array.astype(dtype.word, copy=False)
        case "bool" if array.dtype == np.bool_:
            return array
        case "float" if np.issubdtype(array.dtype, np.floating):
            if np.issubdtype(dtype.word, np.floating):
                return _rounded(kind, array, dtype.word)
            return row(_WORDS, kind.dtype, "binding")(_rounded(kind, array, np.float32))
    raise _error("E0701", f"{kind.name}: wants {kind.dtype}, got {array.dtype}", "convert it with astype")


def _rounded(kind: InputType, array: np.ndarray, dtype: Any) -> np.ndarray:
    """Floats in another precision. raises: E0701 when finite ones become infinite"""
    with np.errstate(over="ignore"):
        rounded = array.astype(dtype, copy=False)
    if rounded.dtype.itemsize < array.dtype.itemsize and (np.isinf(rounded) & np.isfinite(array)).any():
        raise _error("E0701", f"{kind.name}: {array.dtype} values do not fit {kind.dtype}")
    return rounded


def _bf16_words(array: np.ndarray) -> np.ndarray:
    """f32 to bf16 words, to nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(array).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(array), np.uint32(0x7FC0), rounded).astype(np.uint16)


#: By float dtype that NumPy does not have: its words for an array of f32.
_WORDS = {"bf16": _bf16_words}


def _error(code: str, message: str, help: str | None = None) -> MlcError:
    return MlcError([Diagnostic(code, message, NO_SPAN, (), help)])
