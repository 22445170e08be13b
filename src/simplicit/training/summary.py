"""One screen of text about a fit: what was done, what is certified, where the non-zeros went."""

from __future__ import annotations

import math
import textwrap
from dataclasses import fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simplicit.training.result import FitResult, LayerFigures

#: Columns of a line of options.
_WIDTH = 100


def summary_of(result: FitResult) -> str:
    """The summary of a fit."""
    figures, seconds = result.figures(), ", ".join(f"{stage} {spent:.2f} s" for stage, spent in result.seconds.items())
    lines = [
        f"State-driven training on {result.n_samples:,} samples, recipe {type(result.recipe).__name__}",
        *_labelled("options", _options(result.recipe)),
        *_method(result),
        *_labelled(
            "rows",
            f"{figures['rows_certified']} of {len(result.rows)} certified, largest relative gap "
            f"{figures['largest_relative_gap']:.1e} (tol {result.tol:g})",
        ),
        *_labelled(
            "weights", f"{result.nnz:,} non-zeros, the baseline has {result.weight_count:,}: {_compared(result)}"
        ),
        *_stability(figures),
        *_labelled("time", seconds),
        *_table(result),
    ]
    return "\n".join(lines)


def _labelled(label: str, text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=f"  {label:<11}", subsequent_indent=" " * 13)


def _options(recipe: Any) -> str:
    """The options of a recipe, as they were."""
    return ", ".join(f"{item.name} {_shown(getattr(recipe, item.name))}" for item in fields(recipe))


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(_shown, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _method(result: FitResult) -> list[str]:
    """What was done, one line for each part of it."""
    lines = []
    if result.trials > 1:
        lines += _labelled("strength", f"x {result.strength:.4g}, found in {result.trials} trials")
    if any(layer.support_bound is not None for layer in result.layers):
        lines += _labelled(
            "support",
            "eliminated at one price for a weight in the whole network, "
            f"{result.exchanged:,} of {result.nnz:,} weights exchanged",
        )
        lines += _labelled("", "best >= x: no other with as many weights per row has less than x of its squared error")
    if result.ridge is not None:
        ridge = result.ridge
        lines += _labelled("values", f"ridge {ridge.ridge:.4g} towards {ridge.anchor:.4g} of the baseline's weights")
    return lines


def _compared(result: FitResult) -> str:
    more = result.nnz - result.weight_count
    return f"{result.sparsity:.1f} % sparse" if more <= 0 else f"{100 * more / result.weight_count:.1f} % more"


def _stability(figures: dict[str, Any]) -> list[str]:
    """Why the model is well-posed, where its A is at hand."""
    if "perron_frobenius" not in figures:
        return []
    return _labelled(
        "stability",
        f"|A|_inf {figures['row_norm']:.4f}, lambda_pf {figures['perron_frobenius']['value']:.4g} < 1: well-posed",
    )


def _table(result: FitResult) -> list[str]:
    """One line for each layer, as the network computes them."""
    bounded = any(layer.support_bound is not None for layer in result.layers)
    head = f"  {'layer':<24}{'rows':>6}{'weights':>10}{'non-zeros':>12}{'sparse':>9}{'rel. error':>12}"
    return [head + (f"{'best >=':>10}" if bounded else ""), *map(_line, result.layers)]


def _line(layer: LayerFigures) -> str:
    share = f"{100 * (1 - layer.non_zeros / layer.weights):.1f}%" if layer.non_zeros <= layer.weights > 0 else "-"
    # A bound is rounded down.
    bound = "" if layer.support_bound is None else f"{math.floor(1000 * layer.support_bound) / 1000:>10.3f}"
    return (
        f"  {layer.name:<24}{layer.rows:>6}{layer.weights:>10,}{layer.non_zeros:>12,}{share:>9}{layer.error:>12.3f}"
        f"{bound}"
    )
