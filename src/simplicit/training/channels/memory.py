"""What tied training allocates at its peak, before it starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.fx import Node

from simplicit.machine import check_memory, gib
from simplicit.network.graph import NetworkGraph
from simplicit.training.channels.layers import ChannelLayer
from simplicit.training.channels.samples import BATCH
from simplicit.training.channels.store import Store
from simplicit.training.channels.sweep import Walker

#: Square matrices of a layer that are alive at a time: products, centred, with ridge, and one each of the workers'.
MATRICES = 4
#: And of one group, while the bound on its supports is sought: what is given, eigenvectors and their workspace.
OF_THE_BOUND = 5
#: Bytes of a file by those of the values in it: these are aligned.
GAPS = 1.01
#: Samples with which a graph is traced.
TRACED = 2


@dataclass(frozen=True)
class Needs:
    """Bytes that a fit takes at most, beside the network and what its caller holds: in memory, and on disk."""

    memory: float
    disk: float = 0.0

    def __str__(self) -> str:
        return f"up to {gib(self.memory)} of memory and {gib(self.disk)} on disk"


def check_samples_fit(
    graph: NetworkGraph,
    layers: list[ChannelLayer],
    samples: int,
    workers: int,
    *,
    differentiated: int,
    store: Store | None = None,
) -> Needs:
    """What so many samples need; InputError before the start where it cannot fit.

    So many at a time are differentiated, or 0. States and what positions count are in the ``store``, beside what it
    has by now.
    """
    store = Store() if store is None else store
    work, positions = _of_a_batch(graph, layers, min(samples, BATCH), min(samples, differentiated))
    work *= min(workers, -(-samples // BATCH))  # each has one of its own
    between, at_once = kept_bytes(graph, layers)
    columns = [(layer.groups, layer.columns) for layer in layers]
    grams = max((8 * d * d * (MATRICES * groups + max(2 * workers, OF_THE_BOUND)) for groups, d in columns), default=0)
    before = store.held + store.written
    everything = before + samples * (at_once + positions)
    if store.folder is None:
        states = before + samples * (between + positions) + min(samples, BATCH) * between + work
        needs = Needs(states + grams)
    else:
        states = min(store.budget, everything) + work
        needs = Needs(states + grams, max(0.0, GAPS * everything - store.budget))
    what = (
        f"{samples:,} samples, with {gib(states)} for states and derivatives and {gib(grams)} for Gram matrices, need"
    )
    spared = store.folder is None and min(store.budget, everything) + work < states
    remedy = "give fewer samples" + (", or a folder where states can be on disk with cache=" if spared else "")
    check_memory("inputs", states + grams, what, remedy)
    store.check_room(needs.disk - store.written)
    return needs


def _of_a_batch(
    graph: NetworkGraph, layers: list[ChannelLayer], walked: int, differentiated: int
) -> tuple[float, float]:
    """Bytes for a batch of so many samples on its way through the graph, and of what positions count for one."""
    size = graph.dtype.itemsize
    work = walked * 2 * live_numbers(graph) * size
    if not differentiated:
        return work, 0.0
    uses = [(_numbers(use.node), layer) for layer in layers for use in layer.uses]
    # Every value of a batch, and the derivatives.
    kept = sum(map(_numbers, graph.module.graph.nodes)) + 3 * sum(result for result, _ in uses)
    positions = sum(result * layer.groups // layer.rows for result, layer in uses)
    return max(work, differentiated * kept * size), positions * size


def kept_bytes(graph: NetworkGraph, layers: list[ChannelLayer]) -> tuple[float, float]:
    """Bytes of a sample that baseline and student keep at most between passes, and while one of these makes another.

    They are found out by a walk of the two samples with which the graph was traced.
    """
    store, most = Store(), 0
    walker = Walker(graph, [graph.example], store)
    for layer in layers:
        for use in layer.uses:
            walker.before(layer).run_until(use.node)
            most = max(most, store.held)
        walker.change(layer, {name: graph.constants[name] for name in layer.placeholders})
        if not layer.shared:
            walker.walk.student(layer.result)
            most = max(most, store.held)
    return most / TRACED, store.most_held / TRACED


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
