"""What a pruning method is given, layer by layer, and which weights have the largest scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from simplicit.training.support.thresholding import keep_largest

__all__ = ["Layer", "Peer", "keep_largest", "keep_largest_in_rows"]

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


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
    """

    weights: Array
    gram: Array
    cross: Array
    count: int

    @classmethod
    def of_samples(cls, weights: Array, features: Array, targets: Array, count: int) -> Self:
        """Make a layer from inputs X (m, k) and targets T (m, r)."""
        return cls(weights, np.asarray(features.T @ features), np.asarray(targets.T @ features), count)


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
    order = np.argsort(-scores, axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.broadcast_to(np.arange(scores.shape[1]), scores.shape), axis=1)
    return np.asarray(ranks < each + (np.arange(len(scores)) < over)[:, None])
