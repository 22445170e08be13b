r"""Whether attacks can be believed: four signs that they failed, looked for on every run.

A robust accuracy is an upper bound, only as good as the attacks behind it. These would show that they failed (after
Carlini et al., *On Evaluating Adversarial Robustness*, 2019):

- samples without any gradient, at which an attack along gradients is blind;
- an implicit gradient that is not the one of the iteration;
- an attack that sees less (queries only, or another model's gradient) and does better than the white-box one;
- a larger radius that helps the model.

The *implicit* gradient solves the adjoint equation at the equilibrium. The *unrolled* one differentiates the iteration
x ← φ(A x + B u + b), run from 0, by torch's autograd; neither the adjoint equation nor any transposed map has a part
in it. Where A is triangular one pass in the order of substitution ends it, and both are exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from simplicit.implicit import ImplicitModel, linearise
from simplicit.implicit.groups import INPUT, OUTPUT, StateGroup
from simplicit.robustness.attacks.gradient import cross_entropy
from simplicit.robustness.attacks.victims import Victim

# The unrolled iteration stops where what is left is below this share, or after so many steps.
_LEFT, _STEPS = 1e-9, 2000
# Gradients may differ by this share of their size; those of the models in the tests differ by less than 1e-6.
_AGREE = 1e-3

#: What a finding says, of its attack and of its size in per cent.
_SENTENCES = {
    "zero_gradients": "{size:.2f} % of the samples have no gradient at all",
    "gradients": "implicit and unrolled gradients differ by up to {size:.2g} % of their size",
    "better_than_white_box": "{attack} is stronger than the white-box PGD, by {size:.2f} points: gradients may be "
    "masked",
    "rises": "under {attack} a larger radius helps the model, by {size:.2f} points: take more steps",
}


@dataclass(frozen=True)
class Finding:
    """Something about the attacks is not as it should be; ``str()`` says it in a sentence.

    Attributes
    ----------
    check : str
        The field of :class:`SelfChecks` that shows it.
    size : float
        How far off it is, as a share in [0, 1].
    attack : str or None
        Of which attack it is true, where it is one of them.
    """

    check: str
    size: float
    attack: str | None = None

    def __str__(self) -> str:
        return _SENTENCES[self.check].format(size=100.0 * self.size, attack=self.attack)


@dataclass(frozen=True)
class GradientAgreement:
    """Gradients of the loss by the inputs of some samples, implicit and unrolled over some steps, are compared.

    The largest difference over the samples is ‖implicit - unrolled‖ / ‖unrolled‖ in the Euclidean norm; signs differ
    for a share of the inputs, in [0, 1], zeros left out.
    """

    samples: int
    steps: int
    largest_difference: float
    signs_that_differ: float


@dataclass(frozen=True)
class SelfChecks:
    """What speaks for or against the attacks of one run.

    Attributes
    ----------
    zero_gradients : float
        Share of the samples that are classified right, in [0, 1], whose loss has no gradient by any input.
    gradients : GradientAgreement or None
        Unrolled against implicit gradients; None for a torch network.
    better_than_white_box : mapping of str to tuple of float
        For each attack that sees less than PGD, by how much of the accuracy, in [0, 1], it was the stronger one at each
        radius; not above 0 is as it should be. Empty without PGD.
    rises : mapping of str to tuple of float
        For each attack, by how much the accuracy rose from one radius to the next larger one; not above 0 likewise.
    """

    zero_gradients: float
    gradients: GradientAgreement | None
    better_than_white_box: Mapping[str, tuple[float, ...]]
    rises: Mapping[str, tuple[float, ...]]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is not as it should be; empty if all is well."""
        found = []
        if self.zero_gradients > 0:
            found.append(Finding("zero_gradients", self.zero_gradients))
        if self.gradients is not None and not self.gradients.largest_difference <= _AGREE:
            found.append(Finding("gradients", self.gradients.largest_difference))
        for check in ("better_than_white_box", "rises"):
            for attack, gains in getattr(self, check).items():
                if max(gains, default=0.0) > 0:
                    found.append(Finding(check, max(gains), attack))
        return tuple(found)


def zero_gradient_share(victim: Victim, points: Tensor, classes: Tensor) -> float:
    """Return the share of samples, in [0, 1], at which the loss has no gradient by any input."""
    Y, pull_back = victim.linearise(points)
    gradient = pull_back(cross_entropy(classes)(Y)[1])
    return float((gradient == 0).all(dim=1).double().mean())


def gradient_agreement(model: ImplicitModel, points: Tensor, classes: Tensor) -> GradientAgreement:
    """Compare implicit and unrolled gradients in float64 at samples (m, p) with labels (m,)."""
    exact, points = model.astype(np.float64), points.double()
    at_points = linearise(exact, points)
    direction = cross_entropy(classes)(at_points.outputs)[1]
    implicit = at_points.vjp(direction)
    unrolled, steps = unrolled_gradient(exact, points, direction)
    size = unrolled.norm(dim=1).clamp(min=torch.finfo(torch.float64).tiny)
    difference = float(((implicit - unrolled).norm(dim=1) / size).max())
    both = (implicit != 0) & (unrolled != 0)
    opposite = (implicit.sign() != unrolled.sign()) & both
    return GradientAgreement(len(points), steps, difference, float(opposite.sum() / both.sum().clamp(min=1)))


def unrolled_gradient(model: ImplicitModel, points: Tensor, Y_bar: Tensor) -> tuple[Tensor, int]:
    """Return Jᵀ Ȳ, (m, p) float64, by autograd through the iteration, and the number of its steps."""
    products = {key: block.product() for key, block in model.blocks.items()}

    def gathered(row: str, X: Mapping[str, Tensor], bias: Tensor) -> Tensor:
        return sum((product(X[column]) for (target, column), product in products.items() if target == row), bias)

    bias = {name: torch.from_numpy(model.state_bias[at].copy()) for name, at in model.pre_slices.items()}
    groups, steps, in_order = _schedule(model)
    with torch.enable_grad():
        U = points.detach().clone().requires_grad_()
        X = {INPUT: U} | {group.name: U.new_zeros(len(U), group.size) for group in model.groups}
        for _ in range(steps):
            before = X if in_order else dict(X)
            for group in groups:
                X[group.name] = group.activation(gathered(group.name, before, bias[group.name]))
        Y = gathered(OUTPUT, X, torch.zeros(()))
        if not Y.requires_grad:
            return torch.zeros_like(points), steps
        (gradient,) = torch.autograd.grad((Y_bar * Y).sum(), U, allow_unused=True, materialize_grads=True)
    return gradient, steps


def _schedule(model: ImplicitModel) -> tuple[list[StateGroup], int, bool]:
    """Return the groups as a step takes them, the number of steps, and whether each is a substitution among groups."""
    system, groups = model.state_equation, list(model.groups)
    stages = system.plan.stages
    if system.plan.triangular and system.plan.order is None:
        at = {model.slices[group.name].start: group for group in groups}
        return [at[stage.target.start] for stage in stages], 1, True
    if system.plan.triangular:
        return groups, len(stages), False
    rho = max(system.contraction_of(loop).rho for loop in system.plan.loops)
    steps = math.ceil(math.log(_LEFT * (1.0 - rho)) / math.log(rho)) if rho > 0.0 else 1
    behind = len(stages) - sum(len(loop.names) for loop in system.plan.loops)  # each of them comes a step later
    return groups, min(_STEPS, steps) + behind, False
