"""Robust training: layers that move little over a box of inputs, matched where it counts."""

from __future__ import annotations

from simplicit.training.robust.training import RobustOptions, RobustTraining, parse_strengths

__all__ = ["RobustOptions", "RobustTraining", "parse_strengths"]
