"""Every example with the settings it is tested at."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType

import numpy as np

from oracles import parameters

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"


def in_double(text: str) -> str:
    """A model's text with the precision f64, whatever it says."""

    def recipe(arguments: re.Match[str]) -> str:
        kept = [a for a in arguments[1].split(", ") if a and not a.startswith("precision=")]
        return f"@train({', '.join([*kept, 'precision=f64'])})"

    return re.sub(r"@train\((.*?)\)", recipe, text)


@dataclass(frozen=True)
class Case:
    """`changes`: further -D settings on top of the oracle's DIMS."""

    example: str
    changes: tuple[tuple[str, object], ...] = ()

    def __str__(self) -> str:
        return "-".join([self.example, *(f"{name}={value}" for name, value in self.changes)])

    @property
    def oracle(self) -> ModuleType:
        return importlib.import_module(f"oracles.{self.example}")

    @property
    def dims(self) -> dict:
        return {**self.oracle.DIMS, **dict(self.changes)}

    @property
    def path(self) -> Path:
        return EXAMPLES / f"{self.example}.dsl"

    @property
    def curve(self) -> dict:
        """Settings of the oracle for loss curves, where they differ."""
        return getattr(self.oracle, "CURVE", {})

    def text(self, precision: str = "f32") -> str:
        """The example at this precision, where it names one."""
        return re.sub(r"precision=\w+", f"precision={precision}", self.path.read_text(encoding="utf-8"))

    def double_text(self) -> str:
        """The example at f64."""
        return in_double(self.path.read_text(encoding="utf-8"))

    def curve_text(self) -> str:
        """The example as its curve is compared."""
        text = self.text()
        for before, after in getattr(self.oracle, "CURVE_EDITS", ()):
            assert before in text, f"{self.example}.dsl has no `{before}`"
            text = text.replace(before, after)
        if "rate" in self.curve:
            text = re.sub(r"^rate: f32 = \S+", f"rate: f32 = {self.curve['rate']}", text, flags=re.MULTILINE)
        return text

    def zero(self, name: str) -> bool:
        """Is this parameter's gradient zero in exact arithmetic?"""
        return any(fnmatchcase(name, pattern) for pattern in getattr(self.oracle, "ZERO", ()))

    @property
    def values(self) -> dict[str, np.ndarray]:
        return parameters.values(np.random.default_rng(0), self.oracle.shapes(self.dims))

    def batches(self, count: int, seed: int = 1) -> list[dict[str, np.ndarray]]:
        rng = np.random.default_rng(seed)
        return [self.oracle.inputs(rng, self.dims) for _ in range(count)]


CASES = (
    Case("gpt"),
    Case("mlp"),
    Case("gpt2"),
    Case("gpt2", (("drop", 0.1),)),
    Case("llama3"),
    Case("llama3", (("tied", True),)),
    Case("deepseek_v3"),
    Case("deepseek_v3", (("slack", 0.75),)),
    Case("vit"),
    Case("vit", (("drop", 0.1),)),
    Case("unet"),
    Case("gla"),
    Case("albert"),
    Case("albert", (("drop", 0.1),)),
    Case("muon"),
    Case("supervised"),
    Case("t5"),
    Case("t5", (("drop", 0.1),)),
    Case("state"),
)
