"""docs/images/architecture.svg: the rooms of the three packages and what they import."""

from __future__ import annotations

import ast
import html
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import grimp

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACKAGES = ("mask_rcnn_tools", "mask_rcnn_repro", "mask_rcnn_embedded")
"""From top to bottom of the drawing: each imports only those below it."""

_WIDTH, _LEFT, _ROW = 960, 190, 26
_STYLE = """\
text { font: 13px sans-serif; fill: #1f2328 } .about { fill: #59636e; font-size: 12px }
.package { font-weight: bold } .paper { fill: #ffffff }
.band { fill: #f1f4f7 } circle { fill: #2f6fb5 }
.arc { fill: none; stroke: #2f6fb5; stroke-width: 1.3; opacity: 0.55 }"""


def imports_between(graph: grimp.ImportGraph, rooms: Iterable[str]) -> dict[str, set[str]]:
    """Returns room to the rooms that it imports directly, without what follows from the others.

    An arrow is left out where another way of arrows leads to the same room.
    """
    members = {r: {r, *graph.find_descendants(r)} for r in rooms}
    room_of = {module: room for room, modules in members.items() for module in modules}
    direct: dict[str, set[str]] = {room: set() for room in members}
    for room, modules in members.items():
        for module in modules:
            for imported in graph.find_modules_directly_imported_by(module):
                other = room_of.get(imported, room)
                if other != room:
                    direct[room].add(other)

    def reach(room: str) -> set[str]:
        found: set[str] = set()
        waiting = list(direct[room])
        while waiting:
            if (other := waiting.pop()) not in found:
                found.add(other)
                waiting += direct[other]
        return found

    return {
        room: {o for o in others if not any(o in reach(p) for p in others if p != o)}
        for room, others in direct.items()
    }


def rooms_in_order(root: Path, graph: grimp.ImportGraph) -> dict[str, list[str]]:
    """Returns package to its rooms, from top to bottom: each imports only rooms below it.

    The order inside `mask_rcnn_repro` is that of the layers in pyproject.toml.
    """
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    layers = next(c["layers"] for c in contracts if c.get("containers") == ["mask_rcnn_repro"])
    names = [name for layer in layers for name in re.split(r"\s*\|\s*", layer)]
    rooms: dict[str, list[str]] = {}
    for package in PACKAGES:
        children = [c for c in graph.find_children(package) if graph.find_children(c)]
        # shared rooms come last: the fewer rooms of its package a room imports, the lower it is
        inner = {
            c: sum(o in children for o in imports_between(graph, children)[c]) for c in children
        }
        rooms[package] = sorted(children, key=lambda c: (-inner[c], c))
    rooms["mask_rcnn_repro"] = [f"mask_rcnn_repro.{name}" for name in names]
    return rooms


def _file_of(root: Path, room: str) -> Path:
    path = root / "projects" / room.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _about(root: Path, room: str) -> str:
    """Returns the first line of the docstring of a room."""
    text = ast.get_docstring(ast.parse(_file_of(root, room).read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0].replace("`", "")


def format_architecture(root: Path) -> str:
    """Returns the drawing as SVG, made from the imports of the checkout in `root`."""
    graph = grimp.build_graph(*PACKAGES)
    rooms = rooms_in_order(root, graph)
    arcs = imports_between(graph, [room for row in rooms.values() for room in row])
    parts: list[str] = []
    place: dict[str, int] = {}
    y = 0
    for package, row in rooms.items():
        height = (len(row) + 1) * _ROW + 14
        parts.append(f'<rect class="band" x="0" y="{y}" width="{_WIDTH}" height="{height}"/>')
        parts.append(f'<text class="package" x="{_LEFT - 8}" y="{y + 22}">{package}</text>')
        for number, room in enumerate(row, 1):
            middle = place[room] = y + number * _ROW + 17
            about = html.escape(_about(root, room))
            parts += [
                f'<circle cx="{_LEFT}" cy="{middle}" r="3.5"/>',
                f'<text x="{_LEFT + 14}" y="{middle + 4}">{room.rpartition(".")[2]}</text>',
                f'<text class="about" x="{_LEFT + 130}" y="{middle + 4}">{about}</text>',
            ]
        y += height + 8
    for room, others in sorted(arcs.items()):
        for other in sorted(others):
            top, bottom = place[room], place[other]
            reach = _LEFT - min(20 + (bottom - top) * 0.45, _LEFT - 10)
            parts.append(
                f'<path class="arc" d="M{_LEFT} {top} C{reach:g} {top} {reach:g} {bottom} '
                f'{_LEFT - 4} {bottom}" marker-end="url(#arrow)"/>'
            )
    body = "\n".join(parts)
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y - 8}" width="{_WIDTH}">
<style>{_STYLE}</style>
<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7"
orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#2f6fb5"/></marker></defs>
<rect class="paper" x="0" y="0" width="{_WIDTH}" height="{y - 8}"/>
{body}
</svg>
"""
