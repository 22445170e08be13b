"""What a recipe is, and what it is given to do."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np
import torch

from simplicit.checks import refused, short
from simplicit.executors import digest
from simplicit.network import Capture
from simplicit.network.cells import CellCapture
from simplicit.network.graph import NetworkGraph
from simplicit.progress import announce, phase
from simplicit.rows import Penalty
from simplicit.solve import RunOptions
from simplicit.training.channels import Needs, Samples
from simplicit.training.training import RowOptions, Trained


@dataclass(frozen=True)
class Recipe(ABC):
    """How a network is retrained: a frozen dataclass with the options, and what is done with them."""

    @abstractmethod
    def train(self, task: Task) -> Trained:
        """Retrain the network of a task; :meth:`Training.solve` and :meth:`Training.select` return what is wanted.

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
    inputs : array or tensor (m, *input_shape) or (m, p), or Samples
        As they were given, or as U where there are several; in a store where there is a folder for states.
    rows : RowOptions
    run : RunOptions
        Opened.
    seconds : dict of str to float
        Wall-clock time of each stage so far.
    mask : array or tensor (m, T), or False, optional
        Zero where a position of a sample is padding.
    cell : CellCapture, optional
        The cell at rest that is to be retrained; ``graph`` is that of one step of it then.
    notes : dict of str to str
        What the summary is to say of the fit, by its label.
    """

    graph: NetworkGraph
    inputs: Any
    rows: RowOptions
    run: RunOptions
    seconds: dict[str, float] = field(default_factory=dict)
    mask: Any = None
    cell: CellCapture | None = None
    notes: dict[str, str] = field(default_factory=dict)

    def tell(self, needs: Needs) -> None:
        """Say before the start what a fit with states on disk takes."""
        if isinstance(self.inputs, Samples):
            self.notes["states"] = str(needs)
            announce(f"The fit takes {needs}")

    def check_untied(self, layers: Any = (), pattern: str | None = None) -> None:
        """Refuse a mask, a folder for states, and rules for layers, where every state is a row of its own."""
        if isinstance(self.inputs, Samples):
            raise refused("cache", "rows are not tied over positions here, and need all states at once; leave it out")
        if self.mask is not None and self.mask is not False:
            raise refused(
                "mask", "rows are not tied over positions here, so that none can be left out; leave it out too"
            )
        if layers:
            raise refused("layers", "every state is a row of its own here, and all of them are trained; leave it out")
        if pattern is not None:
            raise refused(
                "pattern",
                "every state is a row of its own here, whose inputs are states, not those of a weight; leave "
                "it out, or take structure='baseline' on a network of layers",
            )

    @cached_property
    def captured(self) -> Capture:
        """The exact implicit form of the network; InputError for a cell at rest, which is another matter."""
        if self.cell is not None:
            raise refused(
                "recipe", "a cell at rest is fitted by simplicit.Sparse or simplicit.Matching; take one of them"
            )
        with self.timed("capture"):
            return Capture.of(self.graph)

    def check_cell(self, structure: str, layers: Any = ()) -> CellCapture:
        """Return the cell at rest; InputError for what its rows do not have."""
        assert self.cell is not None
        self.check_untied(layers)
        if structure != "baseline":
            raise refused("structure", f"got {structure!r}; a cell at rest takes 'baseline', the weights that it has")
        return self.cell

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time of what is inside to that of a stage, which is a phase of the fit."""
        with phase(stage), self._clocked(stage):
            yield

    @contextmanager
    def _clocked(self, stage: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - begun

    @contextmanager
    def solving(self, recipe: Recipe, samples: Any, shape: tuple[int, int]) -> Iterator[RunOptions]:
        """The stage in which rows are solved, with the journal of the fit open if there is to be one.

        ``samples`` are the inputs as they are used. The journal's key takes penalties by their pieces on a problem of
        that ``shape``: the repr of a user's own may differ from run to run.
        """

        def key() -> str:
            parts: dict[str, Any] = {f"constant {name}": value.numpy() for name, value in self.graph.constants.items()}
            inputs = samples.parts if isinstance(samples, Samples) else np.asarray(samples)
            parts |= {"graph": str(self.graph.module.graph), "inputs": inputs}
            parts |= {} if self.mask is None else {"mask": np.asarray(self.mask)}
            parts |= {"recipe": type(recipe).__name__, "tol": self.rows.tol, "block_rows": self.rows.block_rows}
            return digest(parts | _identity(recipe, shape) | {"device": self.rows.device})

        with self._clocked("training"), self.run.kept("fit", key, {}) as run:
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
            # So that Sparse(80) and Sparse(80.0) share a journal.
            parts[f"option {item.name}"] = str(float(value) if type(value) is int else value)
    return parts


def check_penalty(name: str, value: object) -> None:
    """Refuse what is no penalty."""
    if isinstance(value, type) or not isinstance(value, Penalty):
        raise refused(name, f"expected a penalty such as simplicit.L1(beta=1e-3), got {short(value)}")
