"""What documents hold: fenced blocks, and commands, which the command line reads here and does not run."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from command_line import Run, invoker
from simplicit.cli import main
from simplicit.cli.commands import COMMANDS
from simplicit.data import DATASETS
from simplicit.executors import EXECUTORS
from simplicit.implicit.groups.elementwise import ACTIVATIONS
from simplicit.network.registry import REGISTRY
from simplicit.robustness import ATTACKS
from simplicit.rows.penalties import PENALTIES
from simplicit.studies.peers import PEERS
from simplicit.training import RECIPES
from simplicit.training.states import STRUCTURES
from simplicit.training.units import NORMALIZATIONS

__all__ = ["commands", "fences", "prose", "reader", "run_blocks"]

REGISTRIES: list[dict[str, Any]] = [
    *(COMMANDS, DATASETS, EXECUTORS, REGISTRY, ACTIVATIONS, ATTACKS, PENALTIES, PEERS, RECIPES, STRUCTURES),
    NORMALIZATIONS,
]

FENCE = re.compile(r"^ *```(\{?[\w-]+\}?) *([^\n]*)\n(.*?)^ *```$", flags=re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"`(simplicit [^`]+)`")


def fences(page: Path) -> list[tuple[str, str, str]]:
    """Language or directive, argument and text of every fenced block."""
    return FENCE.findall(page.read_text(encoding="utf-8"))


def prose(page: Path) -> str:
    """The text between the blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every command of simplicit: in blocks of shell, and in the text where it has options."""
    lines = [line for language, _, text in fences(page) if language == "sh" for line in _lines(text)]
    spans = [" ".join(span.split()) for span in SPAN.findall(prose(page))]
    for line in [*lines, *(span for span in spans if " --" in span)]:
        words = shlex.split(line, comments=True)
        if words[:1] == ["simplicit"]:
            yield words[1:]


def run_blocks(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Run the blocks of a page in order: Python prints the block of text that follows, scripts are the command line.

    A line ``python NAME.py WORDS`` of a block of shell is the command line after what the page has registered.
    """
    blocks = fences(page)
    names: dict[str, object] = {"__name__": "page"}
    with _as_they_were():
        for number, (language, _, code) in enumerate(blocks):
            if language == "python":
                exec(compile(code, f"{page.name}, block {number}", "exec", dont_inherit=True), names)
                follows = blocks[number + 1] if number + 1 < len(blocks) else ("", "", "")
                expected = follows[2] if follows[0] == "text" else ""
                assert capsys.readouterr().out == expected, f"{page.name}, block {number}:\n{code}"
            elif language == "sh":
                for words in (shlex.split(line, comments=True) for line in _lines(code)):
                    if words[0] == "python" and words[1].endswith(".py"):
                        assert main(words[2:]) == 0, (words, capsys.readouterr().err)
                capsys.readouterr()


@contextmanager
def _as_they_were() -> Iterator[None]:
    """Registries are at the end what they were before, whatever a document registers."""
    before = [dict(registry) for registry in REGISTRIES]
    try:
        yield
    finally:
        for registry, entries in zip(REGISTRIES, before, strict=True):
            registry.clear()
            registry.update(entries)


def _lines(text: str) -> list[str]:
    return text.replace("\\\n", " ").splitlines()


def reader(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line with commands that do nothing: words are read, and settings checked."""
    for name, command in COMMANDS.items():

        @functools.wraps(command)
        def idle(*_: object, **__: object) -> None: ...

        monkeypatch.setitem(COMMANDS, name, idle)
    return invoker(capsys)
