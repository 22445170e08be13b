r"""The implicit model x = φ(A x + B u + b), y = C x + D u + d.

x is the state (n), u the input (p), y the output (q). M = [[A, B], [C, D]] is kept by blocks, one for each pair of a
group of states (or the output) and a group of states (or the input). Samples come first: U (m, p), X (m, n), Y (m, q).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple

import scipy.sparse as sp
from numpy.typing import ArrayLike
from torch import Tensor

from simplicit.checks import as_count, refused
from simplicit.errors import InputError
from simplicit.implicit.assembly import Blocks, assemble, cut
from simplicit.implicit.batch import as_batch, check_range, chunks, like
from simplicit.implicit.bits import StorageBits, storage_bits
from simplicit.implicit.checks import (
    check_blocks,
    check_fit,
    checked_bias,
    checked_groups,
    checked_shape,
    common_dtype,
    float_dtype,
    groups_of,
)
from simplicit.implicit.equations import OutputEquation, StateEquation
from simplicit.implicit.groups import INPUT, OUTPUT, Activation, StateGroup
from simplicit.implicit.inputs import InputLayout, first_array
from simplicit.implicit.maps import Csr, LinearMap, canonical_csr
from simplicit.implicit.picard import StateSolution
from simplicit.implicit.streaming import Stream, stream


class Evaluation(NamedTuple):
    """The equilibrium as it was found, its states X (m, n) in the model's order, and the outputs Y (m, q)."""

    solution: StateSolution
    X: Tensor
    Y: Tensor


class ImplicitModel:
    """The model x = φ(A x + B u + b), y = C x + D u + d, by blocks; immutable.

    :meth:`from_matrices` takes A, B, C, D as they are. Well-posedness asks for λ_pf(diag(L)|A|) < 1 with the slope
    bounds L of the activations: that is ``perron_frobenius(model)``, while ``perron_frobenius(model.A)`` is λ_pf(|A|);
    they agree where all slopes are 1.

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
    state_bias, output_bias : array, shape (n_pre,) and (q,), optional
        b and d; zero if None.
    input_shape, output_shape : tuple of int, optional
        The form of one sample before it is flattened; (p,) and (q,) if None.
    inputs : InputLayout, optional
        What lies where in U, for a network of several inputs, or of integers; with it ``input_shape`` is its own.

    Attributes
    ----------
    n_states : int
        n.
    n_pre : int
        How many pre-activations z there are: n, unless groups have blocks; then A is (n_pre, n) and B (n_pre, p).
    dtype : float32 or float64
        That of all blocks and biases: float32 if all blocks have it.

    Raises
    ------
    InputError
        Names are not unique or not known, shapes do not fit, or values are not finite.
    """

    def __init__(
        self,
        groups: Sequence[StateGroup],
        blocks: Blocks,
        *,
        n_inputs: int,
        n_outputs: int,
        state_bias: ArrayLike | None = None,
        output_bias: ArrayLike | None = None,
        input_shape: tuple[int, ...] | None = None,
        output_shape: tuple[int, ...] | None = None,
        inputs: InputLayout | None = None,
    ) -> None:
        self.groups = checked_groups(groups)
        self.n_states = sum(group.size for group in self.groups)
        self.n_pre = sum(group.pre_size for group in self.groups)
        self.n_inputs = as_count("n_inputs", n_inputs)
        self.n_outputs = as_count("n_outputs", n_outputs)
        self.input_shape = checked_shape(input_shape, self.n_inputs, "input_shape", "n_inputs")
        self.output_shape = checked_shape(output_shape, self.n_outputs, "output_shape", "n_outputs")
        self.inputs = inputs
        if inputs is not None and (inputs.width != self.n_inputs or inputs.shape != self.input_shape):
            held = f"the layout holds {inputs.width} numbers, the model has {self.n_inputs} inputs"
            raise refused("inputs", f"{held} of shape {self.input_shape}")
        check_blocks(blocks, self.groups, self.n_inputs, self.n_outputs)
        self.dtype = common_dtype(blocks, state_bias, output_bias)
        self.state_bias = checked_bias(state_bias, self.n_pre, self.dtype, "state_bias")
        self.output_bias = checked_bias(output_bias, self.n_outputs, self.dtype, "output_bias")
        # In the order of rows and columns, so that sums over blocks do not depend on who listed them how.
        last = len(self.groups)
        order = {group.name: place for place, group in enumerate(self.groups)} | {OUTPUT: last, INPUT: last}
        keys = sorted(blocks, key=lambda key: (order[key[0]], order[key[1]]))
        self._blocks = {key: blocks[key].astype(self.dtype) for key in keys if not blocks[key].is_zero}

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
        """Make the model x = φ(A x + B u + b), y = C x + D u + d with these matrices.

        Parameters
        ----------
        A, B, C, D : array, tensor or SciPy sparse, shapes (n, n), (n, p), (q, n) and (q, p)
            float32 if all are, else float64; copied. n may be 0: then A is (0, 0), B (0, p) and C (q, 0). Where groups
            have blocks, A is (n_pre, n) and B (n_pre, p).
        activation : str, Activation or sequence of StateGroup
            One for all states, by name or value, which then form one group called "state"; or the groups, in the order
            of the states.
        state_bias, output_bias, input_shape, output_shape : optional
            As of the class.

        Raises
        ------
        InputError
            Shapes do not fit, values are not real or not finite, an activation is unknown, or groups hold another
            number of states.
        """
        parts = {name: canonical_csr(part, name) for name, part in zip("ABCD", (A, B, C, D), strict=True)}
        (pre, n), (q, p) = parts["A"].shape, parts["D"].shape
        groups = groups_of(activation, pre)
        if all(isinstance(group.activation, Activation) for group in groups):
            n = pre
        check_fit(parts, {"A": (pre, n), "B": (pre, p), "C": (q, n), "D": (q, p)})
        held = sum(group.size for group in groups)
        if held != n:
            raise refused("activation", f"the groups hold {held} states, A has {n}")
        if (rows := sum(group.pre_size for group in groups)) != pre:
            raise refused("activation", f"the groups have {rows} pre-activations, A has {pre} rows")
        return cls(
            groups,
            cut(groups, **parts),
            n_inputs=p,
            n_outputs=q,
            state_bias=state_bias,
            output_bias=output_bias,
            input_shape=input_shape,
            output_shape=output_shape,
        )

    def with_matrix(
        self,
        M: ArrayLike | sp.sparray,
        *,
        state_bias: ArrayLike | None = None,
        output_bias: ArrayLike | None = None,
    ) -> ImplicitModel:
        """Return the model of the same groups and shapes with another M = [[A, B], [C, D]], as :attr:`matrix` has it.

        M (n_pre + q, n + p) is an array, tensor or SciPy sparse, and copied; biases are this model's own if None.
        Errors are those of :meth:`from_matrices`.
        """
        n, pre, whole = self.n_states, self.n_pre, canonical_csr(M, "M")
        check_fit({"M": whole}, {"M": (pre + self.n_outputs, n + self.n_inputs)})
        blocks = cut(self.groups, whole[:pre, :n], whole[:pre, n:], whole[pre:, :n], whole[pre:, n:])
        return self.with_blocks(blocks, state_bias=state_bias, output_bias=output_bias)

    def with_blocks(
        self, blocks: Blocks, *, state_bias: ArrayLike | None = None, output_bias: ArrayLike | None = None
    ) -> ImplicitModel:
        """Return the model of the same groups and shapes with other blocks, and its own biases where they are None."""
        given = {"state_bias": state_bias, "output_bias": output_bias}
        return self._changed(blocks=blocks, **{name: bias for name, bias in given.items() if bias is not None})

    def with_inputs(self, inputs: InputLayout | None) -> ImplicitModel:
        """Return the same model, which says of its inputs what lies where in U."""
        return self._changed(inputs=inputs, input_shape=None if inputs is None else inputs.shape)

    def with_groups(self, groups: Sequence[StateGroup]) -> ImplicitModel:
        """Return the model of the same blocks and shapes with other groups, of the same names and sizes."""
        return self._changed(groups=groups)

    def _changed(self, **changes: Any) -> ImplicitModel:
        """The same model, but for some arguments of the class."""
        names = ("groups", "blocks", "n_inputs", "n_outputs", "state_bias", "output_bias", "input_shape")
        kept = {name: getattr(self, name) for name in (*names, "output_shape", "inputs")}
        return ImplicitModel(**(kept | changes))

    def __repr__(self) -> str:
        shown = [f"{group.name}: {group.size} {group.activation.name}" for group in self.groups[:4]]
        groups = ", ".join([*shown, *([f"{len(self.groups) - 4} more"] if len(self.groups) > 4 else [])])
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
        return MappingProxyType(self.state_equation.slices)

    @property
    def pre_slices(self) -> Mapping[str, slice]:
        """Where each group stands among the pre-activations; read-only."""
        return MappingProxyType(self.state_equation.pre_slices)

    @cached_property
    def state_equation(self) -> StateEquation:
        """The equation x = φ(A x + B u + b), with its plan of evaluation."""
        return StateEquation(self.groups, self._blocks, self.state_bias, self.n_inputs)

    @cached_property
    def output_equation(self) -> OutputEquation:
        """The equation y = C x + D u + d."""
        return OutputEquation(self.groups, self._blocks, self.output_bias)

    @property
    def A(self) -> Csr:  # noqa: N802
        """The whole of A as one ``csr_array`` (n, n): canonical, read-only; :attr:`csr_bytes` says how large."""
        return self.state_equation.A

    @cached_property
    def B(self) -> Csr:  # noqa: N802
        """The whole of B as one ``csr_array`` (n, p): canonical, read-only."""
        return self._assembled(self.pre_slices, {INPUT: slice(0, self.n_inputs)})

    @cached_property
    def C(self) -> Csr:  # noqa: N802
        """The whole of C as one ``csr_array`` (q, n): canonical, read-only."""
        return self._assembled({OUTPUT: slice(0, self.n_outputs)}, self.slices)

    @cached_property
    def D(self) -> Csr:  # noqa: N802
        """The whole of D as one ``csr_array`` (q, p): canonical, read-only."""
        return self._assembled({OUTPUT: slice(0, self.n_outputs)}, {INPUT: slice(0, self.n_inputs)})

    @cached_property
    def matrix(self) -> Csr:
        """The whole of M = [[A, B], [C, D]] as one ``csr_array`` (n_pre + q, n + p): canonical, read-only."""
        n, n_pre = self.n_states, self.n_pre
        rows, columns = {OUTPUT: slice(n_pre, n_pre + self.n_outputs)}, {INPUT: slice(n, n + self.n_inputs)}
        return self._assembled({**self.pre_slices, **rows}, {**self.slices, **columns})

    def _assembled(self, rows: Mapping[str, slice], columns: Mapping[str, slice]) -> Csr:
        return assemble(self.blocks, rows, columns, self.dtype)

    @property
    def nnz(self) -> int:
        """How many entries of M differ from zero; biases are not counted."""
        return sum(block.nnz for block in self.blocks.values())

    @property
    def part_nnz(self) -> dict[str, int]:
        """How many entries of A, B, C and D differ from zero, without writing them down."""
        counts = dict.fromkeys("ABCD", 0)
        for (row, column), block in self.blocks.items():
            counts["ABCD"[2 * (row == OUTPUT) + (column == INPUT)]] += block.nnz
        return counts

    @property
    def csr_bytes(self) -> int:
        """The bytes that A, B, C and D would take together as CSR: a convolution takes far fewer."""
        index = 4 if max(self.nnz, self.n_states, self.n_inputs) < 2**31 else 8
        rows = 2 * (self.n_pre + self.n_outputs) + 4
        return self.nnz * (self.dtype.itemsize + index) + rows * index

    @property
    def size(self) -> int:
        """How many entries M has, (n_pre + q)(n + p)."""
        return (self.n_pre + self.n_outputs) * (self.n_states + self.n_inputs)

    def sparsity(self, N0: int | None = None) -> float:
        """Return 100 (1 - nnz(M)/N0), in per cent of the ``N0`` weights of a network, or of size(M) if None."""
        return 100.0 * (1.0 - self.nnz / (self.size if N0 is None else as_count("N0", N0)))

    def storage_bits(self) -> StorageBits:
        """Count what A, B, C, D and the biases take as CSR, in bits (appendix B of the paper)."""
        n, n_pre, p, q = self.n_states, self.n_pre, self.n_inputs, self.n_outputs
        shapes = ((n_pre, n), (n_pre, p), (q, n), (q, p))
        sizes = [(*shape, nnz) for shape, nnz in zip(shapes, self.part_nnz.values(), strict=True)]
        return storage_bits(sizes, n_pre + q, self.dtype)

    def astype(self, dtype: Any) -> ImplicitModel:
        """Return the same model in float32 or float64; InputError for another ``dtype``, or values out of its range."""
        dtype = float_dtype(dtype)
        return self.with_blocks(
            {key: block.astype(dtype) for key, block in self.blocks.items()},
            state_bias=checked_bias(self.state_bias, self.n_pre, dtype, "state_bias"),
            output_bias=checked_bias(self.output_bias, self.n_outputs, dtype, "output_bias"),
        )

    def __call__(self, U: Any) -> Any:
        """Return ``predict(U)``."""
        return self.predict(U)

    def predict(self, U: Any) -> Any:
        """Return outputs Y (m, q) for inputs U (m, p) or (m, *input_shape), of the same kind: NumPy or torch.

        A model of several inputs also takes them as the network did, as a tuple or as a mapping by name.

        They are exact by substitution where A is triangular after a permutation, else found by Picard's iteration to
        1e-9 in the states. Inputs are cast to the model's dtype; memory beyond the outputs is bounded.

        Raises
        ------
        InputError
            U has the wrong shape, no samples, or NaN or infinite values; an input has another name, shape or kind of
            numbers than the one that the model was captured with; a sample's states or outputs leave the range
            of the dtype.
        NotWellPosedError
            A has cycles and λ_pf(diag(L)|A|) < 1 fails.
        ConvergenceError
            λ_pf is so close to 1 that the iteration takes too long.
        """
        batch = self.batch(U)
        if self._stream is not None:
            pieces = [*self._stream.chunks(len(batch))]
            if len(pieces) == 1:
                return like(self._stream.outputs(batch).contiguous(), first_array(U))
            Y = batch.new_empty(len(batch), self.n_outputs)
            for rows in pieces:
                Y[rows] = self._stream.outputs(batch[rows], rows.start)
            return like(Y, first_array(U))
        Y = batch.new_empty(len(batch), self.n_outputs)
        for rows in chunks(len(batch), self.n_inputs + self.n_states + self.n_pre):
            Y[rows] = self.evaluate(batch[rows], rows.start).Y
        return like(Y, first_array(U))

    def batch(self, U: Any, argument: str = "U") -> Tensor:
        """Return inputs in any form that :meth:`predict` takes as one tensor (m, p) in the model's dtype.

        ``argument`` is what the caller calls them, for errors, which are the InputErrors of :meth:`predict`.
        """
        if self.inputs is None:
            return as_batch(U, self.n_inputs, self.input_shape, self.dtype, argument)
        return self.inputs.pack(U, self.dtype, argument)

    @cached_property
    def _stream(self) -> Stream | None:
        return stream(self.groups, self._blocks, self.state_bias, self.output_bias, self.n_inputs)

    def evaluate(self, U: Tensor, first: int = 0) -> Evaluation:
        """Return states and outputs for a checked batch U (m, p) in the model's dtype, all samples at once.

        Errors are those of :meth:`predict`; they count samples from ``first``.
        """
        solution = self.state_equation.solve(U)
        check_range(solution.X, "states", first)
        X = self.state_equation.plan.to_model(solution.X)
        Y = self.output_equation.outputs(X, U)
        check_range(Y, "outputs", first)
        return Evaluation(solution, X, Y)


def as_model(model: object) -> ImplicitModel:
    """Return ``model``; InputError if it is anything else but an ImplicitModel."""
    if not isinstance(model, ImplicitModel):
        remedy = (
            "of a fit, give result.model"
            if type(model).__name__ == "FitResult"
            else "see simplicit.from_torch for networks"
        )
        found = f"got {type(model).__name__}; {remedy}"
        raise InputError(f"model must be an ImplicitModel, {found}", argument="model")
    return model
