"""The tolerances of spec/numerics.md, by name."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "spec" / "numerics.md"

ROW = re.compile(r"^\| `([a-z0-9.]+)` \| (\S+) \|", re.MULTILINE)

TOLERANCES = {name: float(value) for name, value in ROW.findall(PAGE.read_text(encoding="utf-8"))}
