"""``fit`` on networks with convolutions: what it promises, on small ones."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import simplicit as sp
from fitting import Subject, errors_of, row_norm_of
from reference import Prices, RowModel
from simplicit.solve import RunOptions
from simplicit.training.channels import ChannelProvider, channel_layers
from simplicit.training.channels.patches import channels_first, patches
from simplicit.training.channels.samples import batches_of
from simplicit.training.channels.sensitivity import output_sensitivities
from simplicit.training.channels.walk import Walk
from simplicit.training.training import RowOptions, Training
from tied_nets import NETS, Residual, images, made, subject


@cache
def fitted(name: str, sparsity: float = 60) -> sp.FitResult:
    return subject(name).fit(sp.Sparse(sparsity))


def weights_of(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters() if p.ndim > 1)


def weights_at_positions(own: Subject) -> Tensor:
    """ω of the first layer, (m, 1, *positions)."""
    layers = channel_layers(own.graph)
    first = next(iter(output_sensitivities(own.graph, layers, batches_of(own.inputs, 50)).values()))
    assert first.positions is not None
    return torch.cat([*first.positions])


def non_zeros_of(net: nn.Module) -> int:
    return sum(int((p != 0).sum()) for p in net.parameters() if p.ndim > 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_every_kind_of_network(name: str) -> None:
    net, inputs = subject(name).net, subject(name).inputs
    before = {key: value.clone() for key, value in net.state_dict().items()}
    result = fitted(name)
    kept = int(0.4 * weights_of(net) + 1e-9)
    assert result.nnz == kept
    assert result.rows.converged.all()
    assert result.rows.nnz.sum() == kept
    found = result.network()
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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["residual", "depthwise", "signal"])
def test_the_model_is_the_network(name: str) -> None:
    result, inputs = fitted(name), subject(name).inputs
    with torch.no_grad():
        np.testing.assert_allclose(result.model.predict(inputs), result.network()(inputs), atol=1e-10)


@pytest.mark.parametrize("name", NETS)
def test_a_full_support_with_an_anchor_of_one_gives_the_baseline_back(name: str) -> None:
    found = subject(name).fit(sp.Sparse(0, ridge=1e-3, anchor=1.0)).network().state_dict()
    for key, value in subject(name).net.state_dict().items():
        torch.testing.assert_close(found[key], value, rtol=1e-8, atol=1e-9, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.parametrize("sparsity", [0, 33.3, 77.7, 99])
def test_a_sparsity_is_met_to_the_weight(sparsity: float) -> None:
    result, count = fitted("residual", sparsity), weights_of(subject("residual").net)
    assert result.nnz == int(count * (1 - sparsity / 100) + 1e-9)
    assert result.sparsity == pytest.approx(100 * (1 - result.nnz / count))


@pytest.mark.parametrize("propagate", [True, False])
def test_the_batch_size_changes_nothing_but_rounding(propagate: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    own = subject("projection")
    networks = []
    for size in (6, 40):
        monkeypatch.setattr("simplicit.training.channels.provider.BATCH", size)
        provider = ChannelProvider.of(own.graph, own.inputs, workers=1, propagate=propagate)
        training = Training(provider, sp.NoPenalty(), sp.Ridge(1e-3, 0.5), RowOptions(), RunOptions(sp.Serial()))
        networks.append(training.select(70).student.network().state_dict())
    for key, value in networks[0].items():
        torch.testing.assert_close(value, networks[1][key], rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(
    "penalty",
    [sp.L1(beta=3e-2), sp.ElasticNet(beta=2e-2, alpha=1e-2), sp.Perspective(alpha=3e-2, gamma=3e-2)],
    ids=lambda penalty: type(penalty).__name__,
)
def test_rows_are_those_of_a_model_that_stands_apart(penalty: Any) -> None:
    own = subject("depthwise")
    result = own.fit(sp.Matching(penalty, normalize="none", regenerate=False))
    walk, rows = Walk(own.graph, batches_of(own.inputs, 40)), iter(range(len(result.rows)))
    for layer in channel_layers(own.graph)[:-1]:
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


@pytest.mark.slow
def test_a_sparsity_is_searched_through_the_strength() -> None:
    recipe = sp.Matching(sp.L1(1e-3), propagate=True, sparsity=50, rounds=2, refit=sp.Ridge())
    result = subject("plain").fit(recipe)
    assert abs(result.sparsity - 50) <= 0.5
    assert result.rows.converged.all()
    assert result.trials > 1
    assert "rounds 2" in result.summary()


def test_norms_give_outputs_the_weighted_mean_and_variance_of_the_baseline() -> None:
    own, found = subject("plain"), fitted("plain").network()
    assert isinstance(own.net, nn.Sequential)
    assert isinstance(found, nn.Sequential)
    with torch.no_grad():
        wanted, got = own.net[:2](own.inputs), found[:2](own.inputs)
    omega = weights_at_positions(own)

    def mean(values: Tensor) -> Tensor:
        return (omega * values).mean((0, 2, 3))

    torch.testing.assert_close(mean(got), mean(wanted))
    variances = [mean(z.square()) - mean(z).square() for z in (got, wanted)]
    torch.testing.assert_close(*variances, rtol=1e-4, atol=1e-5)


def test_a_dead_channel_and_a_single_sample() -> None:
    net, inputs = made("residual")
    assert isinstance(net, Residual)
    with torch.no_grad():
        net.norm.bias[0] = -100.0
    own = Subject(net, inputs)
    for samples in (inputs, inputs[:1]):
        result = own.fit(sp.Sparse(70), samples)
        assert all(value.isfinite().all() for value in result.network().state_dict().values())


def test_weights_off_the_path_are_ignored() -> None:
    net, inputs = made("residual")
    net.unused = nn.Conv2d(7, 9, 3, dtype=torch.float64).eval()
    result = Subject(net, inputs).fit(sp.Sparse(50))
    assert result.weight_count == weights_of(net) - 7 * 9 * 9
    assert torch.equal(result.network().get_parameter("unused.weight"), net.get_parameter("unused.weight"))


def test_progress_names_the_layers() -> None:
    seen: list[Any] = []
    result = subject("residual").fit(sp.Sparse(60), progress=seen.append)
    assert len(result.rows) == 4 + 4 + 4 + 5
    named = {one.stage for state in seen for one in state.chain if one.stage.startswith("in ")}
    assert named == {f"in {layer.name}" for layer in result.layers}


def test_a_journal_is_taken_up(tmp_path: Any) -> None:
    own, journal = subject("plain"), tmp_path / "journal"
    one, other = (own.fit(sp.Sparse(), journal=journal).network().state_dict() for _ in range(2))
    assert all(torch.equal(value, other[key]) for key, value in one.items())
    with pytest.raises(sp.InputError, match="journal"):
        own.fit(sp.Sparse(), own.inputs + 1, journal=journal)


@pytest.mark.parametrize(
    ("recipe", "message", "argument"),
    [
        (sp.Matching(kappa=0.99), r"kappa: got 0.99; a network with tied rows takes None", "kappa"),
        (sp.Matching(structure="feedforward"), r"structure: got 'feedforward'; .* takes 'baseline'", "structure"),
        (sp.Sparse(50, "dense"), r"structure: got 'dense'; .* takes 'baseline'", "structure"),
        (sp.Robust(), r"net: it has convolutions, .* take the recipe Sparse or Matching", "net"),
        (sp.Matching(sp.BasisPursuit()), r"penalty: got BasisPursuit\(.*\); .* takes another one", "penalty"),
        (sp.Matching(sp.NoPenalty(), sparsity=50), r"sparsity: NoPenalty\(\) gives no zeros", "sparsity"),
    ],
)
def test_settings_without_meaning_are_named(recipe: sp.training.Recipe, message: str, argument: str) -> None:
    with pytest.raises(sp.InputError, match=message) as caught:
        subject("residual").fit(recipe)
    assert caught.value.argument == argument


@pytest.mark.parametrize("bad", [images()[:, :2], images().flatten(1)[:, 1:], images() * np.nan])
def test_inputs_that_do_not_fit_are_named(bad: Tensor) -> None:
    with pytest.raises(sp.InputError, match="inputs"):
        sp.fit(subject("residual").net, bad)
    with pytest.raises(sp.InputError, match="inputs"):
        subject("residual").fit(sp.Sparse(), bad)


class Shared(nn.Module):
    """Two convolutions side by side, on the input both."""

    def __init__(self, *, buffer: bool = False) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(3, 4, 3, bias=not buffer) for _ in range(2))
        self.register_buffer("shift", torch.linspace(0.5, 1.0, 4) if buffer else None)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.shift is None:
            first, second = self.first(x), self.second(x)
        else:
            first, second = (functional.conv2d(x, one.weight, self.shift) for one in (self.first, self.second))
        result: Tensor = self.last(torch.cat([first, second], 1).relu().mean((2, 3)))
        return result


def shared(**options: bool) -> Shared:
    torch.manual_seed(0)
    return Shared(**options).double().eval()


def test_a_bias_that_is_a_buffer_stays_and_counts_once() -> None:
    net = shared(buffer=True)
    result = Subject(net, images()).fit(sp.Sparse(20))
    assert max(errors_of(result).values()) < 0.2
    found = result.network()
    torch.testing.assert_close(found.get_buffer("shift"), net.get_buffer("shift"), rtol=0, atol=0)
    with torch.no_grad():
        assert float((found(images()) - net(images())).norm() / net(images()).norm()) < 0.1


def test_branches_on_the_input_are_penalised_alike() -> None:
    net = shared()
    with torch.no_grad():
        net.second.weight.copy_(net.first.weight)
        net.second.bias.copy_(net.first.bias)  # type: ignore[union-attr, arg-type]
    found = Subject(net, images()).fit(sp.Matching(sp.L1(beta=1e-2))).network()
    weights = [found.get_parameter(f"{name}.weight") for name in ("first", "second")]
    torch.testing.assert_close(*weights, rtol=1e-6, atol=1e-9)


def test_a_constant_kernel_makes_no_network_with_convolutions() -> None:
    class Blurred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("kernel", torch.full((3, 1, 3, 3), 1 / 9))
            self.layers = nn.Sequential(nn.Flatten(), nn.Linear(3 * 25, 6), nn.ReLU(), nn.Linear(6, 3))

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.layers(functional.conv2d(x, self.get_buffer("kernel"), groups=3))
            return result

    torch.manual_seed(0)
    own = Subject(Blurred().double().eval(), images()[:, :, :7, :7])
    assert row_norm_of(own.fit(sp.Matching(structure="dense"))) <= 0.99
    assert own.fit(sp.Sparse(60)).rows.group.tolist() == ["layers.1"] * 6 + ["layers.3"] * 3


@pytest.mark.parametrize("shared", ["module", "buffers"])
def test_statistics_of_two_layers_stay_as_they_are(shared: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    net = net.extend([nn.Flatten(), nn.Linear(36, 3)]).double().eval()
    if shared == "module":
        net[4] = net[1]
    else:
        net[4].running_mean, net[4].running_var = net[1].running_mean, net[1].running_var
    own = Subject(net, images())
    found = own.fit(sp.Sparse(30)).network()
    torch.testing.assert_close(found[1].running_mean, net[1].running_mean, rtol=0, atol=0)  # type: ignore[index]
    with torch.no_grad():
        error = found[0](images()) - net[0](images())  # type: ignore[index]
    shift = (weights_at_positions(own) * error).mean((0, 2, 3))
    assert float(shift.abs().max()) <= 1e-9  # the biases take the means up


def test_constant_targets_have_no_error() -> None:
    own = subject("plain")
    result = own.fit(sp.Sparse(50), own.inputs[:1].expand(7, *own.inputs.shape[1:]).clone())
    assert result.layers[-1].error <= 1e-6


@pytest.mark.parametrize("name", ["plain", "without norm"])
@pytest.mark.parametrize("recipe", [sp.Sparse(60), sp.Matching(sp.L1(1e-2))])
def test_errors_are_those_of_the_network(recipe: sp.training.Recipe, name: str) -> None:
    """Of what each layer computes, behind its norm, also where it was fitted on the baseline's states."""
    own, result = subject(name), subject(name).fit(recipe)
    found = result.network()
    assert isinstance(own.net, nn.Sequential)
    assert isinstance(found, nn.Sequential)
    for layer in result.layers:
        end = int(layer.name) + 1
        end += isinstance(own.net[end], nn.BatchNorm2d) if end < len(own.net) else 0
        with torch.no_grad():
            wanted, got = own.net[:end](own.inputs), found[:end](own.inputs)
        assert layer.error == pytest.approx(float((got - wanted).square().sum() / wanted.square().sum()))


@pytest.mark.parametrize("recipe", [sp.Sparse, sp.Matching])
def test_a_number_for_each_column_that_layers_do_not_have_is_named(recipe: Any) -> None:
    name = {sp.Sparse: "candidates", sp.Matching: "penalty"}[recipe]
    for count, layer in ((27, "3"), (54, "0")):
        penalty = sp.L1(1e-3, column_weights=np.ones(count))
        with pytest.raises(
            sp.InputError, match=rf"column_weights has shape \({count},\).*layer '{layer}' has"
        ) as caught:
            subject("plain").fit(recipe(**{name: penalty}))
        assert f"{name} must fit every layer" in str(caught.value)
    weighted = recipe(**{name: sp.L1(1e-2, column_weights=np.linspace(0.0, 2.0, 4))})
    one = Subject(nn.Sequential(nn.Conv2d(4, 5, 1), nn.Flatten()).double().eval(), torch.rand(30, 4, 2, 2).double())
    assert one.fit(weighted).rows.converged.all()


def test_sums_beyond_the_dtype_are_named() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2)).eval()
    with pytest.raises(sp.InputError, match=r"layer .0. sees leave the range of torch\.float32"):
        Subject(net, torch.rand(30, 1, 8, 8) * 1e30).fit(sp.Matching())


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
    own, x = Subject(Left().double().eval(), torch.randn(30, 2, 5, 8, dtype=torch.float64)), None
    other = own.inputs.clone()
    other[..., 4:] *= -50
    kept = [own.fit(sp.Sparse(50), inputs).network().state_dict() for inputs in (x, other)]
    for name, value in kept[0].items():
        torch.testing.assert_close(value, kept[1][name], rtol=1e-9, atol=1e-12)
    recipe = sp.Matching(sp.L1(1e-3), propagate=True, sparsity=50)
    plain = [own.fit(recipe, inputs).network().state_dict() for inputs in (x, other)]
    assert (plain[0]["conv.weight"] - plain[1]["conv.weight"]).abs().max() > 1e-3
