"""What a newcomer types or saves by mistake: never a wrong result without a word, always one line with its remedy.

What is certainly wrong ends with exit code 2; what may be meant is said beside the figures.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from command_line import Run, files, one_line
from simplicit.data import load_dataset

DIGITS = load_dataset("digits")
#: Some hundred samples and their labels.
X, Y = DIGITS.train_inputs[:400], DIGITS.train_labels[:400]
Arrays = dict[str, Any]


def arrays(inputs: Any, labels: Any) -> Arrays:
    return {"inputs": inputs, "labels": labels}


def changed(value: float) -> Any:
    inputs = X.copy()
    inputs[3, 4] = value
    return inputs


#: Data that is not what the network was trained on, and what is told of it.
REFUSED: dict[str, tuple[Callable[[], Arrays], tuple[str, ...]]] = {
    "samples and labels swapped": (lambda: arrays(Y, X), ("(400,); are inputs and labels swapped?",)),
    "samples in columns": (lambda: arrays(X.T, Y), ("samples come first: are the inputs transposed?",)),
    "labels one-hot": (lambda: arrays(X, np.eye(10)[Y]), ("take .argmax(1) of one-hot ones",)),
    "labels from 1 to 10": (lambda: arrays(X, Y + 1), ("they go up to 10, the network has 10 outputs",)),
    "labels from 1, without the last": (
        lambda: arrays(X[Y < 9], Y[Y < 9] + 1),
        ("its labels are one off", "count them from 0: save labels - 1"),
    ),
    "labels from -1": (lambda: arrays(X, Y - 1), ("is -1; labels must be integers 0, 1, ...",)),
    "labels from 0 that left out class 0": (
        lambda: arrays(X[Y > 0], Y[Y > 0] - 1),
        ("its labels are one off", "save labels + 1"),
    ),
    "classes in another order": (
        lambda: arrays(X, (3 * Y + 1) % 10),
        ("its classes are in another order", "number them as in training"),
    ),
    "labels that are names": (lambda: arrays(X, Y.astype(str)), ("labels must be integers 0, 1, ...",)),
    "labels between classes": (lambda: arrays(X, Y + 0.5), ("labels must be integers 0, 1, ...",)),
    "fewer labels than samples": (lambda: arrays(X, Y[:-1]), ("labels must have shape (400,)",)),
    "pixels up to 255 as floats": (
        lambda: arrays(X * 255, Y),
        ("values from 0 to 255", "base was made on values"),
    ),
    "pixels up to 16 as integers": (lambda: arrays((16 * X).astype(np.int64), Y), ("values from 0 to 16",)),
    "images up to 255 as integers": (
        lambda: arrays((255 * X).reshape(-1, 8, 8).astype(np.int32), Y),
        ("save them as uint8",),
    ),
    "centred at zero": (lambda: arrays(2 * X - 1, Y), ("values from -1 to 1", "bring them into that range")),
    "a sample that is not a number": (lambda: arrays(changed(np.nan), Y), ("sample 3 has the value nan at place 4",)),
    "an infinite value": (lambda: arrays(changed(np.inf), Y), ("sample 3 has the value inf at place 4",)),
    "an array of objects": (lambda: arrays(np.array([*X], dtype=object), Y), ("dtype object", "save numbers")),
    "samples that are all equal": (lambda: arrays(X * 0 + 0.5, Y), ("all 60 samples are equal",)),
    "a single sample": (lambda: arrays(X[:1], Y[:1]), ("too few to split",)),
    "another width": (lambda: arrays(X[:, :63], Y), ("have 63 values", "the network takes 64")),
    "no sample at all": (lambda: arrays(X[:0], Y[:0]), ("with at least one sample, got (0, 64)",)),
}


@pytest.mark.parametrize("slip", REFUSED)
def test_data_that_is_certainly_wrong(run: Run, base: Path, slip: str) -> None:
    make, told = REFUSED[slip]
    np.savez("d.npz", **make())
    one_line(run("fit", base, "--data", "d.npz", "--samples", 60, "--output", "f"), *told)
    assert files() == ["d.npz"]


#: Data that may be meant, and what is said of it.
REMARKS: dict[str, tuple[Callable[[], Arrays], str]] = {
    "measured on the samples of the fit": (
        lambda: {"train_inputs": X, "train_labels": Y, "test_inputs": X, "test_labels": Y},
        "Note: 400 of the 400 test samples of d.npz are training samples too",
    ),
    "the same samples again and again": (
        lambda: arrays(np.repeat(X[:20], 20, 0), np.repeat(Y[:20], 20)),
        "of the 60 samples are different.",
    ),
    "labels without meaning": (
        lambda: arrays(X, np.arange(400) // 40),
        "Note: the network is right on ",
    ),
    "one class": (lambda: arrays(X[Y == 3], Y[Y == 3]), "Note: all test labels are 3: accuracies are how often"),
}


@pytest.mark.parametrize("slip", REMARKS)
def test_data_that_may_be_meant(run: Run, base: Path, slip: str) -> None:
    make, told = REMARKS[slip]
    np.savez("d.npz", **make())
    words = ("--samples", 30 if slip == "one class" else 60, "--sparsity", 50)
    code, out, err = run("fit", base, "--data", "d.npz", *words, "--output", "f")
    assert (code, err) == (0, "")
    assert told in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--sparsity", "0.9"), "--sparsity is in per cent, got 0.9; did you mean 90?"),
        (("--sparsity", "100"), "--sparsity is in per cent, from 0 to below 100"),
        (("--sparsity", "-5"), "--sparsity must be a finite number of at least 0"),
        (("--sparsity", "nan"), "--sparsity must be a finite number"),
        (("--sparsity", "99.99"), "--sparsity: 99.99 % leaves none of the 944 weights; take 99.89 at most"),
        (("--recipe", "matching", "--sparsity", ".5"), "did you mean 50?"),
        (("--recipe", "structured", "--zeros", ".5"), "did you mean 50?"),
        (("--layers", "fc*=none"), "'fc*' is the name of no layer; those there are: '0', '2', '4'"),
        (("--layers", "0=.9"), "did you mean 90?"),
        (("--samples", "1"), "--samples: the one that is drawn says nothing"),
        (("--samples", "2000"), "--samples must be between 1 and the 1437 of digits"),
        (("--tol", "0"), "--tol: must lie between 0 and 1"),
        (("--data", "digit"), "neither a known data set"),
        (("--own-weights",), "--own-weights: goes with --model alone"),
        (("--weights", "w.pt"), "name one network"),
    ],
)
def test_options_that_are_mistyped(run: Run, base: Path, words: tuple[str, ...], told: str) -> None:
    one_line(run("fit", base, *words, "--output", "f"), told)
    assert files() == []


def test_radii_in_levels_of_grey(run: Run, fitted: Callable[[str], Path]) -> None:
    for command in ("eval", "attack", "certify"):
        told = "--eps = 8.0 is wider than the range of inputs", "give it in units of the inputs, such as 8/255"
        one_line(run(command, fitted("sparse"), "--eps", 8), *told)


def test_folders_of_another_command(run: Run, base: Path, fitted: Callable[[str], Path]) -> None:
    fit = fitted("sparse")
    one_line(run("eval", base), "written by `simplicit baseline`, expected one of `simplicit fit`")
    one_line(run("report", base, "--output", "r"), "a report is made of folders of `simplicit fit`")
    one_line(run("fit", fit, "--output", "f"), "written by `simplicit fit`; a folder of `simplicit baseline` is needed")
    one_line(run("fit", base, "--output", base, "--overwrite"), "which this run reads; choose another --output")
    assert files() == []


NORMED = """
from torch import nn
def make():
    return nn.Sequential(nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 10))
def wider():
    return nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))
def deeper():
    return nn.Sequential(nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 10), nn.Linear(10, 10))
"""


@pytest.fixture
def normed(tmp_path: Path) -> str:
    """The name of a module whose network has a batch norm, with weights of some steps of training beside it."""
    name = f"normed_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(NORMED)
    net = nn.Sequential(nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 10))
    optimiser = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(torch.from_numpy(X)), torch.from_numpy(Y)).backward()
        optimiser.step()
    torch.save(net.state_dict(), tmp_path / "w.pt")
    return name


def test_inputs_that_are_not_those_of_the_batch_norm(run: Run, normed: str) -> None:
    own = ("fit", "--model", f"{normed}:make", "--weights", "w.pt", "--samples", 60, "--sparsity", 50)
    np.savez("d.npz", **arrays(X, Y))
    np.savez("pixels.npz", **arrays(255 * X, Y))
    code, out, _ = run(*own, "--data", "d.npz", "--output", "f")
    assert (code, "Note:" in out) == (0, False)
    code, out, err = run(*own, "--data", "pixels.npz", "--output", "g")
    told = "inputs from 0 to 255 reach the network's first batch norm "
    assert told in out + err
    one_line(run("eval", "f", "--data", "pixels.npz"), "f was made on values from 0 to 1; bring them")


def test_weights_of_another_network(run: Run, normed: str) -> None:
    words = ("--weights", "w.pt", "--data", "digits", "--output", "f")
    one_line(
        run("fit", "--model", f"{normed}:wider", *words), "w.pt: 0.weight has shape (12, 64), the network (16, 64)"
    )
    one_line(
        run("fit", "--model", f"{normed}:deeper", *words), "not the weights of this network, misses 4.bias, 4.weight"
    )


def test_a_baseline_that_was_trained_again(run: Run) -> None:
    words = ("baseline", "--arch", 8, "--epochs", 1, "--output", "b")
    assert run(*words)[0] == 0
    assert run("fit", "b", "--samples", 60, "--output", "f")[0] == 0
    assert run(*words, "--seed", 1, "--overwrite")[0] == 0
    told = "changed since that run (of 4 tensors 0.weight, 0.bias, 2.weight and 1 more)"
    one_line(run("eval", "f"), told, "name another one explicitly")
    one_line(run("fit", "--config", "f", "--output", "g"), told)


def test_data_that_was_saved_again(run: Run, base: Path) -> None:
    np.savez("d.npz", **arrays(X, Y))
    assert run("fit", base, "--data", "d.npz", "--samples", 60, "--output", "f")[0] == 0
    np.savez("d.npz", **arrays(X[:300], Y[:300]))
    one_line(run("eval", "f"), "d.npz changed since that run (train_samples 3", ", now 2", "restore the data")
