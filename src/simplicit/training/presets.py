"""Options by name, for purposes that are common. A new preset is one entry here; options given beside it win."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import wraps
from numbers import Real
from typing import Any, ParamSpec, TypeVar

from simplicit.errors import InputError
from simplicit.rows.penalties import PENALTIES

__all__ = ["PRESETS", "Preset", "Shrinkage", "preset_of", "shrinkage_of", "with_preset"]

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Shrinkage:
    """``ridge`` and ``anchor`` of :func:`simplicit.fit`."""

    ridge: float = 1e-3
    anchor: float = 0.0


def _plain(_: float | None) -> Shrinkage:
    """The defaults."""
    return Shrinkage()


def _growing(sparsity: float | None) -> Shrinkage:
    """What few weights leave unexplained acts as noise, against which ridge is the remedy.

    An anchor of 0.8 keeps the most accuracy where few weights are left. Up to 60 % sparse 0.6 keeps as much, and is
    harder to attack: two points under PGD at 8/255 on Fashion-MNIST.
    """
    if sparsity is None:
        return Shrinkage(1e-3, anchor=0.8)
    return Shrinkage(0.01 / math.sqrt(1 - sparsity / 100), anchor=min(0.8, max(0.6, sparsity / 100)))


def _steady(_: float | None) -> Shrinkage:
    """A million patches say enough of their noise; where they say nothing the baseline knows best."""
    return Shrinkage(0.01, anchor=1.0)


@dataclass(frozen=True)
class Preset:
    """Options of :func:`simplicit.fit`.

    Attributes
    ----------
    about : str
        For ``--help`` and the summary.
    penalty : str
        A name in ``PENALTIES``.
    numbers : mapping
        That the penalty takes.
    options : mapping
        The other options.
    shrinkage, tied_shrinkage : callable
        What suits a wanted sparsity in per cent, or none: for rows of single states, and for rows that are tied.
    """

    about: str
    penalty: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    shrinkage: Callable[[float | None], Shrinkage] = _plain
    tied_shrinkage: Callable[[float | None], Shrinkage] = _plain

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """As :func:`simplicit.fit` takes them, with those that are given."""
        default: Any = PENALTIES[self.penalty]
        return {"penalty": replace(default, **self.numbers), **self.options, **given}

    def settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """As plain values: the penalty by its name and numbers, which stay away where another one is given."""
        other = given.get("penalty", self.penalty) != self.penalty
        return {**({} if other else {"penalty": self.penalty, **self.numbers}), **self.options, **given}


#: The presets by name.
PRESETS: dict[str, Preset] = {
    "sparse": Preset(
        "the most accurate model at a given number of weights",
        penalty="none",  # every admissible column is a candidate for the refinement
        options={
            "structure": "baseline",
            "kappa": None,  # a triangular A is well-posed without
            "sparsity": 80.0,
            "propagate": True,
            "refine": True,
            "refit": True,
        },
        shrinkage=_growing,
        tied_shrinkage=_steady,
    ),
    "robust": Preset(
        "as accurate as the baseline within a point or so, much harder to attack, and sparse",
        penalty="l1",
        numbers={"beta": 1.3e-3},
        options={
            "lambda1": 1.0,
            "lambda2": 1.0,
            "kappa": None,  # a triangular A is well-posed without
            "structure": "baseline",
            "robust": True,
            "later": 1.0,
            "attacks": 1,
            "attack_eps": 3 / 255,
        },
    ),
    "certified": Preset(
        "the largest accuracy that can be proved at 8/255, for two points of clean accuracy",
        penalty="l1",
        numbers={"beta": 1.5e-3},
        options={
            "lambda1": 1.0,
            "lambda2": 1.0,
            "kappa": None,
            "structure": "baseline",
            "robust": True,
            "later": 3.0,
            "attacks": 4,
            "attack_eps": 6 / 255,
        },
    ),
    "paper": Preset(
        "(11) to the letter, as in Table 3 of the paper",
        penalty="l1",
        numbers={"beta": 1e-3},
        options={
            "lambda1": 0.1,
            "lambda2": 0.1,
            "kappa": 0.99,
            "structure": "dense",
            "normalize": "none",
            "regenerate": False,
        },
    ),
}


def preset_of(name: Any) -> Preset:
    """The preset of that name.

    Raises
    ------
    InputError
        If it is unknown.
    """
    if not isinstance(name, str) or name not in PRESETS:
        raise InputError(f"preset: {name!r} is unknown; choose one of {', '.join(map(repr, PRESETS))}")
    return PRESETS[name]


def shrinkage_of(
    preset: str | None, sparsity: Any, ridge: float | None, anchor: float | None, *, tied: bool
) -> Shrinkage:
    """``ridge`` and ``anchor``: as they are given, or else what suits the rows under a preset or without."""
    suited = Shrinkage()
    if preset is not None:
        chosen = preset_of(preset)
        wanted = float(sparsity) if isinstance(sparsity, Real) else math.nan  # what is no number is refused elsewhere
        suited = (chosen.tied_shrinkage if tied else chosen.shrinkage)(wanted if 0 <= wanted < 100 else None)
    return Shrinkage(suited.ridge if ridge is None else ridge, suited.anchor if anchor is None else anchor)


def with_preset(function: Callable[P, R]) -> Callable[P, R]:
    """A function whose ``preset`` stands for options that its caller did not give."""

    @wraps(function)
    def called(*args: P.args, **given: P.kwargs) -> R:
        if given.get("preset") is None:
            return function(*args, **given)
        # A penalty of None is none given, as without a preset.
        told = {name: value for name, value in given.items() if name != "penalty" or value is not None}
        chosen: Any = preset_of(given["preset"]).arguments(told)
        return function(*args, **chosen)

    called.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return called
