"""Finished runs under attack, the baseline beside them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from simplicit.checks import as_count, as_seed, named
from simplicit.errors import InputError
from simplicit.files import write_json
from simplicit.progress import Meter, OnProgress
from simplicit.robustness import ATTACKS, AttackResult, attack, pgd
from simplicit.robustness.attacks.registry import STANDARD_ATTACKS, checked_attacks
from simplicit.runs.evaluate import DEFAULT_EPS, parse_eps
from simplicit.runs.folder import Manifest, run_folder
from simplicit.runs.subjects import BASELINE, Samples, Subject, Subjects, choose_samples

__all__ = [
    "ATTACK",
    "EXAMPLES",
    "OUTCOMES",
    "PICTURE",
    "AttackRun",
    "AttackSettings",
    "radii_of",
    "run_attack",
    "save_attack",
]

ATTACK, OUTCOMES, PICTURE = "attack.json", "outcomes.npz", "picture.png"
EXAMPLES = "examples.npz"
#: How many samples are kept as examples.
N_EXAMPLES = 6


@dataclass(frozen=True)
class AttackSettings:
    """What ``simplicit attack`` is told; see :func:`simplicit.attack`.

    Parameters
    ----------
    eps : tuple of str
        Radius of the box in ℓ∞, in units of the inputs; fractions such as 8/255 too. Repeat for several.
    attacks : tuple of str
        What is run, each on every sample. Repeat for several. AutoAttack is some hundred times slower than FGSM and
        needs the extra `attacks`.
    steps : int
        Gradient steps of PGD.
    restarts : int
        Restarts of PGD: the first on the cross-entropy, the others on margins.
    queries : int
        Queries of Square, which sees outputs only.
    transfer : bool
        Try points that PGD finds on the baseline on every run.
    samples : int, optional
        Test samples, drawn at random. Default: all.
    seed : int
        Of the samples drawn and of all attacks.

    Raises
    ------
    InputError
        If something is out of range or unknown.
    MissingExtraError
        An attack needs what is not installed.
    """

    panel: ClassVar[str] = "Attacks"

    eps: tuple[str, ...] = DEFAULT_EPS
    attacks: tuple[str, ...] = field(default=STANDARD_ATTACKS, metadata=named(ATTACKS))
    steps: int = 50
    restarts: int = 5
    queries: int = 300
    transfer: bool = True
    samples: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        radii_of(self.eps)
        object.__setattr__(self, "attacks", checked_attacks(self.attacks))
        if not self.attacks:
            raise InputError("attacks: name at least one", argument="attacks")
        for name in ("steps", "restarts", "queries"):
            as_count(name, getattr(self, name))
        as_seed("seed", self.seed, bits=63)


@dataclass(frozen=True)
class AttackRun:
    """The subjects were attacked with these settings on these samples; each has a result by its name."""

    settings: AttackSettings
    subjects: Subjects
    samples: Samples
    found: dict[str, AttackResult]
    seconds: float

    def results(self) -> dict[str, Any]:
        """Return the document ``attack.json``; accuracies are shares in [0, 1], one for each radius."""
        return {
            "data": self.subjects.data.name,
            "samples": len(self.samples.labels),
            "eps": list(radii_of(self.settings.eps)),
            "settings": self.settings,
            "models": [self._model(subject) for subject in self.subjects.members],
        }

    def _model(self, subject: Subject) -> dict[str, Any]:
        result = self.found[subject.name]
        return {
            "name": subject.name,
            "sparsity": subject.sparsity,
            "dtype": str(subject.model.dtype),
            "clean": float(result.correct.mean()),
            "attacks": {name: result.accuracy(name) for name in result.held},
            "worst": result.accuracy(),
            "checks": result.checks,
            "findings": [str(finding) for finding in result.checks.findings],
            "seconds": {name: round(seconds, 3) for name, seconds in result.seconds.items()},
        }


def radii_of(eps: tuple[str, ...]) -> dict[str, float]:
    """Return the radii by how they are written, from the smallest to the largest.

    Raises
    ------
    InputError
        There is none, one that is no number of at least 0, or two that are equal.
    """
    radii = {text: parse_eps(text) for text in eps}
    if not radii:
        raise InputError("eps: name at least one radius", argument="eps")
    if len(set(radii.values())) < len(eps):
        raise InputError(f"eps: {', '.join(eps)} names a radius twice", argument="eps")
    return dict(sorted(radii.items(), key=lambda item: item[1]))


def run_attack(subjects: Subjects, settings: AttackSettings, *, progress: OnProgress | None = None) -> AttackRun:
    """Attack all subjects on the same samples, with the same seeds.

    Parameters
    ----------
    subjects : Subjects
    settings : AttackSettings
    progress : callable, optional
        Called with a :class:`simplicit.Progress`, whose steps are the attacks on all models at all radii.

    Raises
    ------
    SimplicitError
        As :func:`simplicit.attack`; InputError for a number of samples that there is not.
    """
    begun = time.perf_counter()
    data, baseline = subjects.data, subjects.baseline
    samples = choose_samples(data, settings.samples, settings.seed)
    found: dict[str, AttackResult] = {}
    sources = [
        {BASELINE: baseline.model} if settings.transfer and one is not baseline else {} for one in subjects.members
    ]
    meter = Meter(len(settings.eps) * sum(len(settings.attacks) + len(some) for some in sources), progress)
    for subject, some in zip(subjects.members, sources, strict=True):
        found[subject.name] = attack(
            subject.model,
            samples.inputs,
            samples.labels,
            list(radii_of(settings.eps).values()),
            attacks=settings.attacks,
            sources=some,
            steps=settings.steps,
            restarts=settings.restarts,
            queries=settings.queries,
            image_shape=data.input_shape,
            clip=data.input_range,
            seed=settings.seed,
            progress=meter.part(subject.name),
        )
    return AttackRun(settings, subjects, samples, found, time.perf_counter() - begun)


def save_attack(
    run: AttackRun,
    folder: Path,
    *,
    command: list[str] | None = None,
    overwrite: bool = False,
    draw: Callable[[AttackRun, Path], None] | None = None,
) -> None:
    """Write ``attack.json``, ``outcomes.npz``, ``examples.npz``, ``run.json`` and, with `draw`, ``picture.png``.

    ``outcomes.npz`` holds, as arrays without pickles, ``places`` of the samples among the test samples, ``labels``,
    ``eps``, and for every model and attack which samples held, (radii, samples): ``0/pgd`` for the baseline, ``1/pgd``
    for the first run. ``examples.npz`` is what :func:`examples` returns.

    Raises
    ------
    InputError
        `folder` exists and may not be replaced.
    DataError
        It cannot be written.
    """
    with run_folder(folder, overwrite=overwrite, kind="attack", inputs=run.subjects.folders) as draft:
        write_json(draft / ATTACK, run.results())
        np.savez_compressed(draft / OUTCOMES, **_outcomes(run))
        np.savez_compressed(draft / EXAMPLES, **examples(run))
        if draw is not None:
            draw(run, draft / PICTURE)
        Manifest(
            "attack",
            command=command or [],
            settings=vars(run.settings),
            inputs=run.subjects.inputs,
            seconds={"attacks": run.seconds},
            results={subject.name: run.found[subject.name].accuracy() for subject in run.subjects.members},
            packages=tuple(package for name in run.settings.attacks for package in ATTACKS[name].packages),
        ).write(draft)


def _outcomes(run: AttackRun) -> dict[str, Any]:
    arrays: dict[str, Any] = {
        "places": run.samples.places,
        "labels": run.samples.labels,
        "eps": np.array(list(radii_of(run.settings.eps).values())),
    }
    for number, subject in enumerate(run.subjects.members):
        result = run.found[subject.name]
        arrays[f"{number}/clean"] = result.correct
        arrays |= {f"{number}/{name}": held for name, held in result.held.items()}
    return arrays


def examples(run: AttackRun) -> dict[str, Any]:
    """Return a few samples and what PGD makes of them, at the largest radius, for each model.

    Those at which the baseline fails under PGD, or under all attacks without it, come first: ``places``, ``labels``,
    ``eps``, ``shape`` of a sample, ``inputs`` (k, p), and for every model ``0/inputs`` (k, p), ``0/clean`` and
    ``0/attacked``, the classes that it gives.
    """
    largest = max(radii_of(run.settings.eps).values())
    first = run.found[run.subjects.baseline.name]
    broken = first.correct & ~first.held.get("pgd", first.worst)[-1]
    chosen = np.sort(np.argsort(~broken, kind="stable")[:N_EXAMPLES])
    U, labels, data = run.samples.inputs[chosen], run.samples.labels[chosen], run.subjects.data
    arrays: dict[str, Any] = {
        "places": run.samples.places[chosen],
        "labels": labels,
        "eps": np.array(largest),
        "shape": np.array(data.input_shape),
        "inputs": U,
    }
    for number, subject in enumerate(run.subjects.members):
        points = pgd(
            subject.model,
            U,
            labels,
            largest,
            steps=run.settings.steps,
            restarts=run.settings.restarts,
            clip=data.input_range,
            seed=run.settings.seed,
        )
        arrays[f"{number}/inputs"] = points
        arrays[f"{number}/clean"] = subject.model.predict(U).argmax(axis=1)
        arrays[f"{number}/attacked"] = subject.model.predict(points).argmax(axis=1)
    return arrays
