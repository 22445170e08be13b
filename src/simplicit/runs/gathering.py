"""What the folders of finished runs say, gathered for a report: fits, attacks, certificates, and how fast they are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from simplicit.errors import DataError, InputError
from simplicit.files import read_json
from simplicit.implicit import ImplicitModel, load
from simplicit.report import SpeedLine, Table
from simplicit.runs.attacking import EXAMPLES, AttackRun
from simplicit.runs.bench.measuring import DOCUMENT, speed_lines
from simplicit.runs.bench.tables import speed_table, ways_table
from simplicit.runs.certifying import CertifyRun
from simplicit.runs.evaluate import parse_eps
from simplicit.runs.fitting import ROWS
from simplicit.runs.folder import MANIFEST, check_folders, kind_of, read_manifest
from simplicit.runs.measured import MeasuredRun
from simplicit.runs.networks import MODEL, NETWORK, model_hashes
from simplicit.runs.subjects import BASELINE

KINDS = ("fit", "attack", "certify", "bench")


@dataclass(frozen=True)
class LayerFacts:
    """A layer of a fit: the baseline's ``weights``, those that are not zero, and the relative squared ``error``."""

    weights: int
    non_zeros: int
    error: float

    @property
    def kept(self) -> float:
        """The share of its weights that it kept; 1 where it had none."""
        return self.non_zeros / self.weights if self.weights else 1.0

    @property
    def off(self) -> float:
        """How far its results are off, as a share of their norm."""
        return math.sqrt(max(self.error, 0.0))


@dataclass(frozen=True)
class FitFacts:
    """A folder of ``simplicit fit``: its settings and results, certificates of rows, and the model if it is there."""

    name: str
    settings: dict[str, Any]
    results: dict[str, Any]
    gaps: npt.NDArray[np.float64]
    model: ImplicitModel | None

    @property
    def sparsity(self) -> float:
        return float(self.results["sparsity"])

    @property
    def measures(self) -> dict[str, float] | None:
        """Of a fit on texts, its figures by the names of ``runs.hf.heads.MEASURES``."""
        found: dict[str, float] | None = self.results.get("measures")
        return found

    @property
    def layers(self) -> dict[str, LayerFacts]:
        """The layers as the network computes them, by its own names for them."""
        found = self.results["layers"]
        own = ["+".join(map(str, layer.get("modules") or [layer["name"]])) for layer in found]
        # Groups of states between which there is no weight, as of a recurrence, are of the same module.
        pairs = zip(own, found, strict=True)
        names = [name if own.count(name) == 1 else f"{name} ({layer['name']})" for name, layer in pairs]
        return {
            name: LayerFacts(int(layer["weights"]), int(layer["non_zeros"]), float(layer["error"]))
            for name, layer in zip(names, found, strict=True)
        }


@dataclass
class Measured:
    """One model at the radii of a list: accuracies in [0, 1], attacked or certified where they are known."""

    name: str
    sparsity: float
    clean: float
    attacked: list[float] | None = None
    certified: list[float] | None = None


@dataclass(frozen=True)
class Examples:
    """Attacked samples of a folder of ``simplicit attack``."""

    folder: str
    names: list[str]
    arrays: dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Speed:
    """What a folder of ``simplicit bench`` has: two tables, and the lines of a picture."""

    run: str
    tables: tuple[Table, Table]
    lines: list[SpeedLine]


@dataclass
class Gathered:
    """All that a report is made of.

    ``measured`` has, for every list of radii as they are written, the models by name, and ``samples`` the folder that
    had them first and the test samples that all are of; ``remarks`` says where each came from; ``attacked`` is whether
    attacks are among it, and ``findings`` are those of their checks.
    """

    fits: list[FitFacts] = field(default_factory=list)
    measured: dict[tuple[str, ...], dict[str, Measured]] = field(default_factory=dict)
    radii: dict[str, float] = field(default_factory=dict)
    examples: list[Examples] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    samples: dict[tuple[str, ...], tuple[Path, tuple[Any, ...]]] = field(default_factory=dict)
    attacked: bool = False
    findings: list[str] = field(default_factory=list)
    speeds: list[Speed] = field(default_factory=list)


def gather(folders: Sequence[Path]) -> Gathered:
    """Read folders of fits, attacks, certificates and speeds, in any order.

    InputError is raised for no folder, one twice, or one that another command wrote, DataError for what is missing or
    damaged.
    """
    check_folders(folders, *KINDS)
    found, hashes = Gathered(), {}
    kinds = {folder: _kind(folder) for folder in folders}
    for folder in (folder for folder, kind in kinds.items() if kind == "fit"):
        found.fits.append(_fit(folder))
        hashes[model_hashes(folder)["model.safetensors"]] = str(folder)
    for folder, kind in kinds.items():
        if kind == "bench":
            with _damage_of(folder):
                found.speeds.append(_speed(folder))
        elif kind != "fit":
            with _damage_of(folder):
                _add_measured(found, folder, kind, hashes)
    return found


def _kind(folder: Path) -> str:
    kind = kind_of(folder)
    if kind is not None and kind not in KINDS:
        what = "a report is made of folders of `simplicit fit`, `attack`, `certify` and `bench`"
        raise InputError(f"{folder}: written by `simplicit {kind}`; {what}")
    return str(read_manifest(folder, *KINDS)["kind"])


@contextmanager
def _damage_of(folder: Path) -> Iterator[None]:
    """Report entries that are missing or of another kind as damage of a folder."""
    try:
        yield
    except (KeyError, TypeError, ValueError, OSError, IndexError) as error:
        raise DataError(f"{folder}: damaged, an entry is missing or unreadable ({error!r})") from error


def _fit(folder: Path) -> FitFacts:
    with _damage_of(folder):
        manifest, rows = read_json(folder / MANIFEST), read_json(folder / ROWS)
        results = dict(manifest["results"])
        for name in ("sparsity", *(() if "measures" in results else ("accuracy", "baseline_accuracy"))):
            results[name] = float(results[name])
        model = load(folder) if (folder / MODEL[0]).is_file() or not (folder / NETWORK).is_dir() else None
        gaps = np.array([np.nan if gap is None else gap for gap in rows["relative_gap"]], dtype=np.float64)
        fit = FitFacts(str(folder), manifest["settings"], results, gaps, model)
        fit.layers  # noqa: B018 - damaged entries are told of here
        return fit


def _speed(folder: Path) -> Speed:
    document = read_json(folder / DOCUMENT)
    return Speed(str(document["run"]), (speed_table(document), ways_table(document)), speed_lines(document))


def _add_measured(found: Gathered, folder: Path, kind: str, hashes: dict[str, str]) -> None:
    """Put the accuracies of a folder of attacks or certificates beside those there are."""
    made_by: type[MeasuredRun] = AttackRun if kind == "attack" else CertifyRun
    document = read_json(folder / made_by.document)
    radii = tuple(map(str, document["eps"]))
    found.radii |= {text: parse_eps(text) for text in radii}
    _check_samples(found, folder, radii, document)
    names = dict(_names(folder, hashes))
    beside = found.measured.setdefault(radii, {})
    for model in document["models"]:
        name = names.get(model["name"], model["name"])
        one = beside.setdefault(name, Measured(name, float(model["sparsity"]), float(model["clean"])))
        if kind == "attack":
            one.attacked = [float(value) for value in model["worst"]]
            found.findings += [f"{name}: {finding}" for finding in model["findings"]]
        else:
            method = list(model["certified"])[-1]
            one.certified = [float(value) for value in model["certified"][method]]
            if one.attacked is None and model["attacked"] is not None:
                one.attacked = [float(value) for value in model["attacked"]]
    found.attacked |= kind == "attack"
    samples = f"{document['samples']:,} test samples of {document['data']}"
    found.remarks.append(f"{folder}: {made_by.title} on {samples}.")
    if kind == "attack" and (folder / EXAMPLES).is_file():
        with np.load(folder / EXAMPLES, allow_pickle=False) as arrays:
            shown = [names.get(model["name"], model["name"]) for model in document["models"]]
            found.examples.append(Examples(str(folder), shown, {name: arrays[name] for name in arrays.files}))


def _check_samples(found: Gathered, folder: Path, radii: tuple[str, ...], document: dict[str, Any]) -> None:
    """Refuse to put figures of different samples beside each other, as if bounds from two sides met."""
    samples = (document["data"], document["samples"], document["settings"].get("seed"))
    first, before = found.samples.setdefault(radii, (folder, samples))
    if samples != before:
        both = " and ".join(f"{one[1]:,} of {one[0]} (seed {one[2]})" for one in (before, samples))
        raise InputError(
            f"{folder}: at the same ε as {first}, but on other test samples, {both}; run both with the same --samples "
            "and --seed, or report them apart"
        )


def _names(folder: Path, hashes: dict[str, str]) -> Iterator[tuple[str, str]]:
    """From the name of a model in a folder to the fit of the same weights, if that is part of the report."""
    models = read_json(folder / MANIFEST)["inputs"].get("models", {})
    for name, files in models.items():
        if name != BASELINE and files.get("model.safetensors") in hashes:
            yield name, hashes[files["model.safetensors"]]
