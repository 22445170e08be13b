r"""``attack``: several attacks at several radii on one model, and checks of whether they can be believed.

A robust accuracy is an upper bound, only as good as the attacks behind it. Four things would show that they failed, and
are looked for on every run (after Carlini et al., *On Evaluating Adversarial Robustness*, 2019):

- samples without any gradient, at which an attack along gradients is blind;
- an attack that sees less (queries only, or another model's gradient) and does better than the white-box one;
- a larger radius that helps the model;
- an implicit gradient that is not the one of the iteration (:mod:`~simplicit.robustness.attacks.checks`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from simplicit.checks import as_count, as_seed
from simplicit.errors import InputError
from simplicit.implicit import ImplicitModel
from simplicit.implicit.batch import Batch
from simplicit.progress import OnStep
from simplicit.robustness.attacks.autoattack import autoattack, check_autoattack
from simplicit.robustness.attacks.checks import GradientAgreement, gradient_agreement, zero_gradient_share
from simplicit.robustness.attacks.gradient import fgsm, pgd
from simplicit.robustness.attacks.problem import Problem
from simplicit.robustness.attacks.search import square
from simplicit.robustness.attacks.victims import AttackedModel
from simplicit.robustness.box import Clip, as_radii

__all__ = ["METHODS", "AttackResult", "SelfChecks", "attack"]

#: The attacks by name. The first two see gradients, ``square`` sees outputs only.
METHODS = ("fgsm", "pgd", "square", "autoattack")
_WHITE_BOX = "pgd"
# Gradients are compared on so many samples, and may differ by this share.
_COMPARED, _AGREE = 64, 1e-3

Bools = npt.NDArray[np.bool_]


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
    def findings(self) -> tuple[str, ...]:
        """What is not as it should be, one sentence each; empty if all is well."""
        found = []
        if self.zero_gradients > 0:
            found.append(f"{100 * self.zero_gradients:.2f} % of the samples have no gradient at all")
        if self.gradients is not None and not self.gradients.largest_difference <= _AGREE:
            found.append(
                f"implicit and unrolled gradients differ by up to {100 * self.gradients.largest_difference:.2g} % of "
                "their size"
            )
        found += [
            f"{name} is stronger than the white-box PGD, by {100 * max(gains):.2f} points: gradients may be masked"
            for name, gains in self.better_than_white_box.items()
            if max(gains) > 0
        ]
        found += [
            f"under {name} a larger radius helps the model, by {100 * max(rises):.2f} points: take more steps"
            for name, rises in self.rises.items()
            if max(rises, default=0.0) > 0
        ]
        return tuple(found)


@dataclass(frozen=True, eq=False)
class AttackResult:
    """What m samples held against, at k radii.

    Attributes
    ----------
    eps : tuple of float
        The radii, from the smallest to the largest.
    labels : (m,) int64 array
    correct : (m,) bool array
        Which samples are classified right as they are.
    held : mapping of str to (k, m) bool array
        For each attack, which samples are still classified right.
    checks : SelfChecks
    seconds : mapping of str to float
        Of each attack, all radii together.
    adversarial : (k, m, p) array or None
        For every radius and sample a point in its box that is misclassified, the sample itself where none was found;
        None unless asked for.
    """

    eps: tuple[float, ...]
    labels: npt.NDArray[np.int64]
    correct: Bools
    held: Mapping[str, Bools]
    checks: SelfChecks
    seconds: Mapping[str, float]
    adversarial: npt.NDArray[Any] | None = None

    @property
    def worst(self) -> Bools:
        """Which samples held against all attacks, with this radius and all smaller ones, (k, m)."""
        all_held = np.logical_and.reduce(list(self.held.values())) & self.correct
        worst: Bools = np.logical_and.accumulate(all_held, axis=0)
        return worst

    def accuracy(self, method: str | None = None) -> npt.NDArray[np.float64]:
        """The share of samples that held, for every radius, (k,), in [0, 1]: against one attack, or against all.

        Raises
        ------
        InputError
            The attack is unknown or was not run.
        """
        if method is not None and method not in self.held:
            raise InputError(f"method: {method!r} was not run; {', '.join(map(repr, self.held))} were")
        share: npt.NDArray[np.float64] = (self.worst if method is None else self.held[method]).mean(axis=1)
        return share


def attack(
    model: AttackedModel,
    U: Batch,
    labels: Any,
    eps: float | Sequence[float],
    *,
    methods: Sequence[str] = ("fgsm", "pgd", "square"),
    sources: Mapping[str, AttackedModel] | None = None,
    steps: int = 50,
    restarts: int = 5,
    queries: int = 300,
    image_shape: tuple[int, ...] | None = None,
    clip: Clip = (0.0, 1.0),
    seed: int = 0,
    keep: bool = False,
    progress: OnStep | None = None,
) -> AttackResult:
    """Attack a model in several ways at several radii, and check the attacks themselves.

    Parameters
    ----------
    model : ImplicitModel or torch.nn.Module
        A network takes samples in the form of U, returns logits, and is used in evaluation mode.
    U : NumPy array or torch tensor, shape (m, p) or (m, *input_shape)
    labels : array of integers, shape (m,)
        The true classes.
    eps : float or sequence of float
        Radii in ℓ∞, in units of the inputs.
    methods : sequence of str
        Some of ``"fgsm"``, ``"pgd"``, ``"square"`` (:func:`simplicit.square`) and ``"autoattack"`` (extra ``attacks``).
    sources : mapping of str to model, optional
        For each, points that PGD finds on that model are tried on this one: a transfer attack, called ``transfer from
        NAME`` in the result.
    steps, restarts : int
        Of PGD; see :func:`simplicit.pgd`.
    queries : int
        Of ``square``.
    image_shape : tuple of int, optional
        The form of a sample as an image, for ``square`` and AutoAttack.
    clip : (float, float) or None
        Range of valid inputs, which U must keep too; None for no range.
    seed : int
        Of all that is random, in [0, 2⁶³).
    keep : bool
        Return adversarial points too.
    progress : callable, optional
        Called with what is under way, the attacks done and their number, all radii together.

    Returns
    -------
    AttackResult

    Raises
    ------
    InputError
        As :func:`simplicit.fgsm`; no or an unknown method, a source that does not take such samples.
    MissingExtraError
        AutoAttack is asked for and not installed.
    NotWellPosedError, ConvergenceError
        A model has no unique equilibrium, or iterating for it takes too long.
    """
    radii = tuple(sorted(set(as_radii(eps))))
    problem = Problem.checked(model, U, labels, max(radii), clip, 2048)
    as_seed("seed", seed, bits=63)
    steps, restarts = as_count("steps", steps), as_count("restarts", restarts)
    queries = as_count("queries", queries)
    climb = partial(pgd, steps=steps, restarts=restarts, clip=clip, seed=seed)
    known: dict[str, Callable[..., Any]] = {
        "fgsm": partial(fgsm, model, clip=clip),
        "pgd": partial(climb, model),
        "square": partial(square, model, queries=queries, image_shape=image_shape, clip=clip, seed=seed),
        "autoattack": partial(autoattack, model, image_shape=image_shape, clip=clip, seed=seed),
    }
    attacks = {name: known[name] for name in _checked(methods, known)}
    for name, source in (sources or {}).items():
        attacks[f"transfer from {name}"] = partial(climb, source)
    if not attacks:
        raise InputError(f"methods: none given, and no sources; choose among {', '.join(map(repr, METHODS))}")
    return _Run(problem, radii, attacks, keep, progress).result(model)


def _checked(methods: Sequence[str], known: Mapping[str, Any]) -> tuple[str, ...]:
    names = (methods,) if isinstance(methods, str) else tuple(methods)
    for name in names:
        if name not in known:
            raise InputError(f"methods: {name!r} is unknown; choose among {', '.join(map(repr, METHODS))}")
    if "autoattack" in names:
        check_autoattack()
    return tuple(dict.fromkeys(names))


class _Run:
    """The attacks, by name, on one problem."""

    def __init__(
        self,
        problem: Problem,
        radii: tuple[float, ...],
        attacks: Mapping[str, Callable[..., Any]],
        keep: bool,
        progress: OnStep | None,
    ) -> None:
        self._problem, self._radii, self._attacks, self._progress = problem, radii, attacks, progress
        k, m = len(radii), len(problem.inputs)
        self._held = {name: np.zeros((k, m), dtype=bool) for name in attacks}
        self._seconds = dict.fromkeys(attacks, 0.0)
        self._found = problem.inputs.repeat(k, 1, 1) if keep else None

    def result(self, model: AttackedModel) -> AttackResult:
        """Run everything."""
        correct = ~self._problem.broken(self._problem.inputs)
        done, total = 0, len(self._radii) * len(self._attacks)
        for place, radius in enumerate(self._radii):
            for name in self._attacks:
                if self._progress is not None:
                    self._progress(f"{name}, ε = {radius:.4g}", done, total)
                self._run(name, place, radius)
                done += 1
        if self._progress is not None:
            self._progress("checks", done, total)
        return AttackResult(
            eps=self._radii,
            labels=self._problem.labels.numpy(),
            correct=correct.numpy(),
            held=self._held,
            checks=self._checks(model, correct),
            seconds=self._seconds,
            adversarial=None if self._found is None else self._found.numpy(),
        )

    def _run(self, name: str, place: int, radius: float) -> None:
        begun = time.perf_counter()
        inputs = self._problem.inputs
        points = torch.as_tensor(self._attacks[name](self._problem.given, self._problem.labels, radius))
        # A source may work in another dtype, where its box is a little different.
        box = self._problem.at(radius).box()
        points = box.project_(points.reshape(inputs.shape).to(inputs.dtype))
        broken = self._problem.broken(points)
        self._held[name][place] = ~broken.numpy()
        if self._found is not None:
            self._found[place, broken] = points[broken]
        self._seconds[name] += time.perf_counter() - begun

    def _checks(self, model: AttackedModel, correct: Tensor) -> SelfChecks:
        right = torch.nonzero(correct).flatten()
        points, classes = self._problem.inputs[right], self._problem.labels[right]
        shares = {name: held.mean(axis=1) for name, held in self._held.items()}
        return SelfChecks(
            zero_gradients=zero_gradient_share(self._problem.victim, points, classes) if len(right) else 0.0,
            gradients=gradient_agreement(model, points[:_COMPARED], classes[:_COMPARED])
            if isinstance(model, ImplicitModel) and len(right)
            else None,
            better_than_white_box={
                name: tuple((shares[_WHITE_BOX] - share).tolist())
                for name, share in shares.items()
                if _WHITE_BOX in shares and (name == "square" or name.startswith("transfer"))
            },
            rises={
                name: tuple(float(larger - smaller) for smaller, larger in pairwise(share))
                for name, share in shares.items()
            },
        )
