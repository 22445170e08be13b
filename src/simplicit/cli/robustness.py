"""``simplicit attack`` and ``simplicit certify``: how much accuracy attacks leave, and how much is proved."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from rich.table import Table

from simplicit.cli.console import figures_table, percent, saved, show_progress
from simplicit.cli.shared import OtherSource, Output
from simplicit.progress import phase
from simplicit.robustness import ATTACKS
from simplicit.robustness.attacks.suite import transfer_name
from simplicit.runs.attacking import AttackRun, AttackSettings, run_attack
from simplicit.runs.certifying import RESTARTS, STEPS, CertifyRun, CertifySettings, run_certify
from simplicit.runs.measured import PICTURE, MeasuredRun
from simplicit.runs.subjects import BASELINE, open_subjects

R = TypeVar("R", bound=MeasuredRun)


def attack(
    runs: list[Path],
    /,
    settings: AttackSettings = AttackSettings(),
    source: OtherSource = OtherSource(),
    output: Output = Output(),
) -> None:
    """Attack fitted models on test samples, the baseline beside them.

    FGSM, PGD with restarts, Square and transfer from the baseline, or others by --attacks, in ℓ∞ boxes around each
    sample. "Worst" counts the samples that hold against all of them. Every run also checks the attacks themselves:
    vanishing gradients, a weaker attack that does better, a larger radius that helps, a gradient that is wrong. A run
    is a folder of `simplicit fit`; that of a baseline is attacked alone. Tables are in per cent, --json and files have
    shares. With --output, attack.json, outcomes.npz, run.json and a picture are written too.

    Example: `simplicit attack runs/fit --eps 0.004 --eps 8/255 --output runs/attack`

    Parameters
    ----------
    runs : list of Path
        Folders that `simplicit fit` wrote, all from one baseline.
    settings, source, output
    """
    _measure("attack", runs, partial(run_attack, settings=settings), source, output, _attacked)


def certify(
    runs: list[Path],
    /,
    settings: CertifySettings = CertifySettings(),
    source: OtherSource = OtherSource(),
    output: Output = Output(),
) -> None:
    """Prove for test samples that no change of the inputs within ε changes the class, the baseline beside.

    The share of samples that are classified right and proved so is a guaranteed accuracy: no attack can lower it. Three
    bounds, each tighter than the one before; rounding is accounted for, and all models are evaluated in float64. A run
    is a folder of `simplicit fit`; that of a baseline is certified alone. Tables are in per cent, --json and files have
    shares. With --output, certificates.json, outcomes.npz, run.json and a picture are written too.

    Example: `simplicit certify runs/fit --eps 8/255 --attack --output runs/certify`

    Parameters
    ----------
    runs : list of Path
        Folders that `simplicit fit` wrote, all from one baseline.
    settings, source, output
    """
    _measure("certify", runs, partial(run_certify, settings=settings), source, output, _certified)


def _measure(
    kind: str,
    runs: list[Path],
    run: Callable[..., R],
    source: OtherSource,
    output: Output,
    shown: Callable[[R], Sequence[Any]],
) -> None:
    """Open folders, ``run`` what measures them, write its folder where one is named, and print what is ``shown``."""
    output.check(kind, runs)
    with show_progress() as steps:
        with phase("reading the networks"):
            subjects = open_subjects(runs, **vars(source))
        found = run(subjects, progress=steps)
        if output.output is not None:
            with phase("examples and picture"):
                found.save(output.output, **output.saving())
    where = []
    if output.output is not None:
        where = [saved(output.output, PICTURE)]
    output.show(found.results(), *shown(found), *where)


def _table(run: MeasuredRun, about: str, columns: Iterable[str], cells: Callable[[str, int], Iterable[str]]) -> Table:
    """A line for each model and radius, with the ``cells`` of the model's name and the place of the radius."""
    title = f"{run.subjects.data.name}, {len(run.samples.labels):,} test samples{about}"
    table = figures_table("run", "sparsity", "ε", *columns, title=title)
    for subject in run.subjects.members:
        sparsity = "" if subject.name == BASELINE else f"{subject.sparsity:.1f}"
        for place, text in enumerate(run.settings.radii):
            first = (subject.name, sparsity) if place == 0 else ("", "")
            table.add_row(*first, text, *cells(subject.name, place))
    return table


def _attacked(run: AttackRun) -> Sequence[Any]:
    """Accuracies under each attack, what the checks found, and the time."""
    titles = {name: (ATTACKS[name].title or name).format(**vars(run.settings)) for name in run.settings.attacks}
    titles[transfer_name(BASELINE)] = "transfer"
    made = {name for result in run.found.values() for name in result.held}
    names = [name for name in titles if name in made]

    def cells(subject: str, place: int) -> list[str]:
        result = run.found[subject]
        shares = [percent(result.accuracy(name)[place]) if name in result.held else "" for name in names]
        return [percent(result.clean) if place == 0 else "", *shares, percent(result.accuracy()[place])]

    remarks = [f"Check: {name}: {finding}." for name, result in run.found.items() for finding in result.checks.findings]
    passed = "All checks passed: gradients do not vanish and are true, no weaker attack does better, no larger ε helps."
    table = _table(run, "", ("clean", *(titles[name] for name in names), "worst"), cells)
    return table, "", *(remarks or [passed]), f"{run.seconds:.0f} s."


def _certified(run: CertifyRun) -> Sequence[Any]:
    """Accuracies certified by each bound, with what PGD leaves beside them, and the time."""
    methods = list(run.found[BASELINE].margins)
    pgd = [f"PGD-{STEPS}x{RESTARTS}"] if run.attacked else []

    def cells(subject: str, place: int) -> list[str]:
        found = run.found[subject]
        attacked = [percent(run.attacked[subject].accuracy()[place])] if pgd else []
        return [*(percent(found.accuracy(name)[place]) for name in methods), *attacked, percent(found.clean)]

    return _table(run, ", certified by each bound", (*methods, *pgd, "clean"), cells), f"\n{run.seconds:.0f} s."
