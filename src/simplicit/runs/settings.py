"""Everything that decides a fit, and where a repeated run finds it again."""

from __future__ import annotations

import dataclasses
import os
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simplicit.checks import as_seed
from simplicit.data import DATASETS
from simplicit.errors import DataError, InputError
from simplicit.files import read_json
from simplicit.rows import Penalty
from simplicit.runs.executors import executor_of
from simplicit.runs.folder import MANIFEST, check_manifest, read_manifest, relative_to
from simplicit.runs.penalties import make_penalty, penalty_parameters
from simplicit.training import preset_of

__all__ = ["FitSettings", "read_config", "read_fit", "tied_weights"]

_PATHS = ("baseline", "weights", "data", "data_dir")


@dataclass(frozen=True)
class FitSettings:
    """What `simplicit fit` is told. The mathematics is that of :func:`simplicit.fit`.

    Parameters
    ----------
    baseline : str, optional
        Folder that ``simplicit baseline`` wrote; or else
    model, weights : str, optional
        ``package.module:factory`` and a file of weights, or only a file ``.pt2``.
    input_shape : tuple of int, optional
        Shape of one sample as the network takes it; default: flat.
    data : str, optional
        Data set or path; default: the baseline's own.
    data_dir : str, optional
        Where the files of a named data set are.
    samples : int
        Number of training samples, drawn at random by `seed`.
    penalty : str
        A name in ``simplicit.rows.penalties.PENALTIES``.
    beta, alpha, gamma : float, optional
        The numbers that the penalty takes; its own defaults where they are None.
    states : str
        ``all``, ``blocks``, or names of groups of states, separated by commas.
    lambda1, lambda2, kappa, structure, normalize, sparsity, rounds, propagate, refine, refit, ridge, anchor,
    regenerate, robust, later, attacks, attack_eps, preset, tol, executor, workers, block_rows, ray_address,
    block_timeout, throw
        As in :func:`simplicit.fit`; what `preset` stands for is in the other settings already, but for `ridge` and
        `anchor`, which depend on the network: where they are None, a run's figures have those that were used.
    """

    baseline: str | None = None
    model: str | None = None
    weights: str | None = None
    input_shape: tuple[int, ...] | None = None
    data: str | None = None
    data_dir: str | None = None
    samples: int = 1000
    seed: int = 0
    lambda1: float = 0.1
    lambda2: float = 0.1
    penalty: str = "l1"
    beta: float | None = None
    alpha: float | None = None
    gamma: float | None = None
    kappa: float | None = 0.99
    structure: str = "baseline"
    states: str = "all"
    normalize: str = "targets"
    sparsity: float | None = None
    rounds: int = 1
    propagate: bool = False
    refine: bool = False
    refit: bool = False
    ridge: float | None = None
    anchor: float | None = None
    regenerate: bool = True
    robust: bool = False
    later: float = 1.0
    attacks: int = 4
    attack_eps: float = 4 / 255
    preset: str | None = None
    tol: float = 1e-6
    executor: str = "threads"
    workers: int | None = None
    block_rows: int | None = None
    ray_address: str | None = None
    block_timeout: float | None = None
    throw: bool = True

    def __post_init__(self) -> None:
        if (self.baseline is None) == (self.model is None and self.weights is None):
            raise InputError(
                "name one network: the folder of a baseline, or --model package.module:factory with --weights FILE"
            )
        if self.baseline is None and self.data is None:
            raise InputError("a network of your own needs --data, the data set that it was trained on")
        if self.samples < 1:
            raise InputError(f"samples must be at least 1, got {self.samples}")
        if self.seed < 0:
            raise InputError(f"seed must not be negative, got {self.seed}")
        if self.preset is not None:
            preset_of(self.preset)
        as_seed("seed", self.seed)
        executor_of(self.executor, self.workers, self.ray_address, self.block_timeout)
        self.make_penalty()

    @property
    def chosen_states(self) -> str | tuple[str, ...]:
        """``states`` as :func:`simplicit.fit` takes it."""
        if self.states in ("all", "blocks"):
            return self.states
        return tuple(name.strip() for name in self.states.split(","))

    @property
    def _numbers(self) -> dict[str, float | None]:
        return {"beta": self.beta, "alpha": self.alpha, "gamma": self.gamma}

    def make_penalty(self) -> Penalty:
        """The penalty named, with its numbers.

        Raises
        ------
        InputError
            An unknown name, a number that it does not take or that is out of range.
        """
        return make_penalty(self.penalty, self._numbers)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], where: str) -> FitSettings:
        """Settings from untyped values; errors name `where` they came from. A preset stands for those not given.

        Raises
        ------
        InputError
            An unknown name or preset, or a value of the wrong type.
        """
        if values.get("preset") is not None:
            values = preset_of(values["preset"]).settings(values)
        hints = typing.get_type_hints(cls)
        known: dict[str, Any] = {}
        for name, value in values.items():
            if name not in hints:
                raise InputError(f"{where}: unknown setting {name!r}; known are {', '.join(hints)}")
            known[name] = _typed(value, hints[name], f"{where}: {name}")
        return cls(**known)

    def to_config(self, folder: Path) -> dict[str, Any]:
        """Plain values for ``run.json`` in `folder`, paths as seen from there."""
        values = dataclasses.asdict(self) | penalty_parameters(self.penalty, self._numbers)
        for name in _PATHS:
            if values[name] is not None and not _is_name(name, values[name]):
                values[name] = relative_to(Path(values[name]), folder)
        return values


def read_config(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of an earlier run, or from a TOML file, and the hashes of what that run read.

    Parameters
    ----------
    path : Path
        A ``run.json``, the folder that holds one, or a ``.toml`` file with the names of :class:`FitSettings` as keys.
        Paths in it are relative to its own folder.

    Returns
    -------
    settings, inputs : dict
        `inputs` is empty for TOML.

    Raises
    ------
    DataError
        The file is missing, damaged, or not of a fit.
    """
    path = path / MANIFEST if path.is_dir() else path
    if path.suffix == ".toml":
        try:
            settings, inputs = tomllib.loads(path.read_text(encoding="utf-8")), {}
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise DataError(f"{path}: damaged, not a TOML document ({error})") from error
    else:
        manifest = read_json(path)
        check_manifest(manifest, "fit", path)
        settings, inputs = dict(manifest["settings"]), manifest["inputs"]
    for name in _PATHS:
        value = settings.get(name)
        if isinstance(value, str) and not _is_name(name, value):
            settings[name] = os.path.normpath(path.parent / value)
    return settings, inputs


def _is_name(key: str, value: str) -> bool:
    return key == "data" and value in DATASETS


def _typed(value: Any, hint: Any, where: str) -> Any:
    """`value` as the type that `hint` asks for: a scalar, a tuple of integers, or one of them or None."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in options:
        return None
    wanted = options[0]
    if typing.get_origin(wanted) is tuple:
        if isinstance(value, list | tuple) and all(type(item) is int and item > 0 for item in value):
            return tuple(value)
    elif type(value) is wanted:
        return value
    elif wanted is float and type(value) is int:
        return float(value)
    name = "list of positive int" if typing.get_origin(wanted) is tuple else wanted.__name__
    raise InputError(f"{where} must be {name}, got {value!r}")


def read_fit(
    folder: Path, *, baseline: Path | None = None, data: str | None = None, data_dir: Path | None = None
) -> FitSettings:
    """The settings of a finished fit, with another baseline or other data where they are given.

    Raises
    ------
    DataError
        `folder` is not of a fit, or is damaged.
    """
    read_manifest(folder, "fit")
    values, _ = read_config(folder)
    if baseline is not None:
        values |= {"baseline": str(baseline), "model": None, "weights": None}
    if data is not None:
        values["data"] = data
    if data_dir is not None:
        values["data_dir"] = str(data_dir)
    return FitSettings.from_mapping(values, str(folder / MANIFEST))


def tied_weights(folder: Path) -> tuple[int, int] | None:
    """After a fit with tied rows, where a weight stands at many places of M: how many are not zero, and N₀; else None.

    Raises
    ------
    DataError
        `folder` is not of a fit, or is damaged.
    """
    results = read_manifest(folder, "fit").get("results")
    if not isinstance(results, Mapping) or not results.get("tied"):
        return None
    counts: list[int] = []
    for name in ("non_zeros", "baseline_weights"):
        count = results.get(name)
        if type(count) is not int or count < 0:
            raise DataError(f"{folder / MANIFEST}: damaged, its results have no number of {name!r}")
        counts.append(count)
    return counts[0], counts[1]
