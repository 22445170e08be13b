r"""Supports by thresholding: the ℓ0-constrained least squares of all rows of a layer at once, by ADMM.

    min over W   Σᵢ(wᵢᵀHwᵢ − 2cᵢᵀwᵢ)   s.t.  ‖W‖₀ ≤ count

by the splitting W = D, D with ``count`` entries: W ← (H + ρI)⁻¹(C − V + ρD), D keeps the ``count`` largest entries of
W + V/ρ in the whole layer, V ← V + ρ(W − D). ρ starts low and grows with how much the support still changes, until it
does not (Meng et al., *ALPS: Improved Optimization for Highly Sparse One-Shot Pruning for Large Language Models*,
2024). It looks at all entries at once, where elimination goes step by step.

An iteration is a product of all rows with (H + ρI)⁻¹, by the eigenvectors of H, by the matrix itself while ρ stays
where rows are many, or by a factor of few rows (:mod:`~simplicit.training.factor`). With ρ ≥ :data:`RHO` and columns of
norm one its condition is at most d/ρ, and what is wanted is a support: float32 has digits enough. Rows are in blocks,
so that the number of threads does not change the rounding.

Under a pattern (:mod:`~simplicit.training.support.pattern`) D keeps the largest entries of each group, and the
``count`` largest of these, which is the projection on both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import torch
from torch import Tensor

from simplicit.machine import flushed_denormals, prepare_thread
from simplicit.progress import counted
from simplicit.rows.batch import Array, Mask
from simplicit.training.support.pattern import Groups

RHO, ITERATIONS, EVERY = 0.1, 300, 3
#: ρ grows by the factor if more than this share of the support changed since the last look.
GROWTH = ((0.1, 1.3), (0.005, 1.2), (0.0, 1.1))
#: The same, slower: three times the iterations, and 0.5 to 2 % less error on layers of MiniLM and ResNet-20. As much
#: again, or other steps for other shares, changed a few tenths of a per cent.
SLOW_GROWTH = ((0.0, 1.06),)
#: Rows of a block.
BLOCK_ROWS = 128

#: ρ ↦ (rows ↦ rows·(H + ρI)⁻¹).
Resolvents = Callable[[float], Callable[[Array], Array]]
#: What is done for every block, one after another or by threads.
Map = Callable[[Callable[[slice], Tensor], list[slice]], Iterable[Tensor]]


def keep_largest(scores: Array, count: int, groups: Groups | None = None) -> Mask:
    """The ``count`` largest scores (≥ 0) of a whole array, in the pattern of ``groups``; of equal ones the first."""
    return np.asarray(_largest(torch.from_numpy(np.ascontiguousarray(scores)), count, groups).numpy())


def _largest(scores: Tensor, count: int, groups: Groups | None = None) -> Tensor:
    """The same of a tensor."""
    if groups is not None:
        scores = scores.masked_fill(~groups.largest(scores), -1.0)
    if not 0 < count < scores.numel():
        return torch.full_like(scores, count > 0, dtype=torch.bool)
    flat, place = scores.reshape(-1), scores.numel() - count
    # NumPy's partition takes a tenth of the time of torch's kthvalue.
    least = float(np.partition(flat.numpy(), place)[place])
    kept = flat >= least
    if more := int(kept.count_nonzero()) - count:
        ties = (flat == least).nonzero()[:, 0]
        kept[ties[len(ties) - more :]] = False
    return kept.view(scores.shape)


def support_by_admm(
    H: Array | Resolvents,
    C: Array,
    start: Array,
    count: int,
    allowed: Mask | None = None,
    groups: Groups | None = None,
    *,
    growth: tuple[tuple[float, float], ...] = GROWTH,
    workers: int = 1,
) -> Mask:
    """The support of the last D, (r, d), with ``count`` entries in all rows together.

    H (d, d), given or by its resolvents, is positive semidefinite with a diagonal of ones: columns are in units of
    their norms, and so are the rows' cross-correlations C (r, d). The largest of the weights ``start`` (r, d) are the
    first support; entries may be where it is ``allowed`` (r, d), in the pattern of ``groups``. ρ grows as ``growth``
    says, which is GROWTH in the paper.
    """
    scale = max(float(np.abs(C).max(initial=0.0)), float(np.abs(start).max(initial=0.0))) or 1.0
    c, D = (torch.from_numpy((one / scale).astype(np.float32)) for one in (C, start))
    outside = None if allowed is None or allowed.all() else torch.from_numpy(~allowed)
    with ExitStack() as stack:
        many: Map = map
        if max(C.shape) > BLOCK_ROWS:
            many = stack.enter_context(ThreadPoolExecutor(workers, initializer=prepare_thread)).map
        else:
            # Handing a single block over to a thread takes longer than it does.
            stack.enter_context(flushed_denormals())
        resolvent = _single(H) if callable(H) else _Spectrum(H, len(c), many).resolvent
        return np.asarray(_Splitting(resolvent, c, D, count, outside, many, groups).run(growth).numpy())


def _single(resolvents: Resolvents) -> Callable[[float], Callable[[Tensor], Tensor]]:
    """The same of tensors in float32."""

    def resolvent(rho: float) -> Callable[[Tensor], Tensor]:
        product = resolvents(rho)
        return lambda rows: torch.from_numpy(product(rows.numpy())).float()

    return resolvent


class _Spectrum:
    """H by its eigenvectors, in float32, for products of so many rows."""

    def __init__(self, H: Array, rows: int, many: Map) -> None:
        values, vectors = np.linalg.eigh(H)
        self.values = torch.from_numpy(np.maximum(values, 0.0).astype(np.float32))
        self.vectors = torch.from_numpy(vectors.astype(np.float32))
        self.rows, self.many = rows, many

    def resolvent(self, rho: float) -> Callable[[Tensor], Tensor]:
        """Rows to their products with (H + ρI)⁻¹, by whatever takes fewer products for a few iterations."""
        share = 1 / (self.values + rho)
        if len(self.vectors) >= EVERY * self.rows:
            return lambda rows: (rows @ self.vectors * share) @ self.vectors.T
        # Rows of the matrix in blocks too.
        scaled = self.vectors * share
        matrix = torch.cat(list(self.many(lambda b: scaled[b] @ self.vectors.T, _blocks(len(scaled)))))
        return lambda rows: rows @ matrix


class _Splitting:
    """ADMM from D (r, d), in float32, with rows in blocks."""

    def __init__(
        self,
        resolvent: Callable[[float], Callable[[Tensor], Tensor]],
        c: Tensor,
        D: Tensor,
        count: int,
        outside: Tensor | None,
        many: Map,
        groups: Groups | None = None,
    ) -> None:
        self.resolvent, self.c, self.count, self.outside, self.many = resolvent, c, count, outside, many
        self.groups = groups
        self.blocks = _blocks(len(c))
        self.support = self._kept(D)
        self.D, self.V = D * self.support, torch.zeros_like(D)

    def _kept(self, D: Tensor) -> Tensor:
        """The support of the largest entries where there may be any."""
        scores = D.abs()
        scores = scores if self.outside is None else scores.masked_fill(self.outside, -1.0)
        return _largest(scores, self.count, self.groups)

    def run(self, growth: tuple[tuple[float, float], ...]) -> Tensor:
        """The last support."""
        rho, last = RHO, self.support
        resolvent = self.resolvent(rho)
        longest = ITERATIONS if growth == GROWTH else 2 * ITERATIONS
        for iteration in counted(range(1, longest + 1), "thresholding", longest):
            self._iterate(rho, resolvent)
            if iteration % EVERY == 0:
                changed = int((self.support & ~last).sum())
                if not changed:
                    break
                rho *= next(factor for share, factor in growth if changed > share * self.count)
                resolvent, last = self.resolvent(rho), self.support
        return self.support

    def _iterate(self, rho: float, resolvent: Callable[[Tensor], Tensor]) -> None:
        def towards(block: slice) -> Tensor:
            V = self.V[block]
            V.add_(resolvent(self.c[block] - V + rho * self.D[block]), alpha=rho)
            return V / rho

        D = torch.cat(list(self.many(towards, self.blocks)))
        self.support = self._kept(D)
        self.D = D * self.support
        self.V.sub_(self.D, alpha=rho)


def _blocks(rows: int) -> list[slice]:
    return [slice(first, first + BLOCK_ROWS) for first in range(0, rows, BLOCK_ROWS)]
