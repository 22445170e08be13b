"""What a solve takes at its peak, refused before it starts where it cannot fit."""

from __future__ import annotations

import numpy as np

from simplicit import machine
from simplicit.executors import Executor
from simplicit.rows.active_set import FACTOR_BYTES
from simplicit.rows.design import KEPT_BY_SAMPLES, by_samples, forms_gram
from simplicit.rows.start import admm_pays
from simplicit.solve.cut import Problem, block_rows


def check_memory(problem: Problem, executor: Executor, rows: int | None = None) -> None:
    """Raise InputError where the peak of the solver, with so many ``rows`` a block, takes more memory than is free."""
    (r, d), n_samples = problem.shape, problem.source.n_samples
    columns = d if problem.support is None else int(np.atleast_2d(problem.support).any(axis=0).sum())
    need = 8 * (columns + r) * (n_samples or 0)
    if forms_gram(n_samples, columns):
        need += 8 * columns**2
    if admm_pays(n_samples, columns):  # its inverses, a factor, and what they are made of, once in every process
        if n_samples is not None and by_samples(n_samples, columns):
            need += executor.copies * ((KEPT_BY_SAMPLES + 3) * 4 * columns * n_samples + 3 * 8 * n_samples**2)
        else:
            need += executor.copies * 3 * 8 * columns**2
    rows = rows or block_rows(columns)
    # A block works on a dozen arrays of its coefficients, and on factorisations with their borders and tableaux.
    base = columns if n_samples is None else min(columns, n_samples)
    factors = min(FACTOR_BYTES, 8 * min(rows, r) * base**2)
    need += min(executor.n_workers, -(-r // rows)) * (16 * 8 * rows * columns + 4 * factors)
    machine.check_memory(
        "features",
        need,
        f"{r} rows x {d} columns need, beside what they take already,",
        "restrict the support, take fewer samples or workers, or solve the targets in parts",
    )
