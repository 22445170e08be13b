"""Checks of what ``solve_rows`` and ``solve_path`` are given, each with one clear error, before any work starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_array, issparse

from simplicit.checks import as_float_array, as_positive_array, check_finite, refused, short
from simplicit.rows import Ball, BasisPursuit, Gram, Penalty, PiecewiseQuadratic, Solution
from simplicit.rows.batch import Array
from simplicit.rows.gram import as_sample_weight, checked_samples, checked_targets
from simplicit.solve.cut import Problem
from simplicit.solve.features import DenseFeatures, SparseFeatures
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
        cls,
        features: Any,
        targets: Any,
        *,
        intercept: bool,
        device: str,
        sample_weight: npt.ArrayLike | None = None,
        penalties: Sequence[Any] = (),
    ) -> RowInput:
        """Check features (m, d) and targets (m, r) or (m,), or a Gram without targets, for these penalties.

        A memory map with more samples than columns is read in chunks, and only its Gram matrix is kept, unless exact
        matching needs the samples; so it is of sparse features with many more samples than columns.
        """
        device = _device(device)
        exact = any(isinstance(p, BasisPursuit) or getattr(p, "equality", False) for p in penalties)
        if isinstance(features, Gram):
            if exact:
                raise refused("features", "exact matching needs the samples; pass arrays, not a Gram, for BasisPursuit")
            if targets is not None:
                raise refused("targets", "a Gram has its targets in it already; leave them out")
            if sample_weight is not None:
                what = "a Gram has its samples weighted already; pass sample_weight to gram.update"
                raise refused("sample_weight", what)
            if not features.n_samples:
                raise refused("features", "the Gram has no samples yet; call gram.update(features, targets) first")
            return cls(GramSource(lambda: features, intercept=intercept), features.shape, device)
        if targets is None:
            raise refused("targets", "missing; give an array of shape (m, r), one column per row problem")
        if issparse(targets):
            raise refused("targets", "must be dense; convert them with .toarray()")
        if issparse(features):
            return cls(*_sparse_source(features, targets, sample_weight, intercept, exact), device)
        phi, z = checked_samples(features, targets)
        (m, d), r = phi.shape, z.shape[1]
        s = None if sample_weight is None else as_sample_weight(sample_weight, m)
        if isinstance(features, np.memmap) and m > d and not exact:
            origin = {"features": phi, "targets": z} | ({} if s is None else {"sample_weight": s})
            source = GramSource(lambda: Gram.from_batches(_chunks(phi, z, s)), intercept=intercept, origin=origin)
            return cls(source, (r, d), device)
        if s is not None and not s.all():  # what counts nothing goes, or a column with nothing else would be a live one
            phi, z, s = phi[s > 0], z[s > 0], s[s > 0]
        return cls(Samples(DenseFeatures(phi), z, intercept=intercept, sample_weight=s), (r, d), device)

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
            raise refused("penalty", f"expected a penalty such as simplicit.L1(beta=1e-3), got {short(penalty)}")
        if ball is not None and not isinstance(ball, Ball):
            raise refused("ball", f"expected simplicit.Ball(radius, columns) or None, got {ball!r}")
        r, d = self.shape
        pieces = penalty.pieces(r, d)
        if not isinstance(pieces, PiecewiseQuadratic):
            found = f"{type(penalty).__name__}.pieces must return a PiecewiseQuadratic, got {pieces!r}"
            raise refused("penalty", found)
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
    sample_weight: npt.ArrayLike | None = None,
    warm_start: Any = None,
) -> list[Problem]:
    """The members of a path, checked: one problem for each penalty and ball; arguments as of ``solve_path``."""
    members = _members(penalties, ball)
    given = RowInput.of(
        features,
        targets,
        intercept=intercept,
        device=device,
        sample_weight=sample_weight,
        penalties=[penalty for penalty, _ in members],
    )
    problems = [given.problem(penalty, weight, one, support, warm_start) for penalty, one in members]
    if any(p.penalty.equality != problems[0].penalty.equality for p in problems):
        raise refused("penalties", "a path cannot mix BasisPursuit with others; solve them apart")
    return problems


def _members(penalties: Any, ball: Any) -> list[tuple[Penalty, Ball | None]]:
    """Pairs of penalty and ball along the path."""
    many_balls = isinstance(ball, Sequence)
    if isinstance(penalties, Penalty):
        penalties = [penalties] * (len(ball) if many_balls else 1)
    if not isinstance(penalties, Sequence) or isinstance(penalties, str) or not len(penalties):
        raise refused("penalties", "give a sequence of penalties, strongest first, or one and a sequence of balls")
    balls = list(ball) if many_balls else [ball] * len(penalties)
    if len(balls) != len(penalties):
        raise refused("ball", f"{len(balls)} balls for {len(penalties)} penalties; give one, or one for each")
    return list(zip(penalties, balls, strict=True))


def _device(device: Any) -> str:
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        raise refused("device", f"{device!r} is no device; give 'cpu' or 'cuda'") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise refused("device", "this torch sees no CUDA device; take device='cpu'")
    if chosen.type not in ("cpu", "cuda"):
        raise refused("device", f"{device!r} has no float64, which the certificates need; give 'cpu' or 'cuda'")
    return str(chosen)


def _sparse_source(
    features: Any, targets: Any, sample_weight: npt.ArrayLike | None, intercept: bool, exact: bool
) -> tuple[Source, tuple[int, int]]:
    """The source of sparse features and what it solves, (r, d)."""
    phi, z = SparseFeatures(features), checked_targets(targets)
    if len(phi) != len(z):
        raise refused("targets", f"shape {z.shape} does not fit features {features.shape}; both need a line per sample")
    shape, s = (z.shape[1], int(features.shape[1])), None
    if sample_weight is not None:
        s = as_sample_weight(sample_weight, len(phi))
        phi, z, s = phi.taken(s > 0), z[s > 0], s[s > 0]
    samples = Samples(phi, z, intercept=intercept, sample_weight=s)
    if exact or not phi.tall:
        return samples, shape
    return GramSource(lambda: phi.gram(z, s, centred=intercept), intercept=intercept, origin=samples.identity()), shape


def _chunks(features: npt.NDArray[Any], targets: npt.NDArray[Any], weights: Array | None) -> Iterator[tuple[Any, ...]]:
    """Some lines of all at a time, without those that count nothing."""
    step = max(1, CHUNK // (features.shape[1] + targets.shape[1]))
    for first in range(0, len(features), step):
        phi, z = features[first : first + step], targets[first : first + step]
        if weights is None:
            yield phi, z
            continue
        s = weights[first : first + step]
        if s.any():
            yield phi[s > 0], z[s > 0], s[s > 0]


def _support(support: npt.ArrayLike | None, n_rows: int, n_columns: int) -> npt.NDArray[np.bool_] | None:
    """The admissible columns, (d,) or (r, d); a row without any has the solution 0."""
    if support is None:
        return None
    given: Any = support
    mask = given.toarray() if issparse(given) else np.asarray(given)
    if mask.dtype != bool or mask.shape not in ((n_columns,), (n_rows, n_columns)):
        expected = f"expected booleans of shape ({n_columns},) or ({n_rows}, {n_columns})"
        raise refused("support", f"{expected}, got {mask.dtype} of shape {mask.shape}")
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
        raise refused("warm_start", f"expected real values, got {warm_start.dtype}")
    start = csr_array(warm_start, dtype=float)
    if start.shape != (n_rows, n_columns):
        raise refused("warm_start", f"expected shape ({n_rows}, {n_columns}), got {start.shape}")
    check_finite("warm_start", start.data)
    return start
