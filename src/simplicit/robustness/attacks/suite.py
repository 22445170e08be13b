"""``attack``: several attacks at several radii on one model, and checks of whether they can be believed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from simplicit.checks import as_count, as_seed, refused
from simplicit.implicit import ImplicitModel
from simplicit.progress import OnProgress, Phase, listening, phase
from simplicit.robustness.attacks.checks import SelfChecks, gradient_agreement, zero_gradient_share
from simplicit.robustness.attacks.gradient import pgd
from simplicit.robustness.attacks.problem import BATCH_SIZE, Problem
from simplicit.robustness.attacks.registry import ATTACKS, STANDARD_ATTACKS, checked_attacks
from simplicit.robustness.attacks.victims import AttackedModel
from simplicit.robustness.box import Clip, Radius, Reach, as_radii, as_reach, at_radii

_WHITE_BOX = "pgd"
# Implicit gradients are compared with unrolled ones, which take all steps of the iteration, on so many samples.
_COMPARED = 64

Bools = npt.NDArray[np.bool_]
#: By name, ``run(U, labels, eps)`` returns adversarial inputs.
_Runs: TypeAlias = Mapping[str, Callable[..., Any]]


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

    def __repr__(self) -> str:
        held = f"{100 * self.clean:.1f} % right, under attack {at_radii(self.eps, self.accuracy())}"
        return f"AttackResult({len(self.labels)} samples, {held}; {', '.join(self.held)})"

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

        InputError is raised for an attack that was not run.
        """
        if attack is not None and attack not in self.held:
            raise refused("attack", f"{attack!r} was not run; {', '.join(map(repr, self.held))} were")
        share: npt.NDArray[np.float64] = (self.worst if attack is None else self.held[attack]).mean(axis=1)
        return share


def attack(
    model: AttackedModel,
    U: Any,
    labels: Any,
    eps: Radius | Sequence[float],
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
    model, U, labels, clip
        As in :func:`simplicit.fgsm`.
    eps : float or sequence of float, or mapping of str to float
        Radii in ℓ∞, in units of the inputs; or one for each input by its name, of which the result tells the largest.
    attacks : str or sequence of str
        Names in :data:`simplicit.robustness.ATTACKS`: ``"fgsm"``, ``"pgd"``, ``"square"`` and
        ``"autoattack"`` (extra ``attacks``) among them.
    sources : mapping of str to model, optional
        For each, points that PGD finds on that model are tried on this one: a transfer attack, called ``transfer from
        NAME`` in the result.
    steps, restarts : int
        Of PGD; see :func:`simplicit.pgd`.
    queries : int
        Of ``square``.
    image_shape : tuple of int, optional
        The form of a sample as an image, for ``square`` and AutoAttack.
    seed : int
        Of all that is random, in [0, 2⁶³).
    keep : bool
        Return adversarial points too.
    progress : callable, optional
        Called with a :class:`simplicit.progress.Progress`, whose steps are the attacks at all radii.

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
    given = [eps] if isinstance(eps, Mapping) else sorted(set(as_radii(eps)))
    problem = Problem.checked(model, U, labels, given[-1], clip, BATCH_SIZE)
    reaches = [as_reach(radius, problem.victim.layout) for radius in given]
    options: dict[str, Any] = {
        "steps": as_count("steps", steps),
        "restarts": as_count("restarts", restarts),
        "queries": as_count("queries", queries),
        "image_shape": image_shape,
        "clip": clip,
        "seed": as_seed("seed", seed, bits=63),
    }
    runs, blind = _attacks(model, checked_attacks(attacks), sources or {}, options)
    adversarial = problem.inputs.repeat(len(reaches), 1, 1).numpy() if keep else None
    with listening(progress), phase("attacks", len(reaches) * len(runs)) as meter:
        held, seconds = _run(runs, problem, reaches, adversarial, meter)
        meter.begin("checks")
        correct = ~problem.broken(problem.inputs)
        checks = _checks(model, problem.part(torch.nonzero(correct).flatten()), held, blind)
    radii = tuple(reach.eps for reach in reaches)
    return AttackResult(radii, problem.labels.numpy(), correct.numpy(), held, checks, seconds, adversarial)


def transfer_name(source: str) -> str:
    """Return what the transfer attack from a source is called in a result."""
    return f"transfer from {source}"


def _attacks(
    model: AttackedModel, names: Sequence[str], sources: Mapping[str, AttackedModel], options: Mapping[str, Any]
) -> tuple[_Runs, set[str]]:
    """Return the attacks by name, and the names of those that do not see the model's gradients."""
    chosen = {name: ATTACKS[name] for name in names}
    climb = ATTACKS[_WHITE_BOX].options(options)
    transfers = {transfer_name(name): partial(pgd, source, **climb) for name, source in sources.items()}
    runs = {name: partial(one.run, model, **one.options(options)) for name, one in chosen.items()} | transfers
    if not runs:
        raise refused("attacks", "none given, and no sources; name at least one")
    return runs, {name for name, one in chosen.items() if not one.sees_gradients} | transfers.keys()


def _run(
    runs: _Runs, problem: Problem, reaches: Sequence[Reach], adversarial: npt.NDArray[Any] | None, meter: Phase
) -> tuple[dict[str, Bools], dict[str, float]]:
    """Return by attack which samples held at each radius, (k, m), and its seconds.

    Points that are misclassified are put into ``adversarial``, (k, m, p).
    """
    held = {name: np.zeros((len(reaches), len(problem.inputs)), dtype=bool) for name in runs}
    seconds = dict.fromkeys(runs, 0.0)
    for place, reach in enumerate(reaches):
        for name, run in runs.items():
            meter.begin(f"{name}, ε = {reach.eps:.4g}")
            begun = time.perf_counter()
            # A source may work in another dtype, where its box is a little different.
            points = problem.victim.batch(run(problem.given, problem.labels, reach.given)).clone()
            points = replace(problem, reach=reach).box().project_(points)
            broken = problem.broken(points).numpy()
            held[name][place] = ~broken
            if adversarial is not None:
                adversarial[place, broken] = points.numpy()[broken]
            seconds[name] += time.perf_counter() - begun
            meter.count()
    return held, seconds


def _checks(model: AttackedModel, right: Problem, held: Mapping[str, Bools], blind: set[str]) -> SelfChecks:
    """Check attacks by the samples that are classified ``right`` and by the shares of all samples that ``held``."""
    points, classes = right.inputs, right.labels
    shares = {name: one.mean(axis=1) for name, one in held.items()}
    zero, gradients, better = 0.0, None, dict[str, tuple[float, ...]]()
    if len(points):
        zero = zero_gradient_share(right.victim, points, classes)
        if isinstance(model, ImplicitModel):
            gradients = gradient_agreement(model, points[:_COMPARED], classes[:_COMPARED])
    if _WHITE_BOX in shares:
        better = {name: tuple((shares[_WHITE_BOX] - shares[name]).tolist()) for name in shares if name in blind}
    rises = {name: tuple(np.diff(share).tolist()) for name, share in shares.items()}
    return SelfChecks(zero, gradients, better, rises)
