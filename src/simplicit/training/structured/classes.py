"""Numbers in classes that are joined, pair by pair: which rows of a network go together."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from simplicit.rows.batch import Index


class Classes:
    """Labels 1, 2, … in classes; 0 stands for no label and is in none.

    Every label has an ``owner``, the number of the layer whose row it is. Classes may be marked as ``shared``: states
    that several layers add to.
    """

    def __init__(self) -> None:
        self._parent = np.zeros(1, dtype=np.int64)
        self._owners: dict[int, frozenset[int]] = {}
        self._shared: set[int] = set()

    def add(self, count: int, owner: int) -> Tensor:
        """So many new labels of an owner, (count,)."""
        first = len(self._parent)
        labels = np.arange(first, first + count)
        self._parent = np.concatenate([self._parent, labels])
        self._owners |= {int(label): frozenset([owner]) for label in labels}
        return torch.from_numpy(labels)

    def roots(self, labels: Tensor) -> Tensor:
        """For each label the one that stands for its class, of the same shape."""
        return torch.from_numpy(self._roots(labels.numpy()))

    def _roots(self, labels: Index) -> Index:
        found = self._parent[labels]
        while not np.array_equal(found, above := self._parent[found]):
            found = above
        return found

    def join(self, one: Tensor, other: Tensor, *, adding: bool = False) -> Tensor:
        """Put labels at the same places into one class, and return them; the shapes are those of a broadcast.

        Where values are added (``adding``), a class that is joined from rows of different layers is shared.
        """
        shape = torch.maximum(one, other).shape
        one, other = one.expand(shape), other.expand(shape)
        both = (one != other) & (one != 0) & (other != 0)
        if bool(both.any()):
            pairs = self._roots(torch.stack([one[both], other[both]]).numpy())
            for a, b in np.unique(pairs, axis=1).T.tolist():
                self._unite(*self._roots(np.array([a, b])).tolist(), adding=adding)
        return torch.maximum(one, other)

    def join_along(self, labels: Tensor, axes: list[int]) -> Tensor:
        """Put the labels along some axes into one class, and return what they are with these axes of length one."""
        if not axes or not labels.numel():
            return labels
        largest = labels.amax(dim=axes, keepdim=True)
        self.join(labels, largest)
        return largest

    def _unite(self, a: int, b: int, *, adding: bool) -> None:
        if a == b:
            return
        shared = adding and self._owners[a].isdisjoint(self._owners[b])
        self._parent[b] = a
        self._owners[a] |= self._owners.pop(b)
        if shared or a in self._shared or b in self._shared:
            self._shared.add(a)

    def shared(self, root: int) -> bool:
        """Whether several layers add to the states of a class."""
        return root in self._shared
