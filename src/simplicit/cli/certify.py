"""``simplicit certify``: how much accuracy is left under any attack, proved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simplicit.cli.console import figures_table, invocation, print_json, saved, say, show_progress
from simplicit.cli.shared import OtherSource, Output
from simplicit.report import Line, can_draw, draw_robustness, robust_lines
from simplicit.runs.certifying import RESTARTS, STEPS, CertifyRun, CertifySettings, run_certify
from simplicit.runs.folder import check_output
from simplicit.runs.measured import PICTURE
from simplicit.runs.subjects import BASELINE, open_subjects


def certify(
    runs: list[Path],
    /,
    settings: CertifySettings = CertifySettings(),  # noqa: B008 - it is frozen
    source: OtherSource = OtherSource(),  # noqa: B008
    output: Output = Output(),  # noqa: B008
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
    if output.output is not None:
        check_output(output.output, overwrite=output.overwrite, kind="certify", inputs=runs)
    subjects = open_subjects(runs, **vars(source))
    with show_progress() as steps:
        run = run_certify(subjects, settings, progress=steps)
    if output.output is not None:
        draw = _draw if can_draw() else None
        run.save(output.output, command=invocation().command, overwrite=output.overwrite, draw=draw)
    if output.json:
        print_json({"folder": output.output} | run.results())
        return
    say(_table(run), f"\n{run.seconds:.0f} s.")
    if output.output is not None:
        say(saved(output.output, PICTURE))


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
