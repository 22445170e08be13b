"""The network of a finished run with samples to call it with, as many as a batch has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from simplicit.checks import refused
from simplicit.errors import first_line
from simplicit.implicit import ImplicitModel
from simplicit.network.outputs import chosen
from simplicit.network.prepare import evaluation_copy
from simplicit.runs.exporting import check_weights
from simplicit.runs.fitting import capture_task
from simplicit.runs.folder import read_manifest
from simplicit.runs.hf.folder import load_pretrained
from simplicit.runs.hf.task import reopened_texts
from simplicit.runs.networks import NETWORK, WEIGHTS, model_hashes, open_model
from simplicit.runs.settings import Source, read_source
from simplicit.runs.subjects import BASELINE
from simplicit.runs.task import Task, open_finished, open_task
from simplicit.runtime.files import load_weights

#: The one input of a network that is called with a tensor alone.
_ONLY = "inputs"


@dataclass(frozen=True, eq=False)
class BenchSubject:
    """A network, and how it is called.

    Attributes
    ----------
    net : nn.Module
        In evaluation mode, on the CPU, in the dtype of its weights.
    inputs : mapping of str to Tensor
        Samples (m, ...) by the names of the network's inputs; one that takes a tensor alone has a single entry.
    model : callable
        Makes the network's implicit form, which takes long for some, once.
    data : str
        What the samples are of.
    provenance : dict
        What was read, with hashes.
    constants : mapping
        What else the network is called with, by name.
    alone : bool
        Whether the network takes its only input as a tensor, not by its name.
    """

    net: nn.Module
    inputs: Mapping[str, Tensor]
    model: Callable[[], ImplicitModel]
    data: str
    provenance: dict[str, Any]
    constants: Mapping[str, Any] = field(default_factory=dict)
    alone: bool = True

    def batch(self, samples: int) -> dict[str, Tensor]:
        """The first so many samples, from the first again where there are fewer, by the names of the inputs."""
        return {name: value[torch.arange(samples) % len(value)] for name, value in self.inputs.items()}

    def arrays(self, samples: int) -> dict[str, npt.NDArray[Any]]:
        """The samples of :meth:`batch` as arrays."""
        return {name: value.numpy() for name, value in self.batch(samples).items()}

    def example(self, samples: int) -> Any:
        """So many samples in the form that the functions of the library take."""
        found = self.batch(samples)
        return found[_ONLY] if self.alone else found | dict(self.constants)

    def call(self, net: nn.Module, samples: int) -> Callable[[], Any]:
        """A call of a network that takes what this one does, its arguments made before."""
        example = self.example(samples)
        return partial(net, example) if self.alone else partial(net, **example)

    def flat(self, returned: Any, samples: int) -> Tensor:
        """What a network returned as (samples, numbers): the output that the library takes if there are several."""
        output: Tensor = chosen(returned, None, samples).of(returned)
        return output.reshape(samples, -1)

    def bytes_of(self, samples: int) -> int:
        """About how many bytes a call with so many samples takes: twice what its layers return, and the inputs.

        InputError is raised where the network does not take its samples.
        """
        returned: list[int] = []

        def count(_: nn.Module, __: Any, output: Any) -> None:
            returned.append(output.nbytes if isinstance(output, Tensor) else 0)

        leaves = [module for module in self.net.modules() if not [*module.children()]]
        handles = [module.register_forward_hook(count) for module in leaves]
        try:
            with torch.no_grad():
                self.call(self.net, 2)()
        except Exception as error:  # the user's own forward may raise anything
            what = f"the network does not take its samples ({first_line(error)}); name those that it was trained on"
            raise refused("data", what, self.data) from error
        finally:
            for handle in handles:
                handle.remove()
        return samples * (sum(returned) + sum(value.nbytes for value in self.batch(2).values()))


def open_bench_subject(run: Path, **source: Any) -> BenchSubject:
    """Open a folder of ``simplicit fit``, whose network has its new weights, or of ``simplicit baseline``.

    ``source`` is as in :func:`simplicit.runs.task.open_finished`. InputError is raised where the network has no
    parameters for the weights of its fit, or texts of a fit are to be replaced by data; DataError for what is missing,
    damaged, or changed.
    """
    if read_manifest(run, "fit", BASELINE)["kind"] == BASELINE:
        others: dict[str, Any] = {name: source.get(name) for name in ("data", "data_dir")}
        task = open_task(Source(baseline=source.get("baseline") or run, **others))
        return _on_data(evaluation_copy(task.net), task, lambda: capture_task(task).model)
    check_weights(run)
    if read_source(run).texts is not None:
        return _on_texts(run, source)
    task = open_finished(run, **source)
    if (run / NETWORK).is_dir():
        net = load_pretrained(run / NETWORK)
    else:
        net = evaluation_copy(task.net)
        load_weights(net, run / WEIGHTS)
    task.provenance["model"] = model_hashes(run)
    return _on_data(net, task, partial(open_model, run))


def _on_data(net: nn.Module, task: Task, model: Callable[[], ImplicitModel]) -> BenchSubject:
    inputs = task.shaped(task.data.test_inputs).to(dtype_of(net))
    return BenchSubject(net, {_ONLY: inputs}, cache(model), task.data.name, task.provenance)


def _on_texts(run: Path, source: Mapping[str, Any]) -> BenchSubject:
    for name, value in source.items():
        if value:
            raise refused(name, f"{run} was fitted on texts, and is measured on them; leave it out", value)
    task = reopened_texts(run)
    net, provenance = load_pretrained(run / NETWORK), task.provenance | {"model": model_hashes(run)}
    model, name = partial(open_model, run), str(task.provenance["data"]["name"])
    return BenchSubject(net, task.test.inputs, cache(model), name, provenance, task.constants, alone=False)


def dtype_of(net: nn.Module) -> torch.dtype:
    """The dtype of the weights of a network, that of its floating-point inputs."""
    return next((value.dtype for value in net.parameters() if value.is_floating_point()), torch.float32)


def onnx_dtype(net: nn.Module) -> str:
    """The dtype of an ONNX file of a network: float64 where its weights are, else float32."""
    return str(np.dtype(np.float64 if dtype_of(net) == torch.float64 else np.float32))
