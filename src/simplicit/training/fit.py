"""``fit``: a trained network goes in, a sparse, well-posed, certified one comes out."""

from __future__ import annotations

import time
from os import PathLike
from typing import Any

from torch import nn

from simplicit.checks import refused
from simplicit.executors import Executor
from simplicit.implicit.inputs import is_several
from simplicit.network import CellModel, capture_graph, gathered
from simplicit.progress import OnProgress
from simplicit.solve import RunOptions
from simplicit.training.recipes import Recipe, Sparse, Task
from simplicit.training.result import FitResult
from simplicit.training.training import RowOptions


def fit(
    net: nn.Module | CellModel,
    inputs: Any,
    recipe: Recipe | None = None,
    *,
    mask: Any = None,
    output: str | int | None = None,
    tol: float = 1e-6,
    executor: str | Executor = "threads",
    block_rows: int | None = None,
    journal: str | PathLike[str] | None = None,
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
        where it is not of the cell.
    inputs : array (m, ...), tuple, list or mapping of arrays, or an iterable of batches
        A few hundred samples as the network takes them: one array, arrays in order, or by the names of its arguments,
        with constants among them, as for :func:`simplicit.from_torch`. Batches, from a DataLoader or any iterable that
        is no tuple, list or mapping, are put together. A batch that is a tuple or list with one array more than
        ``forward`` takes, or a pair of a mapping and an array, ends with labels, which are left out; where it could be
        an optional argument too, it is refused.
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
    device : str
        Where the batched part of the row solver runs: ``"cpu"`` or ``"cuda"``.
    throw : bool
        Raise if a row does not converge and is wrong: its squared error exceeds the least possible one by more than
        ``tol`` of its layer's targets. Otherwise it is kept, marked in ``result.rows.status`` and named in the summary.
    progress : callable, optional
        Called with a :class:`simplicit.progress.Progress` after every block; its ``stage`` says which rows are solved
        and, while a sparsity is searched, which trial they are part of.

    Returns
    -------
    FitResult
        ``network()``, ``model``, ``rows`` (figures per row), ``layers``, ``summary()``.

    Raises
    ------
    InputError
        For settings out of range, a recipe that does not suit the network, inputs that do not fit or are not finite, a
        sparsity that is unreachable, an unknown executor, or a journal of another fit or in use.
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
        raise refused("recipe", f"expected a recipe such as simplicit.Sparse(80), got {recipe!r}")
    rows, options = RowOptions(tol, block_rows, device, throw), RunOptions(executor, journal=journal, progress=progress)
    begun = time.perf_counter()
    cell = net.captured if isinstance(net, CellModel) else None
    if isinstance(net, CellModel):
        if output is not None:
            raise refused("output", "a cell at rest has one output, its readout; leave it out")
        inputs, graph = net.batch(inputs), net.captured.graph
    else:
        inputs = gathered(net, inputs, "inputs")
        graph = capture_graph(net, inputs, "inputs", output)
        inputs = graph.batch(inputs) if is_several(inputs) else inputs
    seconds = {"capture": time.perf_counter() - begun}
    if not any(graph.network.get_parameter(name).ndim > 1 for name in graph.parameters):
        raise refused("net", "it has no weights to be trained between its input and its output")
    with options.opened() as run:
        task = Task(graph, inputs, rows, run, seconds, mask, cell)
        return FitResult.of(recipe, task, recipe.train(task))
