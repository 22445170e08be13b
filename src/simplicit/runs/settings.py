"""Everything that decides a fit, and where a repeated run finds it again."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from simplicit.checks import as_count, as_seed, named, refused, spelled
from simplicit.data import DATASETS
from simplicit.errors import DataError, InputError
from simplicit.files import read_json
from simplicit.runs.folder import MANIFEST, check_manifest, read_manifest, relative_to
from simplicit.runs.options import flat, options_of, read_values, restored
from simplicit.runs.running import Running
from simplicit.training import Recipe, Sparse

#: Training samples of a fit that asks for no number.
SAMPLES = 1000
#: Settings of a network that stand for each other: where one is given, none of another run is kept.
_NETWORK = ("baseline", "model", "weights", "own_weights", "hf", "input_shape")
#: The same of samples: texts go with ``hf`` alone.
_TEXTS = ("texts", "test_texts", "labels", "length")


def parse_shape(text: str) -> tuple[int, ...]:
    """``"1x28x28"`` to ``(1, 28, 28)``; InputError for anything but positive integers joined by x."""
    parts = text.split("x")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise refused("input_shape", f"expected positive sizes joined by x, such as 1x28x28, got {text!r}")
    return tuple(int(part) for part in parts)


@dataclass(frozen=True)
class Source:
    """A trained network and the data that it is fitted and measured on.

    Parameters
    ----------
    baseline : Path, optional
        Folder that `simplicit baseline` wrote.
    model : str, optional
        A network of your own, MODULE:FACTORY: import this and call it; the current directory is searched too.
    weights : Path, optional
        Its weights: .safetensors, a checkpoint that torch.load(weights_only=True) reads, or a folder of simplicit.save
        or `simplicit export`; or a .pt2 program.
    own_weights : bool
        Without --weights: the factory of --model gives the network its trained weights itself.
    hf : Path, optional
        A Hugging Face folder: config.json, safetensors and, for --texts, a tokenizer; its code is never run. Needs the
        extra `hf`.
    texts : Path, optional
        A file with one text a line for the network of --hf to be fitted on; the last one in five is held out to measure
        on, unless there are --test-texts.
    test_texts : Path, optional
        A file with the texts to measure on.
    labels : Path, optional
        The classes of all texts that are measured on, one a line, numbers or the network's own names for them: of
        --test-texts, or of the last ones of --texts. Without them a classifier has its agreement alone.
    length : int, optional
        Tokens of a text: longer ones are cut off, shorter ones filled up, under a mask. Default: as the longest text
        has, up to what the network takes.
    input_shape : tuple of int, optional
        Shape of one sample as the network takes it, such as 1x28x28. Default: flat, or the data's own where the network
        takes only that.
    data : str, optional
        A data set by its name, or a folder or .npz file. Default: the baseline's own.
    data_dir : Path, optional
        Folder with the files of a named data set. Default: $SIMPLICIT_DATA, else they are downloaded.
    """

    panel: ClassVar[str] = "Network and data"
    arguments: ClassVar[tuple[str, ...]] = ("baseline",)

    baseline: Path | None = None
    model: str | None = None
    weights: Path | None = None
    own_weights: bool = False
    hf: Path | None = None
    texts: Path | None = None
    test_texts: Path | None = None
    labels: Path | None = None
    length: int | None = None
    input_shape: tuple[int, ...] | None = field(default=None, metadata=spelled(parse_shape, "x"))
    data: str | None = field(default=None, metadata=named(DATASETS))
    data_dir: Path | None = None

    def __post_init__(self) -> None:
        own = self.model is not None or self.weights is not None
        if [self.baseline is not None, own, self.hf is not None].count(True) != 1:
            raise InputError(
                "name one network: the folder of a baseline, --model package.module:factory with --weights FILE, or "
                "--hf FOLDER"
            )
        for name in _TEXTS[1:]:
            if getattr(self, name) is not None and self.texts is None:
                raise refused(name, "goes with --texts, a file of texts for the network of --hf")
        if self.length is not None:
            as_count("length", self.length, minimum=2)
        if self.texts is not None:
            if self.hf is None:
                raise refused("texts", "need a network with a tokenizer; name its folder with --hf", self.texts)
            for name in ("data", "data_dir", "input_shape"):
                if getattr(self, name) is not None:
                    raise refused(name, "texts are the samples already; leave it or --texts out")
        elif self.baseline is None and self.data is None:
            if self.hf is not None:
                raise InputError("a network of --hf needs --texts, a file with one text a line, or --data")
            raise InputError("a network of your own needs --data, the data set that it was trained on")
        self._check_weights()

    def _check_weights(self) -> None:
        """A factory makes random weights as a rule, so of one without a file it has to be said that it does not."""
        if self.own_weights and (self.model is None or self.weights is not None):
            raise refused("own_weights", "goes with --model alone, whose factory gives the network its weights")
        if self.model is not None and self.weights is None and not self.own_weights:
            what = f"none are named, so those that {self.model} makes would be used, as a rule random ones"
            remedy = "name the file with --weights, or say --own-weights if it makes trained ones"
            raise refused("weights", f"{what}; {remedy}")

    @property
    def paths(self) -> list[Path]:
        """The files and folders that are named."""
        texts = (self.texts, self.test_texts, self.labels)
        named = (self.baseline, self.weights, self.hf, *texts, self.data, self.data_dir)
        return [Path(name) for name in named if name is not None and name not in DATASETS]


@dataclass(frozen=True)
class FitSettings:
    """The settings of `simplicit fit`.

    Parameters
    ----------
    source : Source
    samples : int, optional
        Training samples, drawn at random; labels are not used. Default: 1,000, or all if there are fewer.
    seed : int
        Seed of that draw.
    recipe : Recipe
        What is made of the network: sparse, the most accurate network at a given number of weights; structured, whole
        neurons, channels and heads are dropped; robust, much harder to attack; certified, the largest provable
        accuracy. matching is the paper's convex problem (7) under a penalty, and paper its (11) to the letter: what the
        paper does, with less accuracy at the same sparsity. `--recipe NAME --help` lists the options of one.
    running : Running
    """

    panel: ClassVar[str] = "Fit"

    source: Source
    samples: int | None = None
    seed: int = 0
    recipe: Recipe = field(default_factory=Sparse)
    running: Running = Running()  # noqa: RUF009 - it is frozen

    def __post_init__(self) -> None:
        if self.samples is not None:
            as_count("samples", self.samples)
        as_seed("seed", self.seed)

    def to_config(self, folder: Path) -> dict[str, Any]:
        """Plain values for ``run.json`` in `folder`, paths as seen from there."""
        values = flat(self)
        for name in _path_names():
            if values[name] is not None and values[name] not in DATASETS:
                values[name] = relative_to(Path(values[name]), folder)
        return values


def _path_names() -> list[str]:
    """The settings that are paths; data may be one."""
    return [*(option.name for option in options_of(Source, {}) if option.is_path), "data"]


def read_settings(path: Path) -> dict[str, Any]:
    """The settings of an earlier run, or from a TOML file, in their types.

    `path` is a ``run.json``, the folder that holds one, or a ``.toml`` file with the flat names of :class:`FitSettings`
    as keys. Paths in it are relative to its own folder. DataError is raised for a file that is missing, damaged, or not
    of a fit, and for a setting that is unknown or of another type.
    """
    values = _recorded_values(path)
    try:
        found = read_values(FitSettings, values)
    except (TypeError, InputError) as error:
        raise DataError(f"{path}: {error}") from error
    unknown = next((name for name in values if name not in found), None)
    if unknown is not None:
        raise DataError(f"{path}: unknown setting {unknown!r}")
    return found


def recorded_inputs(path: Path) -> dict[str, Any]:
    """What an earlier run read, with hashes, from the same files as :func:`read_settings`; nothing for TOML."""
    return {} if path.suffix == ".toml" else dict(_fit_manifest(path)["inputs"])


def _recorded_values(path: Path) -> dict[str, Any]:
    """Plain settings, with paths as seen from here."""
    if path.suffix == ".toml":
        try:
            settings = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise DataError(f"{path}: damaged, not a TOML document ({error})") from error
    else:
        settings = dict(_fit_manifest(path)["settings"])
    folder = path if path.is_dir() else path.parent
    for name in _path_names():
        value = settings.get(name)
        if isinstance(value, str) and value not in DATASETS:
            settings[name] = os.path.normpath(folder / value)
    return settings


def _fit_manifest(path: Path) -> dict[str, Any]:
    path = path / MANIFEST if path.is_dir() else path
    manifest = read_json(path)
    check_manifest(manifest, path, "fit")
    return manifest


def kept_of(recorded: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an earlier run, less those that others replace as a whole.

    Another network replaces all that is said of the recorded one; another recipe, penalty or executor replaces the
    options of the recorded one; a setting of what was off switches it on, and what is switched off has none.
    """
    if not recorded:
        return {}
    gone: set[str] = set(_NETWORK) if given.keys() & set(_NETWORK) else set()
    if given.keys() & {"data", "baseline", "model", "weights"}:
        gone |= {*_TEXTS}
    if "texts" in given:
        gone |= {*_TEXTS, "data", "data_dir"}
    for option in options_of(FitSettings, recorded):
        before = recorded.get(option.name)
        if option.registry is not None and before is not None and given.get(option.name, before) != before:
            gone |= {inner.name for inner in options_of(option.registry[before], recorded)}
        if option.switches is not None:
            inside = {inner.name for inner in options_of(option.switches, {})}
            gone |= inside if given.get(option.name) is False else {option.name} if inside & given.keys() else set()
    return {name: value for name, value in recorded.items() if name not in gone}


def read_source(
    folder: Path,
    *,
    baseline: Path | None = None,
    data: str | None = None,
    data_dir: Path | None = None,
    test_texts: Path | None = None,
    labels: Path | None = None,
) -> Source:
    """What a finished fit was made from, with another baseline, other data or other test texts where they are given.

    Labels of the texts of the fit are not those of others.
    """
    read_manifest(folder, "fit")
    values = _recorded_values(folder)
    try:
        source: Source = restored(Source, values)
    except TypeError as error:
        raise DataError(f"{folder / MANIFEST}: damaged, {error}") from error
    others: dict[str, Any] = dict.fromkeys(("model", "weights", "hf", *_TEXTS)) | {"own_weights": False}
    changed: dict[str, Any] = {} if baseline is None else others | {"baseline": baseline}
    changed |= {} if data is None else {"data": data}
    changed |= {} if data_dir is None else {"data_dir": data_dir}
    changed |= {} if test_texts is None else {"test_texts": test_texts, "labels": None}
    changed |= {} if labels is None else {"labels": labels}
    return replace(source, **changed)
