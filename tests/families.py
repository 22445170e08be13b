"""Random row problems, ugly ones among them, and what can be said of a solution without code of the library."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

import simplicit as sp
from reference import Prices, RowModel

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

REGIMES = (
    "normal",
    "duplicate and zero columns",
    "integers",
    "columns of many scales",
    "low rank",
    "positive",
    "common offset",
    "tiny or huge features",
    "nearly equal columns",
)
PENALTIES = (
    "L1",
    "L1 with weights",
    "ElasticNet",
    "ridge",
    "Perspective",
    "Perspective, dear",
    "Perspective, gamma=0",
    "NoPenalty",
    "BasisPursuit",
)
BALLS = ("none", "slice", "all", "indices", "mask")
SUPPORTS = ("none", "shared", "own", "grouped", "csr")


@dataclass(frozen=True)
class RowCase:
    """Arguments of ``solve_rows`` for a few rows, and what they are."""

    features: npt.NDArray[Any]
    targets: npt.NDArray[Any]
    penalty: Any
    weight: float | Array = 1.0
    ball: sp.Ball | None = None
    support: Any = None
    intercept: bool = False
    label: dict[str, str] = field(default_factory=dict)

    def solve(self, **changes: Any) -> sp.Solution:
        """Ours; rows that do not converge come back marked."""
        arguments = {
            "penalty": self.penalty,
            "weight": self.weight,
            "ball": self.ball,
            "support": self.support,
            "intercept": self.intercept,
            "throw": False,
            "executor": "serial",
        }
        data = (self.features,) if isinstance(self.features, sp.Gram) else (self.features, self.targets)
        return sp.solve_rows(*data, **(arguments | changes))

    def row(self, i: int) -> RowModel:
        """Row i as the twin has it, read from the arguments alone."""
        r, d = self.targets.shape[1], self.features.shape[1]
        support = self.support
        if support is not None:
            support = support.toarray() if isinstance(support, csr_array) else support
            support = np.broadcast_to(support, (r, d))[i]
        radius, in_ball = None, None
        if self.ball is not None:
            radius, in_ball = float(np.broadcast_to(self.ball.radius, r)[i]), np.zeros(d, dtype=bool)
            in_ball[slice(None) if self.ball.columns is None else self.ball.columns] = True
        return RowModel(
            self.features.astype(np.float64),
            self.targets[:, i].astype(np.float64),
            Prices.of(self.penalty, d, i),
            float(np.broadcast_to(self.weight, r)[i]),
            radius,
            in_ball,
            support,
            self.intercept,
        )

    @property
    def n_rows(self) -> int:
        return int(self.targets.shape[1])

    def with_changes(self, **changes: Any) -> RowCase:
        return replace(self, **changes)


def random_case(seed: int, *, rows: int = 4, largest: int = 150, **fixed: str) -> RowCase:
    """A random problem; ``fixed`` may name its regime, penalty, ball or support."""
    rng = np.random.default_rng(seed)
    m = int(rng.choice([1, 2, 3, 5, 10, 20, 40, 80]))
    d = min(largest, int(rng.choice([1, 2, 3, 5, 10, 30, 60, 150])))
    label = {
        "regime": fixed.get("regime") or str(rng.choice(REGIMES)),
        "penalty": fixed.get("penalty") or str(rng.choice(PENALTIES)),
        "ball": fixed.get("ball") or str(rng.choice(BALLS, p=[0.4, 0.15, 0.15, 0.15, 0.15])),
        "support": fixed.get("support") or str(rng.choice(SUPPORTS, p=[0.6, 0.1, 0.1, 0.1, 0.1])),
    }
    features = _features(rng, m, d, label["regime"])
    support = _support(rng, rows, d, label["support"])
    truth = rng.normal(size=(d, rows)) * (rng.random((d, rows)) < rng.choice([0.1, 0.5]))
    norms = np.linalg.norm(features, axis=0)
    truth /= np.where(norms > 0, norms, 1.0)[:, None] if rng.random() < 0.5 else norms.max() or 1.0
    targets = features @ truth + rng.choice([0.0, 0.1, 1.0]) * rng.normal(size=(m, rows))
    targets *= 10.0 ** rng.choice([0, 0, 0, rng.uniform(-8, 8)])
    if rng.random() < 0.1:
        targets[:, 0] = 0.0
    if label["penalty"] == "BasisPursuit" and rng.random() < 0.8:
        truth = rng.normal(size=(d, rows)) if support is None else rng.normal(size=(d, rows)) * _dense(support).T
        targets = features @ (truth / (norms.max() or 1.0))
    intercept = label["penalty"] != "BasisPursuit" and bool(rng.random() < 0.25)
    if intercept:
        targets = targets + 3.0 * abs(targets).max()
    weight: float | Array = 10.0 ** rng.uniform(-3, 3)
    if rng.random() < 0.2:
        weight = weight * rng.uniform(0.1, 10, size=rows)
    largest_pull = abs(2 * np.mean(weight) * features.T @ (targets - targets.mean(axis=0) * intercept)).max() or 1.0
    size = abs(np.linalg.lstsq(features, targets, rcond=None)[0]).mean() or 1.0
    dtype = np.float32 if rng.random() < 0.25 else np.float64
    label["dtype"] = dtype.__name__
    return RowCase(
        features.astype(dtype),
        targets.astype(dtype),
        _penalty(rng, label["penalty"], largest_pull, size, rows, d),
        weight,
        _ball(rng, label["ball"], size * d, rows, d),
        support,
        intercept,
        label | {"seed": str(seed), "shape": f"{m} x {d}"},
    )


def _features(rng: np.random.Generator, m: int, d: int, regime: str) -> Array:
    phi = rng.normal(size=(m, d))
    if regime == "duplicate and zero columns":
        phi[:, rng.integers(d, size=1 + d // 3)] = phi[:, rng.integers(d, size=1 + d // 3)] * rng.choice([1.0, -2.0])
        phi[:, rng.integers(d)] = 0.0
    elif regime == "integers":
        phi = np.round(phi)
    elif regime == "columns of many scales":
        phi = phi * 10.0 ** rng.uniform(-4, 4, size=d)
    elif regime == "low rank":
        rank = max(1, min(m, d) // 3)
        phi = rng.normal(size=(m, rank)) @ rng.normal(size=(rank, d))
    elif regime == "positive":
        phi = abs(phi)
    elif regime == "common offset":
        phi = phi + 10 * rng.normal(size=(m, 1))
    elif regime == "tiny or huge features":
        phi = phi * 10.0 ** rng.uniform(-8, 8)
    elif regime == "nearly equal columns":
        phi = phi[:, :1] + 10.0 ** rng.uniform(-7, -1) * phi
    return phi


def _penalty(rng: np.random.Generator, kind: str, pull: float, size: float, rows: int, d: int) -> Any:
    beta: float | Array = pull * 10.0 ** rng.uniform(-5, 0.3)
    alpha: float | Array = pull / size * 10.0 ** rng.uniform(-4, 1)
    if rng.random() < 0.2:
        beta, alpha = beta * rng.uniform(0.3, 3, size=rows), alpha * rng.uniform(0.3, 3, size=rows)
    if kind == "L1":
        return sp.L1(beta)
    if kind == "L1 with weights":
        factors = rng.uniform(0.1, 3, size=(rows, d) if rng.random() < 0.3 else d)
        if rng.random() < 0.3:
            factors[..., rng.integers(d)] = 0.0
        return sp.L1(beta, factors)
    if kind == "ElasticNet":
        return sp.ElasticNet(beta, alpha, rng.uniform(0.1, 3, size=d) if rng.random() < 0.3 else None)
    if kind == "ridge":
        return sp.ElasticNet(0.0, alpha)
    if kind.startswith("Perspective"):
        price = {"Perspective": 1.0, "Perspective, dear": 30.0, "Perspective, gamma=0": 0.0}[kind]
        gamma = price * beta**2 / (4 * alpha)
        return sp.Perspective(alpha, gamma, rng.uniform(0.1, 3, size=d) if rng.random() < 0.3 else None)
    return sp.NoPenalty() if kind == "NoPenalty" else sp.BasisPursuit()


def _ball(rng: np.random.Generator, kind: str, size: float, rows: int, d: int) -> sp.Ball | None:
    if kind == "none":
        return None
    radius: float | Array = size * 10.0 ** rng.uniform(-2.5, 0.5)
    if rng.random() < 0.3:
        radius = radius * rng.uniform(0.2, 2, size=rows)
    mask = rng.random(d) < 0.5
    mask[rng.integers(d)] = True
    chosen: Any = {"all": None, "slice": slice(0, 1 + d // 2), "indices": np.flatnonzero(mask), "mask": mask}[kind]
    return sp.Ball(radius, chosen)


def _support(rng: np.random.Generator, rows: int, d: int, kind: str) -> Any:
    if kind == "none":
        return None
    own = rng.random((rows, d)) < 0.6
    if kind == "shared":
        return own[0]
    if kind == "grouped":
        return own[rng.integers(2, size=rows)]
    return csr_array(own) if kind == "csr" else own


def _dense(support: Any) -> Mask:
    return np.atleast_2d(support.toarray() if isinstance(support, csr_array) else support)


def flaws(case: RowCase, solution: sp.Solution, *, streamed: bool = False) -> list[str]:
    """What is wrong with a solution by itself: NaN, infeasible coefficients, a wrong objective, a gap below zero.

    ``streamed`` says that the solver knew only the Gram matrix.
    """
    dense = solution.coefficients.toarray()
    perspective = type(case.penalty).__name__ == "Perspective"
    names = ("objective", "dual_gap", "relative_gap", "multiplier", "residual", "seconds", "intercepts")
    found = [f"{name} holds NaN" for name in names if np.isnan(getattr(solution, name)).any()]
    if not perspective and not np.isnan(solution.cardinality_gap).all():
        found.append("a cardinality gap without a cardinality")
    if perspective and np.isnan(solution.cardinality_gap).any():
        found.append("cardinality_gap holds NaN")
    for i in range(case.n_rows):
        row, w = case.row(i), dense[i]
        if not np.isfinite(w).all():
            found.append(f"row {i}: coefficients are not finite")
            continue
        if row.support is not None and w[~row.support].any():
            found.append(f"row {i}: a coefficient off the support")
        if row.radius is not None and not abs(w[row.inside]).sum() <= row.radius:
            found.append(f"row {i}: outside the ball")
        if solution.dual_gap[i] < 0 or solution.multiplier[i] < 0:
            found.append(f"row {i}: a negative gap or multiplier")
        if solution.status[i] == sp.rows.RowStatus.INFEASIBLE:
            continue
        objective = row.objective(w, solution.intercepts[i])
        if abs(objective - solution.objective[i]) > 1e-9 * objective + rounding(row, w, streamed=streamed):
            found.append(f"row {i}: objective {solution.objective[i]!r} is {objective!r}")
    return found


def rounding(row: RowModel, w: Array, *, streamed: bool = False) -> float:
    """What float64 may lose of an objective at ``w``: of the data as given, since means are taken off them.

    From the Gram matrix ‖z − Φw‖² comes as the difference of squares and not as a square.
    """
    if row.prices.name == "BasisPursuit":
        return 0.0
    size = float(np.linalg.norm(row.target) + np.linalg.norm(row.features, axis=0) @ abs(w))
    if streamed:
        return row.weight * 1e-14 * size**2
    lost = 1e-14 * size
    return row.weight * (2 * float(np.linalg.norm(row.target)) * lost + lost**2)
