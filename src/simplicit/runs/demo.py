"""The whole story in one run: train a baseline, fit it at several sparsities, measure, draw."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from simplicit.checks import as_count, as_seed, refused
from simplicit.data import Dataset
from simplicit.files import file_hash, write_json
from simplicit.progress import OnProgress, counted, listening, phase
from simplicit.report import Line, can_draw, draw_frontier
from simplicit.robustness import accuracy
from simplicit.runs.baseline import CONFIG, WEIGHTS, Baseline, make_baseline, save_baseline
from simplicit.runs.evaluate import Evaluation, EvaluationSettings, evaluate, parse_eps
from simplicit.runs.fitting import FitRun, capture_task, fill_fit_folder, run_fit
from simplicit.runs.folder import Manifest, run_folder
from simplicit.runs.mlp import MlpSettings
from simplicit.runs.settings import FitSettings, Source
from simplicit.runs.task import Task
from simplicit.training import Sparse

PICTURE = "picture.png"
#: The folder of the network that is made sparse.
BASELINE = "baseline"
_NETWORK = MlpSettings(arch=(256, 128), bias=False, epochs=60, batch_size=64)


@dataclass(frozen=True)
class DemoSettings:
    """The settings of `simplicit demo`.

    Parameters
    ----------
    sparsity : tuple of float
        Per cent of the network's weights. Repeat for several.
    samples : int
        Training samples of each fit, or all if there are fewer.
    eps : str
        Radius of the attacks in ℓ∞, in units of the inputs.
    pgd_steps : int
        Gradient steps of PGD.
    seed : int
        Of training, samples and attacks.
    """

    panel: ClassVar[str] = "What is measured"

    sparsity: tuple[float, ...] = (70.0, 80.0, 90.0, 95.0)
    samples: int = 1000
    eps: str = "0.1"
    pgd_steps: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        parse_eps(self.eps)
        for name in ("samples", "pgd_steps"):
            as_count(name, getattr(self, name))
        as_seed("seed", self.seed)
        if not self.sparsity:
            raise refused("sparsity", "name at least one")
        for value in self.sparsity:
            Sparse(value)
        by_name = {f"{value:g}": value for value in self.sparsity}  # what their folders are called by
        object.__setattr__(self, "sparsity", tuple(sorted(by_name.values())))


@dataclass(frozen=True)
class FrontierPoint:
    """One fit on the frontier between sparsity, in per cent, and accuracy; accuracies and agreement are in [0, 1].

    ``magnitude`` is the accuracy of the baseline with as many of its weights, the largest ones, as they are.
    """

    folder: str
    sparsity: float
    nnz: int
    accuracy: float
    magnitude: float
    fgsm: float
    pgd: float
    agreement: float
    norm_inf: float
    rows: int
    rows_certified: int
    largest_relative_gap: float
    perron_frobenius: float
    seconds: float


@dataclass(frozen=True)
class Demo:
    """What the demo found: the baseline's figures, one point per sparsity, and the fits themselves."""

    baseline: Baseline
    baseline_weights: int
    baseline_fgsm: float
    baseline_pgd: float
    points: tuple[FrontierPoint, ...]
    fits: tuple[FitRun, ...]
    settings: DemoSettings

    def frontier(self) -> dict[str, Any]:
        """The document ``frontier.json``."""
        return {
            "data": self.baseline.data,
            "eps": self.settings.eps,
            "pgd_steps": self.settings.pgd_steps,
            "baseline": {
                "weights": self.baseline_weights,
                "accuracy": self.baseline.test_accuracy,
                "fgsm": self.baseline_fgsm,
                "pgd": self.baseline_pgd,
            },
            "points": self.points,
        }

    def shown(self) -> int:
        """Which fit to show: the sparsest within three points of the baseline's accuracy, else the most accurate."""
        close = [i for i, point in enumerate(self.points) if point.accuracy >= self.baseline.test_accuracy - 0.03]
        if close:
            return max(close, key=lambda i: self.points[i].sparsity)
        return max(range(len(self.points)), key=lambda i: self.points[i].accuracy)

    def draw(self, path: Path) -> None:
        """Write the picture: sparsity against clean and attacked accuracy, beside pruning by magnitude, and a pattern.

        The pattern is that of the fit to show.
        """
        sparsities = [point.sparsity for point in self.points]
        clean, attacked = [point.accuracy for point in self.points], [point.pgd for point in self.points]
        lines = (
            Line("simplicit", sparsities, clean, self.baseline.test_accuracy),
            Line(
                f"simplicit under PGD-{self.settings.pgd_steps}, ε = {self.settings.eps}",
                sparsities,
                attacked,
                self.baseline_pgd,
            ),
            Line("pruned by magnitude", sparsities, [point.magnitude for point in self.points]),
        )
        title = f"Non-zeros of M at {sparsities[self.shown()]:.0f} % sparsity"
        draw_frontier(path, lines, self.fits[self.shown()].result.model, title=title)


def run_demo(
    data: Dataset,
    output: Path,
    settings: DemoSettings,
    *,
    data_dir: Path | None = None,
    command: Sequence[str] = (),
    overwrite: bool = False,
    progress: OnProgress | None = None,
) -> Demo:
    """Run the demo and write its folder: ``baseline/``, one folder per fit, ``frontier.json``, ``run.json``.

    With the extra ``report`` there is a picture too. `data_dir`, where the data set's files were found, is for the
    manifests; the stages of `progress` are epochs, rows, measurements.
    """
    with listening(progress), run_folder(output, overwrite=overwrite) as draft:
        manifest = Manifest("demo", command, {}, {"data": data.describe()})
        network = dataclasses.replace(_NETWORK, seed=settings.seed)
        baseline = make_baseline(data, network, data_dir=data_dir)
        save_baseline(baseline, draft / BASELINE)
        demo = _fit_all(baseline, data, output, draft, settings)
        write_json(draft / "frontier.json", demo.frontier())
        if can_draw():
            with phase("drawing"):
                demo.draw(draft / PICTURE)
        manifest.settings = dataclasses.asdict(settings) | {"data": baseline.data_in(output)["data"]}
        manifest.seconds = {"baseline": baseline.seconds, "fits": sum(point.seconds for point in demo.points)}
        manifest.results = demo.frontier()
        manifest.write(draft)
    return demo


def _fit_all(
    baseline: Baseline,
    data: Dataset,
    output: Path,
    draft: Path,
    settings: DemoSettings,
) -> Demo:
    hashes = {name: file_hash(draft / BASELINE / name) for name in (CONFIG, WEIGHTS)}
    task = Task(baseline.net, data, (data.n_inputs,), {"network": hashes, "data": data.describe()})
    captured = capture_task(task)
    points, fits = list[FrontierPoint](), list[FitRun]()
    for sparsity in counted(settings.sparsity, "fits", len(settings.sparsity)):
        name = f"sparsity-{sparsity:g}"
        fit_settings = FitSettings(
            Source(baseline=output / BASELINE),
            samples=min(settings.samples, len(data.train_labels)),
            seed=settings.seed,
            recipe=Sparse(sparsity),
        )
        run = run_fit(fit_settings, task, baseline=capture_task(task))
        attacks = EvaluationSettings((settings.eps,), settings.pgd_steps, seed=settings.seed)
        weights = captured.weight_count
        figures = evaluate(run.result.model, captured.model, weights, data, attacks)
        (draft / name).mkdir()
        fill_fit_folder(run, draft / name, output / name)
        points.append(_point(name, run, figures, pruned_accuracy(baseline.net, data, figures.nnz)))
        fits.append(run)
    (attack,) = figures.attacks
    attacked = attack.baseline_fgsm, attack.baseline_pgd
    return Demo(baseline, captured.weight_count, *attacked, tuple(points), tuple(fits), settings)


def pruned_accuracy(net: nn.Module, data: Dataset, count: int) -> float:
    """The accuracy, a share in [0, 1], on the test part of `net` with its `count` largest weights alone."""
    return accuracy(largest_kept(net, count), data.test_inputs, data.test_labels)


def largest_kept(net: nn.Module, count: int) -> nn.Module:
    """A copy of `net` in which only the `count` largest weights are not zero.

    That is pruning by magnitude over the whole network, of every parameter with two dimensions or more, without
    retraining; biases stay.
    """
    pruned = copy.deepcopy(net)
    weights = [value for value in pruned.parameters() if value.ndim > 1]
    with torch.no_grad():
        sizes = torch.cat([value.abs().reshape(-1) for value in weights])
        kept = torch.zeros_like(sizes, dtype=torch.bool)
        kept[sizes.topk(count).indices] = True
        parts = torch.split(kept, [value.numel() for value in weights])
        for value, own in zip(weights, parts, strict=True):
            value.mul_(own.reshape(value.shape))
    return pruned


def _point(folder: str, run: FitRun, figures: Evaluation, magnitude: float) -> FrontierPoint:
    rows = run.result.rows
    return FrontierPoint(
        folder=folder,
        sparsity=figures.sparsity,
        nnz=figures.nnz,
        accuracy=figures.accuracy,
        magnitude=magnitude,
        fgsm=figures.attacks[0].fgsm,
        pgd=figures.attacks[0].pgd,
        agreement=figures.agreement,
        norm_inf=figures.norm_inf,
        rows=len(rows),
        rows_certified=int(rows.converged.sum()),
        largest_relative_gap=float(rows.relative_gap.max(initial=0.0)),
        perron_frobenius=figures.perron_frobenius.upper,
        seconds=run.seconds,
    )
