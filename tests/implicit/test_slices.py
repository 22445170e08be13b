"""Gathers along strides of arrays are those by an index."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from torch import nn
from torch.nn import functional

import simplicit as sp
from simplicit.implicit import GatherMap
from simplicit.implicit.maps.slices import slices

PLACES = np.arange(4 * 6 * 8).reshape(4, 6, 8)
MOVES: dict[str, tuple[Callable[[Any], Any], int]] = {
    "slice": (lambda a: a[1:3, ::2, 1:], 1),
    "permuted": (lambda a: a.transpose(2, 0, 1), 1),
    "repeated": (lambda a: np.broadcast_to(a[:, None], (4, 3, 6, 8)), 1),
    "padded": (lambda a: np.pad(a, ((0, 0), (1, 1), (0, 2)), constant_values=-1), 1),
    "windows over an edge": (lambda a: a[:, [0, *range(1, 6, 2)]][:, :, [0, *range(1, 8, 2)]], 4),
    "flipped": (lambda a: a[:, :, ::-1], 0),
    "shuffled": (lambda a: np.random.default_rng(0).permutation(a.ravel()), 0),
}


@pytest.mark.parametrize("factors", [None, -2.0, "each"])
@pytest.mark.parametrize("name", MOVES)
def test_moves(name: str, factors: Any) -> None:
    move, count = MOVES[name]
    columns = np.ascontiguousarray(move(PLACES)).ravel()
    given = None
    if factors is not None:
        given = (
            np.random.default_rng(1).normal(size=columns.size) if factors == "each" else np.full(columns.size, factors)
        )
    gather = GatherMap(columns, PLACES.size, given)
    rows = np.flatnonzero(columns >= 0)
    assert len(slices(rows, columns[rows])) == count
    matrix, rng = gather.to_csr().toarray(), np.random.default_rng(2)
    x, y = rng.normal(size=(2, PLACES.size)), rng.normal(size=(2, columns.size))
    for view in (torch.from_numpy(x), torch.from_numpy(np.asfortranarray(x))):
        assert_allclose(gather.apply(view), x @ matrix.T, atol=1e-14)
        sums = torch.from_numpy(y.copy())
        gather.add_to_(sums, view)
        assert_allclose(sums, y + x @ matrix.T, atol=1e-14)
    assert_allclose(gather.apply_transpose(torch.from_numpy(y)), y @ matrix, atol=1e-13)


@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(*[st.integers(1, 4)] * 4),
    order=st.permutations(range(4)),
    steps=st.tuples(*[st.integers(1, 3)] * 4),
    pad=st.integers(0, 1),
)
def test_every_slice_is_found(shape: Any, order: Any, steps: Any, pad: int) -> None:
    places = np.arange(np.prod(shape)).reshape(shape).transpose(order)
    moved = places[tuple(slice(None, None, step) for step in steps)]
    columns = np.pad(moved, pad, constant_values=-1).ravel()
    gather = GatherMap(columns, places.size)
    assert gather.is_sliced
    x = np.random.default_rng(0).normal(size=(2, places.size))
    assert_allclose(gather.apply(torch.from_numpy(x)), x @ gather.to_csr().toarray().T, atol=0)


class Dense(nn.Module):
    """What was made so far is joined, normalised and read again, as in DenseNet, in another order the second time."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(5, 2, 1), nn.Conv2d(7, 2, 1)
        self.norm, self.other = nn.BatchNorm2d(5), nn.BatchNorm2d(7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = functional.relu(self.a(x))
        second = functional.relu(self.b(functional.relu(self.norm(torch.cat([x, first], 1)))))
        out: torch.Tensor = self.c(functional.relu(self.other(torch.cat([second, first, x], 1)))).flatten(1)
        return out


def test_what_stands_side_by_side_is_joined_at_once() -> None:
    torch.manual_seed(0)
    net, x = Dense().double(), torch.randn(5, 2, 4, 4, dtype=torch.float64)
    net(x)  # gives the norms statistics
    for norm in (net.norm, net.other):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    model = sp.from_torch(net.eval(), x)
    assert model._stream is not None
    steps = model._stream._steps
    assert sum(step.joined is not None and len(step.joined.runs) > 1 for step in steps) == 2
    with torch.no_grad():
        assert_allclose(model.predict(x.numpy()), net(x).numpy(), rtol=0, atol=1e-12)
