"""Networks of convolutions are captured exactly, as maps that are never written down unless asked for."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from network.image_networks import IMAGE_NETWORKS, conv_bn, randomised, resnet
from simplicit import load, perron_frobenius, pgd, rescale, save
from simplicit.implicit import ConvMap, CsrMap, GatherMap, equilibrium
from simplicit.network import Capture, capture

#: The last activation of each block.
LAST = {
    "vgg": ["0.2", "2.2", "3.2", "7"],
    "lenet": ["relu", "relu_5", "tanh"],
    "resnet, option A": ["0.2", "1.relu_1", "2.relu_1", "3.relu_1"],
    "resnet, 1 x 1 shortcuts": ["0.2", "1.relu_1", "2.relu_1", "3.relu_1"],
    "resnet, activation before": ["1.relu_1", "2.relu_1", "5"],
    "mixer": ["tokens.1", "channels.1"],
    "inception": ["relu_4"],
    "temporal": ["relu", "relu_1", "relu_2"],
}


@cache
def network(name: str) -> tuple[nn.Module, torch.Tensor, Capture]:
    """A network with seeded weights in double precision, inputs, and its capture."""
    make, shape = IMAGE_NETWORKS[name]
    torch.manual_seed(0)
    net = randomised(make().double())
    u = torch.randn(5, *shape, dtype=torch.float64)
    return net, u, capture(net, u[:2])


#: Dear, and made of layers that others have too.
DEAR = ("vgg", "series", "mobilenet, inverted")
#: Those whose layers the others are made of, in other places; the others are slow.
KINDS = (
    "lenet", "resnet, option A", "resnet, 1 x 1 shortcuts", "mobilenet, inverted", "mixer", "densenet", "shufflenet",
    "u-net", "temporal", "recurrent", "normalised", "volumes", "decoder", "maxout",
)  # fmt: skip
SOME = [name if name in KINDS else pytest.param(name, marks=pytest.mark.slow) for name in IMAGE_NETWORKS]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in DEAR else name for name in IMAGE_NETWORKS]
)
def test_outputs_and_states(name: str) -> None:
    net, u, captured = network(name)
    model, states = captured.model, captured.states(u, batch_size=3)
    with torch.no_grad():
        expected = net(u).flatten(1).numpy()
    scale = max(1.0, float(np.abs(expected).max()))
    assert np.abs(model.predict(u.numpy()) - expected).max() <= 1e-10 * scale
    X = equilibrium(model, u).states
    np.testing.assert_allclose(X, states.X, rtol=0.0, atol=1e-10)
    Z = states.X @ model.A.T + states.U @ model.B.T + model.state_bias
    np.testing.assert_allclose(Z, states.Z, rtol=0.0, atol=1e-10)
    assert model.nnz == sum(part.nnz for part in (model.A, model.B, model.C, model.D))
    assert float(perron_frobenius(model)) == 0.0


@pytest.mark.parametrize(
    "name",
    [
        "resnet, option A",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("vgg", "mixer", "densenet", "u-net", "temporal")),
    ],
)
def test_single_precision(name: str) -> None:
    make, shape = IMAGE_NETWORKS[name]
    torch.manual_seed(1)
    net = randomised(make())
    u = torch.randn(3, *shape)
    with torch.no_grad():
        expected = net(u).flatten(1)
    error = (capture(net, u).model.predict(u) - expected).abs().max() / expected.abs().max()
    assert float(error) <= 1e-5


@pytest.mark.parametrize("name", SOME)
def test_maps_are_what_their_entries_say(name: str) -> None:
    _, _, captured = network(name)
    rng = np.random.default_rng(0)
    for key, block in captured.model.blocks.items():
        matrix = block.to_csr()
        x, y = rng.normal(size=(2, block.shape[1])), rng.normal(size=(2, block.shape[0]))
        np.testing.assert_allclose(block.apply(torch.from_numpy(x)), x @ matrix.T, atol=1e-10, err_msg=str(key))
        np.testing.assert_allclose(block.apply_transpose(torch.from_numpy(y)), y @ matrix, atol=1e-10)
        np.testing.assert_allclose(block.absolute().apply(torch.from_numpy(x)), x @ abs(matrix).T, atol=1e-10)
        assert block.nnz == matrix.nnz == int((matrix.data != 0).sum())


@pytest.mark.parametrize("name", SOME)
def test_saved_models_come_back(name: str, tmp_path: Path) -> None:
    _, u, captured = network(name)
    save(captured.model, tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert {key: type(block) for key, block in loaded.blocks.items()} == {
        key: type(block) for key, block in captured.model.blocks.items()
    }
    np.testing.assert_array_equal(loaded.predict(u), captured.model.predict(u))


@pytest.mark.parametrize("name", ["resnet, option A", "resnet, 1 x 1 shortcuts", "densenet"])
def test_rescaled(name: str, tmp_path: Path) -> None:
    _, u, captured = network(name)
    scaled = rescale(captured.model)
    assert float(abs(scaled.A).sum(axis=1).max()) < 1.0
    np.testing.assert_allclose(scaled.predict(u), captured.model.predict(u), atol=1e-9)
    save(scaled, tmp_path / "model")
    np.testing.assert_array_equal(load(tmp_path / "model").predict(u), scaled.predict(u))


@pytest.mark.parametrize("name", SOME)
def test_every_network_has_blocks(name: str) -> None:
    _, _, captured = network(name)
    kept = [group.name for group in captured.block_groups]
    assert kept
    assert kept == [group.name for group in captured.model.groups if group.name in kept]
    if name in LAST:
        assert kept[::-1] == LAST[name]


@pytest.mark.parametrize("name", ["resnet, option A", "resnet, 1 x 1 shortcuts"])
def test_the_last_activations_of_blocks_separate_the_network(name: str) -> None:
    """No block of M leads past one of them: what comes later is a function of it alone."""
    _, _, captured = network(name)
    order = ["input", *(group.name for group in reversed(captured.model.groups)), "output"]
    for group in captured.block_groups:
        place = order.index(group.name)
        past = [pair for pair in captured.model.blocks if order.index(pair[0]) > place > order.index(pair[1])]
        assert not past


def test_convolutions_stay_convolutions() -> None:
    _, _, captured = network("resnet, option A")
    kinds = {key: type(block) for key, block in captured.model.blocks.items()}
    assert set(kinds.values()) == {ConvMap, GatherMap, CsrMap}
    assert [key for key, kind in kinds.items() if kind is CsrMap] == [("output", captured.model.groups[0].name)]


def test_pointwise_convolutions_are_multiplied_out() -> None:
    _, _, captured = network("mobilenet, inverted")
    written = [key for key, block in captured.model.blocks.items() if isinstance(block, CsrMap)]
    assert all(row == "output" for row, _ in written)


def test_gradients_are_those_of_the_network() -> None:
    net, u, captured = network("resnet, 1 x 1 shortcuts")
    labels = torch.arange(5)
    found = pgd(captured.model, u, labels, eps=0.1, steps=3, random_start=False, clip=None)
    expected = pgd(net, u, labels, eps=0.1, steps=3, random_start=False, clip=None)
    np.testing.assert_allclose(found, expected.reshape(found.shape), atol=1e-9)


@pytest.mark.slow
def test_a_network_that_is_tied_twice_is_captured() -> None:
    shared = conv_bn(4, 4)
    net = randomised(nn.Sequential(conv_bn(3, 4), shared, nn.MaxPool2d(2), shared, nn.Flatten()).double())
    u = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    np.testing.assert_allclose(capture(net, u).model.predict(u), net(u).detach(), atol=1e-10)


def test_another_size_is_refused_by_its_shape() -> None:
    _, _, captured = network("resnet, option A")
    with pytest.raises(ValueError, match=r"\(m, 3, 8, 8\)"):
        captured.model.predict(torch.zeros(2, 3, 10, 10, dtype=torch.float64))


@pytest.mark.slow
def test_weights_are_counted_once() -> None:
    net = randomised(resnet("padded")())
    assert capture(net, torch.zeros(2, 3, 8, 8)).weight_count == sum(p.numel() for p in net.parameters() if p.ndim > 1)
