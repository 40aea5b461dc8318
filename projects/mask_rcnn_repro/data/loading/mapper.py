"""Turn a data set dict into the input of Detectron2's models.

Shapes: image (C, H, W) uint8 after augmentation; boxes (N, 4) as absolute XYXY in the augmented
image's frame; masks polygons or (N, H, W); keypoints (N, K, 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetMapper, detection_utils
from detectron2.data import transforms as T
from detectron2.structures import Boxes, BoxMode, pairwise_ioa

from mask_rcnn_repro.data.keypoint_metadata import keypoint_flip_indices
from mask_rcnn_repro.data.loading.annotations import transform_to_instances
from mask_rcnn_repro.data.loading.images import read_image
from mask_rcnn_repro.data.proposals.files import ProposalFile
from mask_rcnn_repro.errors import ConfigError, DataError


class MaskRCNNMapper(DatasetMapper):
    """Detectron2's mapper with clear errors, RLE and polygon masks mixed, and flipped keypoints.

    Differences from the base class: a missing, broken or wrongly sized image is a
    :class:`DataError` that names file and image id; the mask format is chosen per image, bit masks
    where an instance is given as RLE and polygons elsewhere (Detectron2's mask loss asks each
    image's masks themselves for targets); COCO's left and right keypoints need no
    configuration; instances without a mask are omitted, those without keypoints count as unlabeled;
    proposals come from stored proposals, and missing ones are an error. Randomness is
    numpy's global generator, which the training loader seeds for each draw.

    Args:
        is_train: Keep and transform annotations. Otherwise map images only.
        augmentations: Detectron2 augmentations or transforms, applied in order.
        image_format: Channel order of the image, the model's ``input_format``.
        use_instance_mask: Produce ``gt_masks``.
        use_keypoint: Produce ``gt_keypoints``.
        keypoint_hflip_indices: See :func:`keypoint_flip_indices`; None means COCO's 17 keypoints
            (a config gets those of its training data when it is run).
        precomputed_proposal_topk: Stored proposals for the model, the best scored; None: none.
        proposal_files: Folders of stored proposals (:class:`ProposalFile`), one for each data set
            that is read; opened when the first image is mapped. None: proposals are in the dicts,
            as Detectron2's ``load_proposals_into_dataset`` puts them there.
        crowd_overlap: In training, omit proposals of which more than this part lies in the box of
            one crowd region, as Detectron's stage-wise training does (0.7). None: keep them all;
            those that match no object are negatives.
        recompute_boxes: Take boxes from the augmented masks, for augmentations that crop.

    Raises:
        ConfigError: Arguments contradict each other.
    """

    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str = "BGR",
        use_instance_mask: bool = False,
        use_keypoint: bool = False,
        keypoint_hflip_indices: Sequence[int] | None = None,
        precomputed_proposal_topk: int | None = None,
        proposal_files: Sequence[str] | None = None,
        crowd_overlap: float | None = None,
        recompute_boxes: bool = False,
    ) -> None:
        if crowd_overlap is not None and not 0 < crowd_overlap <= 1:
            raise ConfigError(
                f"mapper.crowd_overlap={crowd_overlap} must be a part above 0 and up to 1 of a "
                "proposal's area, such as 0.7, or null to keep all proposals."
            )
        if recompute_boxes and not use_instance_mask:
            raise ConfigError(
                "mapper.recompute_boxes=true takes boxes from masks: set "
                "mapper.use_instance_mask=true too."
            )
        if proposal_files and precomputed_proposal_topk is None:
            raise ConfigError(
                "mapper.proposal_files has no effect without mapper.precomputed_proposal_topk: set "
                "it to the number of proposals an image, such as 2000 in training."
            )
        indices = list(keypoint_hflip_indices or keypoint_flip_indices()) if use_keypoint else None
        super().__init__(
            is_train,
            augmentations=list(augmentations),
            image_format=image_format,
            use_instance_mask=use_instance_mask,
            use_keypoint=use_keypoint,
            keypoint_hflip_indices=indices,
            precomputed_proposal_topk=precomputed_proposal_topk,
            recompute_boxes=recompute_boxes,
        )
        self.proposal_files = [str(folder) for folder in proposal_files or ()]
        self.crowd_overlap = crowd_overlap
        self._opened: list[ProposalFile] = []

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Reads, augments and formats one image.

        Args:
            dataset_dict: Dict in Detectron2's format. It is not changed.

        Returns:
            The dict without ``annotations``, with ``image`` (uint8 tensor (C, H, W)), if configured
            ``proposals`` (``proposal_boxes`` in the augmented image's frame, clipped to it, empty
            ones and those inside crowds omitted, and ``objectness_logits``, descending), and, in
            training, ``instances``: ``gt_boxes`` (clipped to the image), ``gt_classes`` and, as
            configured, ``gt_masks``, ``gt_keypoints``. Crowd regions and instances without area are
            omitted; without any instance the fields are empty and masks absent.

        Raises:
            DataError: See :func:`read_image` and :class:`ProposalFile`; or keypoints of another
                number than configured, no proposals, data sets whose stored proposals overlap.
        """
        record = {key: value for key, value in dataset_dict.items() if key != "annotations"}
        inputs = ImageInput(read_image(record, self.image_format))
        image_size = inputs.image.shape[:2]
        transforms = self.augmentations(inputs)
        shape = inputs.image.shape[:2]
        record["image"] = torch.as_tensor(np.ascontiguousarray(inputs.image.transpose(2, 0, 1)))
        if self.proposal_topk is not None:
            self._add_proposals(record)
            if self.is_train and self.crowd_overlap is not None:
                crowds = [a for a in dataset_dict.get("annotations", ()) if a.get("iscrowd", 0)]
                for key in _PROPOSAL_FIELDS:  # the limit first, as Detectron
                    record[key] = record[key][: self.proposal_topk]
                _omit_inside(crowds, record, image_size, self.crowd_overlap)
            detection_utils.transform_proposals(
                record, shape, transforms, proposal_topk=self.proposal_topk
            )
        if self.is_train and "annotations" in dataset_dict:
            instances = transform_to_instances(
                self._usable(dataset_dict), transforms, shape, self.keypoint_hflip_indices
            )
            if self.recompute_boxes and instances.has("gt_masks"):
                instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
            record["instances"] = detection_utils.filter_empty_instances(instances)
        return record

    def _add_proposals(self, record: dict[str, Any]) -> None:
        """Adds all proposals of the image: which are the first k is known only after clipping."""
        if self.proposal_files:
            boxes, logits = self._stored(record)
            record["proposal_bbox_mode"] = BoxMode.XYXY_ABS
        elif "proposal_boxes" in record and "proposal_objectness_logits" in record:
            boxes, logits = record["proposal_boxes"], record["proposal_objectness_logits"]
        else:
            raise DataError(
                f"Image {record.get('image_id')}, file {record.get('file_name')}, has no "
                f"proposals, but mapper.precomputed_proposal_topk is {self.proposal_topk}. Name "
                "an RPN config in train.proposals or folders in mapper.proposal_files; or set "
                "mapper.precomputed_proposal_topk=null and train with an RPN."
            )
        # Integers become float64: on them, resizing would round down to whole pixels.
        record["proposal_boxes"] = np.array(boxes, dtype=np.result_type(boxes, np.float32))
        record["proposal_objectness_logits"] = np.array(logits, dtype=np.float32)

    def _stored(self, record: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        if not self._opened:
            self._opened = _open_disjoint(self.proposal_files)
        image_id = record["image_id"]
        for file in self._opened:
            if image_id in file:
                return file.get(image_id)
        if len(self._opened) == 1:
            return self._opened[0].get(image_id)  # raises with the full explanation
        raise DataError(
            f"None of the stored proposals in {', '.join(self.proposal_files)} has image "
            f"{image_id!r}, file {record.get('file_name')}. Give mapper.proposal_files one folder "
            "for each data set in dataset.names; delete a folder to have its proposals made again."
        )

    def _usable(self, dataset_dict: dict[str, Any]) -> list[dict[str, Any]]:
        """Returns copies of the annotations that can be trained on, with the fields needed.

        Coordinates become float arrays of their own: transforms work in place, and on integers
        Detectron2's would round every resized coordinate down to a whole pixel.
        """
        if self.use_keypoint:
            self.check_keypoints(dataset_dict)
        usable = []
        for original in dataset_dict["annotations"]:
            masked = bool(original.get("segmentation"))
            if original.get("iscrowd", 0) or (self.use_instance_mask and not masked):
                continue
            annotation = dict(original, bbox=[float(x) for x in original["bbox"]])
            mask = annotation.pop("segmentation", None)
            if self.use_instance_mask:
                if isinstance(mask, list):
                    mask = [np.array(polygon, dtype=np.float64) for polygon in mask]
                annotation["segmentation"] = mask
            keypoints = annotation.pop("keypoints", None)
            if self.use_keypoint:
                if keypoints is None or not len(keypoints):
                    keypoints = np.zeros(3 * len(self.keypoint_hflip_indices))
                annotation["keypoints"] = np.array(keypoints, dtype=np.float64)
            usable.append(annotation)
        return usable

    def check_keypoints(self, record: dict[str, Any]) -> None:
        """Raises a DataError if an annotation of a data set dict has too few or many keypoints."""
        numbers = 3 * len(self.keypoint_hflip_indices)
        for annotation in record.get("annotations", ()):
            points = annotation.get("keypoints")
            count = 0 if points is None else len(points)
            if count not in (0, numbers):
                raise DataError(
                    f"Image {record.get('image_id')}, file {record.get('file_name')}: an instance "
                    f"has {count // 3} keypoints, but the mapper expects {numbers // 3}. Give "
                    "mapper.keypoint_hflip_indices for this data set's keypoints."
                )


_PROPOSAL_FIELDS = ("proposal_boxes", "proposal_objectness_logits")


class ImageInput(T.AugInput):
    """An image on its way through the augmentations; resized to at least one pixel a side."""

    def transform(self, tfm: T.Transform) -> None:
        """Applies a transform in place."""
        if isinstance(tfm, T.ResizeTransform):
            # Of 20000 x 3 pixels, resized to 1333, less than half a row would be left.
            tfm.new_h, tfm.new_w = max(tfm.new_h, 1), max(tfm.new_w, 1)
        super().transform(tfm)


def _omit_inside(
    crowds: Sequence[dict[str, Any]],
    record: dict[str, Any],
    image_size: tuple[int, int],
    overlap: float,
) -> None:
    """Removes, in place, proposals of which more than a part lies in one of the crowds' boxes.

    The part is intersection over proposal area, as pycocotools computes for crowds; both boxes are
    in pixels of the image before augmentation, and proposals are clipped to it.
    """
    if not crowds:
        return
    mode = record["proposal_bbox_mode"]
    proposals = Boxes(BoxMode.convert(record["proposal_boxes"], mode, BoxMode.XYXY_ABS))
    proposals.clip(image_size)
    boxes = [BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYXY_ABS) for a in crowds]
    keep = (pairwise_ioa(Boxes(boxes), proposals) <= overlap).all(dim=0).numpy()
    for key in _PROPOSAL_FIELDS:
        record[key] = record[key][keep]


def _open_disjoint(folders: Sequence[str]) -> list[ProposalFile]:
    """Opens stored proposals of several data sets, whose images must not have an id in common."""
    files = [ProposalFile(folder) for folder in folders]
    owner: dict[str, ProposalFile] = {}
    for file in files:
        for image_id in file.image_ids if len(files) > 1 else ():
            other = owner.setdefault(str(image_id), file)
            if other is not file:
                raise DataError(
                    f"The stored proposals in {other.folder} and {file.folder} both have image "
                    f"{image_id!r}, so it is not known whose proposals an image takes. Data sets "
                    "that are read together need image ids that differ."
                )
    return files
