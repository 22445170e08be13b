"""What the commands share: where text goes, progress, and how a run ends.

Results go to standard output; progress and errors to standard error, so that ``--json`` can be piped.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from simplicit.experiments.run import dumps

__all__ = ["command_line", "complain", "figures_table", "print_json", "say", "show_progress"]

OnStep = Callable[[str, int, int], None]


def command_line(context: typer.Context) -> list[str]:
    """The command as it was typed, for the manifest."""
    return ["simplicit", *context.obj] if isinstance(context.obj, list) else []


def complain(message: str) -> None:
    """One line on standard error, whatever line breaks the message has."""
    print("Error:", " ".join(message.split()), file=sys.stderr)


def say(*things: Any) -> None:
    """Rich text or tables on standard output; off a terminal wide enough that nothing is cut."""
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False, markup=False)
    for thing in things:
        console.print(thing)


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    print(dumps(value))


@contextmanager
def show_progress() -> Iterator[OnStep]:
    """A bar with the remaining time on a terminal, nothing elsewhere; yields ``on_step(label, done, total)``."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("remaining"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("starting", total=None)

        def on_step(label: str, done: int, total: int) -> None:
            progress.update(bar, description=label, completed=done, total=total)

        yield on_step


def figures_table(*columns: str, title: str | None = None) -> Table:
    """A quiet table: the first column names, the others are figures."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    return table
