"""mlc: an ahead-of-time compiler for training.

build = mlc.compile("gpt2.dsl", out="build/gpt2", define={"depth": 2})
model = build.open()
loss = model.step(tokens=..., targets=...)
"""

from mlc.api import check, compile, format
from mlc.bind import InputType, Model
from mlc.diagnostics import Diagnostic, InternalError, MlcError, Note, Span
from mlc.driver import Build, Options
from mlc.resources import VERSION
from mlc.syntax.python import curve, function, init, install, kernel, layer, model, optimizer, train

__version__ = VERSION

__all__ = [
    "Build",
    "Diagnostic",
    "InputType",
    "InternalError",
    "MlcError",
    "Model",
    "Note",
    "Options",
    "Span",
    "check",
    "compile",
    "curve",
    "format",
    "function",
    "init",
    "kernel",
    "layer",
    "model",
    "optimizer",
    "train",
]

install()
