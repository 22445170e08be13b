"""Kinds of operations, by which of the elements that they are given each element of their result depends on.

Whoever follows rows, channels or heads through a graph asks here what an operation does to them: training, which drops
them, and compaction, which takes out those that are dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

import torch
from torch.fx import Node

from simplicit.network.operations import name_of
from simplicit.network.registry import REGISTRY
from simplicit.network.rules import Elementwise, Moving

#: Operations on each number that torch does not tag as such, and norms whose statistics are constants.
POINTWISE = frozenset(
    {"dropout", "feature_dropout", "alpha_dropout", "_to_copy", "to", "type_as", "contiguous", "alias", "hardswish"}
    | {"prelu", "_prelu_kernel", "log_sigmoid", "log_sigmoid_forward", "clone", "detach", "mish", "celu", "elu"}
    | {"_native_batch_norm_legit_no_training", "lift_fresh_copy"}
)
#: Operations along the dimensions in the argument "dim", or along all.
ALONG = frozenset(
    {"softmax", "_softmax", "log_softmax", "_log_softmax", "sum", "mean", "amax", "amin", "var", "std", "prod", "norm"}
    | {"linalg_vector_norm", "logsumexp", "cumsum", "_safe_softmax"}
)
#: Norms of each channel by what it is in a sample, or in all of them.
OF_CHANNELS = frozenset({"batch_norm", "native_batch_norm", "_native_batch_norm_legit", "instance_norm"})
NORMS = frozenset({"layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm"})
PRODUCTS = frozenset({"matmul", "mm", "bmm"})
IMAGES = ("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool", "upsample_", "_upsample", "lp_pool")
#: Arguments that say where elements go.
PLACES = frozenset({"indices", "index", "mask", "repeats"})


class Kind(Enum):
    """What an operation is."""

    ATTENTION = "softmax(Q Kᵀ) V"
    PRODUCT = "a product of matrices"
    CONTRACTION = "a sum of products that is written out"
    STATISTICS = "computed along some axes"
    IMAGE = "computed within a channel of an image"
    MOVED = "elements change places"
    NUMBERS = "computed on each number"


def kind_of(node: Node) -> Kind | None:
    """The kind of a node's operation; None where it is none of them."""
    name = name_of(node)
    known = REGISTRY.get(name)
    if name == "scaled_dot_product_attention":
        return Kind.ATTENTION
    if name in PRODUCTS:
        return Kind.PRODUCT
    if name == "einsum":
        return Kind.CONTRACTION
    if name in ALONG | NORMS | OF_CHANNELS or name == "group_norm":
        return Kind.STATISTICS
    if name.startswith(IMAGES):
        return Kind.IMAGE
    if isinstance(known, Moving) and name != "where":
        return Kind.MOVED
    tags = getattr(node.target, "tags", ())
    if name in POINTWISE or isinstance(known, Elementwise) or torch.Tag.pointwise in tags:
        return Kind.NUMBERS
    return None


def arguments_of(node: Node) -> dict[str, Any]:
    """The arguments that are given, by the names of the operation's schema."""
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    return dict(zip(names, node.args, strict=False)) | dict(node.kwargs)


def axes_of(node: Node, arguments: Mapping[str, Any], ndim: int) -> list[int]:
    """The axes of so many along which an operation computes."""
    if name_of(node) in OF_CHANNELS:
        return [axis for axis in range(ndim) if axis != 1]
    if name_of(node) in NORMS:
        return [ndim - 1 - axis for axis in range(len(arguments["normalized_shape"]))]
    given = arguments.get("dim")
    dims = [*range(ndim)] if given is None or given == [] else [given] if isinstance(given, int) else list(given)
    return [dim % ndim for dim in dims]


def image_rank(node: Node) -> int:
    """How many axes of an image an operation computes along; 0 where its name does not say."""
    return next((int(one) for one in name_of(node) if one.isdigit()), 0)
