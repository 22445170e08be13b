r"""An implicit model as a ``torch.nn.Module``: autograd goes through the equilibrium.

With Ȳ the gradient by the outputs, Z̄ = φ'(Z) ∘ (Z̄ A + Ȳ C) is one pass of substitution in reverse, or the adjoint
fixed point, and

    Ū = Z̄ B + Ȳ D,   Āᵢⱼ = Σ z̄ᵢ xⱼ,   B̄ᵢⱼ = Σ z̄ᵢ uⱼ,   C̄ᵢⱼ = Σ ȳᵢ xⱼ,   D̄ᵢⱼ = Σ ȳᵢ uⱼ,   b̄ = Σ z̄,   d̄ = Σ ȳ

with sums over samples. No step of an iteration is kept, so that memory does not grow with their number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from simplicit.errors import InputError
from simplicit.implicit.batch import as_batch, check_range
from simplicit.implicit.maps.base import LinearMap
from simplicit.implicit.maps.entries import Entries, entries_of
from simplicit.implicit.maps.files import Arrays, describe
from simplicit.implicit.model import INPUT, OUTPUT, PREDICTION_TOL, ImplicitModel

__all__ = ["ImplicitModule"]

_FLOATS = (torch.float32, torch.float64)


class ImplicitModule(nn.Module):
    """y = C x + D u + d at the equilibrium x = φ(A x + B u + b), as a module; made by ``ImplicitModel.to_torch``.

    Takes inputs (m, *input_shape) or (m, p), m >= 0, casts them to the model's dtype and returns (m, *output_shape).
    Gradients by inputs and parameters are those of the exact equilibrium; they can be taken once, not twice. It
    computes on the CPU, in float32 or float64; ``module.double()`` and ``.float()`` change that, other dtypes and
    devices are refused.

    Parameters
    ----------
    model : ImplicitModel
    trainable : bool
        Whether parameters ask for gradients; ``requires_grad_`` changes it later.

    Attributes
    ----------
    values : nn.ParameterList
        The non-zeros of each block of A, B, C and D, row by row, or the weights of its convolutions; their places are
        fixed. Identities, slices and padding have none.
    keys : tuple of (row, column)
        The blocks that ``values`` belong to, as in ``ImplicitModel.blocks``.
    state_bias, output_bias : nn.Parameter, shapes (n,) and (q,)
        b and d. Where one is zero it asks for no gradient, so that a model without biases stays one.

    Raises
    ------
    InputError
        On the way: inputs of another shape, complex, NaN or infinite; parameters that are NaN or infinite; states or
        outputs that leave the range of the dtype; a dtype or device that is not supported.
    NotWellPosedError
        On the way: training has brought λ_pf(diag(L)|A|) to 1, where A has cycles.
    """

    def __init__(self, model: ImplicitModel, *, trainable: bool = False) -> None:
        super().__init__()
        found = {key: entries_of(block, key, needed=trainable) for key, block in model.blocks.items()}
        self._entries: dict[tuple[str, str], Entries] = {
            key: entries for key, entries in found.items() if entries is not None
        }
        self._model, self._blocks = model, dict(model.blocks)
        self.keys = tuple(self._entries)
        self.values = nn.ParameterList(
            [nn.Parameter(entries.values, requires_grad=trainable) for entries in self._entries.values()]
        )
        self.state_bias = _bias(model.state_bias, trainable)
        self.output_bias = _bias(model.output_bias, trainable)

        self._seen: list[Tensor] = [parameter.detach().clone() for parameter in self.parameters()]
        self._digest = torch.frombuffer(bytearray(self._structure().digest()), dtype=torch.uint8)

    def extra_repr(self) -> str:
        """Sizes, for ``repr``."""
        known = self._model
        non_zeros = sum(value.numel() for value in self.values)
        return (
            f"n_inputs={known.n_inputs}, n_states={known.n_states}, n_outputs={known.n_outputs}, non_zeros={non_zeros}"
        )

    @property
    def model(self) -> ImplicitModel:
        """The implicit model with the parameters as they are now."""
        # By value: writes to ``parameter.data`` leave no other trace, and this costs less than one sample does.
        now = list(self.parameters())
        if all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(now, self._seen, strict=True)):
            return self._model
        known = self._model
        dtype = np.dtype(np.float64 if self.state_bias.dtype == torch.float64 else np.float32)
        blocks = self._blocks | {
            key: self._rebuilt(key, value) for key, value in zip(self.keys, self.values, strict=True)
        }
        self._model = ImplicitModel(
            known.groups,
            {key: block.astype(dtype) for key, block in blocks.items()},
            n_inputs=known.n_inputs,
            n_outputs=known.n_outputs,
            state_bias=self.state_bias.detach().numpy(),
            output_bias=self.output_bias.detach().numpy(),
            input_shape=known.input_shape,
            output_shape=known.output_shape,
        )
        self._seen = [parameter.detach().clone() for parameter in now]
        return self._model

    def _rebuilt(self, key: tuple[str, str], values: Tensor) -> LinearMap:
        try:
            return self._entries[key].rebuilt(values)
        except InputError as error:
            raise InputError(f"values of block {key}: {error}; training diverged, or a file is damaged") from error

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs (m, *output_shape) for inputs (m, *input_shape) or (m, p)."""
        model = self.model
        if not isinstance(inputs, Tensor):
            raise InputError(f"inputs must be a tensor, got {type(inputs).__name__}; see torch.from_numpy")
        if tuple(inputs.shape) not in {(0, model.n_inputs), (0, *model.input_shape)}:
            as_batch(inputs, model.n_inputs, model.input_shape, model.dtype, "inputs")
        flat = inputs.reshape(len(inputs), model.n_inputs).to("cpu", self.state_bias.dtype)
        parameters = (self.state_bias, self.output_bias, *self.values)
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (flat, *parameters)):
            Y: Tensor = _Outputs.apply(model, self._entries, flat, *parameters)  # type: ignore[no-untyped-call]
        else:
            Y = model.predict(flat) if len(flat) else flat.new_zeros(0, model.n_outputs)
        return Y.reshape(len(inputs), *model.output_shape).to(inputs.device)

    def get_extra_state(self) -> Tensor:
        """A hash of where the values stand, so that those of another model are not taken for these."""
        return self._digest

    def set_extra_state(self, state: Tensor) -> None:
        """Nothing: it is compared before anything is loaded."""

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        found = state_dict.get(f"{prefix}_extra_state")
        if isinstance(found, Tensor) and not torch.equal(found.cpu(), self._digest):
            raise InputError(
                "state_dict is of another implicit model: its groups or the places of its non-zeros differ; load it "
                "into to_torch() of the model that it was saved from"
            )
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _structure(self) -> Any:
        digest = hashlib.sha256(repr((self._model.groups, self.keys)).encode())
        for key, block in self._blocks.items():
            entries = self._entries.get(key)
            digest.update(_written(block) if entries is None else entries.pattern)
        return digest

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ImplicitModule:
        """For ``to``, ``double``, ``cuda`` and the like; refused before anything is changed."""
        probe = fn(self.state_bias.detach().new_zeros(1))
        if probe.dtype not in _FLOATS or probe.device.type != "cpu":
            raise InputError(
                f"an implicit model computes on the CPU in float32 or float64, not on {probe.device} in {probe.dtype}; "
                "use module.float() or module.double(), and leave it on the CPU"
            )
        module: ImplicitModule = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return module


def _written(block: LinearMap) -> bytes:
    """All that there is to a block, values included."""
    arrays: Arrays = {}
    entry = describe(block, "block", arrays)
    return repr(entry).encode() + b"".join(np.ascontiguousarray(array).tobytes() for array in arrays.values())


def _bias(values: NDArray[Any], trainable: bool) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values), requires_grad=trainable and bool(values.any()))


class _Outputs(torch.autograd.Function):
    """Y (m, q) for flat inputs (m, p), differentiable once by inputs, biases and entries."""

    @staticmethod
    def forward(
        ctx: Any,
        model: ImplicitModel,
        entries: Mapping[tuple[str, str], Entries],
        U: Tensor,
        state_bias: Tensor,
        output_bias: Tensor,
        *values: Tensor,
    ) -> Tensor:
        """Solve for the equilibrium and keep it, with φ' there."""
        ctx.model, ctx.entries = model, entries
        if not len(U):
            ctx.save_for_backward(U, U.new_zeros(0, model.n_states), U.new_zeros(0, model.n_states))
            return U.new_zeros(0, model.n_outputs)
        plan = model._system.plan
        solution = model._system.solve(U, PREDICTION_TOL)
        check_range(solution.X, "states")
        X = plan.to_model(solution.X)
        Y = model._outputs(X, U)
        check_range(Y, "outputs")
        ctx.save_for_backward(U, X, plan.derivative(solution.Z))
        return Y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, Y_bar: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients by what asks for them."""
        model: ImplicitModel = ctx.model
        U, X, slopes = ctx.saved_tensors
        for_inputs, for_states, for_outputs, *for_values = ctx.needs_input_grad[2:]
        X_bar, U_bar = model._pull_back_outputs(Y_bar)
        Z_bar = model._system.pull_back_states_(slopes, X_bar) if len(U) else X_bar
        rows = {name: Z_bar[:, columns] for name, columns in model.slices.items()} | {OUTPUT: Y_bar}
        sources = {name: X[:, columns] for name, columns in model.slices.items()} | {INPUT: U}
        if for_inputs:
            through = model._system.pull_back_drive(Z_bar)
            U_bar = through if U_bar is None else U_bar + through
        return (
            None,
            None,
            U_bar if for_inputs else None,
            Z_bar.sum(dim=0) if for_states else None,
            Y_bar.sum(dim=0) if for_outputs else None,
            *(
                entries.gradient(rows[row], sources[column]) if wanted else None
                for wanted, ((row, column), entries) in zip(for_values, ctx.entries.items(), strict=True)
            ),
        )
