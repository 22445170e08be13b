"""What fit refuses of networks and of inputs that no one reads operation by operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import simplicit as sp
from mixed import IDS, captured, mixed, samples
from simplicit.errors import InputError, UnsupportedOperationError


class Of(nn.Module):
    """A linear layer, and something else with it."""

    def __init__(self, function: Callable[[nn.Linear, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.function = nn.Linear(4, 3), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.layer, x)


U = torch.rand(6, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("function", "operation"),
    [
        (lambda layer, x: layer(functional.dropout(x, 0.5)), "dropout"),
        (lambda layer, x: layer(x + torch.randn_like(x)), "randn_like"),
        (lambda layer, x: layer(x) * torch.rand(3), "rand"),
        (lambda layer, x: functional.gumbel_softmax(layer(x)), "exponential"),
    ],
)
def test_random_networks_are_named_by_their_operation(function: Any, operation: str) -> None:
    told = rf"operation '{operation}' \(.*it is random also in evaluation mode"
    with pytest.raises(UnsupportedOperationError, match=told):
        sp.fit(Of(function).eval(), U, sp.Sparse(50))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda layer, x: layer(x - x.mean(0)), "net: it mixes the samples of a batch"),
        (lambda layer, x: functional.batch_norm(layer(x), None, None, training=True), "net: it mixes the samples"),
        (lambda layer, x: (-1.0 - layer(x).abs()).log(), "net: it returns NaN for the first samples"),
    ],
)
def test_what_is_no_function_of_a_sample(function: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        sp.fit(Of(function).eval(), U, sp.Sparse(50))


@pytest.mark.slow
def test_ids_that_are_in_no_table() -> None:
    told = r"an input holds a number that the network cannot look up \(index out of range in self\); token ids"
    for ids in (IDS, -1):
        given = samples(4)
        given["ids"][2, 1] = ids  # not among the first two samples, with which the network is traced
        with pytest.raises(InputError, match=told):
            captured().predict(given)
    with pytest.raises(InputError, match=told):
        sp.fit(mixed(), given, sp.Sparse(50))
    with pytest.raises(InputError, match=told):
        sp.extract_states(mixed(), given)


def test_sequences_of_several_lengths() -> None:
    loader = [samples(4), samples(4) | {"ids": torch.zeros(4, 7, dtype=torch.int64)}]
    told = r"inputs must hold samples of one shape, got \(5,\) and \(7,\); pad or cut samples to one length"
    with pytest.raises(InputError, match=told):
        sp.fit(mixed(), iter(loader), sp.Sparse(50))
