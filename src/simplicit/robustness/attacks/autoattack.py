r"""AutoAttack (Croce and Hein, 2020) on implicit models and networks alike, by the package ``pyautoattack``.

The package wants float32 images with four dimensions, square ones for its Square attack, inputs in [0, 1] and at least
ten classes; it takes its seed from the clock, reseeds torch's global generator, takes over Python's tracing function
and warns through a logger. All of that is seen to here: what is no square image is padded to one with pixels that the
model never sees, and targeted attacks have as many targets as there are other classes. It knows nothing of our box, so
its points are brought into it before they count.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from simplicit.checks import as_seed
from simplicit.errors import InputError, MissingExtraError
from simplicit.robustness.attacks.problem import Problem
from simplicit.robustness.attacks.victims import AttackedModel, VictimModule
from simplicit.robustness.box import Clip, Radius

#: What the standard version runs, and what stands for it where there are too few classes for its targeted loss.
STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")
FEW_CLASSES = ("apgd-ce", "fab", "square")
#: The targeted loss compares with the third and fourth largest outputs; the standard version has nine targets.
_TARGETED_CLASSES, _TARGETS = 4, 9


def autoattack(
    model: AttackedModel,
    U: Any,
    labels: Any,
    eps: Radius,
    *,
    image_shape: tuple[int, ...] | None = None,
    clip: Clip = (0.0, 1.0),
    seed: int = 0,
    batch_size: int = 500,
) -> Any:
    """Attack by AutoAttack: APGD-CE, targeted APGD and FAB, and Square with 5,000 queries.

    With fewer than four classes APGD-CE, FAB and Square, because the targeted attacks need four. Samples that no attack
    breaks come back as they are.

    Parameters
    ----------
    model, U, labels, eps, clip
        As in :func:`simplicit.fgsm`. Inputs are handed over in units of ``clip``, in float32.
    image_shape : tuple of int, optional
        The form of a sample, (side, side) or (channels, side, side), for Square; the form in which U comes, or the
        model's, if left out. Samples of any other form are laid out in a square.
    seed : int
        In [0, 2⁶³). Equal seeds give equal points, for an equal ``batch_size``.
    batch_size : int
        Samples attacked at a time.

    Returns
    -------
    As :func:`simplicit.fgsm`.

    Raises
    ------
    InputError, NotWellPosedError, ConvergenceError
        As :func:`simplicit.fgsm`; InputError for ``seed`` out of range, ``image_shape`` of another size, inputs that do
        not move.
    MissingExtraError
        ``pyautoattack`` is not installed.
    """
    check_autoattack()
    problem = Problem.checked(model, U, labels, eps, clip, batch_size)
    if problem.reach.free is not None:
        raise InputError(
            "AutoAttack moves all numbers of a sample alike, and some of these stay (integers, or inputs that eps does "
            "not name); take fgsm, pgd and square"
        )
    as_seed("seed", seed, bits=63)
    shape = _square_image(problem.image_shape(image_shape))
    adversarial = problem.inputs.clone()
    right = torch.nonzero(~problem.broken(adversarial)).flatten()
    if len(right) and problem.eps > 0:
        part = problem.part(right)
        points = part.box().project_(_attacked(part, shape, seed))
        broken = part.broken(points)
        adversarial[right[broken]] = points[broken]
    return problem.returned(adversarial)


def check_autoattack() -> None:
    """Raise MissingExtraError if the package is not installed."""
    try:
        import pyautoattack  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("AutoAttack needs pyautoattack: pip install 'simplicit[attacks]'") from error


def _square_image(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return ``shape`` as (channels, side, side), or the smallest square that holds so many pixels."""
    if len(shape) in (2, 3) and shape[-1] == shape[-2]:
        return shape[0] if len(shape) == 3 else 1, shape[-2], shape[-1]
    side = math.isqrt(math.prod(shape) - 1) + 1
    return 1, side, side


def _attacked(problem: Problem, shape: tuple[int, int, int], seed: int) -> Tensor:
    """Return points for samples that are right, (m, p) in the victim's dtype, not yet in the box."""
    from pyautoattack import AutoAttack

    inputs, (m, p) = problem.inputs, problem.inputs.shape
    # Without a range of inputs, one that no box leaves.
    low, high = problem.clip or (inputs.min().item() - problem.eps, inputs.max().item() + problem.eps)
    images = torch.zeros(m, math.prod(shape))
    images[:, :p] = ((inputs - low) / (high - low)).clamp(0.0, 1.0)
    enough = problem.victim.n_outputs >= _TARGETED_CLASSES
    with _globals_kept():
        attack = AutoAttack(
            VictimModule(problem.victim, low=low, width=high - low),
            eps=problem.eps / (high - low),
            version="custom",
            attacks=list(STANDARD if enough else FEW_CLASSES),
            seed=seed,
        )
        attack.apgd.n_restarts = attack.fab.n_restarts = 1
        attack.apgd_targeted.n_target_classes = min(_TARGETS, problem.victim.n_outputs - 1)
        attack.fab.n_target_classes = attack.apgd_targeted.n_target_classes
        images = images.reshape(m, *shape)
        points, _ = attack.run_standard_evaluation(images, problem.labels, batch_size=problem.batch_size)
    found: Tensor = points.reshape(m, -1)[:, :p].to(inputs.dtype) * (high - low) + low
    return found


@contextmanager
def _globals_kept() -> Iterator[None]:
    """Leave torch's generators and Python's tracing function as they were; nothing is logged meanwhile."""
    trace, logger = sys.gettrace(), logging.getLogger("auto-attack")
    disabled, logger.disabled = logger.disabled, True
    try:
        with torch.random.fork_rng():
            yield
    finally:
        sys.settrace(trace)
        logger.disabled = disabled
