r"""The equations of a model, x = φ(A x + B u + b) and y = C x + D u + d: solved and differentiated, block by block.

Everything here is (m, n), (m, p) or (m, q), samples first, in one dtype, on batches that are already checked.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property, reduce
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simplicit.errors import ConvergenceError
from simplicit.implicit.assembly import Blocks, assemble
from simplicit.implicit.blockwise import Cycle
from simplicit.implicit.fixed_point import settled
from simplicit.implicit.groups import INPUT, OUTPUT, Activation, Block, StateGroup, per_state, pre_slices_of, slices_of
from simplicit.implicit.maps import Csr
from simplicit.implicit.picard import StateSolution, picard, picard_adjoint
from simplicit.implicit.plan import Loop, Plan, Slopes, plan_by_groups, plan_by_states
from simplicit.implicit.spectral import Contraction

#: Outputs of a model that has to be iterated are computed to this, or to the resolution of its dtype.
PREDICTION_TOL = 1e-9


class StateEquation:
    """The state equation x = φ(A x + B u + b).

    A *drive* is B u + b, what the inputs give the states. The plan of evaluation may put the states into another order,
    the working order: :meth:`Plan.to_working` and :meth:`Plan.to_model` translate.

    Parameters
    ----------
    groups : sequence of StateGroup
        In the order of the states; ``slices`` says where each stands among them, ``size`` is n.
    blocks : mapping of (row, column) to LinearMap
        Of A, keyed (row group, column group), and of B, keyed (row group, "input"); others are left out. None is zero.
    bias : array, shape (n_pre,)
        b, for the pre-activations, of which blocks may have more or fewer than states.
    n_inputs : int
        p.
    """

    def __init__(self, groups: Sequence[StateGroup], blocks: Blocks, bias: NDArray[Any], n_inputs: int) -> None:
        self.groups, self.slices, self.pre_slices = tuple(groups), slices_of(groups), pre_slices_of(groups)
        self.size, self.n_pre = sum(group.size for group in groups), len(bias)
        self._n_inputs, self._bias = n_inputs, torch.tensor(bias)
        self._blocks = {key: block for key, block in blocks.items() if key[0] != OUTPUT}
        self._states = {key: block for key, block in self._blocks.items() if key[1] != INPUT}
        self._inputs = {row: block for (row, column), block in self._blocks.items() if column == INPUT}

    @cached_property
    def A(self) -> Csr:  # noqa: N802
        """The whole of A, (n_pre, n)."""
        return assemble(self._states, self.pre_slices, self.slices, self._bias.numpy().dtype)

    @cached_property
    def slopes(self) -> NDArray[np.float64]:
        """L, the slope bound of every state's activation, (n,)."""
        return per_state(self.groups, lambda phi: phi.slope)

    @cached_property
    def cycles(self) -> tuple[Cycle, ...]:
        """What well-posedness is a question of: the loops of the groups, in the order of :attr:`plan`'s."""
        by_groups = plan_by_groups(self.groups, self._states)
        return tuple(self._cycle(loop.names) for loop in by_groups.loops)

    def _cycle(self, names: Collection[str]) -> Cycle:
        inside = {key: block for key, block in self._states.items() if key[0] in names and key[1] in names}
        return Cycle(tuple(group for group in self.groups if group.name in names), inside)

    @cached_property
    def plan(self) -> Plan:
        """Substitution among groups if they have an order, else among single states, else but for loops of groups."""
        by_groups = plan_by_groups(self.groups, self._states)
        if by_groups.triangular or any(isinstance(group.activation, Block) for group in self.groups):
            return by_groups
        phis = [(group.activation, group.size) for group in self.groups if isinstance(group.activation, Activation)]
        activations = [phi for phi, size in phis for _ in range(size)]
        return plan_by_states(self.A, activations) or by_groups

    @cached_property
    def contraction(self) -> Contraction:
        """s > 0 and ρ < 1 with diag(L)|A| s <= ρ s, of all states; NotWellPosedError where there are none."""
        return self._cycle(self.slices).contraction

    def contraction_of(self, loop: Loop) -> Contraction:
        """s > 0 and ρ < 1 of a loop of the plan, s for its states; NotWellPosedError where there are none."""
        return self.cycles[self.plan.loops.index(loop)].contraction

    @cached_property
    def absolute(self) -> StateEquation:
        """The same equation with |A|, |B| and |b|, in float64, planned alike."""
        blocks = {key: block.astype(np.float64).absolute() for key, block in self._blocks.items()}
        return StateEquation(self.groups, blocks, self._bias.double().abs().numpy(), self._n_inputs)

    @cached_property
    def row_counts(self) -> NDArray[np.int64]:
        """How many entries of every row of [A B] differ from zero, (n_pre,)."""
        counts = np.zeros(self.n_pre, dtype=np.int64)
        for (row, _), block in self._blocks.items():
            counts[self.pre_slices[row]] += block.row_counts()
        return counts

    def drive(self, U: Tensor, *, bias: bool = True) -> Tensor:
        """B u + b, (m, n_pre), in the order of the states; B u without ``bias``."""
        Z = self._bias.repeat(U.shape[0], 1) if bias else U.new_zeros(U.shape[0], self.n_pre)
        for row, block in self._inputs.items():
            block.add_to_(Z[:, self.pre_slices[row]], U)
        return Z

    def solve(self, U: Tensor, tol: float = PREDICTION_TOL, method: str = "picard") -> StateSolution:
        """Return the equilibrium for inputs U (m, p): exact if triangular, else to ``tol`` in maxᵢ|x*ᵢ - xᵢ| of loops.

        ``method`` is one of :data:`~simplicit.implicit.fixed_point.METHODS`. Samples that leave the range of the dtype
        come back infinite or NaN. NotWellPosedError is raised where A has cycles and λ_pf < 1 fails, ConvergenceError
        where it is so close to 1 that iterating takes too long.
        """
        plan = self.plan
        Z = plan.to_working(self.drive(U))
        if plan.triangular:
            return StateSolution(Z, plan.substitute_(Z))
        step, counts = Z.new_zeros(len(Z), self.size), list[tuple[int, int | None]]()

        def iterate(loop: Loop, drive: Tensor) -> tuple[Tensor, Tensor]:
            found = picard(loop.plan, self.contraction_of(loop), drive, tol, method)
            assert found.step is not None
            step[:, loop.states] = found.step
            counts.append((found.iterations, found.iteration_bound))
            return found.Z, found.X

        X = plan.substitute_(Z, iterate)
        bounds = [bound for _, bound in counts if bound is not None]
        return StateSolution(Z, X, max(steps for steps, _ in counts), max(bounds), step)

    def rest(self, U: Tensor, tol: float = 1e-10) -> StateSolution:
        """Return an equilibrium for inputs U (m, p), found to ``tol`` but not proved: there may be others.

        It is for models that :meth:`solve` refuses; ConvergenceError is raised where none is found, or where it lies
        outside of the domain of a block: one that is proved never does.
        """
        plan = self.plan
        Z = plan.to_working(self.drive(U))

        def iterate(loop: Loop, drive: Tensor) -> tuple[Tensor, Tensor]:
            inner = loop.plan
            floor = 4.0 * torch.finfo(drive.dtype).eps
            X = settled(lambda x: inner.activate(inner.product(x).add_(drive)), inner.activate(drive), max(tol, floor))
            z = inner.product(X).add_(drive)
            return z, inner.activate(z)

        X = plan.substitute_(Z, iterate)
        for stage in plan.stages:
            if isinstance(stage.activation, Block) and not stage.activation.holds(Z[:, stage.rows]):
                raise ConvergenceError(
                    "the states come to rest outside of the box that products of states are clipped to, where the "
                    "model is no longer what it was made from; make it without clip"
                )
        return StateSolution(Z, X)

    def pull_back_(self, slopes: Slopes, X_bar: Tensor) -> Tensor:
        """Return Z̄ = (∂φ/∂z)ᵀ (Z̄ A + X̄), the gradient by the pre-activations, (m, n_pre) in the order of the states.

        ``slopes`` are those of φ at Z, in working order; X̄ (m, n) stands in the order of the states and is overwritten.
        Errors are those of :meth:`solve`.
        """

        def iterate(loop: Loop, inner: Slopes, drive: Tensor) -> Tensor:
            return picard_adjoint(loop.plan, self.contraction_of(loop), inner, drive)

        plan = self.plan
        return plan.to_model(plan.substitute_back_(slopes, plan.to_working(X_bar), iterate))

    def pull_back_drive(self, Z_bar: Tensor) -> Tensor:
        """Return Z̄ B, (m, n_pre) in the order of the states to (m, p): the gradient by inputs from the one by B u."""
        if not self._inputs:
            return Z_bar.new_zeros(Z_bar.shape[0], self._n_inputs)
        parts = (block.apply_transpose(Z_bar[:, self.pre_slices[row]]) for row, block in self._inputs.items())
        return reduce(torch.add, parts)


class OutputEquation:
    """The output equation y = C x + D u + d; arguments are as those of :class:`StateEquation`, with the bias d."""

    def __init__(self, groups: Sequence[StateGroup], blocks: Blocks, bias: NDArray[Any]) -> None:
        self._slices = slices_of(groups)
        self._size = sum(group.size for group in groups)
        self._direct = blocks.get((OUTPUT, INPUT))
        self._states = {column: block for (row, column), block in blocks.items() if row == OUTPUT and column != INPUT}
        self._bias = torch.tensor(bias)

    def outputs(self, X: Tensor, U: Tensor) -> Tensor:
        """Return Y = C x + D u + d, (m, q), for states X (m, n) and inputs U (m, p)."""
        Y = self._bias.repeat(X.shape[0], 1)
        for column, block in self._states.items():
            Y += block.apply(X[:, self._slices[column]])
        if self._direct is not None:
            Y += self._direct.apply(U)
        return Y

    def pull_back(self, Y_bar: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return Ȳ C and Ȳ D, (m, n) and (m, p): the gradients by states and inputs; None for D = 0."""
        X_bar = Y_bar.new_zeros(Y_bar.shape[0], self._size)
        for column, block in self._states.items():
            X_bar[:, self._slices[column]] = block.apply_transpose(Y_bar)
        return X_bar, None if self._direct is None else self._direct.apply_transpose(Y_bar)
