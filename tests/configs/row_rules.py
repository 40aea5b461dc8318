"""Rules for the files below `configs/`: what a row may say, and how."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from mask_rcnn_repro.config.config_files import config_root
from mask_rcnn_repro.config.schema import TOP_LEVEL_KEYS

_FORBIDDEN: dict[type[ast.AST], str] = {
    ast.FunctionDef: "a function",
    ast.AsyncFunctionDef: "a function",
    ast.ClassDef: "a class",
    ast.Lambda: "a lambda",
}


_OUTPUT_KEYS = ("output_dir", "output_root")


def check_row_rules(path: str | Path) -> list[str]:
    """Checks one runnable config file against the rules of rows.

    A row says in its docstring what it is; defines no function, class or lambda; holds no absolute
    path and no output folder; takes from at most one other row, and each section from one file.

    Args:
        path: a `.py` file.

    Returns:
        Problems, each with its line; empty where the rules are kept.
    """
    file = Path(path).resolve()
    tree = ast.parse(file.read_text(encoding="utf-8"), filename=str(file))
    problems = [] if ast.get_docstring(tree) else ["line 1: has no docstring saying what it is"]
    docstring = tree.body[0].value if ast.get_docstring(tree) else None  # type: ignore[attr-defined]
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if type(node) in _FORBIDDEN:
            problems.append(
                f"line {line}: defines {_FORBIDDEN[type(node)]}; move it into the package"
            )
        elif isinstance(node, ast.Constant) and node is not docstring and _is_absolute(node.value):
            problems.append(f"line {line}: holds the absolute path {node.value!r}")
    problems += [f"line {line}: sets train.{name}" for line, name in _sets_output(tree)]
    problems += _import_problems(tree, file)
    return problems


def _is_absolute(text: object) -> bool:
    if not isinstance(text, str):
        return False
    is_drive = len(text) > 2 and text[0].isalpha() and text[1] == ":" and text[2] in "\\/"
    return text.startswith(("/", "~/", "\\\\", "file://")) or is_drive


def _sets_output(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Lines that say where a run writes, with the key."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                last = target
                if isinstance(last, ast.Subscript) and isinstance(last.slice, ast.Constant):
                    if last.slice.value in _OUTPUT_KEYS:
                        yield node.lineno, str(last.slice.value)
                elif isinstance(last, ast.Attribute) and last.attr in _OUTPUT_KEYS:
                    yield node.lineno, last.attr
        elif isinstance(node, ast.keyword) and node.arg in _OUTPUT_KEYS:
            yield node.value.lineno, str(node.arg)
        elif isinstance(node, ast.Dict):
            for key in node.keys:
                if isinstance(key, ast.Constant) and key.value in _OUTPUT_KEYS:
                    yield key.lineno, str(key.value)


def _import_problems(tree: ast.Module, file: Path) -> list[str]:
    root = config_root().resolve()
    parents: dict[Path, int] = {}
    sections: dict[str, Path] = {}
    problems = []
    for node in tree.body:
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        source = file.parents[node.level - 1].joinpath(*(node.module or "").split("."))
        if source.parts[: len(root.parts) + 1] != (*root.parts, "common"):
            parents[source] = node.lineno
        for alias in node.names:
            name = alias.asname or alias.name
            if name in sections and name in TOP_LEVEL_KEYS:
                problems.append(f"line {node.lineno}: takes {name} from two files")
            sections[name] = source
    if len(parents) > 1:
        names = ", ".join(p.name for p in parents)
        problems.append(
            f"line {max(parents.values())}: imports from {len(parents)} rows ({names}); a row has "
            "one parent (each import runs its file anew, so names would not belong together)"
        )
    return problems
