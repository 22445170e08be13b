r"""Well-posedness of cycles through blocks: Perron-Frobenius theory of monotone maps that are maxima of linear ones.

Cut what is iterated into *units*: a single state where φ is elementwise, all states of a block together where it is
not. For e >= 0, one number for each unit that bounds how far its states are off, a step of x ← φ(A x + c) leaves at
most

    T(e)_k = L_k max over the rows i of unit k of Σ_l (Σ over the states j of unit l of |A_ij|) e_l,

L_k the Lipschitz constant of φ_k in ‖·‖∞. If T(s) <= ρ s for some s > 0 and ρ < 1, then x ← φ(A x + c) contracts by ρ
in maxᵢ |eᵢ|/sᵢ: there is one equilibrium for every input, and all bounds of Theorem 2.3 hold. With blocks alone this is
λ_pf(N) < 1 for N_kl = L_k‖A_kl‖∞, or better (El Ghaoui, Gu, Travacca, Askari and Tsai, *Implicit Deep Learning*, 2021,
"blockwise Lipschitz"); with elementwise φ alone it is λ_pf(diag(L)|A|) < 1.

Where a block is one of z clipped to a box, and |φ(z) - φ(z')| <= G |z - z'| with a matrix G is known there
(:mod:`simplicit.implicit.groups.deviations`), its states are units of their own too, with the rows of G|A|.

T takes one row of each unit at a time, so that the least such ρ is max over choices of rows π of λ_pf(N_π), N_π the
matrix of the chosen rows: a lower bound for every π, and T(s) = N_π s for the rows that are largest at s makes it an
upper one (Howard's iteration; for v > 0 the Collatz-Wielandt bound max T(v)/v).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from simplicit.errors import NotWellPosedError
from simplicit.implicit.assembly import assemble
from simplicit.implicit.groups import Block, StateGroup, per_state, pre_slices_of, slices_of
from simplicit.implicit.maps import Csr, LinearMap
from simplicit.implicit.spectral import (
    Contraction,
    PerronFrobenius,
    Vector,
    best_contraction,
    dominating,
    ratios,
    resolvent,
    spectral_bounds,
)

# Above so many entries a cycle is not written down where whole groups as units prove it.
_LARGEST_WRITTEN = 4 * 10**7
# Howard's iteration settles in a handful of steps.
_CHOICES = 40
# λ_pf of a choice of rows, relative, at which T is measured: close enough for nine digits of an upper bound.
_ABOVE = 1e-9
# How far outside of the spectrum a vector is taken where nothing is proved, and how tame it is.
_OUTSIDE, _TAME = 1.05, 1e-3


@dataclass(frozen=True, eq=False)
class Cycle:
    """Groups that depend on each other, with the blocks of A among them."""

    groups: tuple[StateGroup, ...]
    blocks: Mapping[tuple[str, str], LinearMap]

    @cached_property
    def bounds(self) -> PerronFrobenius:
        """The least ρ that can be proved, with bounds on both sides; λ_pf(diag(L)|A|) where φ are elementwise.

        NotWellPosedError is raised for a block that has no Lipschitz constant.
        """
        return spectral_bounds(self._elementwise) if self._units is None else self._units.bounds

    @cached_property
    def contraction(self) -> Contraction:
        """s > 0, one number for each state, and ρ < 1 with T(s) <= ρ s; NotWellPosedError where there are none."""
        if self._units is None:
            N = self._elementwise
            return best_contraction(N, self.bounds, lambda s: ratios(N, s)[1])
        found = self._units.contraction
        return Contraction(np.repeat(found.s, self._units.states), found.rho)

    @cached_property
    def vector(self) -> Vector:
        """A vector s > 0, (n,), with T(s) close to λ s: that of :attr:`contraction` where there is one.

        Else it is near the Perron vector, and within a factor of 1000; all states of a block have the same.
        """
        if self.bounds.upper < 1.0:
            return self.contraction.s
        N = self._elementwise if self._units is None else self._units.largest
        s = _outside(N, self.bounds.upper)
        return s if self._units is None else np.repeat(s, self._units.states)

    def vector_on(self, classes: NDArray[np.int64]) -> Vector:
        """A vector like :attr:`vector` that is the same for all states of a class, where all states are units.

        ``classes`` (n,) numbers them from 0. Of each class the row with the largest sums stands for all.
        """
        count = int(classes.max(initial=-1)) + 1
        if self._units is not None or count == len(classes) or count * len(classes) > _LARGEST_WRITTEN:
            return self.vector
        together = sp.csr_array((np.ones(len(classes)), (np.arange(len(classes)), classes)))
        sums, largest = (self._elementwise @ together).toarray(), np.zeros((count, count))
        np.maximum.at(largest, classes, sums)
        N = sp.csr_array(largest)
        bounds = spectral_bounds(N)
        if bounds.upper < 1.0:
            return np.asarray(best_contraction(N, bounds, lambda s: ratios(N, s)[1]).s[classes])
        return np.asarray(_outside(N, bounds.upper)[classes])

    @cached_property
    def _elementwise(self) -> Csr:
        if any(coupling_of(group) is not None for group in self.groups):
            return self._weighted(dominating(self._written))
        return dominating(self._written, per_state(self.groups, lambda phi: phi.slope))

    @cached_property
    def _written(self) -> Csr:
        dtype = next((block.dtype for block in self.blocks.values()), np.dtype(np.float64))
        return assemble(self.blocks, pre_slices_of(self.groups), slices_of(self.groups), dtype)

    @cached_property
    def _units(self) -> Units | None:
        """What T is made of; None where every state is a unit of its own, and A is written down."""
        for group in self.groups:
            if not np.isfinite(group.activation.slope):
                raise NotWellPosedError(
                    f"the model has a cycle through group {group.name!r}, a block ({group.activation.name}) without a "
                    "Lipschitz constant in the maximum norm, so that nothing is known of an equilibrium; keep such "
                    "operations (norms, products of states, attention) out of the cycle, on the inputs or the outputs",
                    lower=0.0,
                    upper=float("inf"),
                )
        apart = [group.pointwise or coupling_of(group) is not None for group in self.groups]
        if sum(block.nnz for block in self.blocks.values()) > _LARGEST_WRITTEN:
            coarse = self._of_groups()
            if coarse.bounds.upper < 1.0:
                return coarse
        return None if all(apart) else self._mixed(apart)

    def _mixed(self, apart: Sequence[bool]) -> Units:
        """States of elementwise φ one by one, blocks as a whole."""
        rows, states = list[int](), list[int]()
        for group, single in zip(self.groups, apart, strict=True):
            rows += [1] * group.size if single else [group.pre_size]
            states += [1] * group.size if single else [group.size]
        together = sp.csr_array(
            (np.ones(sum(states)), (np.arange(sum(states)), np.repeat(np.arange(len(states)), states)))
        )
        sizes = sp.csr_array(abs(self._written), dtype=np.float64)
        return Units(self._weighted(sizes @ together), np.array(rows), np.array(states), _terms(sizes))

    def _of_groups(self) -> Units:
        """Whole groups as units, by the row sums of their blocks alone."""
        pre, place = pre_slices_of(self.groups), {group.name: k for k, group in enumerate(self.groups)}
        sums = np.zeros((sum(group.pre_size for group in self.groups), len(self.groups)))
        for (row, column), block in self.blocks.items():
            sums[pre[row], place[column]] += block.row_sums()
        states = [group.size for group in self.groups]
        rows = [group.pre_size if coupling_of(group) is None else group.size for group in self.groups]
        return Units(self._weighted(sp.csr_array(sums)), np.array(rows), np.array(states), sum(states))

    def _weighted(self, sizes: Csr) -> Csr:
        """Rows times L of their groups, or G times the rows of a group."""
        if all(coupling_of(group) is None for group in self.groups):
            slopes = np.repeat([group.activation.slope for group in self.groups], [one.pre_size for one in self.groups])
            return sp.csr_array(sp.diags_array(slopes.astype(np.float64)) @ sizes)
        parts = [
            sp.eye_array(group.pre_size) * group.activation.slope if (G := coupling_of(group)) is None else G
            for group in self.groups
        ]
        return sp.csr_array(sp.block_diag(parts, format="csr") @ sizes)


def _outside(N: Csr, upper: float) -> Vector:
    """A vector near the Perron vector of N, within a factor of 1000, whose eigenvalue is at most ``upper``."""
    found = resolvent(N, _OUTSIDE * upper)
    return np.ones(N.shape[0]) if found is None else np.maximum(found / found.max(), _TAME)


def coupling_of(group: StateGroup) -> Csr | None:
    """G of a group, where its block has a domain."""
    return group.activation.coupling if isinstance(group.activation, Block) else None


@dataclass(frozen=True, eq=False)
class Units:
    """The map T: ``sizes`` (rows, units) holds L |A|, summed over the states of each unit, unit after unit.

    Unit k has so many ``rows`` and ``states``; sums had up to ``terms`` terms.
    """

    sizes: Csr
    rows: NDArray[np.int64]
    states: NDArray[np.int64]
    terms: int

    @property
    def slack(self) -> float:
        """What rounding can do to T, relative to it."""
        return float((self.terms + _terms(self.sizes) + 6) * np.finfo(np.float64).eps)

    def chosen(self, s: Vector) -> NDArray[np.int64]:
        """For each unit the row that is largest at s."""
        products, unit = self.sizes @ s, np.repeat(np.arange(len(self.rows)), self.rows)
        order = np.lexsort((products, unit))
        return np.asarray(order[np.cumsum(self.rows) - 1], dtype=np.int64)

    def ratio(self, s: Vector) -> float:
        """max T(s)/s, (units,), widened by rounding: infinite where it leaves the range of float64."""
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            largest = np.maximum.reduceat(self.sizes @ s, np.cumsum([0, *self.rows[:-1]])) / s
        value = float(largest.max(initial=0.0)) * (1.0 + self.slack)
        return value if np.isfinite(value) else float("inf")

    @cached_property
    def _settled(self) -> tuple[PerronFrobenius, Csr]:
        """The bounds, and the matrix of the rows that give the lower one."""
        s = np.ones(len(self.rows))
        lower, upper, best = 0.0, self.ratio(s), sp.csr_array(self.sizes[self.chosen(s)])
        rows = self.chosen(s)
        for _ in range(_CHOICES):
            N = sp.csr_array(self.sizes[rows])
            found = spectral_bounds(N)
            if found.lower * (1.0 - self.slack) >= lower:
                lower, best = found.lower * (1.0 - self.slack), N
            tau = found.upper * (1.0 + _ABOVE) + np.finfo(np.float64).tiny ** 0.25
            vector = resolvent(N, tau)
            if vector is None:
                vector = resolvent(N, found.upper * 1.01 + 1e-6)
            if vector is None:
                break
            s = vector / vector.max()
            upper, following = min(upper, self.ratio(s)), self.chosen(s)
            if np.array_equal(following, rows):
                break
            rows = following
        upper = max(upper, lower)
        return PerronFrobenius(0.5 * (lower + upper) if lower < upper else lower, lower, upper), best

    @property
    def bounds(self) -> PerronFrobenius:
        """The largest λ_pf(N_π), with bounds."""
        return self._settled[0]

    @property
    def largest(self) -> Csr:
        """The N_π that gives it."""
        return self._settled[1]

    @cached_property
    def contraction(self) -> Contraction:
        """s (units,) and ρ < 1 with T(s) <= ρ s; NotWellPosedError or ConvergenceError where there are none."""
        bounds, N = self._settled
        return best_contraction(N, bounds, self.ratio)


def _terms(matrix: Csr) -> int:
    """The largest number of entries in a row."""
    return int(np.diff(matrix.indptr).max(initial=0))
