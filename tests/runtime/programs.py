"""Small programs of blocks, and how they are written down in tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from simplicit.implicit.groups.program import Samples, Step, Value

X, Y = Value(0), Value(1)
M = Samples(1)


@dataclass(frozen=True)
class Case:
    """Steps, the shapes of the operands, constants, between which values the operands lie, and how they are shown."""

    steps: tuple[Step, ...]
    shapes: tuple[tuple[int, ...], ...] = ((3, 4),)
    constants: tuple[np.ndarray, ...] = ()
    span: tuple[float, float] = (-2.0, 2.0)

    @property
    def name(self) -> str:
        """Its operations."""
        return "-".join(step.operation for step in self.steps)


def case(
    *calls: Any,
    shapes: tuple[tuple[int, ...], ...] = ((3, 4),),
    constants: tuple[Any, ...] = (),
    span: tuple[float, float] = (-2.0, 2.0),
    **keywords: Any,
) -> Case:
    """One call, given as its name and arguments, or several as tuples; keywords are those of the last one."""
    several = calls if isinstance(calls[0], tuple) else (calls,)
    steps = [Step(name, tuple(rest)) for name, *rest in several]
    steps[-1] = Step(steps[-1].operation, steps[-1].arguments, tuple(keywords.items()))
    return Case(tuple(steps), shapes, tuple(np.asarray(one) for one in constants), span)


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


PAIR = ((3, 4), (3, 4))
IMAGE = ((4, 6, 6),)
TOKENS = ((2, 5, 4),) * 3  # heads, tokens, numbers
