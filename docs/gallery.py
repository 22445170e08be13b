"""Draw the pictures of the gallery by running the code of its page: docs/_static/gallery.

python docs/gallery.py
"""

from __future__ import annotations

import os
import re
from pathlib import Path

PAGE = Path(__file__).parent / "gallery.md"
FOLDER = PAGE.parent / "_static" / "gallery"


def main() -> None:
    """Run the page's blocks in the folder of its pictures."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    code = "\n".join(re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE))
    os.chdir(FOLDER)
    exec(compile(code, PAGE.name, "exec"), {"__name__": "gallery"})


if __name__ == "__main__":
    main()
