r"""The search for the formats of a network: each layer alone, then the network as a whole beside the dense one.

There a third way stands beside them: the batch in *tiles* of samples, each taken through the whole network by one
thread, so that what sparse layers read and write stays in the caches of its processor; products with few non-zeros
spend their time outside of them otherwise. A batch size at which neither wins stays dense.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from simplicit.checks import refused
from simplicit.network.calls import Call
from simplicit.network.outputs import Choice
from simplicit.runtime.accelerated import Accelerated, FormatTable, Whole, in_tiles
from simplicit.runtime.formats import DENSE, formatted, plain_kind
from simplicit.runtime.formats.choosing import LEAST_GAIN, Chooser, LayerFormat
from simplicit.runtime.formats.layers import LINEAR, Formats
from simplicit.runtime.formats.measuring import least_seconds

# Samples of a tile: measured best, with 16, at 1,024 and 2,048 wide on cores with 2 MiB of cache of their own.
_TILE = 32
# Seconds for the comparison of whole networks, at one batch size.
_OF_WHOLE = 0.15
# Outputs may differ by so much, relative to the largest: sums have another order, through many layers.
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-9}

# And by so much where only other samples differ.
_SAME = {torch.float32: 1e-5, torch.float64: 1e-12}

Shapes = dict[str, tuple[int, ...]]


class Samples:
    """Any number of samples like the two of an example, and the call of a network by them."""

    def __init__(self, call: Call, U: Tensor, choice: Choice) -> None:
        self.call, self.U, self.choice = call, U, choice

    def arguments(self, count: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call with so many samples, no two of which are alike where numbers may be changed."""
        U = self.U[torch.arange(count) % 2].reshape(count, -1).clone()
        generator = torch.Generator().manual_seed(0)
        for spec in self.call.layout.specs:
            part = U[:, self.call.layout.columns[spec.name]]
            if spec.floating:
                part *= 1 + 0.01 * torch.randn(part.shape, generator=generator, dtype=U.dtype)
            else:  # what may be looked up is known of these integers only, so that they change places
                part.copy_(torch.stack([row.roll(place) for place, row in enumerate(part)]))
        return self.call.arguments(U.reshape(count, *self.U.shape[1:]))

    def treated_alone(self, network: nn.Module) -> bool:
        """Whether what a network makes of a sample stays when that before it, or after it, is quite another one."""
        one, other = self.U[:1], self._other()
        with torch.no_grad():
            alike, before, after = (self._outputs(network, pair) for pair in ((one, one), (other, one), (one, other)))
        scale = _SAME.get(alike.dtype, 0.0) * float(alike.abs().max())
        found = torch.stack([after[0], before[1]])
        return bool(((found - alike).abs() <= scale).all())

    def _other(self) -> Tensor:
        """A sample, (1, ...), that is far from the first, of integers that are in the example."""
        one, row = self.U[0].reshape(-1), self.U[1].reshape(-1).clone()
        for spec in self.call.layout.specs:
            columns = self.call.layout.columns[spec.name]
            if spec.floating:
                row[columns] = 2 * row[columns] + 1
            elif torch.equal(row[columns], one[columns]):
                row[columns] = row[columns][:1]
        return row.reshape(self.U[:1].shape)

    def _outputs(self, network: nn.Module, pair: tuple[Tensor, Tensor]) -> Tensor:
        in_order, by_name = self.call.arguments(torch.cat(pair))
        return self.choice.of(network(*in_order, **by_name))


def plain_layers(network: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """The layers that may get a format, by name, each once."""
    named = network.named_modules()
    return {name: one for name, one in named if isinstance(one, nn.Linear | nn.Conv2d) and plain_kind(one) is not None}


def exchange(network: nn.Module, choices: Mapping[str, Formats], *, as_given: bool = False) -> nn.Module:
    """Put layers with formats in the place of those that are not dense at every size; the network is changed."""
    made: dict[int, nn.Module] = {}
    for name, module in plain_layers(network).items():
        if any(one != DENSE for _, one in choices.get(name, ())):
            made[id(module)] = formatted(module, choices[name], as_given=as_given)
    if id(network) in made:
        return made[id(network)]
    for parent in [*network.modules()]:
        for name, child in [*parent.named_children()]:
            if id(child) in made:
                setattr(parent, name, made[id(child)])
    return network


class Search:
    """The search for one network, which stays as it is; its ``samples`` are those it is measured with."""

    def __init__(self, network: nn.Module, samples: Samples, allowed: Sequence[str]) -> None:
        self.network, self.samples = network, samples
        self.layers, self.chooser = plain_layers(network), Chooser(allowed)

    def best(self, batches: Sequence[int]) -> Accelerated:
        """The network with the formats that were found best for these batch sizes."""
        found = {batch: self._layers_at(batch) for batch in batches}
        tile = self._tile() if max(batches) > _TILE and self.samples.treated_alone(self.network) else None
        of_tile = [] if tile is None else self._layers_at(tile)
        self.chooser.measured.keep()
        trial, as_given = self._trial([*found.values(), of_tile])
        if trial is None:
            note = "its network reads more of it than outputs"
            rows = [_dense(layer, note) for layers in found.values() for layer in layers]
            return Accelerated(self.network, FormatTable(tuple(rows), tuple(Whole(batch, 1.0) for batch in batches)))
        tiled = tile if any(layer.format != DENSE for layer in of_tile) else None
        wholes = [self._whole(trial, batch, layers, tiled) for batch, layers in found.items()]
        for whole in wholes:
            if whole.tile is not None:
                found[whole.batch] = [replace(layer, batch=whole.batch) for layer in of_tile]
            elif whole.ratio == 1.0:
                note = "the network is not faster by it"
                found[whole.batch] = [_dense(layer, note) for layer in found[whole.batch]]
        table = FormatTable(tuple(layer for layers in found.values() for layer in layers), tuple(wholes))
        return Accelerated(exchange(self.network, _choices(found.values()), as_given=as_given), table)

    def _layers_at(self, batch: int) -> list[LayerFormat]:
        shapes = self._shapes(batch)
        return [self.chooser.choose(name, self.layers[name], shape, batch) for name, shape in shapes.items()]

    def _shapes(self, batch: int) -> Shapes:
        """The shapes of what every layer reads at a batch size; without those that are never called."""
        shapes: Shapes = {}

        def note(name: str, module: nn.Module, given: tuple[Any, ...]) -> None:
            if given:
                shapes[name] = tuple(given[0].shape)

        handles = [one.register_forward_pre_hook(partial(note, name)) for name, one in self.layers.items()]
        try:
            self._run(self.network, 2)
        finally:
            for handle in handles:
                handle.remove()
        return {name: (_grown(shape[0], batch), *shape[1:]) for name, shape in shapes.items()}

    def _tile(self) -> int:
        """Samples that are so many rows of layers as a tile should have."""
        shapes = self._shapes(1)
        rows = [
            torch.Size(shape[:-1]).numel() for name, shape in shapes.items() if plain_kind(self.layers[name]) == LINEAR
        ]
        return max(1, _TILE // max([1, *rows]))

    def _run(self, network: nn.Module, batch: int) -> Any:
        in_order, by_name = self.samples.arguments(batch)
        with torch.no_grad():
            return network(*in_order, **by_name)

    def _trial(self, found: Sequence[Sequence[LayerFormat]]) -> tuple[nn.Module | None, bool]:
        """A copy with the layers exchanged, and whether they give outputs as dense layers lay them.

        A network that views outputs in another shape needs that. None where it does not run with either: it reads
        more of its layers than what they return.
        """
        choices = _choices(found)
        for as_given in (False, True):
            tensors = [*self.network.parameters(), *self.network.buffers()]
            same = copy.deepcopy(self.network, {id(tensor): tensor for tensor in tensors})
            trial = exchange(same, choices, as_given=as_given)
            try:
                self._run(trial, 2)
            except Exception:  # the user's own code, with other layers in it, can raise anything
                continue
            return trial, as_given
        return None, False

    def _whole(self, trial: nn.Module, batch: int, layers: Sequence[LayerFormat], tile: int | None) -> Whole:
        """What a batch size gains by the formats of the trial, at once or in tiles, whichever is faster."""
        in_order, by_name = self.samples.arguments(batch)
        ways: dict[str, Callable[[], Any]] = {DENSE: partial(self.network, *in_order, **by_name)}
        if any(layer.format != DENSE for layer in layers):
            ways["at once"] = partial(trial, *in_order, **by_name)
        if tile is not None and batch > tile:
            ways["tiles"] = partial(in_tiles, trial, in_order, by_name, batch, tile)
        ways = self._agreeing(ways)
        seconds = least_seconds(ways, _OF_WHOLE) if len(ways) > 1 else {DENSE: 1.0}
        best = min(seconds, key=lambda way: seconds[way])
        ratio = seconds[DENSE] / seconds[best]
        return Whole(batch, ratio, tile if best == "tiles" else None) if ratio >= LEAST_GAIN else Whole(batch, 1.0)

    def _agreeing(self, ways: Mapping[str, Callable[[], Any]]) -> dict[str, Callable[[], Any]]:
        """Those that give what the dense network does; InputError where the network at once does not."""
        with torch.no_grad():
            found = {name: way() for name, way in ways.items() if name != "tiles" or isinstance(ways[DENSE](), Tensor)}
        wanted = self.samples.choice.of(found[DENSE])
        scale = _TOLERANCE[wanted.dtype] * float(wanted.abs().max()) if wanted.dtype in _TOLERANCE else 0.0
        alike = dict.fromkeys([DENSE], ways[DENSE])
        for name, value in found.items():
            got = value if name == "tiles" else self.samples.choice.of(value)
            if got.shape == wanted.shape and bool(((got - wanted).abs() <= scale).all()):
                alike[name] = ways[name]
            elif name == "at once":
                raise refused("net", "gives other outputs with other sums of the same terms, so it is not a function")
        return alike


def faster(small: nn.Module, given: nn.Module, samples: Samples, batches: Sequence[int]) -> bool:
    """Whether a compacted network takes less time than the one that it was made of, over all batch sizes."""
    gain = 1.0
    for batch in batches:
        in_order, by_name = samples.arguments(batch)
        ways = {DENSE: partial(given, *in_order, **by_name), "compacted": partial(small, *in_order, **by_name)}
        seconds = least_seconds(ways, _OF_WHOLE)
        gain *= seconds[DENSE] / seconds["compacted"]
    return gain >= 1.0


def _grown(length: int, batch: int) -> int:
    """The length for a batch of what has it for two samples; where it is odd, it does not grow with them."""
    return length if length % 2 else length // 2 * batch


def _choices(found: Iterable[Sequence[LayerFormat]]) -> dict[str, list[tuple[int, str]]]:
    """The formats of every layer by its number of samples."""
    choices: dict[str, dict[int, str]] = {}
    for layers in found:
        for layer in layers:
            choices.setdefault(layer.layer, {})[layer.samples] = layer.format
    return {name: [*formats.items()] for name, formats in choices.items()}


def _dense(layer: LayerFormat, note: str) -> LayerFormat:
    return layer if layer.format == DENSE else replace(layer, format=DENSE, ratio=1.0, note=note)
