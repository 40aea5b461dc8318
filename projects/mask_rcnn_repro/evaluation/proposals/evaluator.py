"""Proposals of an RPN: their average recall, and storing them for the second stage.

Shapes: n proposals of an image, boxes (n, 4) as absolute XYXY in the original image's frame.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.coco_evaluation import _evaluate_box_proposals
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm

from mask_rcnn_repro.data import ProposalWriter, dataset_fingerprint, get_test_dicts
from mask_rcnn_repro.errors import ConfigError, DataError
from mask_rcnn_repro.evaluation.coco.ground_truth import GroundTruth, load_ground_truth
from mask_rcnn_repro.evaluation.evaluator_parts import check_images, log_metrics, original_size
from mask_rcnn_repro.evaluation.registry import EVALUATOR_REGISTRY

logger = logging.getLogger(__name__)


@EVALUATOR_REGISTRY.register()
class ProposalEvaluator(DatasetEvaluator):
    """Average recall of proposals, by Detectron2's function.

    The recall is averaged over IoU 0.50 to 0.95 in steps of 0.05, with each ground-truth box
    matched to a proposal of its own, greedily. Crowd regions are left out. ``AR@k`` takes the k
    proposals with the highest scores; ``ARs``, ``ARm``, ``ARl`` count small, medium and large
    objects alone, at the last limit. It is measured on the images that were processed. Unlike in
    Detectron2's evaluator, the objects of an image without any proposal count as missed.

    With several processes the proposals are gathered on the first, and the result does not depend
    on how the images were spread.

    No data set asks for this evaluator by its type: configs of RPN stages name it.

    Args:
        dataset_name: A registered data set in COCO format, or one that Detectron2 can convert.
        output_dir: Ignored: no files are written. Other evaluators have the same argument.
        limits: Numbers of proposals, ascending.

    Raises:
        ConfigError: The limits do not ascend from 1 or more.
    """

    evaluator_types = ()
    computed_by = "detectron2"

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | None = None,
        *,
        limits: Sequence[int] = (100, 300, 1000),
    ) -> None:
        self.dataset_name = dataset_name
        self.output_dir = output_dir
        self.limits = tuple(limits)
        if not self.limits or list(self.limits) != sorted({*self.limits}) or self.limits[0] < 1:
            raise ConfigError(
                f"evaluator.limits must be whole numbers that ascend from 1 or more, such as "
                f"[100, 300, 1000]; got {list(self.limits)}."
            )
        self.reset()

    @functools.cached_property
    def _ground_truth(self) -> GroundTruth:
        return load_ground_truth(self.dataset_name)

    def reset(self) -> None:
        """Forgets all proposals."""
        self._predictions: dict[Any, tuple[torch.Tensor, torch.Tensor]] = {}

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        """Takes a batch of proposals; no more than the last limit an image are kept.

        Args:
            inputs: `image_id`, and `height`, `width` of the original image.
            outputs: `proposals` as Detectron2's ``ProposalNetwork`` gives them: `proposal_boxes`
                in the original image's frame and `objectness_logits`.

        Raises:
            DataError: Outputs without proposals, or in another frame.
        """
        for image, output in zip(inputs, outputs, strict=True):
            boxes, logits = _original_frame(image, output)
            order = logits.sort(descending=True, stable=True)[1][: self.limits[-1]]
            self._predictions[image["image_id"]] = (boxes[order], logits[order])

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Gathers the proposals and measures their recall.

        Returns:
            "proposals" to metric to percent (NaN: no such object). Empty on all processes but the
            first, and on splits without annotations.

        Raises:
            DataError: Images that are not in the annotations.
        """
        gathered = comm.gather(self._predictions)
        if not comm.is_main_process():
            return {}
        predictions = {image_id: p for part in gathered for image_id, p in part.items()}
        coco = self._ground_truth.coco
        known = {image["id"] for image in coco.dataset["images"]}
        check_images(predictions, known, self.dataset_name)
        if not self._ground_truth.annotated:
            logger.info("%s has no annotations: nothing was measured.", self.dataset_name)
            return {}
        items = [_as_detectron2(image_id, *p) for image_id, p in predictions.items()]
        wanted = [(f"AR@{limit}", "all", limit) for limit in self.limits]
        last = self.limits[-1]
        wanted += [(f"AR{area[0]}@{last}", area, last) for area in ("small", "medium", "large")]
        metrics = {
            name: 100 * float(_evaluate_box_proposals(items, coco, area=area, limit=limit)["ar"])
            for name, area, limit in wanted
        }
        log_metrics("proposals", metrics)
        return {"proposals": metrics}


class ProposalStore(DatasetEvaluator):
    """Stores what an RPN predicts on a whole data set, see :class:`ProposalWriter`.

    It takes the place of an evaluator in the inference loop; :meth:`reset` and :meth:`evaluate`
    are collective. The folder appears when :meth:`evaluate` ends well.

    Args:
        folder: Folder to create.
        dataset_name: The data set that the loader reads. Building its loader registers a data set
            of the user.
        source: Origin of the proposals, see :class:`ProposalInfo`.
        topk: Number of boxes to keep per image.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        dataset_name: str,
        source: Mapping[str, Any],
        topk: int,
    ) -> None:
        self.folder = folder
        self.dataset_name = dataset_name
        self.source = dict(source)
        self.topk = topk
        self._writer: ProposalWriter | None = None

    def reset(self) -> None:
        """Starts again and discards unfinished files.

        Raises:
            DataError: The folder exists, or the data set cannot be read.
        """
        if self._writer is not None:
            self._writer.abort()
        self._writer = ProposalWriter(
            self.folder,
            dataset=self.dataset_name,
            fingerprint=f"sha256:{dataset_fingerprint(self.dataset_name)['sha256']}",
            image_ids=[record["image_id"] for record in get_test_dicts(self.dataset_name)],
            topk=self.topk,
            source=self.source,
        )

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        """Writes a batch of proposals to the disk; takes what :class:`ProposalEvaluator` takes.

        Raises:
            DataError: See :meth:`ProposalWriter.add`.
        """
        assert self._writer is not None, "reset() comes first"
        for image, output in zip(inputs, outputs, strict=True):
            boxes, logits = _original_frame(image, output)
            self._writer.add(image["image_id"], boxes.numpy(), logits.numpy())

    def evaluate(self) -> dict[str, Any]:
        """Gives the folder its final name.

        Returns:
            An empty dict, because nothing is measured.

        Raises:
            DataError: See :meth:`ProposalWriter.finish`.
        """
        assert self._writer is not None, "reset() comes first"
        writer, self._writer = self._writer, None
        writer.finish()
        if comm.is_main_process():
            logger.info("Proposals of %s are stored in %s", self.dataset_name, self.folder)
        return {}


def _original_frame(
    image: Mapping[str, Any], output: Mapping[str, Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes and logits as float32 on the CPU, if they are in the original image's frame."""
    if "proposals" not in output:
        raise DataError(
            f"The model's output for image {image.get('image_id')!r} has {sorted(output)}, not "
            "'proposals'. Proposals are measured and stored for RPN stages, whose model is "
            "detectron2.modeling.meta_arch.ProposalNetwork."
        )
    proposals: Instances = output["proposals"]
    size = original_size(image, proposals)
    if tuple(proposals.image_size) != size:
        raise DataError(
            f"The proposals of image {image.get('image_id')!r} are in a frame of "
            f"{tuple(proposals.image_size)}, but the image is {size} (height, width). The model "
            "must scale its boxes to the original image, as ProposalNetwork does."
        )
    boxes = proposals.proposal_boxes.tensor.detach().to("cpu", torch.float32)
    return boxes, proposals.objectness_logits.detach().to("cpu", torch.float32)


def _as_detectron2(image_id: Any, boxes: torch.Tensor, logits: torch.Tensor) -> dict[str, Any]:
    """What ``_evaluate_box_proposals`` takes for one image.

    It leaves out images without proposals, with their objects; a box without area, which meets
    nothing, makes them count. Ids go in as lists: of a text pycocotools would take the letters.
    """
    if not len(boxes):
        boxes, logits = torch.zeros(1, 4), torch.zeros(1)
    proposals = Instances((0, 0), proposal_boxes=Boxes(boxes), objectness_logits=logits)
    return {"image_id": [image_id], "proposals": proposals}
