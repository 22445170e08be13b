"""Groups of states, each with one function φ from its pre-activations to its states."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simplicit.checks import as_count
from simplicit.errors import InputError
from simplicit.implicit.groups.elementwise import Activation

#: The names that stand for the input among columns of blocks, and for the output among rows.
INPUT, OUTPUT = "input", "output"


@dataclass(frozen=True)
class StateGroup:
    """A group of ``size`` states with a common activation, under a unique ``name`` other than "input" and "output"."""

    name: str
    size: int
    activation: Activation

    def check(self) -> None:
        """Refuse, with an InputError, a name, a size or an activation that is none."""
        if not isinstance(self.name, str) or not self.name or self.name in (INPUT, OUTPUT):
            raise InputError(f"a group's name must be a text other than '', 'input' and 'output', got {self.name!r}")
        as_count(f"the size of group {self.name!r}", self.size)
        if not isinstance(self.activation, Activation):
            raise InputError(f"the activation of group {self.name!r} must be an Activation, got {self.activation!r}")

    def to_config(self) -> dict[str, Any]:
        """Return the group as an object ready for JSON."""
        return {"name": self.name, "size": self.size, "activation": self.activation.to_config()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> StateGroup:
        """Return the group that :meth:`to_config` gave ``config`` for; InputError if its activation is none."""
        return cls(config["name"], config["size"], Activation.from_config(config["activation"]))


#: Kinds of groups by the entry in which files hold their φ; a group whose φ is not elementwise is one more line.
KINDS: dict[str, type[StateGroup]] = {"activation": StateGroup}


def slices_of(groups: Sequence[StateGroup]) -> dict[str, slice]:
    """Return where each group stands among the states, by its name."""
    stops = np.cumsum([0, *(group.size for group in groups)]).tolist()
    return {group.name: slice(start, stop) for group, start, stop in zip(groups, stops[:-1], stops[1:], strict=True)}


def per_state(groups: Sequence[StateGroup], quantity: Callable[[Activation], float]) -> NDArray[np.float64]:
    """Return a quantity of the activation of every state, (n,)."""
    sizes = np.array([group.size for group in groups], dtype=np.int64)
    return np.repeat([quantity(group.activation) for group in groups], sizes).astype(np.float64)
