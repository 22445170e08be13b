"""``attack``: several attacks at several radii on one model, and checks of whether they can be believed."""

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
from simplicit.progress import Meter, OnProgress
from simplicit.robustness.attacks.checks import SelfChecks, gradient_agreement, zero_gradient_share
from simplicit.robustness.attacks.gradient import pgd
from simplicit.robustness.attacks.problem import BATCH_SIZE, Problem
from simplicit.robustness.attacks.registry import ATTACKS, STANDARD_ATTACKS, checked_attacks
from simplicit.robustness.attacks.victims import AttackedModel
from simplicit.robustness.box import Clip, as_radii

_WHITE_BOX = "pgd"
# Implicit gradients are compared with unrolled ones, which take all steps of the iteration, on so many samples.
_COMPARED = 64

Bools = npt.NDArray[np.bool_]


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
    def clean(self) -> float:
        """Share of samples that are classified right as they are, in [0, 1]."""
        return float(self.correct.mean())

    @property
    def worst(self) -> Bools:
        """Which samples held against all attacks, with this radius and all smaller ones, (k, m)."""
        all_held = np.logical_and.reduce(list(self.held.values())) & self.correct
        worst: Bools = np.logical_and.accumulate(all_held, axis=0)
        return worst

    def accuracy(self, attack: str | None = None) -> npt.NDArray[np.float64]:
        """Return the share of samples that held for every radius, (k,), in [0, 1]: against one attack, or against all.

        Raises
        ------
        InputError
            The attack is unknown or was not run.
        """
        if attack is not None and attack not in self.held:
            run = ", ".join(map(repr, self.held))
            raise InputError(f"attack: {attack!r} was not run; {run} were", argument="attack")
        share: npt.NDArray[np.float64] = (self.worst if attack is None else self.held[attack]).mean(axis=1)
        return share


def attack(
    model: AttackedModel,
    U: Batch,
    labels: Any,
    eps: float | Sequence[float],
    *,
    attacks: str | Sequence[str] = STANDARD_ATTACKS,
    sources: Mapping[str, AttackedModel] | None = None,
    steps: int = 50,
    restarts: int = 5,
    queries: int = 300,
    image_shape: tuple[int, ...] | None = None,
    clip: Clip = (0.0, 1.0),
    seed: int = 0,
    keep: bool = False,
    progress: OnProgress | None = None,
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
    attacks : str or sequence of str
        Names in :data:`simplicit.robustness.ATTACKS`: ``"fgsm"``, ``"pgd"``, ``"square"`` (:func:`simplicit.square`)
        and ``"autoattack"`` (extra ``attacks``) among them.
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
        Called with a :class:`simplicit.Progress`, whose steps are the attacks at all radii.

    Returns
    -------
    AttackResult

    Raises
    ------
    InputError
        As :func:`simplicit.fgsm`; no or an unknown attack, a source that does not take such samples.
    MissingExtraError
        AutoAttack is asked for and not installed.
    NotWellPosedError, ConvergenceError
        A model has no unique equilibrium, or iterating for it takes too long.
    """
    radii = tuple(sorted(set(as_radii(eps))))
    problem = Problem.checked(model, U, labels, max(radii), clip, BATCH_SIZE)
    options: dict[str, Any] = {
        "steps": as_count("steps", steps),
        "restarts": as_count("restarts", restarts),
        "queries": as_count("queries", queries),
        "image_shape": image_shape,
        "clip": clip,
        "seed": as_seed("seed", seed, bits=63),
    }
    chosen = {name: ATTACKS[name] for name in checked_attacks(attacks)}
    runs = {name: partial(one.run, model, **one.options(options)) for name, one in chosen.items()}
    climb = ATTACKS[_WHITE_BOX].options(options)
    transfers = {transfer_name(name): partial(pgd, source, **climb) for name, source in (sources or {}).items()}
    if not runs and not transfers:
        raise InputError("attacks: none given, and no sources; name at least one", argument="attacks")
    blind = {name for name, one in chosen.items() if not one.sees_gradients} | transfers.keys()
    return _Run(problem, radii, runs | transfers, blind, keep).result(model, progress)


def transfer_name(source: str) -> str:
    """Return what the transfer attack from a source is called in a result."""
    return f"transfer from {source}"


class _Run:
    """The attacks, by name, on one problem; those that are ``blind`` do not see the model's gradients."""

    def __init__(
        self,
        problem: Problem,
        radii: tuple[float, ...],
        attacks: Mapping[str, Callable[..., Any]],
        blind: set[str],
        keep: bool,
    ) -> None:
        self._problem, self._radii, self._attacks, self._blind = problem, radii, attacks, blind
        k, m = len(radii), len(problem.inputs)
        self._held = {name: np.zeros((k, m), dtype=bool) for name in attacks}
        self._seconds = dict.fromkeys(attacks, 0.0)
        self._found = problem.inputs.repeat(k, 1, 1) if keep else None

    def result(self, model: AttackedModel, progress: OnProgress | None) -> AttackResult:
        """Run everything."""
        correct = ~self._problem.broken(self._problem.inputs)
        meter = Meter(len(self._radii) * len(self._attacks), progress)
        for place, radius in enumerate(self._radii):
            for name in self._attacks:
                meter.begin(f"{name}, ε = {radius:.4g}")
                self._run(name, place, radius)
                meter.count()
        meter.begin("checks")
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
                if _WHITE_BOX in shares and name in self._blind
            },
            rises={
                name: tuple(float(larger - smaller) for smaller, larger in pairwise(share))
                for name, share in shares.items()
            },
        )
