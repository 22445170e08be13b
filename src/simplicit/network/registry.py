r"""The registry: what each torch operation is for an affine value (see :mod:`~simplicit.network.affine`).

:data:`REGISTRY` has one entry per operation, by its name ("relu", or "library.name" for operations of other libraries
than torch's own), of one of these kinds (see :mod:`~simplicit.network.rules`):

- :class:`Elementwise`: an activation φ, which opens a group of states;
- :class:`Linear`: a function of :mod:`~simplicit.network.linear`, from affine values to an affine value;
- :class:`Moving`: elements only change places; :class:`Along`: they do along dimensions of their own;
- :class:`Filling`: a tensor of constants, of a size that may depend on the number of samples.

Whatever an entry cannot represent it refuses with a :class:`~simplicit.network.affine.NotAffineError`; a block of
states stands for it then, if it may have the operation (:mod:`~simplicit.implicit.groups.program`). Operations that
are others in disguise are in :mod:`~simplicit.network.rewrites`. A new operation is one new entry, here or there; both
are read whenever a network is, so that an entry may be made at run time.
"""

from __future__ import annotations

from difflib import get_close_matches
from functools import partial
from typing import Any

from torch._ops import OpOverload

from simplicit.implicit import Activation
from simplicit.implicit.groups.program import OPERATIONS
from simplicit.network import images, linear
from simplicit.network.affine import NotAffineError
from simplicit.network.rewrites import REWRITES
from simplicit.network.rules import Along, Elementwise, Filling, Linear, Moving, Rule


def _elu(alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Activation:
    if scale != 1 or input_scale != 1:
        raise NotAffineError("ELU with inner scales is not known")
    return Activation.of("elu", alpha=alpha)


# An activation takes the arguments of its operation after the first one, with torch's defaults.
_TABLE: tuple[tuple[str, Rule], ...] = (
    *((name, Elementwise(partial(Activation, name))) for name in ("abs", "relu", "sigmoid", "silu", "tanh")),
    ("elu", Elementwise(_elu)),
    ("gelu", Elementwise(lambda *, approximate="none": Activation("gelu_tanh" if approximate == "tanh" else "gelu"))),
    (
        "hardtanh",
        Elementwise(lambda min_val=-1, max_val=1: Activation.of("hardtanh", min_val=min_val, max_val=max_val)),
    ),
    ("leaky_relu", Elementwise(lambda negative_slope=0.01: Activation.of("leaky_relu", negative_slope=negative_slope))),
    ("softplus", Elementwise(lambda beta=1, threshold=20: Activation.of("softplus", beta=beta, threshold=threshold))),
    ("add", Linear(linear.add)),
    ("sub subtract", Linear(lambda self, other, *, alpha=1: linear.add(self, other, alpha=-alpha))),
    ("rsub", Linear(lambda self, other, alpha=1: linear.add(other, self, alpha=-alpha))),
    ("neg negative", Linear(lambda self: linear.mul(self, -1.0))),
    ("mul multiply", Linear(linear.mul)),
    ("div divide true_divide", Linear(linear.div)),
    ("sum", Linear(linear.summed)),
    ("mean", Linear(linear.mean)),
    ("linear", Linear(linear.affine_layer)),
    ("matmul mm bmm mv", Linear(linear.matmul)),
    ("inner", Linear(lambda self, other: linear.tensordot(self, other, [-1], [-1]))),
    ("tensordot", Linear(linear.tensordot)),
    ("einsum", Linear(linear.einsum)),
    *((f"conv{rank}d", Linear(images.convolution_of(rank))) for rank in (1, 2, 3)),
    ("convolution", Linear(images.convolution)),
    ("conv_transpose1d conv_transpose2d conv_transpose3d", Linear(images.convolution_transposed)),
    ("_native_batch_norm_legit_no_training", Linear(images.batch_norm)),
    *((f"avg_pool{rank}d", Linear(images.avg_pool(rank))) for rank in (1, 2, 3)),
    *((f"adaptive_avg_pool{rank}d", Linear(images.adaptive_avg_pool(rank))) for rank in (1, 2, 3)),
    ("upsample_linear1d", Linear(images.upsample("linear"))),
    ("upsample_bilinear2d", Linear(images.upsample("bilinear"))),
    ("upsample_bicubic2d", Linear(images.upsample("bicubic"))),
    ("upsample_trilinear3d", Linear(images.upsample("trilinear"))),
    ("cumsum", Linear(linear.cumsum)),
    ("diff", Linear(linear.diff)),
    ("dropout feature_dropout alpha_dropout", Linear(linear.dropout)),
    ("_to_copy type_as", Linear(linear.converted)),
    ("sym_size", Linear(linear.sym_size)),
    ("flatten reshape expand permute t transpose squeeze unsqueeze clone detach", Moving()),
    ("cat hstack stack repeat tile diag_embed select select_scatter index index_put", Moving()),
    ("pixel_shuffle pixel_unshuffle channel_shuffle", Moving()),
    ("upsample_nearest1d upsample_nearest2d _upsample_nearest_exact1d _upsample_nearest_exact2d", Moving()),
    ("upsample_nearest3d _upsample_nearest_exact3d", Moving()),
    ("fill masked_fill pad", Moving(numbers=("value",))),
    ("where", Moving(numbers=("self", "other"))),
    ("chunk slice slice_scatter split split_with_sizes unbind unfold index_select", Along()),
    ("diagonal flip repeat_interleave roll", Along()),
    ("tril triu", Along(default=(-2, -1))),
    ("full full_like new_full new_ones new_zeros ones ones_like zeros zeros_like", Filling()),
)

#: The rule of each operation by its name.
REGISTRY: dict[str, Rule] = {name: rule for names, rule in _TABLE for name in names.split()}

# Blocks know them, but what torch makes of them only moves numbers, and sums them.
_LINEAR = frozenset(["cumulative_trapezoid", "fft_fftshift", "fft_ifftshift", "fliplr", "flipud"])

#: The reasons for which operations have no entry, and what to do.
ADVICE: dict[str, str] = {
    **dict.fromkeys(
        ("native_batch_norm", "_native_batch_norm_legit", "batch_norm"),
        "it takes the statistics of the batch; keep running ones (track_running_stats=True)",
    ),
    "masked_scatter": "it takes the numbers of its source one after the other, over all samples; if these lie in their "
    "places already, write torch.where(mask, source, x)",
    "native_dropout": "it is random also in evaluation mode; pass `training=self.training` to it",
}

#: How the experts of transformers' models are computed for each token by itself.
EXPERTS_REMEDY = 'call net.set_experts_implementation("batched_mm") before'


def supported() -> str:
    """The operations that are known, by kind, without torch's internal spellings."""
    return "; ".join(f"{kind}: {', '.join(names)}" for kind, names in _kinds().items())


def _kinds() -> dict[str, list[str]]:
    return {
        "activations": _names(Elementwise),
        "written in terms of others": sorted({spelled(operation.overloadpacket) for operation in REWRITES}),
        "linear": _names(Linear),
        "moving elements": _names(Moving),
        "making constants": _names(Filling),
        "in blocks": sorted(OPERATIONS),
    }


def summary(operation: str) -> str:
    """Where it is said what is supported, and names that are close to that of ``operation``."""
    known = sorted({name for names in _kinds().values() for name in names})
    near = [name for name in get_close_matches(operation, known, n=3, cutoff=0.7) if name != operation]
    close = f"Similar and supported: {', '.join(near)}; " if near else ""
    return f"{close}simplicit.network.registry.supported() lists all that goes in"


def is_opened(operation: OpOverload) -> bool:
    """Whether an operation is read as those that torch itself makes of it: one that has no name here, or is linear."""
    name = spelled(operation.overloadpacket)
    known = name in REGISTRY or name in OPERATIONS - _LINEAR or operation._schema.is_mutable
    return operation.namespace == "aten" and not known and operation._can_decompose()


def _names(kind: type) -> list[str]:
    return sorted(name for name, rule in REGISTRY.items() if isinstance(rule, kind) and name[0] != "_")


def spelled(operation: Any) -> str:
    """The name of an operation without torch's own prefix."""
    return str(operation).removeprefix("aten.")
