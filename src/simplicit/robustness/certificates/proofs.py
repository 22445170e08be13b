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
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from simplicit.checks import as_count
from simplicit.errors import InputError
from simplicit.implicit import ImplicitModel
from simplicit.implicit.batch import Batch, as_batch
from simplicit.implicit.model import as_model
from simplicit.machine import available_memory
from simplicit.progress import OnStep
from simplicit.robustness.box import Clip, OuterBox, as_radii, checked_clip
from simplicit.robustness.certificates.interval import Enclosure, Neighbourhood
from simplicit.robustness.certificates.linear import linear_margins, sharpened
from simplicit.robustness.certificates.prepared import Prepared
from simplicit.robustness.labels import as_labels

__all__ = ["METHODS", "Certificates", "certify"]

#: The bounds by name, from the loosest to the tightest.
METHODS = ("global", "interval", "linear")
# So many numbers in the largest array at a time, samples x functionals x (states + inputs).
_NUMBERS = 2**23
# What gradients through a pass keep of them.
_COPIES = 8
# Arrays as large as the largest that a pass holds at a time: coefficients of x and z, and what they are split into.
_ALIVE = 4


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

    @property
    def certified(self) -> dict[str, npt.NDArray[np.bool_]]:
        """For every method whether the class is proved to hold in the whole box, (k, m)."""
        return {name: margins > 0 for name, margins in self.margins.items()}

    def accuracy(self, method: str = "linear") -> npt.NDArray[np.float64]:
        """The share of certified samples for every radius, (k,), in [0, 1].

        Raises
        ------
        InputError
            The method is unknown or was not asked for.
        """
        if method not in self.margins:
            raise InputError(f"method: {method!r} is not among those computed, {', '.join(map(repr, self.margins))}")
        share: npt.NDArray[np.float64] = (self.margins[method] > 0).mean(axis=1)
        return share


def certify(
    model: ImplicitModel,
    U: Batch,
    eps: float | Sequence[float],
    labels: Any = None,
    *,
    clip: Clip = (0.0, 1.0),
    method: str = "linear",
    steps: int = 0,
    progress: OnStep | None = None,
) -> Certificates:
    """Lower bounds on the margins of every sample over all inputs within ``eps`` in ℓ∞.

    Sound in floating point: rounding in the bounds and in the model's own evaluation is taken off (see
    :mod:`~simplicit.robustness.certificates.prepared`). Every activation of the library is known; where A has cycles,
    (c) substitutes repeatedly.

    Parameters
    ----------
    model : ImplicitModel
    U : NumPy array or torch tensor, shape (m, p) or (m, *input_shape)
    eps : float or sequence of float
        Radii, in units of the inputs.
    labels : array of integers, shape (m,), optional
        The true classes; the share of certified samples is then a guaranteed accuracy. Left out: the model's own
        choices, so that a certified sample is one whose class cannot change.
    clip : (float, float) or None
        Range of valid inputs, which U must keep too; None for no range.
    method : {"linear", "interval", "global"}
        The tightest bound to compute; those before it are computed too.
    steps : int
        Gradient steps on the slopes of the linear relaxation, for samples that are not certified without; some 20 give
        most of what there is, at about 60 times the cost.
    progress : callable, optional
        Called with what is under way, the samples done and their number, all radii together.

    Returns
    -------
    Certificates

    Raises
    ------
    InputError
        The linear relaxation of one sample needs more memory than is free, as on a network of 10⁵ states; U or labels
        do not fit the model, NaN or infinite values; ``eps`` negative or wider than ``clip``; ``clip`` no
        interval, U outside it; an unknown method; a model with one output.
    NotWellPosedError
        The model has no unique equilibrium.

    Examples
    --------
    >>> import numpy as np, simplicit as sp
    >>> model = sp.ImplicitModel.from_matrices([[0.0]], [[1.0, -1.0]], [[1.0], [-1.0]], np.zeros((2, 2)))
    >>> found = sp.certify(model, [[0.9, 0.1]], eps=[0.3, 0.5])
    >>> [bool(sample) for sample in found.certified["linear"][:, 0]]
    [True, False]
    """
    inputs = as_batch(U, as_model(model).n_inputs, model.input_shape, model.dtype)
    if model.n_outputs < 2:
        raise InputError("a certificate needs a model with at least two outputs, one for each class")
    if method not in METHODS:
        raise InputError(f"method: {method!r} is unknown; choose one of {', '.join(map(repr, METHODS))}")
    steps, radii = as_count("steps", steps, minimum=0), as_radii(eps)
    if clip is not None:
        inner = checked_clip(clip, max(radii), inputs)
        inputs = inputs.clamp(*inner)
    chosen = torch.as_tensor(model.predict(inputs)).argmax(dim=1)
    classes = chosen if labels is None else as_labels(labels, len(inputs), model.n_outputs)
    work = _Work(Prepared(model), inputs.double(), classes, clip, METHODS[: METHODS.index(method) + 1], steps, progress)
    return Certificates(
        eps=radii,
        labels=classes.numpy(),
        correct=(chosen == classes).numpy(),
        margins=work.margins(radii),
        seconds=work.seconds,
    )


class _Work:
    """The samples, and what is done for each."""

    def __init__(
        self,
        prepared: Prepared,
        U: Tensor,
        labels: Tensor,
        clip: Clip,
        methods: Sequence[str],
        steps: int,
        progress: OnStep | None,
    ) -> None:
        self._prepared, self._U, self._labels, self._clip = prepared, U, labels, clip
        self._methods, self._steps, self._progress = methods, steps, progress
        self.seconds = dict.fromkeys(methods, 0.0)

    def margins(self, radii: Sequence[float]) -> dict[str, npt.NDArray[np.float64]]:
        """For every method the smallest margin of each sample, (k, m)."""
        self._check_memory()
        m, total = len(self._U), len(self._U) * len(radii)
        found = {name: np.full((len(radii), m), -np.inf) for name in self._methods}
        done = 0
        larger: dict[str, npt.NDArray[np.float64]] = {}
        for place in sorted(range(len(radii)), key=lambda place: -radii[place]):
            for rows in self._parts():
                for name, smallest in zip(self._methods, self._bounds(rows, radii[place]), strict=True):
                    found[name][place, rows] = smallest
                done += rows.stop - rows.start
                if self._progress is not None:
                    self._progress(f"bounds, ε = {radii[place]:.4g}", done, total)
            # A bound over a larger box is one over this box too.
            larger = {name: np.fmax(bounds[place], larger.get(name, -np.inf)) for name, bounds in found.items()}
            for name, bounds in larger.items():
                found[name][place] = bounds
        return found

    @property
    def _numbers_each(self) -> int:
        """Numbers of one sample in the largest array."""
        model = self._prepared.model
        widest = max((stage.target.stop - stage.target.start for stage in self._prepared.stages), default=0)
        functionals = max(2 * widest, model.n_outputs) if "linear" in self._methods else 1
        return functionals * (model.n_states + model.n_inputs)

    def _check_memory(self) -> None:
        """Refuse before the start what cannot fit, with one sample at a time.

        Raises
        ------
        InputError
            Saying what would fit.
        """
        available = available_memory()
        needed = 8 * _ALIVE * (_COPIES if self._steps else 1) * self._numbers_each
        if "linear" in self._methods and available is not None and needed > available:
            raise InputError(
                f"method: 'linear' bounds every state of this model by all before it, for which one sample needs about "
                f"{needed / 2**30:,.0f} GiB, and {available / 2**30:,.0f} GiB are free; take method='interval'"
            )

    def _parts(self) -> Iterator[slice]:
        numbers = _NUMBERS // (_COPIES if self._steps else 1)
        step = max(1, numbers // self._numbers_each)
        for start in range(0, len(self._U), step):
            yield slice(start, min(start + step, len(self._U)))

    def _bounds(self, rows: slice, radius: float) -> Iterator[npt.NDArray[np.float64]]:
        """The smallest margin of each sample by one method after the other, never below that of the one before."""
        labels, U = self._labels[rows], self._U[rows]
        hood = Neighbourhood(self._prepared, U, OuterBox.around(U, radius, self._clip))
        margins = torch.full((len(labels), self._prepared.model.n_outputs), -torch.inf, dtype=torch.float64)
        enclosure: Enclosure | None = None
        for name in self._methods:
            begun = time.perf_counter()
            if name == "global":
                found = hood.global_margins(labels)
            elif name == "interval":
                enclosure = hood.enclosure()
                found = hood.interval_margins(enclosure, labels)
            else:
                assert enclosure is not None
                enclosure = sharpened(hood, enclosure)
                found = linear_margins(hood, enclosure, labels)
            margins = torch.fmax(margins, found)
            errors = hood.evaluation_errors(enclosure, labels)
            if name == "linear" and self._steps:
                assert enclosure is not None
                self._improve_(margins, errors, hood, enclosure, labels)
            self.seconds[name] += time.perf_counter() - begun
            yield (margins - errors).amin(dim=1).nan_to_num(nan=-torch.inf).numpy()

    def _improve_(
        self, margins: Tensor, errors: Tensor, hood: Neighbourhood, enclosure: Enclosure, labels: Tensor
    ) -> None:
        """Sharper margins, by slopes of their own, for samples that are right and not certified; overwrites theirs."""
        proved = (margins > errors).all(dim=1)
        rows = torch.nonzero(~proved & (hood.outputs.argmax(dim=1) == labels)).flatten()
        if len(rows):
            part, classes = hood.part(rows), labels[rows]
            sharper = sharpened(part, enclosure.part(rows), self._steps)
            margins[rows] = torch.fmax(margins[rows], linear_margins(part, sharper, classes, self._steps))
