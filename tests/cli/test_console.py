"""What is printed where: tables as wide as they must be, and lines where there is no terminal."""

from __future__ import annotations

import io
import re
import shlex
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from simplicit.cli.console import Lines, bars_on, figures_table, quoted, say, show_progress
from simplicit.progress import Progress, announce, counted, listening, phase


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


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line is due at once."""
    monkeypatch.setattr("simplicit.cli.console.FIRST_SECONDS", 0.0)


def test_the_first_line_waits_a_moment(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simplicit.cli.console.FIRST_SECONDS", 2.0)
    lines = Lines()
    lines(Progress(1, 4))
    assert capsys.readouterr().err == ""
    lines(Progress(0, 0, message="The fit takes up to 1 GiB"))
    assert capsys.readouterr().err == "The fit takes up to 1 GiB\n"


@pytest.mark.usefixtures("hurried")
def test_lines_tell_how_far_it_is_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    fit = Progress(1, 4, remaining=90.0, stage="fit")
    lines(Progress(32, 100, rate=10.0, remaining=6.8, worst_gap=1e-7))
    lines(Progress(100, 100, rate=10.0, worst_gap=1e-7, stage="exchange", of=fit))
    lines(Progress(0, 0, stage="capture", elapsed=75.0))
    first, second, third = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"rows: 32 of 100, 10 a second, .* left, worst gap .*", first)
    assert re.fullmatch(r"fit: 1 of 4, 1 min \d\d s left; exchange: 100 of 100, 10 a second, worst gap .*", second)
    assert third == "capture, for 1 min 15 s"


def test_lines_are_written_further_and_further_apart(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("simplicit.cli.console.FIRST_SECONDS", 2.0)
    monkeypatch.setattr("simplicit.cli.console.time.monotonic", lambda: now[0])
    lines, at = Lines(), list[float]()
    lines(Progress(0, 0, stage="capture"))
    for _ in range(1000):  # a step that says nothing: the thread asks ten times a second
        now[0] += 0.1
        lines.write_if_due()
        if capsys.readouterr().err:
            at.append(now[0] - 100)
    np.testing.assert_allclose(at, [2, 6, 14, 30, 60, 90], atol=1)


def test_a_long_step_is_told_of_by_a_thread(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simplicit.cli.console.FIRST_SECONDS", 0.02)
    written = threading.Event()
    monkeypatch.setattr("simplicit.cli.console._later", lambda state, _: written.set() or state)
    with show_progress(), phase("capture"):
        assert written.wait(5)
    assert "capture" in capsys.readouterr().err
    assert not [thread for thread in threading.enumerate() if thread.name == "progress"]


def test_bars_show_the_phases_within_one_another() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120)
    with bars_on(console) as bars, listening(bars), phase("fit", 3) as fit:
        fit.count()
        with phase("0.weight"):
            for _ in counted(range(4), "exchange", 4):
                bars.bar.refresh()
        announce("The fit takes up to 1 GiB")
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    assert re.search(r"^fit +[━╸╺ ]+ *1/3 \d+ s left", text, re.MULTILINE)
    assert re.search(r"^  0\.weight +[━╸╺ ]+ *for 0 s", text, re.MULTILINE)
    assert re.search(r"^    exchange +[━╸╺ ]+ *2/4", text, re.MULTILINE)
    assert "The fit takes up to 1 GiB" in text


@pytest.mark.parametrize("name", ["runs/fit", "my runs/fit", "it's; rm -rf", "a$b"])
def test_a_folder_in_a_proposed_command_is_one_word_of_the_shell(name: str) -> None:
    assert shlex.split(f"simplicit eval {quoted(Path(name))}") == ["simplicit", "eval", name]
