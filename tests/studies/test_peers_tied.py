"""Pruning methods on networks with convolutions; ResNet-20."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import simplicit as sp
from simplicit.network.graph import capture_graph
from simplicit.runs.resnet import resnet20
from simplicit.studies.peers import PEERS, TiedNetwork
from tied_nets import made


def network(name: str = "residual") -> tuple[nn.Module, Any, TiedNetwork]:
    net, inputs = made(name)
    return net, inputs, TiedNetwork(capture_graph(net, inputs), inputs, 16)


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("name", ["residual", "depthwise"])
@pytest.mark.parametrize(("states", "correct"), [(False, False), (False, True), (True, True)])
def test_every_layer_keeps_its_number(peer: str, name: str, states: bool, correct: bool) -> None:
    net, inputs, tied = network(name)
    counts = tied.uniform(60)
    found = tied.pruned(PEERS[peer], counts, states=states, correct=correct)
    for layer in tied.layers:
        weight = found.get_parameter(f"{layer.name}.weight")
        assert int((weight != 0).sum()) == counts[layer.name]
    with torch.no_grad():
        assert found(inputs).isfinite().all()
    same = [torch.equal(value, net.state_dict()[key]) for key, value in found.state_dict().items() if "mean" in key]
    assert not all(same) if correct else all(same)


@pytest.mark.parametrize("peer", PEERS)
def test_a_network_that_keeps_everything_stays_as_it_is(peer: str) -> None:
    net, inputs, tied = network()
    found = tied.pruned(PEERS[peer], tied.uniform(0), states=False, correct=False)
    with torch.no_grad():
        torch.testing.assert_close(found(inputs), net(inputs), rtol=1e-6, atol=1e-8)


def test_magnitude_by_size_is_that_of_the_whole_network() -> None:
    net, _, tied = network()
    counts = tied.by_size(70)
    found = tied.pruned(PEERS["magnitude"], counts, states=False, correct=False)
    dense, sparse = (
        torch.cat([p.detach().flatten() for p in one.parameters() if p.ndim > 1]).numpy() for one in (net, found)
    )
    kept = sparse != 0
    assert kept.sum() == int(0.3 * len(dense) + 1e-9)
    assert np.abs(dense[kept]).min() >= np.abs(dense[~kept]).max()
    np.testing.assert_array_equal(sparse[kept], dense[kept])


def test_more_weights_than_there_are_is_refused() -> None:
    _, _, tied = network()
    with pytest.raises(sp.InputError, match=r"counts: layer stem has 108 weights, got 109 to keep"):
        tied.pruned(PEERS["alps"], tied.sizes | {"stem": 109}, states=True, correct=True)


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
