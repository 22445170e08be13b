"""Finished runs under attack, the baseline beside them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from simplicit.checks import as_count, named, refused
from simplicit.progress import OnProgress, listening, phase
from simplicit.robustness import ATTACKS, AttackResult, attack, pgd
from simplicit.robustness.attacks.registry import STANDARD_ATTACKS, checked_attacks
from simplicit.runs.measured import MeasuredRun, MeasureSettings
from simplicit.runs.subjects import BASELINE, Subjects, choose_samples

EXAMPLES = "examples.npz"
#: How many samples are kept as examples: a row of pictures.
N_EXAMPLES = 6


@dataclass(frozen=True)
class AttackSettings(MeasureSettings):
    """The settings of ``simplicit attack`` besides samples and radii; see :func:`simplicit.attack`.

    Parameters
    ----------
    attacks : tuple of str
        Attacks by name. Repeat for several. AutoAttack is some hundred times slower than FGSM and needs the extra
        `attacks`.
    steps : int
        Gradient steps of PGD.
    restarts : int
        Restarts of PGD: the first on the cross-entropy, the others on margins.
    queries : int
        Queries of Square, which sees outputs only.
    transfer : bool
        Try points that PGD finds on the baseline on every run.
    """

    panel: ClassVar[str] = "Attacks"

    attacks: tuple[str, ...] = field(default=STANDARD_ATTACKS, metadata=named(ATTACKS))
    steps: int = 50
    restarts: int = 5
    queries: int = 300
    transfer: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "attacks", checked_attacks(self.attacks))
        if not self.attacks:
            raise refused("attacks", "name at least one")
        for name in ("steps", "restarts", "queries"):
            as_count(name, getattr(self, name))


@dataclass(frozen=True)
class AttackRun(MeasuredRun):
    """Attacked subjects. The outcomes say for every attack which samples held: ``1/pgd`` for the first run."""

    kind, document, title = "attack", "attack.json", "worst of all attacks"

    settings: AttackSettings
    found: dict[str, AttackResult]

    @property
    def packages(self) -> tuple[str, ...]:
        """What the attacks needed."""
        return tuple(package for name in self.settings.attacks for package in ATTACKS[name].packages)

    def figures(self, name: str) -> dict[str, Any]:
        """Accuracies under each attack and under all, the checks, and what they found as sentences."""
        result = self.found[name]
        return {
            "attacks": {attack: result.accuracy(attack) for attack in result.held},
            "worst": result.accuracy(),
            "checks": result.checks,
            "findings": [str(finding) for finding in result.checks.findings],
        }

    def outcomes(self, name: str) -> Mapping[str, npt.NDArray[Any]]:
        """For each attack which samples held."""
        return self.found[name].held

    def accuracies(self, name: str) -> dict[str, list[float]]:
        return {"attacked": self.found[name].accuracy().tolist()}

    def archives(self) -> dict[str, dict[str, npt.NDArray[Any]]]:
        """``examples.npz``: a few samples and what PGD makes of them, at the largest radius, for each model.

        Those at which the baseline fails under PGD, or under all attacks without it, come first: ``places``,
        ``labels``, ``eps``, ``shape`` of a sample, ``class_names``, ``inputs`` (k, p), and for every model ``0/inputs``
        (k, p), ``0/clean`` and ``0/attacked``, the classes that it gives.
        """
        settings, data = self.settings, self.subjects.data
        largest = max(settings.radii.values())
        first = self.found[self.subjects.baseline.name]
        broken = first.correct & ~first.held.get("pgd", first.worst)[-1]
        chosen = np.sort(np.argsort(~broken, kind="stable")[:N_EXAMPLES])
        U, labels = self.samples.inputs[chosen], self.samples.labels[chosen]
        arrays: dict[str, Any] = {
            "places": self.samples.places[chosen],
            "labels": labels,
            "eps": np.array(largest),
            "shape": np.array(data.input_shape),
            "class_names": np.array(data.class_names, dtype=str),
            "inputs": U,
        }
        options: dict[str, Any] = {"steps": settings.steps, "restarts": settings.restarts, "seed": settings.seed}
        for number, subject in enumerate(self.subjects.members):
            points = pgd(subject.model, U, labels, largest, clip=data.input_range, **options)
            arrays[f"{number}/inputs"] = points
            arrays[f"{number}/clean"] = subject.model.predict(U).argmax(axis=1)
            arrays[f"{number}/attacked"] = subject.model.predict(points).argmax(axis=1)
        return {EXAMPLES: arrays}


def run_attack(subjects: Subjects, settings: AttackSettings, *, progress: OnProgress | None = None) -> AttackRun:
    """Attack all subjects on the same samples, with the same seeds; see :func:`simplicit.attack`.

    The steps of `progress` are the attacks on all models at all radii.
    """
    begun = time.perf_counter()
    data, baseline = subjects.data, subjects.baseline
    samples = choose_samples(data, settings.samples, settings.seed)
    found: dict[str, AttackResult] = {}
    sources = {
        one.name: {BASELINE: baseline.model} if settings.transfer and one is not baseline else {}
        for one in subjects.members
    }
    total = len(settings.eps) * sum(len(settings.attacks) + len(some) for some in sources.values())
    with listening(progress), phase("attacking", total, by_parts=True) as meter:
        for subject in subjects.members:
            meter.begin(f"attacking {subject.name}")
            found[subject.name] = attack(
                subject.model,
                samples.inputs,
                samples.labels,
                list(settings.radii.values()),
                attacks=settings.attacks,
                sources=sources[subject.name],
                steps=settings.steps,
                restarts=settings.restarts,
                queries=settings.queries,
                image_shape=data.input_shape,
                clip=data.input_range,
                seed=settings.seed,
            )
    return AttackRun(settings, subjects, samples, found, time.perf_counter() - begun)
