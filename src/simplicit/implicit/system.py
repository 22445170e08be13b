r"""The state equation x = φ(A x + B u + b): solved, bounded and differentiated.

Everything here is (m, n) or (m, p), samples first, in one dtype, on batches that are already checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from simplicit.implicit.activation import Activation
from simplicit.implicit.maps import Csr, LinearMap
from simplicit.implicit.picard import picard, picard_adjoint
from simplicit.implicit.plan import Plan, plan_by_groups, plan_by_states
from simplicit.implicit.spectral import Contraction, contraction

__all__ = ["Solution", "StateGroup", "System", "assemble"]

# Evaluating φ costs a few units in the last place of z and φ(z); 16 covers all activations with room to spare.
_ACTIVATION_ULPS = 16.0


@dataclass(frozen=True)
class StateGroup:
    """``size`` states with a common activation under a unique ``name`` (other than "input" and "output")."""

    name: str
    size: int
    activation: Activation


@dataclass(frozen=True)
class Solution:
    """Pre-activations Z and states X = φ(Z), in the plan's working order, and how they were found.

    ``step`` is the last step of the iteration in the norm of the contraction; None after a substitution.
    """

    Z: Tensor
    X: Tensor
    iterations: int = 0
    iteration_bound: int | None = None
    step: Tensor | None = None


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
        stops = np.cumsum([0, *(group.size for group in groups)]).tolist()
        self.slices = {group.name: slice(stops[k], stops[k + 1]) for k, group in enumerate(groups)}
        self.size: int = stops[-1]
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

    def drive(self, U: Tensor) -> Tensor:
        """B u + b, (m, n), in the order of the states."""
        Z = self._bias.repeat(U.shape[0], 1)
        for (row, _), block in self._inputs.items():
            Z[:, self.slices[row]] += block.apply(U)
        return Z

    def solve(self, U: Tensor, tol: float) -> Solution:
        """The equilibrium for inputs U (m, p): exact if triangular, else to ``tol`` in maxᵢ|x*ᵢ - xᵢ|."""
        plan = self.plan
        if plan.triangular:
            Z = plan.to_working(self.drive(U))
            return Solution(Z, plan.substitute(Z))
        end = picard(plan, self.contraction, self.drive(U), tol)
        return Solution(end.Z, end.X, end.iterations, end.iteration_bound, end.step)

    def pull_back(self, slopes: Tensor, X_bar: Tensor) -> Tensor:
        """Ū = Z̄ B with Z̄ = φ'(Z) ∘ (Z̄ A + X̄): the gradient by the inputs, (m, p), from the one by the states.

        ``slopes`` is φ'(Z) in working order; X̄ (m, n) stands in the order of the states and is overwritten.
        """
        plan = self.plan
        if plan.triangular:
            Z_bar = plan.to_model(plan.substitute_back(slopes, plan.to_working(X_bar)))
        else:
            Z_bar = picard_adjoint(plan, self.contraction, slopes, X_bar)
        U_bar: Tensor | None = None
        for (row, _), block in self._inputs.items():
            part = block.apply_transpose(Z_bar[:, self.slices[row]])
            U_bar = part if U_bar is None else U_bar.add_(part)
        return Z_bar.new_zeros(Z_bar.shape[0], self._n_inputs) if U_bar is None else U_bar

    def error_bound(self, solution: Solution, U: Tensor) -> Tensor:
        """A bound on maxᵢ |x*ᵢ - xᵢ| for every sample, (m,): what the iteration left over and all rounding.

        x* is the equilibrium in exact arithmetic of the model as stored. With δ the rounding of one evaluation of
        φ(A x + B u + b), the error obeys e <= diag(L)|A| e + δ after a substitution, solved in the same order, and
        |e|_s <= (ρ |step|_s + |δ|_s) / (1 - ρ) after an iteration.
        """
        if not self.size:
            return torch.zeros(U.shape[0], dtype=torch.float64)
        rounding, gamma = self._rounding(solution, U)
        if solution.step is None:
            return self.propagate(rounding).amax(dim=1).double()
        s, rho = torch.from_numpy(self.contraction.s), self.contraction.rho
        scaled = (rounding.double() / s).amax(dim=1)
        return (rho * (1.0 + gamma) * solution.step + scaled) / (1.0 - rho)

    def propagate(self, rounding: Tensor) -> Tensor:
        """e = diag(L)|A| e + rounding, (m, n), by a triangular plan's substitution; overwrites ``rounding``."""
        for stage in self._absolute.plan.stages:
            for source, block in stage.terms:
                rounding[:, stage.target] += stage.activation.slope * block.apply(rounding[:, source])
        return rounding

    def _rounding(self, solution: Solution, U: Tensor) -> tuple[Tensor, float]:
        """δ, entry by entry in working order, (m, n), and the relative error γ of one dot product.

        A sum of k products in any order errs by at most γ = k u / (1 - k u) times the sum of their sizes; k is n + p
        plus a few for the bias and the sums over blocks.
        """
        unit = 0.5 * torch.finfo(U.dtype).eps
        terms = self.size + self._n_inputs + 2 * len(self._groups) + 4
        gamma = terms * unit / (1.0 - terms * unit)
        plan = self._absolute.plan
        sizes = plan.product(solution.X.abs()) + plan.to_working(self._absolute.drive(U.abs()))
        values = solution.Z.abs() + solution.X.abs()
        slopes, jumps = self._per_state("slope", U.dtype), self._per_state("jump", U.dtype)
        # Twice, because the sizes themselves are rounded and, in an iteration, belong to the step before.
        return 2.0 * gamma * slopes * sizes + _ACTIVATION_ULPS * unit * values + jumps, gamma

    def _per_state(self, attribute: str, dtype: torch.dtype) -> Tensor:
        values = [getattr(group.activation, attribute) for group in self._groups]
        spread = np.repeat(np.asarray(values, dtype=np.float64), [group.size for group in self._groups])
        return self.plan.to_working(torch.from_numpy(spread).to(dtype)[None])

    @cached_property
    def _absolute(self) -> System:
        """The same system with |A|, |B| and |b|, planned alike."""
        blocks = {key: block.absolute() for key, block in {**self._states, **self._inputs}.items()}
        return System(self._groups, blocks, self._bias.abs().numpy(), self._n_inputs)


def assemble(
    blocks: Mapping[tuple[str, str], LinearMap],
    rows: Mapping[str, slice],
    columns: Mapping[str, slice],
    shape: tuple[int, int],
    dtype: np.dtype[Any],
) -> Csr:
    """The matrix of ``shape`` with the blocks whose row and column are among ``rows`` and ``columns``; read-only."""
    data, row_indices, column_indices = [np.empty(0, dtype)], [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for (row, column), block in blocks.items():
        if row in rows and column in columns:
            part = block.to_csr().tocoo()
            data.append(part.data)
            row_indices.append(part.row.astype(np.int64) + rows[row].start)
            column_indices.append(part.col.astype(np.int64) + columns[column].start)
    indices = (np.concatenate(row_indices), np.concatenate(column_indices))
    whole = sp.csr_array((np.concatenate(data), indices), shape=shape, dtype=dtype)
    whole.sort_indices()
    for array in (whole.data, whole.indices, whole.indptr):
        array.flags.writeable = False
    return whole
