"""Subjects measured on the same samples at several radii: what attacks and certificates of runs have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from simplicit.checks import as_seed, refused
from simplicit.files import write_json
from simplicit.report import Bounds, can_draw, draw_robustness
from simplicit.robustness import AttackResult, Certificates
from simplicit.runs.evaluate import DEFAULT_EPS, parse_eps
from simplicit.runs.folder import Manifest, run_folder
from simplicit.runs.subjects import Samples, Subjects

OUTCOMES, PICTURE = "outcomes.npz", "picture.png"


@dataclass(frozen=True)
class MeasureSettings:
    """On what subjects are measured.

    Parameters
    ----------
    eps : tuple of str
        Radius of the box in ℓ∞, in units of the inputs; fractions such as 8/255 too. Repeat for several.
    samples : int, optional
        Test samples, drawn at random. Default: all.
    seed : int
        Of the samples drawn and of all attacks.
    """

    panel: ClassVar[str] = "Samples and radii"

    eps: tuple[str, ...] = DEFAULT_EPS
    samples: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        radii = self.radii
        if not radii:
            raise refused("eps", "name at least one radius")
        if len(set(radii.values())) < len(self.eps):
            raise refused("eps", f"{', '.join(self.eps)} names a radius twice")
        as_seed("seed", self.seed, bits=63)

    @property
    def radii(self) -> dict[str, float]:
        """Radii by how they are written, from the smallest to the largest."""
        radii = {text: parse_eps(text) for text in self.eps}
        return dict(sorted(radii.items(), key=lambda item: item[1]))


@dataclass(frozen=True)
class MeasuredRun(ABC):
    """Every subject has a result, by its name, on the same samples.

    A class for a kind of result says what there is to say of one subject; the documents and the folder are made here.
    ``kind`` is the command, ``title`` what its pictures show, ``document`` the name of the file with its figures.
    """

    kind: ClassVar[str]
    title: ClassVar[str]
    document: ClassVar[str]

    settings: MeasureSettings
    subjects: Subjects
    samples: Samples
    found: Mapping[str, AttackResult] | Mapping[str, Certificates]
    seconds: float

    @abstractmethod
    def figures(self, name: str) -> dict[str, Any]:
        """What the document says of one subject; accuracies are shares in [0, 1], one for each radius."""

    @abstractmethod
    def outcomes(self, name: str) -> Mapping[str, npt.NDArray[Any]]:
        """The arrays of one subject, (radii, samples)."""

    @abstractmethod
    def accuracies(self, name: str) -> dict[str, list[float]]:
        """What attacks leave (``attacked``) and what is proved (``certified``) of one subject at each radius."""

    def archives(self) -> Mapping[str, Mapping[str, npt.NDArray[Any]]]:
        """The arrays of further files of the folder, by their names."""
        return {}

    @property
    def packages(self) -> tuple[str, ...]:
        """What was needed besides the library, for the versions in the manifest."""
        return ()

    def results(self) -> dict[str, Any]:
        """The document; accuracies are shares in [0, 1], sparsity is in per cent."""
        models = []
        for subject in self.subjects.members:
            result = self.found[subject.name]
            facts = {"name": subject.name, "sparsity": subject.sparsity, "dtype": str(subject.model.dtype)}
            seconds = {name: round(seconds, 3) for name, seconds in result.seconds.items()}
            models.append(facts | {"clean": result.clean} | self.figures(subject.name) | {"seconds": seconds})
        return {
            "data": self.subjects.data.name,
            "samples": len(self.samples.labels),
            "eps": list(self.settings.radii),
            "settings": self.settings,
            "models": models,
        }

    def save(self, folder: Path, *, command: Sequence[str] = (), overwrite: bool = False) -> None:
        """Write the document, ``outcomes.npz``, ``run.json`` and, with the extra ``report``, ``picture.png``.

        ``outcomes.npz`` holds, as arrays without pickles, ``places`` of the samples among the test samples, ``labels``,
        ``eps``, and for every subject ``0/clean`` and its outcomes: ``0/…`` for the baseline, ``1/…`` for the first
        run.
        """
        arrays: dict[str, Any] = {"places": self.samples.places, "labels": self.samples.labels}
        arrays["eps"] = np.array(list(self.settings.radii.values()))
        for number, subject in enumerate(self.subjects.members):
            arrays[f"{number}/clean"] = self.found[subject.name].correct
            arrays |= {f"{number}/{name}": outcome for name, outcome in self.outcomes(subject.name).items()}
        with run_folder(folder, overwrite=overwrite, kind=self.kind, inputs=self.subjects.folders) as draft:
            write_json(draft / self.document, self.results())
            for name, content in ({OUTCOMES: arrays} | dict(self.archives())).items():
                np.savez_compressed(draft / name, **content)
            if can_draw():
                self._draw(draft / PICTURE)
            Manifest(
                self.kind,
                command=command,
                settings=vars(self.settings),
                inputs=self.subjects.inputs,
                seconds={self.kind: self.seconds},
                results={name: result.accuracy() for name, result in self.found.items()},
                packages=self.packages,
            ).write(draft)

    def _draw(self, path: Path) -> None:
        models = [Bounds(name, found.clean, **self.accuracies(name)) for name, found in self.found.items()]
        title = f"{self.subjects.data.name}: {self.title}, {len(self.samples.labels):,} samples"
        draw_robustness(path, [*self.settings.radii], models, title=title)
