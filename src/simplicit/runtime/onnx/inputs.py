r"""The inputs of an ONNX graph: those of the network, by their names and in their own dtypes.

A model that knows of several inputs, or of integers, has U = [ flat(first) | flat(second) | … ]
(:mod:`simplicit.implicit.inputs`). Its graph takes the arrays themselves, (batch, *shape), casts integers and truth
values to its own dtype, flattens all and puts them side by side: what then looks numbers up in a table casts back,
which loses nothing. A model of one tensor of floating-point numbers takes it as ``inputs``, (batch, *input_shape).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simplicit.errors import InputError, SimplicitError
from simplicit.implicit import ImplicitModel, InputSpec
from simplicit.runtime.onnx.graph import Graph

#: What the one input of a model is called, and the output of all of them.
ONLY, OUTPUT = "inputs", "outputs"

# Integers are drawn below the first of these with which the model works: a table of fewer rows has not all the ids.
_BELOW = (1000, 100, 10, 2)


def names_of(model: ImplicitModel) -> dict[str, InputSpec]:
    """Return what the graph calls its inputs, with the form of each."""
    if model.inputs is None:
        return {ONLY: InputSpec(ONLY, model.input_shape, str(model.dtype))}
    return {f"{spec.name}_" if spec.name == OUTPUT else spec.name: spec for spec in model.inputs.specs}


def packed(graph: Graph, model: ImplicitModel) -> tuple[str, list[Any]]:
    """Write the nodes that make U (batch, p) of the inputs; return its name, and the descriptions of the inputs."""
    make, parts, described = graph.onnx.helper, list[str](), []
    for name, spec in names_of(model).items():
        own = model.dtype if spec.floating else np.dtype(spec.dtype)
        kind = make.np_dtype_to_tensor_dtype(own)
        described.append(make.make_tensor_value_info(name, kind, ["batch", *spec.shape]))
        part = name if own == model.dtype else graph.cast(name, model.dtype)
        if not spec.shape:
            part = graph.node("Unsqueeze", part, np.array([1], dtype=np.int64))
        elif len(spec.shape) > 1:
            part = graph.node("Flatten", part, axis=1)
        parts.append(part)
    return parts[0] if len(parts) == 1 else graph.node("Concat", *parts, axis=1), described


def drawn(model: ImplicitModel, samples: int, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    """Return random inputs that the model takes, by the names that the graph has for them.

    Floating-point numbers lie in [0, 1). InputError is raised where no integers are found that the model takes.
    """
    specs, found = names_of(model), dict[str, NDArray[Any]]()
    for name, spec in specs.items():
        shape = (samples, *spec.shape)
        found[name] = rng.random(shape).astype(model.dtype) if spec.floating else np.ones(shape, dtype=spec.dtype)
    whole = [name for name, spec in specs.items() if not spec.floating]
    if whole and not _taken(model, found):
        found |= {name: np.zeros_like(found[name]) for name in whole}
        if not _taken(model, found):
            raise InputError(
                "check: no integers were found that the model takes, so that its file cannot be compared with it; "
                "pass check=False",
                argument="check",
            )
    for name in whole:
        dtype = np.dtype(specs[name].dtype)
        most = 1 if dtype.kind == "b" else np.iinfo(dtype).max
        for below in _BELOW:
            tried = rng.integers(0, min(below - 1, most), size=found[name].shape, endpoint=True).astype(dtype)
            if _taken(model, found | {name: tried}):
                found[name] = tried
                break
    return found


def as_given(model: ImplicitModel, inputs: Mapping[str, NDArray[Any]]) -> Any:
    """Return inputs by the names of the graph as ``model.predict`` takes them."""
    arrays = tuple(inputs.values())
    return arrays[0] if model.inputs is None else arrays


def _taken(model: ImplicitModel, inputs: Mapping[str, NDArray[Any]]) -> bool:
    try:
        model.predict(as_given(model, inputs))
    except SimplicitError:
        return False
    return True
