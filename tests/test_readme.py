"""The Python blocks of the README run as they stand, and its commands exist; blocks of docs/ define their names."""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted((ROOT / "docs").glob("*.md"))


def python_blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


BLOCKS = python_blocks(README)


def test_there_is_something_to_run() -> None:
    assert BLOCKS


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_block_runs(block: str, tmp_path: Path, run_script: Callable[..., str]) -> None:
    assert re.search(r"^import vla_gym$", block, re.MULTILINE), "what registers the environments"
    (tmp_path / "block.py").write_text(block, encoding="utf-8")
    assert run_script(tmp_path / "block.py").strip()


def undefined_names(blocks: list[str]) -> set[str]:
    """Names that a block uses, and neither it nor one before it defines."""
    defined, undefined = set(dir(builtins)), set()
    for block in blocks:
        nodes = list(ast.walk(ast.parse(block)))
        used = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
        defined |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        defined |= {(node.asname or node.name).split(".")[0] for node in nodes if isinstance(node, ast.alias)}
        defined |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        defined |= {node.arg for node in nodes if isinstance(node, ast.arg)}
        undefined |= used - defined
    return undefined


def test_undefined_names_are_found() -> None:
    assert undefined_names(["import a.b, c as d\nx = a.f(d)", "def f(y):\n    return x + y\nprint(f(1), z)"]) == {"z"}
    assert undefined_names(["print(x)", "x = 1"]) == {"x"}


@pytest.mark.parametrize(
    "page", [page for page in PAGES if python_blocks(page.read_text(encoding="utf-8"))], ids=lambda p: p.name
)
def test_blocks_of_a_page_define_what_they_use(page: Path) -> None:
    assert not undefined_names(python_blocks(page.read_text(encoding="utf-8")))


def test_commands_are_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^make (\w+)", README, flags=re.MULTILINE))
    assert {"quickstart", "test"} <= targets
    assert all(f"\n{target}:" in makefile for target in targets)
