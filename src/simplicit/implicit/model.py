r"""The implicit model x = φ(A x + B u + b), y = C x + D u + d.

x is the state (n), u the input (p), y the output (q). M = [[A, B], [C, D]] is kept by blocks, one for each pair of a
group of states (or the output) and a group of states (or the input). Samples come first: U (m, p), X (m, n), Y (m, q).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from simplicit.errors import InputError
from simplicit.implicit.activation import Activation
from simplicit.implicit.batch import Batch, as_batch, chunks, like
from simplicit.implicit.bits import StorageBits, storage_bits
from simplicit.implicit.maps import Csr, CsrMap, LinearMap, canonical_csr
from simplicit.implicit.system import StateGroup, System, assemble

__all__ = ["ImplicitModel", "StateGroup"]

INPUT, OUTPUT = "input", "output"

# Outputs of a model that has to be iterated are computed to this, or to the resolution of its dtype.
PREDICTION_TOL = 1e-9


class ImplicitModel:
    """x = φ(A x + B u + b), y = C x + D u + d, by blocks; immutable.

    Parameters
    ----------
    groups : sequence of StateGroup
        Their order is the order of the states; n is the sum of their sizes, and may be 0.
    blocks : mapping of (row, column) to LinearMap
        ``row`` is a group's name or "output", ``column`` a group's name or "input". A = blocks[g, h], B = blocks[g,
        "input"], C = blocks["output", g], D = blocks["output", "input"]; an absent block is zero, and zero blocks are
        dropped.
    n_inputs, n_outputs : int
        p and q, at least 1.
    state_bias, output_bias : array, shape (n,) and (q,), optional
        b and d; zero if None.
    input_shape, output_shape : tuple of int, optional
        The form of one sample before it is flattened; (p,) and (q,) if None.

    Raises
    ------
    InputError
        Names that are not unique or not known, shapes that do not fit, values that are not finite.
    """

    def __init__(
        self,
        groups: Sequence[StateGroup],
        blocks: Mapping[tuple[str, str], LinearMap],
        *,
        n_inputs: int,
        n_outputs: int,
        state_bias: ArrayLike | None = None,
        output_bias: ArrayLike | None = None,
        input_shape: tuple[int, ...] | None = None,
        output_shape: tuple[int, ...] | None = None,
    ) -> None:
        self.groups = _checked_groups(groups)
        self.n_states = sum(group.size for group in self.groups)
        self.n_inputs = _positive(n_inputs, "n_inputs")
        self.n_outputs = _positive(n_outputs, "n_outputs")
        self.input_shape = _checked_shape(input_shape, self.n_inputs, "input_shape", "n_inputs")
        self.output_shape = _checked_shape(output_shape, self.n_outputs, "output_shape", "n_outputs")
        _check_blocks(blocks, {group.name: group.size for group in self.groups}, self.n_inputs, self.n_outputs)
        self.dtype = _common_dtype(blocks, state_bias, output_bias)
        self.state_bias = _checked_bias(state_bias, self.n_states, self.dtype, "state_bias")
        self.output_bias = _checked_bias(output_bias, self.n_outputs, self.dtype, "output_bias")
        # In the order of rows and columns, so that sums over blocks do not depend on who listed them how.
        order = {group.name: place for place, group in enumerate(self.groups)} | {
            OUTPUT: len(groups),
            INPUT: len(groups),
        }
        keys = sorted(blocks, key=lambda key: (order[key[0]], order[key[1]]))
        self._blocks = {key: blocks[key].astype(self.dtype) for key in keys if blocks[key].nnz}

    @classmethod
    def from_matrices(
        cls,
        A: ArrayLike | sp.sparray,
        B: ArrayLike | sp.sparray,
        C: ArrayLike | sp.sparray,
        D: ArrayLike | sp.sparray,
        *,
        activation: str | Activation | Sequence[StateGroup] = "relu",
        state_bias: ArrayLike | None = None,
        output_bias: ArrayLike | None = None,
        input_shape: tuple[int, ...] | None = None,
        output_shape: tuple[int, ...] | None = None,
    ) -> ImplicitModel:
        """The model with these matrices, (n, n), (n, p), (q, n) and (q, p), dense or sparse.

        ``activation`` is one for all states, by name or value, which then form one group called "state"; or the groups,
        in the order of the states.
        """
        parts = {name: canonical_csr(part, name) for name, part in zip("ABCD", (A, B, C, D), strict=True)}
        n, (q, p) = parts["A"].shape[0], parts["D"].shape
        _check_fit(parts, {"A": (n, n), "B": (n, p), "C": (q, n), "D": (q, p)})
        groups = _groups_of(activation, n)
        stops = np.cumsum([0, *(group.size for group in groups)])
        if stops[-1] != n:
            raise InputError(f"activation: the groups hold {stops[-1]} states, A has {n}")
        rows = {group.name: slice(stops[k], stops[k + 1]) for k, group in enumerate(groups)}
        blocks: dict[tuple[str, str], LinearMap] = {(OUTPUT, INPUT): CsrMap(parts["D"])}
        for g in rows:
            blocks[g, INPUT] = CsrMap(parts["B"][rows[g]])
            blocks[OUTPUT, g] = CsrMap(parts["C"][:, rows[g]])
            blocks |= {(g, h): CsrMap(parts["A"][rows[g]][:, rows[h]]) for h in rows}
        return cls(
            groups,
            blocks,
            n_inputs=p,
            n_outputs=q,
            state_bias=state_bias,
            output_bias=output_bias,
            input_shape=input_shape,
            output_shape=output_shape,
        )

    def __repr__(self) -> str:
        groups = ", ".join(f"{group.name}: {group.size} {group.activation.name}" for group in self.groups)
        return (
            f"ImplicitModel(n_inputs={self.n_inputs}, n_states={self.n_states}, n_outputs={self.n_outputs}, "
            f"nnz={self.nnz}, dtype={self.dtype}, groups=[{groups}])"
        )

    @property
    def blocks(self) -> Mapping[tuple[str, str], LinearMap]:
        """The blocks that are not zero, keyed (row, column); read-only."""
        return MappingProxyType(self._blocks)

    @property
    def slices(self) -> Mapping[str, slice]:
        """Where each group stands among the n states; read-only."""
        return MappingProxyType(self.system.slices)

    @cached_property
    def system(self) -> System:
        """The state equation, with its plan of evaluation."""
        blocks = {key: block for key, block in self.blocks.items() if key[0] != OUTPUT}
        return System(self.groups, blocks, self.state_bias, self.n_inputs)

    @property
    def A(self) -> Csr:  # noqa: N802
        """The whole of A as one ``csr_array`` (n, n): canonical, read-only."""
        return self.system.A

    @cached_property
    def B(self) -> Csr:  # noqa: N802
        """The whole of B as one ``csr_array`` (n, p): canonical, read-only."""
        shape = (self.n_states, self.n_inputs)
        return assemble(self.blocks, self.slices, {INPUT: slice(0, self.n_inputs)}, shape, self.dtype)

    @cached_property
    def C(self) -> Csr:  # noqa: N802
        """The whole of C as one ``csr_array`` (q, n): canonical, read-only."""
        shape = (self.n_outputs, self.n_states)
        return assemble(self.blocks, {OUTPUT: slice(0, self.n_outputs)}, self.slices, shape, self.dtype)

    @cached_property
    def D(self) -> Csr:  # noqa: N802
        """The whole of D as one ``csr_array`` (q, p): canonical, read-only."""
        shape = (self.n_outputs, self.n_inputs)
        rows, columns = {OUTPUT: slice(0, self.n_outputs)}, {INPUT: slice(0, self.n_inputs)}
        return assemble(self.blocks, rows, columns, shape, self.dtype)

    @property
    def nnz(self) -> int:
        """Non-zeros of M; biases are not counted."""
        return sum(block.nnz for block in self.blocks.values())

    @property
    def size(self) -> int:
        """Entries of M, (n + q)(n + p)."""
        return (self.n_states + self.n_outputs) * (self.n_states + self.n_inputs)

    def sparsity(self, N0: int | None = None) -> float:
        """100 (1 - nnz(M)/N0) in per cent, against the ``N0`` weights of a baseline, or against size(M) if None."""
        return 100.0 * (1.0 - self.nnz / (self.size if N0 is None else _positive(N0, "N0")))

    def storage_bits(self) -> StorageBits:
        """What A, B, C, D and the biases take as CSR, in bits (appendix B)."""
        return storage_bits((self.A, self.B, self.C, self.D), self.n_states + self.n_outputs, self.dtype)

    def astype(self, dtype: Any) -> ImplicitModel:
        """The same model in float32 or float64."""
        if np.dtype(dtype) not in (np.float32, np.float64):
            raise InputError(f"dtype must be float32 or float64, got {np.dtype(dtype)}")
        return ImplicitModel(
            self.groups,
            {key: block.astype(dtype) for key, block in self.blocks.items()},
            n_inputs=self.n_inputs,
            n_outputs=self.n_outputs,
            state_bias=self.state_bias.astype(dtype),
            output_bias=self.output_bias.astype(dtype),
            input_shape=self.input_shape,
            output_shape=self.output_shape,
        )

    def predict(self, U: Batch) -> Any:
        """Outputs Y (m, q) for inputs U (m, p) or (m, *input_shape), of the same kind: NumPy or torch.

        Exact by substitution where A is triangular after a permutation, else by Picard's iteration to 1e-9 in the
        states. Inputs are cast to the model's dtype; memory beyond the outputs is bounded.

        Raises
        ------
        InputError
            Wrong shape, no samples, NaN or infinite values.
        NotWellPosedError
            λ_pf(diag(L)|A|) < 1 fails.
        """
        batch = as_batch(U, self.n_inputs, self.input_shape, self.dtype)
        Y = batch.new_empty(batch.shape[0], self.n_outputs)
        for rows in chunks(batch.shape[0], self.n_inputs + self.n_states):
            solution = self.system.solve(batch[rows], PREDICTION_TOL)
            Y[rows] = self.outputs(self.system.plan.to_model(solution.X), batch[rows])
        return like(Y, U)

    def outputs(self, X: Tensor, U: Tensor) -> Tensor:
        """Y = C x + D u + d for states X (m, n) and inputs U (m, p), tensors of the model's dtype."""
        Y = torch.tensor(self.output_bias).repeat(X.shape[0], 1)
        for (row, column), block in self.blocks.items():
            if row == OUTPUT:
                Y += block.apply(U if column == INPUT else X[:, self.slices[column]])
        return Y

    def pull_back_outputs(self, Y_bar: Tensor) -> tuple[Tensor, Tensor | None]:
        """(Ȳ C, Ȳ D), (m, n) and (m, p): gradients by states and inputs; None for D = 0."""
        X_bar = Y_bar.new_zeros(Y_bar.shape[0], self.n_states)
        U_bar: Tensor | None = None
        for (row, column), block in self.blocks.items():
            if row == OUTPUT and column == INPUT:
                U_bar = block.apply_transpose(Y_bar)
            elif row == OUTPUT:
                X_bar[:, self.slices[column]] = block.apply_transpose(Y_bar)
        return X_bar, U_bar


def _check_fit(parts: Mapping[str, Csr], expected: Mapping[str, tuple[int, int]]) -> None:
    for name, shape in expected.items():
        if parts[name].shape != shape:
            got = ", ".join(f"{key} {part.shape}" for key, part in parts.items())
            raise InputError(f"{name} must have shape {shape} to fit A (n, n), B (n, p), C (q, n), D (q, p); got {got}")


def _positive(value: int, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise InputError(f"{name} must be an integer of at least 1, got {value!r}")
    return int(value)


def _checked_groups(groups: Sequence[StateGroup]) -> tuple[StateGroup, ...]:
    seen: set[str] = set()
    for group in groups:
        if not isinstance(group.name, str) or not group.name or group.name in (INPUT, OUTPUT):
            raise InputError(f"a group's name must be a text other than '', 'input' and 'output', got {group.name!r}")
        if group.name in seen:
            raise InputError(f"groups must have unique names, got {group.name!r} twice")
        seen.add(group.name)
        _positive(group.size, f"the size of group {group.name!r}")
    return tuple(groups)


def _checked_shape(shape: tuple[int, ...] | None, size: int, name: str, size_name: str) -> tuple[int, ...]:
    if shape is None:
        return (size,)
    checked = tuple(_positive(length, f"each entry of {name}") for length in shape)
    if int(np.prod(checked)) != size:
        raise InputError(f"{name} = {checked} has {int(np.prod(checked))} entries, but {size_name} = {size}")
    return checked


def _check_blocks(
    blocks: Mapping[tuple[str, str], LinearMap], sizes: Mapping[str, int], n_inputs: int, n_outputs: int
) -> None:
    rows, columns = {**sizes, OUTPUT: n_outputs}, {**sizes, INPUT: n_inputs}
    for key, block in blocks.items():
        row, column = key
        if row not in rows or column not in columns:
            raise InputError(
                f"block {key}: its row must be 'output' or a group, its column 'input' or a group; groups are "
                f"{', '.join(sizes) or 'none'}"
            )
        if not isinstance(block, LinearMap):
            raise InputError(f"block {key} must be a LinearMap, got {type(block).__name__}; wrap a matrix in CsrMap")
        if block.shape != (rows[row], columns[column]):
            raise InputError(f"block {key} must have shape {(rows[row], columns[column])}, got {block.shape}")


def _common_dtype(blocks: Mapping[tuple[str, str], LinearMap], *biases: ArrayLike | None) -> np.dtype[Any]:
    """float64 as soon as one block is float64; biases decide only where there are no blocks."""
    dtypes = [block.dtype for block in blocks.values()] or [np.asarray(b).dtype for b in biases if b is not None]
    return np.result_type(np.float32, *dtypes)


def _checked_bias(bias: ArrayLike | None, length: int, dtype: np.dtype[Any], name: str) -> NDArray[Any]:
    values = np.zeros(length, dtype) if bias is None else np.array(bias, dtype=dtype)
    if values.shape != (length,):
        raise InputError(f"{name} must have shape ({length},), got {values.shape}")
    finite = np.isfinite(values)
    if not finite.all():
        raise InputError(f"{name} must be finite, got {values[~finite][0]} at position {int(np.argmin(finite))}")
    values.flags.writeable = False
    return values


def _groups_of(activation: str | Activation | Sequence[StateGroup], n_states: int) -> tuple[StateGroup, ...]:
    if isinstance(activation, str):
        activation = Activation(activation)
    if isinstance(activation, Activation):
        return (StateGroup("state", n_states, activation),) if n_states else ()
    return tuple(activation)
