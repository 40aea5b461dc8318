"""Samples of a loader with marks for targets and notes about transforms and omissions.

Shapes: C channels, (H, W) size of the network input, N instances.
"""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from detectron2.structures import BitMasks
from omegaconf import DictConfig, OmegaConf

from mask_rcnn_repro.config.targets import locate_target
from mask_rcnn_repro.data.loading.images import read_image
from mask_rcnn_repro.engine.dependencies import data_sets
from mask_rcnn_repro.errors import ConfigError, DataError
from mask_rcnn_tools.drawing.colors import GREY, WHITE
from mask_rcnn_tools.drawing.marks import Mark, Skeleton
from mask_rcnn_tools.drawing.results import ClassNames, ColorBy, annotation_mark, annotation_marks
from mask_rcnn_tools.visualize_data.transforms import (
    ANNOTATIONS,
    TRANSFORMS,
    RecordingMapper,
    transform_annotation,
    transform_words,
)

_EPOCHS_SEARCHED = 2


@dataclass(frozen=True)
class Sample:
    """An image with marks and notes.

    Attributes:
        image: (H, W, 3) uint8 RGB after augmentation.
        marks: Marks in its frame.
        image_id: Id in the data set.
        title: Source: split, iteration, id, file.
        notes: Sizes, augmentation, omitted annotations.
        skeleton: Connections of keypoints.
        error: Why the image cannot be read; the sample is empty then.
    """

    image: np.ndarray
    marks: list[Mark]
    image_id: int | str
    title: str
    notes: list[str]
    skeleton: Skeleton
    error: DataError | None = None


@dataclass(frozen=True)
class SampleSelection:
    """Selection of samples.

    Attributes:
        count: Number of samples if there are no `image_ids`.
        image_ids: Ids of images, one sample each; empty: any images.
        seed: Seed of the training run, or of the choice of test images.
        iteration: First iteration of training images.
        proposals: Number of proposals to draw per image.
        color_by: See :meth:`ClassNames.color`.
    """

    count: int = 12
    image_ids: tuple[str, ...] = ()
    seed: int = 0
    iteration: int = 0
    proposals: int = 0
    color_by: ColorBy = "auto"


def train_samples(cfg: DictConfig, selection: SampleSelection) -> Iterator[Sample]:
    """Yields the images of a training in its order, with its augmentations.

    Raises:
        ConfigError: The type of the loader or mapper is not supported.
    """
    options = {
        "seed": selection.seed,
        "accumulate": cfg.train.accumulate,
        "start_iteration": selection.iteration,
        "num_workers": 0,
    }
    loader, records = _loader(cfg, "train", selection, options)
    indices = _indices(records, selection.image_ids)
    builder = _SampleBuilder(cfg, "train", selection)
    each = cfg.train.accumulate
    limit = _EPOCHS_SEARCHED * len(records)
    seen, given = 0, 0
    for number, batch in enumerate(loader.batch_sampler):
        iteration = selection.iteration + number // each
        for place, draw in enumerate(batch):
            if indices is None or draw[0] in indices:
                if indices is not None:
                    indices.discard(draw[0])
                part = place + (number % each) * len(batch)
                where = f"train, iteration {iteration}, image {part + 1}"
                make = functools.partial(builder.load, loader, draw, where)
                yield _attempt(make, records[draw[0]], where)
                given += 1
            if indices == set() or (indices is None and given == selection.count):
                return
        seen += len(batch)
        if seen > limit and indices is not None:
            return


def test_samples(cfg: DictConfig, selection: SampleSelection) -> Iterator[Sample]:
    """Yields test images as the model receives them, with their annotations.

    Raises:
        ConfigError: The type of the loader or mapper is not supported.
    """
    loader, records = _loader(cfg, "test", selection, {"num_workers": 0})
    builder = _SampleBuilder(cfg, "test", selection)
    for index in _chosen(records, selection):
        where = f"test, image {index + 1} of {len(records)}"
        make = functools.partial(builder.load, loader, index, where)
        yield _attempt(make, records[index], where)


def annotation_samples(cfg: DictConfig, split: str, selection: SampleSelection) -> Iterator[Sample]:
    """Yields images and annotations as they are on disk.

    Args:
        cfg: Validated config.
        split: "train" or "test".
        selection: Selection of samples.
    """
    records = instantiate(cfg.dataloader[split].dataset)
    metadata = MetadataCatalog.get(data_sets(cfg, split)[0].name)
    classes, skeleton = ClassNames.of(metadata), Skeleton.of(metadata)
    for index in _chosen(records, selection):
        where = f"annotations ({split})"
        make = functools.partial(
            _annotated, records[index], where, classes, skeleton, selection.color_by
        )
        yield _attempt(make, records[index], where)


def _annotated(
    record: Mapping[str, Any], where: str, classes: ClassNames, skeleton: Skeleton, by: ColorBy
) -> Sample:
    image = read_image(record, "RGB")
    annotations = record.get("annotations", [])
    crowd = sum(bool(a.get("iscrowd", 0)) for a in annotations)
    notes = [f"{image.shape[1]} x {image.shape[0]}; {_instances(len(annotations) - crowd)}"]
    notes[0] += f", {crowd} crowd" if crowd else ""
    marks = annotation_marks(annotations, classes, image.shape[:2], by)
    title = f"{where}, {_which(record)}"
    return Sample(image, marks, record["image_id"], title, notes, skeleton)


def _attempt(make: Callable[[], Sample], record: Mapping[str, Any], where: str) -> Sample:
    """Returns a sample, or an empty one with the error of an image that cannot be read."""
    try:
        return make()
    except DataError as error:
        title, notes = f"{where}, {_which(record)}", [f"cannot be read: {error}"]
        blank = np.full((240, 320, 3), 200, np.uint8)
        return Sample(blank, [], record["image_id"], title, notes, Skeleton(), error)


def rgb_image(image: torch.Tensor, image_format: str, cfg: DictConfig) -> np.ndarray:
    """Converts a network input to an RGB image.

    Args:
        image: (C, H, W). A floating-point image with negative values or none above 8 counts as
            normalized by `model.pixel_mean` and `model.pixel_std`, which is reverted.
        image_format: "BGR" or "RGB".
        cfg: Config with mean and standard deviation.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    pixels = image.detach().cpu()
    if pixels.is_floating_point() and (pixels.min() < 0 or pixels.max() <= 8):
        mean, std = (
            torch.tensor(list(cfg.model[key]), dtype=pixels.dtype)[:, None, None]
            for key in ("pixel_mean", "pixel_std")
        )
        pixels = pixels * std + mean
    if pixels.is_floating_point():
        pixels = pixels.round().clamp(0, 255)
    rgb = pixels.to(torch.uint8).permute(1, 2, 0).numpy()
    return np.ascontiguousarray(rgb[:, :, ::-1] if image_format == "BGR" else rgb)


def _loader(
    cfg: DictConfig, split: str, selection: SampleSelection, options: Mapping[str, Any]
) -> tuple[Any, Sequence[Mapping[str, Any]]]:
    """Builds the config's loader in this process with a mapper that records transforms."""
    node = copy.deepcopy(cfg.dataloader[split])
    if not selection.proposals:
        for key in ("precomputed_proposal_topk", "proposal_files"):
            if node.mapper.get(key) is not None:
                node.mapper[key] = None
    records = instantiate(node.dataset)
    arguments = {
        key: instantiate(value) if OmegaConf.is_config(value) else value
        for key, value in node.items()
        if key not in ("_target_", "dataset", "mapper")
    }
    target = node._target_
    build = locate_target(target) if isinstance(target, str) else target
    mapper = RecordingMapper(instantiate(node.mapper))
    loader = build(dataset=records, mapper=mapper, **{**arguments, **options})
    if split == "train" and getattr(loader, "batch_sampler", None) is None:
        raise ConfigError(
            f"dataloader.train builds a {type(loader).__name__}, whose order of images is "
            "unknown. Use build_train_loader, or --source annotations."
        )
    return loader, records


def _item(loader: Any, key: Any) -> dict[str, Any]:
    item = loader.dataset[key]
    if isinstance(item, Exception):
        raise item
    mapped: dict[str, Any] = item
    return mapped


def _indices(records: Sequence[Mapping[str, Any]], image_ids: Sequence[str]) -> set[int] | None:
    """Returns indices of images in the data; None: any."""
    if not image_ids:
        return None
    places = {str(record["image_id"]): index for index, record in enumerate(records)}
    if unknown := [identity for identity in image_ids if identity not in places]:
        some = ", ".join(list(places)[:5])
        raise DataError(
            f"There is no image with the id {', '.join(unknown)} among the {len(records)} images "
            f"(such as {some}). Test images have other ids than training images (--source train, "
            "test; --split), and training omits images without annotations "
            "(dataset.filter_empty, dataset.min_keypoints)."
        )
    return {places[identity] for identity in image_ids}


def _chosen(records: Sequence[Mapping[str, Any]], selection: SampleSelection) -> list[int]:
    """Returns ascending indices of the selected images, or indices in the order of the ids."""
    if selection.image_ids:
        return [next(iter(_indices(records, [i]) or ())) for i in selection.image_ids]
    # RandomState's stream is frozen across numpy versions, Generator's is not
    order = np.random.RandomState(selection.seed).permutation(len(records))
    return sorted(int(index) for index in order[: selection.count])


def _which(record: Mapping[str, Any]) -> str:
    return f"id {record['image_id']}, {os.path.basename(record['file_name'])}"


def _instances(count: int) -> str:
    return f"{count} instance{'' if count == 1 else 's'}"


class _SampleBuilder:
    """Converts mapped images to samples."""

    def __init__(self, cfg: DictConfig, split: str, selection: SampleSelection) -> None:
        self._cfg, self._wanted = cfg, selection
        mapper = cfg.dataloader[split].mapper
        self._format = str(mapper.get("image_format", "BGR"))
        self._masks = bool(mapper.get("use_instance_mask", False))
        metadata = MetadataCatalog.get(data_sets(cfg, split)[0].name)
        self._classes, self._skeleton = ClassNames.of(metadata), Skeleton.of(metadata)

    def load(self, loader: Any, key: Any, where: str) -> Sample:
        return self.sample(_item(loader, key), where)

    def sample(self, mapped: Mapping[str, Any], where: str) -> Sample:
        image = rgb_image(mapped["image"], self._format, self._cfg)
        height, width = image.shape[:2]
        old = mapped.get("height", height), mapped.get("width", width)
        done = transform_words(mapped[TRANSFORMS])
        notes = [f"{old[1]} x {old[0]} -> {width} x {height}: {', '.join(done) or 'as it is'}"]
        marks, about = self._targets(mapped, (height, width))
        if mapped.get("generated"):
            about += ", generated annotations"
        notes.append(about)
        if "proposals" in mapped and self._wanted.proposals:
            count = min(self._wanted.proposals, len(mapped["proposals"]))
            notes.append(f"the best {count} of {len(mapped['proposals'])} proposals in white")
            marks = [*marks, *_proposals(mapped["proposals"][:count])]
        title = f"{where}, {_which(mapped)}"
        return Sample(image, marks, mapped["image_id"], title, notes, self._skeleton)

    def _targets(self, mapped: Mapping[str, Any], size: tuple[int, int]) -> tuple[list[Mark], str]:
        """Returns marks of training targets and omitted annotations, and a note."""
        annotations, by = mapped[ANNOTATIONS], self._wanted.color_by
        if "instances" not in mapped:
            moved = [transform_annotation(a, mapped[TRANSFORMS], size) for a in annotations]
            marks = annotation_marks(moved, self._classes, size, by)
            return (
                marks,
                f"{_instances(len(annotations))} (annotations: the model does not get them)",
            )
        instances = mapped["instances"]
        marks = _instance_marks(instances, self._classes, by)
        crowd = [a for a in annotations if a.get("iscrowd", 0)]
        others = [a for a in annotations if not a.get("iscrowd", 0)]
        maskless = [a for a in others if self._masks and not a.get("segmentation")]
        about = _instances(len(instances))
        for group, kind, what in (
            (crowd, "crowd", "crowd: not trained on"),
            (maskless, "ignored", "no mask: not trained on"),
        ):
            for annotation in group:
                seen = transform_annotation(annotation, mapped[TRANSFORMS], size)
                name = f"{self._classes.name(int(annotation['category_id']))} {kind}"
                marks.append(annotation_mark(seen, GREY, name, size, kind))  # type: ignore[arg-type]
            about += f", {len(group)} {what}" if group else ""
        lost = len(others) - len(maskless) - len(instances)
        about += f", {lost} without area after augmentation" if lost > 0 else ""
        return marks, about


def _instance_marks(instances: Any, classes: ClassNames, by: ColorBy) -> list[Mark]:
    """Converts training targets to marks."""
    boxes = instances.gt_boxes.tensor.tolist()
    masks: list[Any] = [None] * len(boxes)
    if instances.has("gt_masks"):
        stored = instances.gt_masks
        if isinstance(stored, BitMasks):
            masks = list(stored.tensor.numpy().astype(bool))
        else:
            masks = [[np.asarray(p, dtype=np.float64) for p in one] for one in stored.polygons]
    points: list[Any] = [None] * len(boxes)
    if instances.has("gt_keypoints"):
        points = list(instances.gt_keypoints.tensor.double().numpy())
    indices = instances.gt_classes.tolist()
    return [
        Mark(classes.color(index, number, by), tuple(box), mask, keypoints, classes.name(index))
        for number, (index, box, mask, keypoints) in enumerate(
            zip(indices, boxes, masks, points, strict=True)
        )
    ]


def _proposals(proposals: Any) -> list[Mark]:
    boxes = proposals.proposal_boxes.tensor.tolist()
    return [Mark(WHITE, tuple(box), kind="proposal") for box in boxes]
