"""What tied training allocates at its peak, before it starts."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.fx import Node

from simplicit.machine import check_memory, gib
from simplicit.network.graph import NetworkGraph
from simplicit.training.channels.layers import ChannelLayer

#: Square matrices of a layer that are alive at a time: products, centred, with ridge, and one each of the workers'.
MATRICES = 4
#: And of one group, while the bound on its supports is sought: what is given, eigenvectors and their workspace.
OF_THE_BOUND = 5
#: Samples with which a graph is traced.
TRACED = 2


def check_samples_fit(
    graph: NetworkGraph, layers: list[ChannelLayer], samples: int, workers: int, *, differentiated: int
) -> None:
    """Refuse before the start what cannot fit; so many samples at a time are differentiated, or 0."""
    numbers = samples * 2 * live_numbers(graph)
    if differentiated:  # every value of a batch, and the derivatives; then what positions count
        uses = [(_numbers(use.node), layer) for layer in layers for use in layer.uses]
        kept = sum(map(_numbers, graph.module.graph.nodes)) + 3 * sum(result for result, _ in uses)
        positions = sum(result * layer.groups // layer.rows for result, layer in uses)
        numbers = max(numbers, min(samples, differentiated) * kept) + 2 * samples * positions
    states = numbers * graph.dtype.itemsize
    columns = [(layer.groups, layer.columns) for layer in layers]
    grams = max((8 * d * d * (MATRICES * groups + max(2 * workers, OF_THE_BOUND)) for groups, d in columns), default=0)
    what = (
        f"{samples:,} samples, with {gib(states)} for states and derivatives and {gib(grams)} for Gram matrices, need"
    )
    check_memory("inputs", states + grams, what, "give fewer samples")


def live_numbers(graph: NetworkGraph) -> int:
    """How many numbers of one sample are alive at most while the graph is walked through."""
    left = {node: len(node.users) for node in graph.module.graph.nodes}
    live = peak = 0
    for node in graph.module.graph.nodes:
        if node.op in ("placeholder", "output"):
            continue
        live += _numbers(node)
        peak = max(peak, live)
        for argument in node.all_input_nodes:
            left[argument] -= 1
            if not left[argument] and argument.op != "placeholder":
                live -= _numbers(argument)
    return peak


def _numbers(node: Node) -> int:
    """Of one sample; the parts of a tuple are counted where they are taken out."""
    value: Any = node.meta.get("val")
    if not isinstance(value, Tensor) or value.ndim == 0:
        return 0
    numbers = 1
    for size in value.shape:  # a multiple of the number of samples, which was two when the graph was traced
        known = size if isinstance(size, int) else size.node.hint
        numbers *= known if isinstance(size, int) else max(1, (known or 0) // TRACED)
    return numbers
