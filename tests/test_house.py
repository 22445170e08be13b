"""What CONTRIBUTING.md says of every file: its size, the size of its functions, and imports without a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
FILES = {".".join(file.relative_to(SOURCE).with_suffix("").parts): file for file in SOURCE.rglob("*.py")}


def imported(tree: ast.Module) -> Iterator[str]:
    """The modules of the library that a module imports, those that only its types need included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                places = (inner, f"{inner}.__init__", node.module, f"{node.module}.__init__")
                yield from [place for place in places if place in FILES][:1]


@pytest.mark.parametrize("name", FILES)
def test_files_and_functions_are_short(name: str) -> None:
    text = FILES[name].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            said = len((ast.get_docstring(node, clean=False) or "").splitlines())
            last = node.end_lineno or 0
            assert last - node.lineno + 1 - said <= 40, f"{node.name}, line {node.lineno}"


def test_no_module_is_imported_by_what_it_imports() -> None:
    graph = {name: list(imported(ast.parse(file.read_text(encoding="utf-8")))) for name, file in FILES.items()}
    assert sum(map(len, graph.values())) > 500
    list(TopologicalSorter(graph).static_order())  # raises CycleError, with the circle
