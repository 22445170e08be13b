r"""The state equation x = φ(A x + B u + b): solved, bounded and differentiated.

Everything here is (m, n) or (m, p), samples first, in one dtype, on batches that are already checked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from simplicit.implicit.activation import Activation
from simplicit.implicit.maps.base import Csr, LinearMap
from simplicit.implicit.picard import StateSolution, picard, picard_adjoint
from simplicit.implicit.plan import Plan, plan_by_groups, plan_by_states
from simplicit.implicit.spectral import Contraction, contraction

__all__ = ["StateGroup", "System", "assemble", "slices_of"]

# Evaluating φ costs a few units in the last place of z and φ(z) (in tests at most 5, for GELU); 16 leaves room for
# vectorised variants and for the evaluation of the spread.
_ACTIVATION_ULPS = 16.0
# A bound is sharpened until a step takes off less than a tenth, and that so many times at most: each costs one product.
_SHARPENING_STEPS, _SHARPENED = 50, 0.9


@dataclass(frozen=True)
class StateGroup:
    """``size`` states with a common activation under a unique ``name`` (other than "input" and "output")."""

    name: str
    size: int
    activation: Activation


def slices_of(groups: Sequence[StateGroup]) -> dict[str, slice]:
    """Where each group stands among the states, by its name."""
    stops = np.cumsum([0, *(group.size for group in groups)]).tolist()
    return {group.name: slice(start, stop) for group, start, stop in zip(groups, stops[:-1], stops[1:], strict=True)}


class System:
    """x = φ(A x + B u + b) by blocks.

    Parameters
    ----------
    groups : the groups of states, in the order of the states.
    blocks : blocks of A, keyed (row group, column group), and of B, keyed (row group, "input"); none is zero.
    bias : (n,)
    n_inputs : p
    """

    def __init__(
        self,
        groups: Sequence[StateGroup],
        blocks: Mapping[tuple[str, str], LinearMap],
        bias: NDArray[Any],
        n_inputs: int,
    ) -> None:
        self.slices = slices_of(groups)
        self.size = sum(group.size for group in groups)
        self._n_inputs = n_inputs
        self._groups = tuple(groups)
        self._inputs = {key: block for key, block in blocks.items() if key[1] == "input"}
        self._states = {key: block for key, block in blocks.items() if key[1] != "input"}
        self._bias = torch.tensor(bias)

    @cached_property
    def A(self) -> Csr:  # noqa: N802
        """The whole of A, (n, n)."""
        return assemble(self._states, self.slices, self.slices, (self.size, self.size), self._bias.numpy().dtype)

    @cached_property
    def cyclic(self) -> tuple[Csr, NDArray[np.float64]]:
        """The part of A among the groups that depend on themselves, directly or through others, and its slopes L.

        All cycles among states lie in it, and so do all eigenvalues of |A| but zeros.
        """
        names = list(self.slices)
        places = {name: place for place, name in enumerate(names)}
        edges = [(places[row], places[column]) for row, column in self._states]
        links = sp.csr_array(
            (np.ones(len(edges)), tuple(zip(*edges, strict=True)) or ([], [])), shape=(len(names),) * 2
        )
        _, labels = connected_components(links, directed=True, connection="strong")
        own = {row for row, column in self._states if row == column}
        inside = [k for k, name in enumerate(names) if name in own or (labels == labels[k]).sum() > 1]
        groups = [self._groups[k] for k in inside]
        slices = slices_of(groups)
        size = sum(group.size for group in groups)
        part = assemble(self._states, slices, slices, (size, size), self._bias.numpy().dtype)
        slopes = np.repeat([group.activation.slope for group in groups], [group.size for group in groups])
        return part, slopes.astype(np.float64)

    @cached_property
    def slopes(self) -> NDArray[np.float64]:
        """L, the slope bound of every state's activation, (n,)."""
        return np.repeat([g.activation.slope for g in self._groups], [g.size for g in self._groups]).astype(np.float64)

    @cached_property
    def plan(self) -> Plan:
        """Substitution among groups if they have an order, else among single states, else a step of Picard's."""
        activations = {group.name: group.activation for group in self._groups}
        by_groups = plan_by_groups(self.slices, activations, self._states)
        if by_groups.triangular:
            return by_groups
        return plan_by_states(self.A, [g.activation for g in self._groups for _ in range(g.size)]) or by_groups

    @cached_property
    def contraction(self) -> Contraction:
        """s > 0 and ρ < 1 with diag(L)|A| s <= ρ s; NotWellPosedError where there are none."""
        return contraction(self.A, self.slopes)

    def drive(self, U: Tensor, *, bias: bool = True) -> Tensor:
        """B u + b, (m, n), in the order of the states; B u without ``bias``."""
        Z = self._bias.repeat(U.shape[0], 1) if bias else U.new_zeros(U.shape[0], self.size)
        for (row, _), block in self._inputs.items():
            Z[:, self.slices[row]] += block.apply(U)
        return Z

    def solve(self, U: Tensor, tol: float) -> StateSolution:
        """The equilibrium for inputs U (m, p): exact if triangular, else to ``tol`` in maxᵢ|x*ᵢ - xᵢ|.

        Samples that leave the range of the dtype come back infinite or NaN.

        Raises
        ------
        NotWellPosedError
            A has cycles and λ_pf(diag(L)|A|) < 1 fails.
        ConvergenceError
            λ_pf is so close to 1 that the iteration takes too long.
        """
        plan = self.plan
        if plan.triangular:
            Z = plan.to_working(self.drive(U))
            return StateSolution(Z, plan.substitute_(Z))
        return picard(plan, self.contraction, self.drive(U), tol)

    def pull_back_(self, slopes: Tensor, X_bar: Tensor) -> Tensor:
        """Ū = Z̄ B with the Z̄ of :meth:`pull_back_states_`: the gradient by the inputs, (m, p)."""
        return self.pull_back_drive(self.pull_back_states_(slopes, X_bar))

    def pull_back_states_(self, slopes: Tensor, X_bar: Tensor) -> Tensor:
        """Z̄ = φ'(Z) ∘ (Z̄ A + X̄): the gradient by the pre-activations, (m, n) in the order of the states.

        ``slopes`` (m, n) is φ'(Z) in working order; X̄ (m, n) stands in the order of the states and is overwritten.
        Errors as in :meth:`solve`.
        """
        plan = self.plan
        if plan.triangular:
            return plan.to_model(plan.substitute_back_(slopes, plan.to_working(X_bar)))
        return picard_adjoint(plan, self.contraction, slopes, X_bar)

    def pull_back_drive(self, Z_bar: Tensor) -> Tensor:
        """Z̄ B, (m, n) in the order of the states to (m, p): the gradient by the inputs from the one by B u."""
        U_bar: Tensor | None = None
        for (row, _), block in self._inputs.items():
            part = block.apply_transpose(Z_bar[:, self.slices[row]])
            U_bar = part if U_bar is None else U_bar + part
        return Z_bar.new_zeros(Z_bar.shape[0], self._n_inputs) if U_bar is None else U_bar

    def error_bound(self, solution: StateSolution, U: Tensor) -> Tensor:
        """A bound on maxᵢ |x*ᵢ - xᵢ| for every sample, (m,) float64: what the iteration left over and all rounding.

        x* is the equilibrium in exact arithmetic of the model as stored. With roundings δ of one evaluation of
        A x + B u + b and ε of φ, an error e >= |x* - x| of the states gives the bound

            E(e) = spread(|A| e + δ) + ε,   spread(r)ᵢ = sup over |z' - zᵢ| <= rᵢ of |φ(z') - φ(zᵢ)| <= Lᵢ rᵢ.

        After a substitution e = E(e) is solved in the same order. After an iteration |x* - x_{t-1}| <= e + |step|; a
        first e is s (ρ |step|_s + |L δ + ε|_s) / (1 - ρ), and e ← min(e, E(e + |step|)) sharpens it.
        """
        if not self.size:
            return torch.zeros(U.shape[0], dtype=torch.float64)
        before, after = self._rounding(solution, U)
        Z = solution.Z.double()
        if solution.step is None:
            errors = self._substituted_errors(Z, before, after)
        else:
            errors = self._iterated_errors(Z, before, after, solution.step.double())
        return errors.amax(dim=1).nan_to_num(nan=math.inf, posinf=math.inf)

    def _substituted_errors(self, Z: Tensor, before: Tensor, after: Tensor) -> Tensor:
        errors = torch.empty_like(Z)
        for stage in self.absolute.plan.stages:
            radius = before[:, stage.target]
            for source, block in stage.terms:
                radius = radius + block.apply(errors[:, source])
            spread = stage.activation.spread(Z[:, stage.target], self._widened(radius))
            errors[:, stage.target] = self._widened(spread) + after[:, stage.target]
        return errors

    def _iterated_errors(self, Z: Tensor, before: Tensor, after: Tensor, step: Tensor) -> Tensor:
        s, rho = torch.from_numpy(self.contraction.s), self.contraction.rho
        rounding = torch.from_numpy(self.slopes) * before + after
        scalar = (rho * (step / s).amax(dim=1) + (rounding / s).amax(dim=1)) / (1.0 - rho)
        errors = self._widened(scalar[:, None] * s)
        plan = self.absolute.plan
        for _ in range(_SHARPENING_STEPS):
            radius = self._widened(plan.product(errors + step) + before)
            sharper = torch.minimum(errors, self._widened(plan.spread(Z, radius)) + after)
            settled = bool((sharper.amax(dim=1) >= _SHARPENED * errors.amax(dim=1)).all())
            errors = sharper
            if settled:
                break
        return errors

    def _widened(self, bound: Tensor) -> Tensor:
        """``bound``, (m, n) float64, rounded up by what its own evaluation may have lost."""
        return bound * (1.0 + (self.terms + 64) * torch.finfo(torch.float64).eps)

    @cached_property
    def terms(self) -> int:
        """The largest number of terms in one row of [A B b], and a few for the sums over blocks."""
        return int(self.row_counts.max(initial=0)) + 2 * len(self._groups) + 4

    @cached_property
    def row_counts(self) -> NDArray[np.int64]:
        """Non-zeros of every row of [A B], (n,)."""
        counts = np.zeros(self.size, dtype=np.int64)
        for (row, _), block in {**self._states, **self._inputs}.items():
            counts[self.slices[row]] += block.row_counts()
        return counts

    def _rounding(self, solution: StateSolution, U: Tensor) -> tuple[Tensor, Tensor]:
        """δ of A x + B u + b and ε of φ, entry by entry in working order, (m, n) float64.

        A sum of k products in any order errs by at most γ = k u / (1 - k u) times the sum of their sizes.
        """
        unit = 0.5 * torch.finfo(U.dtype).eps
        gamma = self.terms * unit / (1.0 - self.terms * unit)
        X = solution.X.double().abs()
        # In an iteration the product was formed with the states before the last step.
        inner = X if solution.step is None else X + solution.step
        absolute, plan = self.absolute, self.absolute.plan
        sizes = plan.product(inner) + plan.to_working(absolute.drive(U.double().abs()))
        jumps = np.repeat([g.activation.jump for g in self._groups], [g.size for g in self._groups])
        # φ errs in the last places of its value, or as if its argument did: by much less where φ is flat.
        # What underflows loses at most the smallest normal number each time.
        tiny = torch.finfo(U.dtype).tiny
        before = gamma * sizes + _ACTIVATION_ULPS * unit * solution.Z.double().abs() + self.terms * tiny
        after = _ACTIVATION_ULPS * unit * X + tiny
        return self._widened(before), after + plan.to_working(torch.from_numpy(jumps)[None])

    def row_scales(self) -> NDArray[np.float64]:
        """s = 1 + diag(L)|A| s, (n,), by a triangular plan's substitution; infinite where it overflows."""
        plan = self.absolute.plan
        s = torch.ones(1, self.size, dtype=torch.float64)
        for stage in plan.stages:
            for source, block in stage.terms:
                s[:, stage.target] += stage.activation.slope * block.apply(s[:, source])
        scales: NDArray[np.float64] = plan.to_model(s)[0].nan_to_num(nan=math.inf, posinf=math.inf).numpy()
        return scales

    @cached_property
    def absolute(self) -> System:
        """The same system with |A|, |B| and |b|, in float64, planned alike."""
        blocks = {k: block.astype(np.float64).absolute() for k, block in {**self._states, **self._inputs}.items()}
        return System(self._groups, blocks, self._bias.double().abs().numpy(), self._n_inputs)


def assemble(
    blocks: Mapping[tuple[str, str], LinearMap],
    rows: Mapping[str, slice],
    columns: Mapping[str, slice],
    shape: tuple[int, int],
    dtype: np.dtype[Any],
) -> Csr:
    """The matrix of ``shape`` with the blocks whose row and column are among ``rows`` and ``columns``; read-only."""
    nnz = sum(block.nnz for (row, column), block in blocks.items() if row in rows and column in columns)
    index = np.int32 if max(nnz, *shape) < 2**31 else np.int64
    data, row_indices, column_indices = [np.empty(0, dtype)], [np.empty(0, index)], [np.empty(0, index)]
    for (row, column), block in blocks.items():
        if row in rows and column in columns:
            part = block.to_csr().tocoo()
            data.append(part.data)
            row_indices.append(part.row.astype(index) + index(rows[row].start))
            column_indices.append(part.col.astype(index) + index(columns[column].start))
    indices = (np.concatenate(row_indices), np.concatenate(column_indices))
    whole = sp.csr_array((np.concatenate(data), indices), shape=shape, dtype=dtype)
    whole.sort_indices()
    for array in (whole.data, whole.indices, whole.indptr):
        array.flags.writeable = False
    return whole
