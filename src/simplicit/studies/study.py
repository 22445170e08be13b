"""A finished study: what is kept of it in a folder, and what is shown of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simplicit.data import Dataset
from simplicit.files import write_json
from simplicit.report import Table, can_draw
from simplicit.runs.folder import Manifest, run_folder

#: Of a study's folder, as its manifest says it.
KIND = "reproduce"


@dataclass(frozen=True, eq=False)
class Study:
    """What there is to say about a study, whose files have its ``name``, such as ``frontier.json``.

    ``settings`` and ``figures`` are ready for JSON; ``seconds`` are wall-clock times of its parts; ``notes`` are
    paragraphs under the tables. ``draw`` draws the picture into a given file, if there is one. The manifest names the
    versions of ``packages`` besides those of every run.
    """

    name: str
    title: str
    settings: Mapping[str, Any]
    figures: Mapping[str, Any]
    seconds: Mapping[str, float]
    tables: Sequence[Table]
    notes: Sequence[str]
    draw: Callable[[Path], None] | None = None
    packages: tuple[str, ...] = ()

    @property
    def picture(self) -> str | None:
        """Name of the picture's file, where the study has one."""
        return None if self.draw is None else f"{self.name}.png"

    def markdown(self) -> str:
        """Return tables and notes as a document."""
        return "\n\n".join([f"# {self.title}", *(table.markdown() for table in self.tables), *self.notes]) + "\n"

    def save(self, folder: Path, data: Dataset, *, command: Sequence[str] = (), overwrite: bool = False) -> None:
        """Write figures, tables, the manifest and, with the extra ``report`` installed, the picture.

        ``data`` is what the study was made on, ``command`` the command line as it was typed. Only the folder of an
        earlier study is replaced, with ``overwrite``; InputError is raised otherwise, DataError where writing fails.
        """
        with run_folder(folder, overwrite=overwrite, kind=KIND) as draft:
            write_json(draft / f"{self.name}.json", self.figures)
            (draft / f"{self.name}.md").write_text(self.markdown(), encoding="utf-8")
            if self.draw is not None and can_draw():
                self.draw(draft / f"{self.name}.png")
            Manifest(
                KIND,
                command=list(command),
                settings={"study": self.name, "data": data.name, **self.settings},
                inputs={"data": data.describe()},
                seconds=dict(self.seconds),
                results=dict(self.figures),
                packages=self.packages,
            ).write(draft)
