"""A trained model that maps images to what it finds in them.

Shapes: (H, W) size of an image in pixels.
"""

from __future__ import annotations

import argparse
import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetMapper, MetadataCatalog
from detectron2.structures import BoxMode
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from mask_rcnn_repro.config import load_config
from mask_rcnn_repro.config.config_files import CONFIG_FILE
from mask_rcnn_repro.config.from_data import fit_to_data
from mask_rcnn_repro.data import dataset_info
from mask_rcnn_repro.data.loading.loader import seeded
from mask_rcnn_repro.data.loading.mapper import ImageInput
from mask_rcnn_repro.engine.builders import resolve_device
from mask_rcnn_repro.engine.dependencies import data_sets
from mask_rcnn_repro.engine.evaluate import faster_copy
from mask_rcnn_repro.engine.predictor import build_predictor
from mask_rcnn_repro.engine.tta import with_original_images, with_tta
from mask_rcnn_repro.errors import CheckpointError, ConfigError, DataError
from mask_rcnn_repro.evaluation.loop import predict_small
from mask_rcnn_repro.evaluation.masks.rle import instances_to_results
from mask_rcnn_repro.registration import register
from mask_rcnn_repro.utils.precision import autocast_context
from mask_rcnn_tools.common.trained_run import (
    note_other_config,
    use_own_run,
    warn_if_incomplete,
    weights_of,
)
from mask_rcnn_tools.drawing.marks import Skeleton
from mask_rcnn_tools.drawing.results import ClassNames
from mask_rcnn_tools.predict.prediction import Prediction, Results, read_picture

PROPOSALS = ClassNames(("object",), (1,))
"""Class of the proposals of an RPN stage."""


@dataclass(frozen=True)
class Picture:
    """An image to predict on; see :meth:`Predictor.prepare`.

    Attributes:
        pixels: (H, W, 3) uint8 in the channel order of :attr:`Predictor.image_format`.
        image_id: Copied into the results.
        inputs: Input of the model.
    """

    pixels: np.ndarray
    image_id: int | str
    inputs: dict[str, Any]


class Predictor:
    """Predicts with the same numbers as an evaluation of the same config::

        predictor = Predictor.from_run("output/quickstart/mask_rcnn_r18_fpn/seed0")
        found = predictor("photo.jpg")
        found.boxes, found.scores, found.classes, found.masks

    A model that was trained on stored proposals is joined with its RPN. Its proposals equal the
    stored ones up to rounding, and so do the detections.

    Args:
        config: Validated config, or a path or id as in `--config-file`. Its test transforms,
            `train.amp` and `train.optimize_inference` apply. Its test data set gives the names and
            ids of classes.
        checkpoint: Weights.
        rpn_checkpoint: See :func:`~mask_rcnn_repro.build_predictor`.
        device: Device of the model; None takes `train.device`.
        profile: With a path or id: scale of the config.
        overrides: With a path or id: overrides, such as ``["train.tta.enabled=true"]``.

    Attributes:
        classes: Names and category ids; :data:`PROPOSALS` for an RPN stage.
        skeleton: Connections of keypoints.
        is_rpn: Whether the model is an RPN stage.
        keypoints: Whether the model predicts keypoints.
        image_format: Channel order of images, "BGR" or "RGB".
        image_bits: Bits that 16-bit images are scaled from; None: 16.

    Raises:
        CheckpointError: Weights are missing or do not fit the model.
        DataError: The annotation file of the test data, given by `json`, is missing.
        ConfigError: The transforms cannot be applied, test-time augmentation is set for an RPN
            stage, or the model has more classes than its test data.
    """

    def __init__(
        self,
        config: DictConfig | str | os.PathLike[str],
        checkpoint: str | os.PathLike[str],
        *,
        rpn_checkpoint: str | os.PathLike[str] | None = None,
        device: torch.device | str | None = None,
        profile: str = "paper",
        overrides: Sequence[str] = (),
    ) -> None:
        register()
        if isinstance(config, DictConfig):
            cfg = config
        else:
            cfg = fit_to_data(load_config(config, profile, overrides), overrides)
        for data in data_sets(cfg, "test"):  # own data is registered by its keys
            dataset_info(data.name, data.json, data.image_root)
        note_other_config(checkpoint, cfg)
        if not isinstance(device, torch.device):
            device = resolve_device(cfg.train.device if device is None else device)
        self.device = device
        self.is_rpn = OmegaConf.select(cfg, "model.roi_heads") is None
        self.keypoints = OmegaConf.select(cfg, "model.roi_heads.keypoint_head") is not None
        tta = cfg.train.tta.enabled
        if tta and self.is_rpn:
            raise ConfigError(
                "This is an RPN stage, without detections that test-time augmentation could merge. "
                "Omit --tta and train.tta.enabled=true."
            )
        self.metadata = MetadataCatalog.get(data_sets(cfg, "test")[0].name)
        self.classes = PROPOSALS if self.is_rpn else _classes(cfg, self.metadata)
        self.skeleton = Skeleton.of(self.metadata)
        self.mapper = _mapper(cfg, original=tta)
        self.image_format: str = self.mapper.image_format
        self.image_bits: int | None = cfg.dataloader.test.dataset.get("image_bits")
        self._amp = cfg.train.amp
        model = build_predictor(cfg, checkpoint, rpn_checkpoint, self.device)
        if tta:
            model = with_tta(cfg, model)
        if cfg.train.optimize_inference:
            model = faster_copy(cfg, model)
        self.model = model.eval()

    @classmethod
    def from_run(
        cls,
        folder: str | os.PathLike[str],
        *,
        rpn_checkpoint: str | os.PathLike[str] | None = None,
        device: torch.device | str | None = None,
        overrides: Sequence[str] = (),
    ) -> Predictor:
        """Takes config and last checkpoint from the directory of a run.

        Args:
            folder: Output directory of `train_net.py`, which holds `config.yaml`.
            rpn_checkpoint: See :class:`Predictor`. By default the RPN's own run below the same
                output directory.
            device: See :class:`Predictor`.
            overrides: See :class:`Predictor`.

        Raises:
            CheckpointError: The run has no checkpoint.
            ConfigError: It is not the directory of a run.
        """
        if not Path(folder, CONFIG_FILE).is_file():
            raise ConfigError(
                f"{os.fspath(folder)} is not the directory of a run: it has no {CONFIG_FILE}. Give "
                "the output directory of train_net.py, or use Predictor(config, checkpoint)."
            )
        register()
        cfg = load_config(folder, overrides=overrides)
        args = argparse.Namespace(config_file=folder, overrides=list(overrides))
        use_own_run(args, cfg)
        checkpoint = weights_of(Path(folder))
        if checkpoint is None:
            raise CheckpointError(
                f"There is no checkpoint in {os.fspath(folder)}. Train the run, or use "
                "Predictor(config, checkpoint)."
            )
        warn_if_incomplete(checkpoint)
        return cls(cfg, checkpoint, rpn_checkpoint=rpn_checkpoint, device=device)

    @overload
    def __call__(
        self, images: list[Any] | tuple[Any, ...], *, channels: str = ..., batch_size: int = ...
    ) -> list[Prediction]: ...

    @overload
    def __call__(
        self,
        images: str | os.PathLike[str] | Image.Image | np.ndarray,
        *,
        channels: str = ...,
        batch_size: int = ...,
    ) -> Prediction: ...

    def __call__(
        self, images: Any, *, channels: str = "BGR", batch_size: int = 8
    ) -> Prediction | list[Prediction]:
        """Finds objects in an image or in several ones.

        Args:
            images: A path, a PIL image, or an array (H, W, 3) or (H, W) of uint8; or a list of
                these, of any sizes. They are resized as for testing.
            channels: Order of arrays of three channels: "BGR" (OpenCV's) or "RGB".
            batch_size: Images that go through the model together.

        Returns:
            What was found, or a list with one entry per image. Objects with a score below
            `model.roi_heads.box_predictor.test_score_thresh` are not returned.

        Raises:
            DataError: An image cannot be read or used.
        """
        several = isinstance(images, list | tuple)
        given = list(images) if several else [images]
        found: list[Prediction] = []
        for start in range(0, len(given), batch_size):
            pictures = []
            for number, image in enumerate(given[start : start + batch_size], start):
                pixels = read_picture(image, self.image_format, channels, self.image_bits)
                pictures.append(self.prepare(pixels, number, number))
            for picture, results in zip(pictures, self.predict(pictures), strict=True):
                bgr = self.image_format == "BGR"
                rgb = picture.pixels[:, :, ::-1] if bgr else picture.pixels
                found.append(
                    Prediction(rgb, results, self.classes, self.skeleton, is_rpn=self.is_rpn)
                )
        return found if several else found[0]

    def prepare(self, pixels: np.ndarray, image_id: int | str, number: int = 0) -> Picture:
        """Applies the transforms of the test loader to an image.

        Args:
            pixels: (H, W, 3) uint8 in the channel order of :attr:`image_format`.
            image_id: Copied into the results.
            number: Seed of random test transforms.

        Raises:
            DataError: A transform cannot be applied, such as a crop larger than the image.
        """
        height, width = pixels.shape[:2]
        image = ImageInput(pixels)
        try:
            with seeded(number):
                self.mapper.augmentations(image)
        except (AssertionError, ValueError, ZeroDivisionError) as error:
            raise DataError(
                f"dataloader.test.mapper.augmentations cannot be applied to an image of {width} x "
                f"{height} pixels ({error})"
            ) from None
        inputs = {
            "image": torch.as_tensor(np.ascontiguousarray(image.image.transpose(2, 0, 1))),
            "height": height,
            "width": width,
            "image_id": image_id,
        }
        return Picture(pixels, image_id, inputs)

    @torch.no_grad()
    def predict(self, pictures: Sequence[Picture]) -> list[Results]:
        """Predicts on a batch of prepared images.

        Args:
            pictures: At least one, of any sizes.

        Returns:
            Results of each picture in the frame of the original image: `image_id`, `category_id`
            (of the data set), `bbox` (XYWH), `score`, and if the model predicts them `segmentation`
            (compressed RLE) and `keypoints` (x, y as pixel indices, score). Proposals have `bbox`
            and `score`, the probability of an object.
        """
        with autocast_context(self.device, self._amp.enabled, self._amp.dtype):
            outputs = predict_small(self.model, [picture.inputs for picture in pictures])
        return [
            self._results(picture, output)
            for picture, output in zip(pictures, outputs, strict=True)
        ]

    def _results(self, picture: Picture, output: dict[str, Any]) -> Results:
        height, width = picture.pixels.shape[:2]
        if self.is_rpn:
            results = _proposal_results(output["proposals"], picture.image_id)
        else:
            results = instances_to_results(output["instances"], height, width, picture.image_id)
        for result in results:
            result["category_id"] = self.classes.category_ids[result["category_id"]]
        return results


def _proposal_results(proposals: Any, image_id: int | str) -> Results:
    """Converts proposals to results of one class. Maps objectness to a probability."""
    boxes = proposals.proposal_boxes.tensor.detach().float().cpu().numpy()
    boxes = BoxMode.convert(boxes, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS).tolist()
    scores = proposals.objectness_logits.detach().float().cpu().sigmoid().tolist()
    return [
        {"image_id": image_id, "category_id": 0, "bbox": box, "score": score}
        for box, score in zip(boxes, scores, strict=True)
    ]


def _classes(cfg: DictConfig, metadata: Any) -> ClassNames:
    classes = ClassNames.of(metadata)
    count = OmegaConf.select(cfg, "model.roi_heads.num_classes")
    if isinstance(count, int) and count > len(classes.category_ids):
        raise ConfigError(
            f"The model has {count} classes, but the test data set {metadata.name!r}, which gives "
            f"their names and ids, has {len(classes.category_ids)}. Give the test data of the "
            "model's training: dataloader.test.dataset.names."
        )
    return classes


def _mapper(cfg: DictConfig, original: bool) -> DatasetMapper:
    """Returns the test mapper without stored proposals."""
    node = copy.deepcopy((with_original_images(cfg) if original else cfg).dataloader.test.mapper)
    for key in ("precomputed_proposal_topk", "proposal_files"):
        if node.get(key) is not None:
            node[key] = None
    mapper = instantiate(node)
    if not isinstance(mapper, DatasetMapper) or mapper.image_format not in ("BGR", "RGB"):
        raise ConfigError(
            "Prediction applies the transforms of dataloader.test.mapper to BGR or RGB images; "
            f"this mapper is a {type(mapper).__name__} with image_format "
            f"{getattr(mapper, 'image_format', None)!r}. Use a MaskRCNNMapper."
        )
    return mapper
