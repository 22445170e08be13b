"""Which format a layer gets at a number of samples: the fastest that a measurement on this machine found."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from math import log2
from typing import Any

import torch
from torch import nn

from simplicit.runtime.formats.base import DENSE, FORMATS
from simplicit.runtime.formats.cache import Measured, Seconds
from simplicit.runtime.formats.layers import formatted, plain_kind
from simplicit.runtime.formats.measuring import least_seconds

#: What a format has to gain over dense torch: less is within what measurements of the same thing differ by.
LEAST_GAIN = 1.05
# Seconds for one layer, and for all layers of a network together.
_OF_ONE, _OF_ALL = 0.04, 0.8
#: Below so many weights all is overhead, of which torch's own layer has least.
_LEAST_WEIGHTS = 2**12


@dataclass(frozen=True)
class LayerFormat:
    """The format of a layer at a batch size.

    Attributes
    ----------
    layer : str
        Its name in the network.
    kind : str
        "linear" or "convolution".
    shape : (int, int)
        Of its weight as a matrix.
    non_zeros : int
    batch : int
        Samples of the network.
    samples : int
        Those of the layer for them: a layer that treats all tokens alike has one for each.
    format : str
        "dense", "csr", "bsr4", "bsr8" or "2:4".
    ratio : float
        How many times faster than dense torch it was measured alone; 1 for dense.
    note : str
        Why it is dense.
    """

    layer: str
    kind: str
    shape: tuple[int, int]
    non_zeros: int
    batch: int
    samples: int
    format: str
    ratio: float
    note: str


def described(
    name: str, module: nn.Linear | nn.Conv2d, batch: int, samples: int, chosen: str, ratio: float, note: str
) -> LayerFormat:
    """The record of what a layer has got."""
    weight = module.weight.detach().flatten(1)
    shape = (int(weight.shape[0]), int(weight.shape[1]))
    non_zeros = int(torch.count_nonzero(weight))
    return LayerFormat(name, plain_kind(module) or "", shape, non_zeros, batch, samples, chosen, ratio, note)


class Chooser:
    """Chooses formats for the layers of one network, among the ``allowed`` ones, on one budget of time."""

    def __init__(self, allowed: Collection[str]) -> None:
        self.allowed, self.measured, self._spent = tuple(allowed), Measured(), 0.0

    def choose(self, name: str, module: nn.Linear | nn.Conv2d, shape: Sequence[int], batch: int) -> LayerFormat:
        """The format of a layer for inputs of a ``shape``, of ``batch`` samples of the network."""
        weight = module.weight.detach().flatten(1)
        rows = shape[0] if isinstance(module, nn.Conv2d) else _rows(shape)
        result = partial(described, name, module, batch, rows)
        if weight.numel() < _LEAST_WEIGHTS:
            return result(DENSE, 1.0, "too small to gain")
        refusals = {one: FORMATS[one].refusal(weight) for one in self.allowed}
        fitting = [one for one, why in refusals.items() if why is None]
        if not fitting:
            return result(DENSE, 1.0, next(iter(refusals.values()), None) or "no format was allowed")
        density = int(torch.count_nonzero(weight)) / weight.numel()
        seconds = self._seconds(module, shape, rows, density, fitting)
        best = min(fitting, key=lambda one: seconds[one])
        ratio = seconds[DENSE] / seconds[best]
        return result(best, ratio, "") if ratio >= LEAST_GAIN else result(DENSE, 1.0, "measured")

    def _seconds(
        self, module: nn.Linear | nn.Conv2d, shape: Sequence[int], rows: int, density: float, names: Sequence[str]
    ) -> Seconds:
        key = _key(module, shape, density)
        if (known := self.measured.seconds.get(key)) is not None and {DENSE, *names} <= known.keys():
            return known
        begun = time.perf_counter()
        x = torch.randn(*shape, dtype=module.weight.dtype, device=module.weight.device)
        ways: dict[str, Callable[[], Any]] = {DENSE: partial(module, x)}
        ways |= {one: partial(formatted(module, [(rows, one)]), x) for one in names}
        found = least_seconds(ways, min(_OF_ONE, max(0.0, _OF_ALL - self._spent)))
        self._spent += time.perf_counter() - begun
        self.measured.add(key, found)
        return found


def _rows(shape: Sequence[int]) -> int:
    return max(1, torch.Size(shape[:-1]).numel())


def _key(module: nn.Linear | nn.Conv2d, shape: Sequence[int], density: float) -> str:
    """What the time depends on: densities count alike that differ by less than a fifth."""
    weight = "x".join(map(str, module.weight.shape))
    more = "" if isinstance(module, nn.Linear) else f" stride {module.stride} padding {module.padding}"
    of = "x".join(map(str, shape if isinstance(module, nn.Conv2d) else (_rows(shape),)))
    share = round(4 * log2(max(density, 1e-6))) / 4
    dtype = str(module.weight.dtype).removeprefix("torch.")
    return f"{weight}{more} density 2^{share:g} {dtype} {module.weight.device.type} samples {of}"
