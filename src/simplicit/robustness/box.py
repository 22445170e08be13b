r"""Boxes of inputs around samples, rounded so that what is proved about them, or found in them, is true.

Only floating-point numbers have a box: of several inputs the integers and truth values stay as they are, and so do
those that a mapping of radii does not name (:class:`Reach`).

An attack may only use points that are in the exact box |u' - u| <= ε, so its box (:class:`InnerBox`) is the largest
one of floating-point numbers inside. A certificate must hold for every point of the exact box, so its box
(:class:`OuterBox`) is one around it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from simplicit.checks import as_interval, as_number, refused
from simplicit.errors import InputError
from simplicit.implicit import InputLayout

#: Range of valid inputs, or None for no range.
Clip = tuple[float, float] | None
#: Half-width of a box, or one for each input by its name.
Radius = float | Mapping[str, float]


@dataclass(frozen=True, eq=False)
class PerSample:
    """A record whose tensors have one row for each sample, as have the records of this kind inside it."""

    def part(self, rows: slice | Tensor) -> Self:
        """Return the record of some samples, given by a slice, a mask or their numbers."""
        parts: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Tensor):
                parts[item.name] = value[rows]
            elif isinstance(value, PerSample):
                parts[item.name] = value.part(rows)
        return replace(self, **parts)


@dataclass(frozen=True, eq=False)
class Reach:
    """How far the columns of U (m, p) move: all by ``eps``, or some by radii of their own and others not at all.

    ``eps`` is the largest radius, ``given`` what the caller said. Where not all columns move alike, ``radii`` has one
    for each, (p,) float64, and ``free`` says which move, a mask (p,); else both are None.
    """

    eps: float
    given: Radius
    radii: Tensor | None = None
    free: Tensor | None = None

    @classmethod
    def of(cls, eps: float | Reach) -> Reach:
        """Return the reach of one radius for all columns, or the reach that ``eps`` is."""
        return eps if isinstance(eps, Reach) else cls(eps, eps)

    def rounded_down(self, dtype: torch.dtype) -> Tensor:
        """Return the radius of all columns, (), or of each, (p,): the largest number of ``dtype`` that is none more."""
        radii = torch.tensor(self.eps, dtype=torch.float64) if self.radii is None else self.radii
        nearest = radii.to(dtype)
        return torch.where(nearest.double() > radii, _down(nearest), nearest)

    def moving(self, values: Tensor, others: Tensor | float) -> Tensor:
        """Return ``values`` (m, p) with ``others`` in the columns that do not move."""
        return values if self.free is None else torch.where(self.free, values, others)


@dataclass(frozen=True)
class InnerBox(PerSample):
    """Points between ``lower`` and ``upper`` lie within ε of ``centre`` and in the valid range; all are (m, p)."""

    centre: Tensor
    lower: Tensor
    upper: Tensor

    @classmethod
    def around(cls, centre: Tensor, eps: float | Reach, clip: Clip) -> InnerBox:
        """Return the largest floating-point box that is inside the exact one."""
        reach = Reach.of(eps)
        radius = reach.rounded_down(centre.dtype)
        # Rounding may push an edge outwards; two-sum gives its exact error, one step back inwards mends it.
        upper = _sum_rounded_down(centre, radius)
        lower = -_sum_rounded_down(-centre, radius)
        if clip is not None:
            lower, upper = lower.clamp_(min=clip[0]), upper.clamp_(max=clip[1])
        return cls(centre, reach.moving(lower, centre), reach.moving(upper, centre))

    def project_(self, points: Tensor) -> Tensor:
        """Overwrite ``points``, (m, p), with the nearest points in the box and return them."""
        return points.clamp_(self.lower, self.upper)

    def random_point(self, generator: torch.Generator) -> Tensor:
        """Draw points uniformly in the box, (m, p)."""
        share = torch.rand(self.centre.shape, generator=generator, dtype=self.centre.dtype)
        return self.project_(torch.lerp(self.lower, self.upper, share))


@dataclass(frozen=True)
class OuterBox(PerSample):
    """All points of the exact box have |u' - centre| <= radius; both are (m, p) float64."""

    centre: Tensor
    radius: Tensor

    @classmethod
    def around(cls, U: Tensor, eps: float | Reach, clip: Clip) -> OuterBox:
        """Return a box around |u' - u| <= eps, within ``clip`` if it is given, for U (m, p) in any dtype."""
        reach, U = Reach.of(eps), U.double()
        radii = reach.eps if reach.radii is None else reach.radii
        lower, upper = _down(U - radii), _up(U + radii)
        if clip is not None:
            lower, upper = lower.clamp(min=clip[0]), upper.clamp(max=clip[1])
        centre, radius = centred(lower, upper)
        return cls(reach.moving(centre, U), reach.moving(_up(radius), 0.0))

    @property
    def largest(self) -> Tensor:
        """A bound on |u'|, (m, p)."""
        return _up(self.centre.abs() + self.radius)

    def distance(self, U: Tensor) -> Tensor:
        """Return a bound on |u' - u| over points u' of the box, (m, p) float64, for given u."""
        whole = (U - self.centre).abs() + self.radius
        return torch.where(whole > 0, _up(whole), 0.0)  # columns that do not move


def centred(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Return the middle of an interval and the larger distance from it to an end, entry by entry.

    Halves are added, so that the middle of two numbers near the largest one is no infinity.
    """
    middle = 0.5 * lower + 0.5 * upper
    return middle, torch.maximum(upper - middle, middle - lower)


def as_radii(eps: Any) -> tuple[float, ...]:
    """Return one radius, or a sequence of them, as floats; InputError for none, or one that is no number ≥ 0."""
    several = tuple(eps) if isinstance(eps, list | tuple) or (isinstance(eps, np.ndarray) and eps.ndim == 1) else (eps,)
    if not several:
        raise InputError("eps must be a radius or a sequence of them, got an empty one", argument="eps")
    return tuple(as_number("eps", value) for value in several)


def as_reaches(eps: Any, layout: InputLayout | None) -> tuple[Reach, ...]:
    """Return the reach of one radius or mapping, or of each radius of a sequence; errors as of :func:`as_reach`."""
    return tuple(as_reach(one, layout) for one in ((eps,) if isinstance(eps, Mapping) else as_radii(eps)))


def as_reach(eps: Any, layout: InputLayout | None) -> Reach:
    """Return the reach of a radius, or of a mapping of names of inputs to radii.

    ``layout`` says what lies where in U, None where it is one tensor of floating-point numbers. InputError is raised
    for what is no number ≥ 0, for names of no input or of one that holds integers, and where all inputs do.
    """
    if layout is None:
        if isinstance(eps, Mapping):
            defect = "is a mapping of names, the model has one input without a name; pass a number"
            raise InputError(f"eps {defect}", argument="eps")
        return Reach.of(as_number("eps", eps))
    floats = tuple(spec.name for spec in layout.specs if spec.floating)
    if not floats:
        raise refused(
            "model",
            f"takes integers alone, {layout.said()}, and there is no box of inputs around those; attack or certify it "
            "in the space of its embedding: capture a network that takes what the embedding gives, as inputs_embeds",
        )
    if isinstance(eps, Mapping):
        wrong = [name for name in eps if name not in floats]
        if wrong or not eps:
            found, names = f"got {wrong[0]!r}" if wrong else "got none", ", ".join(map(repr, floats))
            raise InputError(f"eps must name inputs of floating-point numbers ({names}), {found}", argument="eps")
        by_name = {name: as_number("eps", radius) for name, radius in eps.items()}
        return _of_columns(by_name, by_name, layout)
    radius = as_number("eps", eps)
    if len(floats) == len(layout.specs):
        return Reach.of(radius)
    return _of_columns(dict.fromkeys(floats, radius), radius, layout)


def _of_columns(by_name: Mapping[str, float], given: Radius, layout: InputLayout) -> Reach:
    radii, free = torch.zeros(layout.width, dtype=torch.float64), torch.zeros(layout.width, dtype=torch.bool)
    for name, radius in by_name.items():
        radii[layout.columns[name]], free[layout.columns[name]] = radius, True
    return Reach(max(by_name.values()), given, radii, free)


def check_valid(inputs: Tensor, clip: Clip, eps: float | Reach, layout: InputLayout | None) -> None:
    """Refuse, with an InputError, a box of inputs (m, p) that leaves the range in which a model is proved."""
    if layout is None or layout.clip is None or not len(inputs):
        return
    box = OuterBox.around(inputs, eps, clip)
    (low, high), moving = layout.clip, Reach.of(eps)
    lower, upper = (
        moving.moving(end, 0.5 * (low + high)) for end in (box.centre - box.radius, box.centre + box.radius)
    )
    room = 1e-6 * (1.0 + abs(low) + abs(high))  # the box is rounded outwards
    if bool((lower < low - room).any()) or bool((upper > high + room).any()):
        defect = f"the box of inputs leaves {layout.clip}, where the model is proved to have one equilibrium"
        raise InputError(f"clip: {defect}; pass clip={layout.clip}", argument="clip")


def clipped(inputs: Tensor, clip: Clip, eps: float | Reach) -> tuple[Tensor, Clip]:
    """Return ``clip``, rounded towards the inside to the dtype of the inputs (m, p), and a copy of the inputs within.

    Inputs at an end may have been rounded over it by the cast to this dtype; they are brought back. Columns that do not
    move have no range. InputError is raised where ``clip`` is no interval, is narrower than ``eps``, or does not hold
    the inputs or any number of their dtype. Without a range both come back as they are.
    """
    if clip is None:
        return inputs, None
    low, high = as_interval("clip", clip)
    reach = Reach.of(eps)
    if reach.eps > high - low:
        found = f"eps = {reach.eps} is wider than the range of inputs, clip = {clip}"
        raise InputError(f"{found}; give it in units of the inputs, such as 8/255", argument="eps")
    moving = inputs if reach.free is None else inputs[:, reach.free]
    smallest, largest = moving.min().item(), moving.max().item()
    least, most = torch.tensor((low, high), dtype=inputs.dtype).tolist()
    if smallest < least or largest > most:
        defect = f"got values from {smallest:.6g} to {largest:.6g}; pass the range of the inputs, or clip=None"
        raise InputError(f"U must lie in clip = {clip}, {defect}", argument="U")
    inner = -_rounded_down(-low, inputs.dtype), _rounded_down(high, inputs.dtype)
    if inner[0] > inner[1]:
        raise InputError(f"clip = {clip} holds no number in {inputs.dtype}; pass a wider one", argument="clip")
    return reach.moving(inputs.clamp(*inner), inputs), inner


def _rounded_down(value: float, dtype: torch.dtype) -> float:
    """Return the largest number of ``dtype`` that is at most ``value``."""
    nearest = torch.tensor(value, dtype=dtype)
    return (_down(nearest) if nearest.item() > value else nearest).item()


def _sum_rounded_down(a: Tensor, b: Tensor) -> Tensor:
    """Return a + b, rounded towards minus infinity."""
    total = a + b
    b_part = total - a
    error = (a - (total - b_part)) + (b - b_part)
    return torch.where(error < 0, _down(total), total)


def _up(values: Tensor) -> Tensor:
    return torch.nextafter(values, values.new_tensor(math.inf))


def _down(values: Tensor) -> Tensor:
    return torch.nextafter(values, values.new_tensor(-math.inf))


def at_radii(eps: Sequence[float], shares: npt.NDArray[np.float64]) -> str:
    """Shares in [0, 1] as per cent at their radii, in words; of many those at the first three and the last."""
    shown = [f"{100 * share:.1f} % at {radius:.4g}" for radius, share in zip(eps, shares, strict=True)]
    return ", ".join(shown if len(shown) <= 4 else [*shown[:3], "…", shown[-1]])
