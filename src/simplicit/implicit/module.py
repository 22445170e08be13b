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

from simplicit.checks import refused
from simplicit.errors import InputError
from simplicit.implicit.equilibrium import pull_back
from simplicit.implicit.groups import INPUT, OUTPUT
from simplicit.implicit.inputs import first_array, is_array, is_several
from simplicit.implicit.maps import LinearMap
from simplicit.implicit.model import ImplicitModel, as_model

_FLOATS = (torch.float32, torch.float64)


def to_torch(model: ImplicitModel, *, trainable: bool = False) -> ImplicitModule:
    """Make a ``torch.nn.Module`` with the same outputs, differentiable through the equilibrium.

    Parameters
    ----------
    model : ImplicitModel
    trainable : bool
        Whether its parameters, the non-zeros and biases, ask for gradients too; ``requires_grad_`` changes it later.

    Raises
    ------
    InputError
        ``model`` is no ImplicitModel; or ``trainable``, and a block is of a kind that says nothing of its values.
    """
    return ImplicitModule(as_model(model), trainable=trainable)


class ImplicitModule(nn.Module):
    """The outputs y = C x + D u + d at the equilibrium x = φ(A x + B u + b), as a module made by :func:`to_torch`.

    It takes inputs (m, *input_shape) or (m, p), m >= 0, casts them to the model's dtype and returns (m, *output_shape).
    A model of several inputs, or of integers, also takes tensors as the network did: in order, by the names of its
    arguments, as one tuple or one mapping. Gradients by floating-point inputs and parameters are those of the exact
    equilibrium; they can be taken once, not twice. It computes on the CPU, in float32 or float64; ``module.double()``
    and ``.float()`` change that, other dtypes and devices are refused.

    Attributes
    ----------
    values : nn.ParameterList
        The non-zeros of each block of A, B, C and D, row by row, or the weights of its convolutions; their places are
        fixed. Identities, slices and padding have none.
    keys : tuple of (row, column)
        The blocks that ``values`` belong to, as in ``ImplicitModel.blocks``.
    state_bias, output_bias : nn.Parameter, shapes (n_pre,) and (q,)
        b and d. Where one is zero it asks for no gradient, so that a model without biases stays one.

    Raises
    ------
    InputError
        On the way: inputs of another name, shape or kind, complex, NaN or infinite; parameters that are NaN or
        infinite; states or outputs that leave the range of the dtype; a dtype or device that is not supported.
    NotWellPosedError
        On the way: training has brought λ_pf(diag(L)|A|) to 1, where A has cycles.
    """

    def __init__(self, model: ImplicitModel, *, trainable: bool = False) -> None:
        super().__init__()
        # The places of the values are those of the blocks as they were given, also where a value becomes zero.
        self._model, self._blocks = model, dict(model.blocks)
        values = {key: _values(key, block, needed=trainable) for key, block in self._blocks.items()}
        self.keys = tuple(key for key, numbers in values.items() if len(numbers))
        self.values = nn.ParameterList([nn.Parameter(values[key], requires_grad=trainable) for key in self.keys])
        self.state_bias = _bias(model.state_bias, trainable)
        self.output_bias = _bias(model.output_bias, trainable)

        self._seen: list[Tensor] = [parameter.detach().clone() for parameter in self.parameters()]
        self._digest = torch.frombuffer(bytearray(self._structure()), dtype=torch.uint8)

    def extra_repr(self) -> str:
        """Return the sizes, for ``repr``."""
        sizes = ", ".join(f"{name}={getattr(self._model, name)}" for name in ("n_inputs", "n_states", "n_outputs"))
        return f"{sizes}, non_zeros={sum(value.numel() for value in self.values)}"

    @property
    def model(self) -> ImplicitModel:
        """The implicit model with the parameters as they are now."""
        # By value: writes to ``parameter.data`` leave no other trace, and this costs less than one sample does.
        now = list(self.parameters())
        if all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(now, self._seen, strict=True)):
            return self._model
        state_bias, output_bias = (bias.detach().numpy() for bias in (self.state_bias, self.output_bias))
        trained = {key: self._trained(key, value) for key, value in zip(self.keys, self.values, strict=True)}
        blocks = {key: block.astype(state_bias.dtype) for key, block in (self._blocks | trained).items()}
        self._model = self._model.with_blocks(blocks, state_bias=state_bias, output_bias=output_bias)
        self._seen = [parameter.detach().clone() for parameter in now]
        return self._model

    def _trained(self, key: tuple[str, str], values: Tensor) -> LinearMap:
        try:
            return self._blocks[key].with_values(values)
        except InputError as error:
            raise InputError(f"values of block {key}: {error}; training diverged, or a file is damaged") from error

    def forward(self, *in_order: Any, **by_name: Any) -> Tensor:
        """Return outputs (m, *output_shape) for inputs (m, *input_shape) or (m, p), or as the network took them."""
        model = self.model
        inputs = self._given(in_order, by_name)
        first: Tensor = first_array(inputs)
        flat = self._flat(model, inputs)
        parameters = (self.state_bias, self.output_bias, *self.values)
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (flat, *parameters)):
            blocks = {key: self._blocks[key] for key in self.keys}
            Y: Tensor = _Outputs.apply(model, blocks, flat, *parameters)  # type: ignore[no-untyped-call]
        else:
            Y = model.predict(flat) if len(flat) else flat.new_zeros(0, model.n_outputs)
        return Y.reshape(len(flat), *model.output_shape).to(first.device)

    def _given(self, in_order: tuple[Any, ...], by_name: dict[str, Any]) -> Any:
        """What the module was called with as one tensor, tuple or mapping of tensors."""
        layout = self._model.inputs
        if len(in_order) == 1 and not by_name:
            inputs = in_order[0]
        elif layout is not None and (in_order or by_name):
            inputs = layout.by_name(in_order, by_name) if by_name else in_order
        elif not in_order and [*by_name] == ["inputs"]:
            inputs = by_name["inputs"]
        else:
            names = [*(type(value).__name__ for value in in_order), *by_name]
            raise InputError(f"inputs must be one tensor, got {', '.join(names) or 'none'}", argument="inputs")
        several = layout is not None and is_several(inputs)
        values = inputs.values() if isinstance(inputs, Mapping) else inputs
        for value in (one for one in values if is_array(one)) if several else (inputs,):
            if not isinstance(value, Tensor):
                found = f"got {type(value).__name__}; see torch.from_numpy"
                raise InputError(f"inputs must be {'tensors' if several else 'a tensor'}, {found}", argument="inputs")
        return inputs

    def _flat(self, model: ImplicitModel, inputs: Any) -> Tensor:
        """Checked inputs as U (m, p) with their gradients, in the dtype of the parameters."""
        dtype = self.state_bias.dtype
        if isinstance(inputs, Tensor) and tuple(inputs.shape) in {(0, model.n_inputs), (0, *model.input_shape)}:
            return inputs.reshape(0, model.n_inputs).to("cpu", dtype)
        U = model.batch(inputs, "inputs").to(dtype)
        if model.inputs is not None:
            return model.inputs.attached(U, inputs)
        attached: Tensor = inputs.reshape(len(U), model.n_inputs).to("cpu", dtype)
        return attached

    def get_extra_state(self) -> Tensor:
        """Return a hash of where the values stand, so that those of another model are not taken for these."""
        return self._digest

    def set_extra_state(self, state: Tensor) -> None:
        """Do nothing: it is compared before anything is loaded."""

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        found = state_dict.get(f"{prefix}_extra_state")
        if isinstance(found, Tensor) and not torch.equal(found.cpu(), self._digest):
            raise InputError(
                "state_dict is of another implicit model: its groups or the places of its non-zeros differ; load it "
                "into to_torch() of the model that it was saved from",
                argument="state_dict",
            )
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _structure(self) -> bytes:
        """A hash of the groups, and of the blocks as files would hold them but for their values."""
        digest = hashlib.sha256(repr(self._model.groups).encode())
        for key, block in self._blocks.items():
            if key in self.keys:
                block = block.with_values(torch.ones(len(self.values[self.keys.index(key)]), dtype=torch.float64))
            entry, arrays = block.to_stored()
            digest.update(repr((key, block.shape, entry, list(arrays))).encode())
            for array in arrays.values():
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.digest()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ImplicitModule:
        """Move or cast, for ``to``, ``double``, ``cuda`` and the like; refused before anything is changed."""
        probe = fn(self.state_bias.detach().new_zeros(1))
        if probe.dtype not in _FLOATS or probe.device.type != "cpu":
            raise InputError(
                f"an implicit model computes on the CPU in float32 or float64, not on {probe.device} in {probe.dtype}; "
                "use module.float() or module.double(), and leave it on the CPU"
            )
        module: ImplicitModule = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return module


def _values(key: tuple[str, str], block: LinearMap, *, needed: bool) -> Tensor:
    """The values of a block, (k,); none, unless they are ``needed``, where its kind says nothing of them."""
    values = block.values
    if values is None and needed:
        raise refused(
            "trainable",
            f"block {key} is a {type(block).__name__}, a kind of map whose entries cannot be trained; leave "
            "trainable out, or train the network that the model came from",
        )
    return torch.empty(0) if values is None else values


def _bias(values: NDArray[Any], trainable: bool) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values), requires_grad=trainable and bool(values.any()))


class _Outputs(torch.autograd.Function):
    """Y (m, q) for flat inputs (m, p), differentiable once by inputs, biases and the values of blocks."""

    @staticmethod
    def forward(
        ctx: Any,
        model: ImplicitModel,
        blocks: Mapping[tuple[str, str], LinearMap],
        U: Tensor,
        state_bias: Tensor,
        output_bias: Tensor,
        *values: Tensor,
    ) -> Tensor:
        """Solve for the equilibrium and keep it, with φ' there."""
        ctx.model, ctx.blocks = model, blocks
        found = model.evaluate(U)
        ctx.slopes = model.state_equation.plan.derivative(found.solution.Z)
        ctx.save_for_backward(U, found.X)
        return found.Y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, Y_bar: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients by what asks for them."""
        model: ImplicitModel = ctx.model
        U, X = ctx.saved_tensors
        for_inputs, for_states, for_outputs, *for_values = ctx.needs_input_grad[2:]
        Z_bar, U_bar = pull_back(model, ctx.slopes, Y_bar)
        rows = {name: Z_bar[:, at] for name, at in model.pre_slices.items()} | {OUTPUT: Y_bar}
        sources = {name: X[:, columns] for name, columns in model.slices.items()} | {INPUT: U}
        by_values = (
            block.gradient(rows[row], sources[column]) if wanted else None
            for wanted, ((row, column), block) in zip(for_values, ctx.blocks.items(), strict=True)
        )
        by_states, by_outputs = Z_bar.sum(dim=0) if for_states else None, Y_bar.sum(dim=0) if for_outputs else None
        return None, None, U_bar if for_inputs else None, by_states, by_outputs, *by_values
