"""``simplicit report`` as a user meets it, and as a browser opens it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from command_line import Run
from simplicit.cli import main

pytest.importorskip("matplotlib")

FITS = ("sparse", "matching")
PICTURES = ["attacked", "frontier", "gaps", "layers", "patterns", "robustness"]


@pytest.fixture(scope="module")
def runs(base: Path, fitted: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A baseline with two fits, attacked and certified; the folder's name says nothing of what is in it."""
    folder = tmp_path_factory.mktemp("attacks")
    for place in (base, fitted("sparse"), fitted("matching")):
        shutil.copytree(place, folder / place.name)
    fits, common = [str(folder / name) for name in FITS], ["--eps", "0.02", "--eps", "0.1", "--samples", "40"]
    quick = ["--steps", "5", "--restarts", "1", "--queries", "10"]
    assert main(["attack", *fits, *common, *quick, "--output", str(folder / "attack")]) == 0
    assert main(["certify", *fits, *common, "--output", str(folder / "certify")]) == 0
    return folder


def all_of(runs: Path) -> list[Path]:
    return [runs / name for name in (*FITS, "attack", "certify")]


@pytest.fixture(scope="module")
def page(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the report on all of them, its pictures rendered."""
    folder = tmp_path_factory.mktemp("pages") / "r"
    assert main(["report", *map(str, all_of(runs)), "--output", str(folder)]) == 0
    return folder


def test_the_page_and_its_pictures(run: Run, runs: Path, page: Path, tmp_path: Path) -> None:
    wanted = [*(f"{name}.png" for name in PICTURES), "report.html", "run.json"]
    assert sorted(path.name for path in page.iterdir()) == sorted(wanted)
    assert min((page / f"{name}.png").stat().st_size for name in PICTURES) > 5000
    code, out, err = run("report", *all_of(runs), "--output", "r")
    assert (code, err) == (0, "")
    assert "Open r/report.html in a browser" in out
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == sorted(wanted)
    text = (tmp_path / "r" / "report.html").read_text()
    assert text.count("<img ") == len(PICTURES)
    document = json.loads((runs / "attack" / "attack.json").read_text())
    for model in document["models"]:
        assert f"<td>{100 * model['worst'][-1]:.2f}</td>" in text
    # The attack knows the fits by the same weights, not by a name of its own.
    assert text.count(f'<th scope="row">{runs / "sparse"}</th>') == 4
    manifest = json.loads((tmp_path / "r" / "run.json").read_text())
    assert manifest["kind"] == "report"
    assert run("report", *all_of(runs), "--output", "r")[0] == 2
    assert run("report", *all_of(runs), "--output", "r", "--overwrite", "--json")[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "pictures"),
    [
        (["sparse"], ["frontier", "gaps", "layers", "patterns"]),
        (["certify"], ["frontier", "robustness"]),
        (["attack"], ["attacked", "frontier", "robustness"]),
    ],
)
def test_whatever_there_is(run: Run, runs: Path, tmp_path: Path, names: list[str], pictures: list[str]) -> None:
    assert run("report", *(runs / name for name in names), "--output", "r")[0] == 0
    assert sorted(path.stem for path in (tmp_path / "r").glob("*.png")) == pictures
    assert ("Checks of the attacks" in (tmp_path / "r" / "report.html").read_text()) == ("attack" in names)


def test_bad_input(run: Run, runs: Path, tmp_path: Path) -> None:
    def refused(told: str, *words: object) -> None:
        code, out, err = run("report", *words, "--output", "r")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert told in err
        assert not (tmp_path / "r").exists()

    refused("no such folder; name those that", "nothing")
    refused("written by `simplicit baseline`; a report is made of", runs / "base")
    refused("named twice", runs / "sparse", runs / "sparse")
    fits, words = [runs / name for name in FITS], ("--eps", 0.02, "--eps", 0.1, "--samples", 20, "--output", "few")
    assert run("certify", *fits, *words)[0] == 0
    refused("run both with the same --samples and --seed, or report them apart", runs / "attack", "few")
    (tmp_path / "empty").mkdir()
    refused("has no run.json", "empty")
    shutil.copytree(runs / "certify", "damaged")
    (tmp_path / "damaged" / "certificates.json").write_text("{}")
    refused("damaged: damaged, an entry is missing or unreadable", "damaged")
    (tmp_path / "damaged" / "certificates.json").write_text("{")
    refused("damaged, not a JSON document", "damaged")


def shown_in(browser: str, page: Path, profile: Path, width: int) -> Any:
    """What a page says of itself in a browser's window of some width; it is skipped where the browser does not run."""
    words = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
    words += [f"--window-size={width},700", "--virtual-time-budget=4000", "--enable-logging=stderr", "--dump-dom"]
    shown = subprocess.run([browser, *words, page.as_uri()], capture_output=True, text=True, timeout=120, check=False)
    if "data-found=" not in shown.stdout:
        pytest.skip(f"{browser} does not run here: {shown.stderr[-300:]}")
    assert "CONSOLE" not in shown.stderr
    return json.loads(shown.stdout.split('data-found="')[1].split('"')[0].replace("&quot;", '"'))


def test_a_browser_shows_it(page: Path, tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium on this machine")
    text = (page / "report.html").read_text()
    probe = """<script>
      const wrong = [];
      addEventListener("error", event => wrong.push(String(event.message || event.target.outerHTML)), true);
      addEventListener("load", () => {
        const sizes = [...document.images].map(image => [image.naturalWidth, image.clientWidth, image.clientHeight]);
        const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
        document.documentElement.dataset.found = JSON.stringify({wrong, sizes, wide});
      });
    </script></head>"""
    (tmp_path / "probe.html").write_text(text.replace("</head>", probe, 1))
    natural = {}
    for width in (900, 500):
        found = shown_in(browser, tmp_path / "probe.html", tmp_path / "profile", width)
        assert found["wrong"] == []
        assert found["wide"] <= 0
        assert len(found["sizes"]) == len(PICTURES)
        assert all(side > 100 for size in found["sizes"] for side in size)
        natural[width] = [size[0] for size in found["sizes"]]
    assert all(narrow < wide for narrow, wide in zip(natural[500], natural[900], strict=True))


def test_layers_stand_in_the_order_of_the_network_by_its_own_names(run: Run, runs: Path) -> None:
    fits = [runs / name for name in FITS]
    assert run("report", *fits, "--output", "r")[0] == 0
    text = Path("r", "report.html").read_text()
    lines = re.findall(r'<tr><th scope="row">(\w)</th><td>([\d,]*)</td><td>([\d.]*)</td><td>([\d.]*)</td></tr>', text)
    results = [json.loads((fit / "run.json").read_text())["results"]["layers"] for fit in fits]
    wanted = []
    for place, name in enumerate("024"):  # the rows of the second fit are of groups of states, which have other names
        one, other = (layers[place] for layers in results)
        assert name == ("+".join(one["modules"]) or one["name"]) == ("+".join(other["modules"]) or other["name"])
        shares = (f"{100 * layer['non_zeros'] / layer['weights']:.1f}" for layer in (one, other))
        wanted.append((name, f"{one['weights']:,}", *shares))
    assert lines == wanted


def test_classes_have_names(runs: Path) -> None:
    arrays = np.load(runs / "attack" / "examples.npz", allow_pickle=False)
    assert arrays["class_names"].tolist() == [*"0123456789"]
