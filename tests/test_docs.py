"""The generated pages of spec/ are current; the examples in the documents are true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mlc.api import check, format
from mlc.docs import PAGES

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("name", PAGES)
def test_generated_page_is_current(name: str) -> None:
    path = ROOT / "spec" / name
    assert path.exists() and path.read_text() == PAGES[name](), f"spec/{name} is not current: make docs"


@pytest.mark.parametrize("path", [*ROOT.glob("*.md"), *(ROOT / "spec").glob("*.md")], ids=lambda p: p.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
        assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_model_in_the_readme_compiles(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (model,) = [block for block in blocks if "@model" in block]
    path = tmp_path / "readme.dsl"
    path.write_text(model)
    check(path)
    assert format(model) == model


def test_make_targets_named_in_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
        named = set(re.findall(r"`make ([a-z-]+)", path.read_text()))
        assert named <= targets, f"{path.name} names {named - targets}"
