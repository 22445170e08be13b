"""Rows of every way to multiply by a weight, against least squares on the columns that unit weights give."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import simplicit as sp
from simplicit.network.graph import NetworkGraph, capture_graph
from simplicit.training.channels import ChannelProvider, channel_layers
from simplicit.training.channels.layers import ChannelLayer
from simplicit.training.channels.moments import sums_of
from simplicit.training.channels.samples import batches_of
from simplicit.training.channels.statistics import Gathering, Statistics
from simplicit.training.channels.walk import Walk

#: From input and weight to result.
Product = Callable[[Tensor, Tensor], Tensor]


def conv1d_of_gpt(x: Tensor, w: Tensor) -> Tensor:
    bias = torch.zeros(w.shape[1], dtype=w.dtype)
    return torch.addmm(bias, x.reshape(-1, x.shape[-1]), w).reshape(*x.shape[:-1], -1)


FORMS: dict[str, tuple[Product, tuple[int, ...], tuple[int, ...]]] = {
    "linear": (functional.linear, (5, 4), (3, 4)),
    "linear of a turned weight": (lambda x, w: functional.linear(x, w.t()), (5, 4), (4, 3)),
    "product": (lambda x, w: x @ w, (5, 4), (4, 3)),
    "addmm": (conv1d_of_gpt, (5, 4), (4, 3)),
    "mm": (lambda x, w: torch.mm(x.flatten(0, 1), w.transpose(0, 1)), (5, 4), (3, 4)),
    "product from the left": (lambda x, w: w @ x, (5, 4), (3, 5)),
    "product of groups": (lambda x, w: x @ w, (2, 5, 4), (2, 4, 3)),
    "product of groups from the left": (lambda x, w: w @ x, (2, 5, 4), (2, 3, 5)),
    "einsum": (lambda x, w: torch.einsum("btd,rd->brt", x, w), (5, 4), (3, 4)),
    "einsum with heads": (lambda x, w: torch.einsum("btd,dhk->bhtk", x, w), (5, 4), (4, 2, 3)),
    "einsum of heads": (lambda x, w: torch.einsum("hkd,bthk->btd", w, x), (5, 2, 3), (2, 3, 4)),
    "einsum in groups": (lambda x, w: torch.einsum("...gd,gdr->...gr", x, w), (5, 2, 4), (2, 4, 3)),
    "convolution": (lambda x, w: functional.conv1d(x, w, padding=1), (4, 6), (3, 4, 3)),
    "convolution of a turned kernel": (lambda x, w: functional.conv1d(x, w.transpose(0, 1)), (4, 6), (4, 3, 3)),
    "transposed": (lambda x, w: functional.conv_transpose1d(x, w), (4, 6), (4, 3, 3)),
    "transposed, with all there is": (
        lambda x, w: functional.conv_transpose2d(
            x, w, stride=(2, 3), padding=(1, 2), output_padding=(1, 0), groups=2, dilation=(2, 1)
        ),
        (4, 4, 3),
        (4, 3, 3, 2),
    ),
}


class After(nn.Module):
    """A map of every value, and a product."""

    def __init__(self, product: Product, weight: tuple[int, ...]) -> None:
        super().__init__()
        self.product, self.scale, self.weight = product, nn.Parameter(torch.ones(1)), nn.Parameter(torch.randn(weight))

    def forward(self, x: Tensor) -> Tensor:
        return self.product(torch.tanh(self.scale * x), self.weight).reshape(x.shape[0], -1)


def captured(net: nn.Module, *shape: int, m: int = 11) -> tuple[nn.Module, Tensor, NetworkGraph]:
    net, x = net.double().eval(), torch.randn(m, *shape, dtype=torch.float64)
    return net, x, capture_graph(net, x)


def gathered(
    graph: NetworkGraph, x: Tensor, changed: dict[str, Tensor], **options: Any
) -> tuple[ChannelLayer, Statistics]:
    """The last layer, and its statistics on a student with other constants."""
    walk, layer = Walk(graph, batches_of(x, 4)), channel_layers(graph)[-1]
    walk.change(changed)
    return layer, Gathering(walk, layer, **options).statistics()


def solved(layer: ChannelLayer, statistics: Statistics, like: Tensor) -> Tensor:
    """The weight of least squares by the sums."""
    rows = []
    for group in range(layer.groups):
        sums = sums_of(statistics, group, constant=False)
        rows.append(np.linalg.solve(sums.gram, sums.cross.T).T)
    return layer.changed(torch.from_numpy(np.stack(rows)), like)[layer.weight]


def brute(product: Product, x: Tensor, z: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The weight of least squares, from the results of unit weights."""
    size = int(torch.Size(shape).numel())
    columns = [product(x, unit.reshape(shape)).flatten() for unit in torch.eye(size, dtype=x.dtype)]
    return torch.linalg.lstsq(torch.stack(columns, 1), z.flatten()[:, None]).solution.reshape(shape)


@pytest.mark.parametrize("name", FORMS)
def test_rows_are_those_of_least_squares(name: str) -> None:
    product, shape, weight = FORMS[name]
    torch.manual_seed(0)
    net, x, graph = captured(After(product, weight), *shape)
    assert isinstance(net, After)
    (layer,) = channel_layers(graph)
    assert (layer.size, layer.name) == (net.weight.numel(), "weight")
    scale = next(one for one, value in graph.constants.items() if value.numel() == 1)
    found = solved(*gathered(graph, x, {scale: torch.full((1,), 0.6).double()}), net.weight)
    with torch.no_grad():
        z = product(torch.tanh(x), net.weight)
        wanted = brute(product, torch.tanh(0.6 * x), z, weight)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_fitted_to_the_weight(name: str) -> None:
    product, shape, weight = FORMS[name]
    torch.manual_seed(0)
    net, x, _ = captured(After(product, weight), *shape, m=30)
    result = sp.fit(net, x, sp.Sparse(50), executor="serial")
    new = result.network()
    assert isinstance(new, After)
    assert int(new.weight.count_nonzero()) == result.nnz == int(0.5 * new.weight.numel() + 1e-9)
    assert result.rows.converged.all()


class Repeated(nn.Module):
    """One layer three times, another between its uses, and a last one."""

    def __init__(self, size: int = 5, *, bias: bool = True) -> None:
        super().__init__()
        self.same, self.other = nn.Linear(size, size, bias=bias), nn.Linear(size, size)
        self.scale, self.last = nn.Parameter(torch.ones(1)), nn.Linear(size, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.same(self.scale * x))
        x = torch.tanh(self.same(torch.tanh(self.other(x))))
        result: Tensor = self.last(torch.tanh(self.same(x)))
        return result


def test_a_weight_of_many_uses_is_one_problem_over_all_of_them() -> None:
    torch.manual_seed(0)
    net, x, graph = captured(Repeated(), 5, m=40)
    assert isinstance(net, Repeated)
    assert [layer.name for layer in channel_layers(graph)] == ["other", "same", "last"]
    assert [len(layer.uses) for layer in channel_layers(graph)] == [1, 3, 1]

    def rows_of(one: nn.Module) -> dict[str, list[tuple[Tensor, Tensor]]]:
        """Inputs and results of all layers, as hooks see them."""
        found: dict[str, list[tuple[Tensor, Tensor]]] = {}
        handles = [
            layer.register_forward_hook(lambda _, a, z, name=name: found.setdefault(name, []).append((a[0], z)))
            for name, layer in one.named_children()
        ]
        with torch.no_grad():
            one(x)
        for handle in handles:
            handle.remove()
        return found

    baseline, student = rows_of(net), Repeated().double()
    student.load_state_dict(net.state_dict())
    provider = ChannelProvider.of(graph, x, workers=1, weighted=False)

    def fit(layer: ChannelLayer, groups: Any) -> Any:
        """Least squares on the hooks' values, with a constant; the sums must be the same."""
        now = rows_of(student)[layer.name]
        Phi = torch.cat([inputs for inputs, _ in now])
        T = torch.cat([z for _, z in baseline[layer.name]]) - net.get_submodule(layer.name).bias
        Phi, T = Phi - Phi.mean(0), T - T.mean(0)
        np.testing.assert_allclose(groups[0].data.gram, (Phi.T @ Phi).numpy(), rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(groups[0].data.cross, (T.T @ Phi).detach().numpy(), rtol=1e-7, atol=1e-9)
        new = 0.9 * torch.linalg.lstsq(Phi, T).solution.T  # anything else than the baseline
        own = student.get_submodule(layer.name)
        with torch.no_grad():
            shift = (
                torch.cat([z for _, z in baseline[layer.name]]).mean(0) - torch.cat([a for a, _ in now]).mean(0) @ new.T
            )
            own.weight.copy_(new)  # type: ignore[operator, union-attr]
            own.bias.copy_(shift)  # type: ignore[operator, union-attr]
        return [_Found(new.detach().numpy())]

    found = provider.sweep(fit)
    with torch.no_grad():
        torch.testing.assert_close(found.network()(x), student(x), rtol=1e-7, atol=1e-9)
    after, before = rows_of(student)["same"], baseline["same"]
    error = sum(float((a - b).square().sum()) for (_, a), (_, b) in zip(after, before, strict=True))
    assert found.errors["same"] == pytest.approx(error / sum(float(b.square().sum()) for _, b in before))


class _Found:
    """What of a solution a sweep reads."""

    def __init__(self, weights: np.ndarray[Any, Any]) -> None:
        self.coefficients = self
        self._weights = weights

    def toarray(self) -> np.ndarray[Any, Any]:
        return self._weights


def test_a_recurrent_cell_is_fitted_over_its_steps() -> None:
    class Cell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer, self.head = nn.Linear(6, 6), nn.Linear(3, 6, bias=False), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.tanh(self.outer(x[:, 0]))
            for step in range(1, 5):
                h = torch.tanh(self.inner(h) + self.outer(x[:, step]))
            result: Tensor = self.head(h)
            return result

    torch.manual_seed(0)
    net, x, _ = captured(Cell(), 5, 3, m=200)
    result = sp.fit(net, x, sp.Sparse(40), executor="serial")
    assert {layer.name: layer.weights for layer in result.layers} == {"inner": 36, "outer": 18, "head": 12}
    with torch.no_grad():
        error = (result.network()(x) - net(x)).square().sum() / (net(x) - net(x).mean(0)).square().sum()
    assert error < 0.2


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_recurrent_layer_is_fitted_over_its_steps(kind: type[nn.RNNBase]) -> None:
    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = kind(3, 6, batch_first=True), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.head(self.layer(x)[0][:, -1])
            return result

    torch.manual_seed(0)
    net, x, _ = captured(Classifier(), 5, 3, m=200)
    result = sp.fit(net, x, sp.Sparse(50), executor="serial")
    assert [layer.name for layer in result.layers] == ["layer.weight_ih_l0", "layer.weight_hh_l0", "head"]
    fitted = result.network()
    assert type(fitted) is Classifier
    weights = [p for p in fitted.parameters() if p.ndim == 2]
    assert sum(int((weight == 0).sum()) for weight in weights) == result.weight_count // 2
    assert (fitted.layer.weight_hh_l0 == 0).any()  # type: ignore[union-attr]
    pruned = magnitude_pruned(net, fitted)
    with torch.no_grad():
        ours, theirs = (float((other(x) - net(x)).square().sum()) for other in (fitted, pruned))
    assert ours < theirs / 10


def magnitude_pruned(net: nn.Module, like: nn.Module) -> nn.Module:
    """The network without the smallest numbers of each weight, as many as are zero in another."""
    pruned = copy.deepcopy(net)
    with torch.no_grad():
        for weight, other in zip(pruned.parameters(), like.parameters(), strict=True):
            smallest = weight.abs().flatten().argsort()[: int((other == 0).sum())]
            weight.view(-1)[smallest] = 0.0
    return pruned


def test_a_weight_whose_rows_are_columns_elsewhere_is_left_alone() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.code, self.out = nn.Linear(6, 4, bias=False), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.out(functional.linear(torch.relu(self.code(x)), self.code.weight.t()))
            return result

    torch.manual_seed(0)
    net, x, _ = captured(Tied(), 5, 6, m=30)
    result = sp.fit(net, x, sp.Sparse(50), executor="serial")
    assert (result.weight_count, result.nnz) == (18, 9)
    assert "code (used with its rows as columns too, which are no" in result.summary()
    assert torch.equal(result.network().code.weight, net.code.weight)  # type: ignore[union-attr, arg-type]
