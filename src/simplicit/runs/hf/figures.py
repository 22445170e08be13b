"""Figures of networks on texts, as tables have them."""

from __future__ import annotations

from collections.abc import Mapping

from simplicit.runs.hf.heads import MEASURES


def as_text(name: str, value: float | None) -> str:
    """A figure as tables have it; nothing for None."""
    if value is None:
        return ""
    return f"{100 * value:.2f} %" if MEASURES[name].share else f"{value:.4g}" if value >= 10 else f"{value:.4f}"


def lines_of(measures: Mapping[str, float]) -> list[tuple[str, str, str]]:
    """Figures as lines of a table: what it is, of the dense network, of the other one."""

    return [
        (MEASURES[name].label, as_text(name, measures.get(f"baseline_{name}")), as_text(name, measures[name]))
        for name in MEASURES
        if name in measures
    ]
