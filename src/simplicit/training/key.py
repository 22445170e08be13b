"""What decides a fit, as one hash: a journal of another fit is refused by it."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import torch

from simplicit.executors import digest
from simplicit.network.graph import NetworkGraph
from simplicit.training.options import FitOptions

__all__ = ["fit_key"]

#: Options that change nothing about the rows.
_NO_MATTER = ("penalty", "preset", "throw")


def fit_key(graph: NetworkGraph, inputs: Any, options: FitOptions, shape: tuple[int, int]) -> str:
    """The hash of the network as it was captured, the inputs and the options.

    The penalty counts by what it is on ``shape``, (rows, columns): a user's own may print as its place in memory.
    """
    parts: dict[str, Any] = {f"constant {name}": value.numpy() for name, value in graph.constants.items()}
    parts |= {"graph": str(graph.module.graph), "inputs": np.asarray(inputs)}
    penalty = options.penalty.pieces(*shape)
    for item in fields(penalty):
        value = getattr(penalty, item.name)
        parts[f"penalty {item.name}"] = value.cpu().numpy() if isinstance(value, torch.Tensor) else value
    return digest(
        parts | {item.name: getattr(options, item.name) for item in fields(options) if item.name not in _NO_MATTER}
    )
