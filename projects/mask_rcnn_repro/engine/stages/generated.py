"""Find the generated annotations that a run is trained on, or have its teacher make them.

A config names its teacher in `dataset.teacher`. The teacher is a config with a run of its own, like
an RPN stage. Its annotations lie in `<run of the teacher>/distilled/<unlabeled images>`, where
`tools/distill.py` writes them, too. All runs that name the teacher share them.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mask_rcnn_repro.config import config_hash
from mask_rcnn_repro.data import dataset_fingerprint, get_test_dicts, get_training_dicts
from mask_rcnn_repro.data.generated.annotations import (
    DISTILLED_FOLDER,
    GENERATED_FILE,
    distillation_info,
    generated_facts,
    generated_source,
)
from mask_rcnn_repro.engine.dependencies import (
    DataSet,
    data_sets,
    dependency,
    teacher_of,
    unlabeled_of,
)
from mask_rcnn_repro.engine.extensions import Extensions
from mask_rcnn_repro.engine.run import Run
from mask_rcnn_repro.engine.run_folder import setup_logging
from mask_rcnn_repro.errors import ConfigError, DataError
from mask_rcnn_repro.utils.locks import exclusive

logger = logging.getLogger(__name__)


def generated_file(run: Run, teacher: Run | None) -> Path | None:
    """Returns the path of the generated annotations of a run, or None if it uses none."""
    if teacher is None:
        given = run.cfg.dataloader.train.dataset.get("generated")
        return Path(given) if given is not None else None
    return teacher.folder / DISTILLED_FOLDER / unlabeled_of(run.cfg).name / GENERATED_FILE


def find_teacher(run: Run, chain: tuple[str, ...]) -> Run | None:
    """Returns the run of the teacher of `run`, trained or not, or None if it has no teacher.

    `chain` and errors are those of :func:`~mask_rcnn_repro.engine.dependencies.dependency`.
    """
    path = teacher_of(run.cfg)
    return None if path is None else dependency(run, path, chain)


def outlived(run: Run, teacher: Run) -> bool:
    """Returns whether the annotations exist but not the teacher's weights: it is not trained again.

    Raises:
        DataError: They are of another config or of other images.
    """
    file = generated_file(run, teacher)
    if file is None or not file.is_file() or teacher.checkpoint.is_file():
        return False
    info, unlabeled = distillation_info(file), unlabeled_of(run.cfg)
    made_by, now = info.get("config_hash"), config_hash(teacher.cfg)
    images = (info.get("unlabeled") or {}).get("sha256")
    if made_by != now or images != dataset_fingerprint(unlabeled.name)["sha256"]:
        raise DataError(
            f"The generated annotations {file} are stale: {teacher.config_id} (its hash was "
            f"{made_by} and is {now}) or the images of {unlabeled.name} have changed since. Delete "
            f"the folder {file.parent} to have them made again."
        )
    return True


def generate(run: Run, teacher: Run, extensions: Extensions) -> Path:
    """Annotates the unlabeled images of a run with its trained teacher.

    Predictions that exist are not made again. All processes of a run call it together.

    Args:
        run: The run that will be trained on the annotations.
        teacher: The finished run of its teacher.
        extensions: Provides the annotation, and raises its errors.

    Returns:
        The file of annotations.

    Raises:
        ConfigError: `extensions` has no annotation.
    """
    if extensions.annotate is None:
        raise ConfigError(
            f"{run.config_id} names a teacher, {teacher.config_id}, but nothing here can annotate "
            "images with it. Start the run with train_net.py, or pass Extensions(annotate=...)."
        )
    unlabeled = unlabeled_of(run.cfg)
    folder = teacher.folder / DISTILLED_FOLDER / unlabeled.name
    purpose = f"the generated annotations of {run.config_id}"
    setup_logging(run.folder)  # the teacher has logged into its own
    if not (folder / GENERATED_FILE).is_file():
        logger.info("Missing: %s. %s makes them in %s.", purpose, teacher.config_id, folder)
    with exclusive(folder, purpose=purpose, wait=True):
        setup_logging(folder)
        return extensions.annotate(teacher, folder, unlabeled)


def generated_images(file: Path) -> DataSet:
    """Returns the images of generated annotations. Stage-wise training needs their proposals.

    Raises:
        DataError: The file does not name their data set.
    """
    source = generated_source(file)
    if source.name is None:
        raise DataError(
            f"The generated annotations {file} do not name the data set of their images, which "
            "stored proposals need. Make them with tools/distill.py, or train jointly with "
            "train.proposals=null."
        )
    return DataSet(source.name, source.json, source.image_root, unlabeled=True)


def check_ids(cfg: DictConfig) -> None:
    """Checks that labeled and unlabeled images share no ids, by which stored proposals are found.

    Raises:
        DataError: They share ids.
    """
    if not cfg.train.proposals:
        return
    labeled, unlabeled = data_sets(cfg, "train"), unlabeled_of(cfg)
    names = [data.name for data in labeled]
    first = labeled[0]
    known = get_training_dicts(names, first.json, first.image_root, filter_empty=False)
    both = (known, get_test_dicts(unlabeled.name))
    shared = set.intersection(*({str(d["image_id"]) for d in dicts} for dicts in both))
    if shared:
        raise DataError(
            f"{len(shared)} images of {unlabeled.name} share their id with an image of the "
            f"labeled data {', '.join(names)} (such as {min(shared)}), but stored proposals are "
            "found by image id. Change the ids of the unlabeled images, or train jointly with "
            "train.proposals=null."
        )


def facts_of(file: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Returns facts for the record about generated annotations and, if known, their teacher."""
    info = distillation_info(file)
    keys = {"id": "config", "hash": "config_hash", "seed": "seed"}
    teacher = {field: info.get(key) for field, key in keys.items()}
    known = all(value is not None for value in teacher.values())
    teacher["checkpoint"] = info.get("checkpoint_sha256")
    return generated_facts(file), teacher if known else None
