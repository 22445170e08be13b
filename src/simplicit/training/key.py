"""What decides a fit, as one hash: a journal of another fit is refused by it."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch

from simplicit.baseline.graph import NetworkGraph
from simplicit.executors import digest
from simplicit.training.options import FitOptions

__all__ = ["fit_key"]

#: Options that change nothing about the rows.
_NO_MATTER = ("penalty", "preset", "throw")


def fit_key(graph: NetworkGraph, inputs: Any, options: FitOptions) -> str:
    """The hash of the network as it was captured, the inputs and the options."""
    parts: dict[str, Any] = {f"constant {name}": value.numpy() for name, value in graph.constants.items()}
    parts |= {"graph": str(graph.module.graph), "inputs": np.asarray(inputs), "penalty": repr(options.penalty)}
    if is_dataclass(options.penalty):  # arrays are shortened where they are printed
        values = {item.name: getattr(options.penalty, item.name) for item in fields(options.penalty)}
        arrays = {name: value for name, value in values.items() if isinstance(value, torch.Tensor | np.ndarray)}
        parts |= {f"penalty {name}": np.asarray(value) for name, value in arrays.items()}
    return digest(
        parts | {item.name: getattr(options, item.name) for item in fields(options) if item.name not in _NO_MATTER}
    )
