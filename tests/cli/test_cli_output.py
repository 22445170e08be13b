"""What the command line prints where, on narrow, closed, full and non-UTF-8 outputs, and how it stops."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import simplicit as sp
from simplicit.cli import main
from simplicit.cli.console import figures_table, say

COMMAND = [sys.executable, "-c", "import sys; from simplicit.cli import main; sys.exit(main())"]


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small baseline on digits and a fit of it."""
    folder = tmp_path_factory.mktemp("runs")
    assert main(["baseline", "--arch", "8", "--no-bias", "--epochs", "2", "--output", str(folder / "base")]) == 0
    assert main(["fit", str(folder / "base"), "--samples", "60", "--output", str(folder / "fit")]) == 0
    return folder


def evaluated(runs: Path, *more: str) -> list[str]:
    return ["eval", str(runs / "fit"), "--eps", "0.1", "--pgd-steps", "1", "--attack-samples", "30", *more]


def one_error(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    capsys.readouterr()
    assert main(words) == 2
    told = capsys.readouterr()
    assert (told.out, told.err.count("\n")) == ("", 1)
    return told.err


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_output_without_unicode(runs: Path, more: tuple[str, ...]) -> None:
    environment = os.environ | {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    for words in (evaluated(runs, *more), ["eval", "--help"]):
        done = subprocess.run([*COMMAND, *words], env=environment, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.isascii()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_output_that_cannot_be_written(runs: Path) -> None:
    for words in (evaluated(runs, "--json"), ["--help"]):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run([*COMMAND, *words], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr.startswith("Error: ")
        assert done.stderr.count("\n") == 1


def test_closed_output(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["--help"]) == 2
    assert "standard output is closed" in capsys.readouterr().err


def test_termination_cleans_up(runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def terminated(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("simplicit.runs.demo.run_fit", terminated)
    assert main(["demo", "--output", "deep/out"]) == 143
    assert capsys.readouterr().err.strip() == "Error: interrupted"
    assert list(Path.cwd().iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before


def test_storage_and_attacked_samples(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(evaluated(runs)) == 0
    out = capsys.readouterr().out
    assert "accuracy on the attacked samples" in out
    assert f"{(64 + 10) * 8 * 32 / 8192:.1f}" in next(line for line in out.splitlines() if "storage, KiB" in line)
    assert main(evaluated(runs, "--json")) == 0
    figures = json.loads(capsys.readouterr().out)["evaluation"]
    assert figures["baseline_dense_weight_bits"] == (64 + 10) * 8 * 32
    assert figures["storage_ratio"] == figures["baseline_dense_weight_bits"] / figures["storage_bits"]


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


OWN = """
import sys
from torch import nn
print("loud import")
def loud():
    print("loud call")
    return nn.Sequential(nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 10))
def leaves():
    sys.exit(3)
"""


def test_own_code_that_prints_or_leaves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "own_output.py").write_text(OWN)
    words = ["--data", "digits", "--samples", "40", "--json"]
    assert main(["fit", "--model", "own_output:loud", *words]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["samples"] == 40
    assert told.err == "loud import\nloud call\n"
    assert "SystemExit: 3" in one_error(capsys, ["fit", "--model", "own_output:leaves", *words, "--output", "g"])


@pytest.mark.parametrize("seed", ["99999999999999999999999", "-3"])
def test_seeds_out_of_range(runs: Path, capsys: pytest.CaptureFixture[str], seed: str) -> None:
    for words in (["baseline"], ["fit", str(runs / "base")], evaluated(runs), ["demo"]):
        assert "--seed must" in one_error(capsys, [*words, "--seed", seed])


def test_errors_speak_of_options(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--learning-rate must be" in one_error(capsys, ["baseline", "--learning-rate", "0"])
    assert "--pgd-steps must be" in one_error(capsys, evaluated(runs, "--pgd-steps", "0"))
    assert "--attack-samples must be" in one_error(capsys, evaluated(runs, "--attack-samples", "0"))


def test_network_larger_than_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert "149,0" in one_error(capsys, ["baseline", "--arch", "100000000-100000000"])
    assert "expected the widths" in one_error(capsys, ["baseline", "--arch", "9" * 5000])


def test_progress_of_a_search_names_the_trial() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3)).eval()
    stages: list[str] = []
    result = sp.fit(net, torch.rand(40, 8), sparsity=40, progress=lambda state: stages.append(state.stage))
    assert stages[0] == "trial 1, state rows"
    assert stages[-1] == f"trial {result.trials}, output rows"
