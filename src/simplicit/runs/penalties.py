"""Penalties by name and numbers, as the command line and ``run.json`` have them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from simplicit.errors import InputError
from simplicit.rows import Penalty
from simplicit.rows.penalties import PENALTIES

__all__ = ["NUMBERS", "PARAMETERS", "make_penalty", "penalty_parameters", "scaled_penalty"]

#: The numbers that each penalty takes, with their defaults.
PARAMETERS: dict[str, dict[str, float]] = {
    name: {key: value for key, value in vars(penalty).items() if isinstance(value, float)}
    for name, penalty in PENALTIES.items()
}

#: All of them.
NUMBERS = tuple(sorted({key for numbers in PARAMETERS.values() for key in numbers}))


def penalty_parameters(name: str, given: Mapping[str, float | None]) -> dict[str, float]:
    """The numbers of a penalty: those given, and defaults for those that are None.

    Raises
    ------
    InputError
        An unknown penalty, or a number that it does not take.
    """
    if name not in PARAMETERS:
        raise InputError(f"penalty: {name!r} is unknown; choose one of {', '.join(PARAMETERS)}")
    takes = PARAMETERS[name]
    for key, value in given.items():
        if value is not None and key not in takes:
            others = [other for other, numbers in PARAMETERS.items() if key in numbers]
            raise InputError(
                f"{key}: the penalty {name!r} takes {' and '.join(takes) or 'no number'}; leave {key} out"
                + (f", or choose the penalty {' or '.join(map(repr, others))}" if others else "")
            )
    return takes | {key: value for key, value in given.items() if value is not None}


def make_penalty(name: str, given: Mapping[str, float | None]) -> Penalty:
    """The penalty with the numbers of :func:`penalty_parameters`.

    Raises
    ------
    InputError
        As there, or a number out of its range.
    """
    numbers = penalty_parameters(name, given)
    default: Any = PENALTIES[name]
    penalty: Penalty = dataclasses.replace(default, **numbers)
    penalty.pieces(1, 1)  # checks the ranges before any work is done
    return penalty


def scaled_penalty(name: str, numbers: Mapping[str, float], factor: float) -> tuple[Penalty, dict[str, float]]:
    """The penalty `factor`·h, and its numbers: every h is linear in them together."""
    scaled = {key: factor * value for key, value in numbers.items()}
    return make_penalty(name, scaled), scaled
