"""What :func:`simplicit.fit` returns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from simplicit.errors import InputError
from simplicit.implicit import ImplicitModel, PerronFrobenius, perron_frobenius
from simplicit.implicit.wellposed import row_norm
from simplicit.network import NetworkTemplate
from simplicit.rows import RowStatus, Solution
from simplicit.training.options import FitOptions
from simplicit.training.states.matching import Match
from simplicit.training.states.statedata import StateData
from simplicit.training.states.structure import STRUCTURES

__all__ = ["FitResult", "RowFigures"]

Array = npt.NDArray[np.float64]

#: What rows take over from their last solution; the time is that of all rounds.
_FIGURES = ("objective", "dual_gap", "relative_gap", "status", "nnz", "multiplier", "cardinality_gap")


@dataclass(frozen=True, eq=False)
class RowFigures:
    """One entry per row of M = [[A, B], [C, D]], states first: arrays of shape (n + q,).

    Attributes
    ----------
    group : array of str
        The group of states, or ``"output"``.
    objective, dual_gap, relative_gap : array
        Of the row problem; ``relative_gap`` is what the tolerance is compared with.
    status : array of int8
        Values of ``RowStatus``.
    nnz : array of int
    multiplier : array
        μ of the ball, > 0 where it binds.
    cardinality_gap : array
        How far the choice of non-zeros is at most from the best one, in the units of ``objective``: from the best of
        the same size in the row, after ``refine`` and ``refit``; at the price of the penalty, for ``Perspective``; NaN
        otherwise.
    seconds : array
        All rounds together.
    """

    group: npt.NDArray[np.str_]
    objective: Array
    dual_gap: Array
    relative_gap: Array
    status: npt.NDArray[np.int8]
    nnz: npt.NDArray[np.intp]
    multiplier: Array
    cardinality_gap: Array
    seconds: Array

    @property
    def converged(self) -> npt.NDArray[np.bool_]:
        """Which rows are certified to the tolerance."""
        return np.equal(self.status, RowStatus.CONVERGED)

    def __len__(self) -> int:
        return len(self.status)

    @classmethod
    def of(
        cls, solutions: Iterable[Solution], group: npt.NDArray[np.str_], order: npt.NDArray[np.intp] | None = None
    ) -> RowFigures:
        """Of the rows of some solutions.

        Parameters
        ----------
        solutions : iterable of Solution
        group : (rows,) array of str
            As it is to be in the result.
        order : (rows,) array of int, optional
            For each row of the result, its place among the rows of the solutions in turn; these as they come if None.
        """
        solutions, at = list(solutions), slice(None) if order is None else order
        rounds = [sum((earlier.seconds for earlier in last.earlier), last.seconds) for last in solutions]
        figures = {name: np.concatenate([getattr(solution, name) for solution in solutions])[at] for name in _FIGURES}
        return cls(group=group, seconds=np.concatenate(rounds)[at], **figures)


@dataclass(frozen=True, eq=False)
class FitResult:
    """A trained implicit model, with its certificates and the account of how it was made.

    Attributes
    ----------
    made : ImplicitModel, or callable
        The model, or how to make it.
    rows : RowFigures
    options : FitOptions
    strength : float
        What the penalty was multiplied by to reach ``options.sparsity``; 1 if none was asked for.
    trials : int
        How many times problem (7) was solved for that.
    exchanged : int
        How many weights the exchanges of ``refine`` placed elsewhere than elimination alone.
    n_samples : int
    weight_count : int
        N₀, the number of weights of the baseline.
    rescaled : bool
    errors : mapping of str to float
        ‖target − fitted‖/‖target‖ on the training samples, per group and for ``"output"``, along the model itself.
    seconds : mapping of str to float
        Time of each stage.
    origin : NetworkTemplate, optional
        The network as it was captured, and the units of the states; for :meth:`to_baseline`.
    """

    made: ImplicitModel | Callable[[], ImplicitModel]
    rows: RowFigures
    options: FitOptions
    strength: float
    trials: int
    exchanged: int
    n_samples: int
    weight_count: int
    rescaled: bool
    errors: Mapping[str, float]
    seconds: Mapping[str, float]
    origin: NetworkTemplate | None = field(default=None, kw_only=True, repr=False)

    def to_baseline(self) -> nn.Module:
        """A copy of the network that was fitted, of its own class and in evaluation mode, with the trained weights.

        Its ``state_dict`` has the keys, shapes and dtype of the network's; its outputs are those of ``model``, to
        rounding. What ``fit`` left free stays: scales of batch norms, and everything that does not reach the output.
        Hidden units are scaled as the network's are, and after ``robust`` as those of ``model``.

        Raises
        ------
        InputError
            The fit has another structure than ``baseline``; or the network has no parameter of its own for a block of
            M: one that several layers without an activation between compose, or a skip connection.
        """
        if self.origin is None or self.options.structure != "baseline":
            raise InputError(
                f"to_baseline: structure {self.options.structure!r} has weights where the network has none; fit with "
                "structure='baseline', or use simplicit.to_torch(result.model)"
            )
        return self.origin.network(self.model)

    @cached_property
    def model(self) -> ImplicitModel:
        """In float64 and the units of Theorem 2.4 if the baseline could be rescaled: its own, after ``robust``, whose
        rows are solved in the baseline's."""
        return self.made if isinstance(self.made, ImplicitModel) else self.made()

    @property
    def nnz(self) -> int:
        """Non-zeros of M."""
        return self.model.nnz

    @property
    def sparsity(self) -> float:
        """100·(1 − nnz/N₀), in per cent of the baseline's weights."""
        return 100.0 * (1.0 - self.nnz / self.weight_count)

    @property
    def row_norm(self) -> float:
        """‖A‖∞, the largest ℓ1 norm of a row of A."""
        return row_norm(self.model)

    @cached_property
    def perron_frobenius(self) -> PerronFrobenius:
        """λ_pf(diag(L)|A|), with bounds."""
        return perron_frobenius(self.model)

    @cached_property
    def support_bounds(self) -> dict[str, float]:
        """Group by group, the share of the rows' squared error that the best supports of their sizes leave at least.

        1 is a proof that the supports of ``refine`` are the best ones of as many columns in every row, given the
        stage's states and its ridge; empty without ``refine`` and ``refit``. See
        :mod:`simplicit.training.support.bounds`.
        """
        rows, options = self.rows, self.options
        if not (options.refine and options.refit):
            return {}
        bounds = {}
        for group in dict.fromkeys(rows.group.tolist()):
            objective, gap = (a[rows.group == group].sum() for a in (rows.objective, rows.cardinality_gap))
            bounds[group] = float(1 - gap / objective) if objective > 0 else 1.0
        return bounds

    def _bound(self, group: str) -> str:
        """A cell of the summary, rounded down, for it is a bound; nothing if there are none."""
        return f"{math.floor(1000 * self.support_bounds[group]) / 1000:>10.3f}" if self.support_bounds else ""

    def figures(self) -> dict[str, Any]:
        """The summary as plain numbers, ready for JSON."""
        return {
            "samples": self.n_samples,
            "rows": len(self.rows),
            "rows_certified": int(self.rows.converged.sum()),
            "largest_relative_gap": float(self.rows.relative_gap.max(initial=0.0)),
            "non_zeros": self.nnz,
            "baseline_weights": self.weight_count,
            "sparsity": self.sparsity,
            **self._of_its_kind(),
            "support_bounds": self.support_bounds,
            "strength": self.strength,
            "trials": self.trials,
            "exchanged": self.exchanged,
            "ridge": self.options.ridge,
            "anchor": self.options.anchor,
            "rescaled": self.rescaled,
            "errors": dict(self.errors),
            "seconds": dict(self.seconds),
        }

    def _of_its_kind(self) -> dict[str, Any]:
        """What :meth:`figures` says of a result of this class alone."""
        pf = self.perron_frobenius
        return {
            "density_of_M": 100.0 * self.nnz / self.model.size,
            "row_norm": self.row_norm,
            "perron_frobenius": {"value": pf.value, "lower": pf.lower, "upper": pf.upper},
        }

    def _compared(self) -> str:
        more = self.nnz - self.weight_count
        return f"{self.sparsity:.1f} % sparse" if more <= 0 else f"{100 * more / self.weight_count:.1f} % more"

    def _units(self) -> str:
        """In which units the states are."""
        if self.rescaled:
            return "rescaled states (Theorem 2.4)"
        if self.options.robust:
            return "states in their own units"
        if any(not group.activation.homogeneous for group in self.model.groups):
            return "states as they are (an activation is not homogeneous)"
        return "states of chosen groups in units of their size"

    def _proof(self) -> str:
        if STRUCTURES[self.options.structure].triangular:
            return "A is strictly triangular"
        return "|A|_inf <= kappa"

    def _method(self) -> list[str]:
        """What was done, one line for each part of it."""
        options = self.options
        rounds = "" if options.rounds == 1 else f", {options.rounds} rounds"
        searched = options.sparsity is not None and not options.refine
        found = f", strength x {self.strength:.4g} found in {self.trials} trials" if searched else ""
        used = not (options.refine and options.refit)
        lines = [f"  preset     {options.preset}"] if options.preset else []
        lines += [f"  penalty    {options.penalty}{rounds}{found}{'' if used else ', for the candidates'}"]
        lines += self._robustly()
        if options.propagate:
            lines.append("  states     layer after layer on the model's own, against the baseline's pre-activations")
        if options.refine:
            lines.append(
                "  support    eliminated at one price for a weight in the whole model, "
                f"{self.exchanged:,} of {self.nnz:,} weights exchanged"
            )
        if self.support_bounds:
            lines.append(
                "             best >= x: no other with as many weights per row has less than x of its squared error"
            )
        if options.refit:
            lines.append(f"  values     ridge {options.ridge:g} towards {options.anchor:g} of the baseline's weights")
        return lines

    def _robustly(self) -> list[str]:
        """What the robust mode did."""
        options = self.options
        if not options.robust:
            return []
        later = ", ".join(f"{value:g}" for value in np.atleast_1d(options.later))
        rounds = "1 round" if options.attacks == 1 else f"{options.attacks} rounds"
        return [
            f"  robust     l1 of the worst case, x {later} on later layers; {rounds} of worst cases at "
            f"eps {options.attack_eps:.4g}, {self.n_samples * (1 + options.attacks):,} points"
        ]

    def summary(self) -> str:
        """One screen of text: what was done, what is certified, where the non-zeros went."""
        options, figures = self.options, self.figures()
        states = self.model.n_states
        ball = "no ball" if options.kappa is None else f"kappa {options.kappa:g}"
        lines = [
            f"State-driven training on {self.n_samples:,} samples, {self._units()}",
            f"  problem    structure {options.structure}, normalize {options.normalize}, {ball}, lambda1 "
            f"{options.lambda1:g}, lambda2 {options.lambda2:g}",
            *self._method(),
            f"  rows       {figures['rows_certified']} of {len(self.rows)} certified, largest relative gap "
            f"{figures['largest_relative_gap']:.1e} (tol {options.tol:g})",
            f"  model      {states} states, {self.model.n_inputs} inputs, {self.model.n_outputs} outputs",
            f"  weights    {self.nnz:,} non-zeros, the baseline has {self.weight_count:,}: {self._compared()} "
            f"({figures['density_of_M']:.1f} % of M)",
            f"  stability  |A|_inf {self.row_norm:.4f}, lambda_pf {float(self.perron_frobenius):.4g}: well-posed, "
            f"{self._proof()}",
            f"  time       {', '.join(f'{stage} {seconds:.2f} s' for stage, seconds in self.seconds.items())}",
            f"  {'group':<20}{'rows':>6}{'non-zeros':>12}{'per row':>10}{'rel. error':>12}"
            + (f"{'best >=':>10}" if self.support_bounds else ""),
        ]
        groups = list(self.errors)
        activations = {group.name: group.activation.name for group in self.model.groups}
        for group in (*groups[-2::-1], groups[-1]):  # as the network computes them, the first layer first
            error = self.errors[group]
            nnz = self.rows.nnz[self.rows.group == group]
            label = f"{group} {activations[group]}" if group in activations else group
            best = self._bound(group)
            lines.append(f"  {label:<20}{len(nnz):>6}{nnz.sum():>12,}{nnz.mean():>10.1f}{error:>12.3f}{best}")
        return "\n".join(lines)


def row_figures(match: Match, data: StateData) -> RowFigures:
    """Put the figures of all stages in the order of the rows of M."""
    groups = [group.name for group in data.model.groups for _ in range(group.size)]
    return RowFigures.of(match.solutions, np.array(groups + ["output"] * data.model.n_outputs), match.order)
