"""Finished runs with certificates, the baseline beside them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from simplicit.checks import as_count, check_choice, named
from simplicit.progress import OnProgress, listening, phase
from simplicit.robustness import METHODS, AttackResult, Certificates, attack, certify
from simplicit.runs.measured import MeasuredRun, MeasureSettings
from simplicit.runs.subjects import Subjects, choose_samples

#: How the attack beside the certificates runs.
STEPS, RESTARTS = 50, 5


@dataclass(frozen=True)
class CertifySettings(MeasureSettings):
    """The settings of ``simplicit certify`` besides samples and radii; see :func:`simplicit.certify`.

    Parameters
    ----------
    method : str
        The tightest bound: global, one for all samples alike; interval, intervals through the equilibrium; linear,
        linear relaxation.
    steps : int
        Gradient steps on the slopes of the linear relaxation; 20 certify about a point more and take 60 times as long.
    attack : bool
        Run PGD beside: the truth lies between what is proved and what is broken.
    """

    panel: ClassVar[str] = "Bounds"

    method: str = field(default="linear", metadata=named(METHODS))
    steps: int = 0
    attack: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("method", self.method, METHODS)
        as_count("steps", self.steps, minimum=0)


@dataclass(frozen=True)
class CertifyRun(MeasuredRun):
    """Certified subjects, with an attack on each by its name, if one was asked for.

    The outcomes are for every bound the smallest margin of each sample, certified where it is above 0: ``1/linear`` for
    the first run.
    """

    kind, document, title = "certify", "certificates.json", "certified accuracy"

    settings: CertifySettings
    found: dict[str, Certificates]
    attacked: dict[str, AttackResult]

    def figures(self, name: str) -> dict[str, Any]:
        """Accuracies certified by each bound, and what PGD left."""
        found, attacked = self.found[name], self.attacked.get(name)
        return {
            "certified": {method: found.accuracy(method) for method in found.margins},
            "attacked": None if attacked is None else attacked.accuracy(),
        }

    def outcomes(self, name: str) -> Mapping[str, npt.NDArray[Any]]:
        """For each bound the smallest margins."""
        return self.found[name].margins

    def accuracies(self, name: str) -> dict[str, list[float]]:
        attacked = {"attacked": self.attacked[name].accuracy().tolist()} if name in self.attacked else {}
        return {"certified": self.found[name].accuracy().tolist()} | attacked


def run_certify(subjects: Subjects, settings: CertifySettings, *, progress: OnProgress | None = None) -> CertifyRun:
    """Certify all subjects on the same samples, each as it is evaluated in float64; see :func:`simplicit.certify`.

    The steps of `progress` are the samples of all models and radii.
    """
    begun = time.perf_counter()
    # In one dtype, so that none gives up more to rounding than the others.
    members = tuple(replace(one, model=one.model.astype(np.float64)) for one in subjects.members)
    subjects, data = replace(subjects, members=members), subjects.data
    samples, radii = choose_samples(data, settings.samples, settings.seed), list(settings.radii.values())
    found: dict[str, Certificates] = {}
    attacked: dict[str, AttackResult] = {}
    total = len(samples.labels) * len(radii) * len(members)
    with listening(progress), phase("certifying", total, by_parts=True) as meter:
        for subject in members:
            task = subject.model, samples.inputs, samples.labels, radii
            meter.begin(f"certifying {subject.name}")
            found[subject.name] = certify(*task, clip=data.input_range, method=settings.method, steps=settings.steps)
            if settings.attack:
                with phase(f"PGD on {subject.name}"):
                    attacked[subject.name] = attack(
                        *task, attacks="pgd", steps=STEPS, restarts=RESTARTS, clip=data.input_range, seed=settings.seed
                    )
    seconds = time.perf_counter() - begun
    return CertifyRun(settings, subjects, samples, found, seconds, attacked)
