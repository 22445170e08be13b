"""``simplicit report``: a page and its pictures from the saved numbers of finished runs; nothing is computed anew."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from simplicit.report import (
    Attacked,
    Line,
    Table,
    draw_attacked,
    draw_gaps,
    draw_layers,
    draw_patterns,
    draw_robustness,
    draw_series,
    robust_lines,
)
from simplicit.report.page import Page, Picture, Section
from simplicit.runs.folder import Manifest, run_folder
from simplicit.runs.gathering import Examples, FitFacts, Gathered, Measured
from simplicit.runs.subjects import BASELINE

PAGE = "report.html"
#: More models than these have no room in a picture; the tables have all.
_MOST = 6
#: More layers than these have no room for the word.
_FEW = 8


def save_report(
    found: Gathered,
    folder: Path,
    *,
    title: str,
    runs: Sequence[Path],
    command: list[str] | None = None,
    overwrite: bool = False,
) -> None:
    """Write ``report.html``, which holds all pictures, the pictures as PNG beside it, and ``run.json``.

    MissingExtraError is raised where matplotlib is not installed.
    """
    begun = time.perf_counter()
    with run_folder(folder, overwrite=overwrite, kind="report", inputs=runs) as draft:
        page = Page(title, text=_origins(found, runs))
        for sections in (_frontier, _robustness, _patterns, _gaps, _layers, _examples):
            page.sections += sections(found, draft)
        (draft / PAGE).write_text(page.html(), encoding="utf-8")
        Manifest(
            "report",
            command=command or [],
            settings={"title": title, "runs": [str(run) for run in runs]},
            seconds={"report": time.perf_counter() - begun},
            results={"pictures": sorted(path.name for path in draft.glob("*.png"))},
            packages=("matplotlib",),
        ).write(draft)


def _origins(found: Gathered, runs: Sequence[Path]) -> list[str]:
    names = [fit.name for fit in found.fits]
    fits = [f"Fits: {', '.join(names)}."] if names else []
    checks = [f"Checks of the attacks: {' '.join(found.findings) or 'all passed.'}"] if found.attacked else []
    return [*fits, *found.remarks, *checks]


def _per_cent(share: float | None) -> str:
    """A share in [0, 1] as a cell of a table, nothing where it is not known."""
    return "" if share is None else f"{100 * share:.2f}"


def _frontier(found: Gathered, draft: Path) -> list[Section]:
    """Sparsity against accuracies, over the fits and the models that were attacked or certified."""
    series, rows = _series(found), _fit_rows(found)
    if not series:
        return []
    path = draft / "frontier.png"
    draw_series(path, series)
    text = "; ".join(
        f"{one.label}: "
        + ", ".join(f"{100 * y:.1f} % at {x:.1f} % sparse" for x, y in sorted(zip(one.x, one.y, strict=True)))
        for one in series
    )
    picture = Picture(path, f"Sparsity against accuracy. {text}.", "Accuracy over sparsity; dashed: the baseline.")
    head = ("run", "sparsity, %", "non-zeros", "clean, %", "baseline, %", "agreement, %", "samples", "recipe")
    tables = [Table("Fits, on the test samples of their data", head, rows)] if rows else []
    return [Section("Sparsity and accuracy", pictures=[picture], tables=tables)]


def _fit_rows(found: Gathered) -> list[list[str]]:
    rows = []
    for fit in sorted(found.fits, key=lambda fit: fit.sparsity):
        results, settings = fit.results, fit.settings
        recipe = (settings.get(name) for name in ("recipe", "penalty", "structure"))
        rows.append(
            [
                fit.name,
                f"{fit.sparsity:.1f}",
                f"{results.get('non_zeros', fit.model.nnz):,}",
                _per_cent(results["accuracy"]),
                _per_cent(results["baseline_accuracy"]),
                _per_cent(results.get("agreement")),
                f"{results.get('samples', settings.get('samples', 0)):,}",
                ", ".join(filter(None, recipe)),
            ]
        )
    return rows


def _series(found: Gathered) -> list[Line]:
    """Clean accuracy, then attacked and certified accuracy at the largest radius of each list."""
    clean = {fit.name: (fit.sparsity, float(fit.results["accuracy"])) for fit in found.fits}
    baselines = {float(fit.results["baseline_accuracy"]) for fit in found.fits}
    for models in found.measured.values():
        for name, one in models.items():
            if name == BASELINE:
                baselines = baselines or {one.clean}
            else:
                clean.setdefault(name, (one.sparsity, one.clean))
    if not clean:
        return []
    sparsities, accuracies = zip(*clean.values(), strict=True)
    series = [Line("clean", sparsities, accuracies, baselines.pop() if len(baselines) == 1 else None)]
    for eps, models in found.measured.items():
        for kind in ("attacked", "certified"):
            values = {name: getattr(one, kind) for name, one in models.items() if getattr(one, kind) is not None}
            last = {name: value[-1] for name, value in values.items()}
            base = last.pop(BASELINE, None)
            if last:
                x = [models[name].sparsity for name in last]
                series.append(Line(f"{kind}, ε = {eps[-1]}", x, list(last.values()), base))
    return series[:_MOST]


def _robustness(found: Gathered, draft: Path) -> list[Section]:
    """Accuracy over ε: one section for each list of radii."""
    sections = []
    for number, (eps, models) in enumerate(found.measured.items()):
        path = draft / ("robustness.png" if number == 0 else f"robustness-{number + 1}.png")
        shown = sorted(models.values(), key=lambda one: one.name != BASELINE)
        radii = {text: found.radii[text] for text in eps}
        lines = [
            line
            for one in shown[:_MOST]
            for line in robust_lines(
                one.name, list(radii.values()), one.clean, certified=one.certified, attacked=one.attacked
            )
        ]
        draw_robustness(path, radii, lines, title="")
        alt = "Accuracy against ε. " + " ".join(_sentence(one, eps) for one in shown[:_MOST])
        caption = (
            "What attacks leave is above the true robust accuracy, what is certified below; it lies in the shade where "
            "both are known."
        )
        title = "Accuracy over ε" if len(found.measured) == 1 else f"Accuracy over ε, up to {eps[-1]}"
        tables = [Table("Accuracy in per cent", _heads(eps), [_row(one, eps) for one in shown])]
        sections.append(Section(title, pictures=[Picture(path, alt, caption)], tables=tables))
    return sections


def _heads(eps: tuple[str, ...]) -> list[str]:
    kinds = ("attacked", "certified")
    return ["model", "sparsity, %", "clean", *(f"{kind}, {text}" for kind in kinds for text in eps)]


def _row(one: Measured, eps: tuple[str, ...]) -> list[str]:
    unknown: list[float | None] = [None] * len(eps)
    values = [value for kind in (one.attacked, one.certified) for value in (kind or unknown)]
    sparsity = "" if one.name == BASELINE else f"{one.sparsity:.1f}"
    return [one.name, sparsity, _per_cent(one.clean), *map(_per_cent, values)]


def _sentence(one: Measured, eps: tuple[str, ...]) -> str:
    parts = [
        f"{kind} " + ", ".join(f"{100 * value:.1f} % at {text}" for text, value in zip(eps, values, strict=True))
        for kind, values in (("attacked", one.attacked), ("certified", one.certified))
        if values is not None
    ]
    return f"{one.name}: clean {100 * one.clean:.1f} %, {'; '.join(parts)}."


def _patterns(found: Gathered, draft: Path) -> list[Section]:
    if not found.fits:
        return []
    shown = found.fits[:_MOST]
    draw_patterns(draft / "patterns.png", {fit.name: fit.model for fit in shown})
    alt = "Patterns of non-zeros of M = [[A, B], [C, D]]. " + " ".join(
        f"{fit.name}: " + ", ".join(f"{part} {count:,}" for part, count in fit.model.part_nnz.items()) + "."
        for fit in shown
    )
    rows = [
        [fit.name, *(f"{count:,}" for count in fit.model.part_nnz.values()), f"{fit.model.nnz:,}"] for fit in found.fits
    ]
    caption = "Each point is a non-zero; rows compute states and outputs, columns are states and inputs."
    table = Table("Non-zeros of each part", ("run", "A", "B", "C", "D", "in all"), rows)
    return [
        Section("Pattern of A, B, C and D", pictures=[Picture(draft / "patterns.png", alt, caption)], tables=[table])
    ]


def _gaps(found: Gathered, draft: Path) -> list[Section]:
    if not found.fits:
        return []
    tol = max(float(fit.settings.get("tol", 1e-6)) for fit in found.fits)
    draw_gaps(draft / "gaps.png", {fit.name: fit.gaps for fit in found.fits[:_MOST]}, tol)
    rows = []
    for fit in found.fits:
        sure = int(fit.results.get("rows_certified", 0))
        largest, middle = float(np.nanmax(fit.gaps)), float(np.nanmedian(fit.gaps))
        rows.append([fit.name, f"{sure} of {len(fit.gaps)}", f"{largest:.1e}", f"{middle:.1e}"])
    alt = "Relative duality gaps of all rows, sorted. " + " ".join(f"{row[0]}: largest {row[2]}." for row in rows)
    caption = "Below the dashed line a row is proved to be solved to the tolerance."
    table = Table("Relative duality gaps", ("run", "rows certified", "largest", "median"), rows)
    return [Section("Duality gaps", pictures=[Picture(draft / "gaps.png", alt, caption)], tables=[table])]


def _layers(found: Gathered, draft: Path) -> list[Section]:
    """Where the non-zeros went: those of each layer, in the order in which the network computes them."""
    if not found.fits:
        return []
    names = list(dict.fromkeys(name for fit in found.fits for name in _in_order(fit)))
    counts = {fit.name: [int(fit.nnz[fit.groups == name].sum()) for name in names] for fit in found.fits}
    titles = [name if name == "output" or len(names) > _FEW else f"layer {name}" for name in names]
    draw_layers(draft / "layers.png", titles, dict([*counts.items()][:_MOST]))
    alt = "Non-zeros by layer. " + " ".join(
        f"{run}: " + ", ".join(f"{title} {count:,}" for title, count in zip(titles, values, strict=True)) + "."
        for run, values in counts.items()
    )
    rows = [[run, *(f"{count:,}" for count in values)] for run, values in counts.items()]
    table = Table("Non-zeros by layer", ("run", *titles), rows)
    caption = "The rows of a layer, the first layer first; logarithmic."
    return [Section("Where the non-zeros went", pictures=[Picture(draft / "layers.png", alt, caption)], tables=[table])]


def _in_order(fit: FitFacts) -> list[str]:
    """The names of groups as the network computes them: states come last layer first, the outputs after them; layers
    with tied rows come as they are."""
    names = list(dict.fromkeys(fit.groups.tolist()))
    return names if fit.results.get("tied") else [*names[-2::-1], names[-1]]


def _examples(found: Gathered, draft: Path) -> list[Section]:
    sections = []
    for number, one in enumerate(found.examples):
        shape = tuple(int(length) for length in one.arrays["shape"])
        if len(shape) < 2:
            continue  # no images
        path = draft / ("attacked.png" if number == 0 else f"attacked-{number + 1}.png")
        eps = float(one.arrays["eps"])
        written = next((text for text, radius in found.radii.items() if np.isclose(radius, eps)), f"{eps:.4g}")
        sections.append(_attacked(one, path, shape, written, several=len(found.examples) > 1))
    return sections


def _attacked(one: Examples, path: Path, shape: tuple[int, ...], eps: str, *, several: bool) -> Section:
    arrays, labels = one.arrays, one.arrays["labels"]
    rows = [Attacked("unchanged\n(baseline)", arrays["inputs"], arrays["0/clean"])]
    for place, name in enumerate(one.names[:_MOST]):
        rows.append(Attacked(_wrapped(name), arrays[f"{place}/inputs"], arrays[f"{place}/attacked"]))
    draw_attacked(path, shape, labels, rows)
    right = [int((row.given == labels).sum()) for row in rows[1:]]
    alt = f"{len(labels)} samples, unchanged and as PGD leaves them for each model. " + " ".join(
        f"{name}: {count} of {len(labels)} right." for name, count in zip(one.names, right, strict=False)
    )
    caption = (
        f"PGD at ε = {eps} against each model; the class that it gives, ✓ right and ✗ wrong. "
        "Samples at which the baseline fails were chosen, which favours the others."
    )
    title = f"Attacked samples, {one.folder}" if several else "Attacked samples"
    return Section(title, pictures=[Picture(path, alt, caption)])


def _wrapped(name: str) -> str:
    """The last part of a folder's name, in lines of bounded length."""
    last = Path(name).name
    return "\n".join(last[start : start + 16] for start in range(0, len(last), 16))
