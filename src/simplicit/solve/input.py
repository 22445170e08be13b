"""Checks of what ``solve_rows`` and ``solve_path`` are given, each with one clear error, before any work starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_array, issparse

from simplicit.checks import as_float_array, as_positive_array, check_finite, check_magnitudes
from simplicit.errors import InputError
from simplicit.rows import Ball, BasisPursuit, Gram, Penalty, PiecewiseQuadratic, Solution
from simplicit.solve.cut import Problem
from simplicit.solve.sources import GramSource, Samples, Source

#: Entries of a memory map that are read at a time.
CHUNK = 2**23


@dataclass(frozen=True)
class RowInput:
    """Features and targets, checked once; :meth:`problem` adds the rest."""

    source: Source
    shape: tuple[int, int]  # (r, d)
    device: str

    @classmethod
    def of(
        cls, features: Any, targets: Any, *, intercept: bool, device: str, penalties: Sequence[Any] = ()
    ) -> RowInput:
        """Check features and targets.

        Parameters
        ----------
        features : (m, d) array, tensor, memory map or Gram
            A memory map with more samples than columns is read in chunks, and only its Gram matrix is kept, unless
            exact matching needs the samples.
        targets : (m, r) array, or None with a Gram
        penalties : sequence of Penalty
            What they are going to be solved with.
        """
        device = _device(device)
        exact = any(isinstance(p, BasisPursuit) or getattr(p, "equality", False) for p in penalties)
        if isinstance(features, Gram):
            if exact:
                raise _refused(
                    "features", "exact matching needs the samples; pass arrays, not a Gram, for BasisPursuit"
                )
            if targets is not None:
                raise _refused("targets", "a Gram has its targets in it already; leave them out")
            if not features.n_samples:
                raise _refused("features", "the Gram has no samples yet; call gram.update(features, targets) first")
            return cls(GramSource(lambda: features, intercept=intercept), features.shape, device)
        if targets is None:
            raise _refused("targets", "missing; give an array of shape (m, r), one column per row problem")
        phi, z = as_float_array("features", features, ndim=2), as_float_array("targets", targets, ndim=2)
        if phi.shape[0] != z.shape[0]:
            raise _refused("targets", f"shape {z.shape} does not fit features {phi.shape}; both need a line per sample")
        for name, array in (("features", phi), ("targets", z)):
            check_magnitudes(name, array)
        (m, d), r = phi.shape, z.shape[1]
        if isinstance(features, np.memmap) and m > d and not exact:
            streamed = GramSource(
                lambda: _streamed(phi, z), intercept=intercept, origin={"features": phi, "targets": z}
            )
            return cls(streamed, (r, d), device)
        return cls(Samples(phi, z, intercept=intercept), (r, d), device)

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
            raise _refused("penalty", f"expected a penalty such as simplicit.L1(beta=1e-3), got {penalty!r}")
        if ball is not None and not isinstance(ball, Ball):
            raise _refused("ball", f"expected simplicit.Ball(radius, columns) or None, got {ball!r}")
        r, d = self.shape
        pieces = penalty.pieces(r, d)
        if not isinstance(pieces, PiecewiseQuadratic):
            raise _refused(
                "penalty", f"{type(penalty).__name__}.pieces must return a PiecewiseQuadratic, got {pieces!r}"
            )
        return Problem(
            source=self.source,
            shape=self.shape,
            penalty=pieces.pieces(r, d),
            weight=np.array(np.broadcast_to(as_positive_array("weight", weight, [(r,)]), (r,))),
            in_ball=np.zeros(d, dtype=bool) if ball is None else ball.mask(d),
            radius=np.ones(r) if ball is None else ball.radii(r),
            support=_support(support, r, d),
            warm_start=_start(warm_start, r, d),
            device=self.device,
        )


def path_problems(
    features: Any,
    targets: Any,
    penalties: Any,
    ball: Any,
    weight: float | npt.ArrayLike,
    support: npt.ArrayLike | None,
    *,
    intercept: bool,
    device: str,
    warm_start: Any = None,
) -> list[Problem]:
    """The members of a path, checked: one problem for each penalty and ball; arguments as of ``solve_path``."""
    members = _members(penalties, ball)
    given = RowInput.of(
        features, targets, intercept=intercept, device=device, penalties=[penalty for penalty, _ in members]
    )
    problems = [given.problem(penalty, weight, one, support, warm_start) for penalty, one in members]
    if any(p.penalty.equality != problems[0].penalty.equality for p in problems):
        raise _refused("penalties", "a path cannot mix BasisPursuit with others; solve them apart")
    return problems


def _members(penalties: Any, ball: Any) -> list[tuple[Penalty, Ball | None]]:
    """Pairs of penalty and ball along the path."""
    many_balls = isinstance(ball, Sequence)
    if isinstance(penalties, Penalty):
        penalties = [penalties] * (len(ball) if many_balls else 1)
    if not isinstance(penalties, Sequence) or isinstance(penalties, str) or not len(penalties):
        raise _refused("penalties", "give a sequence of penalties, strongest first, or one and a sequence of balls")
    balls = list(ball) if many_balls else [ball] * len(penalties)
    if len(balls) != len(penalties):
        raise _refused("ball", f"{len(balls)} balls for {len(penalties)} penalties; give one, or one for each")
    return list(zip(penalties, balls, strict=True))


def _refused(argument: str, what: str) -> InputError:
    return InputError(f"{argument}: {what}", argument=argument)


def _device(device: Any) -> str:
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        raise _refused("device", f"{device!r} is no device; give 'cpu' or 'cuda'") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise _refused("device", "this torch sees no CUDA device; take device='cpu'")
    if chosen.type not in ("cpu", "cuda"):
        raise _refused("device", f"{device!r} has no float64, which the certificates need; give 'cpu' or 'cuda'")
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
        raise _refused(
            "support",
            f"expected booleans of shape ({n_columns},) or ({n_rows}, {n_columns}), "
            f"got {mask.dtype} of shape {mask.shape}",
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
        raise _refused("warm_start", f"expected real values, got {warm_start.dtype}")
    start = csr_array(warm_start, dtype=float)
    if start.shape != (n_rows, n_columns):
        raise _refused("warm_start", f"expected shape ({n_rows}, {n_columns}), got {start.shape}")
    check_finite("warm_start", start.data)
    return start
