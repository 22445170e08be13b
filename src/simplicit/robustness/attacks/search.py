r"""An attack that sees outputs only: random search over squares (Andriushchenko et al., *Square Attack*, 2020).

A point has every input at an end of its box. It starts with vertical stripes of random sign; a query sets a square at a
random place to one random end, in all its pixels at once, and is kept where the margin of the true class falls. The
squares shrink on the paper's schedule. Samples without the form of an image have segments for squares.

It is there to catch gradients that lie: where it does better than an attack along gradients, those are masked.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from simplicit.checks import as_count, as_seed
from simplicit.progress import counted
from simplicit.robustness.attacks.problem import BATCH_SIZE, Problem
from simplicit.robustness.attacks.victims import AttackedModel
from simplicit.robustness.box import Clip, InnerBox, Radius
from simplicit.robustness.labels import at_labels, with_labels

# The paper's schedule: the share of the pixels in a square at first, halved where these shares of all queries are done.
_FIRST_SHARE = 0.8
_HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)


def square(
    model: AttackedModel,
    U: Any,
    labels: Any,
    eps: Radius,
    *,
    queries: int = 300,
    image_shape: tuple[int, ...] | None = None,
    clip: Clip = (0.0, 1.0),
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
) -> Any:
    """Attack by random search with ``queries`` evaluations of each sample, and no gradient.

    Parameters
    ----------
    model, U, labels, eps, clip, batch_size
        As in :func:`simplicit.fgsm`.
    queries : int
        At least 1; a few hundred show whether gradients can be trusted, the paper takes 5,000.
    image_shape : tuple of int, optional
        The form of a sample, (…, height, width); the form in which U comes, or the model's, if left out. Samples in one
        dimension have segments for squares.
    seed : int
        Of the search, in [0, 2⁶⁴). It depends on ``batch_size`` too.

    Returns
    -------
    As :func:`simplicit.fgsm`: the point with the smallest margin that was met, for every sample.

    Raises
    ------
    InputError, NotWellPosedError, ConvergenceError
        As :func:`simplicit.fgsm`; InputError for ``queries`` or ``seed`` out of range, ``image_shape`` of another size.
    """
    problem = Problem.checked(model, U, labels, eps, clip, batch_size)
    queries = as_count("queries", queries)
    # (channels, height, width): samples in one dimension are images of height 1.
    *channels, height, width = (1, *problem.image_shape(image_shape))
    shape = (math.prod(channels), height, width)
    generator = torch.Generator().manual_seed(as_seed("seed", seed))
    adversarial = torch.empty_like(problem.inputs)
    for rows in problem.batches():
        adversarial[rows] = _Search(problem, rows, shape, generator).run(queries)
    return problem.returned(adversarial)


class _Search:
    """A search holds the points of a batch, (m, p), and the margin of the true class at each, (m,)."""

    def __init__(self, problem: Problem, rows: slice, shape: tuple[int, int, int], generator: torch.Generator) -> None:
        self._problem, self._shape, self._generator = problem, shape, generator
        self._box, self._classes = problem.box(rows), problem.labels[rows]
        self._points = problem.inputs[rows].clone()
        self._margins = self._margin(self._points, self._classes)

    def run(self, queries: int) -> Tensor:
        """Return the points after ``queries`` queries of all samples that are not misclassified before."""
        for query in counted(range(queries), "queries", queries):
            rows = torch.nonzero(self._margins > 0).flatten()
            if not len(rows):
                break
            box = self._box.part(rows)
            tried = self._moved(box, self._points[rows], query / queries) if query else self._stripes(box)
            margins = self._margin(tried, self._classes[rows])
            # The first point replaces the sample even if it is no worse: squares need ends of the box to start from.
            better = margins < self._margins[rows] if query else torch.ones_like(margins, dtype=torch.bool)
            self._points[rows] = torch.where(better[:, None], tried, self._points[rows])
            self._margins[rows] = torch.where(better, margins, self._margins[rows])
        return self._points

    def _margin(self, points: Tensor, classes: Tensor) -> Tensor:
        """Return y_c less the largest other output, at most 0 where the sample is misclassified."""
        Y = self._problem.victim.outputs(points)
        margin = at_labels(Y, classes)[:, 0] - with_labels(Y, classes, -math.inf).amax(dim=1)
        return torch.where(
            Y.argmax(dim=1) == classes, margin.clamp(min=torch.finfo(Y.dtype).tiny), margin.clamp(max=0.0)
        )

    def _ends(self, box: InnerBox, *form: int) -> Tensor:
        """Put each pixel at one end of its box, (m, p), by draws (m, *form) that broadcast to (m, *shape)."""
        up = torch.randint(0, 2, (len(box.centre), *form), generator=self._generator, dtype=torch.bool)
        return torch.where(up.expand(-1, *self._shape).flatten(1), box.upper, box.lower)

    def _stripes(self, box: InnerBox) -> Tensor:
        """Put each column of each channel at one end of its box; each pixel where there is one row only."""
        channels, _, width = self._shape
        return self._ends(box, channels, 1, width)

    def _moved(self, box: InnerBox, points: Tensor, progress: float) -> Tensor:
        """Return ``points`` with one square for each sample at one end, drawn for each channel."""
        channels, height, width = self._shape
        share = _FIRST_SHARE / 2 ** sum(progress > at for at in _HALVINGS)
        side = max(1, round(math.sqrt(share * height * width) if height > 1 else share * width))
        inside = self._covered(len(points), height, side)[:, :, None] & self._covered(len(points), width, side)[:, None]
        mask = inside[:, None].expand(-1, channels, -1, -1).flatten(1)
        return torch.where(mask, self._ends(box, channels, 1, 1), points)

    def _covered(self, samples: int, length: int, side: int) -> Tensor:
        """Draw an interval of ``side`` places, or all of them, for each sample, (samples, length)."""
        first = torch.randint(0, max(1, length - side + 1), (samples, 1), generator=self._generator)
        places = torch.arange(length)[None]
        return (places >= first) & (places < first + side)
