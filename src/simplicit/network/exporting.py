"""``torch.export`` of one call of a network: a program of one input U, or an error that names the user's own line."""

from __future__ import annotations

import io
import linecache
import logging
import re
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from operator import getitem
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.fx import Graph, Node

from simplicit.errors import UnsupportedOperationError, first_line
from simplicit.network.calls import Call
from simplicit.network.comparing import compared
from simplicit.network.functional import make_functional
from simplicit.network.outputs import Choice
from simplicit.network.prepare import refused_network
from simplicit.network.recurrences import OWN, KeptWhole, PackedError
from simplicit.network.registry import EXPERTS_REMEDY, REGISTRY, spelled
from simplicit.network.rewrites import MAXIMA, REWRITES

#: What :class:`_OfU` calls the network.
_INSIDE = "network"

_TORCH = str(Path(torch.__file__).parent)
_OURS = str(Path(__file__).parents[1])
_STANDARD = str(Path(logging.__file__).parents[1])
#: Folders of packages, which may lie in that of the standard library.
_PACKAGES = ("site-packages", "dist-packages")


class _OfU(nn.Module):
    """A network as a function of U, whatever it is called with and returns."""

    def __init__(self, network: nn.Module, call: Call, choice: Choice) -> None:
        super().__init__()
        self.network, self._call, self._choice = network, call, choice

    def forward(self, U: Tensor) -> Tensor:
        in_order, by_name = self._call.arguments(U)
        return self._choice.of(self.network(*in_order, **by_name))


def exported(network: nn.Module, call: Call, choice: Choice, U: Tensor) -> tuple[Any, dict[str, str]]:
    """The program of a network's chosen output, whose one input is a batch U (m, *shape) for any m.

    With it come the names of the parameters in the network, by placeholder. Modules at nodes are the network's too.
    UnsupportedOperationError is raised for what
    torch cannot trace, InputError for a network that changes its buffers.
    """
    direct = call.plain and choice.bare and _takes_one(network)
    program = _traced(network if direct else _OfU(network, call, choice), U)
    _check_buffers(program, str if direct else inside)
    parameters: dict[str, str] = dict(program.graph_signature.inputs_to_parameters)
    if direct:
        return program, parameters
    for node in program.graph.nodes:
        _forget_wrapper(node, type(network))
    return program, {placeholder: inside(name) for placeholder, name in parameters.items()}


def inside(name: str) -> str:
    """The name that a parameter or module of the traced network has in the network itself."""
    return name.removeprefix(_INSIDE).removeprefix(".")


def _takes_one(network: nn.Module) -> bool:
    """Whether ``forward`` names its first argument, by which torch says that samples are as many as they may be."""
    code = getattr(network.forward, "__code__", None)
    return code is not None and code.co_argcount > 1


def _forget_wrapper(node: Node, kind: type) -> None:
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return
    kept = {key: (path, cls) for key, (path, cls) in stack.items() if path.split(".")[0] == _INSIDE}
    own = {"": ("", kind.__qualname__)}
    node.meta["nn_module_stack"] = {key: (inside(path), cls) for key, (path, cls) in kept.items()} or own


class _AsCalled(nn.Module):
    """A network as a function of its arrays in order, whatever it is called with."""

    def __init__(self, network: nn.Module, call: Call) -> None:
        super().__init__()
        self.network, self._call = network, call

    def forward(self, *arrays: Tensor) -> Any:
        in_order, by_name = self._call.arranged(arrays)
        return self.network(*in_order, **by_name)


def whole_program(network: nn.Module, call: Call, U: Tensor) -> Any:
    """The program of a network with all that it returns, in torch's own operations, none in place.

    Its inputs are the arrays of the ``call``, in order, for any number of samples; U holds two of them. Names of
    parameters and buffers are those in the network behind :func:`inside`. Errors are those of :func:`exported`.
    """
    arrays = tuple(call.layout.unpack(U))
    samples = {0: torch.export.Dim("batch")}

    def program() -> Any:
        specs = (tuple(samples for _ in arrays),)
        return torch.export.export(_AsCalled(network, call), arrays, dynamic_shapes=specs, strict=False)

    with _explained(program):
        found = program()
        if not make_functional(found, {}):
            found = found.run_decompositions({})
    _check_buffers(found, inside)
    return found


def _check_buffers(program: Any, name_of: Callable[[str], str] = str) -> None:
    """Refuse a network that changes its buffers; ``name_of`` says what the network calls them."""
    if changed := [*program.graph_signature.buffers_to_mutate.values()]:
        name = name_of(changed[0])
        raise refused_network(f"changes its own buffer {name!r} in evaluation mode, so it is not a function")


def _traced(network: nn.Module, U: Tensor) -> Any:
    with _explained(lambda: _program(network, U)):
        program = _program(network, U)
        if not all(_is_plain(node) for node in program.graph.nodes):
            rewrites = _rewrites(program.graph)
            if not make_functional(program, rewrites):
                program = program.run_decompositions(rewrites)
                make_functional(program, rewrites)  # opens what torch has left
    return program


@contextmanager
def _explained(program: Callable[[], Any]) -> Iterator[None]:
    """Say what torch.export refuses, where, and why; ``program`` exports once more."""
    try:
        with torch.no_grad(), _silence():
            yield
    except Exception as error:  # torch.export raises errors of many unrelated classes
        fixed = "Constraints violated" in str(error)
        where = _place_that_fixes_samples(program) if fixed else _place(traceback.extract_tb(error.__traceback__))
        raise UnsupportedOperationError(
            f"net cannot be captured as one graph for any number of samples{where and f', {where}'}: {_reason(error)}. "
            f"torch.export says: {first_line(error)}",
            operation="torch.export",
            where=where or "net",
        ) from error


def _rewrites(graph: Graph) -> dict[Any, Any]:
    """What operations are written in terms of; maxima stay exact where something may be compared with them."""
    exact = MAXIMA if compared(graph) else ()
    return {operation: function for operation, function in REWRITES.items() if operation not in exact}


def _program(network: nn.Module, U: Tensor) -> Any:
    with KeptWhole():
        return torch.export.export(network, (U,), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=False)


def _is_plain(node: Node) -> bool:
    """Whether a node is taken as it is: its operation is known or written out, and changes nothing in place."""
    target: Any = node.target
    if node.op != "call_function" or target in OWN or target is getitem:
        return True
    if not isinstance(target, OpOverload) or target in REWRITES or target._schema.is_mutable:
        return False
    return spelled(target.overloadpacket) in REGISTRY


@contextmanager
def _silence() -> Iterator[None]:
    """Silence torch's own warnings, log and dumps; what the network warns of was seen when it was run before."""
    before = logging.root.manager.disable
    # A graph that cannot be finished is printed to stderr, not logged.
    with warnings.catch_warnings(action="ignore"), redirect_stderr(io.StringIO()):
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)


def _place(frames: traceback.StackSummary) -> str:
    """The innermost line of the user's own code in a stack, in words; nothing where torch was not called from there."""
    own = ""
    # A stack begins with the code that called us, and comes to the network through torch.
    inside = next((k for k, frame in enumerate(frames) if frame.filename.startswith(_TORCH)), len(frames))
    for frame in frames[inside:]:
        if _is_users(frame.filename) and frame.lineno is not None:
            code = linecache.getline(frame.filename, frame.lineno).strip()
            own = f"at `{code}` ({Path(frame.filename).name}, line {frame.lineno})"
    return own


def _is_users(file: str) -> bool:
    if file.startswith((_TORCH, _OURS, "<")):
        return False
    return not file.startswith(_STANDARD) or any(folder in file for folder in _PACKAGES)


class _Noting(logging.Handler):
    """Notes where in the user's code torch takes a size for fixed, of which it only logs that it does."""

    place = ""

    def emit(self, record: logging.LogRecord) -> None:
        if re.match(r"set_replacement \w+ = \d|eval \w+ <= 25\b", record.getMessage()):
            self.place = self.place or _place(traceback.extract_stack())


def _place_that_fixes_samples(program: Callable[[], Any]) -> str:
    """The line of the user's code that fixes the number of samples, found by tracing once more."""
    log, noting = logging.getLogger("torch.fx.experimental.symbolic_shapes"), _Noting()
    before = log.handlers, log.level, log.propagate
    with torch.no_grad(), _silence(), suppress(Exception):
        logging.disable(logging.NOTSET)
        log.handlers, log.level, log.propagate = [noting], logging.INFO, False
        log.manager._clear_cache()  # type: ignore[attr-defined]
        try:
            program()
        finally:
            log.handlers, log.level, log.propagate = before
            log.manager._clear_cache()  # type: ignore[attr-defined]
    return noting.place


def _reason(error: Exception) -> str:
    text, kind = str(error), type(error).__name__
    if isinstance(error, PackedError):
        return (
            "packed sequences have as many samples at a step as the lengths say, which are values of the input; give "
            "the recurrent layer padded ones, and fit with their mask"
        )
    if any(frame.name == "_detect_is_causal_mask" for frame in traceback.extract_tb(error.__traceback__)):
        return (
            "torch compares the mask with a causal one there; say whether it is: src_is_causal=, tgt_is_causal= and "
            "memory_is_causal= of nn.Transformer, mask= and is_causal= of an encoder or decoder"
        )
    if any("expert_hit" in (frame.line or "") for frame in traceback.extract_tb(error.__traceback__)):
        return f"it goes through the experts that the input chooses; {EXPERTS_REMEDY}"
    if "size()[0] <= 25" in text:
        return (
            "torch.cdist and what is made of it computes in another way for more than 25 rows; give it "
            'compute_mode="donot_use_mm_for_euclid_dist"'
        )
    if "Constraints violated" in text:
        return (
            "it fixes the number of samples, as `len(x)` does (write x.shape[0]), a loop over x, a number in a "
            "view, a recurrent layer that has samples second (give it batch_first=True), or a module that was itself "
            "exported for one batch size (give torch.export a dynamic first dimension)"
        )
    if "DataDependent" in kind or "data-dependent" in text:
        return (
            "what is computed there depends on values of the input: control flow (`if x.sum() > 0`, then write "
            "torch.where), a number that leaves torch (`.item()`), or a size (a mask as index)"
        )
    if "compressed tensor" in text:
        return "its weights are in a format of sparse matrices, as of simplicit.accelerate; give the network of before"
    if "fake" in text.lower() or "numpy" in text:
        return "values leave torch there, as for NumPy; compute with torch's operations alone"
    return "a usual reason is control flow that depends on the input (`if x.sum() > 0`)"
