"""Masks and keypoints of any number of detections in bounded memory."""

from __future__ import annotations

import logging
from typing import Any

import torch
from detectron2.structures import Instances

from mask_rcnn_repro.utils.memory import free_memory, in_parts, is_out_of_memory

logger = logging.getLogger(__name__)


class BoundedInference:
    """Mixed into RoI heads: a pass of the mask and keypoint branches has a limited size.

    RoI features of a detection take about a megabyte in an FPN model. A hundred detections, the
    usual limit of an image, are one pass as ever. More are predicted in several, and if memory
    runs out nevertheless, in smaller ones. Masks do not depend on what else is in the pass, up to
    rounding.

    Attributes:
        instances_per_pass: most detections in one pass.
    """

    instances_per_pass = 512

    def forward_with_given_boxes(
        self, features: dict[str, torch.Tensor], instances: list[Instances]
    ) -> list[Instances]:
        """Adds masks and keypoints to detections.

        Args:
            features: (N, C, H, W) maps by name.
            instances: N, with ``pred_boxes`` and ``pred_classes``; may be empty.

        Returns:
            N, with ``pred_masks`` and ``pred_keypoints`` where there are such branches.
        """
        once: Any = super().forward_with_given_boxes  # type: ignore[misc]
        count = sum(map(len, instances))
        if count <= self.instances_per_pass:
            try:
                return list(once(features, instances))
            except Exception as error:
                if not is_out_of_memory(error) or count <= 1:
                    raise
            free_memory()
            logger.warning("Out of memory with %d detections at a time; going on in parts.", count)
        most = max(min(self.instances_per_pass, count // 2), 1)
        return [_of_one_image(once, features, i, one, most) for i, one in enumerate(instances)]


def _of_one_image(
    once: Any, features: dict[str, torch.Tensor], number: int, instances: Instances, most: int
) -> Instances:
    own = {name: maps[number : number + 1] for name, maps in features.items()}
    if not len(instances):
        return once(own, [instances])[0]
    parts = in_parts(
        lambda start, stop: once(own, [instances[start:stop]])[0],
        len(instances),
        most,
        "detections of an image",
    )
    return Instances.cat(parts)
