"""Finished runs with certificates, the baseline beside them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from simplicit.checks import as_count, as_seed
from simplicit.files import write_json
from simplicit.progress import Meter, OnProgress
from simplicit.robustness import AttackResult, Certificates, attack, certify
from simplicit.robustness.certificates.proofs import check_method
from simplicit.runs.attacking import OUTCOMES, PICTURE, radii_of
from simplicit.runs.evaluate import DEFAULT_EPS
from simplicit.runs.folder import Manifest, run_folder
from simplicit.runs.subjects import Samples, Subject, Subjects, choose_samples

__all__ = ["CERTIFICATES", "CertifyRun", "CertifySettings", "run_certify", "save_certify"]

CERTIFICATES = "certificates.json"
#: How the attack beside the certificates runs.
STEPS, RESTARTS = 50, 5


@dataclass(frozen=True)
class CertifySettings:
    """What ``simplicit certify`` is told; see :func:`simplicit.certify`.

    Parameters
    ----------
    eps : tuple of str
        Radius of the box in ℓ∞, in units of the inputs; fractions such as 8/255 too. Repeat for several.
    method : str
        The tightest bound: global, one for all samples alike; interval, intervals through the equilibrium; linear,
        linear relaxation.
    steps : int
        Gradient steps on the slopes of the linear relaxation; 20 certify about a point more and take 60 times as long.
    attack : bool
        Run PGD beside: the truth lies between what is proved and what is broken.
    samples : int, optional
        Test samples, drawn at random. Default: all.
    seed : int
        Of the samples drawn and of the attack.

    Raises
    ------
    InputError
        If something is out of range or unknown.
    """

    panel: ClassVar[str] = "Bounds"

    eps: tuple[str, ...] = DEFAULT_EPS
    method: str = "linear"
    steps: int = 0
    attack: bool = False
    samples: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        radii_of(self.eps)
        check_method(self.method)
        as_count("steps", self.steps, minimum=0)
        as_seed("seed", self.seed, bits=63)


@dataclass(frozen=True)
class CertifyRun:
    """The subjects were certified with these settings on these samples; each has its certificates, and perhaps an
    attack, by its name."""

    settings: CertifySettings
    subjects: Subjects
    samples: Samples
    found: dict[str, Certificates]
    attacked: dict[str, AttackResult]
    seconds: float

    def results(self) -> dict[str, Any]:
        """Return the document ``certificates.json``; accuracies are shares in [0, 1], one for each radius."""
        return {
            "data": self.subjects.data.name,
            "samples": len(self.samples.labels),
            "eps": list(radii_of(self.settings.eps)),
            "settings": self.settings,
            "models": [self._model(subject) for subject in self.subjects.members],
        }

    def _model(self, subject: Subject) -> dict[str, Any]:
        found = self.found[subject.name]
        attacked = self.attacked.get(subject.name)
        return {
            "name": subject.name,
            "sparsity": subject.sparsity,
            "dtype": str(subject.model.dtype),
            "clean": float(found.correct.mean()),
            "certified": {name: found.accuracy(name) for name in found.margins},
            "attacked": None if attacked is None else attacked.accuracy(),
            "seconds": {name: round(seconds, 3) for name, seconds in found.seconds.items()},
        }


def run_certify(subjects: Subjects, settings: CertifySettings, *, progress: OnProgress | None = None) -> CertifyRun:
    """Certify all subjects on the same samples, each as it is evaluated in float64.

    Parameters
    ----------
    subjects : Subjects
    settings : CertifySettings
    progress : callable, optional
        Called with a :class:`simplicit.Progress`, whose steps are the samples of all models and radii.

    Raises
    ------
    SimplicitError
        As :func:`simplicit.certify`; InputError for a number of samples that there is not.
    """
    begun = time.perf_counter()
    # In one dtype, so that none gives up more to rounding than the others.
    subjects = replace(
        subjects, members=tuple(replace(one, model=one.model.astype(np.float64)) for one in subjects.members)
    )
    data = subjects.data
    samples = choose_samples(data, settings.samples, settings.seed)
    radii = list(radii_of(settings.eps).values())
    meter = Meter(len(samples.labels) * len(radii) * len(subjects.members), progress)
    found: dict[str, Certificates] = {}
    attacked: dict[str, AttackResult] = {}
    for subject in subjects.members:
        found[subject.name] = certify(
            subject.model,
            samples.inputs,
            samples.labels,
            radii,
            clip=data.input_range,
            method=settings.method,
            steps=settings.steps,
            progress=meter.part(subject.name),
        )
        if settings.attack:
            meter.begin(f"{subject.name}: PGD")
            attacked[subject.name] = attack(
                subject.model,
                samples.inputs,
                samples.labels,
                radii,
                attacks=("pgd",),
                steps=STEPS,
                restarts=RESTARTS,
                clip=data.input_range,
                seed=settings.seed,
            )
    return CertifyRun(settings, subjects, samples, found, attacked, time.perf_counter() - begun)


def save_certify(
    run: CertifyRun,
    folder: Path,
    *,
    command: list[str] | None = None,
    overwrite: bool = False,
    draw: Callable[[CertifyRun, Path], None] | None = None,
) -> None:
    """Write ``certificates.json``, ``outcomes.npz``, ``run.json`` and, with `draw`, ``picture.png``.

    ``outcomes.npz`` holds, as arrays without pickles, ``places`` of the samples among the test samples, ``labels``,
    ``eps``, and for every model and bound the smallest margin of each sample, (radii, samples), certified where it is
    above 0: ``0/linear`` for the baseline, ``1/linear`` for the first run.

    Raises
    ------
    InputError
        `folder` exists and may not be replaced.
    DataError
        It cannot be written.
    """
    arrays: dict[str, Any] = {"places": run.samples.places, "labels": run.samples.labels}
    arrays["eps"] = np.array(list(radii_of(run.settings.eps).values()))
    for number, subject in enumerate(run.subjects.members):
        arrays[f"{number}/clean"] = run.found[subject.name].correct
        arrays |= {f"{number}/{name}": margins for name, margins in run.found[subject.name].margins.items()}
    with run_folder(folder, overwrite=overwrite, kind="certify", inputs=run.subjects.folders) as draft:
        write_json(draft / CERTIFICATES, run.results())
        np.savez_compressed(draft / OUTCOMES, **arrays)
        if draw is not None:
            draw(run, draft / PICTURE)
        Manifest(
            "certify",
            command=command or [],
            settings=vars(run.settings),
            inputs=run.subjects.inputs,
            seconds={"certificates": run.seconds},
            results={subject.name: run.found[subject.name].accuracy() for subject in run.subjects.members},
        ).write(draft)
