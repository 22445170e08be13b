"""N:M patterns of cells: over the inputs of each weight, whatever columns of M they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import simplicit as sp
from simplicit.training.states.patterns import groups_in
from simplicit.training.support.pattern import Pattern


class Dense(nn.Module):
    """x = tanh(W x + U u), with inputs that 4 does not divide."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.u = nn.Linear(10, 10), nn.Linear(6, 10, bias=False)
        with torch.no_grad():
            self.w.weight.mul_(0.9 / self.w.weight.abs().sum(1).max())

    def forward(self, x: Tensor, u: Tensor) -> Tensor:
        return torch.tanh(self.w(x) + self.u(u))


class Tied(nn.Module):
    """x = relu(W * x + U * u), of convolutions; U has two channels."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.u = nn.Conv2d(5, 5, 3, padding=1), nn.Conv2d(2, 5, 3, padding=1, bias=False)
        with torch.no_grad():
            self.w.weight.mul_(0.9 / self.w.weight.abs().sum((1, 2, 3)).max())

    def forward(self, x: Tensor, u: Tensor) -> Tensor:
        return torch.relu(self.w(x) + self.u(u))


def fitted(cell: nn.Module, state: tuple[int, ...], inputs: tuple[int, ...], recipe: sp.Sparse) -> sp.FitResult:
    torch.manual_seed(0)
    model = sp.from_cell(cell.double().eval(), torch.zeros(1, *state).double(), torch.rand(1, *inputs).double())
    result = sp.fit(model, torch.rand(30, *inputs).double(), recipe, executor="serial")
    assert all(one.groups > 0 and one.violations == 0 for one in result.in_pattern())
    assert "consecutive inputs of each weight" in result.summary()
    return result


def test_every_weight_of_a_cell_is_in_the_pattern() -> None:
    torch.manual_seed(0)
    result = fitted(Dense(), (10,), (6,), sp.Sparse(pattern="2:4"))
    net: Any = result.network()
    for weight in (net.w.weight, net.u.weight):
        whole = weight.shape[1] // 4 * 4
        assert int((weight[:, :whole] != 0).unflatten(1, (-1, 4)).sum(2).max()) <= 2
        assert int((weight[:, whole:] != 0).sum(1).max()) <= 1
    assert int((net.u.weight[:, :4] != 0).sum(1).min()) == 2  # which is under no ball


def test_kernels_of_a_cell_have_it_over_their_channels() -> None:
    torch.manual_seed(0)
    net: Any = fitted(Tied(), (5, 3, 3), (2, 3, 3), sp.Sparse(pattern="1:4")).network()
    assert set((net.w.weight[:, :4] != 0).sum(1).flatten().tolist()) == {1}
    assert bool((net.u.weight != 0).all())  # fewer channels than 4
    fitted(Tied(), (5, 3, 3), (2, 3, 3), sp.Sparse(85, pattern="1:4"))


def test_consecutive_are_the_inputs_of_a_weight_however_it_lies() -> None:
    # W (2, 4), row 1; V (4, 3), column 2, the other way round; both in other columns of M.
    row = [8, 7, 6, 5, 11, 14, 17, 20, 0]
    groups = groups_in(Pattern(1, 2), np.array([row]), [(2, 4), (4, 3)])
    found = {tuple(sorted(slot for slot in one if slot < 9)) for one in groups.slots[0].tolist()}
    assert found == {(0, 1), (2, 3), (4, 5), (6, 7), (8,)}
    assert groups.capacity(np.ones((1, 9), dtype=bool)).tolist() == [5]
