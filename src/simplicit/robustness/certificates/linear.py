r"""Certificate (c): margins by linear relaxation, on bounds of all states that are sharpened in the same way.

Stage after stage, the bounds of z are those of (b) on the states found so far, intersected with lower bounds of z and
of -z by :mod:`~simplicit.robustness.certificates.relaxation`. Where A has cycles, one such round follows those of (b):
each bound is sound whatever the others are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from simplicit.implicit.plan import Stage
from simplicit.robustness.certificates.interval import Enclosure, Neighbourhood
from simplicit.robustness.certificates.relaxation import Functionals, Relaxation
from simplicit.robustness.labels import with_labels

# A stage with more loose states than this keeps its bounds of (b): one sample's functionals of sharper ones would take
# 2 x 4096 numbers for every state.
_LARGEST_STAGE = 4096


def linear_margins(neighbourhood: Neighbourhood, enclosure: Enclosure, labels: Tensor, steps: int = 0) -> Tensor:
    """Return the margins of (c), (m, q), infinite at the labels, on bounds of :func:`sharpened`."""
    prepared = neighbourhood.prepared
    functionals = Functionals(
        x=prepared.C[labels][:, None] - prepared.C,
        u=prepared.D[labels][:, None] - prepared.D if bool(prepared.D.any()) else None,
        constant=prepared.d[labels][:, None] - prepared.d,
    )
    bounds = Relaxation(neighbourhood, enclosure).lower_bounds(functionals, len(prepared.stages), steps)
    return with_labels(bounds, labels, torch.inf)


def sharpened(neighbourhood: Neighbourhood, enclosure: Enclosure, steps: int = 0) -> Enclosure:
    """Return ``enclosure`` with bounds of z by linear relaxation, stage after stage, where they are narrower."""
    found = Enclosure(*(bound.clone() for bound in enclosure.bounds))
    for number, stage in enumerate(neighbourhood.prepared.stages):
        neighbourhood.update_stage_(found, number)
        columns = _loose(stage, found)
        if stage.terms and 0 < len(columns) <= _LARGEST_STAGE:
            lower, upper = _stage_bounds(neighbourhood, found, columns, number, steps)
            found.z_lower[:, columns] = torch.fmax(found.z_lower[:, columns], lower)
            found.z_upper[:, columns] = torch.fmin(found.z_upper[:, columns], upper)
            neighbourhood.activate_stage_(found, number)
    return found


def _loose(stage: Stage, found: Enclosure) -> Tensor:
    """Return the states of a stage whose φ is no straight line on their bounds, for one sample at least."""
    at = stage.target
    columns = torch.arange(at.start, at.stop)
    if not stage.activation.homogeneous:
        return columns
    return columns[((found.z_lower[:, at] < 0) & (found.z_upper[:, at] > 0)).any(dim=0)]


def _stage_bounds(
    neighbourhood: Neighbourhood, found: Enclosure, columns: Tensor, number: int, steps: int
) -> tuple[Tensor, Tensor]:
    """Return bounds of z in ``columns`` of a stage, (m, len(columns)): below by those of z, above by those of -z."""
    k = len(columns)
    z = torch.zeros(len(neighbourhood.U), 2 * k, neighbourhood.prepared.model.n_states, dtype=torch.float64)
    z[:, torch.arange(k), columns] = 1.0
    z[:, torch.arange(k) + k, columns] = -1.0
    bounds = Relaxation(neighbourhood, found).lower_bounds(Functionals(z=z), number, steps)
    return bounds[:, :k], -bounds[:, k:]
