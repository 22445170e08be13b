"""``simplicit attack``: how much accuracy is left under attack."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from simplicit.cli.console import command_line, figures_table, print_json, saved, say, show_progress
from simplicit.cli.options import AnyData, DataDir, Eps, Json, OtherBaseline, Overwrite, Runs, Samples, TrustPt2
from simplicit.report import can_draw, draw_robustness, robust_lines
from simplicit.robustness import ATTACKS
from simplicit.robustness.attacks.suite import transfer_name
from simplicit.runs.attacking import AttackRun, AttackSettings, run_attack
from simplicit.runs.folder import check_output
from simplicit.runs.measured import PICTURE
from simplicit.runs.subjects import BASELINE, open_subjects

__all__ = ["attack_command"]

_ATTACKS = "Attacks"
_DEFAULT = AttackSettings()


def attack_command(
    context: typer.Context,
    runs: Runs,
    eps: Eps = list(_DEFAULT.eps),  # noqa: B006 - Typer copies it
    attacks: Annotated[
        list[str],
        typer.Option(
            metavar="NAME",
            help=f"One of {', '.join(ATTACKS)}; repeat for several. AutoAttack is some hundred times slower than FGSM "
            "and needs the extra attacks.",
            rich_help_panel=_ATTACKS,
        ),
    ] = list(_DEFAULT.attacks),  # noqa: B006
    steps: Annotated[int, typer.Option(help="Gradient steps of PGD.", rich_help_panel=_ATTACKS)] = _DEFAULT.steps,
    restarts: Annotated[
        int,
        typer.Option(
            help="Restarts of PGD: the first on the cross-entropy, the others on margins.", rich_help_panel=_ATTACKS
        ),
    ] = _DEFAULT.restarts,
    queries: Annotated[
        int, typer.Option(help="Queries of Square, which sees outputs only.", rich_help_panel=_ATTACKS)
    ] = _DEFAULT.queries,
    transfer: Annotated[
        bool,
        typer.Option(
            "--transfer/--no-transfer",
            help="Try points that PGD finds on the baseline on every run.",
            rich_help_panel=_ATTACKS,
        ),
    ] = _DEFAULT.transfer,
    samples: Samples = None,
    seed: Annotated[
        int, typer.Option(help="Of the samples drawn and of all attacks.", rich_help_panel=_ATTACKS)
    ] = _DEFAULT.seed,
    baseline: OtherBaseline = None,
    data: AnyData = None,
    data_dir: DataDir = None,
    trust_pt2: TrustPt2 = False,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Write attack.json, outcomes.npz, run.json and a picture into this folder too.",
            rich_help_panel="Output",
            show_default=False,
        ),
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Attack fitted models on test samples, the baseline beside them.

    FGSM, PGD with restarts, Square and transfer from the baseline, or others by --attacks, in ℓ∞ boxes around each
    sample. "Worst" counts the samples that hold against all of them. Every run also checks the attacks themselves:
    vanishing gradients, a weaker attack that does better, a larger radius that helps, a gradient that is wrong.
    A RUN is a folder of `simplicit fit`; that of a baseline is attacked alone. Tables are in per cent, --json and files
    have shares.

    Example: `simplicit attack runs/fit --eps 0.004 --eps 8/255 --output runs/attack`
    """
    settings = AttackSettings(
        eps=tuple(eps),
        attacks=tuple(attacks),
        steps=steps,
        restarts=restarts,
        queries=queries,
        transfer=transfer,
        samples=samples,
        seed=seed,
    )
    if output is not None:
        check_output(output, overwrite=overwrite, kind="attack", inputs=runs)
    subjects = open_subjects(runs, baseline=baseline, data=data, data_dir=data_dir, trust_pt2=trust_pt2)
    with show_progress() as steps_shown:
        run = run_attack(subjects, settings, progress=steps_shown)
    if output is not None:
        draw = _draw if can_draw() else None
        run.save(output, command=command_line(context), overwrite=overwrite, draw=draw)
    if json:
        print_json({"folder": output} | run.results())
        return
    say(_table(run), "", *_remarks(run))
    if output is not None:
        say(saved(output, PICTURE))


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
