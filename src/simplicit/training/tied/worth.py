r"""What an error in a channel is worth: how far it moves the outputs.

To first order an error e in the pre-activation of channel i at one position moves the outputs by e·∂y/∂z, so that the
outputs' squared error is the channels' squared errors, summed over samples and positions, weighted by

    sᵢ = mean over samples and positions of ‖∂y/∂zᵢ‖²

The squared norm is estimated from vector-Jacobian products along the graph: exact with one for each output, from random
signs where there are many.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from simplicit.baseline.graph import NetworkGraph
from simplicit.training.tied.layers import TiedLayer
from simplicit.training.tied.walk import batches_of

__all__ = ["worth"]

Array = npt.NDArray[np.float64]

#: Samples and products behind the estimate.
SAMPLES, BATCH, PROBES = 128, 32, 10
#: A channel that no output sees is worth this share of the most important one, so that its weights have an order too.
FLOOR = 1e-9


def worth(graph: NetworkGraph, layers: list[TiedLayer], inputs: Tensor) -> list[Array]:
    """sᵢ of the channels of every layer, arrays of shape (rows,)."""
    step = -(-len(inputs) // SAMPLES)
    chosen = inputs[::step]
    totals = {layer.node: torch.zeros(layer.rows, dtype=torch.float64) for layer in layers}
    generator = torch.Generator().manual_seed(0)
    for batch in batches_of(chosen, BATCH):
        probed = _Probed(graph, {layer.node for layer in layers})
        outputs = probed.run(*graph.constants.values(), batch).flatten(1)
        probes = _probes(outputs, generator)
        for probe in probes:
            gradients = torch.autograd.grad(
                (outputs * probe).sum(), list(probed.offsets.values()), retain_graph=True, allow_unused=True
            )
            for node, gradient in zip(probed.offsets, gradients, strict=True):
                if gradient is not None:
                    totals[node] += _per_channel(gradient, node, layers) * len(batch)
    result = [(totals[layer.node] / len(chosen)).numpy() for layer in layers]
    highest = max((float(one.max()) for one in result), default=0.0)
    return [np.maximum(one, FLOOR * max(highest, np.finfo(float).tiny)) for one in result]


def _probes(outputs: Tensor, generator: torch.Generator) -> Tensor:
    """Vectors v with the mean of v vᵀ near the identity, times their number; (probes, 1 or b, q)."""
    q = outputs.shape[1]
    if q <= PROBES:
        return torch.eye(q, dtype=outputs.dtype).unsqueeze(1)
    signs = torch.randint(0, 2, (PROBES, *outputs.shape), generator=generator).to(outputs.dtype)
    return torch.mul(2 * signs - 1, PROBES**-0.5)


def _per_channel(gradient: Tensor, node: Node, layers: list[TiedLayer]) -> Tensor:
    """The mean square over samples and positions of each channel."""
    (layer,) = (one for one in layers if one.node is node)
    channel = gradient.ndim - 1 if layer.geometry is None else 1
    others = [axis for axis in range(gradient.ndim) if axis != channel]
    return gradient.double().square().mean(dim=others)


class _Probed(Interpreter):
    """Runs the graph with an offset of zero on the result of every layer, to differentiate by."""

    def __init__(self, graph: NetworkGraph, nodes: set[Node]) -> None:
        super().__init__(graph.module)
        self._nodes = nodes
        self.offsets: dict[Node, Tensor] = {}

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if n in self._nodes:
            offset = torch.zeros_like(result, requires_grad=True)
            self.offsets[n] = offset
            result = result + offset
        return result
