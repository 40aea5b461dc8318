"""AnalysisInputs of an analysis: ground truth, predictions and output directory."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import instantiate
from omegaconf import DictConfig

from mask_rcnn_repro.config import load_config
from mask_rcnn_repro.config.config_files import CONFIG_FILE
from mask_rcnn_repro.errors import ConfigError, DataError
from mask_rcnn_tools.analyze.evaluation_data import TASKS, EvaluationData, load_evaluation_data
from mask_rcnn_tools.common.trained_run import given_id, run_directory, use_own_run

ANALYSIS_FOLDER = "analysis"


@dataclass(frozen=True)
class AnalysisInputs:
    """AnalysisInputs of an analysis.

    Attributes:
        title: Heading.
        predictions: Result files.
        data: Annotations and detections.
        records: Dataset dicts by index of the image.
        output: Output directory.
    """

    title: str
    predictions: tuple[Path, ...]
    data: EvaluationData
    records: list[dict[str, Any]]
    output: Path


def read_inputs(args: argparse.Namespace) -> AnalysisInputs:
    """Loads the config, the annotations of its test data and the predictions.

    Raises:
        ConfigError: The config or the run cannot be used.
        DataError: Annotations or predictions are missing or do not fit each other.
    """
    cfg, folder, title = _run(args)
    dataset = _dataset_name(cfg)
    files = _prediction_files(args.predictions, folder, dataset)
    if args.predictions is not None:
        title = ", ".join(file.name for file in files)
    records: list[dict[str, Any]] = instantiate(cfg.dataloader.test.dataset)
    title = f"{title} on {dataset}"
    listed, count = _listed_images(files), len(records)
    if listed is not None:
        records = [record for record in records if record["image_id"] in listed]
        title += f", {len(records)} of {count} images" if len(records) < count else ""
    data = load_evaluation_data(
        dataset, files, [record["image_id"] for record in records], args.max_detections
    )
    if args.output is not None:
        output = Path(args.output)
    elif args.predictions is not None:
        output = files[0].parent / ANALYSIS_FOLDER
    else:
        output = folder / ANALYSIS_FOLDER
    return AnalysisInputs(title, tuple(files), data, records, output)


def _run(args: argparse.Namespace) -> tuple[DictConfig, Path, str]:
    """Returns the config, the directory of its run, and a title."""
    if args.run is not None:
        given = Path(args.run).expanduser()
        folder = given.parent if given.suffix == ".json" else given
        if not given.exists():
            raise ConfigError(f"--run {given} does not exist. Give the directory of a run.")
        file = folder / CONFIG_FILE
        if not file.is_file():
            raise ConfigError(
                f"{folder} is not the directory of a run: it has no {CONFIG_FILE}. Give the "
                "output directory of train_net.py, or --config-file FILE with --predictions FILE."
            )
        cfg = load_config(file, "paper", args.overrides, seed=args.seed)
        return cfg, folder, "/".join(folder.resolve().parts[-3:])
    cfg = load_config(args.config_file, args.profile, args.overrides, seed=args.seed)
    use_own_run(args, cfg)
    own = run_directory(args, cfg)
    return cfg, own, given_id(args) if cfg.train.output_dir else "/".join(own.parts[-3:])


def _dataset_name(cfg: DictConfig) -> str:
    names = cfg.dataloader.evaluator.get("dataset_name") or cfg.dataloader.test.dataset.names
    if not isinstance(names, str):
        raise ConfigError(
            f"The config tests on {list(names)}. Choose one data set: "
            f"dataloader.test.dataset.names={names[0]}."
        )
    return names


def _prediction_files(given: Sequence[str] | None, folder: Path, dataset: str) -> list[Path]:
    """Returns the result files, boxes first."""
    paths = [Path(p).expanduser() for p in given or [str(folder / "inference" / dataset)]]
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = [path / f"{task}_results.json" for task in TASKS]
            inside = [file for file in inside if file.is_file()] or [*path.glob(_WITH_IMAGES)]
            if not inside:
                raise DataError(
                    f"{path} holds no {', '.join(f'{task}_results.json' for task in TASKS)}. "
                    + _HOW_TO_EVALUATE
                )
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise DataError(f"There are no predictions in {path}. {_HOW_TO_EVALUATE}")
    return files


def _listed_images(files: Sequence[Path]) -> set[Any] | None:
    """Returns the ids of the predicted images, if the files list them; see `predict.py`."""
    for file in files:
        with open(file, "rb") as stream:
            if not stream.read(16).lstrip().startswith(b"{"):
                continue
        try:
            images = json.loads(file.read_text(encoding="utf-8"))["images"]
            return {image["id"] for image in images}
        except (ValueError, KeyError, TypeError):
            return None  # the error of reading the detections follows
    return None


_WITH_IMAGES = "predictions.json"

_HOW_TO_EVALUATE = (
    "Train the config or evaluate it with train_net.py --eval-only, which writes predictions, or "
    "give result files with --predictions FILE."
)
