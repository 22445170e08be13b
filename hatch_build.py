"""The README as a package index shows it: links into the repository become absolute, or are put in words.

An index shows the text alone. Where ``[project.urls]`` of pyproject.toml has ``Source``, the address of the
repository, relative links lead to its ``blob/HEAD`` and pictures to its ``raw/HEAD``. Without it a link would lead
nowhere: its words stay, and a picture is left out, whose figures stand in a table.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!\w+:|#)([^)]+)\)")
_CODE = re.compile(r"(^```.*?^```$)", flags=re.DOTALL | re.MULTILINE)


def for_index(readme: str, source: str | None) -> str:
    """The text with every relative link made absolute under ``source``, or put in words where that is None."""
    parts = [part if part.startswith("```") else _linked(part, source) for part in _CODE.split(readme)]
    return re.sub(r"\n{3,}", "\n\n", "".join(parts))


def _linked(text: str, source: str | None) -> str:
    def shown(found: re.Match[str]) -> str:
        picture, words, target = found.groups()
        if source is not None:
            return f"{picture}[{words}]({source.rstrip('/')}/{'raw' if picture else 'blob'}/HEAD/{target})"
        return "" if picture else words

    return _LINK.sub(shown, text)


def get_metadata_hook() -> type[Any]:
    """What hatchling calls while it builds, for the README; the version is hatchling's own affair."""
    from hatchling.metadata.plugin.interface import MetadataHookInterface

    class IndexReadme(MetadataHookInterface):
        def update(self, metadata: dict[str, Any]) -> None:
            text = Path(self.root, "README.md").read_text(encoding="utf-8")
            metadata["readme"] = {
                "content-type": "text/markdown",
                "text": for_index(text, metadata.get("urls", {}).get("Source")),
            }

    return IndexReadme
