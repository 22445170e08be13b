r"""What a layer's row problems need of the samples, summed up patch by patch.

With patches φ (columns of R, :mod:`~simplicit.training.tied.patches`) on the student's inputs, the baseline's weights W⁰
and b⁰, and the target t, the residual r = t − W⁰φ − b⁰ is small where the student is near the baseline, and the sums

    n,  Σφ,  Σφφᵀ,  Σr,  Σrφᵀ,  Σr²

give every statistic of the problem in t to full precision: Σtφᵀ = Σrφᵀ + W⁰Σφφᵀ, and so on. Products of a few thousand
patches are taken in the network's dtype, their sums in float64. No matrix of all patches is ever made.

The target is the baseline's pre-activation. Where the result (normalised by γ, σ) is added to a skip path, the branch
can also answer for what the skip path gets wrong, with

    t = z + (σ/γ)(skip of the baseline − skip of the student)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from simplicit.training.tied.layers import TiedLayer, nodes_before, weight_matrix
from simplicit.training.tied.patches import channels_first, patches
from simplicit.training.tied.walk import Walk

__all__ = ["Statistics", "gather", "norm_gain"]

Array = npt.NDArray[np.float64]

#: Entries of a patch matrix at a time: a few megabytes, which stay in the cache.
CHUNK = 2**20
#: The error of a skip path is left alone where the norm's gain is below this share of the layer's largest.
LEAST_GAIN = 1e-2


@dataclass(frozen=True, eq=False)
class Statistics:
    """Sums over all patches; a layer's rows come in g groups of r, each on d columns.

    Attributes
    ----------
    count : int
        n.
    features : (g, d) array
        Σφ.
    products : (g, d, d) array
        Σφφᵀ.
    residuals : (g, r) array
        Σr.
    cross : (g, r, d) array
        Σrφᵀ.
    energy : (g, r) array
        Σr².
    weights : (g, r, d) array
        W⁰.
    """

    count: int
    features: Array
    products: Array
    residuals: Array
    cross: Array
    energy: Array
    weights: Array

    @cached_property
    def mean(self) -> Array:
        """Of φ, (g, d)."""
        return self.features / self.count

    @cached_property
    def shift(self) -> Array:
        """The mean of r, (g, r)."""
        return self.residuals / self.count


class _Sums:
    """Statistics in the making."""

    def __init__(self, weights: Tensor, bias: Tensor | None) -> None:
        g, r, d = weights.shape
        self.weights, self.bias = weights, bias
        self.count = 0
        self.features, self.products = torch.zeros(g, d).double(), torch.zeros(g, d, d).double()
        self.residuals, self.energy = torch.zeros(g, r).double(), torch.zeros(g, r).double()
        self.cross = torch.zeros(g, r, d).double()

    def add(self, R: Tensor, target: Tensor | None) -> None:
        """Add patches (g, d, n) and their targets (g, r, n); None where they are the baseline's own results."""
        self.count += R.shape[2]
        self.features += R.sum(dim=2, dtype=torch.float64)
        self.products += R @ R.transpose(1, 2)
        if target is None:
            return
        residual = target - self.weights @ R
        if self.bias is not None:
            residual -= self.bias
        self.residuals += residual.sum(dim=2, dtype=torch.float64)
        self.energy += residual.square().sum(dim=2, dtype=torch.float64)
        self.cross += residual @ R.transpose(1, 2)

    def finished(self) -> Statistics:
        products = (self.products + self.products.transpose(1, 2)) / 2
        weights = self.weights.double().numpy()
        arrays = (self.features, products, self.residuals, self.cross, self.energy)
        return Statistics(self.count, *(array.numpy() for array in arrays), weights)


def norm_gain(walk: Walk, layer: TiedLayer) -> Tensor:
    """γ/√(v + ε) of the norm after a layer, (rows,); ones without."""
    constants, norm = walk.graph.constants, layer.norm
    weight = constants[layer.weight]
    if norm is None:
        return torch.ones(layer.rows, dtype=weight.dtype)
    gain = (constants[norm.variance] + norm.eps).rsqrt()
    return gain if norm.weight is None else gain * constants[norm.weight]


def gather(walk: Walk, layer: TiedLayer, later: set[str], *, own: bool, absorb: bool = True) -> Statistics:
    """The statistics of a layer at the present state of the walk.

    Parameters
    ----------
    walk : Walk
        Has come to the layer.
    layer : TiedLayer
    later : set of str
        Names of the nodes of this layer and those not trained yet.
    own : bool
        On the student's inputs, not the baseline's.
    absorb : bool
        Whether a branch answers for the error of its skip path.
    """
    weight, constants = walk.graph.constants[layer.weight], walk.graph.constants
    by_group = (layer.groups, layer.rows // layer.groups, -1)
    bias = None if layer.bias is None else constants[layer.bias].reshape(*by_group[:2], 1)
    sums = _Sums(weight_matrix(weight).reshape(by_group), bias)
    skip = layer.skip if own and absorb else None
    if skip is not None and (any(n.name in later for n in nodes_before(skip)) or not walk.differs(skip)):
        skip = None
    exact = skip is None and not (own and walk.differs(layer.source))
    inputs = walk.student(layer.source) if own else walk.baseline(layer.source)
    for place, x in enumerate(inputs):
        target = None
        if not exact:
            target = layer_target(walk, layer, place, skip is not None)
        step = max(1, CHUNK * len(x) // max(1, _patch_entries(x, layer)))
        for first in range(0, len(x), step):
            part = slice(first, first + step)
            wanted = None if target is None else channels_first(target[part], layer.geometry)
            sums.add(patches(x[part], layer.geometry), wanted)
    return sums.finished()


def layer_target(walk: Walk, layer: TiedLayer, place: int, absorb: bool) -> Tensor:
    """t of one batch, in the shape of z."""
    # The baseline's own z: the node itself has not been computed yet, for the student needs its new weights.
    with torch.no_grad():
        target = walk.baseline_result(layer.node, place)
    if not absorb:
        return target
    assert layer.skip is not None
    gain = norm_gain(walk, layer)
    factor = torch.where(gain.abs() > LEAST_GAIN * gain.abs().max(), 1 / gain, 0.0)
    shape = (-1,) if layer.geometry is None else (-1, *[1] * (target.ndim - 2))
    error = walk.baseline(layer.skip)[place] - walk.student(layer.skip)[place]
    return target + factor.reshape(shape) * error


def _patch_entries(x: Tensor, layer: TiedLayer) -> int:
    """Entries of the patch matrix of a whole batch."""
    if layer.geometry is None:
        return x.numel()
    columns = layer.groups * layer.size // layer.rows
    return len(x) * torch.Size(layer.geometry.positions(x.shape[2:])).numel() * columns
