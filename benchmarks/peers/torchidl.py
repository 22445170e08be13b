"""torchidl 0.0.4, ``CVXSolver``: one CVXPY problem per row in a pool of two processes, with the ball.

It asks for MOSEK and falls back to Clarabel. Its objective is ½‖z − Φw‖² + λ_z‖w‖₁, so λ_z = β/(2λ); it reads the
features as float32, which the family's are, and sets coefficients below 1e-6 to zero.

What was tried: ``num_row=1`` is its default and the largest that is right (with more, the norms of the rows are tied
together in one constraint). ``batch_size`` decides after how many rows it makes a new pool: 16 here, so that a time
limit can be kept; the pools cost 0.1 s each beside 2 to 4 s per row.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
from torchidl.sim.solvers.cvx import CVXSolver, create_shared_memory_block

from peers.common import PROCESSES, Array, Rows

BATCH = 16


def solve(rows: Rows, deadline: float) -> Iterator[tuple[list[int], Array]]:
    (m, d), r = rows.features.shape, rows.targets.shape[1]
    n = rows.n_ball
    solver = CVXSolver(
        num_row=1,
        batch_size=BATCH,
        num_processes=PROCESSES,
        lambda_z=rows.beta / (2 * rows.weight),
        well_pose=rows.kappa is not None,
    )
    states, inputs = (np.ascontiguousarray(part.T, dtype=np.float32) for part in np.split(rows.features, [n], axis=1))
    blocks, _ = create_shared_memory_block([states, inputs])
    try:
        for start in range(0, r, BATCH):
            if time.perf_counter() > deadline:
                raise TimeoutError
            chosen = list(range(start, min(start + BATCH, r)))
            targets = np.ascontiguousarray(rows.targets[:, chosen].T)
            A, B = solver.parallel_solve_matrix(*blocks, targets, False, (n, m, d - n, 0), rows.kappa)
            yield chosen, np.hstack([A.toarray(), B.toarray()])
    finally:
        for block in blocks:
            block.close()
            block.unlink()
