"""English without a download: docstrings of the standard library and of installed packages, and sentences of them.

Files are taken by name, so that texts depend on the versions of Python and of the packages alone, which
requirements.txt beside this file holds; :func:`digest` tells texts apart.
"""

from __future__ import annotations

import ast
import hashlib
import random
import re
import sysconfig
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from networks.pretrained import folder_of

PACKAGES = ("numpy", "scipy", "torch", "sympy", "networkx", "transformers")
#: Of each package the first files by name, so that the largest does not decide alone.
FILES = 1500
#: What does not belong to a library's own words, or differs between machines.
_LEFT_OUT = ("site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__")
#: One file in so many is held out.
HELD_OUT = 10
#: Characters of a sentence.
SHORTEST, LONGEST = 40, 200
_SENTENCES_SEED = 7


def docstrings(file: Path) -> Iterator[str]:
    """Those of a file, in its order; none where it does not parse."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and (text := ast.get_docstring(node)):
            yield text


def files_of(package: str) -> list[Path]:
    """The first Python files of an installed package, by name."""
    return sorted(folder_of(package).rglob("*.py"))[:FILES]


@cache
def sentences() -> tuple[str, ...]:
    """First paragraphs of docstrings of functions and classes of the packages, each once, in a fixed random order."""
    found = set()
    for package in PACKAGES:
        for file in files_of(package):
            for text in docstrings(file):
                sentence = re.sub(r"\s+", " ", text.split("\n\n")[0]).strip()
                if SHORTEST < len(sentence) < LONGEST and sentence.isascii():
                    found.add(sentence)
    ordered = sorted(found)
    random.Random(_SENTENCES_SEED).shuffle(ordered)
    return tuple(ordered)


@cache
def prose() -> tuple[bytes, bytes]:
    """All docstrings of the standard library and of the packages, to train on and held out by whole files, in ASCII."""
    library = Path(sysconfig.get_path("stdlib"))
    own = [(f"python/{f.relative_to(library)}", f) for f in sorted(library.rglob("*.py"))]
    own = [(name, file) for name, file in own if not set(Path(name).parts) & set(_LEFT_OUT)]
    others = [(f"{p}/{file.relative_to(folder_of(p))}", file) for p in PACKAGES for file in files_of(p)]
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    seen: set[str] = set()
    for name, file in [*own, *others]:
        held = int(hashlib.sha256(name.encode()).hexdigest(), 16) % HELD_OUT == 0
        new = [text for text in docstrings(file) if text not in seen]
        seen.update(new)
        parts[held].extend(f"{text}\n\n".encode("ascii", errors="ignore") for text in new)
    return b"".join(parts[False]), b"".join(parts[True])


def digest(text: bytes) -> str:
    """Twelve letters by which texts are told apart."""
    return hashlib.sha256(text).hexdigest()[:12]


def kept(file: Path, make: Callable[[], str]) -> str:
    """A text that takes minutes to make, from a file where it was made before."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(".partial")
        draft.write_bytes(make().encode())
        draft.replace(file)
    return file.read_bytes().decode()
