"""One self-contained HTML page: text, tables and embedded pictures, nothing from elsewhere, for light and dark."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from simplicit.report.canvas import narrow_path
from simplicit.report.table import Table

#: Screens up to this width show the narrow rendition of a picture.
_PHONE = "40rem"
_STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --quiet: #5a5a5a; --ground: #ffffff; --line: #d8d8d8; --band: #f4f6f8;
        --mark: #0072b2; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --quiet: #a8a8a8; --ground: #16181b; --line: #3a3f45; --band: #1f2327; --mark: #56b4e9; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 62rem; background: var(--ground); color: var(--ink);
       font: 1rem/1.55 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .5rem; padding-top: .5rem; border-top: 1px solid var(--line); }
p { margin: .5rem 0; max-width: 46rem; }
.quiet, figcaption, caption { color: var(--quiet); font-size: .9rem; }
a { color: var(--mark); }
nav ul { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; }
figure { margin: 1rem 0; }
figure img { display: block; max-width: 100%; height: auto; background: #ffffff; border: 1px solid var(--line);
             border-radius: .5rem; padding: .5rem; }
figcaption { margin-top: .4rem; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
caption { text-align: left; padding-bottom: .4rem; }
th, td { padding: .3rem .75rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
thead th { border-bottom: 2px solid var(--line); vertical-align: bottom; white-space: normal; }
th[scope=row], thead th:first-child { text-align: left; padding-left: 0; font-weight: 600; }
tbody tr:nth-child(even) { background: var(--band); }
code { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .92em; }
"""


@dataclass(frozen=True)
class Picture:
    """A PNG file with what it shows, for those who do not see it, and a caption.

    Where its narrow rendition lies beside it, phones show that.
    """

    path: Path
    alt: str
    caption: str

    def html(self) -> str:
        """Return the picture as HTML, its file inside."""
        source, size = _embedded(self.path)
        narrow = ""
        if narrow_path(self.path).is_file():
            other, its_size = _embedded(narrow_path(self.path))
            narrow = f'<source media="(max-width: {_PHONE})" srcset="{other}" {its_size}>'
        return (
            f'<figure><picture>{narrow}<img src="{source}" {size} alt="{escape(self.alt)}"></picture>'
            f"<figcaption>{escape(self.caption)}</figcaption></figure>"
        )


def _embedded(path: Path) -> tuple[str, str]:
    """A PNG file as a source of its own, and its size as attributes, two thirds of its pixels.

    It tells its size in the first chunk; with it the page does not jump while it loads.
    """
    data = path.read_bytes()
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    source = f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"
    return source, f'width="{2 * width // 3}" height="{2 * height // 3}"'


@dataclass(frozen=True)
class Section:
    """A heading with paragraphs, pictures and tables under it, in that order."""

    title: str
    text: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()

    @property
    def anchor(self) -> str:
        """The title as links name it."""
        return "-".join("".join(c if c.isalnum() else " " for c in self.title.lower()).split())

    def html(self) -> str:
        """Return the section as HTML."""
        parts = [f"<p>{escape(line)}</p>" for line in self.text]
        parts += [picture.html() for picture in self.pictures] + [table.html() for table in self.tables]
        heading = f'<h2 id="{self.anchor}">{escape(self.title)}</h2>'
        return "\n".join([f'<section aria-labelledby="{self.anchor}">', heading, *parts, "</section>"])


@dataclass
class Page:
    """A page of sections; :meth:`html` is the whole document."""

    title: str
    text: Sequence[str] = ()
    sections: list[Section] = field(default_factory=list)

    def html(self) -> str:
        """Return the document."""
        links = "".join(f'<li><a href="#{part.anchor}">{escape(part.title)}</a></li>' for part in self.sections)
        text = "\n".join(f'<p class="quiet">{escape(line)}</p>' for line in self.text)
        body = "\n".join(part.html() for part in self.sections)
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<link rel="icon" href="data:,">\n<title>{escape(self.title)}</title>\n<style>{_STYLE}</style>\n'
            f"</head>\n<body>\n<header>\n<h1>{escape(self.title)}</h1>\n{text}\n"
            f'<nav aria-label="Sections"><ul>{links}</ul></nav>\n</header>\n<main>\n{body}\n</main>\n</body>\n</html>\n'
        )
