"""Networks that are traced once and fitted often: tracing takes longer than to fit a small one."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

import simplicit as sp
from simplicit.network import Capture
from simplicit.network.graph import NetworkGraph, capture_graph
from simplicit.progress import OnProgress, listening
from simplicit.solve import RunOptions
from simplicit.training.channels import folded
from simplicit.training.recipes import Task
from simplicit.training.training import RowOptions

__all__ = ["Subject", "errors_of", "matrix", "mlp", "row_norm_of", "uniform"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Subject:
    """A network, which nobody may change, and samples of it."""

    net: nn.Module
    inputs: Any

    @cached_property
    def graph(self) -> NetworkGraph:
        return folded(capture_graph(self.net, self.inputs))

    @cached_property
    def captured(self) -> Capture:
        return Capture.of(self.graph)

    def fit(
        self,
        recipe: sp.training.Recipe | None = None,
        inputs: Any = None,
        *,
        executor: str | sp.executors.Executor = "serial",
        journal: str | PathLike[str] | None = None,
        progress: OnProgress | None = None,
        **rows: Any,
    ) -> sp.FitResult:
        """What :func:`simplicit.fit` returns, on other samples where they are given."""
        samples = self.inputs if inputs is None else inputs
        with listening(progress), RunOptions(executor, journal=journal, progress=progress).opened() as run:
            task = Task(self.graph, samples, RowOptions(**rows), run)
            recipe = sp.Sparse() if recipe is None else recipe
            return sp.FitResult.of(recipe, task, recipe.train(task))

    def outputs(self, inputs: Any) -> Array:
        """Of the network."""
        with torch.no_grad():
            result: Array = self.net(torch.as_tensor(inputs)).numpy()
        return result


def mlp(*sizes: int, bias: bool = True, activation: type[nn.Module] = nn.ReLU, seed: int = 0) -> nn.Sequential:
    """A network of linear layers in double precision, with seeded weights."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b, bias=bias), activation()]
    return nn.Sequential(*layers[:-1]).double().eval()


def uniform(m: int = 120, p: int = 12, seed: int = 1) -> Array:
    """Samples (m, p) between 0 and 1."""
    return np.random.default_rng(seed).random((m, p))


def matrix(model: sp.ImplicitModel) -> Array:
    """M, dense."""
    return np.asarray(model.matrix.toarray())


def errors_of(result: sp.FitResult) -> dict[str, float]:
    """The relative error of each layer, not squared."""
    return {layer.name: layer.error**0.5 for layer in result.layers}


def row_norm_of(result: sp.FitResult) -> float:
    """The largest row sum of |A|."""
    return float(abs(result.model.A).sum(axis=1).max(initial=0.0))
