r"""What tied training allocates at its peak, before it starts.

With m samples in batches of b, each on one of w workers, that is

    weights and Gram matrices of the widest layer
    m · what is kept of a sample between passes, and what its positions count
    w · b · twice what is alive while a sample goes through the graph, or
    w · n · a stage of the derivative with what is alive at its ends, and w · n · what crosses between its stages

whichever of the last two is more, for n of the b samples at a time
(:mod:`~simplicit.training.channels.stages`). Nothing of it grows with the depth of a network but what it keeps and what
crosses, which may both be on disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from simplicit.machine import check_memory, gib
from simplicit.network.graph import NetworkGraph
from simplicit.training.channels.derivatives import probe_bytes
from simplicit.training.channels.layers import ChannelLayer
from simplicit.training.channels.samples import BATCH
from simplicit.training.channels.sensitivity import differentiated_in
from simplicit.training.channels.stages import TRACED, numbers
from simplicit.training.channels.store import Store
from simplicit.training.channels.sweep import Walker

#: Square matrices of a layer that are alive at a time: products, centred, with ridge, and one each of the workers'.
MATRICES = 4
#: And of one group, while the bound on its supports is sought: what is given, eigenvectors and their workspace.
OF_THE_BOUND = 5
#: Bytes of a file by those of the values in it: these are aligned.
GAPS = 1.01


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
    batch = min(samples, BATCH)
    walking = batch * 2 * live_numbers(graph) * graph.dtype.itemsize
    derivatives = _Derivatives.of(graph, layers, min(samples, differentiated))
    at_work = min(workers, -(-samples // BATCH))  # each has a batch of its own
    work, crossing = at_work * max(walking, derivatives.working), at_work * derivatives.crossing
    positions = derivatives.positions
    between, at_once = kept_bytes(graph, layers)
    columns = [(layer.groups, layer.columns) for layer in layers]
    grams = max((8 * d * d * (MATRICES * groups + max(2 * workers, OF_THE_BOUND)) for groups, d in columns), default=0)
    before = store.held + store.written
    everything = before + samples * positions + max(samples * at_once, crossing)
    if store.folder is None:
        states = before + samples * (between + positions) + batch * between + crossing + work
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


@dataclass(frozen=True)
class _Derivatives:
    """Bytes of a batch while it is differentiated: of the largest stage, and of what crosses between stages; and bytes
    of what the positions of a sample count."""

    working: float = 0.0
    crossing: float = 0.0
    positions: float = 0.0

    @classmethod
    def of(cls, graph: NetworkGraph, layers: list[ChannelLayer], samples: int) -> Self:
        """For so many samples in a batch; nothing for none."""
        if not samples:
            return cls()
        stages = differentiated_in(graph, layers, samples)
        part = stages.at_a_time(samples)
        part += part < samples  # of an odd number one has three
        uses = [(numbers(use.node), layer) for layer in layers for use in layer.uses]
        positions = sum(result * layer.groups // layer.rows for result, layer in uses) * graph.dtype.itemsize
        channels = 8 * sum(layer.rows for _, layer in uses) / min(samples, part)
        return cls(part * stages.working + probe_bytes(graph, part), part * stages.crossing, positions + channels)


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
        live += numbers(node)
        peak = max(peak, live)
        for argument in node.all_input_nodes:
            left[argument] -= 1
            if not left[argument] and argument.op != "placeholder":
                live -= numbers(argument)
    return peak
