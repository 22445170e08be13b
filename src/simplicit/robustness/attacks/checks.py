r"""Whether gradients can be trusted: how many vanish, and whether two ways to them agree.

The *implicit* gradient solves the adjoint equation at the equilibrium. The *unrolled* one differentiates the iteration
x ← φ(A x + B u + b), run from 0, by torch's autograd; neither the adjoint equation nor any transposed map has a part
in it. Where A is triangular one pass in the order of substitution ends it, and both are exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from simplicit.implicit import Activation, ImplicitModel, linearise
from simplicit.implicit.groups import INPUT, OUTPUT
from simplicit.implicit.maps.base import Product
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
    maps: dict[str, list[tuple[str, Product]]] = {}
    for (row, column), block in model.blocks.items():
        maps.setdefault(row, []).append((column, block.product()))
    bias = {name: torch.from_numpy(model.state_bias[at].copy()) for name, at in model.slices.items()}
    steps, in_order = _steps(model)
    with torch.enable_grad():
        U = points.detach().clone().requires_grad_()
        X = {INPUT: U} | {group.name: U.new_zeros(len(U), group.size) for group in model.groups}
        for _ in range(steps):
            before = X if in_order else dict(X)
            for name, phi in _evaluated(model, in_order):
                X[name] = phi(sum((apply(before[source]) for source, apply in maps.get(name, ())), bias[name]))
        Y = sum((apply(X[source]) for source, apply in maps.get(OUTPUT, ())), torch.zeros(()))
        if not isinstance(Y, Tensor) or not Y.requires_grad:
            return torch.zeros_like(points), steps
        (gradient,) = torch.autograd.grad((Y_bar * Y).sum(), U, allow_unused=True, materialize_grads=True)
    return gradient, steps


def _evaluated(model: ImplicitModel, in_order: bool) -> list[tuple[str, Activation]]:
    """The groups with their activations; in the order of substitution, where there is one."""
    names = {at.start: name for name, at in model.slices.items()}
    phi = {group.name: group.activation for group in model.groups}
    order = [names[stage.target.start] for stage in model.state_equation.plan.stages] if in_order else list(phi)
    return [(name, phi[name]) for name in order]


def _steps(model: ImplicitModel) -> tuple[int, bool]:
    """How many steps, and whether each goes group by group in an order of substitution: then one is enough."""
    system = model.state_equation
    if system.plan.triangular:
        return (1, True) if system.plan.order is None else (len(system.plan.stages), False)
    rho = system.contraction.rho
    if rho <= 0.0:
        return 1, False
    return min(_STEPS, math.ceil(math.log(_LEFT * (1.0 - rho)) / math.log(rho))), False
