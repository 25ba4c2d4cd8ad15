"""A compiled model in this process: its shared library through cffi, its tensors as NumPy views of the arenas.

All pp * dp ranks are threads of this process. Several models live side by side: each has its own library handle, arenas and threads.
"""

from __future__ import annotations

import functools
import os
import re
import tempfile
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import cffi
import numpy as np

from mlc.diagnostics import NO_SPAN, Diagnostic, MlcError, nearest
from mlc.resources import runtime_folder

#: By enum mlc_dtype: the name in the language, and how NumPy holds the stored words.
_DTYPES = (("f32", np.float32), ("bf16", np.uint16), ("f16", np.float16), ("i32", np.int32), ("bool", np.bool_))

_HEADERS = ("mlc_abi.h", "mlc.h")
_MESSAGE_BYTES = 2048
_DIGEST_BYTES = 65


@functools.cache
def _interface() -> Any:
    """The runtime's own headers as cffi reads them: without preprocessor lines and without what only C++ sees."""
    ffi: Any = cffi.FFI()
    for name in _HEADERS:
        text = (runtime_folder() / "include" / name).read_text(encoding="utf-8")
        text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
        text = re.sub(r"#ifdef __cplusplus.*?#endif", "", text, flags=re.DOTALL)
        ffi.cdef(re.sub(r"^#.*$", "", text, flags=re.MULTILINE))
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
        self.ffi = _interface()
        self.lib = _load(self.ffi, library)
        model = self.ffi.addressof(self.lib, "mlc_emitted_model")
        if model.abi_version != _abi_version():
            raise _error("E0704", f"{library} has version {model.abi_version} of the runtime, this compiler {_abi_version()}")
        if not 0 <= seed < 2**63:
            raise _error("E0703", f"seed {seed} is not in 0 to {2**63 - 1}")
        options = self.ffi.new("mlc_open_options *", {"threads": threads or 0, "seed": seed, "steps": steps})
        message = self.ffi.new("char[]", _MESSAGE_BYTES)
        self.pointer = self.lib.mlc_open(model, options, self.ffi.NULL, message, _MESSAGE_BYTES)
        if self.pointer == self.ffi.NULL:
            raise _error("E0703", self.ffi.string(message).decode(errors="replace"))
        self.model = model
        weakref.finalize(self, self.lib.mlc_close, self.pointer).atexit = False

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

    def array(self, view: Any) -> np.ndarray:
        """A NumPy view of a tensor in an arena; of a copy that is overwritten later, an array of its own that cannot be written."""
        array = np.asarray(_Memory(self, int(self.ffi.cast("uintptr_t", view.data)), self.shape(view), _DTYPES[view.dtype][1]))
        if not view.copy:
            return array
        array = array.copy()
        array.flags.writeable = False
        return array

    def master(self, parameter: int) -> np.ndarray:
        return self.array(self.lib.mlc_parameter_master(self.pointer, parameter))

    def state(self, parameter: int, state: int) -> np.ndarray:
        view = self.lib.mlc_parameter_state(self.pointer, parameter, state)
        if view.data == self.ffi.NULL:
            raise _error("E0703", "out of memory")
        return self.array(view)


class _Memory:
    """Memory of a session as NumPy asks for it; the array that views it keeps it, and so the session, alive."""

    def __init__(self, session: _Session, address: int, shape: tuple[int, ...], dtype: Any):
        self.session = session
        self.__array_interface__ = {"version": 3, "data": (address, False), "shape": shape, "typestr": np.dtype(dtype).str}


def _load(ffi: Any, library: Path) -> Any:
    """The library under a path of its own: the loader would hand out the old one for a file that was built anew.

    raises: E0704 not a library of mlc
    """
    with tempfile.TemporaryDirectory(prefix="mlc-") as folder:
        link = Path(folder) / library.name
        link.symlink_to(library.resolve())
        try:
            lib = ffi.dlopen(str(link), ffi.RTLD_NOW | ffi.RTLD_LOCAL)
            ffi.addressof(lib, "mlc_emitted_model")
        except (OSError, AttributeError) as problem:
            raise _error("E0704", f"cannot open {library}: {str(problem).replace(str(link), library.name)}") from problem
    return lib


@dataclass(frozen=True, slots=True)
class InputType:
    """An input of a whole step: `shape` leads with microbatches times batch; `limit`: i32 values are below it, None when any."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    limit: int | None


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

    raises, from every call: E0701 inputs do not fit, E0702 the model is closed, E0703 what the runtime reports
    """

    def __init__(self, library: Path, threads: int | None = None, seed: int = 0, steps: int = 0):
        self._open: _Session | None = _Session(library, threads, seed, steps)
        self.inputs = tuple(self._input_type(i) for i in range(self._lib.mlc_input_count(self._pointer)))
        model = self._session.model
        self.microbatches: int = model.microbatches
        self.batch: int = model.batch
        self.tokens: int = model.tokens
        self.flops: float = model.flops
        self.ranks: int = model.pp * model.dp
        self.arena_bytes: int = model.dp * sum(model.roles[place].arena_bytes for place in range(model.pp))

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
        limit = session.model.inputs[index].limit
        shape = (rows * session.model.microbatches, *rest)
        return InputType(session.text(view.name), _DTYPES[view.dtype][0], shape, limit if limit >= 0 else None)

    @property
    def parameters(self) -> Tensors:
        """Masters by name, f32."""
        session = self._session
        names = [session.text(session.model.parameters[i].name) for i in range(session.model.parameter_count)]
        return Tensors({name: functools.partial(session.master, i) for i, name in enumerate(names)})

    @property
    def optimizer_state(self) -> Tensors:
        """Optimizer states, f32, by `<parameter>/<state>`. One that is spread over replicas is a copy that cannot be written."""
        session, views = self._session, {}
        for i in range(session.model.parameter_count):
            parameter = session.model.parameters[i]
            for k in range(parameter.state_count):
                name = f"{session.text(parameter.name)}/{session.text(parameter.states[k].name)}"
                views[name] = functools.partial(session.state, i, k)
        return Tensors(views)

    def step(self, **inputs: Any) -> float:
        """One whole step; returns the loss before the update. Every input leads with microbatches * batch rows."""
        return self._run("mlc_session_step", inputs)

    def gradient(self, **inputs: Any) -> tuple[float, dict[str, np.ndarray]]:
        """The loss, and the whole gradient of every parameter that gets one, neither clipped nor applied. The arrays are copies."""
        loss = self._run("mlc_session_gradient", inputs)
        session = self._session
        views = [session.lib.mlc_parameter_gradient(session.pointer, i) for i in range(len(self.parameters))]
        named = {name: view for name, view in zip(self.parameters, views, strict=True) if view.data != session.ffi.NULL}
        return loss, {name: session.array(view).copy() for name, view in named.items()}

    def evaluate(self, **inputs: Any) -> float:
        """The loss of the evaluation chain; rows are any multiple of the batch."""
        return self._run("mlc_session_evaluate", inputs)

    def _run(self, function: str, inputs: dict[str, Any]) -> float:
        session = self._session
        self._check_names(inputs)
        arrays = [self._checked(kind, inputs[kind.name], function) for kind in self.inputs]
        counts = {len(array) for array in arrays}
        if len(counts) > 1:
            raise _error("E0701", f"inputs have different numbers of rows: {sorted(counts)}")
        pointers = session.ffi.new("const void *[]", [session.ffi.cast("const void *", array.ctypes.data) for array in arrays])
        loss = session.ffi.new("double *")
        rows = counts.pop() if counts else self.microbatches * self.batch
        session.check(getattr(session.lib, function)(session.pointer, pointers, rows, loss))
        return loss[0]

    def _check_names(self, inputs: dict[str, Any]) -> None:
        known = [kind.name for kind in self.inputs]
        for name in inputs:
            if name not in known:
                near = nearest(name, known)
                raise _error("E0701", f"no input `{name}`; inputs are {', '.join(known)}", f"did you mean `{near}`?" if near else None)
        missing = [name for name in known if name not in inputs]
        if missing:
            raise _error("E0701", f"missing inputs: {', '.join(missing)}")

    def _checked(self, kind: InputType, value: Any, function: str) -> np.ndarray:
        """The value as the runtime reads it: C order, in the stored dtype."""
        array = np.asarray(value)
        evaluated = function == "mlc_session_evaluate"
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
        self._session.check(self._lib.mlc_session_set_scalar(self._pointer, name.encode(), value))

    def set_steps(self, steps: int) -> None:
        """Set the length of the rate schedule."""
        self._session.check(self._lib.mlc_session_set_steps(self._pointer, steps))

    def save(self, folder: str | Path) -> Path:
        """Write a checkpoint into `folder`; returns its own folder. Nobody else writes into `folder` until the model is closed.

        raises: E0703 where another program writes, or steps of another run lie
        """
        self._session.check(self._lib.mlc_session_save(self._pointer, os.fsencode(folder)))
        self._session.warn()
        return Path(folder) / (Path(folder) / "latest").read_text().strip()

    def load(self, path: str | Path) -> None:
        """Load a checkpoint: its folder, or the folder that `save` was given."""
        self._session.check(self._lib.mlc_session_load(self._pointer, os.fsencode(path)))
        self._session.warn()

    def load_weights(self, path: str | Path, *, allow: Sequence[str] = (), fit: Sequence[str] = ()) -> None:
        """Load parameters by name from safetensors; `allow` and `fit` are what --allow and --fit of a program take."""
        lists = [[self._session.ffi.new("char[]", os.fsencode(item)) for item in items] for items in (allow, fit)]
        terms = [term for items in lists for term in (self._session.ffi.new("char *[]", items), len(items))]
        self._session.check(self._lib.mlc_session_load_weights(self._pointer, os.fsencode(path), *terms))

    def digest(self) -> str:
        """SHA-256 over parameters, optimizer state, step and cursor, in hex."""
        session = self._session
        hex_digits = session.ffi.new("char[]", _DIGEST_BYTES)
        session.check(session.lib.mlc_session_digest(session.pointer, hex_digits))
        return session.text(hex_digits)

    def close(self) -> None:
        """Compute nothing more, and let others save where this model did. The memory goes when the last view of it does."""
        if self._open is not None:
            self._open.lib.mlc_session_release(self._open.pointer)
        self._open = None

    def __enter__(self) -> Model:
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _stored(kind: InputType, array: np.ndarray) -> np.ndarray:
    """An array as stored words of the input's dtype. raises: E0701 when the conversion would lose more than float rounding"""
    words = dict(_DTYPES)[kind.dtype]
    match kind.dtype:
        case "i32" if np.issubdtype(array.dtype, np.integer):
            bounds = np.iinfo(np.int32)
            if array.size and (array.min() < bounds.min or array.max() > bounds.max):
                raise _error("E0701", f"{kind.name}: {array.dtype} values do not fit i32")
            return array.astype(words, copy=False)
        case "bool" if array.dtype == np.bool_:
            return array
        case "bf16" if np.issubdtype(array.dtype, np.floating):
            return _bf16_words(array.astype(np.float32, copy=False))
        case "f32" | "f16" if np.issubdtype(array.dtype, np.floating):
            return array.astype(words, copy=False)
    raise _error("E0701", f"{kind.name}: wants {kind.dtype}, got {array.dtype}", "convert it with astype")


def _bf16_words(array: np.ndarray) -> np.ndarray:
    """f32 to bf16 words, to nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(array).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(array), np.uint32(0x7FC0), rounded).astype(np.uint16)


def _error(code: str, message: str, help: str | None = None) -> MlcError:
    return MlcError([Diagnostic(code, message, NO_SPAN, (), help)])
