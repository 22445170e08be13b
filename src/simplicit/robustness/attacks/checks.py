r"""Whether gradients can be trusted: how many vanish, and whether two ways to them agree.

The *implicit* gradient solves the adjoint equation at the equilibrium. The *unrolled* one differentiates the iteration
x ← φ(A x + B u + b), run from 0, by torch's autograd; it shares no code with the first. Where A is triangular the
iteration ends after as many steps as there are stages, and both are exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from simplicit.implicit import ImplicitModel, linearise
from simplicit.robustness.attacks.gradient import cross_entropy
from simplicit.robustness.attacks.victims import Victim

__all__ = ["GradientAgreement", "gradient_agreement", "unrolled_gradient", "zero_gradient_share"]

# The unrolled iteration stops where what is left is below this share, or after so many steps.
_LEFT, _STEPS = 1e-9, 2000


@dataclass(frozen=True)
class GradientAgreement:
    """Unrolled against implicit gradients of the loss by the inputs.

    Attributes
    ----------
    samples : int
    steps : int
        Of the unrolled iteration.
    largest_difference : float
        Over all samples, ‖implicit - unrolled‖ / ‖unrolled‖ in the Euclidean norm.
    signs_that_differ : float
        Share of inputs, in [0, 1], where the two have opposite signs, zeros left out.
    """

    samples: int
    steps: int
    largest_difference: float
    signs_that_differ: float


def zero_gradient_share(victim: Victim, points: Tensor, classes: Tensor) -> float:
    """The share of samples, in [0, 1], at which the loss has no gradient by any input: an attack is blind there."""
    Y, pull_back = victim.linearise(points)
    gradient = pull_back(cross_entropy(classes)(Y)[1])
    return float((gradient == 0).all(dim=1).double().mean())


def gradient_agreement(model: ImplicitModel, points: Tensor, classes: Tensor) -> GradientAgreement:
    """Compare both gradients in float64 at samples (m, p) with labels (m,)."""
    exact, points = model.astype(np.float64), points.double()
    at_points = linearise(exact, points)
    direction = cross_entropy(classes)(at_points.outputs)[1]
    implicit = at_points.vjp(direction)
    unrolled, steps = unrolled_gradient(exact, points, direction)
    size = unrolled.norm(dim=1).clamp(min=torch.finfo(torch.float64).tiny)
    both = (implicit != 0) & (unrolled != 0)
    opposite = (implicit.sign() != unrolled.sign()) & both
    return GradientAgreement(
        samples=len(points),
        steps=steps,
        largest_difference=float(((implicit - unrolled).norm(dim=1) / size).max()),
        signs_that_differ=float(opposite.sum() / both.sum().clamp(min=1)),
    )


def unrolled_gradient(model: ImplicitModel, points: Tensor, Y_bar: Tensor) -> tuple[Tensor, int]:
    """Jᵀ Ȳ, (m, p) float64, by autograd through the iteration, and its number of steps."""
    A, B, C, D = (torch.from_numpy(part.toarray()).double() for part in (model.A, model.B, model.C, model.D))
    b = torch.tensor(model.state_bias, dtype=torch.float64)
    steps = _steps(model)
    with torch.enable_grad():
        U = points.detach().clone().requires_grad_()
        drive = U @ B.T + b
        X = torch.zeros_like(drive)
        for _ in range(steps):
            Z = X @ A.T + drive
            X = torch.cat([group.activation(Z[:, model.slices[group.name]]) for group in model.groups], dim=1)
        (gradient,) = torch.autograd.grad((Y_bar * (X @ C.T + U @ D.T)).sum(), U)
    return gradient, steps


def _steps(model: ImplicitModel) -> int:
    system = model._system
    if system.plan.triangular:
        return len(system.plan.stages)
    rho = system.contraction.rho
    if rho <= 0.0:
        return 1
    return min(_STEPS, math.ceil(math.log(_LEFT * (1.0 - rho)) / math.log(rho)))
