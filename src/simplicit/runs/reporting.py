"""``simplicit report``: a page and its pictures from the saved numbers of finished runs; nothing is computed anew."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from simplicit.progress import counted
from simplicit.report import (
    Attacked,
    Bounds,
    Line,
    Table,
    draw_attacked,
    draw_gaps,
    draw_layers,
    draw_patterns,
    draw_robustness,
    draw_series,
    draw_speed,
    twice,
)
from simplicit.report.canvas import narrow_path
from simplicit.report.page import Page, Picture, Section
from simplicit.runs.folder import Manifest, run_folder
from simplicit.runs.gathering import Examples, FitFacts, Gathered, Measured
from simplicit.runs.hf.figures import as_text
from simplicit.runs.hf.heads import MEASURES
from simplicit.runs.subjects import BASELINE

PAGE = "report.html"
#: More models than these have no room in a picture; the tables have all.
_MOST = 6
#: Longer names of layers than this are cut in a picture.
_LONG = 26


def save_report(
    found: Gathered,
    folder: Path,
    *,
    title: str,
    runs: Sequence[Path],
    command: Sequence[str] = (),
    overwrite: bool = False,
) -> None:
    """Write ``report.html``, which holds all pictures, the pictures as PNG beside it, and ``run.json``.

    MissingExtraError is raised where matplotlib is not installed.
    """
    begun = time.perf_counter()
    with run_folder(folder, overwrite=overwrite, kind="report", inputs=runs) as draft:
        page = Page(title, text=_origins(found, runs))
        parts = [_frontier, _robustness, *([_layers, _patterns, _gaps] if found.fits else []), _examples, _speeds]
        for part in counted(parts, "drawing", len(parts)):
            page.sections += part(found, draft)
        (draft / PAGE).write_text(page.html(), encoding="utf-8")
        for path in [*draft.glob("*.png")]:  # inside the page there are narrow ones too
            narrow_path(path).unlink(missing_ok=True)
        Manifest(
            "report",
            command=command,
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
    on_texts, on_data = _text_series(found), bool(rows or found.measured)
    shares = [*(["accuracy"] if on_data else []), *(line.label.split(" ")[0] for line in on_texts)]
    twice(lambda path: draw_series(path, series, ", ".join(shares)), path)
    text = "; ".join(
        f"{one.label}: "
        + ", ".join(f"{100 * y:.1f} % at {x:.1f} % sparse" for x, y in sorted(zip(one.x, one.y, strict=True)))
        for one in series
    )
    picture = Picture(path, f"Sparsity against accuracy. {text}.", "One point for each network; dashed: the baseline.")
    head = ("run", "sparsity, %", "non-zeros", "clean, %", "baseline, %", "agreement, %", "samples", "recipe")
    tables = [Table("Fits, on the test samples of their data", head, rows)] if rows else []
    title = f"Sparsity and {'accuracy' if on_data else 'agreement'}"
    return [Section(title, pictures=[picture], tables=[*tables, *_text_tables(found)])]


def _fit_rows(found: Gathered) -> list[list[str]]:
    rows = []
    for fit in sorted(_on_data(found), key=lambda fit: fit.sparsity):
        results = fit.results
        shares = (results["accuracy"], results["baseline_accuracy"], results.get("agreement"))
        first = [fit.name, f"{fit.sparsity:.1f}", f"{results['non_zeros']:,}"]
        rows.append([*first, *map(_per_cent, shares), f"{results['samples']:,}", _recipe(fit)])
    return rows


def _recipe(fit: FitFacts) -> str:
    return ", ".join(filter(None, (fit.settings.get(name) for name in ("recipe", "penalty", "structure", "pattern"))))


def _on_data(found: Gathered) -> list[FitFacts]:
    return [fit for fit in found.fits if fit.measures is None]


def _text_tables(found: Gathered) -> list[Table]:
    """Fits on texts, a table for each kind of head, whose figures are of their own."""
    kinds = dict.fromkeys(fit.results["head"] for fit in found.fits if fit.measures is not None)
    tables = []
    for kind in kinds:
        fits = sorted((fit for fit in found.fits if fit.results.get("head") == kind), key=lambda fit: fit.sparsity)
        names = [name for name in MEASURES if any(name in (fit.measures or {}) for fit in fits)]
        head = ["run", "sparsity, %", "non-zeros", *(MEASURES[name].label for name in names), "texts", "recipe"]
        rows = [
            [
                fit.name,
                f"{fit.sparsity:.1f}",
                f"{fit.results['non_zeros']:,}",
                *(_both(fit.measures or {}, name) for name in names),
                f"{fit.results['texts']:,}",
                _recipe(fit),
            ]
            for fit in fits
        ]
        tables.append(Table(f"Fits, on the test texts: {kind}; in brackets the baseline's own figure", head, rows))
    return tables


def _both(measures: dict[str, float], name: str) -> str:
    """A figure, with the baseline's where it has one too."""
    written = [as_text(name, measures.get(key)) for key in (name, f"baseline_{name}")]
    return f"{written[0]} ({written[1]})" if written[1] else written[0]


def _series(found: Gathered) -> list[Line]:
    """Clean accuracy, then attacked and certified accuracy at the largest radius of each list."""
    clean = {fit.name: (fit.sparsity, float(fit.results["accuracy"])) for fit in _on_data(found)}
    baselines = {float(fit.results["baseline_accuracy"]) for fit in _on_data(found)}
    of_texts = _text_series(found)
    for models in found.measured.values():
        for name, one in models.items():
            if name == BASELINE:
                baselines = baselines or {one.clean}
            else:
                clean.setdefault(name, (one.sparsity, one.clean))
    if not clean:
        return of_texts[:_MOST]
    sparsities, accuracies = zip(*clean.values(), strict=True)
    names = [_short(name, clean) for name in clean]
    base = baselines.pop() if len(baselines) == 1 else None
    series = [Line("clean", sparsities, accuracies, base, names=names)]
    for eps, models in found.measured.items():
        for kind in ("attacked", "certified"):
            values = {name: getattr(one, kind) for name, one in models.items() if getattr(one, kind) is not None}
            last = {name: value[-1] for name, value in values.items()}
            base = last.pop(BASELINE, None)
            if last:
                x = [models[name].sparsity for name in last]
                series.append(Line(f"{kind}, ε = {eps[-1]}", x, list(last.values()), base))
    return [*series, *of_texts][:_MOST]


def _text_series(found: Gathered) -> list[Line]:
    """The main figure of the fits on texts, a line for each kind of it."""
    series = []
    for main in dict.fromkeys(fit.results["main"] for fit in found.fits if fit.measures is not None):
        of_kind = [fit for fit in found.fits if fit.results.get("main") == main]
        series.append(
            Line(
                MEASURES[main].label,
                [fit.sparsity for fit in of_kind],
                [(fit.measures or {})[main] for fit in of_kind],
                names=[_short(fit.name, [other.name for other in found.fits]) for fit in of_kind],
            )
        )
    return series


def _robustness(found: Gathered, draft: Path) -> list[Section]:
    """Accuracy over ε: one section for each list of radii."""
    sections = []
    for number, (eps, models) in enumerate(found.measured.items()):
        path = draft / ("robustness.png" if number == 0 else f"robustness-{number + 1}.png")
        shown = sorted(models.values(), key=lambda one: one.name != BASELINE)
        names = [one.name for one in shown]
        bounds = [Bounds(_short(one.name, names), one.clean, one.attacked, one.certified) for one in shown[:_MOST]]
        twice(partial(draw_robustness, radii=eps, models=bounds, title=""), path)
        alt = "Accuracy against ε. " + " ".join(_sentence(one, eps) for one in shown[:_MOST])
        caption = (
            "What attacks leave is above the true robust accuracy, what is certified below; it lies on the bar where "
            "both are known. Nothing is measured between two radii."
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
    """The patterns of the models that are there; those of networks of Hugging Face folders are made when needed."""
    models = {fit.name: fit.model for fit in found.fits if fit.model is not None}
    if not models:
        return []
    shown = {_short(name, models): model for name, model in [*models.items()][:_MOST]}
    twice(lambda path: draw_patterns(path, shown), draft / "patterns.png")
    alt = "Patterns of non-zeros of M = [[A, B], [C, D]]. " + " ".join(
        f"{name}: " + ", ".join(f"{part} {count:,}" for part, count in model.part_nnz.items()) + "."
        for name, model in shown.items()
    )
    rows = [
        [name, *(f"{count:,}" for count in model.part_nnz.values()), f"{model.nnz:,}"] for name, model in models.items()
    ]
    caption = "Each point is a non-zero; rows compute states and outputs, columns are states and inputs."
    table = Table("Non-zeros of each part", ("run", "A", "B", "C", "D", "in all"), rows)
    picture = Picture(draft / "patterns.png", alt, caption)
    return [Section("Pattern of A, B, C and D", pictures=[picture], tables=[table])]


def _gaps(found: Gathered, draft: Path) -> list[Section]:
    tol = max(float(fit.settings.get("tol", 1e-6)) for fit in found.fits)
    names = [fit.name for fit in found.fits]
    gaps = {_short(fit.name, names): fit.gaps for fit in found.fits[:_MOST]}
    twice(lambda path: draw_gaps(path, gaps, tol), draft / "gaps.png")
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
    """What each layer kept, and what it lost, in the order in which the network computes them, by its own names."""
    names = list(dict.fromkeys(title for fit in found.fits for title in fit.layers))
    shares = {fit.name: [fit.layers[name].kept if name in fit.layers else None for name in names] for fit in found.fits}
    shown = {_short(run, shares): values for run, values in [*shares.items()][:_MOST]}
    twice(partial(draw_layers, layers=[*map(_cut, names)], shares=shown), draft / "layers.png")
    cells = {run: ["" if share is None else f"{100 * share:.1f}" for share in values] for run, values in shares.items()}
    alt = "Weights that each layer kept, %. " + " ".join(
        f"{run}: " + ", ".join(f"{name} {cell}" for name, cell in zip(names, values, strict=True) if cell) + "."
        for run, values in cells.items()
    )
    sizes = {name: layer.weights for fit in found.fits for name, layer in fit.layers.items()}
    kept = [[name, f"{sizes[name]:,}", *(cells[run][place] for run in cells)] for place, name in enumerate(names)]
    lost = [
        [name, *(f"{100 * fit.layers[name].off:.1f}" if name in fit.layers else "" for fit in found.fits)]
        for name in names
    ]
    tables = [
        Table("Weights kept, %", ["layer", "weights", *cells], kept),
        Table("Error of the layer's results, % of their norm", ["layer", *cells], lost),
    ]
    caption = "The share of its weights that each layer kept, the first layer on top."
    picture = Picture(draft / "layers.png", alt, caption)
    return [Section("Where the weights stayed", pictures=[picture], tables=tables)]


def _short(name: str, among: Iterable[str]) -> str:
    """The last part of a run's folder, which a picture has room for, where no other of these runs has the same."""
    last = Path(name).name
    return last if all(other == name or Path(other).name != last for other in among) else name


def _cut(title: str) -> str:
    """The last parts of a long name, which tell the layers of one block apart."""
    if len(title) <= _LONG:
        return title
    end = title[1 - _LONG :]
    return "…" + (end.partition(".")[2] or end)


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
    names = [str(name) for name in arrays.get("class_names", ())]
    twice(lambda path: draw_attacked(path, shape, labels, rows, names), path)
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


def _speeds(found: Gathered, draft: Path) -> list[Section]:
    """How fast networks are: one section for each folder."""
    sections = []
    for number, one in enumerate(found.speeds):
        path = draft / ("speed.png" if number == 0 else f"speed-{number + 1}.png")
        twice(partial(draw_speed, lines=one.lines), path)
        alt = f"Times of a call of the network of {one.run}, as the table has them."
        picture = Picture(path, alt, "Ways to run the network, measured in turn; logarithmic.")
        title = f"Speed, {one.run}" if len(found.speeds) > 1 else "Speed"
        sections.append(Section(title, pictures=[picture], tables=one.tables))
    return sections


def _wrapped(name: str) -> str:
    """The last part of a folder's name, in lines of bounded length."""
    last = Path(name).name
    return "\n".join(last[start : start + 16] for start in range(0, len(last), 16))
