"""``fit`` on networks with convolutions: what it promises, on small ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from simplicit.training.options import FitOptions
from torch import Tensor, nn
from torch.nn import functional

import simplicit as sp
from reference import Prices, RowModel
from simplicit.network.graph import capture_graph
from simplicit.progress import OnProgress
from simplicit.solve.options import RunOptions
from simplicit.training.channels import TiedResult, fit_tied, tied_layers
from simplicit.training.channels.memory import check_memory, live_numbers
from simplicit.training.channels.patches import channels_first, patches
from simplicit.training.channels.sensitivity import worth
from simplicit.training.channels.walk import Walk, batches_of
from simplicit.training.clock import Clock
from tied_nets import NETS, Residual, images, made

L1: dict[str, Any] = {"penalty": sp.L1(beta=1e-3), "kappa": None, "propagate": True}


def tied(net: nn.Module, inputs: Any, **options: Any) -> TiedResult:
    result = sp.fit(net, inputs, **options)
    assert isinstance(result, TiedResult)
    return result


def weights_of(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters() if p.ndim > 1)


def weights_at_positions(net: nn.Module, inputs: Tensor) -> Tensor:
    """ω of the first layer, (m, 1, *positions)."""
    graph = capture_graph(net, inputs)
    first = next(iter(worth(graph, tied_layers(graph), batches_of(inputs, 50)).values()))
    assert first.positions is not None
    return torch.cat(first.positions)


def non_zeros_of(net: nn.Module) -> int:
    return sum(int((p != 0).sum()) for p in net.parameters() if p.ndim > 1)


@pytest.mark.parametrize("name", NETS)
def test_the_sparse_preset_on_every_kind_of_network(name: str) -> None:
    net, inputs = made(name)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    result = tied(net, inputs, preset="sparse", sparsity=60)
    kept = int(0.4 * weights_of(net) + 1e-9)
    assert result.nnz == kept
    assert result.rows.converged.all()
    assert result.rows.nnz.sum() == kept
    found = result.to_baseline()
    assert type(found) is type(net)
    assert non_zeros_of(found) == kept
    assert not found.training
    other = NETS[name]().double()
    other.load_state_dict(found.state_dict())
    with torch.no_grad():
        assert torch.equal(other.eval()(inputs), found(inputs))
        wanted = net(inputs)
        spread = (wanted - wanted.mean(dim=0)).norm()
        assert (found(inputs) - wanted).norm() < 0.7 * spread
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


@pytest.mark.parametrize("name", NETS)
def test_a_full_support_with_an_anchor_of_one_gives_the_baseline_back(name: str) -> None:
    net, inputs = made(name)
    options: dict[str, Any] = {"propagate": True, "refine": True, "refit": True, "anchor": 1.0, "sparsity": 0}
    found = tied(net, inputs, penalty=sp.NoPenalty(), kappa=None, **options).to_baseline()
    for key, value in net.state_dict().items():
        torch.testing.assert_close(
            found.state_dict()[key], value, rtol=1e-8, atol=1e-9, msg=lambda m, k=key: f"{k}: {m}"
        )


@pytest.mark.parametrize("sparsity", [0, 33.3, 77.7, 99])
def test_a_sparsity_is_met_to_the_weight(sparsity: float) -> None:
    net, inputs = made("residual")
    result = tied(net, inputs, preset="sparse", sparsity=sparsity)
    assert result.nnz == int(weights_of(net) * (1 - sparsity / 100) + 1e-9)
    assert result.sparsity == pytest.approx(100 * (1 - result.nnz / weights_of(net)))


@pytest.mark.parametrize("propagate", [True, False])
def test_the_batch_size_changes_nothing_but_rounding(propagate: bool) -> None:
    net, inputs = made("projection")
    graph = capture_graph(net, inputs)
    options = FitOptions(
        penalty=sp.NoPenalty(), kappa=None, propagate=propagate, refine=True, refit=True, anchor=0.5, sparsity=70
    )
    one, other = (
        fit_tied(graph, inputs, options, RunOptions(), Clock(), batch_size=size).to_baseline().state_dict()
        for size in (6, 40)
    )
    for key, value in one.items():
        torch.testing.assert_close(value, other[key], rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(
    "penalty",
    [sp.L1(beta=3e-2), sp.ElasticNet(beta=2e-2, alpha=1e-2), sp.Perspective(alpha=3e-2, gamma=3e-2)],
    ids=lambda penalty: type(penalty).__name__,
)
def test_rows_are_those_of_a_model_that_stands_apart(penalty: Any) -> None:
    net, inputs = made("depthwise")
    result = tied(net, inputs, penalty=penalty, kappa=None, normalize="none", regenerate=False)
    graph = capture_graph(net, inputs)
    walk, rows = Walk(graph, batches_of(inputs, 40)), iter(range(len(result.rows)))
    for layer in tied_layers(graph)[:-1]:
        walk.run_until(layer.node)
        R = patches(walk.baseline(layer.source)[0], layer.geometry).numpy()
        z = walk.baseline_on(layer.node, layer.source, 0, slice(None))
        for group, part in enumerate(channels_first(z, layer.geometry).numpy()):
            for target in part:
                row = next(rows)
                if row % 5:
                    continue
                twin = RowModel(R[group].T, target, Prices.of(penalty, R.shape[1]), 0.1, intercept=layer.constant)
                best, _ = twin.solve()
                gap, objective = result.rows.dual_gap[row], result.rows.objective[row]
                assert objective <= best * (1 + 1e-6) + 1e-9
                assert objective - gap <= best * (1 + 1e-6) + 1e-9


def test_a_sparsity_is_searched_through_the_strength() -> None:
    net, inputs = made("plain")
    result = tied(net, inputs, sparsity=50, rounds=2, refit=True, **L1)
    assert abs(result.sparsity - 50) <= 0.5
    assert result.rows.converged.all()
    assert result.trials > 1
    assert "2 rounds" in result.summary()


def test_refine_takes_candidates_from_the_penalty() -> None:
    net, inputs = made("residual")
    penalised = tied(net, inputs, **(L1 | {"propagate": False}))
    refined = tied(net, inputs, refine=True, **L1)
    assert refined.nnz == pytest.approx(penalised.nnz, rel=0.1)
    with pytest.raises(sp.InputError, match="sparsity: 1 % cannot be reached"):
        sp.fit(net, inputs, refine=True, sparsity=1, penalty=sp.L1(beta=10.0), kappa=None)


def test_norms_give_outputs_the_weighted_mean_and_variance_of_the_baseline() -> None:
    net, inputs = made("plain")
    found = tied(net, inputs, preset="sparse", sparsity=60).to_baseline()
    with torch.no_grad():
        wanted, got = net[:2](inputs), found[:2](inputs)  # type: ignore[index]
    omega = weights_at_positions(net, inputs)

    def mean(values: Tensor) -> Tensor:
        return (omega * values).mean((0, 2, 3))

    torch.testing.assert_close(mean(got), mean(wanted))
    variances = [mean(z.square()) - mean(z).square() for z in (got, wanted)]
    torch.testing.assert_close(*variances, rtol=1e-4, atol=1e-5)


def test_what_an_error_is_worth_is_the_mean_squared_derivative() -> None:
    net, inputs = made("plain")
    graph = capture_graph(net, inputs)
    layers = tied_layers(graph)
    found = list(worth(graph, layers, batches_of(inputs, 7)).values())
    with torch.no_grad():
        middle = net[:3](inputs)  # type: ignore[index]
    offset = torch.zeros(1, 6, 3, 3, dtype=torch.float64)

    def output(change: Tensor, x: Tensor) -> Tensor:
        result: Tensor = net[4:](net[3](x[None]) + change)[0]  # type: ignore[index, operator]
        return result

    squares = [
        torch.autograd.functional.jacobian(lambda change, x=x: output(change, x), offset).square().sum(0)[0]
        for x in middle
    ]
    norms = torch.stack(squares)  # (samples, channels, *positions)
    np.testing.assert_allclose(found[1].channels, norms.mean((0, 2, 3)).numpy())
    np.testing.assert_allclose(found[-1].channels, 1.0)
    at_positions = norms.sum(1, keepdim=True)
    assert found[1].positions is not None
    torch.testing.assert_close(torch.cat(found[1].positions), at_positions / at_positions.mean())
    assert found[-1].positions is not None
    torch.testing.assert_close(torch.cat(found[-1].positions), torch.ones(len(inputs), 1, dtype=torch.float64))


def test_a_dead_channel_and_a_single_sample() -> None:
    net, inputs = made("residual")
    with torch.no_grad():
        net.norm.bias[0] = -100.0  # type: ignore[index, union-attr, operator]
    for samples in (inputs, inputs[:1]):
        result = tied(net, samples, preset="sparse", sparsity=70)
        assert all(value.isfinite().all() for value in result.to_baseline().state_dict().values())


def test_weights_off_the_path_are_ignored() -> None:
    net, inputs = made("residual")
    net.unused = nn.Conv2d(7, 9, 3, dtype=torch.float64).eval()
    result = tied(net, inputs, preset="sparse", sparsity=50)
    assert result.weight_count == weights_of(net) - 7 * 9 * 9
    assert torch.equal(result.to_baseline().unused.weight, net.unused.weight)  # type: ignore[arg-type, union-attr]


def test_summary_and_figures() -> None:
    net, inputs = made("residual")
    seen: list[Any] = []
    progress: OnProgress = seen.append
    result = tied(net, inputs, preset="sparse", sparsity=60, progress=progress)
    text, figures = result.summary(), result.figures()
    for layer in result.layers:
        assert layer.name in text
    assert "towards 1 of the baseline's weights" in text
    assert "count by what they do to the outputs" in text
    assert (figures["ridge"], figures["anchor"]) == (0.01, 1.0)
    assert figures["non_zeros"] == sum(figures["layers"].values()) == result.nnz
    assert figures["rows"] == figures["rows_certified"] == 4 + 4 + 4 + 5
    assert {state.stage for state in seen} == {f"rows of {layer.name}" for layer in result.layers}


def test_a_journal_is_taken_up(tmp_path: Any) -> None:
    net, inputs = made("plain")
    results = [tied(net, inputs, preset="sparse", journal=tmp_path / "journal") for _ in range(2)]
    one, other = (result.to_baseline().state_dict() for result in results)
    assert all(torch.equal(value, other[key]) for key, value in one.items())
    with pytest.raises(sp.InputError, match="journal"):
        sp.fit(net, inputs + 1, preset="sparse", journal=tmp_path / "journal")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"kappa: got 0.99; a network with convolutions takes None"),
        ({"kappa": None, "structure": "feedforward"}, r"structure: got 'feedforward'; .* takes 'baseline'"),
        ({"preset": "robust"}, r"robust: got True; .* takes False"),
        ({"kappa": None, "penalty": sp.BasisPursuit()}, r"penalty: got BasisPursuit\(.*\); .* takes another penalty"),
        ({"kappa": None, "refine": True, "penalty": sp.NoPenalty()}, r"refine: NoPenalty\(\) gives no zeros"),
        ({"kappa": None, "sparsity": 50, "penalty": sp.NoPenalty()}, r"sparsity: NoPenalty\(\) gives no zeros"),
    ],
)
def test_settings_without_meaning_are_named(options: dict[str, Any], message: str) -> None:
    net, inputs = made("residual")
    with pytest.raises(sp.InputError, match=message):
        sp.fit(net, inputs, **options)


class _Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(torch.relu(self.conv(x))).mean((2, 3))
        return result


class _Matrix(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.matrix = nn.Conv2d(3, 3, 3), nn.Parameter(torch.rand(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = torch.relu(self.conv(x)).mean((2, 3)) @ self.matrix.T
        return result


def _normed() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.ReLU(), nn.Flatten())


def _transposed() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 2, 3), nn.Flatten())


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (_Twice, r"net: the weight of 'conv' is used twice"),
        (_Matrix, r"net: parameter 'matrix' is the weight of aten.matmul.default"),
        (_normed, r"is computed from other parameters"),
        (_transposed, r"net: parameter '2.weight' is the weight of aten.conv_transpose2d.input"),
    ],
)
def test_weights_that_cannot_be_tied_are_named(net: Any, message: str) -> None:
    with pytest.raises(sp.InputError, match=message):
        sp.fit(net().double().eval(), images(), preset="sparse")


@pytest.mark.parametrize("bad", [images()[:, :2], images().flatten(1)[:, 1:], images() * np.nan])
def test_inputs_that_do_not_fit_are_named(bad: Tensor) -> None:
    net = Residual().double().eval()
    with pytest.raises(sp.InputError, match="inputs"):
        sp.fit(net, bad, preset="sparse")


def test_networks_without_convolutions_are_trained_as_before() -> None:
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double().eval()
    result = sp.fit(net, torch.rand(30, 6, dtype=torch.float64), preset="sparse", sparsity=50)
    assert not isinstance(result, TiedResult)
    assert result.model.nnz == int(0.5 * 45 + 1e-9)


def test_what_cannot_fit_is_refused_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    net, inputs = made("residual")
    graph = capture_graph(net, inputs)
    # At the sum: the skip path, the branch before its ReLU or norm, and their results, of 4 x 7 x 7 numbers each.
    assert 3 * 196 <= live_numbers(graph) <= 4 * 196
    monkeypatch.setattr("simplicit.training.channels.memory.available_memory", lambda: 1000)
    with pytest.raises(sp.InputError, match=r"inputs: 40 samples need about .* give fewer samples"):
        sp.fit(net, inputs, preset="sparse")


def test_what_errors_are_worth_takes_memory_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Derivatives keep every value of a batch: few samples may fit into memory without them alone."""
    net, inputs = made("residual")
    graph = capture_graph(net, inputs)
    layers, needed = tied_layers(graph), []
    for differentiated in (0, 4, 40):
        low, high = 0, 2**40
        while high - low > 1:
            middle = (low + high) // 2
            monkeypatch.setattr("simplicit.training.channels.memory.available_memory", lambda free=middle: free)
            try:
                check_memory(graph, layers, 40, 1, differentiated=differentiated)
                high = middle
            except sp.InputError:
                low = middle
        needed.append(high)
    assert needed[0] < needed[1] < needed[2]
    whole = 8 * 40 * sum(layer.rows for layer in layers)  # at the least the results of all layers, at one position
    assert needed[2] - needed[0] > whole


class Shared(nn.Module):
    """Two convolutions side by side, on the input both."""

    def __init__(self, *, one_bias: bool = False, buffer: bool = False) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(3, 4, 3, bias=not buffer) for _ in range(2))
        if one_bias:
            self.second.bias = self.first.bias
        self.register_buffer("shift", torch.linspace(0.5, 1.0, 4) if buffer else None)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.shift is None:
            first, second = self.first(x), self.second(x)
        else:
            first, second = (functional.conv2d(x, one.weight, self.shift) for one in (self.first, self.second))
        return self.last(torch.cat([first, second], 1).relu().mean((2, 3)))


def shared(**options: bool) -> nn.Module:
    torch.manual_seed(0)
    return Shared(**options).double().eval()


def test_a_bias_that_is_a_buffer_stays_and_counts_once() -> None:
    net = shared(buffer=True)
    result = tied(net, images(), preset="sparse", sparsity=20)
    assert max(result.errors.values()) < 0.2
    found = result.to_baseline()
    torch.testing.assert_close(found.shift, net.shift, rtol=0, atol=0)
    with torch.no_grad():
        assert float((found(images()) - net(images())).norm() / net(images()).norm()) < 0.1


def test_a_bias_of_two_layers_is_refused() -> None:
    with pytest.raises(sp.InputError, match=r"the bias of '.*' is used twice"):
        tied(shared(one_bias=True), images(), preset="sparse")


def test_branches_on_the_input_are_penalised_alike() -> None:
    net = shared()
    with torch.no_grad():
        net.second.weight.copy_(net.first.weight)
        net.second.bias.copy_(net.first.bias)
    found = tied(net, images(), penalty=sp.L1(beta=1e-2), kappa=None).to_baseline()
    torch.testing.assert_close(found.first.weight, found.second.weight, rtol=1e-6, atol=1e-9)


def test_a_constant_kernel_makes_no_network_with_convolutions() -> None:
    class Blurred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("kernel", torch.full((3, 1, 3, 3), 1 / 9))
            self.layers = nn.Sequential(nn.Flatten(), nn.Linear(3 * 25, 6), nn.ReLU(), nn.Linear(6, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(functional.conv2d(x, self.kernel, groups=3))

    torch.manual_seed(0)
    result = sp.fit(Blurred().double().eval(), images()[:, :, :7, :7], structure="dense")
    assert result.row_norm <= 0.99


@pytest.mark.parametrize("shared", ["module", "buffers"])
def test_statistics_of_two_layers_stay_as_they_are(shared: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    net = net.extend([nn.Flatten(), nn.Linear(36, 3)]).double().eval()
    if shared == "module":
        net[4] = net[1]
    else:
        net[4].running_mean, net[4].running_var = net[1].running_mean, net[1].running_var
    found = tied(net, images(), preset="sparse", sparsity=30).to_baseline()
    torch.testing.assert_close(found[1].running_mean, net[1].running_mean, rtol=0, atol=0)
    with torch.no_grad():
        error = found[0](images()) - net[0](images())
    shift = (weights_at_positions(net, images()) * error).mean((0, 2, 3))
    assert float(shift.abs().max()) <= 1e-9  # the biases take the means up


def test_constant_targets_have_no_error() -> None:
    net, inputs = made("plain")
    same = inputs[:1].expand(7, *inputs.shape[1:]).clone()
    result = tied(net, same, preset="sparse", sparsity=50)
    assert result.errors[result.layers[-1].name] <= 1e-6


def test_sums_beyond_the_dtype_are_named() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2)).eval()
    with pytest.raises(sp.InputError, match=r"layer .0. sees leave the range of torch\.float32"):
        tied(net, torch.rand(30, 1, 8, 8) * 1e30, kappa=None)


def test_positions_that_no_output_sees_do_not_count() -> None:
    """Half of every image goes nowhere: what is there must not move the kernels of the student."""

    class Left(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv2d(2, 4, 1), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            left: Tensor = self.conv(x)[..., :4]
            out: Tensor = self.linear(functional.relu(left).mean((2, 3)))
            return out

    torch.manual_seed(0)
    net, x = Left().double().eval(), torch.randn(30, 2, 5, 8, dtype=torch.float64)
    other = x.clone()
    other[..., 4:] *= -50
    kept = [tied(net, inputs, preset="sparse", sparsity=50).to_baseline().state_dict() for inputs in (x, other)]
    for name, value in kept[0].items():
        torch.testing.assert_close(value, kept[1][name], rtol=1e-9, atol=1e-12)
    plain = [tied(net, inputs, sparsity=50, **L1).to_baseline().state_dict() for inputs in (x, other)]
    assert (plain[0]["conv.weight"] - plain[1]["conv.weight"]).abs().max() > 1e-3
