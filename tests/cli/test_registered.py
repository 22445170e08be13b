"""What is registered in one line works from the command line, and is in its help."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import simplicit as sp
from command_line import Run, manifest, one_line, settings
from simplicit.data import DATASETS, load_dataset
from simplicit.executors import EXECUTORS
from simplicit.rows import Penalty
from simplicit.rows.penalties import PENALTIES
from simplicit.runs.solutions import load_coefficients
from simplicit.studies.peers import PEERS, Layer, Peer
from simplicit.training import RECIPES


def helped(run: Run, *words: object) -> str:
    """The help of a command on one line."""
    code, out, _ = run(*words, "--help")
    assert code == 0
    return " ".join(out.replace("│", " ").split())


@dataclass(frozen=True)
class Cubic:
    """A penalty.

    Parameters
    ----------
    steepness : float
        How steep it is.
    """

    steepness: float = 2.0

    def pieces(self, n_rows: int, n_columns: int) -> sp.rows.PiecewiseQuadratic:
        return sp.L1(self.steepness).pieces(n_rows, n_columns)


@dataclass(frozen=True)
class Mixed:
    """A share of ridge, the rest ℓ1.

    Parameters
    ----------
    beta : float
        Strength.
    share : float
        Of ridge, from 0 to 1.
    """

    beta: float = 1.0
    share: float = 0.25

    def pieces(self, n_rows: int, n_columns: int) -> sp.rows.PiecewiseQuadratic:
        if not 0 <= self.share <= 1:
            raise sp.InputError(f"share must lie between 0 and 1, got {self.share}", argument="share")
        return sp.ElasticNet(self.beta * (1 - self.share), self.beta * self.share).pieces(n_rows, n_columns)


@pytest.fixture
def files(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Features and targets, f.npy and t.npy."""
    rng = np.random.default_rng(0)
    features, targets = rng.normal(size=(30, 8)), rng.normal(size=(30, 3))
    np.save("f.npy", features)
    np.save("t.npy", targets)
    return features, targets


def test_a_penalty_with_a_share(run: Run, files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PENALTIES, "mixed", Mixed)
    words = ("f.npy", "t.npy", "--penalty", "mixed", "--share", 0.5)
    assert run("solve", *words, "--strengths", 3, "--output", "path")[0] == 0  # a factor on the share has no meaning
    one_line(run("solve", *words[:-1], 2, "--output", "x"), "--share must lie between 0 and 1, got 2")


def test_a_penalty(run: Run, files: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PENALTIES, "cubic", Cubic)
    for words in (("solve", "--penalty", "cubic"), ("fit", "--recipe", "matching", "--penalty", "cubic")):
        text = helped(run, *words)
        assert "basis-pursuit, none, cubic]" in text
        assert "Penalty cubic" in text
        assert "--steepness FLOAT How steep it is. [default: 2]" in text
    assert run("solve", "f.npy", "t.npy", "--penalty", "cubic", "--steepness", 9, "--output", "out")[0] == 0
    expected = sp.solve_rows(*files, penalty=sp.L1(9.0)).coefficients.toarray()
    np.testing.assert_allclose(load_coefficients(Path("out"))[0][0].toarray(), expected, atol=1e-9)
    assert (settings("out")["penalty"], settings("out")["steepness"]) == ("cubic", 9.0)


@dataclass(frozen=True)
class Gentle(sp.training.Recipe):
    """A recipe.

    Parameters
    ----------
    kindness : float
        How gentle it is.
    softly : Penalty
        What it does.
    """

    kindness: float = 0.5
    softly: Penalty = field(default_factory=lambda: sp.L1(7.0))

    def train(self, task: Any) -> Any:
        return sp.Matching(self.softly, kappa=self.kindness).train(task)


def test_a_recipe(run: Run, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "gentle", Gentle(0.25))
    assert "matching, paper, gentle]" in helped(run, "fit")
    text = helped(run, "fit", "--recipe", "gentle")
    assert "--kindness FLOAT How gentle it is. [default: 0.25]" in text
    assert "[default: 7]" in text  # β of its own penalty
    words = ("--samples", 50, "--recipe", "gentle", "--beta", 0.01, "--output")
    code, out, _ = run("fit", base, *words, "f", "--json")
    assert code == 0
    assert json.loads(out)["row_norm"] <= 0.25
    assert [settings("f")[name] for name in ("recipe", "kindness", "softly", "beta")] == ["gentle", 0.25, "l1", 0.01]
    assert run("fit", "--config", "f", "--output", "g")[0] == 0
    assert Path("f", "model.safetensors").read_bytes() == Path("g", "model.safetensors").read_bytes()


@dataclass(eq=False, kw_only=True)
class Sleepy(sp.Serial):
    """An executor.

    Parameters
    ----------
    naps : int
        How often it rests.
    """

    rested: ClassVar[list[int]] = []
    naps: int = 0

    def load(self, work: Any) -> None:
        self.rested.append(self.naps)
        super().load(work)


@pytest.mark.usefixtures("files")
def test_an_executor(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXECUTORS, "sleepy", Sleepy)
    assert "processes, ray, sleepy]" in helped(run, "fit")
    assert "--naps INT How often it rests. [default: 0]" in helped(run, "solve", "--executor", "sleepy")
    assert "Known: serial, threads, processes, ray, sleepy." in helped(run, "reproduce", "figure5")
    words = ("--executor", "sleepy", "--naps", 5, "--output", "out")
    assert run("solve", "f.npy", "t.npy", "--beta", 5, *words)[0] == 0
    assert Sleepy.rested == [5]
    assert (settings("out")["executor"], settings("out")["naps"]) == ("sleepy", 5)


def test_a_data_set(run: Run, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATASETS, "numerals", lambda _: load_dataset("digits"))
    for words in (("baseline",), ("fit",), ("eval",), ("demo",), ("reproduce", "table2")):
        assert "digits, fashion-mnist, numerals." in helped(run, *words)
    words = ("--samples", 50, "--data", "numerals", "--recipe", "matching", "--output", "f")
    assert run("fit", base, *words)[0] == 0
    assert (settings("f")["data"], manifest("f")["inputs"]["data"]["name"]) == ("numerals", "numerals")


def cut(layer: Layer) -> np.ndarray:
    """Keep the first weights."""
    kept = np.zeros(layer.weights.size)
    kept[: layer.count] = 1
    return layer.weights * kept.reshape(layer.weights.shape)


def test_a_peer(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PEERS, "cut", Peer("first come", cut, fits=False, source="here"))
    assert "Known: magnitude, wanda, sparseswaps, sparsegpt, alps, cut." in helped(run, "reproduce", "frontier")
    words = ("--data", "digits", "--arch", "4", "--epochs", 1, "--seeds", 1, "--samples", 50, "--attack-samples", 10)
    words = (*words, "--pgd-steps", 1, "--workers", 1, "--sparsity", 50, "--peer", "cut", "--output", "f", "--json")
    code, out, _ = run("reproduce", "frontier", *words)
    assert code == 0
    assert {one["solver"] for one in json.loads(out)["means"]} == {"baseline", "simplicit", "cut"}
