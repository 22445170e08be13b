"""The command line as a whole: its help, one line for every mistake, and how it stops."""

from __future__ import annotations

import importlib.metadata
import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import simplicit as sp
from command_line import Run, files, one_line
from simplicit.cli import main
from simplicit.cli.commands import COMMANDS, FAMILIES
from simplicit.cli.shared import Output
from simplicit.runs.baseline import load_baseline
from simplicit.runs.evaluate import EvaluationSettings
from simplicit.training import RECIPES


@pytest.mark.parametrize("command", [*COMMANDS, *(f"fit --recipe {recipe}" for recipe in RECIPES)])
def test_help_explains_every_option_and_gives_an_example(run: Run, command: str) -> None:
    code, out, err = run(*command.split(), "--help")
    assert (code, err) == (0, "")
    name = command.partition(" --")[0]
    assert f"Usage: simplicit {name}" in out
    assert f"Example: simplicit {name}" in out
    assert "--json" in out


def test_help_keeps_the_stars_of_patterns(run: Run) -> None:
    _, out, _ = run("fit", "--help")
    assert "blocks.*.fc1=60" in out, "as Markdown reads it, what stands between two stars is emphasised, and they go"


def test_families_and_the_bare_command_show_the_commands(run: Run) -> None:
    story = list(dict.fromkeys(name.split()[0] for name in COMMANDS))
    for words in ((), ("--help",), ("-h",)):
        code, out, err = run(*words)
        assert (code, err) == (0, "")
        listed = [line.split()[1] for line in out.splitlines() if line.startswith("│ ") and line[2] not in " -"]
        assert listed == story
    for family in FAMILIES:
        for words in ((family,), (family, "--help"), (family, "-h")):
            code, out, err = run(*words)
            assert (code, err) == (0, "")
            assert f"Usage: simplicit {family} COMMAND" in out
            assert all(name.split()[1] in out for name in COMMANDS if name.startswith(family))


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"simplicit {sp.__version__}\n", "")


def test_the_module_is_the_command() -> None:
    words = [sys.executable, "-m", "simplicit", "fit", "nowhere"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: baseline nowhere")
    assert done.stderr.count("\n") == 1
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="simplicit")
    assert script.load() is main


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("demmo",), 'Unknown command "demmo". Did you mean "demo"?'),
        (("journal", "shoe"), 'Unknown command "shoe"'),
        (("fit", "b", "--no-such-option"), "Unknown option: --no-such-option; see simplicit fit --help"),
        (("fit", "b", "another"), "Unexpected argument: another"),
        (("fit", "b", "--samples"), "--samples requires an argument"),
        (("fit", "b", "--samples", "many"), 'Invalid value for --samples: unable to convert "many" into int'),
        (("fit", "b", "--samples", "1.5"), 'Invalid value for --samples: unable to convert "1.5" into int'),
        (("fit", "b", "--seed", "none"), 'Invalid value for --seed: unable to convert "none" into int'),
        (("fit", "b", "--sparsity", "half"), 'Invalid value for --sparsity: unable to convert "half" into float'),
        (("fit", "b", "--json=maybe"), "--json"),
        (("fit", "b", "--executor", "moon"), "--executor: 'moon' is unknown; choose one of 'serial', 'threads'"),
        (("fit", "b", "--recipe", "fast"), "--recipe: 'fast' is unknown; choose one of 'sparse'"),
        (("fit", "b", "--recipe", "matching", "--penalty", "l0"), "--penalty: 'l0' is unknown; choose one of 'l1'"),
        (("fit", "b", "--seed", "1", "--seed", "2"), "--seed specified multiple times"),
        (("eval",), "RUN requires an argument"),
        (("attack",), "RUNS requires an argument"),
        (("solve", "f.npy"), "TARGETS requires an argument; see simplicit solve --help"),
        (("journal", "merge"), "JOURNALS requires an argument; see simplicit journal merge --help"),
    ],
)
def test_a_mistake_is_one_line(run: Run, words: tuple[str, ...], told: str) -> None:
    one_line(run(*words), told)
    assert files() == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--attack-eps", 1), "--attack-eps is an option of the recipe robust or certified; add --recipe robust; see"),
        (
            ("--beta", 1),
            "--beta is an option of the recipe robust, certified, matching or paper and of the candidates l1 or "
            "elastic-net; add --recipe robust or --candidates l1",
        ),
        (("--penalty", "l1"), "--penalty is an option of the recipe matching or paper; add --recipe matching"),
        (("--no-propagate",), "--no-propagate is an option of the recipe matching or paper"),
        (("--alpha=1",), "--alpha is an option of the candidates elastic-net or perspective; add --candidates"),
        (("--recipe", "matching", "--gamma", 1), "--gamma is an option of the penalty perspective; add --penalty"),
        (("--executor", "serial", "--workers", 1), "--workers is an option of the executor threads, processes or ray"),
        (("--address", "a:1"), "--address is an option of the executor ray; add --executor ray"),
    ],
)
def test_an_option_of_another_choice_says_whose_it_is(run: Run, words: tuple[object, ...], told: str) -> None:
    one_line(run("fit", "b", *words), told, "see simplicit fit --help")
    assert files() == []


def test_other_commands_have_no_such_choice(run: Run) -> None:
    one_line(run("solve", "f.npy", "t.npy", "--attack-eps", 1), "Unknown option: --attack-eps; see simplicit solve")


THERE = Output(Path("there"))


def measure(run: Path, /, settings: EvaluationSettings, output: Output = THERE, *, twice: bool = False) -> None:
    """Measure a thing.

    Parameters
    ----------
    run : Path
        The thing.
    settings, output
    twice : bool
        Measure it again.
    """
    print(run, settings.eps, settings.pgd_steps, output.folder, twice)


def test_a_command_is_one_function_and_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "journal measure", measure)
    assert "Measure a thing." in run("journal")[1]
    code, out, _ = run("journal", "measure", "--help")
    assert code == 0
    for words in ("RUN  The thing. [required]", "--twice  Measure it again.", "--pgd-steps INT", "[default: there]"):
        assert words in out
    words = ("journal", "measure", "thing", "--eps", "0.1", "--eps", "1/4", "--twice")
    assert run(*words) == (0, "thing ('0.1', '1/4') 20 there True\n", "")
    one_line(run(*words, "--pgd-steps", 0), "--pgd-steps must be an integer of at least 1, got 0")


@pytest.mark.parametrize(
    "words",
    [("demo",), ("baseline",), ("fit", "{base}"), ("eval", "{fit}"), ("attack", "{fit}"), ("certify", "{fit}")],
)
def test_what_is_there_is_kept(run: Run, base: Path, fitted: Any, words: tuple[str, ...]) -> None:
    Path("taken").mkdir()
    Path("taken", "precious").write_text("")
    words = tuple(word.format(base=base, fit=fitted("sparse")) for word in words)
    one_line(run(*words, "--output", "taken"), "exists already", "--overwrite")
    one_line(run(*words, "--output", "taken", "--overwrite"), "not the folder of an earlier run")
    assert files() == ["taken", "taken/precious"]


# --- where the output goes --------------------------------------------------------------------------------------------

MEASURED = ("--eps", "0.1", "--pgd-steps", "1", "--attack-samples", "30")


@pytest.mark.parametrize("more", [(), ("--json",), ("--help",)])
def test_output_without_unicode(fitted: Any, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    assert main(["eval", str(fitted("sparse")), *MEASURED, *more]) == 0
    sys.stdout.flush()
    assert raw.getvalue().isascii()
    assert raw.getvalue()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("words", [("--help",), ("eval", "{fit}", *MEASURED, "--json")])
def test_output_that_cannot_be_written(
    fitted: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main([word.format(fit=fitted("sparse")) for word in words]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if " of " not in line]
    assert line.startswith("Error: ")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_nothing_more_is_said_at_the_exit() -> None:
    command = [sys.executable, "-m", "simplicit", "eval", "--help"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1


def test_closed_output(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["--help"]) == 2
    assert "standard output is closed" in capsys.readouterr().err


# --- how it stops -----------------------------------------------------------------------------------------------------


@pytest.fixture
def at_once(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo has its baseline at once."""
    monkeypatch.setattr("simplicit.runs.demo.make_baseline", lambda *_, **__: load_baseline(base))


@pytest.mark.usefixtures("at_once")
def test_interrupt_leaves_nothing(run: Run, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("simplicit.runs.demo.run_fit", interrupted)
    monkeypatch.setattr("simplicit.cli.fit.run_fit", interrupted)
    for words in (("fit", base), ("demo",)):
        assert run(*words, "--output", "deep/out") == (130, "", "Error: interrupted\n")
    assert files() == []


@pytest.mark.usefixtures("at_once")
def test_termination_cleans_up(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def terminated(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("simplicit.runs.demo.run_fit", terminated)
    assert run("demo", "--output", "deep/out") == (143, "", "Error: interrupted\n")
    assert files() == []
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("name", ["w\udcff", "a\0b"])
def test_names_that_are_no_text(run: Run, name: str) -> None:
    one_line(run("baseline", "--output", name), "holds bytes that are no text in UTF-8")
    assert files() == []
