"""``reproduce frontier``: sparsity against accuracy, clean and attacked, of :func:`simplicit.fit` and of pruning.

Everything is repeated for several seeds: a baseline of its own, calibration samples of its own, which all methods
share. A method is named by what decides its result: the solver, how the weights are allocated to the layers, and the
targets that they are fitted to.
"""

from __future__ import annotations

import copy
import multiprocessing
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from simplicit.checks import as_count, check_choice, named, refused, spelled
from simplicit.data import Dataset
from simplicit.machine import one_thread_each
from simplicit.network.graph import capture_graph
from simplicit.progress import OnProgress, listening, phase
from simplicit.report import Line, Table, draw_tradeoff
from simplicit.robustness.attacks.victims import AttackedModel
from simplicit.runs.evaluate import parse_eps
from simplicit.runs.mlp import MlpSettings, parse_arch, train_mlp
from simplicit.studies.bench import Bench, check_available
from simplicit.studies.peers import PEERS, Network, Peer
from simplicit.studies.study import Study
from simplicit.training import fit
from simplicit.training.recipes import RECIPES, at_sparsity

OURS, BASELINE = "simplicit", "baseline"
#: How weights are allocated to the layers: equal shares, as fit does, by size in the whole network.
UNIFORM, AS_OURS, GLOBAL = "uniform", "ours", "global"
#: What weights are fitted to: the dense weights on the layer's own inputs, or the baseline's states.
OWN, STATES = "own", "states"
_WORDS = {UNIFORM: "uniform", AS_OURS: "our", GLOBAL: "global", OWN: "own", STATES: "our"}
_KINDS = {"clean": "clean", "fgsm": "FGSM", "pgd": "PGD"}


@dataclass(frozen=True, order=True)
class Method:
    """A line of the study; ``targets`` is "" for methods that fit none."""

    solver: str
    allocation: str = ""
    targets: str = ""

    def __str__(self) -> str:
        words = [PEERS[self.solver].title if self.solver in PEERS else self.solver]
        words += [f"{_WORDS[self.allocation]} allocation"] if self.allocation else []
        return ", ".join(words + ([f"{_WORDS[self.targets]} targets"] if self.targets else []))


@dataclass(frozen=True)
class FrontierSettings:
    """What is compared, and on what.

    Parameters
    ----------
    arch : tuple of int
        Hidden layers of the network, which has no biases, such as 64-32-16.
    sparsity : tuple of float
        Per cent of the network's weights. Repeat for several.
    samples : int
        Calibration samples, the same for all methods.
    seeds : int
        Repetitions, each with a network and samples of its own.
    first_seed : int
        Seed of the first repetition; the others follow. Report on other seeds than you tuned on.
    peer : tuple of str
        Methods to compare with, by name. Repeat for several. Default: all.
    recipe : str
        Our own: the name of a recipe that takes a sparsity.
    eps : str
        Radius of the attacks in ℓ∞, in units of the inputs.
    pgd_steps : int
        Gradient steps of PGD.
    attack_samples : int
        Test samples under attack, drawn at random.
    epochs : int
        Passes over the data in the training of the network.
    workers : int
        Seeds at a time, each on one thread.

    Raises
    ------
    InputError
        If something is out of range or unknown.
    """

    panel: ClassVar[str] = "What is measured"

    arch: tuple[int, ...] = field(default=(64, 32, 16), metadata=spelled(parse_arch, "-"))
    sparsity: tuple[float, ...] = (50.0, 60.0, 70.0, 80.0, 90.0, 95.0, 97.0, 98.0)
    samples: int = 1000
    seeds: int = 5
    first_seed: int = 0
    peer: tuple[str, ...] = field(default=(), metadata=named(PEERS))
    recipe: str = field(default="sparse", metadata=named(RECIPES))
    eps: str = "8/255"
    pgd_steps: int = 50
    attack_samples: int = 1000
    epochs: int = 20
    workers: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "peer", self.peer or tuple(PEERS))
        for name in ("samples", "seeds", "pgd_steps", "attack_samples", "epochs", "workers"):
            as_count(name, getattr(self, name))
        as_count("first_seed", self.first_seed, minimum=0)
        if parse_eps(self.eps) > 1:
            raise refused("eps", f"{self.eps} is wider than the range of the inputs, from 0 to 1")
        if not self.sparsity:
            raise refused("sparsity", "name at least one")
        for value in self.sparsity:
            at_sparsity(self.recipe, value)
        for name in self.peer:
            check_choice("peer", name, PEERS)
        if not self.arch:
            raise refused("arch", "give the widths of the hidden layers, such as 64-32-16")


@dataclass(frozen=True)
class MethodFigures:
    """The figures of one model: sparsity as asked for and as ``reached``, in per cent, and seconds of one processor.

    Accuracies are shares in [0, 1]: ``clean`` of all test samples, ``fgsm`` and ``pgd`` of those that are attacked.
    """

    seed: int
    sparsity: float
    method: Method
    reached: float
    clean: float
    fgsm: float
    pgd: float
    seconds: float


@dataclass(frozen=True)
class Frontier:
    """All that was measured, by the clock's seconds and the processors'."""

    settings: FrontierSettings
    measured: tuple[MethodFigures, ...]
    seconds: float
    processor_seconds: float

    @classmethod
    def of_figures(cls, figures: Mapping[str, Any]) -> Frontier:
        """Return what was measured from the document ``frontier.json``, as :meth:`figures` has it."""
        settings: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in figures["settings"].items()
        }
        measured = (MethodFigures(**{**one, "method": Method(**one["method"])}) for one in figures["measured"])
        return cls(FrontierSettings(**settings), tuple(measured), figures["seconds"], figures["processor_seconds"])

    @property
    def methods(self) -> list[Method]:
        """The methods in the order of the study."""
        return list(dict.fromkeys(one.method for one in self.measured))

    def of(self, method: Method, sparsity: float) -> list[MethodFigures]:
        """Return the figures of a method, one for each seed."""
        return [one for one in self.measured if one.method == method and one.sparsity == sparsity]

    def summary(self, method: Method, sparsity: float, figure: str) -> tuple[float, float]:
        """Return mean and standard deviation over the seeds of a figure, such as ``"clean"``."""
        values = np.array([getattr(one, figure) for one in self.of(method, sparsity)])
        return float(values.mean()), float(values.std(ddof=min(1, len(values) - 1)))

    def figures(self) -> dict[str, Any]:
        """Return the document ``frontier.json``; accuracies are shares in [0, 1]."""
        means = []
        for method in self.methods:
            for sparsity in [0.0] if method.solver == BASELINE else self.settings.sparsity:
                means.append({"sparsity": sparsity, **asdict(method)})
                for name in ("reached", "clean", "fgsm", "pgd", "seconds"):
                    means[-1][name], means[-1][f"{name}_std"] = self.summary(method, sparsity, name)
        return {
            "settings": asdict(self.settings),
            "seconds": self.seconds,
            "processor_seconds": self.processor_seconds,
            "means": means,
            "measured": [asdict(one) for one in self.measured],
        }


def methods_of(peers: Mapping[str, Peer]) -> list[Method]:
    """Return the lines of the study: ours first, then every peer with each allocation and each kind of targets."""
    methods = [Method(OURS)]
    for name, peer in peers.items():
        targets = (OWN, STATES) if peer.fits else ("",)
        allocations = (UNIFORM, AS_OURS, GLOBAL) if peer.by_size else (UNIFORM, AS_OURS)
        methods += [Method(name, allocation, kind) for allocation in allocations for kind in targets]
    return methods


def run_frontier(data: Dataset, settings: FrontierSettings, *, progress: OnProgress | None = None) -> Frontier:
    """Train, fit, prune and attack, seed by seed, a step of the progress each.

    InputError is raised for more samples than there are, and for settings that :func:`simplicit.fit` refuses.
    """
    check_available(data, samples=settings.samples, attack_samples=settings.attack_samples)
    begun, measured, busy = time.perf_counter(), list[MethodFigures](), 0.0
    with listening(progress), phase("seeds", settings.seeds) as meter:
        for found, seconds in _seeds(data, settings):
            measured, busy = measured + found, busy + seconds
            meter.count()
    measured.sort(key=lambda one: one.seed)
    return Frontier(settings, tuple(measured), time.perf_counter() - begun, busy)


def _seeds(data: Dataset, settings: FrontierSettings) -> Iterator[tuple[list[MethodFigures], float]]:
    """Yield what each seed gave, and its processor seconds, as they come; several at a time in their own processes."""
    seeds = range(settings.first_seed, settings.first_seed + settings.seeds)
    # Other processes do not know what was registered in this one.
    peers = {name: PEERS[name] for name in settings.peer}
    if min(settings.workers, settings.seeds) == 1:
        yield from (_of_seed(data, settings, peers, seed) for seed in seeds)
        return
    with ProcessPoolExecutor(settings.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for job in as_completed([pool.submit(_of_seed, data, settings, peers, seed) for seed in seeds]):
            yield job.result()


def _of_seed(
    data: Dataset, settings: FrontierSettings, peers: dict[str, Peer], seed: int
) -> tuple[list[MethodFigures], float]:
    begun = time.process_time()
    with one_thread_each():
        return list(_measured(data, settings, peers, seed)), time.process_time() - begun


def _measured(data: Dataset, settings: FrontierSettings, peers: dict[str, Peer], seed: int) -> Iterator[MethodFigures]:
    """Measure the baseline of a seed, and every method at every sparsity."""
    net = train_mlp(data, MlpSettings(arch=settings.arch, bias=False, epochs=settings.epochs, seed=seed))
    random = np.random.default_rng(seed)
    inputs = data.train_inputs[np.sort(random.choice(len(data.train_inputs), settings.samples, replace=False))]
    samples = torch.from_numpy(inputs).double()
    network = Network(capture_graph(copy.deepcopy(net).double(), samples), samples)
    bench = Bench.drawn(data, settings.attack_samples, settings.pgd_steps, random)

    def measure(model: AttackedModel, sparsity: float, method: Method, reached: float, begun: float) -> MethodFigures:
        seconds, attacked = time.process_time() - begun, bench.under_attack(model, parse_eps(settings.eps))
        return MethodFigures(seed, sparsity, method, reached, bench.clean(model), *attacked, seconds)

    yield measure(net, 0.0, Method(BASELINE), 0.0, time.process_time())
    for sparsity in settings.sparsity:
        begun = time.process_time()
        fitted = fit(net, inputs, at_sparsity(settings.recipe, sparsity), executor="serial")
        yield measure(fitted.model.astype(np.float32), sparsity, Method(OURS), fitted.sparsity, begun)
        counts = {
            UNIFORM: network.uniform(sparsity),
            GLOBAL: network.by_size(sparsity),
            AS_OURS: network.counts_of(fitted.network()),
        }
        for method in methods_of(peers)[1:]:
            begun = time.process_time()
            pruned = network.pruned(
                peers[method.solver], counts[method.allocation], states=method.targets == STATES
            ).float()
            yield measure(pruned, sparsity, method, network.sparsity_of(pruned), begun)


def frontier_study(found: Frontier) -> Study:
    """Return what is kept and shown of the study: a table for each kind of accuracy, and a picture."""
    settings = found.settings
    figures = found.figures()
    return Study(
        name="frontier",
        title="Sparsity against accuracy",
        settings=asdict(settings),
        figures=figures,
        seconds={"all": found.seconds},
        tables=[_table(found, kind) for kind in _KINDS],
        notes=[
            f"{settings.samples:,} calibration samples, {_seeds_of(settings)} (each a baseline and samples of its "
            f"own): mean ± standard deviation, per cent. Attacks: ε = {settings.eps}, PGD with {settings.pgd_steps} "
            f"steps, {settings.attack_samples:,} test samples. The study took {found.seconds / 60:.0f} minutes with "
            f"{settings.workers} workers, {found.processor_seconds / 60:.0f} minutes of processor time."
        ],
        draw=lambda path: _draw(found, path),
    )


def _table(found: Frontier, kind: str) -> Table:
    settings, baseline = found.settings, Method(BASELINE)
    under = "" if kind == "clean" else f", ε = {settings.eps}"
    return Table(
        f"Accuracy, %, {_KINDS[kind]}{under}; baseline {_cell(found, baseline, 0.0, kind)}",
        ["sparsity, %", *(f"{value:g}" for value in settings.sparsity)],
        [
            [str(method), *(_cell(found, method, value, kind) for value in settings.sparsity)]
            for method in found.methods
            if method != baseline
        ],
        strong=OURS,
    )


def _cell(found: Frontier, method: Method, sparsity: float, kind: str) -> str:
    mean, deviation = found.summary(method, sparsity, kind)
    return f"{100 * mean:.1f}" + (f" ± {100 * deviation:.1f}" if found.settings.seeds > 1 else "")


def _seeds_of(settings: FrontierSettings) -> str:
    first, last = settings.first_seed, settings.first_seed + settings.seeds - 1
    return f"seed {first}" if first == last else f"{settings.seeds} seeds, {first} to {last}"


def shown(methods: Sequence[Method]) -> list[Method]:
    """Return the lines of the picture: ours, each peer as published, and each that fits values given what ours has.

    As published is by size in the whole network where a peer knows that, else equal shares; and its own targets. A
    peer has one line of each kind at most, so that colour and dash tell any two lines apart.
    """
    chosen, by_size = [], {method.solver for method in methods if method.allocation == GLOBAL}
    for method in methods:
        published = method.allocation == (GLOBAL if method.solver in by_size else UNIFORM) and method.targets != STATES
        given_ours = method.allocation == AS_OURS and method.targets == STATES
        if method.solver == OURS or published or given_ours:
            chosen.append(method)
    return chosen


def _draw(found: Frontier, path: Path) -> None:
    titles = {"clean": "Clean", "pgd": f"PGD-{found.settings.pgd_steps}, ε = {found.settings.eps}"}
    lines = shown(found.methods)
    draw_tradeoff(path, {title: _lines(found, lines, kind) for kind, title in titles.items()})


def _lines(found: Frontier, methods: Sequence[Method], kind: str) -> list[Line]:
    sparsities, (baseline, _) = found.settings.sparsity, found.summary(Method(BASELINE), 0.0, kind)
    lines = []
    for method in methods:
        means, deviations = zip(*(found.summary(method, value, kind) for value in sparsities), strict=True)
        dashed = method.allocation in (UNIFORM, GLOBAL)
        lines.append(Line(str(method), sparsities, means, baseline, deviations, family=method.solver, dashed=dashed))
    return lines
