"""The adapter to AutoAttack: on every kind of victim, in the box, repeatable, and without traces."""

from __future__ import annotations

import builtins
import logging
import sys
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from simplicit.errors import InputError, MissingExtraError
from simplicit.robustness import accuracy, autoattack, pgd
from victims import P, data, layered, model_of


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["triangular", "full"])
def test_it_is_about_as_strong_as_pgd_and_keeps_to_the_box(kind: str) -> None:
    model = model_of(kind, dtype=np.float64)
    U, labels = data(model, 12 if kind == "triangular" else 5)
    eps = 0.06 if kind == "triangular" else 0.5  # samples that hold would take all queries
    attacked = autoattack(model, U, labels, eps)
    assert attacked.dtype == np.float64
    assert attacked.min() >= 0.0
    assert attacked.max() <= 1.0
    for u, moved in zip(U.ravel().tolist(), attacked.ravel().tolist(), strict=True):
        assert abs(Fraction(moved) - Fraction(u)) <= Fraction(eps)
    held = model.predict(attacked).argmax(axis=1) == labels
    assert_array_equal(attacked[held], U[held])
    assert (
        held.mean()
        <= accuracy(model, pgd(model, U, labels, eps, steps=50, restarts=5), labels) + 1 / len(labels) + 1e-9
    )
    assert held.mean() < 1.0


@pytest.mark.parametrize("classes", [3, *(pytest.param(k, marks=pytest.mark.slow) for k in (2, 4, 7, 10))])
def test_any_number_of_classes(classes: int) -> None:
    model = layered((7, 8, classes), seed=classes)
    U, labels = data(model, 10)
    attacked = autoattack(model, U, labels, 0.2, seed=3)
    assert accuracy(model, attacked, labels) < 1.0


@pytest.mark.slow
def test_it_leaves_no_traces_and_repeats() -> None:
    model = layered((9, 8, 3), seed=1)
    U, labels = data(model, 12)
    logger = logging.getLogger("auto-attack")
    state, trace, disabled = torch.random.get_rng_state(), sys.gettrace(), logger.disabled
    first = autoattack(model, U, labels, 0.1, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert sys.gettrace() is trace
    assert logger.disabled == disabled
    torch.manual_seed(8)
    assert_array_equal(first, autoattack(model, U, labels, 0.1, seed=1))


def test_inputs_of_any_range_and_form() -> None:
    torch.manual_seed(1)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3)).eval()
    U = 10.0 * torch.rand(15, 1, 4, 4) - 5.0
    labels = net(U).argmax(dim=1)
    attacked = autoattack(net, U, labels, 2.0, clip=(-5.0, 5.0))
    free = autoattack(net, U, labels, 2.0, clip=None)
    assert attacked.shape == U.shape
    assert attacked.abs().max() <= 5.0
    assert (attacked - U).abs().max() > 1.0
    assert (free - U).abs().max() <= 2.0
    assert accuracy(net, free, labels) <= accuracy(net, attacked, labels) < 1.0


def test_nothing_to_do() -> None:
    model = layered((9, 8, 3), seed=1)
    U, labels = data(model, 5)
    assert_array_equal(autoattack(model, U, labels, 0.0), U)
    wrong = (labels + 1) % 3
    assert_array_equal(autoattack(model, U, wrong, 0.1), U)


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "pyautoattack":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"pip install 'simplicit\[attacks\]'"):
        autoattack(model_of("full"), np.full((1, P), 0.5), [0], 0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 2**63}, r"seed must be an integer in \[0, 2\*\*63\)"),
        ({"image_shape": (5, 5)}, "has 25 entries, a sample has 12"),
        ({"eps": 2.0}, "wider than the range"),
    ],
)
def test_bad_input(changes: dict[str, object], message: str) -> None:
    arguments = {"U": np.full((2, P), 0.5), "labels": [0, 1], "eps": 0.1} | changes
    with pytest.raises(InputError, match=message):
        autoattack(model_of("triangular"), **arguments)
