"""What :func:`simplicit.fit` returns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import nn

from simplicit.implicit import ImplicitModel, save
from simplicit.rows import RowStatus, Solution
from simplicit.training.problem import Ridge
from simplicit.training.provider import Student
from simplicit.training.summary import summary_of
from simplicit.training.training import Trained

if TYPE_CHECKING:
    from simplicit.training.recipes import Recipe, Task

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RowFigures:
    """One entry for each row that was solved: arrays of shape (rows,).

    The rows are those of M = [[A, B], [C, D]], states first, or, where rows are tied over positions, the output
    channels of all layers in the order of evaluation.

    Attributes
    ----------
    group : array of str
        The layer: a group of states or ``"output"``, or the path of a module.
    objective, dual_gap, relative_gap : array
        Of the row problem; ``relative_gap`` is what the tolerance is compared with.
    status : array of int8
        Values of ``RowStatus``.
    nnz : array of int
    multiplier : array
        μ of the ball, > 0 where it binds.
    cardinality_gap : array
        How far the choice of non-zeros is at most from the best one, in the units of ``objective``: from the best of
        the same size in the row, where supports were selected; at the price of the penalty, for ``Perspective``; NaN
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
    def of(cls, solutions: Iterable[Solution], student: Student) -> RowFigures:
        """The figures of the solutions of all layers, in the order of a student's rows."""
        solutions = list(solutions)
        taken = [item.name for item in fields(cls) if item.name not in ("group", "seconds")]
        figures = {name: np.concatenate([getattr(one, name) for one in solutions])[student.order] for name in taken}
        rounds = [sum((earlier.seconds for earlier in last.earlier), last.seconds) for last in solutions]
        return cls(group=student.labels, seconds=np.concatenate(rounds)[student.order], **figures)


@dataclass(frozen=True)
class LayerFigures:
    """What came of a layer.

    Attributes
    ----------
    name : str
    rows, weights, non_zeros : int
        Its rows, the baseline's weights in it, and the new ones that are not zero.
    error : float
        Relative squared error of its rows, Σ‖ẑ − z‖²/Σ‖z‖² over the training samples, and positions where rows are
        tied: ẑ is what the new network computes there, z what the baseline does, both behind the batch norm that
        follows. It is 0 where all z are.
    support_bound : float or None
        The share of the rows' squared error that the best supports of their sizes leave at least: 1 is a proof that no
        other support of as many columns is better in any row, given the states and the ridge. None where supports were
        not selected. See :mod:`simplicit.training.support.bounds`.
    """

    name: str
    rows: int
    weights: int
    non_zeros: int
    error: float
    support_bound: float | None


@dataclass(frozen=True, eq=False)
class FitResult:
    """A retrained network, with its certificates and the account of how it was made.

    Attributes
    ----------
    recipe : Recipe
    rows : RowFigures
    strength : float
        What the penalty was multiplied by to reach the wanted sparsity; 1 if none was searched for.
    trials : int
        How many times the rows were solved for that.
    exchanged : int
        How many weights exchanges placed elsewhere than elimination alone.
    ridge : Ridge or None
        The ridge and anchor of the values, where they come from least squares.
    n_samples : int
    weight_count : int
        N₀, the number of the baseline's weights.
    tol : float
        The relative duality gap that was asked for.
    seconds : mapping of str to float
        Time of each stage.
    student : Student
        The network that was made.
    """

    recipe: Recipe
    rows: RowFigures
    strength: float
    trials: int
    exchanged: int
    ridge: Ridge | None
    n_samples: int
    weight_count: int
    tol: float
    seconds: Mapping[str, float]
    student: Student

    @classmethod
    def of(
        cls, recipe: Recipe, task: Task, found: Trained, *, weight_count: int, ridge: Ridge | None = None
    ) -> FitResult:
        """The result of a recipe that made of a task what it found."""
        return cls(
            recipe=recipe,
            rows=RowFigures.of([solution for groups in found.solutions.values() for solution in groups], found.student),
            strength=found.strength,
            trials=found.trials,
            exchanged=found.exchanged,
            ridge=ridge,
            n_samples=len(task.inputs),
            weight_count=weight_count,
            tol=task.rows.tol,
            seconds=task.seconds,
            student=found.student,
        )

    def network(self) -> nn.Module:
        """A new copy of the network that was fitted, of its own class and in evaluation mode, with the new weights.

        Its ``state_dict`` has the keys, shapes and dtypes of the network's; its outputs are those of ``model``, to
        rounding. Biases, and the running statistics of batch norms behind tied rows, are corrected to the new weights.
        What was left free stays: scales of batch norms, and everything that does not reach the output.

        Raises
        ------
        InputError
            The fit has another structure than ``baseline``; or the network has no parameter of its own for a block of
            M: one that several layers without an activation between compose, or a skip connection.
        """
        return self.student.network()

    @property
    def model(self) -> ImplicitModel:
        """The retrained network as an implicit model, made when it is first asked for.

        Of untied rows it is in float64 and, where the activations allow it, in the units of Theorem 2.4, the baseline's
        or, after robust training, its own; of tied rows it is the exact implicit form of :meth:`network`.
        """
        return self.student.model

    def save(self, folder: str | Path) -> None:
        """Write ``model`` to a folder, as :func:`simplicit.save` does."""
        save(self.model, folder)

    @property
    def nnz(self) -> int:
        """Weights that are not zero; those of a kernel count once."""
        return int(self.rows.nnz.sum())

    @property
    def sparsity(self) -> float:
        """100·(1 − nnz/N₀), in per cent of the baseline's weights."""
        return 100.0 * (1.0 - self.nnz / self.weight_count)

    @cached_property
    def layers(self) -> tuple[LayerFigures, ...]:
        """What came of each layer, in the order of evaluation."""
        selected = bool(np.isfinite(self.rows.cardinality_gap).all()) and self.ridge is not None
        found = []
        for name, error in self.student.errors.items():
            own = self.rows.group == name
            objective, gap = self.rows.objective[own].sum(), self.rows.cardinality_gap[own].sum()
            bound = (float(1 - gap / objective) if objective > 0 else 1.0) if selected else None
            weights, nnz = self.student.weights[name], int(self.rows.nnz[own].sum())
            found.append(LayerFigures(name, int(own.sum()), weights, nnz, error, bound))
        return tuple(found)

    def figures(self) -> dict[str, Any]:
        """The summary as plain numbers, ready for JSON; sparsity in per cent."""
        return {
            "samples": self.n_samples,
            "rows": len(self.rows),
            "rows_certified": int(self.rows.converged.sum()),
            "largest_relative_gap": float(self.rows.relative_gap.max(initial=0.0)),
            "non_zeros": self.nnz,
            "baseline_weights": self.weight_count,
            "sparsity": self.sparsity,
            "layers": [asdict(layer) for layer in self.layers],
            "strength": self.strength,
            "trials": self.trials,
            "exchanged": self.exchanged,
            "ridge": None if self.ridge is None else self.ridge.ridge,
            "anchor": None if self.ridge is None else self.ridge.anchor,
            **self.student.facts,
            "seconds": dict(self.seconds),
        }

    def summary(self) -> str:
        """One screen of text: what was done, what is certified, where the non-zeros went."""
        return summary_of(self)
