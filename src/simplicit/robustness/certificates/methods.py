"""The bounds on margins by name: each sharpens what those before it have found out about a batch of samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from simplicit.robustness.certificates.interval import Enclosure, Neighbourhood
from simplicit.robustness.certificates.linear import linear_margins, sharpened


class Evidence:
    """What is known so far of a batch of samples with ``labels`` (m,).

    ``margins`` are lower bounds on y_c - y_k in exact arithmetic, (m, q) float64, infinite at the labels. The
    ``enclosure`` holds the states, once a method has made any; ``steps`` are for methods that climb by gradients.
    """

    def __init__(self, neighbourhood: Neighbourhood, labels: Tensor, steps: int) -> None:
        self.neighbourhood, self.labels, self.steps = neighbourhood, labels, steps
        shape = len(labels), neighbourhood.prepared.model.n_outputs
        self.margins = torch.full(shape, -torch.inf, dtype=torch.float64)
        self.enclosure: Enclosure | None = None

    def boxes(self) -> Enclosure:
        """Return the boxes of the states, those of (b) where there are none yet."""
        if self.enclosure is None:
            self.enclosure = self.neighbourhood.enclosure()
        return self.enclosure

    def take(self, margins: Tensor) -> None:
        """Keep other lower bounds, (m, q), where they are larger.

        Where the model has blocks, bounds of other enclosures are bounds on other trajectories
        (:mod:`~simplicit.robustness.certificates.prepared`): what evaluation can do is taken off each at once.
        """
        if self.neighbourhood.prepared.trajectories:
            margins = margins - self.neighbourhood.evaluation_errors(self.enclosure, self.labels)
        self.margins = torch.fmax(self.margins, margins)

    @property
    def errors(self) -> Tensor:
        """How far margins as the model evaluates them may be below those kept, (m, q)."""
        if self.neighbourhood.prepared.trajectories:
            return torch.zeros_like(self.margins)
        return self.neighbourhood.evaluation_errors(self.enclosure, self.labels)

    @property
    def smallest(self) -> Tensor:
        """A bound on the smallest margin of each sample under any evaluation of the model, (m,)."""
        return (self.margins - self.errors).amin(dim=1).nan_to_num(nan=-torch.inf)


@dataclass(frozen=True)
class Method:
    """A way to bound margins: ``sharpen`` gives an :class:`Evidence` better ones.

    It is ``backward`` if it takes functionals of all states back through the model, which needs memory for each.
    """

    sharpen: Callable[[Evidence], None]
    backward: bool = False


def _global(evidence: Evidence) -> None:
    evidence.take(evidence.neighbourhood.global_margins(evidence.labels))


def _interval(evidence: Evidence) -> None:
    evidence.take(evidence.neighbourhood.interval_margins(evidence.boxes(), evidence.labels))


def _linear(evidence: Evidence) -> None:
    neighbourhood, labels = evidence.neighbourhood, evidence.labels
    evidence.enclosure = enclosure = sharpened(neighbourhood, evidence.boxes())
    evidence.take(linear_margins(neighbourhood, enclosure, labels))
    if not evidence.steps:
        return
    # Slopes of their own for samples that are right and not certified yet.
    proved = (evidence.margins > evidence.errors).all(dim=1)
    rows = torch.nonzero(~proved & (neighbourhood.outputs.argmax(dim=1) == labels)).flatten()
    if len(rows):
        part, classes = neighbourhood.part(rows), labels[rows]
        sharper = sharpened(part, enclosure.part(rows), evidence.steps)
        found = linear_margins(part, sharper, classes, evidence.steps)
        if part.prepared.trajectories:
            found = found - part.evaluation_errors(sharper, classes)
        evidence.margins[rows] = torch.fmax(evidence.margins[rows], found)


#: The methods by name, from the loosest bound to the tightest; each builds on those before it.
METHODS: dict[str, Method] = {
    "global": Method(_global),
    "interval": Method(_interval),
    "linear": Method(_linear, backward=True),
}
