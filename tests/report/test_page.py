"""The page of a report: self-contained, escaped, accessible."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from simplicit.report import Line, Table, draw_series, twice
from simplicit.report.page import Page, Picture, Section

VOID = {"meta", "link", "img", "br", "source"}


class Balanced(HTMLParser):
    """Complains of tags that do not close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page(folder: Path) -> str:
    pytest.importorskip("matplotlib")
    twice(lambda path: draw_series(path, [Line("clean", [50, 80], [0.9, 0.7], 0.95)]), folder / "p.png")
    table = Table("Figures <of> runs", ("run", "value"), [("<b>one</b>", "1"), ('"two"', "2")])
    picture = Picture(folder / "p.png", 'What it "shows" & more', "A caption")
    return Page("Runs & <more>", ["A <line>."], [Section("Sparsity & accuracy", ["Text"], [picture], [table])]).html()


def test_it_is_one_document_with_everything_inside(tmp_path: Path) -> None:
    text = page(tmp_path)
    found = Balanced()
    found.feed(text)
    assert not found.open
    for tag, attributes in found.seen:
        for name in ("src", "srcset", "href"):
            if name in attributes:
                assert str(attributes[name]).startswith(("data:", "#")), tag
    assert not re.search(r"url\(|@import|https?:", text)
    assert "<b>one</b>" not in text
    assert "Runs &amp; &lt;more&gt;" in text


def test_it_can_be_read_without_seeing(tmp_path: Path) -> None:
    found = Balanced()
    found.feed(page(tmp_path))
    tags = dict(found.seen)
    assert tags["html"]["lang"] == "en"
    assert tags["img"]["alt"] == 'What it "shows" & more'
    assert {"main", "nav", "caption", "figcaption"} <= tags.keys()
    scopes = [attributes.get("scope") for tag, attributes in found.seen if tag == "th"]
    assert scopes == ["col", "col", "row", "row"]
    ids = {attributes["id"] for _, attributes in found.seen if "id" in attributes}
    assert {str(attributes["href"])[1:] for tag, attributes in found.seen if tag == "a"} <= ids


def test_a_table_is_markdown_too() -> None:
    table = Table("Figures", ("run", "value"), [("one", "1"), ("two", "2")], strong="two")
    assert table.markdown() == "Figures\n\n| run | value |\n| --- | ---: |\n| one | 1 |\n| **two** | 2 |"


def test_pictures_have_the_size_of_their_files(tmp_path: Path) -> None:
    mpl = pytest.importorskip("matplotlib")
    text = page(tmp_path)
    height, width = np.asarray(mpl.image.imread(tmp_path / "p.png")).shape[:2]
    assert f'width="{2 * width // 3}" height="{2 * height // 3}" alt=' in text


def test_phones_get_the_narrow_rendition(tmp_path: Path) -> None:
    text = page(tmp_path)
    found = Balanced()
    found.feed(text)
    (source,) = (attributes for tag, attributes in found.seen if tag == "source")
    assert source["media"] == "(max-width: 40rem)"
    (tmp_path / "p-narrow.png").unlink()
    picture = Picture(tmp_path / "p.png", "What it shows", "A caption").html()
    assert "<source" not in picture
