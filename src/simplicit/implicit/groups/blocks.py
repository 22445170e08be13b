r"""Blocks: groups of states whose φ is not elementwise, x_g = φ(z_g) with φ from Rᵃ to Rᵇ.

Softmax, norms, products of states, attention: φ is a short program of torch's operations
(:mod:`~simplicit.implicit.groups.program`) on operands that z holds one after the other. A product of two states, for
instance, has z = (the first, the second) and a = 2b. A model without cycles is well-posed with any of them; a cycle
needs a Lipschitz constant of each block on it in ‖·‖∞ (El Ghaoui, Gu, Travacca, Askari and Tsai, *Implicit Deep
Learning*, SIAM J. Math. Data Sci. 2021, section 2), which is :attr:`Block.slope`. A product of two states has none on
all of R; of z clipped to a box it has (:mod:`~simplicit.implicit.groups.deviations`), which changes nothing where z
never leaves the box.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from simplicit.checks import lookups_checked
from simplicit.errors import InputError
from simplicit.implicit.groups import lipschitz
from simplicit.implicit.groups.complexes import rule_of
from simplicit.implicit.groups.deviations import coupling, rounding
from simplicit.implicit.groups.images import RULES, ImageOf
from simplicit.implicit.groups.opening import Opened, opened
from simplicit.implicit.groups.program import Step, as_tensor, execute, from_config, operation, to_config

Shape = tuple[int, ...]
# Above so many entries G is not written down.
_LARGEST_COUPLING = 2**26
# What rounding may have taken off an entry of G, and off a sum over a row for each term.
_COUPLED, _SUMMED = 1e-13, 2.0**-52


@dataclass(frozen=True, eq=False)
class Block:
    """A function φ from a numbers to b for each sample, as a program.

    Parameters
    ----------
    operands : tuple of shapes
        Of one sample of each tensor that the program is given; z is all of them, flattened, one after the other.
    steps : tuple of Step
    size : int
        b, how many numbers a sample of the result has.
    constants : tuple of array
        Tensors that do not depend on the input: tables of an embedding, masks. Floating-point ones are used in the
        dtype of z.
    domain : pair of arrays (a,), optional
        The ends of a box: φ is taken of z clipped to it, and :attr:`slope` is its constant there.

    Raises
    ------
    InputError
        A step has an unknown operation, or there is none.
    """

    operands: tuple[Shape, ...]
    steps: tuple[Step, ...]
    size: int
    constants: tuple[NDArray[Any], ...] = ()
    domain: tuple[NDArray[Any], NDArray[Any]] | None = None
    _cast: dict[torch.dtype, list[Tensor]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.steps:
            raise InputError("a block has no steps")
        for step in self.steps:
            operation(step.operation)
        if self.domain is not None:
            low, high = self.domain
            shaped = np.shape(low) == np.shape(high) == (self.pre_size,)
            if not shaped or not (np.isfinite(low) & np.isfinite(high) & (low <= high)).all():
                raise InputError(f"a block's domain must be two ends of {self.pre_size} finite numbers, in order")

    # The fields by which a model of elementwise activations asks for properties; a block has none of them.
    homogeneous = False
    monotone = False
    jump = 0.0
    curvature = math.inf

    @property
    def name(self) -> str:
        """What it does, in words: the operations that are no mere rearrangement."""
        names = dict.fromkeys(step.packet.strip("_") for step in self.steps if step.packet not in lipschitz.MOVING)
        return "+".join(names) or "move"

    @property
    def pre_size(self) -> int:
        """a."""
        return sum(math.prod(shape) for shape in self.operands)

    @property
    def pointwise(self) -> bool:
        """Whether each number of the result depends only on that of z in its place, as in a chain of activations."""
        single = len(self.operands) == 1 and self.pre_size == self.size
        return single and not self.constants and lipschitz.is_pointwise(self.steps)

    @property
    def slope(self) -> float:
        """Its Lipschitz constant in ‖·‖∞; infinite where none is known."""
        if self.coupling is not None:
            return float(self.coupling.sum(axis=1).max(initial=0.0)) * (1.0 + _SUMMED * self.pre_size)
        program = self.bounded_by
        return lipschitz.constant(program.steps, len(self.operands), len(program.constants))

    @cached_property
    def coupling(self) -> csr_array | None:
        """G, (b, a), with |φ(z) - φ(z')| <= G |z - z'| over the domain; None without one, or where G is not finite."""
        if self.domain is None or self.pre_size * self.size > _LARGEST_COUPLING:
            return None
        program = self.bounded_by
        found = coupling(program.steps, self.operands, program.constants, self._box(torch.float64))
        return (
            csr_array(found.numpy() * (1.0 + _COUPLED + _SUMMED * self.pre_size))
            if bool(torch.isfinite(found).all())
            else None
        )

    @cached_property
    def bounded_by(self) -> Opened:
        """The program in operations that have interval images, as far as it can be opened."""
        return self.opened(RULES)

    def opened(self, known: Container[str]) -> Opened:
        """Return the program in operations of some names (:mod:`~simplicit.implicit.groups.opening`)."""
        return opened(self.steps, self.operands, self._constants(torch.float64), known, rule_of)

    def _box(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The domain as tensors."""
        assert self.domain is not None
        low, high = (torch.from_numpy(np.array(end, dtype=np.float64)).to(dtype) for end in self.domain)
        return low, high

    def _inside(self, z: Tensor) -> Tensor:
        """Z clipped to the domain, if there is one."""
        return z if self.domain is None else torch.clamp(z, *self._box(z.dtype))

    def holds(self, z: Tensor) -> bool:
        """Whether z (m, a) lies in the domain, so that clipping leaves it as it is."""
        return self.domain is None or bool(torch.equal(self._inside(z), z))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Block):
            return NotImplemented
        mine, theirs = ((b.operands, b.steps, b.size, [*b.arrays]) for b in (self, other))
        pairs = zip(self.arrays.values(), other.arrays.values(), strict=False)
        return mine == theirs and all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)

    def __hash__(self) -> int:
        return hash((self.operands, self.steps, self.size))

    def __call__(self, z: Tensor) -> Tensor:
        """Return φ(z), (m, a) to (m, b), in the dtype of z; always a new tensor."""
        m = len(z)
        if m == 1:  # what was traced for two samples or more may treat a single one in another way
            return self(z.expand(2, -1))[:1].clone()
        with lookups_checked():
            value = self.result(z)
        return value.to(z.dtype).reshape(m, self.size).clone()

    def result(self, z: Tensor) -> Tensor:
        """Return what the program makes of z (m, a) for m >= 2, in its own shape and dtype."""
        m, z = len(z), self._inside(z)
        parts = torch.split(z, [math.prod(shape) for shape in self.operands], dim=1)
        # Contiguous, as some operations of torch ask for.
        shaped = [part.reshape(m, *shape).contiguous() for part, shape in zip(parts, self.operands, strict=True)]
        values: list[Any] = [*shaped]
        return as_tensor(execute(self.steps, values + self._constants(z.dtype), m, z.dtype))

    def _constants(self, dtype: torch.dtype) -> list[Tensor]:
        if dtype not in self._cast:
            tensors = [torch.from_numpy(np.array(constant)) for constant in self.constants]
            self._cast[dtype] = [one.to(dtype) if one.is_floating_point() else one for one in tensors]
        return self._cast[dtype]

    def pull_back(self, z: Tensor, x_bar: Tensor) -> Tensor:
        """Return z̄ = (∂φ/∂z)ᵀ x̄, sample by sample, (m, b) to (m, a), with torch's choices at kinks."""
        return self.linearised(z)(x_bar)

    def linearised(self, z: Tensor) -> Callable[[Tensor], Tensor]:
        """Return x̄ ↦ (∂φ/∂z)ᵀ x̄ at z, as :meth:`pull_back` has it, for many x̄."""
        with torch.enable_grad():
            point = z.detach().clone().requires_grad_()
            value = self(point)

        def back(x_bar: Tensor) -> Tensor:
            if not value.requires_grad:
                return torch.zeros_like(point)
            (gradient,) = torch.autograd.grad(value, point, x_bar, allow_unused=True, retain_graph=True)
            return torch.zeros_like(point) if gradient is None else gradient.detach()

        return back

    def jacobian(self, z: Tensor) -> Tensor:
        """Return ∂φ/∂z, (m, b, a), for z (m, a)."""
        m, b = len(z), self.size
        unit = torch.eye(b, dtype=z.dtype).repeat(m, 1)
        return self.pull_back(z.repeat_interleave(b, dim=0), unit).reshape(m, b, self.pre_size)

    def image(self, lower: Tensor, upper: Tensor, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
        """Return bounds on φ over z between ``lower`` and ``upper``, (m, a) to twice (m, b), float64.

        They hold for exact arithmetic, and for evaluation in ``dtype``, however it rounds
        (:mod:`~simplicit.implicit.groups.images`). They are infinite where nothing is known, and never NaN.
        """
        program, ends = self.bounded_by, (self._inside(lower.double()), self._inside(upper.double()))
        return ImageOf(program.steps, self.operands, program.constants, self.size, dtype)(*ends)

    def spread(self, z: Tensor, radius: Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Bound |x - φ(z')| over all |z' - z| <= radius, (m, b), for x that is φ(z) as evaluated in ``dtype``."""
        low, high = self.image(z.double() - radius, z.double() + radius, dtype)
        return torch.maximum(high - x, x - low)

    def moved(self, radius: Tensor) -> Tensor:
        """Bound |φ(z') - φ(z)| for |z' - z| <= radius, (m, a) to (m, b): by G, else by :attr:`slope`."""
        if self.coupling is None:
            return (self.slope * radius.amax(dim=1, keepdim=True)).expand(-1, self.size)
        found = torch.from_numpy(self.coupling @ radius.double().numpy().T).T
        return found * (1.0 + _SUMMED * self.pre_size)

    @property
    def reach(self) -> float:
        """What every number of the result moves at least by, as :meth:`moved` says, where all of z moves by 1."""
        if self.coupling is None:
            return self.slope
        return float(self.coupling.sum(axis=1).min(initial=math.inf)) / (1.0 + _SUMMED * self.pre_size)

    def rounding(self, size: float, dtype: torch.dtype) -> float:
        """Bound what evaluating φ(z) in ``dtype`` may lose where |z| <= ``size``; infinite without :attr:`slope`."""
        if self.coupling is not None:
            program = self.bounded_by
            return rounding(program.steps, self.operands, program.constants, self._box(torch.float64), dtype)
        if math.isinf(self.slope):
            return math.inf
        values: list[Any] = [torch.zeros(2, *shape, dtype=torch.float64) for shape in self.operands]
        program = self.bounded_by
        values += program.constants
        execute(program.steps, values, 2, torch.float64)
        return lipschitz.rounding(program.steps, values, len(self.operands), size, 0.5 * torch.finfo(dtype).eps)

    def to_config(self) -> dict[str, Any]:
        """Return the program, ready for JSON; the constants are kept beside it (:attr:`arrays`)."""
        steps = [
            {
                "operation": step.operation,
                "arguments": [to_config(one) for one in step.arguments],
                "keywords": {name: to_config(one) for name, one in step.keywords},
            }
            for step in self.steps
        ]
        shapes = [list(shape) for shape in self.operands]
        bounded = {} if self.domain is None else {"domain": True}
        return {"operands": shapes, "steps": steps, "constants": len(self.constants), **bounded}

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """The constants, and the ends of the domain, by the names that they have in files."""
        ends = {} if self.domain is None else {f"domain.{number}": end for number, end in enumerate(self.domain)}
        return {f"constant.{number}": constant for number, constant in enumerate(self.constants)} | ends

    @classmethod
    def from_config(cls, config: Mapping[str, Any], size: int, arrays: Mapping[str, NDArray[Any]]) -> Block:
        """Return the block that :meth:`to_config` gave ``config`` for; InputError if it is none."""
        entries = dict(config) if isinstance(config, Mapping) else {}
        bounded = entries.pop("domain", False) is True
        if set(entries) != {"operands", "steps", "constants"} or not isinstance(entries["steps"], list):
            raise InputError(f'a block is {{"operands": …, "steps": …, "constants": …}}, got {config!r:.80}')
        try:
            steps = tuple(
                Step(
                    entry["operation"],
                    tuple(from_config(one) for one in entry["arguments"]),
                    tuple((name, from_config(one)) for name, one in entry["keywords"].items()),
                )
                for entry in entries["steps"]
            )
            operands = tuple(tuple(int(length) for length in shape) for shape in entries["operands"])
            constants = tuple(arrays[f"constant.{number}"] for number in range(entries["constants"]))
            domain = (arrays["domain.0"], arrays["domain.1"]) if bounded else None
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InputError(f"a block of the model is damaged ({error!r:.80})") from error
        return cls(operands, steps, size, constants, domain)
