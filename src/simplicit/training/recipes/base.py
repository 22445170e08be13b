"""What a recipe is, and what it is given to do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from simplicit.checks import as_number
from simplicit.errors import InputError
from simplicit.executors import digest
from simplicit.network import Capture
from simplicit.network.graph import NetworkGraph
from simplicit.rows import Penalty
from simplicit.solve import RunOptions
from simplicit.training.clock import Clock
from simplicit.training.training import RowOptions

if TYPE_CHECKING:
    from simplicit.training.result import FitResult

__all__ = ["Recipe", "Task", "check_flags", "check_penalty", "check_sparsity"]


@dataclass(frozen=True)
class Recipe(ABC):
    """How a network is retrained: a frozen dataclass with the options, and what is done with them."""

    @abstractmethod
    def train(self, task: Task) -> FitResult:
        """Retrain the network of a task.

        Raises
        ------
        InputError
            The options do not fit the network or its samples.
        """


@dataclass(frozen=True, eq=False)
class Task:
    """One network and its samples, to be retrained.

    Attributes
    ----------
    graph : NetworkGraph
    inputs : array or tensor (m, *input_shape)
        As they were given.
    rows : RowOptions
    run : RunOptions
        Opened.
    clock : Clock
    """

    graph: NetworkGraph
    inputs: Any
    rows: RowOptions
    run: RunOptions
    clock: Clock

    @cached_property
    def captured(self) -> Capture:
        """The exact implicit form of the network."""
        with self.clock.stage("capture"):
            return Capture.of(self.graph)

    @contextmanager
    def training(self, recipe: Recipe, samples: Any, shape: tuple[int, int]) -> Iterator[RunOptions]:
        """The stage in which rows are solved, with the journal of the fit open if there is to be one.

        Parameters
        ----------
        recipe : Recipe
        samples : array or tensor
            The inputs as they are used.
        shape : (int, int)
            Rows and columns on which a penalty counts by what it is: a user's own may print as its place in memory.
        """

        def key() -> str:
            parts: dict[str, Any] = {f"constant {name}": value.numpy() for name, value in self.graph.constants.items()}
            parts |= {"graph": str(self.graph.module.graph), "inputs": np.asarray(samples)}
            parts |= {"recipe": type(recipe).__name__, "tol": self.rows.tol, "block_rows": self.rows.block_rows}
            return digest(parts | _identity(recipe, shape) | {"device": self.rows.device})

        with self.clock.stage("training"), self.run.kept("fit", key, {}) as run:
            yield run


def _identity(options: Any, shape: tuple[int, int]) -> dict[str, Any]:
    """The options of a recipe as arrays and plain values."""
    parts: dict[str, Any] = {}
    for item in fields(options):
        value = getattr(options, item.name)
        if isinstance(value, Penalty):
            pieces = value.pieces(*shape)
            for part in fields(pieces):
                found = getattr(pieces, part.name)
                found = found.cpu().numpy() if isinstance(found, torch.Tensor) else found
                parts[f"option {item.name} {part.name}"] = found
        else:
            parts[f"option {item.name}"] = str(float(value) if type(value) is int else value)
    return parts


def check_sparsity(value: object) -> None:
    """Refuse what is no share in per cent, and ask back where it looks like one in [0, 1].

    Raises
    ------
    InputError
        It does not lie in [0, 100), or between 0 and 1.
    """
    if value is None:
        return
    share = as_number("sparsity", value)
    if share >= 100:
        raise InputError(f"sparsity is in per cent, from 0 to below 100, got {value!r}", argument="sparsity")
    if 0 < share < 1:
        raise InputError(f"sparsity is in per cent, got {value!r}; did you mean {100 * share:g}?", argument="sparsity")


def check_flags(recipe: Recipe, *names: str) -> None:
    """Refuse what is neither True nor False."""
    for name in names:
        if not isinstance(value := getattr(recipe, name), bool):
            raise InputError(f"{name} must be True or False, got {value!r}", argument=name)


def check_penalty(name: str, value: object) -> None:
    """Refuse what is no penalty."""
    if isinstance(value, type) or not isinstance(value, Penalty):
        raise InputError(f"{name}: expected a penalty such as simplicit.L1(beta=1e-3), got {value!r}", argument=name)
