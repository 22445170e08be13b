"""Two networks side by side, node by node."""

from __future__ import annotations

import pytest
import torch

from simplicit.training.channels import channel_layers
from simplicit.training.channels.samples import batches_of
from simplicit.training.channels.walk import Walk
from tied_nets import NETS, made, subject


@pytest.mark.parametrize("name", NETS)
def test_a_walk_computes_what_the_network_does(name: str) -> None:
    graph, (net, inputs) = subject(name).graph, made(name)
    walk = Walk(graph, batches_of(inputs, 9))
    layers = channel_layers(graph)
    changed = {layer.weight: 0.9 * graph.constants[layer.weight] for layer in layers}
    walk.change(changed)
    own, theirs = torch.cat([*walk.student(graph.output)]), torch.cat([*walk.baseline(graph.output)])
    with torch.no_grad():
        torch.testing.assert_close(theirs, net(inputs))
        for parameter in net.parameters():
            if parameter.ndim > 1:
                parameter *= 0.9
        torch.testing.assert_close(own, net(inputs))


@pytest.mark.parametrize(
    ("m", "size", "sizes"), [(1, 5, [2]), (6, 5, [6]), (11, 5, [5, 6]), (4, 1, [2, 2]), (3, 1, [3])]
)
def test_no_batch_has_a_single_sample(m: int, size: int, sizes: list[int]) -> None:
    assert [len(batch) for batch in batches_of(torch.rand(m, 2), size)] == sizes
