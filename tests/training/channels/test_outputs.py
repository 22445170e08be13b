"""Values of all layers together: F, its gradient, its steps, and the rows that it makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import simplicit as sp
from simplicit.network.graph import capture_graph
from simplicit.rows import Solution
from simplicit.training.channels import ChannelProvider
from simplicit.training.channels import outputs as module
from simplicit.training.channels.layers import ChannelLayer
from simplicit.training.channels.outputs import Outputs
from simplicit.training.channels.provider import Together
from simplicit.training.judgement import certified
from simplicit.training.problem import LeastSquares, Ridge, Rows
from tied_nets import NETS, subject


class Everything(nn.Module):
    """A norm behind a convolution, tokens, one weight with two uses, a layer without a constant, parts of a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.both, self.twice = nn.Linear(4, 8), nn.Linear(4, 4)
        self.head = nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x))).flatten(2).transpose(1, 2)
        one, other = self.both(x).chunk(2, -1)
        x = x + torch.tanh(one) * other
        x = x + torch.tanh(self.twice(torch.tanh(self.twice(x))))
        result: Tensor = self.head(x.mean(1))
        return result


@cache
def together() -> Together:
    """Of a network with every other weight gone."""
    torch.manual_seed(0)
    net, x = Everything().double().train(), torch.randn(40, 1, 5, 5, dtype=torch.float64)
    net(x)
    graph = capture_graph(net.eval(), x)
    provider = ChannelProvider.of(graph, x, workers=1, passes=4)
    problems: dict[str, list[LeastSquares]] = {}
    values: dict[str, Any] = {}

    def fit(layer: ChannelLayer, groups: Sequence[Rows]) -> list[Solution]:
        masks = [(np.add.outer(*map(np.arange, rows.support.shape)) % 2) == 0 for rows in groups]
        pairs = zip(groups, masks, strict=True)
        problems[layer.name] = [replace(rows, support=mask).least_squares(Ridge(0.01, 1.0)) for rows, mask in pairs]
        values[layer.name] = np.stack([problem.minimiser() for problem in problems[layer.name]])
        return [certified(one, one.minimiser(), 0.1, 1e-6) for one in problems[layer.name]]

    return provider.together(provider.sweep(fit), problems, values)


def loss_at(outputs: Outputs, step: Any) -> float:
    """F after a step, from the definition."""
    student = outputs._outputs({**outputs.graph.constants, **outputs.constants(step)})
    baseline = outputs._outputs(outputs.graph.constants)
    total = sum(float((a - b).square().sum()) for a, b in zip(student, baseline, strict=True))
    for block, (delta, means) in zip(outputs.blocks, outputs.split(step), strict=True):
        by = block.sensitivities.reshape(means.shape)
        for g, problem in enumerate(block.problems):
            total += float(by[g] @ np.einsum("ij,jk,ik->i", delta[g], problem.gram, delta[g]))
            total += float(by[g] @ (block.mass[g] * means[g] ** 2))
    return total


def some_step(outputs: Outputs) -> Any:
    """A step on the supports, with means where a constant is free."""
    drawn = np.random.default_rng(1).normal(size=sum(block.size for block in outputs.blocks))
    return 0.1 * outputs._each("solved", outputs._each("weighed", drawn))


def test_the_gradient_is_that_of_the_objective() -> None:
    outputs = together().outputs
    step = some_step(outputs)
    way = outputs._each("solved", outputs._each("weighed", np.cos(np.arange(len(step)))))
    targets = outputs._outputs(outputs.graph.constants)
    gradient = outputs._differentiated(step, targets)[1]
    h = 1e-5
    slope = (loss_at(outputs, step + h * way) - loss_at(outputs, step - h * way)) / (2 * h)
    assert 2 * float(gradient @ way) == pytest.approx(slope, rel=1e-6)


def test_the_preconditioner_is_the_inverse_on_the_supports(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = together().outputs
    step = some_step(outputs)
    assert outputs._each("solved", outputs._each("weighed", step)) == pytest.approx(step, abs=1e-9)
    monkeypatch.setattr(module, "FACTORS", 0)
    fewer = replace(outputs, blocks=[replace(block) for block in outputs.blocks])
    _, losses = fewer.fitted(3)
    assert losses[-1] < losses[0]
    assert losses == sorted(losses, reverse=True)


def test_a_fit_never_raises_its_objective_and_keeps_supports() -> None:
    outputs = together().outputs
    step, losses = outputs.fitted(4)
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.8 * losses[0]
    assert loss_at(outputs, step) == pytest.approx(losses[-1], rel=1e-9)
    assert loss_at(outputs, 0 * step) == pytest.approx(losses[0], rel=1e-9)
    for block, (delta, _) in zip(outputs.blocks, outputs.split(step), strict=True):
        assert not delta[block.values == 0].any()


def test_rows_are_least_squares_on_targets_that_were_moved() -> None:
    found = together()
    for name, problems in found.problems.items():
        minimisers = np.stack([problem.minimiser() for problem in problems])
        assert minimisers == pytest.approx(found.values[name], abs=1e-9)
    student = found.with_values(found.values)
    assert student.errors.keys() == found.student.errors.keys()
    assert not torch.equal(student.changed["p_twice_weight"], found.student.changed["p_twice_weight"])


def test_no_pass_changes_nothing() -> None:
    outputs = together().outputs
    step, losses = outputs.fitted(0)
    assert not step.any()
    assert len(losses) == 1


def fitted(net: nn.Module, inputs: Tensor, **options: Any) -> tuple[sp.FitResult, float]:
    """A fit, and the squared error of its outputs on its samples."""
    torch.manual_seed(0)
    result = sp.fit(
        net, inputs, sp.Sparse(passes=options.pop("passes"), pattern=options.pop("pattern", None)), **options
    )
    with torch.no_grad():
        return result, float((result.network()(inputs) - net(inputs)).square().sum())


def test_a_fit_with_passes_is_closer_to_the_outputs_and_proved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8), nn.GELU(), nn.Linear(8, 3)).eval()
    inputs = torch.randn(80, 5, 8)
    before, error = fitted(net, inputs, passes=0, pattern="2:4")
    (after, less), (again, _) = (
        fitted(net, inputs, passes=4, pattern="2:4", journal=tmp_path / "journal") for _ in range(2)
    )
    assert less < 0.9 * error
    assert after.rows.converged.all()
    assert after.nnz == before.nnz
    assert [one.violations for one in after.in_pattern()] == [0, 0, 0]
    pairs = zip(again.network().parameters(), after.network().parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    for a, b in zip(before.network().parameters(), after.network().parameters(), strict=True):
        assert torch.equal(a != 0, b != 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_every_kind_of_network(name: str) -> None:
    before, after = (subject(name).fit(sp.Sparse(60, passes=passes)) for passes in (0, 2))
    assert after.nnz == before.nnz
    assert after.rows.converged.all()


@pytest.mark.parametrize("passes", [-1, 1.5, "two", True])
def test_passes_are_a_number_of_them(passes: Any) -> None:
    with pytest.raises(sp.InputError, match="passes"):
        sp.Sparse(80, passes=passes)


def test_passes_are_for_layers() -> None:
    with pytest.raises(sp.InputError, match="structure='baseline'"):
        sp.Sparse(80, passes=2, structure="dense")
