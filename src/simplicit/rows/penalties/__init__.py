"""Penalties h of the row problem: one file each.

A penalty is a separable convex function Σⱼ hⱼ(wⱼ); ``piecewise`` has the form that all of them take in the solver and
what follows from it, the proximal map, the conjugate and the slopes. ``PENALTIES`` names the ones there are, each with
its default numbers.
"""

from __future__ import annotations

from simplicit.rows.penalties.basis_pursuit import BasisPursuit
from simplicit.rows.penalties.elastic_net import ElasticNet
from simplicit.rows.penalties.l1 import L1
from simplicit.rows.penalties.none import NoPenalty
from simplicit.rows.penalties.perspective import Perspective
from simplicit.rows.penalties.piecewise import Penalty, PiecewiseQuadratic

__all__ = [
    "L1",
    "PENALTIES",
    "BasisPursuit",
    "ElasticNet",
    "NoPenalty",
    "Penalty",
    "Perspective",
    "PiecewiseQuadratic",
]

#: The penalties by their names, with their default numbers; what is added here is a penalty everywhere.
PENALTIES: dict[str, Penalty] = {
    "l1": L1(beta=1e-3),
    "elastic-net": ElasticNet(beta=1e-3, alpha=1e-3),
    "perspective": Perspective(alpha=1e-3, gamma=1e-3),
    "basis-pursuit": BasisPursuit(),
    "none": NoPenalty(),
}
