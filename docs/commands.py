"""Write the page of the command line from what every command says with --help: docs/commands.md.

    python docs/commands.py

The help is printed here, by the command line itself, so wide that no text is broken, and its panels become lists.
Where a choice such as ``--recipe`` brings options of its own, each choice's help is printed too, and the options that
only it has are listed under it. tests/test_docs.py compares the page that is kept with the one that this makes.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Mapping
from pathlib import Path

from simplicit.cli import main
from simplicit.cli.commands import COMMANDS
from simplicit.executors import EXECUTORS
from simplicit.rows.penalties import PENALTIES
from simplicit.training import RECIPES

PAGE = Path(__file__).parent / "commands.md"
#: Columns of the terminal that help is printed for.
WIDTH = 700
#: Where each choice that brings options of its own is shown, and what stands there of the others.
CHOICES: dict[str, dict[str, Mapping[str, object]]] = {
    "fit": {"recipe": RECIPES},
    "solve": {"penalty": PENALTIES, "executor": EXECUTORS},
}
NOTES = {"fit": "Penalties and executors have the options that they have in [simplicit solve](#simplicit-solve)."}

#: Panels by their titles, each with its lines: an option with its words, and what it says.
Panels = dict[str, list[tuple[str, str]]]


def page() -> str:
    """The whole page, in Markdown."""
    parts = [
        "# The command line",
        "What every command says with `--help`; `python docs/commands.py` writes this page. All commands take "
        "`--help`. What is wrong is said in one line on standard error, with exit code 2; Ctrl-C is 130, SIGTERM 143. "
        "[Errors](errors.md) has the messages.",
    ]
    for name in COMMANDS:
        parts += _command(name)
    return "\n\n".join(parts) + "\n"


def _command(name: str) -> list[str]:
    about, panels = _help(*name.split())
    parts = [f"## simplicit {name}", *about, *_lists(panels)]
    parts += [NOTES[name]] if name in NOTES else []
    known = {option for lines in panels.values() for option, _ in lines}
    for word, choices in CHOICES.get(name, {}).items():
        for choice in choices:
            _, chosen = _help(*name.split(), f"--{word}", choice)
            own = {title: [line for line in lines if line[0] not in known] for title, lines in chosen.items()}
            if any(own.values()):
                parts += [f"### With `--{word} {choice}`", *_lists(own)]
    return parts


def _help(*words: str) -> tuple[list[str], Panels]:
    """The paragraphs that a help begins with, and its panels."""
    printed = io.StringIO()
    before = {name: os.environ.get(name) for name in ("COLUMNS", "NO_COLOR")}
    os.environ.update(COLUMNS=str(WIDTH), NO_COLOR="1")
    try:
        with contextlib.redirect_stdout(printed):
            if main([*words, "--help"]):
                raise SystemExit(f"simplicit {' '.join(words)} --help fails")
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
    return _read(printed.getvalue())


def _read(text: str) -> tuple[list[str], Panels]:
    begins, *boxes = re.split(r"^╭─ ", text, flags=re.MULTILINE)
    usage, *about = [" ".join(part.split()) for part in re.split(r"\n\s*\n", begins) if part.strip()]
    panels: Panels = {}
    for box in boxes:
        title, *lines = box.split("\n")
        inside = [line.strip("│").strip() for line in lines if line.startswith("│")]
        cells = (re.split(r"\s{2,}", line.removeprefix("*").strip(), maxsplit=1) for line in inside)
        panels[title.split(" ─")[0]] = [(cell[0], cell[1] if len(cell) > 1 else "") for cell in cells]
    return [f"`{usage.removeprefix('Usage: ')}`", *map(_escaped, about)], panels


def _lists(panels: Panels) -> list[str]:
    shown = []
    for title, lines in panels.items():
        if lines:
            entries = [f"`{option}`\n: {_escaped(text) or 'A switch.'}" for option, text in lines]
            shown += [f"**{title}**", *entries]
    return shown


def _escaped(text: str) -> str:
    """Help as Markdown that means nothing by its stars, bars, brackets and underscores."""
    return re.sub(r"([*_\[\]<>$`|])", r"\\\1", text)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
