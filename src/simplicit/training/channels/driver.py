"""``fit`` for networks with convolutions: checks, the training, and the result."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from simplicit.errors import InputError
from simplicit.implicit import ImplicitModel
from simplicit.implicit.batch import Batch, as_batch
from simplicit.network import NetworkGraph, from_torch, with_constants
from simplicit.network.prepare import check_kind
from simplicit.rows import BasisPursuit
from simplicit.solve.run import RunOptions
from simplicit.training.channels.layers import tied_layers
from simplicit.training.channels.memory import check_memory
from simplicit.training.channels.result import TiedResult, tied_rows
from simplicit.training.channels.training import TiedMatch, TiedTraining
from simplicit.training.channels.walk import batches_of
from simplicit.training.clock import Clock
from simplicit.training.key import fit_key
from simplicit.training.options import FitOptions
from simplicit.training.strength import trained

__all__ = ["fit_tied", "samples_of"]

#: Samples at a time: what a layer makes of them should stay near the cache.
BATCH = 50


def fit_tied(
    graph: NetworkGraph, inputs: Batch, options: FitOptions, run: RunOptions, clock: Clock, *, batch_size: int = BATCH
) -> TiedResult:
    """Train a network with tied rows; see :func:`simplicit.fit`.

    Parameters
    ----------
    graph : NetworkGraph
    inputs : (m, p) or (m, *input_shape) array or tensor
    options : FitOptions
    run : RunOptions
        Not opened yet.
    clock : Clock
    batch_size : int
        Samples at a time; it changes nothing but the rounding.

    Raises
    ------
    InputError
        For options that have no meaning here, weights that are shared or computed, inputs that do not fit.
    """
    _check(options)
    layers = tied_layers(graph)
    samples = samples_of(graph, inputs)
    with run.opened() as run, run.kept("fit", lambda: fit_key(graph, samples, options, (1, 1)), {}) as run:
        differentiated = batch_size if options.refine else 0
        check_memory(graph, layers, len(samples), run.crew.workers, differentiated=differentiated)
        training = TiedTraining(graph, layers, batches_of(samples, batch_size), options, run)
        with clock.stage("training"):
            match, trials = trained(training)
    return TiedResult(
        made=lambda: _model(graph, match),
        rows=tied_rows(match),
        options=options,
        strength=match.strength,
        trials=trials,
        exchanged=match.exchanged,
        n_samples=len(samples),
        weight_count=training.weight_count,
        rescaled=False,
        errors=match.errors,
        seconds=clock.seconds,
        graph=graph,
        layers=tuple(layers),
        match=match,
    )


def samples_of(graph: NetworkGraph, inputs: Batch) -> Tensor:
    """The inputs as a tensor (m, *input_shape) in the network's dtype."""
    check_kind(inputs, "inputs")
    flat = inputs.reshape(len(inputs), -1) if tuple(inputs.shape[1:]) == graph.input_shape else inputs
    U = as_batch(flat, math.prod(graph.input_shape), graph.input_shape, graph.dtype, "inputs")
    return U.reshape(-1, *graph.input_shape)


def _check(options: FitOptions) -> None:
    """Refuse what has no meaning for tied rows."""
    reasons = {
        "structure": (
            options.structure == "baseline",
            "'baseline': the rows of a convolution are tied to its kernel; others go with chosen states='blocks'",
        ),
        "kappa": (
            options.kappa is None,
            "None: the ball on the rows of A is not available for tied rows, and 'baseline' is well-posed without",
        ),
        "robust": (not options.robust, "False: its boxes are those of single states"),
        "penalty": (
            not isinstance(options.penalty, BasisPursuit),
            "another penalty: exact matching needs every patch at once; take simplicit.L1 or simplicit.NoPenalty",
        ),
    }
    for name, (fits, wanted) in reasons.items():
        if not fits:
            raise InputError(f"{name}: got {getattr(options, name)!r}; a network with convolutions takes {wanted}")


def _model(graph: NetworkGraph, match: TiedMatch) -> ImplicitModel:
    """The implicit model of the trained network."""
    return from_torch(with_constants(graph, match.changed), np.zeros((2, *graph.input_shape), dtype=graph.dtype))
