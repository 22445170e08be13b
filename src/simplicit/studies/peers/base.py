"""What a pruning method is given, layer by layer, and how a whole network is pruned with one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt

from simplicit.errors import InputError
from simplicit.implicit import ImplicitModel, equilibrium
from simplicit.network import States
from simplicit.training.support.thresholding import keep_largest

__all__ = ["Layer", "Network", "Peer", "keep_largest", "keep_largest_in_rows"]

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
        """From inputs X (m, k) and targets T (m, r)."""
        return cls(weights, np.asarray(features.T @ features), np.asarray(targets.T @ features), count)


@dataclass(frozen=True)
class Peer:
    """A pruning method.

    Attributes
    ----------
    title : str
        For tables and pictures.
    prune : callable
        From a :class:`Layer` to its weights, at most ``count`` of them not zero.
    fits : bool
        Whether the weights that stay are fitted to targets; otherwise they are the dense ones.
    source : str
        The paper.
    """

    title: str
    prune: Callable[[Layer], Array]
    fits: bool
    source: str


@dataclass(frozen=True, eq=False)
class Network:
    """A feed-forward baseline in its implicit form, with the states on the calibration samples.

    Attributes
    ----------
    model : ImplicitModel
        float64, in its own units: sizes of weights are compared across layers.
    states : States
    """

    model: ImplicitModel
    states: States

    @cached_property
    def matrix(self) -> Array:
        """M = [[A, B], [C, D]], (n + q, n + p)."""
        return np.asarray(self.model.matrix.toarray())

    @cached_property
    def layers(self) -> Mapping[str, slice]:
        """The rows of M of each layer, in the order of evaluation: the first stands last among the states."""
        rows = dict(reversed(list(self.model.slices.items())))
        n = self.model.n_states
        return rows | {"output": slice(n, n + self.model.n_outputs)}

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Weights of each layer."""
        return {name: int(np.count_nonzero(self.matrix[rows])) for name, rows in self.layers.items()}

    def uniform(self, sparsity: float) -> dict[str, int]:
        """The same share of every layer's weights stays."""
        return {name: int(size * (1 - sparsity / 100) + 1e-9) for name, size in self.sizes.items()}

    def by_size(self, sparsity: float) -> dict[str, int]:
        """The largest weights of the whole network stay."""
        count = int(sum(self.sizes.values()) * (1 - sparsity / 100) + 1e-9)
        kept = keep_largest(np.abs(self.matrix), count)
        return {name: int(kept[rows].sum()) for name, rows in self.layers.items()}

    def counts_of(self, model: ImplicitModel) -> dict[str, int]:
        """How many weights each layer of another model of the same layout has."""
        pruned = Network(model, self.states)
        return {name: int(np.count_nonzero(pruned.matrix[rows])) for name, rows in self.layers.items()}

    def pruned(self, peer: Peer, counts: Mapping[str, int], *, own_targets: bool) -> ImplicitModel:
        """The model with every layer pruned, one after another, each on the states of those before it.

        Parameters
        ----------
        peer : Peer
        counts : mapping of str to int
            How many weights stay in each layer.
        own_targets : bool
            Match the dense weights on the layer's own inputs, as the methods were published; otherwise the baseline's
            pre-activations, as :func:`simplicit.fit` does.

        Raises
        ------
        InputError
            A layer is to keep more weights than it has.
        """
        M = np.zeros_like(self.matrix)
        bias = np.concatenate([self.model.state_bias, self.model.output_bias])
        baseline = np.hstack([self.states.Z, self.states.Y]) - bias
        for name, rows in self.layers.items():
            if not 0 <= counts[name] <= self.sizes[name]:
                raise InputError(f"counts: layer {name} has {self.sizes[name]} weights, got {counts[name]} to keep")
            columns = np.flatnonzero(self.matrix[rows].any(axis=0))
            features = self._features(M)[:, columns]
            weights = self.matrix[rows][:, columns]
            targets = features @ weights.T if own_targets else baseline[:, rows]
            found = peer.prune(Layer.of_samples(weights, features, targets, counts[name]))
            M[np.arange(rows.start, rows.stop)[:, None], columns] = found
        return self.model.with_matrix(M)

    def _features(self, M: Array) -> Array:
        """[X U] of the model made so far."""
        U = np.asarray(self.states.U, dtype=np.float64)
        X = equilibrium(self.model.with_matrix(M), U).states if self.model.n_states else np.zeros((len(U), 0))
        return np.hstack([X, U])


def keep_largest_in_rows(scores: Array, count: int) -> Mask:
    """The largest scores of every row, equally many in each, ``count`` in all; the first rows get what is left over."""
    each, over = divmod(count, len(scores))
    order = np.argsort(-scores, axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.broadcast_to(np.arange(scores.shape[1]), scores.shape), axis=1)
    return np.asarray(ranks < each + (np.arange(len(scores)) < over)[:, None])
