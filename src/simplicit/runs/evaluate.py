"""What a fitted model is worth: accuracy, agreement, sparsity, well-posedness, storage, robustness."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from simplicit.checks import as_count, as_seed
from simplicit.data import Dataset
from simplicit.errors import InputError
from simplicit.implicit import ImplicitModel, PerronFrobenius, equilibrium, perron_frobenius
from simplicit.implicit.wellposed import row_norm
from simplicit.progress import Meter, OnProgress
from simplicit.robustness import accuracy, fgsm, pgd

DEFAULT_EPS = ("0.004", "0.008", "8/255")
_BATCH, _NUMBERS = 2048, 2**22  # samples at a time, and their states together

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EvaluationSettings:
    """How a fitted model is attacked when it is measured.

    Parameters
    ----------
    eps : tuple of str
        Radius of the box in ℓ∞, in units of the inputs; fractions such as 8/255 too. Repeat for several.
    pgd_steps : int
        Gradient steps of PGD, from one random start.
    attack_samples : int, optional
        Attack only the first so many test samples. Default: all.
    seed : int
        Of PGD's random start.

    Raises
    ------
    InputError
        A radius is none, or a number is out of range.
    """

    panel: ClassVar[str] = "Attacks"

    eps: tuple[str, ...] = DEFAULT_EPS
    pgd_steps: int = 20
    attack_samples: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for text in self.eps:
            parse_eps(text)
        as_count("pgd_steps", self.pgd_steps)
        if self.attack_samples is not None:
            as_count("attack_samples", self.attack_samples)
        as_seed("seed", self.seed)


@dataclass(frozen=True)
class AttackFigures:
    """Accuracy, a share in [0, 1], under white-box ℓ∞ attacks of one radius, each model on its own gradient.

    ``eps`` is the radius as it was written ("8/255"), ``radius`` its value in units of the inputs.
    """

    eps: str
    radius: float
    fgsm: float
    pgd: float
    baseline_fgsm: float
    baseline_pgd: float


@dataclass(frozen=True)
class Evaluation:
    """The figures of one model on test samples: accuracies and agreement are shares in [0, 1], sparsity is in per cent.

    Parameters
    ----------
    samples, attacked_samples : int
        Test samples behind the clean and the attacked figures.
    accuracy, baseline_accuracy, agreement : float
        On all samples. Agreement is the share of samples for which model and baseline choose the same class.
    clean_accuracy_of_attacked, baseline_clean_accuracy_of_attacked : float
        Accuracy on the attacked samples before the attack.
    sparsity : float
        100 (1 - nnz/N0), N0 the baseline's weights.
    sparsity_of_size : float
        100 (1 - nnz(M)/((n+q)(n+p))).
    nnz, baseline_weights, size : int
        nnz(M), or after a fit with tied rows the weights that are not zero; N0; (n+q)(n+p).
    perron_frobenius : PerronFrobenius
        λ_pf(diag(L)|A|) between its Collatz-Wielandt bounds.
    norm_inf : float
        ‖A‖∞, the largest row sum of |A|.
    storage_bits : int or None
        Non-zeros, their places and the biases, as in appendix B of the paper; None for tied rows.
    baseline_dense_weight_bits : int
        The baseline's N0 weights, dense, in its own dtype; its biases are not counted.
    storage_ratio : float or None
        baseline_dense_weight_bits / storage_bits.
    equilibrium_method : str
        ``"substitution"`` or ``"picard"``.
    equilibrium_iterations : int
        Picard steps, the most over all batches; 0 for substitution.
    equilibrium_error_bound : float
        Bound on |x - x*| over all states and samples.
    pgd_steps : int
    attacks : tuple of AttackFigures
    """

    samples: int
    attacked_samples: int
    accuracy: float
    baseline_accuracy: float
    clean_accuracy_of_attacked: float
    baseline_clean_accuracy_of_attacked: float
    agreement: float
    sparsity: float
    sparsity_of_size: float
    nnz: int
    baseline_weights: int
    size: int
    perron_frobenius: PerronFrobenius
    norm_inf: float
    storage_bits: int | None
    baseline_dense_weight_bits: int
    storage_ratio: float | None
    equilibrium_method: str
    equilibrium_iterations: int
    equilibrium_error_bound: float
    pgd_steps: int
    attacks: tuple[AttackFigures, ...]


def parse_eps(text: str) -> float:
    """Read a radius from ``"0.004"`` or ``"8/255"``.

    Raises
    ------
    InputError
        It is no number, negative, or not finite.
    """
    try:
        value = float(Fraction(text.replace(" ", "")))
    except (ValueError, ZeroDivisionError, OverflowError):
        value = math.nan
    if not 0 <= value < math.inf:
        raise InputError(f"eps {text!r}: expected a radius of at least 0, such as 0.004 or 8/255", argument="eps")
    return value


def evaluate(
    model: ImplicitModel,
    baseline: ImplicitModel,
    baseline_weights: int,
    data: Dataset,
    settings: EvaluationSettings = EvaluationSettings(),
    *,
    weights: int | None = None,
    progress: OnProgress | None = None,
) -> Evaluation:
    """Measure `model` on the test part of `data`, beside its baseline.

    Parameters
    ----------
    model, baseline : ImplicitModel
        The fitted model and the exact implicit form of the network it came from.
    baseline_weights : int
        N0.
    data : Dataset
    settings : EvaluationSettings
    weights : int, optional
        Weights that are not zero, where that is known. Where one stands at many places of M (tied rows), sparsity is of
        the weights, and storage is not told.
    progress : callable, optional
        Called with a :class:`simplicit.progress.Progress`, whose steps are the measurements.

    Raises
    ------
    InputError
        Model, baseline and data do not fit, or a setting is out of range.
    NotWellPosedError
        The model has no unique equilibrium.
    """
    radii = {text: parse_eps(text) for text in settings.eps}
    _check(model, baseline, data)
    meter = Meter(1 + 4 * len(radii), progress)
    meter.begin("clean accuracy")
    U, labels = data.test_inputs, data.test_labels
    ours, theirs = _classes(model, U), _classes(baseline, U)
    method, iterations, bound = _equilibria(model, U)
    meter.count()
    count = min(settings.attack_samples or len(labels), len(labels))
    tied = weights not in (None, model.nnz)
    stored = None if tied else model.storage_bits().total
    dense = 8 * baseline.dtype.itemsize * baseline_weights
    nnz = model.nnz if weights is None else weights
    bench = _Bench(U[:count], labels[:count], data.input_range, settings.pgd_steps, settings.seed, meter)
    return Evaluation(
        samples=len(labels),
        attacked_samples=count,
        accuracy=_share(ours == labels),
        baseline_accuracy=_share(theirs == labels),
        clean_accuracy_of_attacked=_share((ours == labels)[:count]),
        baseline_clean_accuracy_of_attacked=_share((theirs == labels)[:count]),
        agreement=_share(ours == theirs),
        sparsity=100.0 * (1.0 - nnz / baseline_weights),
        sparsity_of_size=model.sparsity(),
        nnz=nnz,
        baseline_weights=baseline_weights,
        size=model.size,
        perron_frobenius=perron_frobenius(model),
        norm_inf=row_norm(model),
        storage_bits=stored,
        baseline_dense_weight_bits=dense,
        storage_ratio=None if stored is None else dense / stored if stored else math.inf,
        equilibrium_method=method,
        equilibrium_iterations=iterations,
        equilibrium_error_bound=bound,
        pgd_steps=settings.pgd_steps,
        attacks=tuple(bench.figures(model, baseline, text, radius) for text, radius in radii.items()),
    )


@dataclass(frozen=True)
class _Bench:
    """The samples to attack, and how."""

    inputs: Floats
    labels: Labels
    clip: tuple[float, float]
    pgd_steps: int
    seed: int
    meter: Meter

    def figures(self, model: ImplicitModel, baseline: ImplicitModel, text: str, radius: float) -> AttackFigures:
        values: dict[str, float] = {}
        for prefix, victim, name in (("", model, "model"), ("baseline_", baseline, "baseline")):
            samples = (victim, self.inputs, self.labels, radius)
            self.meter.begin(f"FGSM on the {name}, ε = {text}")
            values[f"{prefix}fgsm"] = accuracy(victim, fgsm(*samples, clip=self.clip), self.labels)
            self.meter.count()
            self.meter.begin(f"PGD-{self.pgd_steps} on the {name}, ε = {text}")
            attacked = pgd(*samples, steps=self.pgd_steps, clip=self.clip, seed=self.seed)
            values[f"{prefix}pgd"] = accuracy(victim, attacked, self.labels)
            self.meter.count()
        return AttackFigures(eps=text, radius=radius, **values)


def _check(model: ImplicitModel, baseline: ImplicitModel, data: Dataset) -> None:
    for name, victim in (("model", model), ("baseline", baseline)):
        if victim.n_inputs != data.n_inputs:
            raise InputError(
                f"the {name} takes {victim.n_inputs} inputs, a sample of {data.name} has {data.n_inputs}; give the "
                "data that it was trained on with --data"
            )
        if victim.n_outputs < data.classes:
            raise InputError(
                f"the labels of {data.name} do not fit: they go up to {data.classes - 1}, the {name} has "
                f"{victim.n_outputs} outputs; give the data that it was trained on with --data"
            )


def _classes(model: ImplicitModel, inputs: Any) -> Labels:
    classes: Labels = np.asarray(model.predict(inputs)).argmax(axis=1)
    return classes


def _equilibria(model: ImplicitModel, inputs: Floats) -> tuple[str, int, float]:
    batch = max(1, min(_BATCH, _NUMBERS // max(1, model.n_states)))
    parts = [equilibrium(model, inputs[start : start + batch]) for start in range(0, len(inputs), batch)]
    bound = max(float(np.max(part.error_bound)) for part in parts)
    return parts[0].method, max(part.iterations for part in parts), bound


def _share(hits: npt.NDArray[np.bool_]) -> float:
    return float(np.mean(hits))
