"""``simplicit fit --states``: untied rows on chosen states, from the command line to the measures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import save_file
from torch import nn

import simplicit as sp
from simplicit.cli import main

SOURCE = """
import torch
from torch import nn
class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 3, 3, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(3)
        self.inner = nn.Conv2d(3, 3, 3, padding=1)
        self.last = nn.Linear(27, 10)
    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(x + self.inner(torch.relu(x)))
        return self.last(x.flatten(1))
def make():
    torch.manual_seed(0)
    return Small()
"""
NETWORK = ("--model", "states_net:make", "--weights", "states_net.safetensors", "--data", "digits")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with a network in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "states_net.py").write_text(SOURCE)
    space: dict[str, object] = {}
    exec(SOURCE, space)
    net: nn.Module = space["make"]()  # type: ignore[operator]
    save_file(net.state_dict(), tmp_path / "states_net.safetensors")
    return tmp_path


def command(*words: object) -> int:
    return main(["fit", *NETWORK, "--input-shape", "1x8x8", "--samples", "150", *map(str, words)])


def test_from_the_command_to_the_measures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--states", "blocks", "--structure", "feedforward", "--kappa", "none", "--beta", "1e-4")
    assert command(*words, "--output", "run") == 0
    shown = capsys.readouterr().out
    assert "64 of 64 certified" in shown
    settings = json.loads((folder / "run" / "run.json").read_text())["settings"]
    assert settings["states"] == "blocks"
    model = sp.load(folder / "run")
    assert [group.size for group in model.groups] == [27, 27]
    agreement = json.loads((folder / "run" / "run.json").read_text())["results"]["agreement"]
    assert agreement > 0.8
    assert main(["eval", "run"]) == 0
    assert main(["attack", "run", "--samples", "20", "--steps", "5"]) == 0
    assert main(["fit", "--config", "run/run.json", "--output", "again"]) == 0
    again = sp.load(folder / "again")
    assert (model.A != again.A).nnz == 0


def test_the_default_ball_is_for_structures_with_cycles(folder: Path) -> None:
    assert command("--states", "relu_2", "--structure", "dense", "--output", "run") == 0
    assert json.loads((folder / "run" / "run.json").read_text())["settings"]["kappa"] == 0.99


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--states", "blocks"), "structure: got 'baseline'"),
        (("--states", "block", "--structure", "feedforward"), "no group of states 'block'; name some of 'relu'"),
        (("--states", "relu,", "--structure", "feedforward"), "no group of states ''"),
        (("--states", "blocks", "--preset", "sparse"), "structure: got 'baseline'"),
    ],
)
def test_mistakes(folder: Path, words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(*words, "--output", "run") == 2
    assert told in " ".join(capsys.readouterr().err.split())
    assert not (folder / "run").exists()
