"""``fit``: a trained network goes in, a sparse, well-posed, certified one comes out."""

from __future__ import annotations

import itertools
import time
import warnings
from dataclasses import replace
from os import PathLike
from typing import Any

from torch import nn

from simplicit.checks import refused, short
from simplicit.errors import InputError
from simplicit.executors import Executor
from simplicit.implicit.inputs import is_several
from simplicit.network import CellModel, capture_graph, gathered, in_parts
from simplicit.network.cells import CellCapture
from simplicit.network.graph import NetworkGraph
from simplicit.progress import OnProgress, listening, phase
from simplicit.solve import RunOptions
from simplicit.training.channels import Samples, Store, folded, in_slices
from simplicit.training.doubts import DoubtfulInputsWarning, doubts_of
from simplicit.training.recipes import RECIPES, Recipe, Sparse, Task
from simplicit.training.result import FitResult
from simplicit.training.training import RowOptions


def fit(
    net: nn.Module | CellModel | NetworkGraph,
    inputs: Any,
    recipe: Recipe | None = None,
    *,
    mask: Any = None,
    output: str | int | None = None,
    tol: float = 1e-6,
    executor: str | Executor = "threads",
    block_rows: int | None = None,
    journal: str | PathLike[str] | None = None,
    cache: str | PathLike[str] | None = None,
    device: str = "cpu",
    throw: bool = True,
    progress: OnProgress | None = None,
) -> FitResult:
    r"""Retrain a network by convex optimisation on its own states, without labels and without back-propagation.

    Every row of the network is one convex problem, solved to a duality gap. What the rows are fitted to and which
    weights stay is the recipe's to say.

    Parameters
    ----------
    net : torch.nn.Module
        A trained network, used in evaluation mode. Where all its weights multiply tokens, pixels or single vectors it
        may compute anything between them; else :func:`simplicit.from_torch` must be able to represent it. Computed
        weights (masks of ``torch.nn.utils.prune``, weight and spectral norm, other parametrisations) are fitted as the
        plain weights that they are at present, and come back as such; float16 and bfloat16 ones are fitted in float32
        and come back in their dtype. Of a cell at rest, the model from :func:`simplicit.from_cell`: its rows are fitted
        on its own equilibria, by Sparse or Matching, in a ball where λ_pf <= kappa < 1 is proved of the result, also
        where it is not of the cell. A graph that :func:`simplicit.network.capture_graph` has made of a network is not
        made again, and used up: the fit may change it.
    inputs : array (m, ...), tuple, list or mapping of arrays, or an iterable of batches
        A few hundred samples as the network takes them: one array, arrays in order, or by the names of its arguments,
        with constants among them, as for :func:`simplicit.from_torch`. Batches, from a DataLoader or any iterable that
        is no tuple, list or mapping, are put together, or read one by one into ``cache``. A batch that is a tuple or
        list with one array more than ``forward`` takes, or a pair of a mapping and an array, ends with labels, which
        are left out; where it could be an optional argument too, it is refused.
    output : str or int, optional
        The output whose values are matched, of a network that returns several; see :func:`simplicit.from_torch`.
    recipe : Recipe
        :class:`Sparse`, the default: the most accurate network at a given number of weights; :class:`Robust`: little
        clean accuracy given up for much robust accuracy; :class:`Certified`: the largest provable accuracy;
        :class:`Matching`: problem (7) under a penalty, and ``Matching.paper()``, (11) to the letter.
    mask : (m, T) array or tensor, or False, optional
        1, and 0 where one of the T positions of a sample is padding, which rows that are tied over positions leave out
        of their sums. Default: the network's own input ``attention_mask``, where it has one; False for none at all.
    tol : float
        Relative duality gap of every row.
    executor : str or Executor
        Where rows are solved; see :func:`simplicit.solve_rows`. The workers serve all stages and trials.
    block_rows : int, optional
        Rows per block; see :func:`simplicit.solve_rows`.
    journal : path, optional
        A folder in which every block of rows is kept as soon as it is solved; a fit that was broken off goes on from
        there.
    cache : path, optional
        A folder, best on a fast disk of this machine, for what takes memory with every sample, where that is more than
        a GiB: the inputs, the states between two layers and what positions count. Memory then no longer grows with the
        samples; nothing else changes, and nothing is left there. For rows that are tied, as Sparse and Matching have
        them on the baseline's structure.
    device : str
        Where the batched part of the row solver runs: ``"cpu"`` or ``"cuda"``.
    throw : bool
        Raise if a row does not converge and is wrong: its squared error exceeds the least possible one by more than
        ``tol`` of its layer's targets. Otherwise it is kept, marked in ``result.rows.status`` and named in the summary.
    progress : callable, optional
        Called with a :class:`simplicit.progress.Progress` as each phase begins and after every step of it; its
        ``chain`` says what the phase is a part of: the layer, and, while a sparsity is searched, the trial.

    Returns
    -------
    FitResult
        ``network()``, ``model``, ``rows`` (figures per row), ``layers``, ``summary()``.

    Warns
    -----
    DoubtfulInputsWarning
        Where samples are repeated, a single vector, or of another scale than those that the network was trained on, as
        far as its first batch norm, or whole numbers up to 255, show. Not looked for with ``cache`` or cells.
    TrainingModeWarning
        If the network is in training mode; it is fitted as in evaluation mode.

    Raises
    ------
    InputError
        For settings out of range, a recipe that does not suit the network, inputs that do not fit, are not finite or
        all equal, a sparsity that is unreachable, an unknown executor, a journal of another fit or in use, a cache that
        is no folder or has no room, or samples for which there is not enough memory.
    UnsupportedOperationError
        If the network has an operation without an exact implicit form.
    ConvergenceError
        If a row is wrong and ``throw`` is set.
    ExecutionError, DataError, MissingExtraError
        As :func:`simplicit.solve_rows`.

    Examples
    --------
    >>> import torch, simplicit as sp
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3)).eval()
    >>> result = sp.fit(net, torch.rand(40, 8), sp.Sparse(50))
    >>> bool(result.rows.converged.all()), result.sparsity
    (True, 50.0)
    """
    recipe = Sparse() if recipe is None else recipe
    if not isinstance(recipe, Recipe):
        raise refused("recipe", f"expected a recipe such as simplicit.Sparse(80), got {short(recipe)}{_meant(recipe)}")
    rows, options = RowOptions(tol, block_rows, device, throw), RunOptions(executor, journal=journal, progress=progress)
    begun = time.perf_counter()
    with listening(progress), Store.opened(cache) as store:
        with phase("capture"):
            graph, inputs, cell = _captured(net, inputs, output, store)
            graph = graph if cell is not None else folded(graph)
        seconds = {"capture": time.perf_counter() - begun}
        if not graph.folds and not any(graph.network.get_parameter(name).ndim > 1 for name in graph.parameters):
            raise refused("net", "it has no weights to be trained between its input and its output")
        with options.opened() as run:
            task = Task(graph, inputs, rows, run, seconds, mask, cell)
            return FitResult.of(recipe, task, recipe.train(task))


def _meant(recipe: Any) -> str:
    """What may be meant by something that is no recipe."""
    if isinstance(recipe, type) and issubclass(recipe, Recipe):
        return f"; make one, simplicit.{recipe.__name__}(…)"
    if isinstance(recipe, str) and recipe in RECIPES:
        return f"; give simplicit.{type(RECIPES[recipe]).__name__}(…)"
    if isinstance(recipe, int | float) and 0 < recipe < 100:
        return f"; did you mean simplicit.Sparse({100 * recipe if recipe < 1 else recipe:g})?"
    return "; the order is fit(net, inputs, recipe)"


def _captured(
    net: nn.Module | CellModel | NetworkGraph, inputs: Any, output: str | int | None, store: Store
) -> tuple[NetworkGraph, Any, CellCapture | None]:
    """The graph of a network, or of a cell, and its inputs; in the store where that has a folder."""
    if isinstance(net, CellModel):
        if output is not None:
            raise refused("output", "a cell at rest has one output, its readout; leave it out")
        if store.folder is not None:
            raise refused("cache", "the rows of a cell at rest need all states at once; leave it out")
        return net.captured.graph, net.batch(inputs), net.captured
    if isinstance(net, NetworkGraph):
        if output is not None or store.folder is not None:
            raise refused("net", "a graph has its output, and inputs in memory; give the network itself")
        return replace(net, samples=len(inputs)), inputs, None
    if store.folder is not None:
        return *_read(net, inputs, output, store), None
    inputs = gathered(net, inputs, "inputs")
    graph = capture_graph(net, inputs, "inputs", output)
    for doubt in doubts_of(graph.network, inputs, "inputs"):
        warnings.warn(doubt, DoubtfulInputsWarning, stacklevel=3)
    return graph, graph.batch(inputs) if is_several(inputs) else inputs, None


def _read(net: nn.Module, inputs: Any, output: str | int | None, store: Store) -> tuple[NetworkGraph, Samples]:
    """The graph of a network, and its inputs, of which no more than a few batches are in memory.

    An array of the network's own dtype stays where it is.
    """
    parts = in_parts(net, inputs, "inputs")
    if parts is None:
        graph = capture_graph(net, inputs, "inputs", output)
        if not is_several(inputs) and graph.call.plain and str(inputs.dtype).endswith(str(graph.dtype)):
            return graph, Samples.of(graph, inputs, store)
        return graph, Samples.read(graph, in_slices(inputs), store)
    first = next(parts, None)
    if first is None:
        raise InputError("inputs must hold at least one batch, got none", argument="inputs")
    graph = capture_graph(net, first, "inputs", output)
    samples = Samples.read(graph, itertools.chain([first], parts), store)
    return replace(graph, samples=len(samples)), samples
