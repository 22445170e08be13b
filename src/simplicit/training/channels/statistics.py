r"""What a layer's row problems need of the samples, summed up patch by patch.

With patches φ of the student's inputs (columns of R, :mod:`~simplicit.training.channels.patches`), the baseline's
weights W⁰ and b⁰, and the target t, the residual r = t − W⁰φ − b⁰ is small where the student is near the baseline, and
the sums

    n,  Σφ,  Σφφᵀ,  Σr,  Σrφᵀ,  Σr²

give every statistic of the problem in t without the loss of digits that small residuals would have in t: Σtφᵀ = Σrφᵀ +
W⁰Σφφᵀ, and so on. Patches may count by weights ω, of mean 1 (:mod:`~simplicit.training.channels.sensitivity`). Products
of a few thousand patches are taken in the network's dtype, their sums in float64; so φ is taken less an offset o, near
its mean, and equal to it where φ does not vary, or else float32 would lose the variance of columns that are large and
hardly vary. No matrix of all patches is ever made.

The target is the baseline's pre-activation. Where the result (normalised by γ, σ) is added to a skip path, the branch
can also answer for what the skip path gets wrong, with

    t = z + (σ/γ)(skip of the baseline − skip of the student)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from simplicit.checks import refused
from simplicit.rows.batch import Array
from simplicit.training.channels.layers import ChannelLayer, nodes_before
from simplicit.training.channels.patches import channels_first, patches
from simplicit.training.channels.walk import Walk

#: Entries of a patch matrix at a time: a few megabytes, which stay in the cache.
CHUNK = 2**20
#: The error of a skip path is left alone where the norm's gain is below this share of the layer's largest.
LEAST_GAIN = 1e-2


@dataclass(frozen=True, eq=False)
class Statistics:
    """Sums over all patches, weighted where there are weights; a layer's rows come in g groups of r, each on d columns.

    ``rounding`` is the unit of rounding of the products that were summed, that of the network's dtype. Statistics are
    ``settled`` where inputs and targets are the baseline's.
    """

    count: int  # n
    mass: Array  # (g, 1), Σω: n, up to rounding, without weights and with those of a mean of 1
    offset: Array  # (g, d), o
    features: Array  # (g, d), Σ(φ − o)
    products: Array  # (g, d, d), Σ(φ − o)(φ − o)ᵀ
    residuals: Array  # (g, r), Σr
    cross: Array  # (g, r, d), Σr(φ − o)ᵀ
    energy: Array  # (g, r), Σr²
    weights: Array  # (g, r, d), W⁰
    rounding: float
    settled: bool

    @cached_property
    def mean(self) -> Array:
        """Of φ, (g, d)."""
        return self.offset + self.features / self.mass

    @cached_property
    def shift(self) -> Array:
        """The mean of r, (g, r)."""
        return self.residuals / self.mass


class _Sums:
    """Statistics in the making."""

    def __init__(self, weights: Tensor, bias: Tensor | None) -> None:
        g, r, d = weights.shape
        self.weights, self.bias = weights, bias
        self.count, self.mass, self.offset = 0, torch.zeros(g, 1).double(), torch.zeros(g, d, 1)
        self.features, self.products = torch.zeros(g, d).double(), torch.zeros(g, d, d).double()
        self.residuals, self.energy = torch.zeros(g, r).double(), torch.zeros(g, r).double()
        self.cross = torch.zeros(g, r, d).double()

    def add(self, R: Tensor, target: Tensor | None, omega: Tensor | None = None) -> None:
        """Add patches (g, d, n), their targets (g, r, n), and weights (g, 1, n).

        No targets where they are the baseline's own results; no weights where they are ones.
        """
        if not self.count:
            self.offset = _offset(R, omega)
        self.count += R.shape[2]
        self.mass += R.shape[2] if omega is None else omega.sum(dim=2, dtype=torch.float64)
        S = R - self.offset
        weighted_S = S if omega is None else S * omega
        self.features += weighted_S.sum(dim=2, dtype=torch.float64)
        self.products += weighted_S @ S.transpose(1, 2)
        if target is None:
            return
        residual = target - self.weights @ R
        if self.bias is not None:
            residual -= self.bias
        self.cross += residual @ weighted_S.transpose(1, 2)
        weighted_residual = residual if omega is None else residual * omega
        self.residuals += weighted_residual.sum(dim=2, dtype=torch.float64)
        self.energy += (weighted_residual * residual).sum(dim=2, dtype=torch.float64)

    def finished(self, *, settled: bool) -> Statistics:
        products = (self.products + self.products.transpose(1, 2)) / 2
        return Statistics(
            count=self.count,
            mass=self.mass.numpy(),
            offset=self.offset.double().squeeze(2).numpy(),
            features=self.features.numpy(),
            products=products.numpy(),
            residuals=self.residuals.numpy(),
            cross=self.cross.numpy(),
            energy=self.energy.numpy(),
            weights=self.weights.double().numpy(),
            rounding=float(torch.finfo(self.weights.dtype).eps),
            settled=settled,
        )


def _offset(R: Tensor, omega: Tensor | None) -> Tensor:
    """Near the mean of patches (g, d, n), and equal to it where those that count are all alike; (g, d, 1)."""
    if omega is None:
        first = R[:, :, :1]
        return torch.where((first == R).all(dim=2, keepdim=True), first, R.mean(dim=2, keepdim=True))
    heaviest = omega.argmax(dim=2, keepdim=True).expand(-1, R.shape[1], -1)
    first = R.gather(2, heaviest)
    mean = (R * omega).sum(dim=2, keepdim=True) / omega.sum(dim=2, keepdim=True).clamp(min=torch.finfo(R.dtype).tiny)
    return torch.where(((first == R) | (omega == 0)).all(dim=2, keepdim=True), first, mean)


@dataclass(frozen=True, eq=False)
class Gathering:
    """Where the statistics of a layer come from: a walk that has come to it.

    ``untrained`` names the nodes of this layer and of those after it. The inputs are the student's where
    they are ``propagated``, or the baseline's. ``omega`` is ω, batch by batch, in the shape of the result with groups
    in place of channels.
    """

    walk: Walk
    layer: ChannelLayer
    untrained: frozenset[str] = frozenset()
    propagated: bool = True
    omega: list[Tensor] | None = None

    @cached_property
    def absorbs(self) -> bool:
        """Whether there is an error of a skip path to answer for, known by now."""
        skip = self.layer.skip
        if skip is None or not self.propagated or any(n.name in self.untrained for n in nodes_before(skip)):
            return False
        return self.walk.differs(skip)

    def statistics(self) -> Statistics:
        """Of the layer's inputs and targets; InputError where they leave the range of the network's dtype."""
        sums, geometry = _Sums(self._kernel, self._bias), self.layer.geometry
        settled = not self.absorbs and not (self.propagated and self.walk.differs(self.layer.source))
        for place, part, R in self._chunks():
            omega = None if self.omega is None else channels_first(self.omega[place][part], geometry)
            sums.add(R, None if settled else channels_first(self._target(place, part), geometry), omega)
        found = sums.finished(settled=settled)
        if not all(np.isfinite(part).all() for part in (found.products, found.cross, found.energy)):
            raise refused(
                "inputs",
                f"the sums of squares of what layer {self.layer.name!r} sees leave the range of {self._kernel.dtype}; "
                "scale the inputs, or take network and inputs in float64",
            )
        return found

    @property
    def _kernel(self) -> Tensor:
        layer = self.layer
        return self.walk.graph.constants[layer.weight].reshape(layer.groups, layer.rows // layer.groups, -1)

    @property
    def _bias(self) -> Tensor | None:
        layer = self.layer
        if layer.bias is None:
            return None
        return self.walk.graph.constants[layer.bias].reshape(layer.groups, -1, 1)

    def _chunks(self) -> Iterator[tuple[int, slice, Tensor]]:
        """Batch by batch, a few samples at a time: the batch, its samples, their patches."""
        inputs = (self.walk.student if self.propagated else self.walk.baseline)(self.layer.source)
        for place, x in enumerate(inputs):
            step = max(1, CHUNK * len(x) // max(1, _patch_entries(x, self.layer)))
            for first in range(0, len(x), step):
                part = slice(first, first + step)
                yield place, part, patches(x[part], self.layer.geometry)

    def _target(self, place: int, part: slice) -> Tensor:
        """t of some samples of a batch, in the shape of z."""
        walk, layer = self.walk, self.layer
        target: Tensor = walk.baseline_on(layer.node, layer.source, place, part)
        if not self.absorbs:
            return target
        assert layer.skip is not None
        gain = norm_gain(walk, layer)
        factor = torch.where(gain.abs() > LEAST_GAIN * gain.abs().max(), 1 / gain, 0.0)
        shape = (-1,) if layer.geometry is None else (-1, *[1] * (target.ndim - 2))
        error = walk.baseline(layer.skip)[place][part] - walk.student(layer.skip)[place][part]
        return target.add(factor.reshape(shape) * error)


def norm_gain(walk: Walk, layer: ChannelLayer) -> Tensor:
    """γ/√(v + ε) of the norm after a layer, (rows,); ones without."""
    constants, norm = walk.graph.constants, layer.norm
    weight = constants[layer.weight]
    if norm is None:
        return torch.ones(layer.rows, dtype=weight.dtype)
    gain = (constants[norm.variance] + norm.eps).rsqrt()
    return gain if norm.weight is None else gain * constants[norm.weight]


def _patch_entries(x: Tensor, layer: ChannelLayer) -> int:
    """Entries of the patch matrix of a whole batch."""
    if layer.geometry is None:
        return x.numel()
    columns = layer.groups * layer.size // layer.rows
    return len(x) * torch.Size(layer.geometry.positions(x.shape[2:])).numel() * columns
