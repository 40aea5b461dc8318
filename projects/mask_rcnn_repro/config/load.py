"""Loading a config: file, then profile, then command line, then validation.

A `.py` config is Python code and is run. A `.yaml` config is read as plain data, but it names the
functions that building calls. Load only configs that you trust.
"""

from __future__ import annotations

import ast
import builtins
import copy
import difflib
import functools
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from detectron2.config import LazyConfig
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mask_rcnn_repro.config import schema
from mask_rcnn_repro.config.branches import omit_branches
from mask_rcnn_repro.config.config_files import config_root, find_config, list_configs
from mask_rcnn_repro.config.overrides import apply_overrides
from mask_rcnn_repro.config.profiles import PROFILES
from mask_rcnn_repro.config.stored_proposals import use_stored_proposals
from mask_rcnn_repro.config.validation import validate_config
from mask_rcnn_repro.config.yaml_io import read_yaml
from mask_rcnn_repro.errors import ConfigError


def load_config(
    path: str | os.PathLike[str],
    profile: str = "paper",
    overrides: Iterable[str] = (),
    seed: int | None = None,
) -> DictConfig:
    """Loads, scales, overrides and validates a config.

    Args:
        path: Path of a `.py` or saved `.yaml` file, or an id such as `table2a/r50_c4`.
        profile: Name of a function in `config/profiles.py`; `paper` changes nothing. The profile
            of a saved config is applied already; it is loaded with `paper` or the same one.
        overrides: `key=value`, `+key=value`, `~key`; see `config/overrides.py`.
        seed: Value of `train.seed`, unless None. An override of `train.seed` must agree with it.

    Returns:
        The config with every key of the `train` section.

    Raises:
        ConfigError: The file does not exist, cannot be run, or is not a usable config. The message
            lists all problems.
    """
    file = find_config(path)
    cfg = read_config(file)
    if profile != "paper" and file.suffix != ".py":
        if profile != cfg.train.profile:
            raise ConfigError(
                f"{file} is a saved config: its profile {cfg.train.profile} has been applied "
                f"already. Omit --profile {profile}, or give the .py file that it was made from."
            )
        profile = "paper"
    cfg = _apply_profile(cfg, profile)
    overrides = list(overrides)
    scaled_by = cfg.train.profile
    before, cfg = cfg, apply_overrides(cfg, overrides)
    if cfg.train.profile != scaled_by:
        raise ConfigError(
            f"train.profile is {scaled_by!r}, the profile that scaled this config, and cannot be "
            f"set to {cfg.train.profile!r}. Choose a profile with --profile."
        )
    if seed is not None:
        by_key = any(text.lstrip("+").startswith("train.seed=") for text in overrides)
        if by_key and cfg.train.seed != seed:
            raise ConfigError(
                f"--seed {seed} and train.seed={cfg.train.seed} disagree. Give one of them."
            )
        cfg = apply_overrides(cfg, [f"train.seed={seed}"])
    omit_branches(before, cfg, overrides)
    if not _running_files:
        use_stored_proposals(cfg, overrides)
    validate_config(cfg)
    return cfg


def get_config(
    config_id: str, profile: str = "paper", overrides: Iterable[str] = (), seed: int | None = None
) -> DictConfig:
    """Loads a config of this project by its id, such as `table2a/r50_c4`; see `load_config`.

    Inside a config file it returns the other config with its RPN. What `train.proposals` implies
    is applied when the outer file is loaded.
    """
    path = config_root() / f"{config_id.removesuffix('.py')}.py"
    return load_config(path if path.is_file() else config_id, profile, overrides, seed)


def read_config(file: Path) -> DictConfig:
    """Reads a config file and fills in the defaults of `train`, without profile and validation.

    Args:
        file: Absolute path of a `.py` or `.yaml` file.

    Raises:
        ConfigError: See `load_config`. Only the top-level keys are checked.
    """
    root = config_root()
    if root not in file.parents:
        return _read(file)
    stats = ((path, path.stat()) for path in root.rglob("*.py"))
    state = tuple(sorted((path, stat.st_mtime_ns, stat.st_size) for path, stat in stats))
    return copy.deepcopy(_read_below_root(file, state))


@functools.lru_cache(maxsize=256)
def _read_below_root(file: Path, state: tuple[tuple[Path, int, int], ...]) -> DictConfig:
    """Reads a config below `configs`; again only after one of the files there has changed."""
    return _read(file)


def _read(file: Path) -> DictConfig:
    if file.suffix == ".py":
        _check_top_level_names(file)
        cfg = _run_config(file)
    else:
        data = read_yaml(file)
        if not isinstance(data, dict):
            raise ConfigError(f"{file} does not hold a mapping of config sections.")
        try:
            cfg = OmegaConf.create(data, flags={"allow_objects": True})
        except OmegaConfBaseException as error:
            raise ConfigError(f"{file}: {str(error).splitlines()[0]}") from error
    _check_sections(cfg, file)
    schema.fill_train_defaults(cfg.train)
    return cfg


_running_files: list[Path] = []
"""Config files that are running, the outermost first."""


@contextmanager
def _running(file: Path) -> Iterator[None]:
    """Restores `builtins.__import__`, too: `LazyConfig` leaves it patched when a config raises."""
    before = builtins.__import__
    _running_files.append(file)
    try:
        yield
    finally:
        _running_files.pop()
        builtins.__import__ = before


def _run_config(file: Path) -> DictConfig:
    try:
        with _running(file):
            return LazyConfig.load(str(file))
    except SyntaxError as error:
        cause = error.__cause__ if isinstance(error.__cause__, SyntaxError) else error
        place = str(error) if cause is not error else f"{file} has a syntax error"
        raise ConfigError(
            f"{place.rstrip('!')}: line {cause.lineno}: {cause.msg}: {(cause.text or '').strip()}"
        ) from error
    except Exception as error:
        where, line = _raised_at(error.__traceback__, file)
        missing = isinstance(error, ModuleNotFoundError)
        hint = ". Install the module, or add its directory to PYTHONPATH" if missing else ""
        raise ConfigError(
            f"The config {file} cannot be run: {where}, line {line}: "
            f"{type(error).__name__}: {' '.join(str(error).split())}{hint}"
        ) from error


def _raised_at(traceback: TracebackType | None, file: Path) -> tuple[str, int]:
    """File and line of the innermost frame that belongs to a config file."""
    found = (str(file), 0)
    while traceback is not None:
        code_file = traceback.tb_frame.f_code.co_filename
        package = str(traceback.tb_frame.f_globals.get("__package__") or "")
        if code_file == str(file) or package.startswith("detectron2._cfg_loader"):
            found = (code_file, traceback.tb_lineno)
        traceback = traceback.tb_next
    return found


def _assigned_names(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Names that the top-level statements of a file assign, with their lines."""
    for statement in tree.body:
        if not isinstance(statement, (ast.Assign, ast.AnnAssign)):
            continue
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        for target in targets:
            for name in target.elts if isinstance(target, (ast.Tuple, ast.List)) else [target]:
                if isinstance(name, ast.Name):
                    yield name.id, statement.lineno


def _check_top_level_names(file: Path) -> None:
    """Rejects assigned names that are no section, because `LazyConfig` drops some silently."""
    try:
        tree = ast.parse(file.read_bytes(), filename=str(file))
    except SyntaxError as error:
        raise ConfigError(
            f"{file} has a syntax error: line {error.lineno}: {error.msg}: "
            f"{(error.text or '').strip()}"
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read: {error}.") from error
    for name, line in _assigned_names(tree):
        if name not in schema.TOP_LEVEL_KEYS and not name.startswith("_"):
            raise ConfigError(f"{file}, line {line}: {_unknown_section(name)}")


def _unknown_section(name: str) -> str:
    close = difflib.get_close_matches(name, schema.TOP_LEVEL_KEYS, n=1)
    guess = f" Did you mean `{close[0]}`?" if close else ""
    return (
        f"`{name}` is not a section of a config.{guess} Sections: "
        f"{', '.join(schema.TOP_LEVEL_KEYS)}. Begin names of helper values with an underscore."
    )


def _check_sections(cfg: DictConfig, file: Path) -> None:
    if "MODEL" in cfg or "_BASE_" in cfg:
        known = f"model_zoo/{file.stem}"
        advice = known if known in list_configs() else "model_zoo/..."
        raise ConfigError(f"{file} is a yacs config; use configs/{advice} or write a .py config.")
    problems = [_unknown_section(str(k)) for k in cfg if k not in schema.TOP_LEVEL_KEYS]
    problems += [
        f"the section `{key}` is missing. Import it from another config, or set it."
        for key in schema.REQUIRED_KEYS
        if key not in cfg
    ]
    problems += [
        f"`{key}` must be a section (dict(...) or L(...)(...)), got {cfg._get_node(key)}."
        for key in schema.TOP_LEVEL_KEYS
        if key in cfg
        and (not isinstance(cfg._get_node(key), (DictConfig, ListConfig)) or cfg[key] is None)
    ]
    if problems:
        raise ConfigError(f"{file}: " + " ".join(problems))


def _apply_profile(cfg: DictConfig, profile: str) -> DictConfig:
    if profile == "paper":
        return cfg
    if profile not in PROFILES:
        names = ", ".join(sorted({"paper", *PROFILES}))
        raise ConfigError(f"unknown profile {profile!r}. Profiles: {names}.")
    try:
        scaled = PROFILES[profile](cfg)
    except OmegaConfBaseException as error:
        raise ConfigError(
            f"The profile {profile} cannot be applied to this config: {str(error).splitlines()[0]}"
        ) from error
    schema.fill_train_defaults(scaled.train)
    scaled.train.profile = profile
    return scaled
