"""Images for the comparison of an exported file with its model."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.data.transforms import AugInput, AugmentationList
from omegaconf import DictConfig

from mask_rcnn_embedded.quickstart import FULL_SPEC
from mask_rcnn_embedded.quickstart.scene import render
from mask_rcnn_repro.data.loading.images import read_image
from mask_rcnn_repro.errors import DataError


def comparison_images(
    cfg: DictConfig, files: Sequence[str], *, count: int, channels: str, smallest: int = 1
) -> tuple[list[torch.Tensor], str]:
    """Loads images of different sizes as the network receives them.

    Args:
        cfg: Config, whose test transforms are applied.
        files: Image files; empty takes the first test images, or generated ones if those are
            missing.
        count: Number of test images.
        channels: "BGR" or "RGB".
        smallest: Minimum side in pixels; smaller images are enlarged.

    Returns:
        (3, H, W) uint8 images: the given ones, a part of the first with odd sides, and the first
        nearly gray, for few detections. And a description.

    Raises:
        DataError: A given file cannot be read.
    """
    transforms = AugmentationList(instantiate(cfg.dataloader.test.mapper.augmentations) or [])
    images, source = _images(cfg, files, count, channels)
    frames = []
    for image in images:
        item = AugInput(image)
        transforms(item)
        frames.append(_planes(item.image))
    height, width = (side * 2 // 3 | 1 for side in frames[0].shape[1:])
    frames.append(frames[0][:, :height, :width].contiguous())
    frames.append((frames[0].float() / 32 + 120).to(torch.uint8))
    frames = [_enlarged(frame, smallest) for frame in frames]
    return frames, f"{source}, a part of the first, and the first nearly grey"


def _images(
    cfg: DictConfig, files: Sequence[str], count: int, channels: str
) -> tuple[list[np.ndarray], str]:
    missing = [file for file in files if not os.path.isfile(file)]
    if missing:
        raise DataError(f"--images: there is no file {', '.join(missing)}.")
    if files:
        bits = cfg.dataloader.test.dataset.get("image_bits")
        given = [read_image({"file_name": f, "image_bits": bits}, channels) for f in files]
        return given, f"{len(files)} given images"
    try:
        dataset = instantiate(cfg.dataloader.test.dataset)
        found = [read_image(item, channels) for item in itertools.islice(dataset, count)]
        return found, f"{len(found)} images of {cfg.dataloader.test.dataset.names}"
    except DataError:  # the data may be missing where a model is exported
        return list(_generated(count, channels)), f"{count} generated images"


def _generated(count: int, channels: str) -> Iterator[np.ndarray]:
    for index in range(count):
        scene, _ = render(FULL_SPEC, "val", index)
        yield scene.image if channels == "BGR" else scene.image[:, :, ::-1]


def _planes(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def _enlarged(frame: torch.Tensor, smallest: int) -> torch.Tensor:
    times = -(-smallest // min(frame.shape[1:]))
    return frame.repeat_interleave(times, dim=1).repeat_interleave(times, dim=2)
