r"""Which entries of M are which parameters of a network, found out by probing; and weights for a given M.

Which entry of M = [[A, B], [C, D]] is which entry of which parameter is not read off the network's code but found out:
its implicit model is read for parameters θ, for θ ∘ (1 + r) with a different r for every entry, and for others. Where

    M_ij(θ ∘ (1 + r)) / M_ij(θ) − 1 = r_e,

M_ij is a multiple c of θ_e alone, however the network reshapes, permutes or scales its weights, and θ_e = M_ij / c.
Biases are found in the same way, parameter by parameter, once the weights are there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_array, diags_array
from torch import Tensor

from simplicit.errors import InputError
from simplicit.implicit import ImplicitModel
from simplicit.implicit.groups import INPUT, OUTPUT
from simplicit.network.graph import NetworkGraph, capture_graph
from simplicit.network.reader import read_model

Array = npt.NDArray[np.float64]

# Ratios carry rounding of a few units in the last place; codes are 0.2/N apart for N entries.
_RATIO_TOLERANCE = 1e-12
# Entries that should be equal, relative to the largest.
_EQUAL = 1e-9
_USE_MODEL = "use simplicit.to_torch(result.model)"


#: How the implicit model of a graph is read.
Read = Callable[[NetworkGraph], ImplicitModel]


def parameters_for(
    graph: NetworkGraph, model: ImplicitModel, scale: Array | None, read: Read = lambda graph: read_model(graph)[0]
) -> dict[str, Tensor]:
    """The parameters, by their names, with which a network is ``model``, whose groups are those of the network's own.

    The states of ``model`` are those of the network divided by ``scale``, (n,), if there is one; ``read`` gives the
    model of a graph. InputError is raised where M has weights and the network's has none; where a block is composed of
    several parameters, or is a constant of the network, and was trained to other values; where one parameter stands at
    several places that differ now; and where constants have no bias to go to.
    """
    probe, wanted = _Probe(graph, read), _Whole.of(model, scale)
    with torch.no_grad():
        _set_weights(probe, wanted)
        _set_biases(probe, wanted)
    return probe.parameters


def fixed_entries(graph: NetworkGraph, read: Read) -> csr_array:
    """Which entries of M (n_pre + q, n + p) are none of the network's weights: 1 there, canonical.

    They are those that stay as they are when all weights change.
    """
    probe = _Probe(graph, read)
    with torch.no_grad():
        codes = _Codes(probe.of_rank(matrices=True))
        own = codes.values
        first, second = (_with(probe, codes, values).M for values in (own, own * (1.5 + codes.ratio)))
    moved = csr_array(abs(second - first))
    moved.data = (moved.data > _RATIO_TOLERANCE * max(1.0, float(abs(first).max()))).astype(np.float64)
    moved.eliminate_zeros()
    pattern = first.copy()
    pattern.data = np.ones_like(pattern.data)
    fixed = csr_array(pattern - pattern.multiply(moved))
    fixed.eliminate_zeros()
    fixed.sort_indices()
    return fixed


@dataclass(frozen=True, eq=False)
class _Whole:
    """A whole M (n + q, n + p), canonical, with the constants (n + q,); which ``rows`` and ``columns`` are whose."""

    M: csr_array
    constants: Array
    rows: Mapping[str, slice]
    columns: Mapping[str, slice]

    @classmethod
    def of(cls, model: ImplicitModel, scale: Array | None = None) -> _Whole:
        """Those of a model whose states are to be multiplied by ``scale``."""
        n, n_pre = model.n_states, model.n_pre
        M = model.matrix.astype(np.float64)
        constants = np.concatenate([model.state_bias, model.output_bias]).astype(np.float64)
        if scale is not None:
            left = np.concatenate([scale, np.ones(model.n_outputs)])
            right = np.concatenate([1.0 / scale, np.ones(model.n_inputs)])
            M, constants = csr_array(diags_array(left) @ M @ diags_array(right)), left * constants
        M.sort_indices()
        ends = slice(n_pre, n_pre + model.n_outputs), slice(n, n + model.n_inputs)
        return cls(M, constants, {**model.pre_slices, OUTPUT: ends[0]}, {**model.slices, INPUT: ends[1]})

    @property
    def places(self) -> npt.NDArray[np.int64]:
        """The place of every non-zero, row times width plus column, ascending."""
        rows = np.repeat(np.arange(self.M.shape[0], dtype=np.int64), np.diff(self.M.indptr))
        places: npt.NDArray[np.int64] = rows * self.M.shape[1] + self.M.indices
        return places

    def block(self, place: int) -> str:
        """Return the block that a place is in, for errors."""
        row, column = divmod(int(place), self.M.shape[1])
        return f"the block from {_holder(self.columns, column)!r} to {_holder(self.rows, row)!r}"


def _holder(places: Mapping[str, slice], index: int) -> str:
    return next(name for name, at in places.items() if at.start <= index < at.stop)


class _Probe:
    """A copy of a network in float64, whose implicit model can be read for any values of its parameters."""

    def __init__(self, graph: NetworkGraph, read: Read) -> None:
        self._read = read
        network = copy.deepcopy(graph.network).double()
        # The graph reads its parameters from its own copy of the network, where they are written.
        self._graph = capture_graph(network, graph.given(np.dtype(np.float64)), output=graph.output_name)
        named = self._graph.network.named_parameters(remove_duplicate=True)
        used = {id(self._graph.network.get_parameter(name)) for name in self._graph.parameters}
        self.parameters: dict[str, Tensor] = {name: value.data for name, value in named if id(value) in used}

    def read(self) -> _Whole:
        """M and constants for the parameters as they are."""
        return _Whole.of(self._read(self._graph))

    def of_rank(self, matrices: bool) -> dict[str, Tensor]:
        """Return the weights, or everything else."""
        return {name: value for name, value in self.parameters.items() if (value.ndim >= 2) == matrices}


class _Codes:
    """Values for the entries of some parameters that tell each of them from all others."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        rng = np.random.default_rng(0)
        self._parameters = list(parameters.values())
        self.names = list(parameters)
        self.ends = np.cumsum([0, *(value.numel() for value in self._parameters)])
        self.size = int(self.ends[-1])
        self.first = rng.uniform(1.0, 2.0, self.size)
        # Spread evenly but for a random part: evenly spaced ones would be products of each other.
        self.ratio = (np.arange(self.size) + rng.uniform(0.1, 0.9, self.size)) / max(1, self.size)
        self.last = rng.uniform(1.0, 2.0, self.size)

    def write(self, values: Array) -> None:
        """Give the parameters these values, (size,)."""
        parts = np.split(values, self.ends[1:-1]) if self._parameters else []
        for parameter, part in zip(self._parameters, parts, strict=True):
            parameter.copy_(torch.from_numpy(part).reshape(parameter.shape))

    @property
    def values(self) -> Array:
        """The values that the parameters hold, (size,)."""
        return np.concatenate([np.zeros(0), *(value.numpy().ravel() for value in self._parameters)])

    def found(self, first: Array, second: Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Which entry numbers, read at ``first`` and ``first`` ∘ (1 + ``ratio``), are multiples of, if of any."""
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.nan_to_num(second / first - 1.0, nan=-1.0, posinf=-1.0, neginf=-1.0)
        entry = np.clip((ratio * self.size).astype(np.int64), 0, max(0, self.size - 1))
        known = self.ratio[entry] if self.size else np.full(len(ratio), np.inf)
        return entry, np.abs(ratio - known) <= _RATIO_TOLERANCE

    def name(self, entry: int) -> str:
        """Return the name of the parameter that an entry is of."""
        return self.names[int(np.searchsorted(self.ends, entry, side="right")) - 1]


def weights_in(graph: NetworkGraph, read: Read) -> list[str]:
    """The names of the parameters of two dimensions or more on which M depends: those that multiply something."""
    probe, found = _Probe(graph, read), list[str]()
    with torch.no_grad():
        codes = _Codes(probe.of_rank(matrices=True))
        whole = _with(probe, codes, codes.first)
        for name in codes.names:
            value = probe.parameters[name]
            kept = value.clone()
            value.mul_(1.5)
            if not _same(probe.read().M, whole.M):
                found.append(name)
            value.copy_(kept)
    return found


def _found(
    probe: _Probe, codes: _Codes
) -> tuple[npt.NDArray[np.int64], Array, npt.NDArray[np.int64], Array, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Of every non-zero of M its place, its value at ``codes.first``, the entry it is a multiple of and the factor,
    whether it is one, and whether it is a constant."""
    reads = [_with(probe, codes, values) for values in (codes.first, codes.first * (1.0 + codes.ratio), codes.last)]
    first, second, third = (read.M.data for read in reads)
    places = reads[0].places
    if not all(np.array_equal(read.places, places) for read in reads):
        raise InputError("network: its weights decide where M has zeros, so that they cannot be traced to their places")
    entry, known = codes.found(first, second)
    factor = np.where(known, first / codes.first[entry] if codes.size else 0.0, 0.0)
    known &= np.abs(factor * codes.last[entry] - third if codes.size else first) <= 1e-10 * np.abs(third)
    fixed = np.abs(second - first) <= _RATIO_TOLERANCE * np.abs(first)
    return places, first, entry, factor, known, fixed


def holds_any(graph: NetworkGraph, read: Read, rows: int, *, constants: bool) -> bool:
    """Whether the first ``rows`` of M can have any values where they have non-zeros, and any ``constants``.

    That is whether :func:`parameters_for` finds parameters for all of them.
    """
    probe = _Probe(graph, read)
    with torch.no_grad():
        codes = _Codes(probe.of_rank(matrices=True))
        own = codes.values
        try:
            places, _, entry, _, known, _ = _found(probe, codes)
        except InputError:
            return False
        fitted = places < rows * probe.read().M.shape[1]
        if not known[fitted].all() or len(np.unique(entry[known])) != int(known.sum()):
            return False
        codes.write(own)
        return not constants or bool(_held(probe)[:rows].all())


def _tried(probe: _Probe, name: str, vector: Tensor) -> tuple[_Codes, list[_Whole]]:
    """The codes of a vector, and M and constants with zeros in it, with the codes, and with these again a little
    larger; its own values stay in it."""
    codes = _Codes({name: vector})
    own = codes.values
    trials = (np.zeros(codes.size), codes.first, codes.first * (1.0 + codes.ratio))
    answers = [_with(probe, codes, values) for values in trials]
    codes.write(own)
    return codes, answers


def _held(probe: _Probe) -> npt.NDArray[np.bool_]:
    """The rows of M whose constants are those of an entry of a vector that stands nowhere else."""
    held = np.zeros(len(probe.read().constants), dtype=bool)
    for name, vector in probe.of_rank(matrices=False).items():
        codes, (zero, first, second) = _tried(probe, name, vector)
        if _same(zero.M, first.M) and _same(first.M, second.M):
            moved = first.constants - zero.constants
            entry, known = codes.found(moved, second.constants - zero.constants)
            rows = np.flatnonzero(known & (moved != 0))
            alone = np.bincount(entry[rows], minlength=codes.size) == 1
            held[rows[alone[entry[rows]]]] = True
    return held


def _set_weights(probe: _Probe, wanted: _Whole) -> None:
    """Write into the probe's weights what M is to be."""
    codes = _Codes(probe.of_rank(matrices=True))
    own = codes.values
    places, first, entry, factor, known, fixed = _found(probe, codes)
    target = _at(wanted, places)
    if np.any(unclear := ~known & ~fixed):
        place = int(places[np.argmax(unclear)])
        names = " and ".join(_parts_of(probe, codes, place))
        raise InputError(
            f"network: {wanted.block(place)} is composed of several parameters or constants ({names}), so that its "
            f"trained weights cannot be taken apart; put an activation between the layers, or {_USE_MODEL}"
        )
    moved = fixed & (np.abs(target - first) > _EQUAL * np.abs(first))
    if moved.any():
        raise InputError(
            f"network: {wanted.block(int(places[np.argmax(moved)]))} is a constant of the network (a skip "
            "connection, or an activation that is the output itself), and was trained to other values; take "
            f"simplicit.Sparse, which fits layers as they are, or {_USE_MODEL}"
        )
    codes.write(_gathered(codes, entry[known], target[known] / factor[known], own))


def _at(wanted: _Whole, places: npt.NDArray[np.int64]) -> Array:
    """The entries of M at some places, among which all of its non-zeros must be."""
    at = wanted.places
    position = np.searchsorted(places, at)
    inside = (position < len(places)) & (places[np.minimum(position, len(places) - 1)] == at if len(places) else False)
    if not np.all(inside):
        raise InputError(
            f"network: {wanted.block(int(at[np.argmin(inside)]))} has weights where the network has none; it needs "
            "a fit with structure='baseline'"
        )
    values = np.zeros(len(places))
    values[position] = wanted.M.data
    return values


def _gathered(codes: _Codes, entry: npt.NDArray[np.int64], values: Array, own: Array) -> Array:
    """Entries of the parameters from what their places are to be; those that stand nowhere keep ``own``."""
    result = own.copy()
    result[entry] = values  # of several places the last one
    largest = np.abs(values).max(initial=0.0)
    apart = np.abs(result[entry] - values) > _EQUAL * largest
    if apart.any():
        raise InputError(
            f"network: parameter {codes.name(int(entry[np.argmax(apart)]))!r} stands at several places of M, which "
            f"were trained to different values; {_USE_MODEL}"
        )
    return result


def _parts_of(probe: _Probe, codes: _Codes, place: int) -> Sequence[str]:
    """The names of the parameters on which an entry of M depends."""
    codes.write(codes.first)
    whole, names = probe.read(), []
    at = divmod(place, whole.M.shape[1])
    for name, value in probe.parameters.items():
        kept = value.clone()
        value.mul_(1.5)
        if probe.read().M[at] != whole.M[at]:
            names.append(repr(name))
        value.copy_(kept)
    return names


def _set_biases(probe: _Probe, wanted: _Whole) -> None:
    """Write into the probe's vectors what the constants are to be, given its weights."""
    now = probe.read()
    scale = max(np.abs(wanted.constants).max(initial=0.0), np.abs(now.constants).max(initial=0.0))
    free = np.ones(len(wanted.constants), dtype=bool)
    for name, vector in probe.of_rank(matrices=False).items():
        codes, (zero, first, second) = _tried(probe, name, vector)
        if not (_same(zero.M, first.M) and _same(first.M, second.M)):
            continue  # a scale, which stays as it is
        moved = first.constants - zero.constants
        entry, known = codes.found(moved, second.constants - zero.constants)
        rows = np.flatnonzero(known & free & (moved != 0))
        factor = moved[rows] / codes.first[entry[rows]]
        codes.write(_gathered(codes, entry[rows], (wanted.constants - zero.constants)[rows] / factor, codes.values))
        free[rows] = False
    left = np.abs(probe.read().constants - wanted.constants) > _EQUAL * scale
    if left.any():
        raise InputError(
            f"network: the model has a constant in {_holder(wanted.rows, int(np.argmax(left)))!r} that no bias of the "
            f"network can hold; give that layer a bias of its own before the fit, or {_USE_MODEL}"
        )


def _with(probe: _Probe, codes: _Codes, values: Array) -> _Whole:
    codes.write(values)
    return probe.read()


def _same(M: Any, other: Any) -> bool:
    return M.nnz == other.nnz and np.array_equal(M.indices, other.indices) and np.array_equal(M.data, other.data)


@dataclass(frozen=True, eq=False)
class Traced:
    """Of the entries of M (n_pre + q, n + p), by ``rows`` and ``columns``, the parameter each is a multiple of.

    ``entries`` numbers the entries of the network's weights, which have these ``shapes``, one after the other, and
    ``factors`` says which multiple.
    """

    rows: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    entries: npt.NDArray[np.int64]
    factors: Array
    shapes: tuple[tuple[int, ...], ...] = ()


def traced_entries(graph: NetworkGraph, read: Read) -> Traced:
    """The entries of M that are multiples of one entry of the network's weights, in the order of their places."""
    probe = _Probe(graph, read)
    with torch.no_grad():
        codes = _Codes(probe.of_rank(matrices=True))
        first, second = (_with(probe, codes, values) for values in (codes.first, codes.first * (1.0 + codes.ratio)))
    entry, known = codes.found(first.M.data, second.M.data)
    rows, columns = np.divmod(first.places[known], first.M.shape[1])
    shapes = tuple(tuple(probe.parameters[name].shape) for name in codes.names)
    return Traced(rows, columns, entry[known], first.M.data[known] / codes.first[entry[known]], shapes)
