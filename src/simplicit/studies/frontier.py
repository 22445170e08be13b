"""``reproduce frontier``: sparsity against accuracy, clean and attacked, of :func:`simplicit.fit` and of pruning.

Everything is repeated for several seeds: a baseline of its own, calibration samples of its own, which all methods
share. A method is named by what decides its result: the solver, how the weights are spread over the layers, and the
targets that they are fitted to.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from simplicit.checks import as_count, as_number
from simplicit.data import Dataset
from simplicit.errors import InputError
from simplicit.implicit import ImplicitModel
from simplicit.machine import one_thread_each
from simplicit.network import capture
from simplicit.progress import OnStep
from simplicit.robustness import accuracy, fgsm, pgd
from simplicit.runs.evaluate import parse_eps
from simplicit.runs.mlp import MlpSettings, train_mlp
from simplicit.studies.peers import PEERS, Network
from simplicit.training import fit, preset_of

__all__ = ["BASELINE", "OURS", "Frontier", "FrontierSettings", "Method", "MethodFigures", "methods_of", "run_frontier"]

OURS, BASELINE = "simplicit", "baseline"
#: How weights are spread over the layers: equal shares, as fit does, by size in the whole network.
UNIFORM, AS_OURS, GLOBAL = "uniform", "ours", "global"
#: What weights are fitted to: the dense weights on the layer's own inputs, or the baseline's states.
OWN, STATES = "own", "states"
_SAID = {UNIFORM: "uniform", AS_OURS: "our", GLOBAL: "global", OWN: "own", STATES: "our"}


@dataclass(frozen=True, order=True)
class Method:
    """A line of the study; ``targets`` is "" for methods that fit none."""

    solver: str
    allocation: str = ""
    targets: str = ""

    def __str__(self) -> str:
        words = [PEERS[self.solver].title if self.solver in PEERS else self.solver]
        words += [f"{_SAID[self.allocation]} allocation"] if self.allocation else []
        return ", ".join(words + ([f"{_SAID[self.targets]} targets"] if self.targets else []))


@dataclass(frozen=True)
class FrontierSettings:
    """What is compared, and on what.

    Parameters
    ----------
    arch : tuple of int
        Hidden layers of the baseline, which has no biases.
    sparsities : tuple of float
        Per cent of the baseline's weights.
    samples, seeds : int
        Calibration samples; repetitions, each with a baseline and samples of its own.
    first_seed : int
        Of the repetitions, which have seeds that follow one another.
    peers : tuple of str
    preset : str
        Of :func:`simplicit.fit`.
    eps : str
        Radius of the attacks.
    pgd_steps, attack_samples, epochs : int
    workers : int
        Seeds at a time, each on one thread.

    Raises
    ------
    InputError
        If something is out of range or unknown.
    """

    arch: tuple[int, ...] = (64, 32, 16)
    sparsities: tuple[float, ...] = (50.0, 60.0, 70.0, 80.0, 90.0, 95.0, 97.0, 98.0)
    samples: int = 1000
    seeds: int = 5
    first_seed: int = 0
    peers: tuple[str, ...] = tuple(PEERS)
    preset: str = "sparse"
    eps: str = "8/255"
    pgd_steps: int = 50
    attack_samples: int = 1000
    epochs: int = 20
    workers: int = 2

    def __post_init__(self) -> None:
        for name in ("samples", "seeds", "pgd_steps", "attack_samples", "epochs", "workers"):
            as_count(name, getattr(self, name))
        as_count("first_seed", self.first_seed, minimum=0)
        if parse_eps(self.eps) > 1:
            raise InputError(f"eps: {self.eps} is wider than the range of the inputs, from 0 to 1")
        if not self.sparsities:
            raise InputError("sparsity: name at least one")
        for value in self.sparsities:
            if as_number("sparsity", value) >= 100:
                raise InputError(f"sparsity is in per cent, from 0 to below 100, got {value:g}")
        for name in self.peers:
            if name not in PEERS:
                raise InputError(f"peer: {name!r} is unknown; choose among {', '.join(map(repr, PEERS))}")
        preset_of(self.preset)
        if not self.arch:
            raise InputError("arch: give the widths of the hidden layers, such as 64-32-16")


@dataclass(frozen=True)
class MethodFigures:
    """One model: accuracies in per cent, clean on all test samples, attacked on those asked for."""

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

    @property
    def methods(self) -> list[Method]:
        """In the order of the study."""
        return list(dict.fromkeys(one.method for one in self.measured))

    def of(self, method: Method, sparsity: float) -> list[MethodFigures]:
        """One per seed."""
        return [one for one in self.measured if one.method == method and one.sparsity == sparsity]

    def summary(self, method: Method, sparsity: float) -> dict[str, float]:
        """Mean and standard deviation over the seeds of every figure."""
        found = self.of(method, sparsity)
        values = {name: np.array([getattr(one, name) for one in found]) for name in _FIGURES}
        means = {name: float(value.mean()) for name, value in values.items()}
        return means | {f"{name}_std": float(value.std(ddof=min(1, len(found) - 1))) for name, value in values.items()}

    def figures(self) -> dict[str, Any]:
        """For ``frontier.json``."""
        means = [
            {"sparsity": sparsity, **asdict(method)} | self.summary(method, sparsity)
            for method in self.methods
            for sparsity in ([0.0] if method.solver == BASELINE else self.settings.sparsities)
        ]
        return {
            "settings": asdict(self.settings),
            "seconds": self.seconds,
            "processor_seconds": self.processor_seconds,
            "means": means,
            "measured": [asdict(one) for one in self.measured],
        }


_FIGURES = ("reached", "clean", "fgsm", "pgd", "seconds")


def methods_of(peers: Sequence[str]) -> list[Method]:
    """The lines of the study: ours first, then every peer with each allocation and each kind of targets."""
    methods = [Method(OURS)]
    for name in peers:
        targets = (OWN, STATES) if PEERS[name].fits else ("",)
        allocations = (UNIFORM, AS_OURS, GLOBAL) if name == "magnitude" else (UNIFORM, AS_OURS)
        methods += [Method(name, allocation, kind) for allocation in allocations for kind in targets]
    return methods


def run_frontier(data: Dataset, settings: FrontierSettings, *, on_step: OnStep | None = None) -> Frontier:
    """Train, fit, prune and attack, seed by seed.

    Raises
    ------
    InputError
        More samples than there are, or settings that :func:`simplicit.fit` refuses.
    """
    available = {"samples": len(data.train_inputs), "attack_samples": len(data.test_inputs)}
    for name, count in available.items():
        if getattr(settings, name) > count:
            raise InputError(f"{name}: {data.name} has {count}, got {getattr(settings, name)}")
    begun, measured, busy = time.perf_counter(), list[MethodFigures](), 0.0
    for done, (found, seconds) in enumerate(_seeds(data, settings), start=1):
        measured, busy = measured + found, busy + seconds
        if on_step is not None:
            on_step("seeds", done, settings.seeds)
    measured.sort(key=lambda one: one.seed)
    return Frontier(settings, tuple(measured), time.perf_counter() - begun, busy)


def _seeds(data: Dataset, settings: FrontierSettings) -> Iterator[tuple[list[MethodFigures], float]]:
    """What each seed gave, and its processor seconds, as they come; several at a time in processes of their own."""
    seeds = range(settings.first_seed, settings.first_seed + settings.seeds)
    if min(settings.workers, settings.seeds) == 1:
        yield from (_of_seed(data, settings, seed) for seed in seeds)
        return
    with ProcessPoolExecutor(settings.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for job in as_completed([pool.submit(_of_seed, data, settings, seed) for seed in seeds]):
            yield job.result()


def _of_seed(data: Dataset, settings: FrontierSettings, seed: int) -> tuple[list[MethodFigures], float]:
    begun = time.process_time()
    with one_thread_each():
        return list(_measured(data, settings, seed)), time.process_time() - begun


def _measured(data: Dataset, settings: FrontierSettings, seed: int) -> Iterator[MethodFigures]:
    net = train_mlp(data, MlpSettings(arch=settings.arch, bias=False, epochs=settings.epochs, seed=seed))
    random = np.random.default_rng(seed)
    inputs = data.train_inputs[np.sort(random.choice(len(data.train_inputs), settings.samples, replace=False))]
    captured = capture(net, inputs)
    network = Network(captured.model.astype(np.float64), captured.states(inputs))
    chosen = np.sort(random.choice(len(data.test_inputs), settings.attack_samples, replace=False))
    attacked = (data.test_inputs[chosen], data.test_labels[chosen])

    def measure(model: ImplicitModel, sparsity: float, method: Method, seconds: float) -> MethodFigures:
        return MethodFigures(
            seed,
            sparsity,
            method,
            model.sparsity(captured.weight_count),
            seconds=seconds,
            **_accuracies(model.astype(np.float32), data, attacked, settings),
        )

    yield measure(captured.model, 0.0, Method(BASELINE), 0.0)
    for sparsity in settings.sparsities:
        begun = time.process_time()
        fitted = fit(net, inputs, preset=settings.preset, sparsity=sparsity, executor="serial")
        yield measure(fitted.model, sparsity, Method(OURS), time.process_time() - begun)
        counts = {
            UNIFORM: network.uniform(sparsity),
            GLOBAL: network.by_size(sparsity),
            AS_OURS: network.counts_of(fitted.model),
        }
        for method in methods_of(settings.peers)[1:]:
            begun = time.process_time()
            own = method.targets == OWN
            model = network.pruned(PEERS[method.solver], counts[method.allocation], own_targets=own)
            yield measure(model, sparsity, method, time.process_time() - begun)


def _accuracies(
    model: ImplicitModel, data: Dataset, attacked: tuple[Any, Any], settings: FrontierSettings
) -> Mapping[str, float]:
    """In per cent."""
    inputs, labels = attacked
    eps, clip = parse_eps(settings.eps), data.input_range
    found = {
        "clean": (data.test_inputs, data.test_labels),
        "fgsm": (fgsm(model, inputs, labels, eps, clip=clip), labels),
        "pgd": (pgd(model, inputs, labels, eps, settings.pgd_steps, clip=clip), labels),
    }
    return {name: 100.0 * accuracy(model, *samples) for name, samples in found.items()}
