"""A table as a page, a Markdown document and the screen show it."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Cells are texts; the first column names the rows.

    Attributes
    ----------
    caption : str
    head : sequence of str
    rows : sequence of sequences of str
    strong : str
        The name of the row that matters most, "" for none.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    strong: str = ""

    def html(self) -> str:
        """Return the table as HTML, scrolling by itself where it is too wide."""
        head = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in self.head)
        body = "\n".join(
            f'<tr><th scope="row">{html.escape(first)}</th>'
            + "".join(f"<td>{html.escape(text)}</td>" for text in rest)
            + "</tr>"
            for first, *rest in self.rows
        )
        return (
            f'<div class="scroll" tabindex="0"><table><caption>{html.escape(self.caption)}</caption>\n'
            f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
        )

    def markdown(self) -> str:
        """Return the caption and the table in Markdown."""
        lines = [self.head, ["---", *["---:"] * (len(self.head) - 1)]]
        lines += [[f"**{first}**" if first == self.strong else first, *rest] for first, *rest in self.rows]
        return "\n".join([f"{self.caption}\n", *("| " + " | ".join(cells) + " |" for cells in lines)])
