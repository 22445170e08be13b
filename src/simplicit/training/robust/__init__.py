"""Robust training: layers that move little over a box of inputs, matched where it counts."""

from __future__ import annotations

from simplicit.training.robust.options import RobustOptions
from simplicit.training.robust.training import RobustFit, RobustTraining

__all__ = ["RobustFit", "RobustOptions", "RobustTraining"]
