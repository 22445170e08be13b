"""The attack that sees outputs only: in its box, on ends of it, and as strong as more queries allow."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from simplicit.errors import InputError
from simplicit.implicit import ImplicitModel
from simplicit.robustness import accuracy, square
from victims import P, data, layered, model_of


@pytest.mark.parametrize("shape", [None, (12,), (3, 4), (3, 2, 2)])
def test_points_are_in_the_box_and_on_its_ends(shape: tuple[int, ...] | None) -> None:
    model = model_of("triangular", dtype=np.float32)
    U, labels = data(model, 40)
    attacked = square(model, U, labels, 8 / 255, queries=40, image_shape=shape)
    assert attacked.dtype == np.float32
    for u, moved in zip(U.ravel().tolist(), attacked.ravel().tolist(), strict=True):
        assert abs(Fraction(moved) - Fraction(u)) <= Fraction(8 / 255)
    assert attacked.min() >= 0.0
    assert attacked.max() <= 1.0
    moved = np.abs(attacked - U)
    lower, upper = np.minimum(U, np.float32(8 / 255)), np.minimum(1 - U, np.float32(8 / 255))
    assert (np.minimum(np.abs(moved - lower), np.abs(moved - upper)) < 1e-6).all()


@pytest.mark.slow
def test_more_queries_break_more() -> None:
    model = model_of("full", "tanh")
    U, labels = data(model, 300)
    shares = [accuracy(model, square(model, U, labels, 0.1, queries=queries), labels) for queries in (1, 20, 400)]
    assert shares[0] > shares[1] > shares[2]


def test_it_needs_no_gradient() -> None:
    # Rounded inputs have no gradient; the classes still change.
    inner = layered((12, 8, 4), seed=2)
    U, labels = data(inner, 200)

    class Rounded(torch.nn.Module):
        def forward(self, points: torch.Tensor) -> torch.Tensor:
            return torch.as_tensor(inner.predict((points * 50).round() / 50))

    net = Rounded()
    labels = net(torch.from_numpy(U)).argmax(dim=1)
    assert accuracy(net, square(net, torch.from_numpy(U), labels, 0.2, queries=200), labels) < 0.9


def test_it_finds_the_corner_of_a_linear_model() -> None:
    rng = np.random.default_rng(0)
    W = np.stack([rng.normal(size=6), np.zeros(6)])
    model = ImplicitModel.from_matrices(
        np.zeros((0, 0)), np.zeros((0, 6)), np.zeros((2, 0)), W, output_bias=[10.0, 0.0]
    )
    attacked = square(model, np.full((5, 6), 0.5), np.zeros(5, int), 0.1, queries=500)
    np.testing.assert_allclose(attacked, 0.5 - 0.1 * np.sign(W[[0] * 5]), atol=1e-12)


def test_seeds() -> None:
    model = model_of("triangular")
    U, labels = data(model)
    first = square(model, U, labels, 0.05, queries=30, seed=1)
    torch.manual_seed(5)
    assert_array_equal(first, square(model, U, labels, 0.05, queries=30, seed=1))
    assert (first != square(model, U, labels, 0.05, queries=30, seed=2)).any()
    assert_array_equal(square(model, U, labels, 0.0, queries=5), U)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"queries": 0}, "queries must be an integer of at least 1"),
        ({"image_shape": (5, 5)}, r"image_shape = \(5, 5\) has 25 entries, a sample has 12"),
        ({"image_shape": (0, 12)}, "each entry of image_shape"),
        ({"seed": -1}, "seed must be an integer"),
        ({"eps": -1.0}, "eps must be a finite number"),
    ],
)
def test_bad_input(changes: dict[str, object], message: str) -> None:
    arguments = {"U": np.full((2, P), 0.5), "labels": [0, 1], "eps": 0.1, "queries": 5} | changes
    with pytest.raises(InputError, match=message):
        square(model_of("triangular"), **arguments)
