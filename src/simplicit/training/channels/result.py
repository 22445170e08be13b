"""What :func:`simplicit.fit` returns for a network with convolutions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from simplicit.network import NetworkGraph, with_constants
from simplicit.training.channels.layers import TiedLayer
from simplicit.training.channels.training import TiedMatch
from simplicit.training.result import FitResult, RowFigures

__all__ = ["TiedResult", "tied_rows"]


@dataclass(frozen=True, eq=False)
class TiedResult(FitResult):
    """A network trained by tied rows: a row is an output channel, whose kernel serves all positions.

    ``model`` is made when it is first asked for; ``to_baseline()`` is the network itself with its new weights.
    ``sparsity`` is of the weights of all convolutions and linear layers, a kernel's counted once.
    ``rows.group`` is the layer, by its module's path; ``errors`` are relative and about the means, on the training
    samples; with ``refine`` positions count in them by what they do to the outputs.

    Attributes
    ----------
    graph : NetworkGraph
        Of the baseline.
    layers : tuple of TiedLayer
        In the order of evaluation.
    match : TiedMatch
    """

    graph: NetworkGraph
    layers: tuple[TiedLayer, ...]
    match: TiedMatch

    def to_baseline(self) -> nn.Module:
        """A new copy of the network, of its own class and in evaluation mode, with the trained weights.

        Its ``state_dict`` has the keys and shapes of the baseline's. Biases and the running statistics of batch norms
        are corrected to the new weights; all other values are the baseline's.
        """
        return with_constants(self.graph, self.match.changed)

    @property
    def nnz(self) -> int:
        """Weights of convolutions and linear layers that are not zero; a kernel's count once."""
        return int(self.rows.nnz.sum())

    def _of_its_kind(self) -> dict[str, Any]:
        return {"tied": True, "layers": {layer.name: int(self._of(layer).sum()) for layer in self.layers}}

    def _of(self, layer: TiedLayer) -> Any:
        return self.rows.nnz[self.rows.group == layer.name]

    def summary(self) -> str:
        """One screen of text: what was done, what is certified, where the non-zeros went."""
        options, figures = self.options, self.figures()
        lines = [
            f"State-driven training on {self.n_samples:,} samples, rows tied over all patches",
            f"  problem    structure {options.structure}, normalize {options.normalize}, lambda1 {options.lambda1:g}, "
            f"lambda2 {options.lambda2:g}",
            *self._method(),
            *(["  errors     count by what they do to the outputs, to first order"] if self.options.refine else []),
            f"  rows       {figures['rows_certified']} of {len(self.rows)} certified, largest relative gap "
            f"{figures['largest_relative_gap']:.1e} (tol {options.tol:g})",
            f"  weights    {self.nnz:,} of {self.weight_count:,}: {self.sparsity:.1f} % sparse",
            f"  time       {', '.join(f'{stage} {seconds:.2f} s' for stage, seconds in self.seconds.items())}",
            f"  {'layer':<24}{'rows':>6}{'weights':>10}{'non-zeros':>12}{'sparse':>9}{'rel. error':>12}"
            + (f"{'best >=':>10}" if self.support_bounds else ""),
        ]
        for layer in self.layers:
            nnz = int(self._of(layer).sum())
            lines.append(
                f"  {layer.name:<24}{layer.rows:>6}{layer.size:>10,}{nnz:>12,}{100 * (1 - nnz / layer.size):>8.1f}%"
                f"{self.errors[layer.name]:>12.3f}{self._bound(layer.name)}"
            )
        return "\n".join(lines)


def tied_rows(match: TiedMatch) -> RowFigures:
    """The figures of all layers, one entry for each output channel."""
    solutions = [solution for groups in match.solutions.values() for solution in groups]
    group = np.concatenate([[name] * len(s.status) for name, groups in match.solutions.items() for s in groups])
    return RowFigures.of(solutions, group)
