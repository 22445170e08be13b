"""``simplicit certify``: how much accuracy is left under any attack, proved."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from simplicit.cli.console import command_line, figures_table, print_json, saved, say, show_progress
from simplicit.cli.options import AnyData, DataDir, Json, OtherBaseline, Overwrite, Runs, Samples, TrustPt2
from simplicit.report import Line, can_draw, draw_robustness, robust_lines
from simplicit.robustness import METHODS
from simplicit.runs.certifying import RESTARTS, STEPS, CertifyRun, CertifySettings, run_certify
from simplicit.runs.folder import check_output
from simplicit.runs.measured import PICTURE
from simplicit.runs.subjects import BASELINE, open_subjects

__all__ = ["certify_command"]

_BOUNDS = "Bounds"
_DEFAULT = CertifySettings()


def certify_command(
    context: typer.Context,
    runs: Runs,
    eps: Annotated[
        list[str],
        typer.Option(
            help="Radius of the box in ℓ∞, in units of the inputs; fractions such as 8/255 too. Repeat for several.",
            rich_help_panel=_BOUNDS,
        ),
    ] = list(_DEFAULT.eps),  # noqa: B006 - Typer copies it
    method: Annotated[
        str,
        typer.Option(
            metavar="|".join(METHODS),
            help="The tightest bound: one for all samples alike, intervals through the equilibrium, linear relaxation.",
            rich_help_panel=_BOUNDS,
        ),
    ] = _DEFAULT.method,
    steps: Annotated[
        int,
        typer.Option(
            help="Gradient steps on the slopes of the linear relaxation; 20 certify about a point more and take 60 "
            "times as long.",
            rich_help_panel=_BOUNDS,
        ),
    ] = _DEFAULT.steps,
    attack: Annotated[
        bool,
        typer.Option(
            "--attack/--no-attack",
            help=f"Run PGD-{STEPS}x{RESTARTS} beside: the truth lies between.",
            rich_help_panel=_BOUNDS,
        ),
    ] = _DEFAULT.attack,
    samples: Samples = None,
    seed: Annotated[
        int, typer.Option(help="Of the samples drawn and of the attack.", rich_help_panel=_BOUNDS)
    ] = _DEFAULT.seed,
    baseline: OtherBaseline = None,
    data: AnyData = None,
    data_dir: DataDir = None,
    trust_pt2: TrustPt2 = False,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Write certificates.json, outcomes.npz, run.json and a picture into this folder too.",
            rich_help_panel="Output",
            show_default=False,
        ),
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Prove for test samples that no change of the inputs within ε changes the class, the baseline beside.

    The share of samples that are classified right and proved so is a guaranteed accuracy: no attack can lower it. Three
    bounds, each tighter than the one before; rounding is accounted for, and all models are evaluated in float64. A RUN
    is a folder of `simplicit fit`; that of a baseline is certified alone. Tables are in per cent, --json
    and files have shares.

    Example: `simplicit certify runs/fit --eps 8/255 --attack --output runs/certify`
    """
    settings = CertifySettings(tuple(eps), samples, seed, method, steps, attack)
    if output is not None:
        check_output(output, overwrite=overwrite, kind="certify", inputs=runs)
    subjects = open_subjects(runs, baseline=baseline, data=data, data_dir=data_dir, trust_pt2=trust_pt2)
    with show_progress() as steps_shown:
        run = run_certify(subjects, settings, progress=steps_shown)
    if output is not None:
        draw = _draw if can_draw() else None
        run.save(output, command=command_line(context), overwrite=overwrite, draw=draw)
    if json:
        print_json({"folder": output} | run.results())
        return
    say(_table(run), f"\n{run.seconds:.0f} s.")
    if output is not None:
        say(saved(output, PICTURE))


def _draw(run: CertifyRun, path: Path) -> None:
    radii, lines = run.settings.radii, list[Line]()
    for name, found in run.found.items():
        attacked = run.attacked[name].accuracy().tolist() if name in run.attacked else None
        clean, certified = found.clean, found.accuracy().tolist()
        lines += robust_lines(name, list(radii.values()), clean, certified=certified, attacked=attacked)
    title = f"{run.subjects.data.name}: certified accuracy, {len(run.samples.labels):,} samples"
    draw_robustness(path, radii, lines, title=title)


def _table(run: CertifyRun) -> Any:
    methods = list(run.found[BASELINE].margins)
    attacked = [f"PGD-{STEPS}x{RESTARTS}"] if run.attacked else []
    title = f"{run.subjects.data.name}, {len(run.samples.labels):,} test samples, certified by each bound"
    table = figures_table("", "sparsity", "ε", *methods, *attacked, "clean", title=title)
    for subject in run.subjects.members:
        found = run.found[subject.name]
        for place, text in enumerate(run.settings.radii):
            first = place == 0
            table.add_row(
                subject.name if first else "",
                f"{subject.sparsity:.1f}" if first and subject.name != BASELINE else "",
                text,
                *(f"{100 * found.accuracy(name)[place]:.2f}" for name in methods),
                *([f"{100 * run.attacked[subject.name].accuracy()[place]:.2f}"] if attacked else []),
                f"{100 * found.clean:.2f}",
            )
    return table
