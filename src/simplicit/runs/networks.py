"""Networks at work: as they are evaluated, and a finished fit's own, with the implicit model that is made of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from simplicit.errors import DataError, InputError
from simplicit.files import file_hash
from simplicit.implicit import ImplicitModel, load
from simplicit.implicit.inputs import InputLayout
from simplicit.network import NetworkGraph, from_torch
from simplicit.network.outputs import chosen
from simplicit.network.prepare import evaluation_copy, in_single_precision
from simplicit.progress import counted
from simplicit.runs.folder import MANIFEST, read_manifest
from simplicit.runs.hf.folder import load_pretrained

#: The state_dict of a network with its new weights, where it can take them.
WEIGHTS = "weights.safetensors"
#: The folder of a network of ``--hf`` in that of its run, and the files of a model, where there is one.
NETWORK, MODEL = "network", ("config.json", "model.safetensors")
_BATCH = 256


def evaluated(net: nn.Module) -> nn.Module:
    """A copy of a network in evaluation mode, which computes in float32 where its weights are narrower."""
    network = evaluation_copy(net)
    in_single_precision(network)
    return network


def classes_of(net: nn.Module, inputs: Tensor, output: str | None = None) -> npt.NDArray[np.int64]:
    """The classes (m,) that a network gives to samples: the places of the largest numbers of an output laid flat."""
    network, found = evaluated(net), list[Tensor]()
    dtype = next((value.dtype for value in network.parameters()), inputs.dtype)
    starts = range(0, len(inputs), _BATCH)
    for part in (inputs[start : start + _BATCH] for start in counted(starts, "test samples", len(starts))):
        with torch.no_grad():
            returned = network(part.to(dtype) if part.is_floating_point() else part)
        found.append(chosen(returned, output, len(part)).of(returned).reshape(len(part), -1).argmax(1))
    classes: npt.NDArray[np.int64] = torch.cat(found).numpy()
    return classes


@dataclass(frozen=True)
class CallRecord:
    """How a network was called when it was fitted, and which output was matched, for ``run.json``."""

    layout: InputLayout
    alone: bool
    output: str

    @classmethod
    def of(cls, graph: NetworkGraph) -> CallRecord:
        """That of a graph."""
        return cls(graph.layout, graph.call.alone, graph.output_name)

    def to_config(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {"inputs": self.layout.to_config(), "alone": self.alone, "output": self.output}

    @classmethod
    def from_config(cls, config: Any) -> CallRecord:
        """What :meth:`to_config` described; InputError, KeyError or TypeError for anything else."""
        return cls(InputLayout.from_config(config["inputs"]), bool(config["alone"]), str(config["output"]))

    def example(self) -> Any:
        """Two samples of this form: numbers 0 to 1, ids of 0, and masks of 1 but for the last token."""
        arrays: dict[str, Any] = {}
        for spec in self.layout.specs:
            values = torch.zeros(2, *spec.shape)
            if spec.floating:
                values = torch.linspace(0, 1, 2 * math.prod(spec.shape)).reshape(2, *spec.shape)
            elif "mask" in spec.name:
                values[:, :-1] = 1
            arrays[spec.name] = values if spec.floating else values.to(getattr(torch, spec.dtype))
        return next(iter(arrays.values())) if self.alone else arrays | dict(self.layout.constants)


def open_model(run: Path) -> ImplicitModel:
    """The implicit model of a finished fit: as it was written, or captured from the network that was.

    DataError is raised where files are missing or damaged; what :func:`simplicit.from_torch` refuses is refused here.
    """
    if not _made_when_needed(run):
        return load(run)
    results = read_manifest(run, "fit").get("results")
    try:
        call = CallRecord.from_config(results["call"] if isinstance(results, Mapping) else None)
    except (KeyError, TypeError, InputError) as error:
        raise DataError(f"{run / MANIFEST}: damaged, its results do not say how the network is called") from error
    return from_torch(load_pretrained(run / NETWORK), call.example(), output=call.output)


def model_hashes(run: Path) -> dict[str, str]:
    """The hashes of the files that :func:`open_model` reads."""
    if not _made_when_needed(run):
        return {name: file_hash(run / name) for name in MODEL}
    files = [run / NETWORK / MODEL[0], *sorted((run / NETWORK).glob("*.safetensors"))]
    return {path.name: file_hash(path) for path in files if path.is_file()}


def _made_when_needed(run: Path) -> bool:
    return (run / NETWORK).is_dir() and not (run / MODEL[0]).is_file()
