"""What training needs to know of a network: its layers, their rows, and what they make of a new set of weights.

A provider goes through a network layer by layer. :mod:`~simplicit.training.states` makes a row of every state,
:mod:`~simplicit.training.channels` one of every output channel, tied over all positions.

Here is the place for other kinds of layers. Whatever is a linear map of features that can be computed, such as a
projection of an attention block applied to its tokens, is a :class:`Layer` of a provider, which computes its features
and targets on the baseline and on the student, gives them as :class:`~simplicit.training.problem.Rows`, and puts the
solutions back. What a provider leaves out, such as an embedding, stays as it is and counts no weights. How the network
is run, with one input or several, is the provider's own affair: training sees rows alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from torch import nn

from simplicit.implicit import ImplicitModel
from simplicit.rows import Solution
from simplicit.rows.batch import Array, Index
from simplicit.training.problem import LeastSquares, Rows
from simplicit.training.support.pattern import Pattern, PatternFigures


class Layer(Protocol):
    """Rows that are fitted together; ``name`` is for progress, and ``rows`` is how many they are."""

    @property
    def name(self) -> str: ...

    @property
    def rows(self) -> int: ...


L = TypeVar("L", bound=Layer)
#: From a layer and its groups of rows to their solutions.
Fit = Callable[[L, Sequence[Rows]], Sequence[Solution]]


class Student(Protocol):
    """A network with new weights, and what is known of it."""

    @property
    def model(self) -> ImplicitModel: ...

    @property
    def errors(self) -> Mapping[str, float]:
        """The error of each layer that figures tell apart, in the order of evaluation; see ``LayerFigures``."""

    @property
    def weights(self) -> Mapping[str, int]:
        """The number of the baseline's weights in each of these layers."""

    @property
    def labels(self) -> npt.NDArray[np.str_]:
        """For each row the one of these layers that it belongs to."""

    @property
    def order(self) -> Index:
        """For each row its place among the rows of the provider's layers in turn."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """More figures, ready for JSON."""

    @property
    def patterns(self) -> Mapping[str, Pattern]:
        """The patterns that layers are in."""

    def in_pattern(self) -> Sequence[PatternFigures]:
        """The groups of these layers, counted on the weights of :meth:`network`."""

    def network(self) -> nn.Module: ...


class Together(Protocol):
    """Values of all layers at once, on supports that are found, by what the network puts out.

    ``problems`` are those of each layer's groups, by its name, with the targets that this gives them, and ``values``
    (g, r, d) their solutions.
    """

    @property
    def problems(self) -> Mapping[str, Sequence[LeastSquares]]: ...

    @property
    def values(self) -> Mapping[str, Array]: ...

    def with_values(self, values: Mapping[str, Array]) -> Student:
        """The student with the values that were found for these problems."""


class Provider(Protocol[L]):
    """The layers of one baseline on one set of samples.

    ``layers`` are in the order in which they are fitted, ``weight_count`` is N₀, ``samples`` are the inputs as they are
    used, and ``shape`` is a number of rows and of columns that a penalty has to fit.
    """

    @property
    def layers(self) -> Sequence[L]: ...

    @property
    def weight_count(self) -> int: ...

    @property
    def samples(self) -> Any: ...

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def efforts(self) -> Sequence[float]:
        """How the work on the layers compares, for an estimate of what is left: the numbers of their weights."""

    @property
    def patterned(self) -> Collection[str]:
        """The names of the layers whose rows are in a pattern."""

    def on_baseline(self) -> Iterator[tuple[L, Sequence[Rows]]]:
        """Every layer with its groups of rows on the baseline's states."""

    def sensitivities(self, layer: L) -> Array:
        """What a unit of each row's squared error moves of the outputs' squared error, (rows,)."""

    def sweep(self, fit: Fit[L]) -> Student:
        """Go through all layers, fit each on the states that it is to be fitted on, and return what they make."""


def squared_error(found: Array, target: Array) -> tuple[float, float]:
    """‖ẑ − z‖² and ‖z‖² of arrays ẑ and z."""
    return float(np.square(found - target).sum()), float(np.square(target).sum())


def relative_error(parts: Iterable[tuple[float, float]]) -> float:
    """Σ‖ẑ − z‖²/Σ‖z‖² of the parts of a layer's results, by what :func:`squared_error` says of each; 0 for 0/0."""
    error = energy = 0.0
    for more, of in parts:
        error, energy = error + more, energy + of
    return error / energy if energy else 0.0
