"""The ways to run a network that ``simplicit bench`` compares. A new one is a function and one line of :data:`WAYS`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from simplicit.errors import DataError, MissingExtraError, first_line
from simplicit.implicit import ImplicitModel
from simplicit.runs.bench.subject import BenchSubject, onnx_dtype
from simplicit.runtime.accelerate import accelerate
from simplicit.runtime.compaction import compact
from simplicit.runtime.files.folder import file_sizes
from simplicit.runtime.onnx import export_onnx

#: What the others are compared with.
DENSE = "dense"
_ONNX_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}


@dataclass(frozen=True, eq=False)
class Made:
    """A network made ready to be run by one of the ways.

    Attributes
    ----------
    call : callable
        From a number of samples to a call without arguments: what it needs of them is ready before.
    flat : callable
        From what was returned and the number of samples to outputs (samples, numbers), to be compared.
    weight_bytes : int
        Of all weights that it holds, with the places of non-zeros, and of its other buffers.
    files : mapping of str to int
        Bytes of files that it may be kept in.
    note : str
        What a reader of its figures should know.
    """

    call: Callable[[int], Callable[[], Any]]
    flat: Callable[[Any, int], Tensor]
    weight_bytes: int
    files: Mapping[str, int] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Way:
    """A way to run a network: what it is called, and how it is made for some batch sizes."""

    title: str
    make: Callable[[BenchSubject, Sequence[int]], Made]


def _of_module(subject: BenchSubject, net: nn.Module, files: Mapping[str, int], note: str = "") -> Made:
    return Made(partial(subject.call, net), subject.flat, weight_bytes(net), files, note)


def weight_bytes(net: nn.Module) -> int:
    """The bytes of the parameters and buffers of a network, each memory once."""
    tensors = {value.data_ptr(): value for value in (*net.parameters(), *net.buffers())}
    return sum(value.nbytes for value in tensors.values())


def _dense(subject: BenchSubject, _: Sequence[int]) -> Made:
    """The network as torch runs it, its zeros like other numbers."""
    return _of_module(subject, subject.net, file_sizes(subject.net.state_dict()))


def _accelerated(subject: BenchSubject, batches: Sequence[int]) -> Made:
    """The formats that :func:`simplicit.accelerate` chooses for these batch sizes."""
    fast = accelerate(subject.net, subject.example(2), batch=batches)
    used = dict.fromkeys(layer.format for layer in fast.formats().layers)
    return _of_module(subject, fast, {}, f"formats: {', '.join(used) or 'none'}")


def _compacted(subject: BenchSubject, _: Sequence[int]) -> Made:
    """The network without what its outputs do not depend on, as torch runs it."""
    small = compact(subject.net, subject.example(2))
    return _of_module(subject, small, {"compacted": file_sizes(small.state_dict())["dense"]})


def _onnx(subject: BenchSubject, _: Sequence[int]) -> Made:
    """The implicit model as ``simplicit export`` writes it, by ONNX Runtime."""
    return _by_onnx_runtime(subject, subject.model(), "onnx")


def _onnx_compacted(subject: BenchSubject, _: Sequence[int]) -> Made:
    """The implicit model as ``simplicit export --compact`` writes it, by ONNX Runtime."""
    return _by_onnx_runtime(subject, compact(subject.model()), "onnx-compacted")


def _by_onnx_runtime(subject: BenchSubject, model: ImplicitModel, name: str) -> Made:
    """A model as an ONNX file, run in as many threads as torch has; what it returns is compared later, as of all."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        size = export_onnx(model, path, dtype=onnx_dtype(subject.net), check=False).size
        session = _session(path.read_bytes())

    def call(samples: int) -> Callable[[], Any]:
        arrays, feeds = subject.arrays(samples), dict[str, Any]()
        for one in session.get_inputs():
            array = next(iter(arrays.values())) if len(arrays) == 1 else arrays[one.name]
            feeds[one.name] = array.reshape(samples, *one.shape[1:]).astype(_ONNX_DTYPES[one.type])
        return partial(session.run, None, feeds)

    def flat(returned: Any, samples: int) -> Tensor:
        return torch.from_numpy(returned[0]).reshape(samples, -1)

    return Made(call, flat, size, {name: size}, "weights as in its file")


def _session(payload: bytes) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("ONNX Runtime is not installed: pip install 'simplicit[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it has to say comes as an error
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    # Its threads wait for the next call by turning round, and would take the processors from the way after it.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        return onnxruntime.InferenceSession(payload, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its classes of errors are private
        raise DataError(f"ONNX Runtime refuses the graph ({first_line(error)})") from error


#: Ways by name, the one that the others are compared with first.
WAYS: dict[str, Way] = {
    DENSE: Way("dense torch", _dense),
    "accelerated": Way("accelerated", _accelerated),
    "compacted": Way("compacted", _compacted),
    "onnx": Way("ONNX Runtime", _onnx),
    "onnx-compacted": Way("ONNX Runtime, compacted", _onnx_compacted),
}
