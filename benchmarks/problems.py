"""The problems of the benchmarks: rows of a trained network, and synthetic rows of any size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from results import say
from scipy.signal import lfilter
from torch import nn

import simplicit as sp
from simplicit.data import Dataset, load_dataset
from simplicit.implicit import scaling_vector
from simplicit.runs.mlp import MlpSettings, train_mlp

Array = npt.NDArray[np.float64]

#: (λ₁, β) of the Fashion-MNIST family.
STRENGTHS = ((0.1, 0.001), (0.01, 0.01), (0.01, 0.001))
#: Samples of the family.
SAMPLES = (100, 200, 500, 1000, 2000)
KAPPA = 0.99


@dataclass(frozen=True)
class Problem:
    """Rows that share a design: features (m, d), targets (m, r), λ, β, and κ on the first `n_ball` columns."""

    features: Array
    targets: Array
    weight: float
    beta: float
    kappa: float | None
    n_ball: int

    @property
    def ball(self) -> sp.Ball | None:
        return None if self.kappa is None else sp.Ball(self.kappa, slice(0, self.n_ball))

    def without_ball(self) -> Problem:
        return replace(self, kappa=None)

    def with_rows(self, count: int | None) -> Problem:
        """The first `count` rows; all of them for None."""
        return replace(self, targets=np.ascontiguousarray(self.targets[:, :count]))

    def solve(self, **options: Any) -> sp.Solution:
        """Ours, at tol 1e-6; rows that do not converge come back marked."""
        settings: dict[str, Any] = {"penalty": sp.L1(self.beta)} | self._settings | options
        return sp.solve_rows(self.features, self.targets, **settings)

    def solve_path(self, penalties: Sequence[sp.L1]) -> list[sp.Solution]:
        """The same along a path."""
        return list(sp.solve_path(self.features, self.targets, penalties, **self._settings))

    @property
    def _settings(self) -> dict[str, Any]:
        return {"weight": self.weight, "ball": self.ball, "tol": 1e-6, "throw": False}


def fashion_baseline(data_dir: Path) -> tuple[nn.Module, Dataset]:
    """The bias-free 784-64-32-16-10 network, trained anew from its seed (half a minute), and its data."""
    data = load_dataset("fashion-mnist", data_dir)
    return train_mlp(data, MlpSettings(arch=(64, 32, 16), bias=False)), data


def state_rows(net: nn.Module, data: Dataset, m: int, *, rescaled: bool = True) -> tuple[Array, Array]:
    """Features [X U] and targets Z of `m` training samples, in the units of Theorem 2.4 or raw.

    The values are rounded to float32, in which the network computed them anyway, and stored as float64: peers that work
    on float32 data then solve the very same problem.
    """
    chosen = np.random.default_rng(0).permutation(len(data.train_inputs))[:m]
    states = sp.extract_states(net, data.train_inputs[chosen])
    s = scaling_vector(sp.from_torch(net, data.train_inputs[:2])) if rescaled else 1.0
    features, targets = np.hstack([states.X / s, states.U]), states.Z / s
    return features.astype(np.float32).astype(np.float64), targets.astype(np.float32).astype(np.float64)


class FashionFamily:
    """Problems of the family, the network trained once and the states extracted once per sample size."""

    def __init__(self, data_dir: Path) -> None:
        say("training the baseline")
        self.net, self.data = fashion_baseline(data_dir)
        self.states: dict[int, tuple[Array, Array]] = {}

    def problem(self, m: int, weight: float, beta: float) -> Problem:
        if m not in self.states:
            self.states[m] = state_rows(self.net, self.data, m)
        features, targets = self.states[m]
        return Problem(features, targets, weight, beta, KAPPA, targets.shape[1])


def synthetic(m: int, d: int, r: int, *, fraction: float = 0.02, seed: int = 0) -> Problem:
    """Rows with sparse truth over correlated Gaussian columns.

    Columns are standard normal with correlation .5^|i−j|. Each row has 30 true coefficients drawn from N(0, 1), five of
    them in the ball (the first d/8 columns) with a norm between half and one and a half times the radius; noise adds a
    tenth of the signal's variance. λ = 1 and β is `fraction` of the median over rows of β_max = 2 maxⱼ|Φⱼᵀz|: with .02
    supports hold some hundred columns, more than the truth, and the ball binds on most rows.
    """
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(m, d))
    noise[:, 1:] *= np.sqrt(0.75)
    features = np.ascontiguousarray(lfilter([1.0], [1.0, -0.5], noise, axis=1))
    del noise
    n_ball = d // 8
    targets = np.empty((m, r))
    for row in range(r):
        inside = rng.choice(n_ball, 5, replace=False)
        outside = n_ball + rng.choice(d - n_ball, 25, replace=False)
        ball_part, rest = rng.normal(size=5), rng.normal(size=25)
        ball_part *= KAPPA * rng.uniform(0.5, 1.5) / np.abs(ball_part).sum()
        signal = features[:, inside] @ ball_part + features[:, outside] @ rest
        targets[:, row] = signal + np.sqrt(0.1) * signal.std() * rng.normal(size=m)
    beta_max = 2 * np.abs(features.T @ targets).max(axis=0)
    return Problem(features, targets, 1.0, float(fraction * np.median(beta_max)), KAPPA, n_ball)
