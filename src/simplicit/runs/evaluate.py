"""The figures of a fitted model: accuracy, agreement, sparsity, well-posedness, storage, robustness."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from simplicit.checks import as_count, as_seed, refused
from simplicit.data import Dataset
from simplicit.errors import InputError
from simplicit.files import write_json
from simplicit.implicit import Block, ImplicitModel, PerronFrobenius, equilibrium, perron_frobenius
from simplicit.implicit.wellposed import row_norm
from simplicit.progress import OnProgress, Phase, listening, phase
from simplicit.robustness import accuracy, fgsm, pgd
from simplicit.runs.fitting import capture_task, weights_of
from simplicit.runs.folder import Manifest, run_folder
from simplicit.runs.networks import model_hashes, open_model
from simplicit.runs.task import Task, check_labels, open_finished

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
        Of PGD's random start, and of the tokens that are hidden from a masked language model.
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

    Attributes
    ----------
    samples, attacked_samples : int
        Test samples behind the clean and the attacked figures.
    accuracy, baseline_accuracy, agreement : float
        On all samples. Agreement is the share of samples for which model and baseline choose the same class.
    clean_accuracy_of_attacked, baseline_clean_accuracy_of_attacked : float
        Accuracy on the attacked samples before the attack.
    sparsity : float
        100 (1 - nnz/N₀), N₀ the baseline's weights.
    sparsity_of_size : float
        100 (1 - nnz(M)/((n+q)(n+p))).
    nnz, baseline_weights, size : int
        nnz(M), or after a fit with tied rows the weights that are not zero; N₀; (n+q)(n+p).
    perron_frobenius : PerronFrobenius
        λ_pf(diag(L)|A|) between its Collatz-Wielandt bounds.
    norm_inf : float
        ‖A‖∞, the largest row sum of |A|.
    storage_bits : int or None
        Non-zeros, their places and the biases, as in appendix B of the paper; None for tied rows.
    baseline_dense_weight_bits : int
        The baseline's N₀ weights, dense, in its own dtype; its biases are not counted.
    storage_ratio : float or None
        baseline_dense_weight_bits / storage_bits.
    equilibrium_method : str
        ``"substitution"`` or ``"picard"``.
    equilibrium_iterations : int
        Picard steps, the most over all batches; 0 for substitution.
    equilibrium_error_bound : float
        Bound on |x - x*| over all states and samples. It is true, but says nothing where it is not below
        ``output_range``.
    output_range : float
        The largest of the model's outputs on the test samples less the smallest.
    unbounded : tuple of str
        The operations of blocks that have no Lipschitz constant, through which a bound on rounding grows without limit.
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
    output_range: float
    unbounded: tuple[str, ...]
    pgd_steps: int
    attacks: tuple[AttackFigures, ...]


def parse_eps(text: str) -> float:
    """Read a radius from ``"0.004"`` or ``"8/255"``; InputError if it is no number, negative, or not finite."""
    try:
        value = float(Fraction(text.replace(" ", "")))
    except (ValueError, ZeroDivisionError, OverflowError):
        value = math.nan
    if not 0 <= value < math.inf:
        raise refused("eps", "expected a radius of at least 0, such as 0.004 or 8/255", repr(text))
    return value


def evaluate(
    model: ImplicitModel,
    baseline: ImplicitModel,
    baseline_weights: int,
    data: Dataset,
    settings: EvaluationSettings = EvaluationSettings(),
    *,
    nnz: int | None = None,
    progress: OnProgress | None = None,
) -> Evaluation:
    """Measure `model` on the test part of `data`, beside the exact implicit form of the network that it came from.

    `baseline_weights` is N₀, and `nnz` how many weights are not zero, if not all of M: with tied rows one stands at
    many places. The steps of `progress` are the measurements. InputError is raised where model, baseline and data do
    not fit.
    """
    _check(model, baseline, data)
    U, labels = data.test_inputs, data.test_labels
    with listening(progress), phase("clean accuracy", 1 + 4 * len(set(settings.eps))) as meter:
        outputs = np.asarray(model.predict(U))
        ours, theirs = outputs.argmax(axis=1), np.asarray(baseline.predict(U)).argmax(axis=1)
        method, iterations, bound = _equilibria(model, U)
        meter.count()
        count = min(settings.attack_samples or len(labels), len(labels))
        return Evaluation(
            samples=len(labels),
            attacked_samples=count,
            accuracy=_share(ours == labels),
            baseline_accuracy=_share(theirs == labels),
            clean_accuracy_of_attacked=_share((ours == labels)[:count]),
            baseline_clean_accuracy_of_attacked=_share((theirs == labels)[:count]),
            agreement=_share(ours == theirs),
            **_sizes(model, baseline, baseline_weights, nnz),
            perron_frobenius=perron_frobenius(model),
            norm_inf=row_norm(model),
            equilibrium_method=method,
            equilibrium_iterations=iterations,
            equilibrium_error_bound=bound,
            output_range=float(np.ptp(outputs)),
            unbounded=_unbounded(model),
            pgd_steps=settings.pgd_steps,
            attacks=_attacks({"model": model, "baseline": baseline}, U[:count], labels[:count], data, settings, meter),
        )


def _sizes(model: ImplicitModel, baseline: ImplicitModel, baseline_weights: int, nnz: int | None) -> dict[str, Any]:
    """Sparsity and storage; of tied rows, where a weight stands at many places of M, storage is None."""
    nnz = model.nnz if nnz is None else nnz
    stored = model.storage_bits().total if nnz == model.nnz else None
    dense = 8 * baseline.dtype.itemsize * baseline_weights
    return {
        "sparsity": 100.0 * (1.0 - nnz / baseline_weights),
        "sparsity_of_size": model.sparsity(),
        "nnz": nnz,
        "baseline_weights": baseline_weights,
        "size": model.size,
        "storage_bits": stored,
        "baseline_dense_weight_bits": dense,
        "storage_ratio": None if stored is None else dense / stored if stored else math.inf,
    }


def _attacks(
    victims: Mapping[str, ImplicitModel],
    inputs: Floats,
    labels: Labels,
    data: Dataset,
    settings: EvaluationSettings,
    meter: Phase,
) -> tuple[AttackFigures, ...]:
    """Accuracies of the victims under FGSM and PGD for every radius."""
    found, clip = [], data.input_range
    for text in dict.fromkeys(settings.eps):
        radius, left = parse_eps(text), list[float]()
        for name, victim in victims.items():
            meter.begin(f"FGSM on the {name}, ε = {text}")
            left.append(accuracy(victim, fgsm(victim, inputs, labels, radius, clip=clip), labels))
            meter.count()
            meter.begin(f"PGD-{settings.pgd_steps} on the {name}, ε = {text}")
            options: dict[str, Any] = {"steps": settings.pgd_steps, "clip": clip, "seed": settings.seed}
            left.append(accuracy(victim, pgd(victim, inputs, labels, radius, **options), labels))
            meter.count()
        found.append(AttackFigures(text, radius, *left))
    return tuple(found)


def _check(model: ImplicitModel, baseline: ImplicitModel, data: Dataset) -> None:
    for name, victim in (("model", model), ("baseline", baseline)):
        if victim.n_inputs != data.n_inputs:
            raise InputError(
                f"the {name} takes {victim.n_inputs} inputs, a sample of {data.name} has {data.n_inputs}; give the "
                "data that it was trained on with --data"
            )
        check_labels(data, victim.n_outputs, name)


def _unbounded(model: ImplicitModel) -> tuple[str, ...]:
    """The operations of blocks without a Lipschitz constant, each once, in the order of evaluation."""
    blocks = [one.activation for one in reversed(model.groups) if isinstance(one.activation, Block)]
    names = [name for one in blocks if not math.isfinite(one.slope) for name in one.name.split("+")]
    return tuple(dict.fromkeys(names))


def _equilibria(model: ImplicitModel, inputs: Floats) -> tuple[str, int, float]:
    batch = max(1, min(_BATCH, _NUMBERS // max(1, model.n_states)))
    parts = [equilibrium(model, inputs[start : start + batch]) for start in range(0, len(inputs), batch)]
    bound = max(float(np.max(part.error_bound)) for part in parts)
    return parts[0].method, max(part.iterations for part in parts), bound


def _share(hits: npt.NDArray[np.bool_]) -> float:
    return float(np.mean(hits))


@dataclass(frozen=True)
class EvaluationRun:
    """The figures of the fit in the folder ``run``, beside the network of its ``task``."""

    run: Path
    settings: EvaluationSettings
    task: Task
    figures: Evaluation

    def results(self) -> dict[str, Any]:
        """The document of ``--json``; accuracies are shares in [0, 1], sparsity is in per cent."""
        return {"folder": self.run, "evaluation": self.figures}

    def save(self, folder: Path, *, command: Sequence[str] = (), overwrite: bool = False) -> None:
        """Write ``evaluation.json`` and ``run.json``."""
        inputs = self.task.provenance | {"model": model_hashes(self.run)}
        with run_folder(folder, overwrite=overwrite, kind="eval", inputs=[self.run]) as draft:
            write_json(draft / "evaluation.json", self.figures)
            Manifest("eval", command, vars(self.settings), inputs).write(draft)


def run_evaluation(
    run: Path, settings: EvaluationSettings, *, progress: OnProgress | None = None, **source: Any
) -> EvaluationRun:
    """Measure the fit in a folder; ``source`` is as in :func:`simplicit.runs.task.open_finished`, and so is what is
    raised."""
    with listening(progress):
        with phase(f"reading {run}"):
            (nnz, total), model = weights_of(run), open_model(run)
        task = open_finished(run, **source)
        baseline = capture_task(task).model
        figures = evaluate(model, baseline, total, task.data, settings, nnz=nnz)
    return EvaluationRun(run, settings, task, figures)
