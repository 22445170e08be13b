"""A table as a page, a Markdown document and the screen show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


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
        head = "".join(f'<th scope="col">{escape(text)}</th>' for text in self.head)
        body = ""
        for first, *rest in self.rows:
            cells = "".join(f"<td>{escape(text)}</td>" for text in rest)
            body += f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>\n'
        return (
            f'<div class="scroll" tabindex="0"><table><caption>{escape(self.caption)}</caption>\n'
            f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>"
        )

    def markdown(self) -> str:
        """Return the caption and the table in Markdown."""
        lines = [self.head, ["---", *["---:"] * (len(self.head) - 1)]]
        lines += [[f"**{first}**" if first == self.strong else first, *rest] for first, *rest in self.rows]
        return "\n".join([f"{self.caption}\n", *("| " + " | ".join(cells) + " |" for cells in lines)])
