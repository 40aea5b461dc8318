"""Labeled and generated images in one training set, mixed in a stated ratio (data distillation).

Shapes: L labeled images, G images with generated annotations, p the part of an epoch's draws that
are generated (Radosavovic et al. 2017 mix labeled and generated images in a fixed ratio, too).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mask_rcnn_repro.data.coco.fields import short
from mask_rcnn_repro.data.coco.load import load_coco_json
from mask_rcnn_repro.data.datasets import (
    dataset_info,
    dataset_keypoints,
    get_training_dicts,
    usable_images,
)
from mask_rcnn_repro.data.generated.annotations import GeneratedSource, generated_source
from mask_rcnn_repro.data.registration import coco_parts, register_all_datasets
from mask_rcnn_repro.errors import ConfigError, DataError

_logger = logging.getLogger(__name__)

GENERATED = "generated"
"""Key that the dicts of images with generated annotations have, with the value True."""


def get_mixed_dicts(
    names: str | Sequence[str],
    generated: str | None = None,
    generated_images: str | None = None,
    generated_part: float = 0.4,
    seed: int = 0,
    json: str | None = None,
    image_root: str | None = None,
    filter_empty: bool = True,
    min_keypoints: int = 0,
    flip_pairs: Sequence[Sequence[str]] | None = None,
    teacher: str | None = None,
    unlabeled: str | None = None,
    image_bits: int | None = None,
) -> list[dict[str, Any]]:
    """Reads labeled data and generated annotations for training, mixed in a stated ratio.

    The list is one epoch: every image is in it at least once, those of the set that would be too
    few for the ratio several times (:func:`mixed_indices`). Since an epoch is shuffled as a whole,
    an iteration has the ratio on average.

    Args:
        names: Labeled data sets. This argument, `json`, `image_root` and `flip_pairs` are as in
            :func:`get_training_dicts`.
        generated: File that ``tools/distill.py`` wrote; any annotations in COCO format will do.
            ``train_net.py`` fills in the teacher's where it is None.
        generated_images: Folder of its images; None takes those that the file's "info" names.
        generated_part: P, the part of the images of an epoch that are generated.
        seed: Decides which images come once more than others.
        json: Labeled data of the user.
        image_root: Its images.
        filter_empty: As for :func:`get_training_dicts`, of either set; likewise `min_keypoints`.
        min_keypoints: See `filter_empty`.
        flip_pairs: See `names`.
        teacher: Config whose model generates the annotations for ``train_net.py`` unless a file
            is given: of the same labeled data, in the same profile. Here it is in messages alone.
        unlabeled: Registered name of the images that it annotates; None takes those that belong to
            the labeled data. Here in messages alone.
        image_bits: See :func:`get_training_dicts`; generated images have the labeled ones' bits.

    Returns:
        Dicts in Detectron2's format, labeled ones first; generated ones have ``generated=True``.
        Images that come several times are the same object.

    Raises:
        ConfigError: A part that is not between 0 and 1, no `generated`, images whose folder is
            not known; or as :func:`get_training_dicts`.
        DataError: Generated annotations that are missing or broken, or have other classes or other
            keypoints than the labeled ones; a set of which no image is left.
    """
    check_mixture(generated, generated_part, teacher)
    file = _existing(generated, teacher, unlabeled)
    source = generated_source(file)
    root = image_root_of(source, generated_images)
    data = load_coco_json(file, root)
    categories, classes = data.categories, dataset_info(names, json, image_root)
    made_classes = categories.names if categories is not None else ()
    if classes is not None and list(made_classes) != classes:
        raise _other_labels("classes", made_classes, classes, file, names)
    known = dataset_keypoints(names, json, image_root, flip_pairs=flip_pairs)
    made_keypoints = categories.keypoint_names if categories is not None else ()
    if made_keypoints and known is not None and made_keypoints != known.names:
        raise _other_labels("keypoints", made_keypoints, known.names, file, names)
    labeled = get_training_dicts(
        names, json, image_root, filter_empty, min_keypoints, flip_pairs, image_bits
    )
    usable = usable_images(data.dicts, filter_empty, min_keypoints)
    if not usable:
        wanted = f" with at least {min_keypoints} keypoints" if min_keypoints else ""
        raise DataError(
            f"Of {len(data.dicts)} images in {file} none has a generated instance{wanted}. "
            "Generate them with a better trained model or a lower score threshold "
            "(tools/distill.py --instances-per-image)."
        )
    bits = {key: value for key, value in labeled[0].items() if key == "image_bits"}
    made = [{**record, **bits, GENERATED: True} for record in usable]
    first, second = mixed_indices(len(labeled), len(made), generated_part, seed)
    _logger.info(
        "An epoch: %d labeled images (%d draws) and %d generated ones (%d draws), %.1f %% "
        "generated",
        *(len(labeled), len(first), len(made), len(second)),
        100 * len(second) / (len(first) + len(second)),
    )
    return [labeled[i] for i in first] + [made[i] for i in second]


def mixed_indices(
    labeled: int, generated: int, part: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Chooses the images of an epoch: as few as the ratio allows, every image at least once.

    Of one set every image comes once. The other, which would be too few, is repeated: each image
    comes k or k + 1 times, and the seed decides which ones come once more.

    Args:
        labeled: L, at least 1.
        generated: G, at least 1.
        part: P, between 0 and 1.
        seed: Seed of the choice.

    Returns:
        Ascending indices of labeled and of generated images, int64; the second are the part p of
        both, up to rounding to whole images.
    """
    # as many of each as there are, or as the other's number asks for
    draws = max(labeled, round(generated * (1 - part) / part))
    made = max(generated, round(labeled * part / (1 - part)))
    return _repeated(labeled, draws, seed), _repeated(generated, made, seed)


def _repeated(count: int, size: int, seed: int) -> np.ndarray:
    whole, rest = divmod(size, count)
    # RandomState's stream is frozen across numpy versions, Generator's is not
    more = np.random.RandomState(seed).permutation(count)[:rest]
    times = np.full(count, whole)
    times[more] += 1
    return np.repeat(np.arange(count, dtype=np.int64), times)


def check_mixture(generated: str | None, generated_part: float, teacher: str | None = None) -> None:
    """Checks what can be checked before anything is read, generated or trained.

    Args:
        generated: See :func:`get_mixed_dicts`.
        generated_part: See :func:`get_mixed_dicts`.
        teacher: See :func:`get_mixed_dicts`. It stands for a file that is yet to be generated.

    Raises:
        ConfigError: A part that is not between 0 and 1; neither a file nor a teacher.
        DataError: A file that does not exist.
    """
    if not 0 < generated_part < 1:
        raise ConfigError(
            f"dataset.generated_part is {generated_part}, but must lie between 0 and 1 (0.4: four "
            "images of ten are generated). To train on one set alone use get_training_dicts."
        )
    if generated is not None or teacher is None:
        _existing(generated, teacher, None)


def _existing(generated: str | None, teacher: str | None, unlabeled: str | None) -> str:
    command = f"python tools/distill.py --config-file {teacher or '<config of a trained model>'}"
    if unlabeled:
        command += f" --unlabeled {unlabeled}"
    profile = "(with --profile, if this run has one)"
    if generated is None and teacher is None:
        raise ConfigError(
            "dataset.generated and dataset.teacher are null, but generated annotations are to be "
            "trained on: name the config of the model that shall generate them in "
            f"dataset.teacher, or give the file that\n  {command}\nwrites {profile} in "
            "dataset.generated."
        )
    if generated is None:
        raise ConfigError(
            f"dataset.generated is null. train_net.py has {teacher} generate what is missing; "
            f"elsewhere give the file that\n  {command}\nwrites {profile}."
        )
    if not Path(generated).is_file():
        raise DataError(
            f"The generated annotations {generated} do not exist. Make them with\n  {command}\n"
            f"{profile}, or give their file in dataset.generated."
        )
    return generated


def image_root_of(source: GeneratedSource, given: str | None) -> str:
    """Returns the folder of the images of generated annotations.

    Args:
        source: What their "info" says.
        given: Directory in the config, which takes precedence.

    Raises:
        ConfigError: Neither says it.
        DataError: The data set that "info" names is not there.
    """
    if given is not None:
        return given
    if source.image_root is not None:
        return source.image_root
    if source.name is None:
        raise ConfigError(
            "The generated annotations do not say which images they are for. Give the folder of "
            "their images in dataset.generated_images."
        )
    register_all_datasets()
    parts = coco_parts(source.name)
    if parts is None or len(parts) != 1:
        raise ConfigError(
            f"The generated annotations are for the images of {source.name!r}, which do not lie in "
            "one folder known here. Give dataset.generated_images."
        )
    return parts[0].image_root


def _other_labels(
    what: str, made: Sequence[str], labeled: Sequence[str], file: str, names: str | Sequence[str]
) -> DataError:
    return DataError(
        f"The generated annotations {file} have {len(made)} {what} ({short(list(made))}), but the "
        f"labeled data {names} has {len(labeled)} ({short(list(labeled))}). They must be the same "
        "in the same order: generate them with a model that was trained on this labeled data."
    )
