"""What the commands share: where text goes, progress, and how a run ends.

Results go to standard output; progress and errors to standard error, so that ``--json`` can be piped.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, TaskID, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from simplicit.errors import DataError
from simplicit.files import dumps
from simplicit.progress import OnProgress, Progress, duration, listening
from simplicit.report import Table as Cells
from simplicit.report import can_draw

#: Where there is no terminal, long work writes its first line after so many seconds, each of the next after twice as
#: long as the one before, and in the end one as often as the second number says.
FIRST_SECONDS, LOG_SECONDS = 2.0, 30.0
#: So many phases within one another are shown: the outermost and the innermost.
_SHOWN = 3
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


class Lines:
    """Shows how far a command is by lines, further and further apart, wherever the command is at that time."""

    def __init__(self) -> None:
        self.written, self.distance = time.monotonic(), FIRST_SECONDS
        self.heard = self.written
        self.state: Progress | None = None
        self.over, self.lock = threading.Event(), threading.Lock()

    def __call__(self, state: Progress) -> None:
        """Take note of a state, and write it if the last line was written long enough ago."""
        with self.lock:
            if state.message:
                print(state, file=sys.stderr, flush=True)
                return
            self.state, self.heard = state, time.monotonic()
        self.write_if_due()

    def write_if_due(self) -> None:
        """Write where the command is, if the last line was written long enough ago."""
        with self.lock:
            now = time.monotonic()
            if self.state is None or now - self.written < self.distance:
                return
            self.written, self.distance = now, min(2 * self.distance, LOG_SECONDS)
            with suppress(OSError, ValueError):  # standard error may be closed by now
                print(_later(self.state, now - self.heard), file=sys.stderr, flush=True)

    def keep_writing(self) -> None:
        """Write what is due until it is over; for a thread of its own, since a long step says nothing itself."""
        while not self.over.wait(min(max(FIRST_SECONDS / 4, 0.05), 1.0)):
            self.write_if_due()


def _later(state: Progress, seconds: float) -> Progress:
    """A state of which so many seconds ago was told."""
    of = None if state.of is None else _later(state.of, seconds)
    left = None if state.remaining is None or state.remaining <= seconds else state.remaining - seconds
    return replace(state, elapsed=state.elapsed + seconds, remaining=left, of=of)


class Bars:
    """Shows how far a command is by bars on a terminal, one for each phase within another."""

    def __init__(self, bar: Bar) -> None:
        self.bar, self.tasks = bar, list[TaskID]()
        self.stages = list[tuple[str, int]]()

    def __call__(self, state: Progress) -> None:
        """Show a state."""
        if state.message:
            self.bar.console.print(str(state))
            return
        chain = state.chain if len(state.chain) <= _SHOWN else (*state.chain[: _SHOWN - 1], state)
        stages = [(one.stage, one.total) for one in chain]
        same = next(
            (k for k, (old, new) in enumerate(zip(self.stages, stages, strict=False)) if old != new), len(chain)
        )
        for task in self.tasks[same:]:  # what has ended, and with it what was a part of it
            self.bar.remove_task(task)
        del self.tasks[same:]
        self.stages = stages
        for place, one in enumerate(chain):
            facts: dict[str, Any] = {"completed": one.done, "note": one.note}
            if place < len(self.tasks):
                self.bar.update(self.tasks[place], **facts)
            else:
                self.tasks.append(self.bar.add_task("  " * place + one.stage, total=one.total or None, **facts))


class _Count(ProgressColumn):
    """How many steps of how many, where they are known."""

    def render(self, task: Any) -> Text:
        return Text("" if task.total is None else f"{int(task.completed):,}/{int(task.total):,}")


class _Left(ProgressColumn):
    """What is left, or, where that is not known, for how long it has been going on."""

    def render(self, task: Any) -> Text:
        return Text(task.fields["note"] or f"for {duration(task.elapsed or 0.0)}")


@contextmanager
def show_progress() -> Iterator[OnProgress]:
    """Show how far the command is while the block runs: all phases of it, by bars on a terminal, elsewhere by lines."""
    console = Console(stderr=True)
    if not console.is_terminal:
        lines = Lines()
        thread = threading.Thread(target=lines.keep_writing, name="progress", daemon=True)
        thread.start()
        try:
            with listening(lines):
                yield lines
        finally:
            lines.over.set()
            thread.join()
        return
    with bars_on(console) as bars, listening(bars):
        yield bars


@contextmanager
def bars_on(console: Console) -> Iterator[Bars]:
    """Bars on a terminal, which are gone when the block ends."""
    text = TextColumn("{task.description}", markup=False)
    with Bar(text, BarColumn(20), _Count(), _Left(), console=console, transient=True) as bar:
        yield Bars(bar)


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
