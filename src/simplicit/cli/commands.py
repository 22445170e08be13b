"""The commands by what is typed for them. A new command is one function and one line here.

A command is a function whose parameters are settings (:mod:`simplicit.cli.signature`) and whose docstring is its help.
Those of the library are only named here, so that a list of all commands, as ``simplicit --help`` shows it, loads none.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path

Command = Callable[..., None]


@dataclass(frozen=True)
class Later:
    """A command that is imported when it is used: a function of a module beside this one."""

    module: str
    name: str

    def load(self) -> Command:
        """The function."""
        command: Command = getattr(importlib.import_module(f"simplicit.cli.{self.module}"), self.name)
        return command

    @property
    def docstring(self) -> str:
        """What the function says of itself, read from its module's text."""
        tree = ast.parse(Path(__file__).with_name(f"{self.module}.py").read_text(encoding="utf-8"))
        found = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == self.name)
        return next((ast.get_docstring(node) or "" for node in found), "")


class Commands(MutableMapping[str, Command]):
    """A dictionary of commands; one that is named alone is imported when it is asked for."""

    def __init__(self, known: Mapping[str, Later]) -> None:
        self._known: dict[str, Later | Command] = dict(known)

    def __getitem__(self, words: str) -> Command:
        found = self._known[words]
        return found.load() if isinstance(found, Later) else found

    def __setitem__(self, words: str, command: Command) -> None:
        self._known[words] = command

    def __delitem__(self, words: str) -> None:
        del self._known[words]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def about(self, words: str) -> str:
        """The first paragraph of a command's docstring."""
        found = self._known[words]
        text = found.docstring if isinstance(found, Later) else inspect.getdoc(found) or ""
        return text.partition("\n\n")[0]


COMMANDS = Commands(
    {
        "demo": Later("demo", "demo"),
        "baseline": Later("baseline", "baseline"),
        "fit": Later("fit", "fit"),
        "eval": Later("evaluate", "evaluate"),
        "attack": Later("robustness", "attack"),
        "certify": Later("robustness", "certify"),
        "bench": Later("bench", "bench"),
        "export": Later("export", "export"),
        "report": Later("report", "report"),
        "solve": Later("solve", "solve"),
        "journal show": Later("journal", "show"),
        "journal merge": Later("journal", "merge"),
        "reproduce figure5": Later("reproduce", "figure5"),
        "reproduce frontier": Later("reproduce", "frontier"),
        "reproduce table2": Later("reproduce", "table2"),
        "reproduce table3": Later("reproduce", "table3"),
    }
)

#: What commands of two words have in common.
FAMILIES: dict[str, str] = {
    "journal": "Look into the journals of `solve` and `fit`, and merge those of the parts of a solve.",
    "reproduce": "Redo the paper's figures and tables.",
}
