"""What a pruning method is, and what it is given of a layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from simplicit.training.support.pattern import Pattern
from simplicit.training.support.thresholding import keep_largest

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

#: δ of SparseGPT and ALPS, in shares of the mean of the diagonal of XᵀX.
DAMPING = 0.01


@dataclass(frozen=True, eq=False)
class Layer:
    """One linear layer to prune.

    Attributes
    ----------
    weights : (r, k) array
        The dense ones.
    gram : (k, k) array
        XᵀX of its inputs in the model pruned so far.
    cross : (r, k) array
        TᵀX with what a method that fits weights is to match, biases taken off.
    count : int
        How many weights stay.
    pattern : Pattern, optional
        What every row is to have, ``count`` in all; its groups divide k.
    """

    weights: Array
    gram: Array
    cross: Array
    count: int
    pattern: Pattern | None = None

    @classmethod
    def of_samples(cls, weights: Array, features: Array, targets: Array, count: int) -> Self:
        """Make a layer from inputs X (m, k) and targets T (m, r)."""
        return cls(weights, np.asarray(features.T @ features), np.asarray(targets.T @ features), count)

    def largest(self, scores: Array) -> Mask:
        """Return the largest scores (r, k): ``count`` of all, or of every group of the pattern."""
        return keep_largest(scores, self.count) if self.pattern is None else keep_in_groups(scores, self.pattern)

    def largest_in_rows(self, scores: Array) -> Mask:
        """Return the largest scores (r, k) of each row: equally many, or of every group of the pattern."""
        if self.pattern is None:
            return keep_largest_in_rows(scores, self.count)
        return keep_in_groups(scores, self.pattern)

    def damped(self) -> tuple[Array, Array]:
        """Return XᵀX + δI and TᵀX + δW⁰, with the dense weights W⁰."""
        damping = DAMPING * (float(self.gram.diagonal().mean()) or 1.0)
        gram = self.gram.copy()
        gram[np.diag_indices_from(gram)] += damping
        return gram, self.cross + damping * self.weights


@dataclass(frozen=True)
class Peer:
    """A pruning method.

    Attributes
    ----------
    title : str
        What tables and pictures call it.
    prune : callable
        From a :class:`Layer` to its weights, at most ``count`` of them not zero. A study that runs several seeds at a
        time hands it to other processes, so that it has to be a function of a module.
    fits : bool
        Whether the weights that stay are fitted to targets; otherwise they are the dense ones.
    source : str
        The paper.
    by_size : bool
        Whether its score is the size of a weight: sizes compare across layers, so that it may choose among all weights
        of a network too.
    """

    title: str
    prune: Callable[[Layer], Array]
    fits: bool
    source: str
    by_size: bool = False


def keep_largest_in_rows(scores: Array, count: int) -> Mask:
    """Return the largest scores of every row, equally many in each, ``count`` in all; the first rows get the rest."""
    each, over = divmod(count, len(scores))
    return np.asarray(_ranks(scores) < each + (np.arange(len(scores)) < over)[:, None])


def keep_in_groups(scores: Array, pattern: Pattern) -> Mask:
    """Return the largest scores of every group of a pattern, row by row; of equal ones the first."""
    ranks = _ranks(scores.reshape(len(scores), -1, pattern.of))
    return np.asarray(ranks < pattern.kept).reshape(scores.shape)


def _ranks(scores: Array) -> npt.NDArray[np.intp]:
    """The places of scores along the last axis, the largest first."""
    order = np.argsort(-scores, axis=-1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.broadcast_to(np.arange(scores.shape[-1]), scores.shape), axis=-1)
    return ranks
