"""Draw the rooms of the library, read from its code: docs/_static/rooms.svg.

    python docs/rooms.py

A room is a module or package directly in src/simplicit. It stands on the lowest floor that is above all rooms that it
imports, so that imports point down; a circle is an error. Arrows that follow from others are left out, and those that
are longer than a floor pass between the boxes. What a room says of itself is the first sentence of its docstring, and
below it are its packages. tests/test_docs.py compares the picture that is kept with the one that this makes.
"""

from __future__ import annotations

import ast
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from graphlib import TopologicalSorter
from html import escape
from itertools import permutations
from pathlib import Path

PICTURE = Path(__file__).parent / "_static" / "rooms.svg"
SOURCE = Path(__file__).parents[1] / "src" / "simplicit"
#: Pixels: the width of a box, the space beside it and below it, the edge of the picture, between two arrows.
WIDTH, GAP, DROP, MARGIN, APART = 200, 28, 46, 24, 9
#: Letters in a line of text, so few that they fit in a wide font.
LETTERS = 29
INK, FAINT, PAPER, ACCENT = "#1f2933", "#52606d", "#ffffff", "#1b5e9b"
#: Fills of the floors, from the lowest to the highest.
FILLS = ("#e8edf2", "#e3eef7", "#dceefb", "#d3eae2", "#fbe9d0", "#f6e3e3", "#efe3f5", "#e6e6f7")

#: Its middle, its top and its bottom.
Box = tuple[float, int, int]
#: Two rooms, the first of which imports the second.
Pair = tuple[str, str]


@dataclass(frozen=True)
class Room:
    """A module or package: what it says of itself, the packages in it, and the rooms that it imports."""

    name: str
    about: str
    packages: tuple[str, ...]
    imports: frozenset[str]

    @classmethod
    def read(cls, path: Path) -> Room:
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        docstring = ast.get_docstring(_parsed(path / "__init__.py" if path.is_dir() else path)) or ""
        about = " ".join(docstring.replace("``", "").split()).partition(". ")[0].removesuffix(".") + "."
        packages = tuple(sorted(file.parent.name for file in path.glob("*/__init__.py")))
        imports = {name for file in files for name in _imported(file)} - {path.stem}
        return cls(path.stem, about, packages, frozenset(imports))

    @property
    def text(self) -> list[str]:
        """What it says of itself, in lines."""
        return textwrap.wrap(self.about, LETTERS)

    @property
    def inside(self) -> list[str]:
        """Its packages, in lines."""
        return textwrap.wrap(" · ".join(self.packages), LETTERS)


def rooms() -> dict[str, Room]:
    """All rooms by name, each after those that it imports.

    Raises
    ------
    graphlib.CycleError
        Two rooms import each other, directly or around a corner.
    """
    places = [path for path in sorted(SOURCE.iterdir()) if not path.stem.startswith(("_", "."))]
    found = {path.stem: Room.read(path) for path in places if path.suffix == ".py" or (path / "__init__.py").is_file()}
    order = TopologicalSorter(
        {room.name: sorted(room.imports & found.keys()) for room in found.values()}
    ).static_order()
    return {name: found[name] for name in order}


def floors(found: dict[str, Room]) -> list[list[str]]:
    """Names of the rooms, floor by floor from the lowest, in an order in which arrows are short."""
    level: dict[str, int] = {}
    for room in found.values():
        level[room.name] = 1 + max((level[name] for name in room.imports & found.keys()), default=-1)
    rows = [sorted(name for name in level if level[name] == floor) for floor in range(max(level.values()) + 1)]
    pairs = arrows(found)
    for _ in range(3):
        for floor, row in enumerate(rows):
            others = [*rows[:floor], *rows[floor + 1 :]]
            rows[floor] = list(min(permutations(sorted(row)), key=lambda order: _reach(pairs, [*others, list(order)])))
    return rows


def arrows(found: dict[str, Room]) -> list[Pair]:
    """All pairs of rooms, less those that follow from other pairs."""
    below: dict[str, frozenset[str]] = {}
    pairs = []
    for room in found.values():
        direct = room.imports & found.keys()
        further = frozenset(deeper for name in direct for deeper in below[name])
        below[room.name] = frozenset(direct) | further
        pairs += [(room.name, name) for name in sorted(direct - further)]
    return pairs


def svg() -> str:
    """The picture."""
    found = rooms()
    rows = floors(found)
    width = max(map(len, rows)) * (WIDTH + GAP) + GAP + 2 * MARGIN
    boxes, top = dict[str, Box](), MARGIN
    for row in reversed(rows):
        bottom = top + max(len(found[name].text) * 13 + len(found[name].inside) * 12 + 34 for name in row)
        boxes |= {name: (width / 2 + x, top, bottom) for name, x in zip(row, _across(row), strict=True)}
        top = bottom + DROP
    height = top - DROP + MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="system-ui, sans-serif">',
        "<title>The rooms of simplicit: each imports only what stands below it</title>",
        f'<rect width="{width}" height="{height}" fill="{PAPER}"/>',
        f'<marker id="tip" markerWidth="7" markerHeight="7" refX="6" refY="3" orient="auto">'
        f'<path d="M0 0 L6 3 L0 6 Z" fill="{ACCENT}"/></marker>',
        *(_arrow(stops) for stops in _routes(arrows(found), rows, boxes)),
        *(
            line
            for floor, row in enumerate(rows)
            for name in row
            for line in _box(found[name], boxes[name], FILLS[min(floor, len(FILLS) - 1)])
        ),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _routes(pairs: Sequence[Pair], rows: Sequence[Sequence[str]], boxes: dict[str, Box]) -> Iterable[list[Box]]:
    """What each arrow passes: its first box, gaps between the boxes of the floors in between, and its last box.

    Arrows that leave, pass or reach the same place lie beside each other there, in the order of where they come from
    and go to.
    """
    level = {name: floor for floor, row in enumerate(rows) for name in row}
    routes = {}
    for upper, lower in pairs:
        stops = [boxes[upper]]
        for floor in range(level[upper] - 1, level[lower], -1):
            straight = stops[-1][0] + (boxes[lower][0] - stops[-1][0]) / (floor - level[lower] + 1)
            stops.append(min(_gaps(rows[floor], boxes), key=partial(_aside, straight)))
        routes[upper, lower] = [*stops, boxes[lower]]
    sharing = defaultdict(list)
    for pair, stops in routes.items():
        for place, stop in enumerate(stops):
            around = stops[max(place - 1, 0)][0] + stops[min(place + 1, len(stops) - 1)][0]
            sharing[place == 0, place == len(stops) - 1, stop].append((around, pair, place))
    for passing in sharing.values():
        for number, (_, pair, place) in enumerate(sorted(passing)):
            x, top, bottom = routes[pair][place]
            routes[pair][place] = (x + APART * (number - (len(passing) - 1) / 2), top, bottom)
    return routes.values()


def _aside(x: float, gap: Box) -> float:
    return abs(gap[0] - x)


def _gaps(row: Sequence[str], boxes: dict[str, Box]) -> Iterator[Box]:
    """What is left of the first box of a floor, and right of each."""
    for name in row:
        x, top, bottom = boxes[name]
        if name == row[0]:
            yield x - (WIDTH + GAP) / 2, top, bottom
        yield x + (WIDTH + GAP) / 2, top, bottom


def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _imported(path: Path) -> Iterator[str]:
    """Names of rooms that a file imports, but for those that only its annotations need."""
    waiting: list[ast.AST] = [_parsed(path)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "simplicit":
            inside = (node.module or "").split(".")[1:2]
            yield from inside or [alias.name for alias in node.names]
        elif not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            waiting += ast.iter_child_nodes(node)


def _across(row: Sequence[str]) -> list[float]:
    """The middles of the boxes of a floor, from the middle of the picture."""
    return [(i - (len(row) - 1) / 2) * (WIDTH + GAP) for i in range(len(row))]


def _reach(pairs: Sequence[Pair], rows: Sequence[Sequence[str]]) -> float:
    """How far arrows go sideways, squared and summed up."""
    at = {name: x for row in rows for name, x in zip(row, _across(row), strict=True)}
    return sum((at[upper] - at[lower]) ** 2 for upper, lower in pairs)


def _arrow(stops: Sequence[Box]) -> str:
    x, _, y = stops[0]
    path = f"M{x:g} {y:g}"
    for to, top, bottom in stops[1:]:
        bend = (top - y) / 2
        path += f" C{x:g} {y + bend:g} {to:g} {top - bend:g} {to:g} {top - 1:g}"
        if bottom != stops[-1][2]:
            path += f" V{bottom:g}"
        x, y = to, bottom
    return f'<path d="{path}" fill="none" stroke="{ACCENT}" stroke-opacity="0.6" marker-end="url(#tip)"/>'


def _box(room: Room, box: Box, fill: str) -> Iterator[str]:
    x, y, bottom = box[0] - WIDTH / 2, *box[1:]
    yield f'<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{bottom - y}" rx="6" fill="{fill}" stroke="{FAINT}"/>'
    yield f'<text x="{x + 10:g}" y="{y + 20:g}" font-size="15" font-weight="600" fill="{INK}">{room.name}</text>'
    for number, line in enumerate(room.text):
        yield f'<text x="{x + 10:g}" y="{y + 37 + 13 * number:g}" font-size="11" fill="{INK}">{escape(line)}</text>'
    for number, line in enumerate(reversed(room.inside)):
        at = f'x="{x + 10:g}" y="{bottom - 8 - 12 * number:g}"'
        yield f'<text {at} font-size="10" font-style="italic" fill="{FAINT}">{line}</text>'


if __name__ == "__main__":
    PICTURE.write_text(svg(), encoding="utf-8")
    sys.stdout.write(f"{PICTURE}: {len(rooms())} rooms on {len(floors(rooms()))} floors\n")
