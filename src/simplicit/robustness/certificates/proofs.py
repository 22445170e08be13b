r"""``certify``: for which samples no input in the box can change the class, proved.

With c the label, a sample is certified at ε if y_c - y_k > 0 for every k ≠ c and every input in its box. Three lower
bounds on these margins are computed, each tighter and dearer than the one before:

- ``global`` (a): |C_c - C_k| (I - |A|)⁻¹ |B| r + |D_c - D_k| r is the most that a margin can move
  (:mod:`~simplicit.robustness.certificates.interval`);
- ``interval`` (b): interval bounds iterated through the equilibrium of the sample (there too);
- ``linear`` (c): backward linear relaxation (:mod:`~simplicit.robustness.certificates.linear`).

Each takes the best of its own bound and of those before it, so that (a) <= (b) <= (c) <= the accuracy under any attack.
A bound over a larger box holds on a smaller one, so that what is certified at ε is certified at every smaller ε too.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from simplicit.checks import as_count, check_choice, refused
from simplicit.errors import InputError
from simplicit.implicit import ImplicitModel
from simplicit.implicit.batch import chunks
from simplicit.implicit.model import as_model
from simplicit.machine import check_memory
from simplicit.progress import OnProgress, listening, phase
from simplicit.robustness.box import Clip, OuterBox, Radius, Reach, as_reaches, at_radii, check_valid, clipped
from simplicit.robustness.certificates.interval import Neighbourhood
from simplicit.robustness.certificates.methods import METHODS, Evidence
from simplicit.robustness.certificates.prepared import PreparedModel
from simplicit.robustness.labels import as_labels

# So many numbers are in the largest array at a time, samples x functionals x (states + inputs): 64 MiB, which leaves
# room for the other arrays on a laptop.
_NUMBERS = 2**23
# Arrays of that size that a pass holds at a time: coefficients of x and z, and what they are split into; and how many
# times as many gradients through a pass keep.
_ALIVE, _COPIES = 4, 8


@dataclass(frozen=True, eq=False)
class Certificates:
    """What is proved about m samples at k radii.

    Attributes
    ----------
    eps : tuple of float
        The radii, as given.
    labels : (m,) int64 array
        The classes whose margins are bounded.
    correct : (m,) bool array
        Whether the model, as it is evaluated, puts the sample itself into that class.
    margins : mapping of str to (k, m) float64 array
        For every method a lower bound on the smallest y_c - y_k over the box, what rounding can do taken off: no
        evaluation of the model, in its own dtype, has a smaller one.
    seconds : mapping of str to float
        Of each method, all radii together.
    """

    eps: tuple[float, ...]
    labels: npt.NDArray[np.int64]
    correct: npt.NDArray[np.bool_]
    margins: Mapping[str, npt.NDArray[np.float64]]
    seconds: Mapping[str, float]

    def __repr__(self) -> str:
        held = f"{100 * self.clean:.1f} % right, proved {at_radii(self.eps, self.accuracy())}"
        return f"Certificates({len(self.labels)} samples, {held}; {', '.join(self.margins)})"

    @property
    def clean(self) -> float:
        """Share of samples that the model puts into their class, in [0, 1]."""
        return float(self.correct.mean())

    @property
    def certified(self) -> dict[str, npt.NDArray[np.bool_]]:
        """For every method whether the class is proved to hold in the whole box, (k, m)."""
        return {name: margins > 0 for name, margins in self.margins.items()}

    def accuracy(self, method: str | None = None) -> npt.NDArray[np.float64]:
        """Return the share of certified samples for every radius, (k,), in [0, 1]; by the tightest bound for None.

        InputError is raised for a method that was not asked for.
        """
        name = [*self.margins][-1] if method is None else method
        if name not in self.margins:
            raise refused("method", f"{method!r} is not among those computed, {', '.join(map(repr, self.margins))}")
        share: npt.NDArray[np.float64] = (self.margins[name] > 0).mean(axis=1)
        return share


def certify(
    model: ImplicitModel,
    U: Any,
    labels: Any | None,
    eps: Radius | Sequence[float],
    *,
    clip: Clip = (0.0, 1.0),
    method: str = "linear",
    steps: int = 0,
    progress: OnProgress | None = None,
) -> Certificates:
    """Bound the margins of every sample from below over all inputs within ``eps`` in ℓ∞.

    The bounds are sound in floating point: rounding in them and in the model's own evaluation is taken off (see
    :mod:`~simplicit.robustness.certificates.prepared`). Every activation of the library is known; where A has cycles,
    (c) substitutes repeatedly. A block (softmax, norms, attention, gates) has an interval image in (b) and (c); (a)
    proves nothing where a block has no Lipschitz constant.

    Parameters
    ----------
    model : ImplicitModel
    U : NumPy array or torch tensor, shape (m, p) or (m, *input_shape), or several
        As ``model.predict`` takes them. Only floating-point inputs have a box; integers and truth values stay.
    labels : array of integers, shape (m,), or None
        The true classes; the share of certified samples is then a guaranteed accuracy. None: the model's own choices,
        so that a certified sample is one whose class cannot change.
    eps : float or sequence of float, or mapping of str to float
        Radii, in units of the inputs; or one for each input by its name, of which the result tells the largest.
    clip : (float, float) or None
        Range of valid inputs, which those with a box must keep too; None for no range.
    method : {"linear", "interval", "global"}
        The tightest bound to compute; those before it are computed too.
    steps : int
        Gradient steps on the slopes of the linear relaxation, for samples that are not certified without; some 20 give
        most of what there is, at about 60 times the cost.
    progress : callable, optional
        Called with a :class:`simplicit.progress.Progress`, whose steps are the samples of all radii.

    Returns
    -------
    Certificates

    Raises
    ------
    InputError
        The linear relaxation of one sample needs more memory than is free, as on a network of 10⁵ states; U or labels
        do not fit the model, or all its inputs are integers; NaN or infinite values; ``eps`` negative or wider than
        ``clip``; ``clip`` no interval, U outside it; an unknown method; a model with one output.
    NotWellPosedError
        The model has no unique equilibrium.

    Examples
    --------
    >>> import numpy as np, simplicit as sp
    >>> model = sp.ImplicitModel.from_matrices([[0.0]], [[1.0, -1.0]], [[1.0], [-1.0]], np.zeros((2, 2)))
    >>> found = sp.certify(model, [[0.9, 0.1]], [0], eps=[0.3, 0.5])
    >>> [bool(sample) for sample in found.certified["linear"][:, 0]]
    [True, False]
    """
    inputs = as_model(model).batch(U)
    if model.n_outputs < 2:
        raise InputError("a certificate needs a model with at least two outputs, one for each class")
    check_choice("method", method, METHODS)
    steps, reaches = as_count("steps", steps, minimum=0), as_reaches(eps, model.inputs)
    largest = max(reaches, key=lambda reach: reach.eps)
    inputs, _ = clipped(inputs, clip, largest)
    check_valid(inputs, clip, largest, model.inputs)
    chosen = torch.as_tensor(model.predict(inputs)).argmax(dim=1)
    classes = chosen if labels is None else as_labels(labels, len(inputs), model.n_outputs)
    names = [*METHODS][: [*METHODS].index(method) + 1]
    bounding = _Bounding(PreparedModel(model), inputs.double(), classes, clip, steps, dict.fromkeys(names, 0.0))
    with listening(progress):
        margins, radii = bounding.margins(reaches), tuple(reach.eps for reach in reaches)
    return Certificates(radii, classes.numpy(), (chosen == classes).numpy(), margins, bounding.seconds)


@dataclass(frozen=True, eq=False)
class _Bounding:
    """The samples (m, p) with labels (m,), and the methods that bound their margins, with their seconds."""

    prepared: PreparedModel
    U: Tensor
    labels: Tensor
    clip: Clip
    steps: int
    seconds: dict[str, float]

    def margins(self, reaches: Sequence[Reach]) -> dict[str, npt.NDArray[np.float64]]:
        """Return for every method the smallest margin of each sample, (k, m)."""
        parts = list(self._parts())
        found = {name: np.full((len(reaches), len(self.U)), -np.inf) for name in self.seconds}
        order = sorted(range(len(reaches)), key=lambda place: -reaches[place].eps)
        with phase(_stage(reaches[order[0]]), len(self.U) * len(reaches)) as meter:
            for larger, place in pairwise([order[0], *order]):
                meter.begin(_stage(reaches[place]))
                for rows in parts:
                    for name, smallest in self._bounds(rows, reaches[place]):
                        found[name][place, rows] = smallest
                    meter.count(rows.stop - rows.start)
                for bounds in found.values():  # a bound over a larger box is one over this box too
                    bounds[place] = np.fmax(bounds[place], bounds[larger])
        return found

    def _bounds(self, rows: slice, reach: Reach) -> Iterator[tuple[str, npt.NDArray[np.float64]]]:
        """Yield by one method after another the smallest margin of each sample, none below that of the one before."""
        U = self.U[rows]
        neighbourhood = Neighbourhood(self.prepared, U, OuterBox.around(U, reach, self.clip))
        evidence = Evidence(neighbourhood, self.labels[rows], self.steps)
        for name in self.seconds:
            begun = time.perf_counter()
            METHODS[name].sharpen(evidence)
            smallest = evidence.smallest.numpy()
            self.seconds[name] += time.perf_counter() - begun
            yield name, smallest

    def _parts(self) -> Iterator[slice]:
        """Cut the samples by the memory that they need; InputError where one of them alone needs more than is free."""
        model, copies = self.prepared.model, _COPIES if self.steps else 1
        backward = any(METHODS[name].backward for name in self.seconds)
        widest = max((stage.rows.stop - stage.rows.start for stage in self.prepared.stages), default=0)
        functionals = max(2 * widest, model.n_outputs) if backward else 1
        each = functionals * (max(model.n_states, model.n_pre) + model.n_inputs)
        if backward:
            needing = (
                f"{[*self.seconds][-1]!r} bounds each state of this model by all before it, for which one sample needs"
            )
            check_memory("method", 8 * _ALIVE * copies * each, needing, "take method='interval'")
        return chunks(len(self.U), each, _NUMBERS // copies)


def _stage(reach: Reach) -> str:
    """What progress calls the samples at a radius."""
    return f"bounds, ε = {reach.eps:.4g}"
