"""Pruning methods on whole networks, with convolutions and without; ResNet-20."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import simplicit as sp
from simplicit.network.graph import capture_graph
from simplicit.runs.resnet import resnet20
from simplicit.studies.peers import PEERS, Layer, Network, Pattern
from simplicit.training.channels.samples import samples_of
from tied_nets import made


def of(name: str) -> tuple[nn.Module, Tensor]:
    """A network in float64 with calibration samples: a perceptron, without biases or with them, or one of images."""
    if name not in ("mlp", "mlp with biases"):
        return made(name)
    torch.manual_seed(0)
    bias = name == "mlp with biases"
    layers = (nn.Linear(9, 7, bias=bias), nn.ReLU(), nn.Linear(7, 6, bias=bias), nn.ReLU(), nn.Linear(6, 3, bias=bias))
    net, inputs = nn.Sequential(*layers).double().eval(), np.random.default_rng(1).random((50, 9))
    return net, torch.from_numpy(inputs)


@cache
def network(name: str) -> tuple[nn.Module, Tensor, Network]:
    """It and its calibration samples, for reading only, as pruning takes them."""
    net, inputs = of(name)
    return net, inputs, Network(capture_graph(net, inputs), inputs, 16)


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize(
    ("name", "states", "correct"),
    [("residual", False, True), ("residual", True, True), ("depthwise", False, False), ("mlp with biases", True, True)],
)
def test_every_layer_keeps_its_number(peer: str, name: str, states: bool, correct: bool) -> None:
    net, inputs, given = network(name)
    counts = given.uniform(60)
    found = given.pruned(PEERS[peer], counts, states=states, correct=correct)
    assert given.counts_of(found) == counts
    with torch.no_grad():
        assert found(inputs).isfinite().all()
    constants = [key for key in net.state_dict() if "mean" in key or (name == "mlp with biases" and "bias" in key)]
    same = [torch.equal(found.state_dict()[key], net.state_dict()[key]) for key in constants]
    assert not all(same) if correct else all(same)


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize(("name", "states"), [("residual", True), ("mlp", False), ("mlp with biases", True)])
def test_a_network_that_keeps_everything_stays_as_it_is(peer: str, name: str, states: bool) -> None:
    net, inputs, given = network(name)
    found = given.pruned(PEERS[peer], given.sizes, states=states)
    with torch.no_grad():
        torch.testing.assert_close(found(inputs), net(inputs), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("peer", PEERS)
def test_linear_layers_have_the_pattern_that_divides_them(peer: str) -> None:
    """Of 9, 7 and 6 inputs groups of three divide the first and the last."""
    _, _, given = network("mlp with biases")
    counts = given.by_pattern(Pattern(1, 3))
    assert counts == {"0": 21, "2": 42, "4": 6}
    found = given.pruned(PEERS[peer], counts, states=True, pattern=Pattern(1, 3))
    for part in (found[0], found[4]):
        kept = (part.weight != 0).view(len(part.weight), -1, 3).sum(2)
        assert (kept == 1).all()
    assert (found[2].weight != 0).all()


def test_convolutions_stay_dense_under_a_pattern() -> None:
    _, _, given = network("residual")
    counts = given.by_pattern(Pattern(1, 3))
    assert counts["stem"] == given.sizes["stem"]


class Tokens(nn.Module):
    """Two layers on tokens (m, 5, 4), averaged over those that are there."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        there = attention_mask[..., None].to(x.dtype)
        return (there * self.second(torch.relu(self.first(x)))).sum(1) / there.sum(1)


def test_what_padding_holds_does_not_matter() -> None:
    torch.manual_seed(0)
    net, x = Tokens().double().eval(), torch.rand(11, 5, 4).double()
    mask = (torch.arange(5) < torch.arange(2, 13)[:, None]).long()
    found = []
    for padding in (0.0, 30.0):
        inputs = {"x": torch.where(mask[..., None] != 0, x, padding), "attention_mask": mask}
        graph = capture_graph(net, inputs)
        given = Network(graph, samples_of(graph, inputs))
        found.append(given.pruned(PEERS["sparsegpt"], given.uniform(50), states=False).state_dict())
    for key, value in found[0].items():
        torch.testing.assert_close(value, found[1][key], rtol=1e-8, atol=1e-10)


def test_allocations() -> None:
    _, _, given = network("mlp")
    assert given.sizes == {"0": 63, "2": 42, "4": 18}
    assert list(given.uniform(50).values()) == [31, 21, 9]
    assert given.uniform(0) == given.sizes
    assert sum(given.by_size(50).values()) == int(123 / 2)


@pytest.mark.parametrize("name", ["residual", "mlp"])
def test_magnitude_by_size_is_that_of_the_whole_network(name: str) -> None:
    net, _, given = network(name)
    found = given.pruned(PEERS["magnitude"], given.by_size(70), states=False)
    dense, sparse = (
        torch.cat([p.detach().flatten() for p in one.parameters() if p.ndim > 1]).numpy() for one in (net, found)
    )
    kept = sparse != 0
    assert kept.sum() == int(0.3 * len(dense) + 1e-9)
    assert np.abs(dense[kept]).min() >= np.abs(dense[~kept]).max()
    np.testing.assert_array_equal(sparse[kept], dense[kept])


def test_a_layer_is_pruned_on_the_states_of_the_network_pruned_so_far() -> None:
    net, inputs, given = network("mlp")
    found = given.pruned(PEERS["sparsegpt"], given.uniform(60), states=True)
    U = inputs.numpy()
    hidden = np.maximum(U @ found[0].weight.detach().numpy().T, 0.0)
    with torch.no_grad():
        target = net[:3](inputs).numpy()
    layer = PEERS["sparsegpt"].prune(Layer.of_samples(net[2].weight.detach().numpy(), hidden, target, 16))
    np.testing.assert_allclose(found[2].weight.detach().numpy(), layer, atol=1e-9)


def test_targets_of_the_baseline_bring_the_outputs_nearer_than_own_targets() -> None:
    net, inputs, given = network("mlp")
    counts, errors = given.uniform(60), []
    for states in (True, False):
        found = given.pruned(PEERS["alps"], counts, states=states)
        with torch.no_grad():
            errors.append(float((found(inputs) - net(inputs)).norm()))
    assert errors[0] < errors[1]


@pytest.mark.parametrize(("name", "layer", "size"), [("residual", "stem", 108), ("mlp", "0", 63)])
def test_more_weights_than_there_are_is_refused(name: str, layer: str, size: int) -> None:
    _, _, given = network(name)
    with pytest.raises(sp.InputError, match=rf"counts: layer {layer} has {size} weights, got {size + 1} to keep"):
        given.pruned(PEERS["alps"], given.sizes | {layer: size + 1}, states=True, correct=True)


def test_resnet20_takes_the_published_weights(data_dir: Path) -> None:
    file = data_dir / "weights" / "resnet20-12fca82f.th"
    if not file.exists():
        pytest.skip(f"no {file}")
    stored = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
    net = resnet20()
    net.load_state_dict({name.removeprefix("module."): value for name, value in stored.items()})
    assert sum(p.numel() for p in net.parameters() if p.ndim > 1) == 268_336
    with np.load(data_dir / "cifar-10" / "cifar10-subset-lossless.npz") as data:
        images = torch.from_numpy(data["test_images"][:200]).permute(0, 3, 1, 2).float() / 255
        labels = data["test_labels"][:200].ravel()
    with torch.no_grad():
        accuracy = np.mean(net.eval()(images).argmax(1).numpy() == labels)
    assert accuracy > 0.88
