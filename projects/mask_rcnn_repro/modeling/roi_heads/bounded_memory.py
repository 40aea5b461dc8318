"""Predicts masks and keypoints of any number of detections in bounded memory."""

from __future__ import annotations

import logging
from typing import Any

import torch
from detectron2.structures import Instances

from mask_rcnn_repro.utils.out_of_memory import free_memory, in_parts, is_out_of_memory

logger = logging.getLogger(__name__)


class BoundedInference:
    """Mixin for RoI heads that limits the number of detections in a pass of the mask branch.

    RoI features of a detection take about 1 MB in an FPN model. The usual limit of 100 detections
    per image fits into one pass. More detections are split into several passes, and into smaller
    ones if memory runs out. Masks do not depend on the split, up to rounding.

    Attributes:
        instances_per_pass: The most detections in one pass.
    """

    instances_per_pass = 512

    def forward_with_given_boxes(
        self, features: dict[str, torch.Tensor], instances: list[Instances]
    ) -> list[Instances]:
        """Adds masks and keypoints to detections.

        Args:
            features: (N, C, H, W) maps by name.
            instances: Detections of N images, with ``pred_boxes`` and ``pred_classes``; may be
                empty.

        Returns:
            The detections, with ``pred_masks`` and ``pred_keypoints`` of the branches there are.
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
            logger.warning("Out of memory with %d detections at a time; trying fewer.", count)
        most = max(min(self.instances_per_pass, count // 2), 1)
        results = []
        for index, image in enumerate(instances):
            own = {name: maps[index : index + 1] for name, maps in features.items()}

            def part(start: int, stop: int, own: Any = own, image: Any = image) -> Instances:
                return once(own, [image[start:stop]])[0]

            parts = in_parts(part, len(image), most, "detections of an image")
            results.append(Instances.cat(parts) if parts else once(own, [image])[0])
        return results
