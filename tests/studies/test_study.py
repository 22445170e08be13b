"""Studies as a whole: the library does without them."""

from __future__ import annotations

import re
from pathlib import Path

import simplicit as sp


def test_the_library_does_not_import_its_studies() -> None:
    package = Path(sp.__file__).parent
    importing = {
        path.relative_to(package).parts[0]
        for path in package.rglob("*.py")
        if re.search(r"^\s*(from|import) simplicit\.studies", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert importing <= {"studies", "cli"}
