"""What is printed where: tables as wide as they must be, and lines where there is no terminal."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from simplicit.cli.console import Steps, figures_table, quoted, say
from simplicit.progress import Progress


def test_figures_are_whole_on_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    table = figures_table("name", "one", "two")
    table.add_row("a rather long name", "123,456,789", "987,654,321")
    say(table, "words " * 10)
    out = capsys.readouterr().out
    assert "123,456,789  987,654,321" in out
    assert "words " * 9 in out


def test_lines_tell_how_far_it_is_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps(None)
    steps(Progress(1, 4))
    assert capsys.readouterr().err == ""  # a moment after the start
    steps(Progress(0, 1, message="The fit takes up to 1 GiB"))
    assert capsys.readouterr().err == "The fit takes up to 1 GiB\n"
    monkeypatch.setattr("simplicit.cli.console.LOG_SECONDS", 0.0)
    steps(Progress(32, 100, rate=10.0, remaining=6.8, worst_gap=1e-7))
    steps(Progress(100, 100, rate=10.0, worst_gap=1e-7, stage="trial 2, output rows"))
    first, last = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"rows: 32 of 100, 10 a second, .* left, worst gap .*", first)
    assert last.startswith("trial 2, output rows: 100 of 100, ")
    assert "left" not in last


@pytest.mark.parametrize("name", ["runs/fit", "my runs/fit", "it's; rm -rf", "a$b"])
def test_a_folder_in_a_proposed_command_is_one_word_of_the_shell(name: str) -> None:
    assert shlex.split(f"simplicit eval {quoted(Path(name))}") == ["simplicit", "eval", name]
