"""What is found in a graph by reading it: groups of states, and the affine values that they are made of."""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import Node

from simplicit.implicit import StateGroup
from simplicit.network.affine import Affine
from simplicit.network.layouts import Layout


@dataclass(frozen=True)
class OpenedGroup:
    """A group of states, and the nodes whose values are its pre-activations, one after the other, in their layouts.

    ``layout`` is that of the states in the value of the node that makes them, unless the group is a block.
    """

    group: StateGroup
    operands: tuple[tuple[Node, Layout | None], ...]
    layout: Layout | None


@dataclass(frozen=True)
class Reading:
    """What a graph computes: its groups by the nodes that make them, in order, their pre-activations, and its output.

    All are affine in the input and in the states of groups, in the precision that they are computed in.
    """

    groups: dict[Node, OpenedGroup]
    pre_activations: dict[str, Affine]
    output: Affine
