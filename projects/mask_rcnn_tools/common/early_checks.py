"""Mistakes on a command line that are found before torch and Detectron2 are imported.

The imports take seconds, and on a busy machine ten. Here is what can be said without them: a
config file that does not exist, and a misspelled key. Everything else is left to the loading of the
config, which also finds these mistakes. So nothing is refused here that loading would accept.

A key of `train` must be in its schema. Other keys are parameters of functions, which are not known
before they are imported. But each part of such a key is a word of a config or of a source file that
a config can name. A part that is no such word is misspelled.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mask_rcnn_repro.config.config_files import config_root, find_config
from mask_rcnn_repro.errors import ConfigError

_PLAIN_KEY = re.compile(r"[A-Za-z_]\w*(\.\w+)*")
_WORD = re.compile(r"[A-Za-z_]\w*")
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_SOURCES = (
    ("mask_rcnn_repro", "**/*.py"),
    ("detectron2", "**/*.py"),
    ("fvcore", "**/*.py"),
    ("torch", "optim/*.py"),
    ("torch", "nn/modules/*.py"),
)
"""Package and files whose functions configs name, in the order in which they are read."""

_KNOWN_ROOTS = {package for package, _ in _SOURCES} | {"mask_rcnn_embedded", "omegaconf"}


def check_early(args: argparse.Namespace) -> None:
    """Checks the config file and the overrides of a parsed command line, as far as possible.

    Args:
        args: May have `config_file`, `diff_config` and `overrides`.

    Raises:
        ConfigError: A file does not exist, or a key is misspelled.
    """
    given = getattr(args, "config_file", None)
    if not given:
        return
    file = find_config(given)
    if getattr(args, "diff_config", None):
        find_config(args.diff_config)
    check_keys(list(getattr(args, "overrides", ())), file)


def check_keys(overrides: Sequence[str], file: Path) -> None:
    """Checks the keys of overrides, and values of `train`. A key without a value may be given.

    Args:
        overrides: As on the command line.
        file: The config that they change.

    Raises:
        ConfigError: A key is misspelled, or a value of `train` is wrong.
    """
    for text in overrides:
        key, equals, value = text.lstrip("+~").partition("=")
        if _PLAIN_KEY.fullmatch(key):
            plain = bool(equals) and not text.startswith("~")
            _check_key(text, key.split("."), value if plain else None)
    changes = [text for text in overrides if text[:1] not in ("+", "~")]
    if not any("_target_" in text for text in overrides):
        for text in changes:
            key = text.partition("=")[0]
            if _PLAIN_KEY.fullmatch(key) and not key.startswith("train."):
                _check_words(text, key.split("."), file)


def _misspelled(text: str, parts: list[str], place: int, names: Iterable[str]) -> None:
    """Raises ConfigError if a known name is near to a part of a key."""
    for name in difflib.get_close_matches(parts[place], sorted(set(names)), n=1, cutoff=0.7):
        right = ".".join([*parts[:place], name, *parts[place + 1 :]])
        raise ConfigError(f"{text!r}: unknown key {'.'.join(parts)!r}. Did you mean {right!r}?")


def _check_key(text: str, parts: list[str], value: str | None) -> None:
    """Checks the section, and a key of `train` with its value."""
    from mask_rcnn_repro.config import schema

    if parts[0] not in schema.TOP_LEVEL_KEYS:
        _misspelled(text, parts, 0, schema.TOP_LEVEL_KEYS)
    if parts[0] != "train":
        return
    for place in range(1, len(parts)):
        fields = schema.train_fields(tuple(parts[1:place]))
        if fields is None:  # an entry of a mapping
            return
        if parts[place] not in fields:
            _misspelled(text, parts, place, fields)
            return
    if value is None or "${" in value or len(parts) == 1:
        return
    from mask_rcnn_repro.config.yaml_io import parse_yaml

    plain = parse_yaml(value, f"The value of {text!r}") if value.strip() else ""
    if isinstance(plain, dict):  # merged into what the config has
        return
    problem = schema.check_train_value(tuple(parts[1:]), plain)
    if problem is not None:
        raise ConfigError(f"{text!r}: {'.'.join(parts)} {problem}.")


def _check_words(text: str, parts: list[str], file: Path) -> None:
    """Checks the parts of a key that is not in `train`."""
    unknown = [place for place, part in enumerate(parts) if not part.isdigit()]
    words: set[str] = set()
    for more in _vocabulary(file):
        words |= more
        unknown = [place for place in unknown if parts[place] not in words]
        if not unknown:
            return
    if words:
        _misspelled(text, parts, unknown[0], words)


def _vocabulary(file: Path) -> Iterator[set[str]]:
    """Yields the words of a config and of all that it can name, the nearest first.

    Nothing if that cannot be known: the config imports other packages or reads other files.
    """
    sources = _config_sources(file)
    if sources is None:
        return
    yield _words(sources)
    yield _words(_texts(config_root().rglob("*.py")))
    for package, pattern in _SOURCES:
        spec = importlib.util.find_spec(package)
        for folder in (spec and spec.submodule_search_locations) or ():
            yield _words(_texts(Path(folder).glob(pattern)))


def _words(texts: Iterable[str]) -> set[str]:
    return {word for text in texts for word in _WORD.findall(text)}


def _texts(files: Iterable[Path]) -> Iterator[str]:
    for file in files:
        yield file.read_text(encoding="utf-8", errors="replace")


def _config_sources(file: Path) -> list[str] | None:
    """Returns the text of a config and of the files that it imports relatively.

    None if it uses anything but these and known packages.
    """
    waiting, seen, texts = [file], set(), []
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        try:
            text = current.read_text(encoding="utf-8")
            tree = ast.parse(text) if current.suffix == ".py" else None
        except (OSError, ValueError, SyntaxError):
            return None  # loading says what is wrong
        texts.append(text)
        if tree is None:
            names = re.findall(r"_target_: *['\"]?([\w.]+)", text)
        else:
            strings = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)]
            names = [s for s in strings if isinstance(s, str) and _names_more(s)]
            names += [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and node.level:
                    above = current.parents[node.level - 1]
                    waiting += _imported(above, node)
                elif isinstance(node, ast.ImportFrom):
                    names.append(str(node.module))
        if any(
            name.partition(".")[0] not in _KNOWN_ROOTS | sys.stdlib_module_names for name in names
        ):
            return None
    return texts


def _names_more(text: str) -> bool:
    """Whether a string of a config may name a function or another config."""
    return bool(_DOTTED.fullmatch(text)) or text.endswith((".py", ".yaml", ".yml"))


def _imported(above: Path, node: ast.ImportFrom) -> list[Path]:
    """The files of `from ..a import b`: `a.py`, or `b.py` if a is a directory or missing."""
    base = above.joinpath(*(node.module or "").split("."))
    if base.with_suffix(".py").is_file():
        return [base.with_suffix(".py")]
    files = [base / f"{alias.name}.py" for alias in node.names]
    return [file if file.is_file() else base / "__init__.py" for file in files]
