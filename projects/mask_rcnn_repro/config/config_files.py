"""Finding config files by path or id."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from mask_rcnn_repro.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parents[1]
SUFFIXES = (".py", ".yaml", ".yml")
CONFIG_FILE = "config.yaml"  # the config of a run, in its directory


def config_root() -> Path:
    """The directory `configs`, in the installed package or else in the checkout.

    Raises:
        ConfigError: Neither exists.
    """
    candidates = (_PACKAGE / "configs", _PACKAGE.parents[1] / "configs")
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise ConfigError(
        f"The directory `configs` does not exist. Looked for {' and '.join(map(str, candidates))}."
    )


def config_id(path: str | os.PathLike[str]) -> str:
    """The id of a config file.

    Args:
        path: A file or an id, as in `find_config`. A file that does not exist is relative to the
            current directory.

    Returns:
        The path below `configs` without suffix, such as `table2a/r50_c4`. For a file elsewhere:
        its directory's name and its stem, such as `my_project/wide_masks`, and the directory above
        if that is the id of a config below `configs`.
    """
    try:
        absolute = find_config(path)
    except ConfigError:
        absolute = Path(path).expanduser().resolve()
    try:
        relative = absolute.relative_to(config_root().resolve())
    except (ValueError, ConfigError):
        names = absolute.with_suffix("").parts[1:]
        short = "/".join(names[-2:])
        return "/".join(names[-3:]) if short in list_configs() else short
    return relative.with_suffix("").as_posix()


def list_configs() -> list[str]:
    """Ids of all runnable configs: the `.py` files below `configs`, except those in `common/`."""
    files = [path.relative_to(config_root()) for path in config_root().rglob("*.py")]
    return sorted(
        file.with_suffix("").as_posix()
        for file in files
        if file.parts[0] != "common" and not any(p.startswith(("_", ".")) for p in file.parts)
    )


def find_config(path: str | os.PathLike[str]) -> Path:
    """Finds a config file by path or id.

    Args:
        path: An existing file, absolute or relative to the current directory, with or without
            suffix; the directory of a run, which has a `config.yaml`; or an id or a path that
            begins with `configs/`, from any current directory.

    Returns:
        The absolute path.

    Raises:
        ConfigError: There is no such file (the message names the nearest ids), or it is neither
            `.py` nor `.yaml`.
    """
    text = os.fspath(path)
    if not text:
        raise ConfigError(
            "No config file was given. Give one, such as "
            "--config-file configs/quickstart/mask_rcnn_r18_fpn.py."
        )
    given = Path(text).expanduser()
    candidates = [given, Path(f"{given}.py"), given / CONFIG_FILE]
    if not given.is_absolute():
        inside = Path(*given.parts[1:]) if given.parts[:1] == ("configs",) else given
        candidates += [config_root() / inside, config_root() / f"{inside}.py"]
    for candidate in candidates:
        if candidate.is_file():
            if candidate.suffix not in SUFFIXES:
                raise ConfigError(
                    f"{candidate} is not a config file: its name must end in {', '.join(SUFFIXES)}."
                )
            return candidate.resolve()
    raise ConfigError(_not_found(text, given))


def _not_found(text: str, given: Path) -> str:
    ids = list_configs()
    for folder in (given, config_root() / given):
        if folder.is_dir():
            held = sorted(p.name for p in folder.glob("*.py"))
            return f"{text} is a directory. Its config files: {', '.join(held) or 'none'}."
    wanted = given.with_suffix("") if given.suffix in SUFFIXES else given
    parts = wanted.parts
    tail = "/".join(parts[parts.index("configs") + 1 :] if "configs" in parts else parts[-2:])
    close = difflib.get_close_matches(tail, ids, n=3, cutoff=0.5)
    if not close:
        by_name = {i.rpartition("/")[2]: i for i in ids}
        close = [by_name[n] for n in difflib.get_close_matches(wanted.name, by_name, n=3)]
    if close:
        advice = f"Similar below configs/: {', '.join(f'{i}.py' for i in close)}"
    else:
        advice = f"{len(ids)} configs are below {config_root()}"
        advice += f", such as {ids[0]}.py" if ids else ""
    return f"The config file {text} does not exist (searched from {Path.cwd()}). {advice}."
