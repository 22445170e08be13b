"""Groups of states, each with one function φ from its pre-activations to its states.

Most φ are elementwise, with one pre-activation for each state. A block (:mod:`~simplicit.implicit.groups.blocks`) has a
pre-activations for its b states, so that A = [A_gh] is (Σ a) × (Σ b), rectangular.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simplicit.checks import as_count
from simplicit.errors import InputError
from simplicit.implicit.groups.blocks import Block
from simplicit.implicit.groups.elementwise import Activation

#: The names that stand for the input among columns of blocks, and for the output among rows.
INPUT, OUTPUT = "input", "output"


#: The functions φ that a group may have, by the entry of files that holds them.
KINDS: dict[str, type[Activation] | type[Block]] = {"activation": Activation, "block": Block}


@dataclass(frozen=True)
class StateGroup:
    """A group of ``size`` states with a common φ, under a unique ``name`` other than "input" and "output".

    ``activation`` is an elementwise function, or a block of that size.
    """

    name: str
    size: int
    activation: Activation | Block

    @property
    def pre_size(self) -> int:
        """How many pre-activations the group has."""
        return self.activation.pre_size if isinstance(self.activation, Block) else self.size

    @property
    def pointwise(self) -> bool:
        """Whether every state depends on its own pre-activation only, all by the same φ."""
        return not isinstance(self.activation, Block) or self.activation.pointwise

    def check(self) -> None:
        """Refuse, with an InputError, a name, a size or an activation that is none."""
        if not isinstance(self.name, str) or not self.name or self.name in (INPUT, OUTPUT):
            raise InputError(f"a group's name must be a text other than '', 'input' and 'output', got {self.name!r}")
        as_count(f"the size of group {self.name!r}", self.size)
        phi = self.activation
        if not isinstance(phi, Activation | Block):
            raise InputError(f"the activation of group {self.name!r} must be an Activation or a Block, got {phi!r}")
        if isinstance(phi, Block) and phi.size != self.size:
            raise InputError(f"group {self.name!r} has {self.size} states, but its block gives {phi.size}")

    def to_config(self) -> dict[str, Any]:
        """Return the group as an object ready for JSON."""
        kind = next(kind for kind, phi in KINDS.items() if isinstance(self.activation, phi))
        return {"name": self.name, "size": self.size, kind: self.activation.to_config()}

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """What files hold of the group beside :meth:`to_config`."""
        return self.activation.arrays if isinstance(self.activation, Block) else {}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> StateGroup:
        """Return the group that :meth:`to_config` gave ``config`` for; InputError if its φ is none."""
        name, size = config["name"], config["size"]
        if "block" in config:
            return cls(name, size, Block.from_config(config["block"], size, arrays))
        return cls(name, size, Activation.from_config(config["activation"]))


def first_block(groups: Sequence[StateGroup]) -> StateGroup | None:
    """Return the first group with a block; None where every φ is elementwise."""
    return next((group for group in groups if isinstance(group.activation, Block)), None)


def slices_of(groups: Sequence[StateGroup]) -> dict[str, slice]:
    """Return where each group stands among the states, by its name."""
    return _slices(groups, [group.size for group in groups])


def pre_slices_of(groups: Sequence[StateGroup]) -> dict[str, slice]:
    """Return where each group stands among the pre-activations, by its name."""
    return _slices(groups, [group.pre_size for group in groups])


def _slices(groups: Sequence[StateGroup], sizes: Sequence[int]) -> dict[str, slice]:
    stops = np.cumsum([0, *sizes]).tolist()
    return {group.name: slice(start, stop) for group, start, stop in zip(groups, stops[:-1], stops[1:], strict=True)}


def per_state(groups: Sequence[StateGroup], quantity: Callable[[Activation | Block], float]) -> NDArray[np.float64]:
    """Return a quantity of the activation of every state, (n,)."""
    sizes = np.array([group.size for group in groups], dtype=np.int64)
    return np.repeat([quantity(group.activation) for group in groups], sizes).astype(np.float64)
