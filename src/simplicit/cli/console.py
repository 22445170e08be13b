"""What the commands share: where text goes, progress, and how a run ends.

Results go to standard output; progress and errors to standard error, so that ``--json`` can be piped.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from simplicit.errors import DataError
from simplicit.experiments.run import dumps

__all__ = ["command_line", "complain", "figures_table", "print_json", "say", "show_progress"]

OnStep = Callable[[str, int, int], None]
_UNBOUNDED = 10_000
#: Off a terminal, where progress is told in lines.
SECONDS_BETWEEN_LINES = 10.0


def command_line(context: typer.Context) -> list[str]:
    """The command as it was typed, for the manifest."""
    return ["simplicit", *context.obj] if isinstance(context.obj, list) else []


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


@contextmanager
def show_progress(*, searching: bool = False, lines: bool = False) -> Iterator[OnStep]:
    """A bar on a terminal, nothing elsewhere, or `lines` now and then; yields ``on_step(label, done, total)``.

    It shows the remaining time, or the elapsed time while `searching`: nobody knows how many trials a search takes.
    """
    console = Console(stderr=True)
    if lines and not console.is_terminal:
        yield _progress_lines()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("elapsed" if searching else "remaining"),
        TimeElapsedColumn() if searching else TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("starting", total=None)

        def on_step(label: str, done: int, total: int) -> None:
            progress.update(bar, description=label, completed=done, total=total)

        yield on_step


def _progress_lines() -> OnStep:
    """Prints a line on standard error every ten seconds or more, with an estimate."""
    begun = last = time.monotonic()

    def on_step(label: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < SECONDS_BETWEEN_LINES:
            return
        last = now
        left = f", about {(now - begun) * (total - done) / done:.0f} s left" if done else ""
        print(f"{label}: {done} of {total} done{left}", file=sys.stderr, flush=True)

    return on_step


def figures_table(*columns: str, title: str | None = None) -> Table:
    """A quiet table: the first column names, the others are figures."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    return table
