"""skglm 0.5: coordinate descent on working sets with Anderson acceleration. No ball.

What was tried, on rows of the family with 500 samples (seconds per row for λ = .01, β = .01 and for λ = .1, β = .001,
tol 1e-8, one core): AndersonCD with a first working set of 10 columns 1.9 and 0.5 (taken), of 400 columns 1.7 and 1.7;
GramCD accelerated 3.3 and 3.0, greedy 5.7 and 1.3, and it builds the Gram matrix anew for every row. ProxNewton 45 and
1.9. None stopped with the gap wanted at that tolerance.
The tolerance counts violations of the optimality conditions; it is tightened tenfold, warm-started, until the gap
measured here is 1e-6.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from skglm.datafits import Quadratic
from skglm.penalties import L1
from skglm.solvers import AndersonCD
from skglm.utils.jit_compilation import compiled_clone

from peers.common import Array, Rows, RowSolver, by_two_processes, until_certified


def prepare(rows: Rows) -> RowSolver:
    datafit, penalty = compiled_clone(Quadratic()), compiled_clone(L1(rows.alpha))

    def solve_row(target: Array) -> Array:
        def attempt(tol: float, start: Array | None) -> Array:
            solver = AndersonCD(max_iter=200, max_epochs=50_000, p0=10, tol=tol, fit_intercept=False)
            begin = () if start is None else (start.copy(), rows.features @ start)
            return np.asarray(solver.solve(rows.features, target, datafit, penalty, *begin)[0])

        return until_certified(rows, target, attempt, start=1e-8)

    return solve_row


def solve(rows: Rows, deadline: float) -> Iterator[tuple[list[int], Array]]:
    return by_two_processes(prepare, rows, deadline)
