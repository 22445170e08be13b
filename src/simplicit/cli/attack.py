"""``simplicit attack``: how much accuracy is left under attack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simplicit.cli.console import figures_table, invocation, print_json, saved, say, show_progress
from simplicit.cli.shared import OtherSource, Output
from simplicit.report import can_draw, draw_robustness, robust_lines
from simplicit.robustness import ATTACKS
from simplicit.robustness.attacks.suite import transfer_name
from simplicit.runs.attacking import AttackRun, AttackSettings, run_attack
from simplicit.runs.folder import check_output
from simplicit.runs.measured import PICTURE
from simplicit.runs.subjects import BASELINE, open_subjects


def attack(
    runs: list[Path],
    /,
    settings: AttackSettings = AttackSettings(),  # noqa: B008 - it is frozen
    source: OtherSource = OtherSource(),  # noqa: B008
    output: Output = Output(),  # noqa: B008
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
    if output.output is not None:
        check_output(output.output, overwrite=output.overwrite, kind="attack", inputs=runs)
    subjects = open_subjects(runs, **vars(source))
    with show_progress() as steps:
        run = run_attack(subjects, settings, progress=steps)
    if output.output is not None:
        draw = _draw if can_draw() else None
        run.save(output.output, command=invocation().command, overwrite=output.overwrite, draw=draw)
    if output.json:
        print_json({"folder": output.output} | run.results())
        return
    say(_table(run), "", *_remarks(run))
    if output.output is not None:
        say(saved(output.output, PICTURE))


def _draw(run: AttackRun, path: Path) -> None:
    radii = run.settings.radii
    lines = [
        line
        for name, result in run.found.items()
        for line in robust_lines(name, list(radii.values()), result.clean, attacked=result.accuracy().tolist())
    ]
    title = f"{run.subjects.data.name}: worst of all attacks, {len(run.samples.labels):,} samples"
    draw_robustness(path, radii, lines, title=title)


def _names(run: AttackRun) -> dict[str, str]:
    """The attacks as the table calls them."""
    names = {name: (ATTACKS[name].title or name).format(**vars(run.settings)) for name in run.settings.attacks}
    names[transfer_name(BASELINE)] = "transfer"
    known = {name for result in run.found.values() for name in result.held}
    return {name: title for name, title in names.items() if name in known}


def _table(run: AttackRun) -> Any:
    names = _names(run)
    title = f"{run.subjects.data.name}, {len(run.samples.labels):,} test samples"
    table = figures_table("", "sparsity", "ε", "clean", *names.values(), "worst", title=title)
    for subject in run.subjects.members:
        result = run.found[subject.name]
        for place, text in enumerate(run.settings.radii):
            shares = [f"{100 * result.accuracy(name)[place]:.2f}" if name in result.held else "" for name in names]
            first = place == 0
            table.add_row(
                subject.name if first else "",
                f"{subject.sparsity:.1f}" if first and subject.name != BASELINE else "",
                text,
                f"{100 * result.clean:.2f}" if first else "",
                *shares,
                f"{100 * result.accuracy()[place]:.2f}",
            )
    return table


def _remarks(run: AttackRun) -> list[str]:
    """What the checks found, and the time."""
    remarks = [f"Check: {name}: {finding}." for name, result in run.found.items() for finding in result.checks.findings]
    if not remarks:
        remarks = [
            "All checks passed: gradients do not vanish and are true, no weaker attack does better, no larger ε helps."
        ]
    return [*remarks, f"{run.seconds:.0f} s."]
