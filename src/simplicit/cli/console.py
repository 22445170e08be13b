"""What the commands share: where text goes, progress, and how a run ends.

Results go to standard output; progress and errors to standard error, so that ``--json`` can be piped.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from simplicit.errors import DataError
from simplicit.files import dumps
from simplicit.progress import Progress

__all__ = [
    "LOG_SECONDS",
    "Invocation",
    "Steps",
    "can_draw",
    "complain",
    "figures_table",
    "invocation",
    "invoked",
    "print_json",
    "saved",
    "say",
    "show_progress",
]

#: Where there is no terminal, long work writes a line as often as this.
LOG_SECONDS = 30.0
_UNBOUNDED = 10_000


@dataclass(frozen=True)
class Invocation:
    """What was typed.

    Attributes
    ----------
    command : list of str
        For the manifest.
    recorded : mapping
        Settings of an earlier run that was named.
    given : mapping
        Settings that were typed.
    """

    command: list[str]
    recorded: Mapping[str, Any]
    given: Mapping[str, Any]


_INVOCATION: ContextVar[Invocation] = ContextVar("invocation", default=Invocation([], {}, {}))


@contextmanager
def invoked(invocation: Invocation) -> Iterator[None]:
    """Within the block, :func:`invocation` is this one."""
    token = _INVOCATION.set(invocation)
    try:
        yield
    finally:
        _INVOCATION.reset(token)


def invocation() -> Invocation:
    """What was typed for the command that runs."""
    return _INVOCATION.get()


def complain(message: str) -> None:
    """One line on standard error, whatever line breaks the message has."""
    print("Error:", " ".join(message.split()), file=sys.stderr)


def say(*things: Any) -> None:
    """Text and tables on standard output; a table takes the width that it needs, so that no figure is ever cut.

    Raises
    ------
    DataError
        Standard output cannot be written.
    """
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False, markup=False)
    terminal, unbounded = console.width, console.options.update(width=_UNBOUNDED)
    with _written():
        for thing in things:
            if isinstance(thing, str):
                console.print(thing, soft_wrap=True)
            else:
                console.width = max(terminal, console.measure(thing, options=unbounded).maximum)
                console.print(thing)


def print_json(value: Any) -> None:
    """One JSON document on standard output, escaped where its encoding lacks a character.

    Raises
    ------
    DataError
        Standard output cannot be written.
    """
    text = dumps(value)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(json.loads(text), indent=2)
    with _written():
        print(text)


@contextmanager
def _written() -> Iterator[None]:
    """What is printed inside has reached standard output at the end."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        raise DataError(f"standard output cannot be written ({error.strerror})") from error


class Steps:
    """How far a command is, on standard error: a bar on a terminal; elsewhere a line now and then.

    Rows always write such lines; steps do where they are known to be long (`lines`).
    """

    def __init__(self, bar: Bar | None, *, lines: bool = False) -> None:
        self.bar, self.lines = bar, lines
        self.begun = self.told = time.monotonic()
        self.task = None if bar is None else bar.add_task("starting", total=None, note="")

    def __call__(self, label: str, done: int, total: int, note: str = "") -> None:
        """So many steps of something are done."""
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, description=label, completed=done, total=total, note=note)
        elif self.lines:
            seconds = (time.monotonic() - self.begun) * (total - done)
            self._log(f"{label}: {done} of {total} done" + (f", about {seconds / done:.0f} s left" if done else ""))

    def rows(self, state: Progress) -> None:
        """So many row problems are solved."""
        if self.bar is None:
            self._log(str(state))
        else:
            self(state.stage, state.done, state.total, state.note)

    def _log(self, line: str) -> None:
        """Writes the line, unless the last one was written a moment ago."""
        if time.monotonic() - self.told >= LOG_SECONDS:
            self.told = time.monotonic()
            print(line, file=sys.stderr, flush=True)


@contextmanager
def show_progress(clock: str | None = "remaining", *, lines: bool = False) -> Iterator[Steps]:
    """Show how far the command is while the block runs.

    Parameters
    ----------
    clock : {"remaining", "elapsed", None}
        What the bar says of time: what is left, as rows say it themselves; or what has passed, where nobody knows how
        many steps there will be.
    lines : bool
        Where there is no terminal, steps too write a line now and then.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Steps(None, lines=lines)
        return
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}")]
    if clock is not None:
        columns += [TextColumn(clock), TimeElapsedColumn() if clock == "elapsed" else TimeRemainingColumn()]
    with Bar(*columns, console=console, transient=True) as bar:
        yield Steps(bar)


def can_draw() -> bool:
    """Whether the extra `report`, which draws the pictures, is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def saved(output: Path, picture: str) -> str:
    """Where a command's folder is, and the picture in it or how to get one."""
    where = str(output / picture) if can_draw() else "no picture: pip install 'simplicit[report]' for one"
    return f"Saved in {output}, {where}."


def figures_table(*columns: str, title: str | None = None) -> Table:
    """A quiet table: the first column names, the others are figures."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    return table
