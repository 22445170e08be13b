r"""What is known of a layer: a weight that multiplies states, all its uses, and what follows each.

At every position of every use the network computes the same linear map of what it sees there: z = W φ + b. The rows
of W are copied into A for each, so that they are trained together: they are *tied*.

What follows decides what a row may use and is measured by: a batch normalisation takes up any constant, a residual sum
lets the branch answer for the error of the skip path.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor
from torch.fx import Node

from simplicit.training.channels.after import Norm, Skip
from simplicit.training.channels.forms import Convolution, Form
from simplicit.training.channels.parts import Part, changed_in, part_of
from simplicit.training.channels.patches import Geometry


@dataclass(frozen=True, eq=False)
class Use:
    """One place where a layer's weight is used.

    ``node`` is z, with its bias in it where it is ``biased``, and ``source`` what the layer is applied to. ``axes`` are
    those of the weight in the order in which the ``form`` sees them. ``bias`` is a placeholder, and ``result`` is z
    with bias and norm. ``skip`` is what is added to that. The bias is a ``bias_part`` of its placeholder, or all of it.
    """

    node: Node
    source: Node
    form: Form
    axes: tuple[int, ...]
    bias: str | None
    biased: bool
    norm: Norm | None
    result: Node
    skip: Skip | None
    bias_part: Part | None = None


@dataclass(frozen=True, eq=False)
class ChannelLayer:
    """A weight of the network with all its uses.

    ``name`` is the module's path, or the parameter's name. ``placeholders`` all hold the weight, of that ``shape``, or
    are a parameter of which it is a ``part``, which the name says too. A bias is free if it is a parameter, or a part
    of one, that all uses have and nothing else, which takes up a constant.
    """

    name: str
    placeholders: tuple[str, ...]
    shape: tuple[int, ...]
    uses: tuple[Use, ...]
    rows: int
    free_bias: bool
    part: Part | None = None

    @property
    def weight(self) -> str:
        """The first placeholder."""
        return self.placeholders[0]

    @property
    def parameter(self) -> str:
        """The name without the part."""
        return self.name.removesuffix("" if self.part is None else str(self.part))

    @property
    def last(self) -> Use:
        """The last use, at which the layer is solved."""
        return self.uses[-1]

    @property
    def shared(self) -> bool:
        """Whether there are several uses."""
        return len(self.uses) > 1

    @property
    def form(self) -> Form:
        return self.last.form

    @property
    def node(self) -> Node:
        """z of the last use."""
        return self.last.node

    @property
    def source(self) -> Node:
        """What the last use is applied to."""
        return self.last.source

    @property
    def geometry(self) -> Geometry | None:
        """That of a convolution."""
        return self.form.geometry if isinstance(self.form, Convolution) else None

    @property
    def bias(self) -> str | None:
        """The placeholder of the last use's bias."""
        return self.last.bias

    @property
    def norm(self) -> Norm | None:
        """The batch norm behind the only use."""
        return self.last.norm

    @property
    def skip(self) -> Node | None:
        """What is added behind the last use."""
        return None if self.last.skip is None else self.last.skip.node

    @property
    def result(self) -> Node:
        """z of the last use, or what bias and norm make of it."""
        return self.last.result

    @property
    def groups(self) -> int:
        """Parts of the channels that do not see each other."""
        return self.form.groups

    @property
    def columns(self) -> int:
        """Columns of a group."""
        return self.size // self.rows

    @cached_property
    def size(self) -> int:
        """Number of weights."""
        return int(torch.Size(self.shape).numel())

    @property
    def constant(self) -> bool:
        """Whether a constant per row is free."""
        return self.free_bias or self.norm is not None

    def kernel(self, weight: Tensor) -> Tensor:
        """W (g, r, d) of the parameter that is the weight or has it."""
        return self.form.kernel(part_of(self.part, weight).permute(self.last.axes))

    def changed(self, kernel: Tensor, like: Tensor) -> dict[str, Tensor]:
        """The parameter with that kernel, in the dtype of another like it, for all placeholders."""
        axes = self.last.axes
        weight = self.form.weight(kernel, [self.shape[axis] for axis in axes])
        back = weight.permute([axes.index(axis) for axis in range(len(axes))]).to(like.dtype)
        return dict.fromkeys(self.placeholders, changed_in(self.part, like, back))


@dataclass(frozen=True, eq=False)
class Found:
    """The layers that are trained, in the order of their last uses, and why other weights are left alone, by name."""

    layers: list[ChannelLayer]
    left_alone: Mapping[str, str] = field(default_factory=dict)
    head: ChannelLayer | None = None


def nodes_before(node: Node) -> Iterator[Node]:
    """All that a node's value is computed from, itself included, in some order."""
    seen, left = {node}, [node]
    while left:
        one = left.pop()
        yield one
        for argument in one.all_input_nodes:
            if argument not in seen:
                seen.add(argument)
                left.append(argument)
