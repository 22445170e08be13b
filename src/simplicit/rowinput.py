"""Checks of what ``solve_rows`` and ``solve_path`` are given, each with one clear error, before any work starts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_array, issparse

from simplicit.assembly import GramSource, Problem, Samples, Source, block_rows
from simplicit.checks import as_float_array, as_positive_array, check_finite, check_magnitudes
from simplicit.errors import InputError
from simplicit.rows import Ball, Gram, Penalty, PiecewiseQuadratic, Solution
from simplicit.rows.block import ADMM_COLUMNS, FACTOR_BYTES
from simplicit.rows.design import forms_gram

__all__ = ["RowInput", "available_memory", "check_memory"]

#: Entries of a memory map that are read at a time.
CHUNK = 2**23


@dataclass(frozen=True)
class RowInput:
    """Features and targets, checked once; :meth:`problem` adds the rest."""

    source: Source
    shape: tuple[int, int]  # (r, d)
    n_samples: int | None
    device: str

    @classmethod
    def of(cls, features: Any, targets: Any, *, intercept: bool, device: str, exact: bool) -> RowInput:
        """Check features and targets.

        Parameters
        ----------
        features : (m, d) array, tensor, memory map or Gram
            A memory map with more samples than columns is read in chunks, and only its Gram matrix is kept, unless
            ``exact`` matching needs the samples.
        targets : (m, r) array, or None with a Gram
        """
        device = _device(device)
        if isinstance(features, Gram):
            if targets is not None:
                raise InputError("targets: a Gram has its targets in it already; leave them out")
            if not features.n_samples:
                raise InputError("features: the Gram has no samples yet; call gram.update(features, targets) first")
            return cls(GramSource(lambda: features, intercept=intercept), features.shape, None, device)
        if targets is None:
            raise InputError("targets: missing; give an array of shape (m, r), one column per row problem")
        phi, z = as_float_array("features", features, ndim=2), as_float_array("targets", targets, ndim=2)
        if phi.shape[0] != z.shape[0]:
            raise InputError(f"targets: shape {z.shape} does not fit features {phi.shape}; both need a line per sample")
        for name, array in (("features", phi), ("targets", z)):
            check_magnitudes(name, array)
        (m, d), r = phi.shape, z.shape[1]
        if isinstance(features, np.memmap) and m > d and not exact:
            return cls(GramSource(lambda: _streamed(phi, z), intercept=intercept), (r, d), None, device)
        rows = np.ascontiguousarray(z.T, dtype=np.float64)
        return cls(Samples(phi, rows, intercept=intercept), (r, d), m, device)

    def problem(
        self,
        penalty: Any,
        weight: float | npt.ArrayLike,
        ball: Ball | None,
        support: npt.ArrayLike | None,
        warm_start: Any,
    ) -> Problem:
        """The row problems with one penalty and one ball, each parameter checked."""
        if isinstance(penalty, type) or not isinstance(penalty, Penalty):
            raise InputError(f"penalty: expected a penalty such as simplicit.L1(beta=1e-3), got {penalty!r}")
        if ball is not None and not isinstance(ball, Ball):
            raise InputError(f"ball: expected simplicit.Ball(radius, columns) or None, got {ball!r}")
        r, d = self.shape
        pieces = penalty.spread(r, d)
        if not isinstance(pieces, PiecewiseQuadratic):
            raise InputError(
                f"penalty: {type(penalty).__name__}.spread must return a PiecewiseQuadratic, got {pieces!r}"
            )
        return Problem(
            source=self.source,
            shape=self.shape,
            penalty=pieces.spread(r, d),
            weight=np.array(np.broadcast_to(as_positive_array("weight", weight, [(r,)]), (r,))),
            in_ball=np.zeros(d, dtype=bool) if ball is None else ball.mask(d),
            radius=np.ones(r) if ball is None else ball.radii(r),
            support=_support(support, r, d),
            warm_start=_start(warm_start, r, d),
            device=self.device,
        )


def _device(device: Any) -> str:
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        raise InputError(f"device: {device!r} is no device; give 'cpu' or 'cuda'") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise InputError("device: this torch sees no CUDA device; take device='cpu'")
    if chosen.type not in ("cpu", "cuda"):
        raise InputError(f"device: {device!r} has no float64, which the certificates need; give 'cpu' or 'cuda'")
    return str(chosen)


def _chunks(*arrays: npt.NDArray[Any]) -> Iterator[tuple[npt.NDArray[Any], ...]]:
    step = max(1, CHUNK // sum(array.shape[1] for array in arrays))
    for first in range(0, len(arrays[0]), step):
        yield tuple(array[first : first + step] for array in arrays)


def _streamed(features: npt.NDArray[Any], targets: npt.NDArray[Any]) -> Gram:
    gram = Gram()
    for phi, z in _chunks(features, targets):
        gram.update(phi, z)
    return gram


def _support(support: npt.ArrayLike | None, n_rows: int, n_columns: int) -> npt.NDArray[np.bool_] | None:
    """The admissible columns, (d,) or (r, d); a row without any has the solution 0."""
    if support is None:
        return None
    given: Any = support
    mask = given.toarray() if issparse(given) else np.asarray(given)
    if mask.dtype != bool or mask.shape not in ((n_columns,), (n_rows, n_columns)):
        raise InputError(
            f"support: expected booleans of shape ({n_columns},) or ({n_rows}, {n_columns}), "
            f"got {mask.dtype} of shape {mask.shape}"
        )
    return np.array(mask)


def _start(warm_start: Any, n_rows: int, n_columns: int) -> csr_array | None:
    if warm_start is None:
        return None
    if isinstance(warm_start, Solution):
        warm_start = warm_start.coefficients
    if not issparse(warm_start):
        warm_start = as_float_array("warm_start", warm_start, ndim=2)
        check_finite("warm_start", warm_start)
    elif warm_start.dtype.kind not in "fiu":
        raise InputError(f"warm_start: expected real values, got {warm_start.dtype}")
    start = csr_array(warm_start, dtype=float)
    if start.shape != (n_rows, n_columns):
        raise InputError(f"warm_start: expected shape ({n_rows}, {n_columns}), got {start.shape}")
    check_finite("warm_start", start.data)
    return start


def available_memory() -> int | None:
    """Bytes that may still be allocated; None where the platform does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None


def check_memory(problem: Problem, n_samples: int | None, workers: int) -> None:
    """Estimate what the solver allocates at its peak, and refuse before the start what cannot fit.

    Raises
    ------
    InputError
        With the estimate, what there is, and what would need less.
    """
    r, d = problem.shape
    columns = d if problem.support is None else int(np.atleast_2d(problem.support).any(axis=0).sum())
    need = 8 * columns * (0 if n_samples is None else n_samples) + 8 * r * (n_samples or 0)
    if forms_gram(n_samples, columns):
        # G, and where ADMM prepares its inverse, that and its factor.
        need += 8 * columns**2 * (4 if columns <= ADMM_COLUMNS else 1)
    rows = block_rows(columns)
    need += min(workers, -(-r // rows)) * (16 * 8 * rows * columns + FACTOR_BYTES)
    available = available_memory()
    if available is not None and need > available:
        raise InputError(
            f"features: {r} rows x {columns} columns need about {need / 2**30:.3g} GiB beside what they take already, "
            f"and {available / 2**30:.3g} GiB are free: restrict the support, take fewer samples or workers, or solve "
            "the targets in parts"
        )
