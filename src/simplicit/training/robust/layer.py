r"""One layer of robust training: rows that match pre-activations from one side where a ReLU is off.

    min over w, c, t   (λ/M) Σₛ (tₛ − w·fₛ − c)² + σβ Σⱼ rⱼ|wⱼ|     s.t.  tₛ = zₛ where zₛ > 0,  tₛ ≤ 0 elsewhere

A state that is off in the baseline needs to stay off, and no more: any tₛ ≤ 0 is as good. The problem is convex in
(w, c, t) jointly. It is descended by turns: t = min(w·f + c, 0) where zₛ ≤ 0, then one row problem in w, solved to a
duality gap. A turn is a proximal gradient step on the joint problem in the metric of the features, so that
Nesterov's extrapolation applies: t is taken at a point ahead of w. The turns are few: they stop short of the joint
optimum, which measured no better.

The row problems see their M samples through second moments alone, so that these are reduced once to a square root of
ΦᵀΦ/M with as many lines as columns: the same problems, and a turn costs no more than its rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from simplicit.progress import counted
from simplicit.rows import L1, Solution
from simplicit.rows.batch import Array, Mask
from simplicit.solve import RunOptions, solve_rows
from simplicit.training.training import RowOptions


@dataclass(frozen=True, eq=False)
class LayerFit:
    """A solved layer: ``weights`` (r, d), ``intercepts`` (r,), and the row problems of the last turn."""

    weights: Array
    intercepts: Array
    solution: Solution


@dataclass(frozen=True, eq=False)
class OneSidedLayer:
    """What decides a layer's rows.

    ``features`` (M, d) are the inputs and states that the rows may use, ``targets`` (M, r) those of the baseline,
    ``support`` (r, d) says which coefficients are admissible, ``prices`` (d,) are σβrⱼ and ``weight`` λ. Targets below
    zero ask only to stay there (``onesided``) where the layer's activation is a ReLU.
    """

    features: Array
    targets: Array
    support: Mask
    prices: Array
    weight: float
    onesided: bool

    def solve(self, turns: int, start: LayerFit | None, rows: RowOptions, run: RunOptions) -> LayerFit:
        """Solve by at least 1 turn, the last one as ``rows`` says and those before more coarsely.

        One turn is all that is done without a side. ``start`` is what to begin from, such as the layer at fewer
        samples.
        """
        moments = _Moments(self.features)
        found, before, pace = start, start, 1.0
        turns = turns if self.onesided else 1
        for turn in counted(range(turns), "turns", turns):
            if found is None or before is None:
                targets = self._first()
            else:
                pace, step = 0.5 + math.sqrt(0.25 + pace**2), pace - 1.0
                targets = self._moved(found, before, step / pace)
            how = rows if turn == turns - 1 else rows.coarser()
            before, found = found, self._turn(moments, targets, found, how.arguments(run))
        assert found is not None
        return found

    def _first(self) -> Array:
        """The baseline's targets, but for states that never are on: these need no weights at all."""
        return np.where((self.targets > 0).any(axis=0), self.targets, 0.0) if self.onesided else self.targets

    def _moved(self, fit: LayerFit, before: LayerFit, share: float) -> Array:
        """The targets that suit best the weights ahead of a fit, seen from the one before."""
        if not self.onesided:
            return self.targets
        weights = fit.weights + share * (fit.weights - before.weights)
        intercepts = fit.intercepts + share * (fit.intercepts - before.intercepts)
        return np.where(self.targets > 0, self.targets, np.minimum(self.features @ weights.T + intercepts, 0.0))

    def _turn(self, moments: _Moments, targets: Array, start: LayerFit | None, options: dict[str, Any]) -> LayerFit:
        reduced, mean = moments.reduce(targets)
        solution = solve_rows(
            moments.features,
            reduced,
            penalty=L1(beta=1.0, column_weights=self.prices),
            weight=self.weight,
            support=None if self.support.all() else self.support,
            warm_start=None if start is None else start.weights,
            **options,
        )
        weights = solution.coefficients.toarray()
        return LayerFit(weights, mean - weights @ moments.mean, solution)


class _Moments:
    """Centred features reduced to (k + 1, d): a square root of their second moments, and a line of zeros.

    The line takes what of the targets no column reaches, so that objectives are those of the samples. Centring is what
    a free constant in every row comes to.
    """

    def __init__(self, features: Array) -> None:
        self._samples = features
        count, columns = features.shape
        self.mean = features.mean(axis=0)
        moments = features.T @ features / count - np.outer(self.mean, self.mean)
        still = moments.diagonal() <= 1e-14 * moments.diagonal().max(initial=0.0)
        moments[still] = moments[:, still] = 0.0  # what rounding left of constant columns
        values, vectors = np.linalg.eigh(moments)
        kept = values > 8 * columns * np.finfo(float).eps * values.max(initial=0.0)
        scale = np.sqrt(values[kept])[:, None]
        self.features = np.vstack([scale * vectors[:, kept].T, np.zeros((1, columns))])
        self._inverse = vectors[:, kept].T / scale

    def reduce(self, targets: Array) -> tuple[Array, Array]:
        """Targets (k + 1, r) with the same row problems, and the means (r,) that were taken away."""
        count, mean = len(targets), targets.mean(axis=0)
        cross = self._samples.T @ targets / count - np.outer(self.mean, mean)
        reached = self._inverse @ cross
        energy = np.einsum("ij,ij->j", targets, targets) / count - mean**2 - np.einsum("ij,ij->j", reached, reached)
        return np.vstack([reached, np.sqrt(np.maximum(energy, 0.0))]), mean
