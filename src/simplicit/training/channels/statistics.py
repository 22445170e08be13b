r"""What a layer's row problems need of the samples, summed up patch by patch.

With patches φ of the student's inputs (columns of R, :mod:`~simplicit.training.channels.patches`), the baseline's
weights W⁰ and b⁰, and the target t, the residual r = t − W⁰φ − b⁰ is small where the student is near the baseline, and
the sums

    n,  Σφ,  Σφφᵀ,  Σr,  Σrφᵀ,  Σr²

give every statistic of the problem in t without the loss of digits that small residuals would have in t: Σtφᵀ = Σrφᵀ +
W⁰Σφφᵀ, and so on. Patches may count by weights ω, of mean 1 (:mod:`~simplicit.training.channels.sensitivity`). Products
of a few thousand patches are taken in the network's dtype, their sums in float64; so φ is taken less an offset o, near
its mean, and equal to it where φ does not vary, or else float32 would lose the variance of columns that are large and
hardly vary. Where patches are few beside their columns the products are in float64 too, so that their sum has the low
rank that :mod:`~simplicit.training.factor` looks for. No matrix of all patches is ever made.

The target is the baseline's pre-activation. Where the result (normalised by γ, σ) is added to a skip path, the branch
can also answer for what the skip path gets wrong, with

    t = z + (σ/γ)(skip of the baseline − skip of the student)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from simplicit.checks import refused
from simplicit.machine import one_thread_each, side_by_side
from simplicit.progress import counted
from simplicit.rows.batch import Array
from simplicit.training.channels.after import inverse_gain
from simplicit.training.channels.layers import ChannelLayer, Use, nodes_before
from simplicit.training.channels.masks import Masks
from simplicit.training.channels.parts import part_of
from simplicit.training.channels.walk import Walk
from simplicit.training.factor import few_samples

#: Entries of a patch matrix at a time: a few megabytes, which stay in the cache.
CHUNK = 2**20
#: Of batches that are thinned one in so many is summed up, as long as so many patches for each column are left.
THINNED, ENOUGH_PATCHES = 4, 50


@dataclass(frozen=True, eq=False)
class Statistics:
    """Sums over all patches, weighted where there are weights; a layer's rows come in g groups of r, each on d columns.

    ``rounding`` is the unit of rounding of the products that were summed, that of the network's dtype. Statistics are
    ``settled`` where inputs and targets are the baseline's, of all samples.
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
    """Statistics in the making, about an ``offset`` (g, d, 1), of which there is none to begin with."""

    def __init__(self, weights: Tensor, offset: Tensor | None = None) -> None:
        g, r, d = weights.shape
        self.weights, self.offset = weights, offset
        self.count, self.mass = 0, torch.zeros(g, 1).double()
        self.features, self.products = torch.zeros(g, d).double(), torch.zeros(g, d, d).double()
        self.residuals, self.energy = torch.zeros(g, r).double(), torch.zeros(g, r).double()
        self.cross = torch.zeros(g, r, d).double()

    def begin(self, R: Tensor | None, omega: Tensor | None) -> None:
        """Take the offset from the first patches, if there are any."""
        if R is not None:
            self.offset = _offset(R, omega)

    def anew(self) -> _Sums:
        """Others about the same offset."""
        return _Sums(self.weights, self.offset)

    def add(
        self, R: Tensor, target: Tensor | None, omega: Tensor | None, bias: Tensor | None, *, exactly: bool
    ) -> None:
        """Add patches (g, d, n), their targets (g, r, n), weights (g, 1, n), and the bias (g, r, 1) in the targets.

        No targets where they are the baseline's own results; no weights where they are ones. Products are taken
        ``exactly`` in float64, or else in the network's dtype.
        """
        assert self.offset is not None
        dtype = torch.float64 if exactly else R.dtype
        self.count += R.shape[2]
        self.mass += R.shape[2] if omega is None else omega.sum(dim=2, dtype=torch.float64)
        # Patches and residuals are multiplied by √ω once, so that products are those of a matrix with itself.
        root = None if omega is None else omega.to(dtype).sqrt()
        S = (R - self.offset).to(dtype)
        if root is not None:
            S *= root
        self.features += S.sum(dim=2) if root is None else (S @ root.transpose(1, 2))[:, :, 0]
        self.products += _with_itself(S)
        if target is None:
            return
        constant = self.weights @ self.offset
        residual = (target - (constant if bias is None else constant + bias)).to(dtype)
        if root is not None:
            residual *= root
        residual -= self.weights.to(dtype) @ S
        self.cross += residual @ S.transpose(1, 2)
        self.residuals += (residual if root is None else residual * root).sum(dim=2, dtype=torch.float64)
        self.energy += residual.square().sum(dim=2, dtype=torch.float64)

    def merge(self, other: _Sums, stands_for: float = 1.0) -> None:
        """Add what was summed up apart, about the same offset, and stands for so many of its kind."""
        self.count += round(other.count * stands_for)
        for name in ("mass", "features", "products", "residuals", "energy", "cross"):
            getattr(self, name).add_(getattr(other, name), alpha=stands_for)

    def finished(self, *, settled: bool) -> Statistics:
        g, _, d = self.weights.shape
        offset = torch.zeros(g, d) if self.offset is None else self.offset.squeeze(2)
        products = (self.products + self.products.transpose(1, 2)) / 2
        return Statistics(
            count=self.count,
            mass=self.mass.numpy(),
            offset=offset.double().numpy(),
            features=self.features.numpy(),
            products=products.numpy(),
            residuals=self.residuals.numpy(),
            cross=self.cross.numpy(),
            energy=self.energy.numpy(),
            weights=self.weights.double().numpy(),
            rounding=float(torch.finfo(self.weights.dtype).eps),
            settled=settled,
        )


def _with_itself(S: Tensor) -> Tensor:
    """S Sᵀ of each group, (g, d, d)."""
    if len(S) > 1:
        return S @ S.transpose(1, 2)
    rows = S[0].numpy()
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused in the end
        return torch.from_numpy(rows @ rows.T).unsqueeze(0)  # NumPy computes one triangle of it


def _offset(R: Tensor, omega: Tensor | None) -> Tensor:
    """Near the mean of patches (g, d, n), and equal to it where those that count are all alike; (g, d, 1)."""
    if omega is None:
        first = R[:, :, :1]
        return torch.where((first == R).all(dim=2, keepdim=True), first, R.mean(dim=2, keepdim=True))
    heaviest = omega.argmax(dim=2, keepdim=True).expand(-1, R.shape[1], -1)
    first = R.gather(2, heaviest)
    mean = (R * omega).sum(dim=2, keepdim=True) / omega.sum(dim=2, keepdim=True).clamp(min=torch.finfo(R.dtype).tiny)
    return torch.where(((first == R) | (omega == 0)).all(dim=2, keepdim=True), first, mean)


#: Some samples of a batch, their patches R (g, d, n) with weights ω (g, 1, n), and which of their positions count.
_Chunk = tuple[slice, Tensor, Tensor | None, Tensor | None]


@dataclass(frozen=True, eq=False)
class Gathering:
    """Where the statistics of a layer come from: a walk that has not passed the layer's first use.

    ``untrained`` names the nodes of this layer and of those after it. The inputs are the student's where
    they are ``propagated``, or the baseline's. ``omega`` is ω, use by use and batch by batch, as the result is laid out
    with groups in place of channels; ``masks`` say which positions count at all. Batches are summed up on so many
    ``workers``, and their sums come together in the order of the batches. Where they are ``thinned``, some batches
    stand for all where patches are many.
    """

    walk: Walk
    layer: ChannelLayer
    untrained: frozenset[str] = frozenset()
    propagated: bool = True
    omega: Sequence[Tensor] | None = None
    masks: Masks | None = None
    workers: int = 1
    thinned: bool = False

    def statistics(self) -> Statistics:
        """Of the inputs and targets of all uses; InputError where they leave the range of the network's dtype."""
        constants = self.walk.graph.constants
        kernel = self.layer.kernel(constants[self.layer.weight])
        sums, settled = _Sums(kernel), True
        for number, use in enumerate(self.layer.uses):
            self.walk.run_until(use.node)
            settled &= self._add(sums, use, number)
        found = sums.finished(settled=settled)
        if not all(np.isfinite(part).all() for part in (found.products, found.cross, found.energy)):
            raise refused(
                "inputs",
                f"the sums of squares of what layer {self.layer.name!r} sees leave the range of {kernel.dtype}; "
                "scale the inputs, or take network and inputs in float64",
            )
        return found

    def absorbs(self, use: Use) -> bool:
        """Whether there is an error of a skip path to answer for, known by now."""
        if use.skip is None or not self.propagated:
            return False
        skip = use.skip.node
        return not any(n.name in self.untrained for n in nodes_before(skip)) and self.walk.differs(skip)

    def _add(self, sums: _Sums, use: Use, number: int) -> bool:
        """Add a use, and say whether it is settled."""
        layer, walk = self.layer, self.walk
        absorbs = self.absorbs(use)
        settled = not absorbs and not (self.propagated and walk.differs(use.source))
        bias = None
        if use.bias and use.biased:
            bias = part_of(use.bias_part, walk.graph.constants[use.bias]).reshape(layer.groups, -1, 1)
        inputs = (walk.student if self.propagated else walk.baseline)(use.source)
        exactly = self._few(use, inputs)

        def of_batch(place: int) -> _Sums:
            own = sums.anew()
            error = self._error(use, place) if absorbs else None
            for part, R, omega, kept in self._chunks(use, number, place, inputs[place]):
                target = None
                if not settled:
                    target = use.form.split(use.form.laid(self._target(use, place, part, error)))
                    target = target if kept is None else target[:, :, kept]
                own.add(R, target, omega, bias, exactly=exactly)
            return own

        every = range(len(walk.batches))
        if sums.offset is None:
            seen = (chunk for place in every for chunk in self._chunks(use, number, place, inputs[place]))
            sums.begin(*next(((R, omega) for _, R, omega, _ in seen), (None, None)))
        places = every[:: self._step(use, inputs)]
        total = self._summed(of_batch, places, sums)
        if len(places) < len(every) and not bool((total.mass > 0).all()):  # what counts is in the others
            places, total = every, self._summed(of_batch, every, sums)
        sums.merge(total, sum(map(len, walk.batches)) / sum(len(walk.batches[place]) for place in places))
        return settled and len(places) == len(every)

    def _summed(self, of_batch: Callable[[int], _Sums], places: Sequence[int], like: _Sums) -> _Sums:
        """The sums of some batches together."""
        total = like.anew()
        with one_thread_each():
            summed = side_by_side(of_batch, places, self.workers)
            for one in counted(summed, "Gram matrix", len(places)):
                total.merge(one)
        return total

    def _few(self, use: Use, inputs: Sequence[Tensor]) -> bool:
        """Whether a use has so few patches that products of low rank are to be known as such."""
        return few_samples(self._patches(use, inputs), self.layer.columns)

    def _patches(self, use: Use, inputs: Sequence[Tensor]) -> int:
        """The patches of a use, those of padding too."""
        entries = sum(use.form.entries(x, self.layer.columns) for x in inputs)
        return entries // (self.layer.groups * self.layer.columns)

    def _step(self, use: Use, inputs: Sequence[Tensor]) -> int:
        """Every which batch is summed up."""
        if not self.thinned:
            return 1
        enough = self._patches(use, inputs) // (ENOUGH_PATCHES * self.layer.columns)
        return max(1, min(THINNED, enough, len(inputs)))

    def _chunks(self, use: Use, number: int, place: int, x: Tensor) -> Iterator[_Chunk]:
        """The inputs of a batch that count, a few samples at a time."""
        form = use.form
        weights = None if self.omega is None else self.omega[number * len(self.walk.batches) + place]
        mask = None if self.masks is None else self.masks.kept(use, place)
        entries = max(1, form.entries(x, self.layer.columns))
        step = max(1, CHUNK * len(x) // entries) if form.sliced else len(x)
        for first in range(0, len(x), step):
            part = slice(first, first + step) if form.sliced else slice(None)
            R, omega = form.features(x[part]), None if weights is None else form.split(weights[part])
            kept = None if mask is None else form.positions(mask[part])
            if kept is not None:
                R, omega = R[:, :, kept], None if omega is None else omega[:, :, kept]
            if R.shape[2]:
                yield part, R, omega, kept

    def _target(self, use: Use, place: int, part: slice, error: Callable[[slice], Tensor] | None) -> Tensor:
        """t of some samples of a batch, in the shape of z, with what the skip path gets wrong on them."""
        target: Tensor = self.walk.baseline_on(use.node, use.source, place, part)
        if error is None:
            return target
        if self.layer.norm is None:
            return target + error(part)
        shape = (-1,) if use.form.channel == -1 else (-1, *[1] * (target.ndim - 2))
        return target.add(inverse_gain(norm_gain(self.walk, self.layer)).reshape(shape) * error(part))

    def _error(self, use: Use, place: int) -> Callable[[slice], Tensor]:
        """What the skip path of a use gets wrong in a batch, as the branch has to answer for it, by samples."""
        assert use.skip is not None
        skip, constants = use.skip, self.walk.graph.constants
        theirs, ours = self.walk.baseline(skip.node)[place], self.walk.student(skip.node)[place]
        if not skip.steps:
            return lambda part: skip.back(theirs[part] - ours[part], constants)
        whole = skip.back(theirs - ours, constants)
        return lambda part: whole[part]


def norm_gain(walk: Walk, layer: ChannelLayer) -> Tensor:
    """γ/√(v + ε) of the norm after a layer, (rows,); ones without."""
    constants, norm = walk.graph.constants, layer.norm
    if norm is None:
        return torch.ones(layer.rows, dtype=constants[layer.weight].dtype)
    gain = (constants[norm.variance] + norm.eps).rsqrt()
    return gain if norm.weight is None else gain * constants[norm.weight]
