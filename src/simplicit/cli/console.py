"""What the commands share: where text goes, progress, and how a run ends.

Results go to standard output; progress and errors to standard error, so that ``--json`` can be piped.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table

from simplicit.errors import DataError
from simplicit.files import dumps
from simplicit.progress import Progress
from simplicit.report import Table as Cells
from simplicit.report import can_draw

#: Where there is no terminal, long work writes a line as often as this.
LOG_SECONDS = 30.0
_UNBOUNDED = 10_000


def say(*things: Any) -> None:
    """Text and tables on standard output; a table takes the width that it needs, so that no figure is ever cut."""
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
    """One JSON document on standard output, escaped where its encoding lacks a character."""
    text = dumps(value)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(json.loads(text), indent=2)
    with _written():
        print(text)


@contextmanager
def _written() -> Iterator[None]:
    """What is printed inside has reached standard output at the end; DataError where that cannot be written."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        raise DataError(f"standard output cannot be written ({error.strerror})") from error


class Steps:
    """Shows how far a command is, on standard error: by a bar on a terminal, elsewhere by a line now and then."""

    def __init__(self, bar: Bar | None) -> None:
        self.bar, self.written = bar, time.monotonic()
        self.task = None if bar is None else bar.add_task("starting", total=None, note="")

    def __call__(self, state: Progress) -> None:
        """Show a state; a line is left out if the last one was written a moment ago."""
        if state.message:
            print(state, file=sys.stderr, flush=True) if self.bar is None else self.bar.console.print(str(state))
        elif self.bar is not None and self.task is not None:
            self.bar.update(
                self.task, description=state.stage, completed=state.done, total=state.total, note=state.note
            )
        elif time.monotonic() - self.written >= LOG_SECONDS:
            self.written = time.monotonic()
            print(state, file=sys.stderr, flush=True)


@contextmanager
def show_progress(*, clock: bool = False) -> Iterator[Steps]:
    """Show how far the command is while the block runs.

    With `clock`, the bar tells the time that has passed too: nobody knows how many steps there will be.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Steps(None)
        return
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}")]
    if clock:
        columns += [TextColumn("elapsed"), TimeElapsedColumn()]
    with Bar(*columns, console=console, transient=True) as bar:
        yield Steps(bar)


def saved(output: Path, picture: str) -> str:
    """Where a command's folder is, and the picture in it or how to get one."""
    where = str(output / picture) if can_draw() else "no picture: pip install 'simplicit[report]' for one"
    return f"Saved in {output}, {where}."


def quoted(path: Path) -> str:
    """A path as a word of a command that is proposed, in quotes where this system's shell needs them."""
    return subprocess.list2cmdline([str(path)]) if os.name == "nt" else shlex.quote(str(path))


def figures_table(*columns: str, title: str | None = None) -> Table:
    """A quiet table: the first column names, the others are figures."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    return table


def shown(cells: Cells) -> Table:
    """A table of cells as the screen shows it."""
    table = figures_table(*cells.head, title=cells.caption)
    for row in cells.rows:
        table.add_row(*row)
    return table


def percent(share: float, digits: int = 2) -> str:
    """``0.5`` as ``50.00``."""
    return f"{100 * share:.{digits}f}"
