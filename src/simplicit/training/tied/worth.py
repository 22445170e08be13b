r"""What an error in a pre-activation is worth: how far it moves the outputs.

To first order an error e in channel i at position q of a sample moves the outputs by e·∂y/∂z_iq. With errors that are
uncorrelated, the outputs' squared error is the sum of

    g_iq e_iq²        g_iq = ‖∂y/∂z_iq‖²

over channels, positions and samples. One Gram matrix has to do for all channels of a layer, so g is taken for the
product of its margins, g_iq ≈ sᵢωq:

    sᵢ = mean over q of g_iq        ωq = Σᵢ g_iq / mean over q of Σᵢ g_iq

A layer's least squares weight a position by ωq, whose mean is 1: what a ReLU shuts off, or nothing looks at, counts for
little. sᵢ compares channels, so that one price for a weight holds in the whole network. The squared norm is estimated
from vector-Jacobian products along the graph: exact with one for each output, from random signs where there are many.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from simplicit.baseline.graph import NetworkGraph
from simplicit.errors import InputError
from simplicit.training.tied.layers import TiedLayer

__all__ = ["Worth", "worth"]

Array = npt.NDArray[np.float64]

#: Vector-Jacobian products behind the estimate, at most.
PROBES = 10
#: A channel that no output sees is worth this share of the most important one, so that its weights have an order too.
FLOOR = 1e-9


@dataclass(frozen=True, eq=False)
class Worth:
    """What errors are worth in one layer.

    Attributes
    ----------
    channels : (rows,) array
        sᵢ.
    positions : list of tensors (b, *positions)
        ω, batch by batch; ones where no output sees the layer.
    """

    channels: Array
    positions: list[Tensor]


def worth(graph: NetworkGraph, layers: list[TiedLayer], batches: list[Tensor]) -> dict[str, Worth]:
    """What errors are worth, by the names of the layers.

    Raises
    ------
    InputError
        Derivatives leave the range of the network's dtype.
    """
    channels = {layer.node: torch.zeros(layer.rows, dtype=torch.float64) for layer in layers}
    positions: dict[Node, list[Tensor]] = {layer.node: [] for layer in layers}
    generator = torch.Generator().manual_seed(0)
    for batch in batches:
        for node, squares in _squared_norms(graph, layers, batch, generator).items():
            channels[node] += squares.sum(dim=[0, *range(2, squares.ndim)], dtype=torch.float64)
            positions[node].append(squares.sum(dim=1))
    found = {}
    for layer in layers:
        sums, parts = channels[layer.node], positions[layer.node]
        total, count = float(sums.sum()), sum(part.numel() for part in parts)
        if not np.isfinite(total):
            raise InputError(
                f"net: the derivatives of the outputs by layer {layer.name!r} leave the range of {graph.dtype}; take "
                "network and inputs in float64"
            )
        seen = [part * (count / total) if total else torch.ones_like(part) for part in parts]
        found[layer.name] = Worth((sums / count).numpy(), seen)
    return _floored(found)


def _floored(found: dict[str, Worth]) -> dict[str, Worth]:
    """With channels that no output sees at a small share of the highest."""
    highest = max((float(one.channels.max()) for one in found.values()), default=0.0)
    least = FLOOR * max(highest, np.finfo(float).tiny)
    return {name: Worth(np.maximum(one.channels, least), one.positions) for name, one in found.items()}


def _squared_norms(
    graph: NetworkGraph, layers: list[TiedLayer], batch: Tensor, generator: torch.Generator
) -> dict[Node, Tensor]:
    """g of a batch, (b, rows, *positions)."""
    probed = _Probed(graph, {layer.node for layer in layers})
    outputs = probed.run(*graph.constants.values(), batch).flatten(1)
    totals = {node: torch.zeros_like(offset) for node, offset in probed.offsets.items()}
    for probe in _probes(outputs, generator):
        gradients = torch.autograd.grad(
            (outputs * probe).sum(), list(probed.offsets.values()), retain_graph=True, allow_unused=True
        )
        for node, gradient in zip(probed.offsets, gradients, strict=True):
            if gradient is not None:
                totals[node].addcmul_(gradient, gradient)
    linear = {layer.node for layer in layers if layer.geometry is None}
    return {node: total.movedim(-1, 1) if node in linear else total for node, total in totals.items()}


def _probes(outputs: Tensor, generator: torch.Generator) -> Tensor:
    """Vectors v with the mean of v vᵀ near the identity, times their number; (probes, 1 or b, q)."""
    q = outputs.shape[1]
    if q <= PROBES:
        return torch.eye(q, dtype=outputs.dtype).unsqueeze(1)
    signs = torch.randint(0, 2, (PROBES, *outputs.shape), generator=generator).to(outputs.dtype)
    return torch.mul(2 * signs - 1, PROBES**-0.5)


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
