"""``fit``: a trained network goes in, a sparse, well-posed, certified implicit model comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from typing import Any

import numpy as np
from torch import nn

from simplicit.executors import Executor
from simplicit.implicit import ImplicitModel, equilibrium, rescale
from simplicit.network import Capture, NetworkTemplate, capture_graph
from simplicit.progress import OnProgress
from simplicit.rows import L1, Penalty
from simplicit.solve.run import RunOptions
from simplicit.training.channels import fit_tied, has_convolutions
from simplicit.training.clock import Clock
from simplicit.training.key import fit_key
from simplicit.training.options import FitOptions
from simplicit.training.presets import shrinkage_of, with_preset
from simplicit.training.result import FitResult, row_figures
from simplicit.training.robust.training import RobustMatching
from simplicit.training.states.chosen import chosen_data
from simplicit.training.states.matching import Match, Matching
from simplicit.training.states.statedata import StateData, state_data
from simplicit.training.strength import tolerance_of, trained

__all__ = ["fit"]


@with_preset
def fit(
    net: nn.Module,
    inputs: Any,
    *,
    penalty: Penalty | None = None,
    lambda1: float = 0.1,
    lambda2: float = 0.1,
    kappa: float | None = 0.99,
    structure: str = "baseline",
    states: str | list[str] | tuple[str, ...] = "all",
    normalize: str = "targets",
    sparsity: float | None = None,
    rounds: int = 1,
    propagate: bool = False,
    refine: bool = False,
    refit: bool = False,
    ridge: float | None = None,
    anchor: float | None = None,
    regenerate: bool = True,
    robust: bool = False,
    later: float | tuple[float, ...] = 1.0,
    attacks: int = 4,
    attack_eps: float = 4 / 255,
    clip: tuple[float, float] = (0.0, 1.0),
    preset: str | None = None,
    tol: float = 1e-6,
    executor: str | Executor = "threads",
    workers: int | None = None,
    block_rows: int | None = None,
    ray_address: str | None = None,
    block_timeout: float | None = None,
    journal: str | PathLike[str] | None = None,
    throw: bool = True,
    progress: OnProgress | None = None,
) -> FitResult:
    r"""Retrain a network as an implicit model by convex optimisation on its own states (problem (7)).

    The network's pre- and post-activations Z, X and outputs Ŷ on the given inputs U are matched by

        min over M   f(M) + λ₁‖Z − XAᵀ − UBᵀ‖² + λ₂‖Ŷ − XCᵀ − UDᵀ‖²   s.t.  ‖A‖∞ ≤ κ,  M zero off its structure

    which falls apart into one convex problem per row of M = [[A, B], [C, D]], each solved to a duality gap. No labels
    and no back-propagation are used.

    The rows of a convolution are copies of its kernel, one for every position, and stay so: in a network with
    convolutions there is one row problem per output channel, on all patches that its kernel sees, and the result is the
    same network with sparse kernels (:meth:`TiedResult.to_baseline`). Sums then run over samples and positions. That is
    for ``structure="baseline"``, ``kappa=None`` and the options that neither name another structure nor ``robust``;
    batch norms are corrected so that their outputs keep the baseline's mean and variance. Other structures are for
    chosen `states`.

    Parameters
    ----------
    net : torch.nn.Module
        A trained network that :func:`simplicit.from_torch` can represent; it is used in evaluation mode.
    inputs : (m, *input_shape) array or tensor
        A few hundred samples, in the shape that the network takes.
    penalty : Penalty
        f, row by row; ``L1(beta=1e-3)`` when left out. With ``BasisPursuit()`` the states and outputs are matched
        exactly, (8) and (9), and `lambda1` and `lambda2` have no meaning; give it a network and inputs in float64, for
        the rounding of float32 states alone makes rows infeasible that have more samples than columns.
    lambda1, lambda2 : float
        Weights of state and output matching, > 0; the sums run over samples and rows.
    kappa : float or None
        Bound on ‖A‖∞. ``dense`` and ``no-self`` need κ < 1 (κ < 1/L for activations of slope L); the triangular
        structures are well-posed without, and None takes the bound away.
    structure : {"baseline", "feedforward", "no-self", "dense"}
        Where M may be non-zero: where the baseline has weights; on inputs and all earlier states; everywhere but the
        diagonal of A; everywhere (the paper).
    states : {"all", "blocks"}, or list or tuple of str
        Which of the baseline's states the model has: all; the last activation of each block (of a residual network:
        the ReLU after each sum) and of plain layers between; or the groups of these names. On a choice of states rows
        are untied and learn from samples what the others did, which needs another `structure` than ``baseline``; see
        :mod:`simplicit.training.states.chosen`.
    normalize : {"targets", "both", "none"}
        Units of the penalty: targets in their layer's root mean square, input columns in their own units, state columns
        ten times weaker; targets and all columns in root mean squares; (11) to the letter.
    sparsity : float, optional
        Wanted 100·(1 − nnz(M)/N₀), in per cent of the baseline's N₀ weights; the method itself spreads it over rows and
        layers. The strength of the penalty that comes within half a point (half a weight, if N₀ < 100) is searched, or,
        with `refine`, met to the weight; without it the penalty is taken as given.
    rounds : int
        Solve so many times, from the second time on with a penalty that spares what was large the time before; see
        :func:`simplicit.solve_rows`. The certificates are those of the last round.
    propagate : bool
        Layer after layer: match each on the states of the layers just trained, not on the baseline's, against the
        baseline's pre-activations. For the triangular structures.
    refine : bool
        Choose the support by backward elimination and exchanges, at one price for a weight in the whole model: what it
        adds to the outputs' squared error, to first order; with tied rows the least squares count every position by
        it too. Candidates are the non-zeros of the penalty's solution, or
        all admissible columns if the penalty makes no zeros (``NoPenalty()``). Without `sparsity` as many stay as the
        penalty left, at better places.
    refit : bool
        Take the values on the support from least squares with a `ridge`, under the ball, not from the penalty, which
        shrinks them. The certificates are those of the refit.
    ridge : float, optional
        Of `refine` and `refit`, in units of the mean of ‖Φⱼ‖² over the columns, ≥ 0; if not given, what the `preset`
        has for the network, or .001.
    anchor : float, optional
        What the ridge draws to: this share of the baseline's weights, from 0 to 1; if not given, what the `preset` has
        for the network, or 0. High keeps accuracy where samples are few; low gives robustness.
    regenerate : bool
        Match [C D] on the equilibrium of the [A B] just trained, not on the baseline's states; `propagate` implies it.
    robust : bool
        Train for robustness: layer after layer on the student's own states, with ℓ1 in units of the worst case over a
        box, one-sided where a ReLU is off, and with the student's own worst cases among the samples; see
        :mod:`simplicit.training.robust.training`. For ``L1``, a triangular structure and ``kappa=None``. Samples count
        by their mean here, not their sum, so that a strength suits any number of them.
    later : float or tuple of float
        With `robust`: the strength on state columns relative to that on inputs, one for all layers after the first or
        one for each. Large ones raise what can be proved and cost clean accuracy.
    attacks : int
        With `robust`: how many rounds of worst cases join the samples; 0 for none.
    attack_eps : float
        With `robust`: the radius of the box in which PGD searches them, against the classes that the baseline gives.
    clip : (float, float)
        With `robust`: the range of valid inputs.
    preset : {"sparse", "robust", "certified", "paper"}, optional
        Options for a purpose; those given beside it win. ``sparse``: the most accurate model of a given `sparsity`
        (80 if not given). ``robust``: little clean accuracy given up for much robust accuracy, sparse. ``certified``:
        the largest provable accuracy for two points. ``paper``: (11) to the letter.
    tol : float
        Relative duality gap of every row.
    executor, workers, block_rows, ray_address, block_timeout
        Where rows are solved; see :func:`simplicit.solve_rows`. The workers serve all stages and trials.
    journal : path, optional
        A folder in which every block of rows is kept as soon as it is solved; a fit that was broken off goes on from
        there.
    throw : bool
        Raise if a row does not converge; otherwise it is marked in ``result.rows.status``.
    progress : callable, optional
        Called with a :class:`simplicit.Progress` after every block; its ``stage`` says which rows are solved and, while
        `sparsity` is searched, which trial they are part of.

    Returns
    -------
    FitResult
        ``model``, ``rows`` (figures per row), ``summary()``. A :class:`TiedResult` for a network with convolutions.

    Raises
    ------
    InputError
        For settings out of range or that do not go together, or have no meaning for a network with convolutions, an
        unknown preset, inputs that do not fit or are not finite, a sparsity that is unreachable or that the penalty
        cannot be searched for, an unknown executor, or a journal of another fit or in use.
    UnsupportedOperationError
        If the network has an operation without an exact implicit form.
    ConvergenceError
        If a row does not converge and ``throw`` is set.
    ExecutionError, DataError, MissingExtraError
        As :func:`simplicit.solve_rows`.

    Examples
    --------
    >>> import torch, simplicit as sp
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3)).eval()
    >>> result = sp.fit(net, torch.rand(40, 8), sparsity=40)
    >>> bool(result.rows.converged.all()), abs(result.sparsity - 40) <= 0.5
    (True, True)
    """
    suited = shrinkage_of(preset, sparsity, ridge, anchor, tied=False)
    options = FitOptions(
        penalty=L1(beta=1e-3) if penalty is None else penalty,
        propagate=propagate,
        refine=refine,
        refit=refit,
        ridge=suited.ridge,
        anchor=suited.anchor,
        lambda1=lambda1,
        lambda2=lambda2,
        kappa=kappa,
        structure=structure,
        states=tuple(states) if isinstance(states, list) else states,
        normalize=normalize,
        sparsity=sparsity,
        rounds=rounds,
        regenerate=regenerate,
        robust=robust,
        later=later,
        attacks=attacks,
        attack_eps=attack_eps,
        clip=clip,
        preset=preset,
        tol=tol,
        block_rows=block_rows,
        throw=throw,
    )
    clock, run = Clock(), RunOptions(executor, workers, ray_address, block_timeout, journal, progress)
    with clock.stage("capture"):
        graph = capture_graph(net, inputs, "inputs")
    if has_convolutions(graph) and not options.chooses_states:
        # What a preset has for tied rows, now that the network is known to have them.
        suited = shrinkage_of(preset, sparsity, ridge, anchor, tied=True)
        options = replace(options, ridge=suited.ridge, anchor=suited.anchor)
        return fit_tied(graph, inputs, options, run, clock)
    with run.opened() as run:
        with clock.stage("capture"):
            captured = Capture.of(graph)
            options.check_well_posed(captured.model)
        with clock.stage("states"):
            data = _data(captured, inputs, options)
        shape = data.n_rows, data.n_columns
        with clock.stage("training"), run.kept("fit", lambda: fit_key(graph, data.inputs, options, shape), {}) as run:
            match, trials = _trained(data, options, run)
    return FitResult(
        made=rescale(match.model) if options.robust and data.homogeneous else match.model,
        rows=row_figures(match, data),
        options=options,
        strength=match.strength,
        trials=trials,
        exchanged=match.exchanged,
        n_samples=len(data.features),
        weight_count=data.weight_count,
        rescaled=data.rescaled,
        errors=_errors(match.model, data),
        seconds=clock.seconds,
        # A robust fit has a scaling vector of its own, from which the network's is not told: it stays in its units.
        origin=NetworkTemplate(captured, captured.model.astype(np.float64) if data.rescaled else None),
    )


def _data(captured: Capture, inputs: Any, options: FitOptions) -> StateData:
    """Features and targets: of all states of the baseline, or of those chosen."""
    if options.chooses_states:
        return chosen_data(captured, inputs, options)
    states = captured.states(inputs)
    return state_data(captured.model, states, captured.weight_count, rescaled=not options.robust)


def _trained(data: StateData, options: FitOptions, run: RunOptions) -> tuple[Match, int]:
    """The match, and how many were solved for it."""
    if options.robust:
        return RobustMatching(data, options, run).train(options.sparsity, tolerance_of(data.weight_count))
    return trained(Matching(data, options, run))


def _errors(model: ImplicitModel, data: StateData) -> Mapping[str, float]:
    """How far the model's own pre-activations and outputs are from the baseline's, relative, group by group."""
    X = equilibrium(model, data.inputs).states if model.n_states else np.zeros((len(data.inputs), 0))
    Z = X @ model.A.T + data.inputs @ model.B.T + model.state_bias
    Y = X @ model.C.T + data.inputs @ model.D.T + model.output_bias
    fitted, n = np.hstack([Z, Y]), model.n_states
    named = {**model.slices, "output": slice(n, n + model.n_outputs)}
    return {name: _relative(fitted[:, at], data.targets[:, at]) for name, at in named.items()}


def _relative(fitted: Any, target: Any) -> float:
    norm = float(np.linalg.norm(target))
    return float(np.linalg.norm(fitted - target)) / norm if norm else 0.0
