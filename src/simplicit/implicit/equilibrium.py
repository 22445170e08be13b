r"""The equilibrium x = φ(A x + B u + b), and gradients through it.

Where A is strictly triangular after a permutation, one substitution gives x. Otherwise an iteration from 0 does, of the
states that depend on themselves, with bounds before and after (Theorem 2.3). By the implicit function theorem, for
y = C x + D u + d and a gradient ȳ by the outputs,

    z̄ = φ'(z) ∘ (Aᵀ z̄ + Cᵀ ȳ),   ū = Bᵀ z̄ + Dᵀ ȳ,

solved by substitution in reverse, and by the adjoint fixed point, which contracts as the forward one does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from simplicit.checks import as_number, check_choice, check_flag
from simplicit.errors import InputError
from simplicit.implicit.batch import Batch, as_batch, check_range, chunks, like
from simplicit.implicit.equations import PREDICTION_TOL
from simplicit.implicit.error_bound import error_bound
from simplicit.implicit.fixed_point import METHODS
from simplicit.implicit.inputs import first_array
from simplicit.implicit.model import ImplicitModel, as_model
from simplicit.implicit.plan import Slopes


@dataclass(frozen=True)
class Equilibrium:
    """Equilibrium states, with a bound on how far they are from exact.

    Attributes
    ----------
    states : array (m, n), of the kind of the inputs
        X, in the order of the model's states.
    error_bound : array (m,), float64
        For every sample a bound on maxᵢ |x*ᵢ - xᵢ|, x* the exact equilibrium of the model as stored, for the inputs as
        cast to its dtype. It covers both what the iteration left over and all rounding, under the standard model of
        floating-point arithmetic (torch's default matrix products). Infinite where nothing is proved.
    iterations : int
        Steps taken, the largest over all samples; 0 for a substitution. Of Picard's iteration they are evaluations of
        φ(A x + B u + b), Newton steps among them where it was slow; of Newton's method each solves a linear system; of
        Anderson's mixing they are evaluations again, those that were thrown away among them; 0 where nothing is proved.
    method : str
        "substitution" where A is triangular, else the method that was asked for; "not proved" where none was to be.
    iteration_bound : int or None
        The number of Picard's steps that suffices in exact arithmetic for the tolerance asked for (or, if that is below
        the resolution of the dtype, for the latter), known after the first step; None for a substitution.
    """

    states: Any
    error_bound: Any
    iterations: int
    method: str
    iteration_bound: int | None

    def __repr__(self) -> str:
        worst = max(map(float, self.error_bound), default=0.0)
        shape = tuple(self.states.shape)
        return f"Equilibrium({shape}, {self.method}, {self.iterations} iterations, error at most {worst:.1e})"


def equilibrium(
    model: ImplicitModel, U: Any, tol: float = PREDICTION_TOL, *, method: str = "picard", proved: bool = True
) -> Equilibrium:
    """Find the equilibrium states for inputs U.

    Parameters
    ----------
    model : ImplicitModel
    U : NumPy array or torch tensor, shape (m, p) or (m, *input_shape); or several, as ``model.predict`` takes them
    tol : float
        An iteration stops when it has come within ``tol`` of x* in every state that depends on itself, apart from
        rounding; states that do not are substituted. If the dtype cannot resolve that, it stops where rounding takes
        over; ``error_bound`` says where that is.
    method : {"picard", "newton", "anderson"}
        How cycles are iterated: x ← φ(A x + B u + b); by Newton's method, which takes few steps but solves a dense
        system in each, for up to 1,500 states; or by Anderson's mixing of the last few points, which takes fewer steps
        than Picard's where λ_pf is close to 1. All end at the same equilibrium, with the same proof.
    proved : bool
        False finds a point that φ(A x + B u + b) leaves as it is, also where λ_pf < 1 fails: by Anderson's mixing from
        0, with nothing known of other equilibria or of how far it is from one (``error_bound`` is infinite).

    Raises
    ------
    InputError
        U is refused as by ``model.predict``; ``tol`` is not positive and finite; ``method`` is unknown, or "newton" for
        too large a cycle; a sample's states leave the range of the dtype.
    NotWellPosedError
        A has cycles and λ_pf(diag(L)|A|) < 1 fails.
    ConvergenceError
        λ_pf is so close to 1 that the iteration takes too long, or no error bound exists in floating point; without a
        proof, the states do not come to rest.
    """
    tol = as_number("tol", tol, positive=True)
    check_choice("method", method, METHODS)
    batch, equation = as_model(model).batch(U), model.state_equation
    states = batch.new_empty(batch.shape[0], model.n_states)
    bounds = torch.zeros(batch.shape[0], dtype=torch.float64)
    iterations, iteration_bounds = 0, list[int]()
    check_flag("proved", proved)
    unproved = not proved and not equation.plan.triangular
    for rows in chunks(len(batch), model.n_inputs + model.n_states):
        solution = equation.rest(batch[rows], tol) if unproved else equation.solve(batch[rows], tol, method)
        check_range(solution.X, "states", rows.start)
        states[rows] = equation.plan.to_model(solution.X)
        bounds[rows] = torch.inf if unproved else error_bound(equation, solution, batch[rows])
        iterations = max(iterations, solution.iterations)
        iteration_bounds += [] if solution.iteration_bound is None else [solution.iteration_bound]
    found = "substitution" if equation.plan.triangular else "not proved" if unproved else method
    given = first_array(U)
    return Equilibrium(like(states, given), like(bounds, given), iterations, found, max(iteration_bounds, default=None))


@dataclass(frozen=True)
class Linearisation:
    """The outputs for a batch of inputs, and the derivative of the outputs there, as a map that runs backwards.

    ``outputs`` is Y, a tensor (m, q). It is made by :func:`linearise`.
    """

    outputs: Tensor
    _model: ImplicitModel
    _slopes: Slopes

    def vjp(self, Y_bar: Tensor) -> Tensor:
        """Return Ū = J(U)ᵀ Ȳ, row by row, (m, q) to (m, p), with torch's choice of the derivative at a kink of φ."""
        return pull_back(self._model, self._slopes, Y_bar)[1]


def pull_back(model: ImplicitModel, slopes: Slopes, Y_bar: Tensor) -> tuple[Tensor, Tensor]:
    """Z̄ and Ū, (m, n_pre) and (m, p), the gradients of Σ Ȳ ∘ Y by pre-activations and inputs.

    ``slopes`` are those at Z, in working order; Z̄ stands in the order of the states.
    """
    X_bar, direct = model.output_equation.pull_back(Y_bar)
    Z_bar = model.state_equation.pull_back_(slopes, X_bar)
    U_bar = model.state_equation.pull_back_drive(Z_bar)
    return Z_bar, U_bar if direct is None else U_bar.add_(direct)


def linearise(model: ImplicitModel, U: Any) -> Linearisation:
    """Solve for the equilibrium at the whole batch U once, and keep what gradients through it need.

    Errors are those of :func:`equilibrium`.
    """
    return _linearised(model, as_model(model).batch(U), 0)


def _linearised(model: ImplicitModel, batch: Tensor, first: int) -> Linearisation:
    """Linearise at samples ``first`` and following of a larger batch."""
    found = model.evaluate(batch, first)
    return Linearisation(found.Y, model, model.state_equation.plan.derivative(found.solution.Z))


def adjoint(model: ImplicitModel, U: Any, Y_bar: Batch) -> Any:
    """Return Ū = J(U)ᵀ Ȳ, the gradient of Σ Ȳ ∘ Y by the inputs, (m, p), of the kind of U.

    Parameters
    ----------
    model : ImplicitModel
    U : NumPy array or torch tensor, shape (m, p) or (m, *input_shape); or several, as ``model.predict`` takes them
    Y_bar : NumPy array or torch tensor, shape (m, q)

    Raises
    ------
    InputError, NotWellPosedError, ConvergenceError
        As in :func:`equilibrium`, and for ``Y_bar`` and gradients as for U and states.
    """
    batch = as_model(model).batch(U)
    gradient = as_batch(Y_bar, model.n_outputs, None, model.dtype, "Y_bar")
    if len(gradient) != len(batch):
        found = f"{len(batch)}, got {len(gradient)}"
        raise InputError(f"Y_bar must hold as many samples as U, {found}", argument="Y_bar")
    U_bar = torch.empty_like(batch)
    for rows in chunks(len(batch), model.n_inputs + model.n_states):
        U_bar[rows] = _linearised(model, batch[rows], rows.start).vjp(gradient[rows])
        check_range(U_bar[rows], "gradients", rows.start)
    return like(U_bar, first_array(U))
