r"""Squared derivatives of the outputs by the results of layers, ‖y'v‖² for some vectors v, stage by stage.

The samples of a batch go forward through the stages (:mod:`~simplicit.training.channels.stages`), and what crosses
between them is kept in the store. Then each stage, the last first, is gone through once more, with what it is
differentiated by, and all vectors are pulled back through it one after another. Forwards the same kernels are run both
times, so that derivatives are those of the whole network at once, to the bit: sums over the readers of a value are
taken in the same order, the last reader first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from simplicit.checks import lookups_checked
from simplicit.network.graph import NetworkGraph
from simplicit.training.channels.stages import Stage, Stages, numbers
from simplicit.training.channels.store import Known, Store, Values, not_kept

#: Vector-Jacobian products behind the estimate, at most; each is a backward pass of the network over all samples. Five
#: for ten outputs saved a tenth of the time of ResNet-20, and cost a point and a half of its accuracy at 95 % zeros.
PROBES = 10
#: Scaled derivatives are at most so large, and the powers of two that scale them.
LARGEST, LARGEST_POWER = 2.0**30, 1000


class Scaled:
    """Sums of squares like a result, in the making: what they are times a power of two squared, the ``scale``.

    So they stay in the range of their dtype. A scale of 0 says that no derivative but zero was seen.
    """

    def __init__(self, like: Tensor) -> None:
        self.sums, self.scale = torch.zeros_like(like, requires_grad=False), 0.0

    def add(self, gradient: Tensor) -> None:
        """The derivatives by one probe."""
        low, high = torch.aminmax(gradient)
        largest = max(-float(low), float(high))
        if 0 < largest < np.inf and (not self.scale or largest * self.scale > LARGEST):
            scale = 2.0 ** -min(max(round(math.log2(largest)), -LARGEST_POWER), LARGEST_POWER)
            ratio = scale / (self.scale or scale)
            self.sums.mul_(ratio).mul_(ratio)
            self.scale = scale
        scale = self.scale or 1.0
        if 1 / LARGEST < scale < LARGEST:  # a power of two, which rounds nothing
            self.sums.addcmul_(gradient, gradient, value=scale * scale)
        else:
            scaled = gradient * scale
            self.sums.addcmul_(scaled, scaled)


def squared_derivatives(
    graph: NetworkGraph, stages: Stages, inputs: Tensor, first: int, store: Store
) -> Iterator[tuple[Node, Scaled]]:
    """By the results of layers on samples, the first of which is number ``first``; those of the last stage first.

    What crosses between stages is in the ``store`` meanwhile.
    """
    crossing = _Crossing(graph, stages, inputs, store)
    for stage in stages.stages[:-1]:
        crossing.keep(crossing.run(stage))
    products = _Products(crossing.run(stages.stages[-1]), first)
    yield from products.squares()
    for stage in reversed(stages.stages[:-1]):
        crossing.forget()
        products.follow(crossing.run(stage))
        yield from products.squares()


@dataclass(frozen=True, eq=False)
class _Ran:
    """A stage that was gone through: what it ``reads`` that errors before it move, the ``results`` of layers in it, and
    what it gives, or the network's output, as ``ends``."""

    reads: Mapping[Node, Tensor]
    results: Mapping[Node, Tensor]
    ends: Mapping[Node, Any]


class _Crossing:
    """What stages leave for later ones, of some samples."""

    def __init__(self, graph: NetworkGraph, stages: Stages, inputs: Tensor, store: Store) -> None:
        self._graph, self._stages, self._inputs, self._store = graph, stages, inputs, store
        self._values: list[Values] = []  # of one stage each
        self._places: dict[Node, tuple[int, int]] = {}
        placeholders = graph.module.graph.find_nodes(op="placeholder")
        self._given = {node: graph.constants.get(node.name, inputs) for node in placeholders}

    def run(self, stage: Stage) -> _Ran:
        """Go through a stage, to be differentiated."""
        with torch.enable_grad(), lookups_checked():
            run = Interpreter(self._graph.module)
            known = {node: self._value(node) for node in stage.reads}
            moved = {node: one for node, one in known.items() if node in self._stages.moved and _is_smooth(one)}
            reads = {node: one.requires_grad_() for node, one in moved.items()}
            results = {}
            run.env = {**self._given, **known}
            for node in stage.nodes:
                value = run.run_node(node)
                if node in self._stages.results:
                    results[node] = value = value if value.requires_grad else value.detach().requires_grad_()
                run.env[node] = value
                for one in stage.last.get(node, ()):
                    del run.env[one]
            return _Ran(reads, results, {node: run.env[node] for node in stage.gives or stage.nodes[-1:]})

    def keep(self, ran: _Ran) -> None:
        """Keep what the next stage gives."""
        number, known = len(self._values), Known()
        not_kept(self._inputs, known)
        values = self._store.values(f"stage-{number}")
        for place, (node, value) in enumerate(ran.ends.items()):
            values.append(_let_go(value), known)
            self._places[node] = number, place
        self._values.append(values)

    def forget(self) -> None:
        """Forget what the last stage gave that gave something; those after it are done."""
        self._values.pop()

    def _value(self, node: Node) -> Any:
        number, place = self._places[node]
        return _let_go(self._values[number][place])


def _let_go(value: Any) -> Any:
    """A value without what it was computed from; sizes are numbers."""
    return value.detach() if isinstance(value, Tensor) else value


def _is_smooth(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


class _Products:
    """The products of probes with the derivatives of the outputs by what stages that are done have read.

    They begin with the last stage, whose one end is the output.
    """

    def __init__(self, last: _Ran, first: int) -> None:
        (output,) = last.ends.values()
        with torch.enable_grad():
            self._outputs: Tensor | None = output.reshape(len(output), -1)  # a network may give a number for a sample
        self._probes = _probes(self._outputs.detach(), first)
        self._vectors: list[dict[Node, Tensor]] = [{} for _ in self._probes]
        self._ran: _Ran | None = last

    def follow(self, ran: _Ran) -> None:
        """Go on with the stage before."""
        self._ran = ran

    def squares(self) -> Iterator[tuple[Node, Scaled]]:
        """Those by the results in the stage, through which all products are pulled back, and which is let go."""
        ran, self._ran = self._ran, None
        assert ran is not None
        found = {node: Scaled(result) for node, result in ran.results.items()}
        for number, vectors in enumerate(self._vectors):
            ends, weights = self._ends(number, ran)
            gradients = _pulled(ends, weights, ran, again=number + 1 < len(self._vectors))
            for squares, gradient in zip(found.values(), gradients, strict=False):
                if gradient is not None:
                    squares.add(gradient)
            for node, gradient in zip(ran.reads, gradients[len(found) :], strict=True):
                if gradient is not None:
                    vectors[node] = gradient
            del ends, weights, gradients
        self._outputs, self._probes = None, torch.empty(0)
        del ran
        while found:
            yield found.popitem()

    def _ends(self, number: int, ran: _Ran) -> tuple[list[Tensor], list[Tensor | None]]:
        """What a product is pulled back from, with its weights there."""
        if self._outputs is not None:
            with torch.enable_grad():
                pairs: list[tuple[Tensor, Tensor | None]] = [((self._outputs * self._probes[number]).sum(), None)]
        else:
            vectors = self._vectors[number]
            # What the stage reads has its sum over later readers already, with which the sum over all begins.
            reads = [(value, vectors[node]) for node, value in ran.reads.items() if node in vectors]
            pairs = [*reads, *((value, vectors.pop(node)) for node, value in ran.ends.items() if node in vectors)]
        moved = [pair for pair in pairs if pair[0].requires_grad]
        return [value for value, _ in moved], [weight for _, weight in moved]


def _pulled(ends: list[Tensor], weights: list[Tensor | None], ran: _Ran, *, again: bool) -> Sequence[Tensor | None]:
    """The weighted sum of ends differentiated by results and reads, in order; None where it does not depend on one."""
    wanted = [*ran.results.values(), *ran.reads.values()]
    if not ends or not wanted:
        return [None] * len(wanted)
    found: Sequence[Tensor | None] = torch.autograd.grad(ends, wanted, weights, retain_graph=again, allow_unused=True)
    return found


def _probes(outputs: Tensor, first: int) -> Tensor:
    """Vectors v with the mean of Σ v vᵀ near the identity; (probes, 1 or b, q).

    They depend on the number of the sample alone, not on how samples come in batches.
    """
    q = outputs.shape[1]
    count = min(q, PROBES)
    if q == count:
        return torch.eye(q, dtype=outputs.dtype).unsqueeze(1)
    generator, probes = torch.Generator(), torch.empty(count, len(outputs), q, dtype=outputs.dtype)
    for place in range(len(outputs)):
        normal = torch.empty(q, count, dtype=torch.float64)
        normal.normal_(generator=generator.manual_seed(first + place))
        probes[:, place] = torch.linalg.qr(normal).Q.mul_(math.sqrt(q / count)).T
    return probes


def probe_bytes(graph: NetworkGraph, samples: int) -> int:
    """Bytes of the probes of so many samples, and of those of one while they are drawn and made orthonormal."""
    q = numbers(graph.output)
    if q <= PROBES:
        return q * q * graph.dtype.itemsize
    return q * PROBES * (samples * graph.dtype.itemsize + 2 * 8)
