"""What is asked of one network, each in a process of its own: export, capture and exactness, a fit."""

from __future__ import annotations

import copy
import glob
import inspect
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import simplicit
from networks.entry import SAMPLES, Inputs, Maker, call, doubled, first, first_output
from simplicit.network.graph import capture_graph
from simplicit.training.channels.finding import found_layers

Report = dict[str, Any]

COUNTS = (1, 2, 7)
SEED = 0

#: Weights, and groups of channels with a problem of their own, that a fit has at most: of a larger network the widest
#: layers are left alone, and of many grouped convolutions the last ones; the narrowest one is always fitted.
MOST_WEIGHTS, MOST_GROUPS = 500_000, 500


def made(make: Maker) -> tuple[nn.Module, Inputs]:
    """The network in evaluation mode and its inputs, the same every time."""
    torch.manual_seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002 (timm initialises some weights by it)
    net, inputs = make()
    return net.eval(), inputs


def export(make: Maker, note: Callable[[Report], None]) -> None:
    """Whether torch.export takes the network with a free number of samples, how long it needs, what it finds."""
    net, inputs = made(make)
    result = first_output(call(net, first(inputs, 3)))
    note({"made": True})
    tensors = [*net.parameters(), *net.buffers()]
    note({"parameters": sum(p.numel() for p in net.parameters()), "bytes": sum(t.nbytes for t in tensors)})
    if not bool(torch.isfinite(result).all()):
        raise ValueError("the network's own output is not finite")
    example = first(inputs, 3)
    arguments, named, shapes = call_of(net, example)
    begun = time.perf_counter()
    with torch.no_grad():
        program = torch.export.export(net, arguments, named, dynamic_shapes=shapes, strict=False)
    seconds = time.perf_counter() - begun
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    names = {str(getattr(node.target, "overloadpacket", node.target)).removeprefix("aten.") for node in calls}
    note({"seconds": seconds, "operations": sorted(names), "nodes": len(calls)})


def call_of(net: nn.Module, example: Inputs) -> tuple[tuple[Any, ...], dict[str, Any] | None, Any]:
    """Positional and named arguments, and which of their sizes are free."""
    batch = torch.export.Dim("batch")

    def shape(value: Any) -> Any:
        return {0: batch} if isinstance(value, Tensor) else None

    if isinstance(example, Mapping):
        return (), dict(example), {name: shape(value) for name, value in example.items()}
    values = example if isinstance(example, tuple) else (example,)
    shapes = tuple(map(shape, values))
    starred = any(p.kind is p.VAR_POSITIONAL for p in inspect.signature(net.forward).parameters.values())
    return values, None, (shapes,) if starred else shapes


def capture(make: Maker, note: Callable[[Report], None]) -> None:
    """Seconds and memory of ``from_torch``, and how far the model's predictions are from the network's outputs."""
    net, inputs = made(make)
    example = first(inputs, 3)
    before = reset_peak()
    begun = time.perf_counter()
    model = _from_torch(net, example)
    note({"seconds": time.perf_counter() - begun, "peak_bytes": peak_memory() - before, "states": model.n_states})
    begun = time.perf_counter()
    note({"float32": _differences(model, net, inputs), "predict_seconds": time.perf_counter() - begun})
    wide, wide_inputs = copy.deepcopy(net).double(), doubled(inputs)
    reference = first_output(call(wide, first(wide_inputs, COUNTS[-1])))
    own = _difference(first_output(call(net, first(inputs, COUNTS[-1]))), reference)
    note({"network_float32": own})
    note({"float64": _differences(_from_torch(wide, first(wide_inputs, 3)), wide, wide_inputs)})


def _from_torch(net: nn.Module, example: Inputs) -> simplicit.ImplicitModel:
    given: Any = example
    return simplicit.from_torch(net, given)


def _differences(model: Any, net: nn.Module, inputs: Inputs) -> dict[str, float]:
    found = {}
    for count in COUNTS:
        some = first(inputs, count)
        predicted = torch.as_tensor(model.predict(some))
        found[str(count)] = _difference(predicted, first_output(call(net, some)))
    return found


def _difference(values: Tensor, reference: Tensor) -> float:
    """The largest difference, relative to the largest entry of the reference."""
    samples = reference.shape[0]
    values, reference = values.reshape(samples, -1).double(), reference.reshape(samples, -1).double()
    if values.shape != reference.shape:
        raise ValueError(f"{values.shape[1]} outputs where the network has {reference.shape[1]}")
    if torch.equal(values, reference):
        return 0.0
    return float((values - reference).abs().max() / reference.abs().max())


def fit(make: Maker, note: Callable[[Report], None]) -> None:
    """Half of the weights of the network are taken away: is what is left finite on the samples?

    A large network has its widest layers left alone, so that the census ends within hours.
    """
    net, inputs = made(make)
    given: Any = inputs
    rules, chosen = _narrow_layers(net, inputs)
    note(chosen)
    begun = time.perf_counter()
    result = simplicit.fit(net, given, simplicit.Sparse(50, layers=rules))
    note({"seconds": time.perf_counter() - begun, "sparsity": result.sparsity})
    output, reference = first_output(call(result.network().eval(), inputs)), first_output(call(net, inputs))
    if not bool(torch.isfinite(output).all()):
        raise ValueError("the fitted network is not finite")
    error = float((output - reference).norm() / reference.norm().clamp(min=1e-30))
    note({"finite": True, "relative_error": error, "samples": SAMPLES})


def _narrow_layers(net: nn.Module, inputs: Inputs) -> tuple[dict[str, None], Report]:
    """Rules that leave the widest layers of a large network alone; how many layers and weights are fitted, of all."""
    if sum(p.numel() for p in net.parameters()) <= MOST_WEIGHTS:
        return {}, {}
    example: Any = inputs
    layers = found_layers(capture_graph(net, example)).layers
    weights = groups = 0
    rules: dict[str, None] = {}
    for layer in sorted(layers, key=lambda layer: (layer.columns, layer.size)):
        own = layer.groups if layer.groups > 1 else 0
        if weights and (weights + layer.size > MOST_WEIGHTS or groups + own > MOST_GROUPS):
            rules[glob.escape(layer.name)] = None
        else:
            weights, groups = weights + layer.size, groups + own
    return rules, {"layers": [len(layers) - len(rules), len(layers)], "weights": weights}


STEPS: dict[str, Callable[[Maker, Callable[[Report], None]], None]] = {"export": export, "capture": capture, "fit": fit}


def _status(name: str) -> int:
    """A figure of this process in bytes; 0 where the system does not say."""
    file = Path("/proc/self/status")
    lines = file.read_text().splitlines() if file.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(name)), 0)


def reset_peak() -> int:
    """Let the peak begin at what is taken now, and say how much that is."""
    file = Path("/proc/self/clear_refs")
    if file.exists():
        file.write_text("5")
    return _status("VmRSS")


def peak_memory() -> int:
    return _status("VmHWM")
