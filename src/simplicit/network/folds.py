r"""A weight that is computed from one parameter in a way that can be undone.

    w_e = c_e θ_π(e) + d_e,        θ_π(e) = (w_e − d_e) / c_e

for the entries e of the weight w, each of an entry π(e) of the parameter θ of its own. So are views of any kind,
entries that are picked by an index, masks (c is 0 where an entry is masked, and w is 0 there too) and multiples, and
sums with what does not depend on θ, such as the product of two other parameters (low-rank adaptation).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Fold:
    """How a weight, or a bias, is computed.

    ``parameter`` is the name of θ in the network, ``entries`` π, ``factors`` c and ``offsets`` d, each of the shape of
    the weight; ``beside`` names the other parameters that it is computed from, which stay as they are.
    """

    parameter: str
    entries: Tensor
    factors: Tensor
    offsets: Tensor
    beside: tuple[str, ...] = ()

    @property
    def free(self) -> Tensor:
        """Which entries of the weight are those of an entry of θ."""
        return self.factors != 0

    def same(self, other: Fold) -> bool:
        """Whether two weights are computed alike."""
        pairs = ((self.entries, other.entries), (self.factors, other.factors), (self.offsets, other.offsets))
        return self.parameter == other.parameter and all(torch.equal(*pair) for pair in pairs)

    def overlaps(self, other: Fold) -> bool:
        """Whether an entry of θ is in both."""
        if self.parameter != other.parameter:
            return False
        return bool(torch.isin(self.entries[self.free], other.entries[other.free]).any())

    def put(self, parameter: Tensor, weight: Tensor) -> Tensor:
        """What θ is, as a copy of ``parameter`` in its dtype, for a weight to be ``weight``."""
        changed, free = parameter.clone(), self.free
        values = (weight[free].double() - self.offsets[free].double()) / self.factors[free].double()
        changed.view(-1)[self.entries[free]] = values.to(parameter.dtype)
        return changed


def unfolded(
    folds: Mapping[str, Fold], parameters: Mapping[str, Tensor], changed: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The parameters, by their names, of which ``changed`` weights, by those of their folds, are computed."""
    found: dict[str, Tensor] = {}
    for name, fold in folds.items():
        if name in changed:
            parameter = found.get(fold.parameter, parameters[fold.parameter].detach().contiguous())
            found[fold.parameter] = fold.put(parameter, changed[name])
    return found
