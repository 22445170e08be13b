"""What training needs to know of a network: its layers, their rows, and what they make of a new set of weights.

A provider goes through a network layer by layer. :mod:`~simplicit.training.states` makes a row of every state,
:mod:`~simplicit.training.channels` one of every output channel, tied over all positions. Another kind of layers is
another provider.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from torch import nn

from simplicit.implicit import ImplicitModel
from simplicit.rows import Solution
from simplicit.training.problem import Rows

__all__ = ["Fit", "Layer", "Provider", "Student"]

Array = npt.NDArray[np.float64]


class Layer(Protocol):
    """Rows that are fitted together.

    ``name`` is for progress and figures, ``rows`` is how many rows it has.
    """

    @property
    def name(self) -> str: ...

    @property
    def rows(self) -> int: ...


L = TypeVar("L", bound=Layer)
#: From a layer and its groups of rows to their solutions.
Fit = Callable[[L, Sequence[Rows]], Sequence[Solution]]


class Student(Protocol):
    """A network with new weights.

    ``errors`` are the relative errors on the samples by the names of the groups of rows, in the order of evaluation,
    and ``labels`` the group of each row; ``order`` is for each row its place among the rows of the layers' solutions in
    turn. ``weights`` has the number of the baseline's weights in each group, ``facts`` are numbers of the kind of
    student.
    """

    @property
    def model(self) -> ImplicitModel: ...

    @property
    def errors(self) -> Mapping[str, float]: ...

    @property
    def weights(self) -> Mapping[str, int]: ...

    @property
    def labels(self) -> npt.NDArray[np.str_]: ...

    @property
    def order(self) -> npt.NDArray[np.intp]: ...

    @property
    def facts(self) -> Mapping[str, Any]: ...

    def network(self) -> nn.Module: ...


class Provider(Protocol[L]):
    """The layers of one baseline on one set of samples.

    ``layers`` are in the order in which they are fitted; ``weight_count`` is N₀; ``shape`` is (rows, columns) of the
    whole on which a penalty is checked.
    """

    @property
    def layers(self) -> Sequence[L]: ...

    @property
    def weight_count(self) -> int: ...

    @property
    def shape(self) -> tuple[int, int]: ...

    def on_baseline(self) -> Iterator[tuple[L, Sequence[Rows]]]:
        """Every layer with its groups of rows on the baseline's states."""
        ...

    def sensitivities(self, layer: L) -> Array:
        """What a unit of each row's squared error moves of the outputs' squared error, (rows,)."""
        ...

    def sweep(self, fit: Fit[L]) -> Student:
        """Go through all layers, fit each on the states that it is to be fitted on, and return what they make."""
        ...
