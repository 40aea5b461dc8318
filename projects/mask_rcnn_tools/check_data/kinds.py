"""All kinds of findings: their level, their meaning and how to fix them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")
"""An error stops a run or makes its result wrong. A warning loses or damages something. A note is
worth knowing."""


@dataclass(frozen=True)
class Kind:
    """A kind of finding.

    Attributes:
        level: How severe it is.
        title: What is wrong.
        fix: What to do about it.
    """

    level: Level
    title: str
    fix: str


_DROPPED = "They are omitted from training and evaluation. Fix or remove them."

KINDS: dict[str, Kind] = {
    # the json as a whole
    "not-readable": Kind("error", "annotation file that cannot be used", "See the message."),
    "config-and-data": Kind("error", "contradiction of config and data", "See the message."),
    "no-annotations": Kind(
        "error",
        "training set without annotations",
        "Test and unlabeled splits cannot be trained on; choose an annotated one.",
    ),
    "no-masks": Kind(
        "error",
        "data set without masks, while the model has a mask head",
        "Choose data with masks, or train without: model.roi_heads.mask_head=null.",
    ),
    "no-keypoints": Kind(
        "error",
        "data set without keypoints, while the model has a keypoint head",
        "Choose data with keypoints, or train without: model.roi_heads.keypoint_head=null "
        "dataloader.train.dataset.min_keypoints=0.",
    ),
    "class-count": Kind(
        "error",
        "data set whose number of classes is not the head's",
        "Set model.roi_heads.num_classes to the data's number, or choose the data that the model "
        "was made for.",
    ),
    "class-lists": Kind(
        "error",
        "test set whose classes are not the training set's",
        "Class k must mean the same in both: give both files the same 'categories', with the same "
        "names in the order of their ids.",
    ),
    # records
    "refused-record": Kind(
        "error",
        "records that are refused: fields missing, of a wrong type or out of range",
        "The messages say what is expected; fix them in the file.",
    ),
    "path-leaves-root": Kind(
        "error",
        "file names that leave the image folder",
        "Names must be relative to the image root, without '..'.",
    ),
    "duplicate-image-id": Kind("error", "image ids that occur twice", "Number images uniquely."),
    "duplicate-annotation-id": Kind(
        "error", "annotation ids that occur twice", "Number annotations uniquely."
    ),
    "unknown-category": Kind(
        "error",
        "annotations of a category that the file does not list",
        "Add it to 'categories', or fix the annotations.",
    ),
    "run-lengths": Kind(
        "error",
        "masks whose run lengths are not of their image's size, or do not fill it",
        "Encode the masks at the images' size, or fix 'height' and 'width'.",
    ),
    "keypoint-numbers": Kind(
        "error",
        "annotations with another number of keypoints than the category has names",
        "Give x, y, visibility for each keypoint of the category.",
    ),
    "annotation-without-image": Kind("warning", "annotations whose image is not listed", _DROPPED),
    "duplicate-annotation": Kind(
        "warning",
        "annotations that repeat another's image, class and box",
        "Remove the copies: each counts as an object of its own.",
    ),
    # boxes
    "empty-box": Kind("warning", "boxes without area, negative or not finite", _DROPPED),
    "box-outside": Kind("warning", "boxes wholly outside their image", _DROPPED),
    "far-coordinates": Kind(
        "warning",
        "boxes further from their image than ten times its size",
        _DROPPED + " Coordinates must be pixels of the image, boxes x, y, width, height.",
    ),
    "box-corners": Kind(
        "warning",
        "boxes that look like x1, y1, x2, y2: most reach outside, and none would as corners",
        "COCO's boxes are x, y, width, height in pixels; convert them.",
    ),
    "box-fractions": Kind(
        "warning",
        "boxes in parts of the image's size: none is larger than 1",
        "COCO's boxes are in pixels; multiply by the image's width and height.",
    ),
    "box-partly-outside": Kind(
        "note", "boxes that reach more than a pixel outside their image", "They are clipped."
    ),
    "tiny-box": Kind(
        "note",
        "boxes thinner than a pixel",
        "They can hardly be learned; remove what was a slip of the hand.",
    ),
    # masks
    "bad-polygon": Kind(
        "warning",
        "masks with polygons of fewer than 3 points, half a point, or values that are not finite "
        "or far from the image",
        "Such polygons are omitted, and only the box is left if all are. Draw them again.",
    ),
    "mask-without-area": Kind(
        "warning",
        "masks without area",
        "Polygons are learned as if they had no pixel, run lengths are no mask. Draw them again.",
    ),
    "mask-off-box": Kind(
        "warning",
        "masks that do not lie in their box: their bounds overlap it by less than half",
        "One of the two belongs to another object, or is in other units. Fix it.",
    ),
    "missing-mask": Kind(
        "warning",
        "annotations without a mask in a file that has masks",
        "They are ignored where masks are trained. Draw them, or remove the annotations.",
    ),
    "area-field": Kind(
        "warning",
        "annotations whose 'area' does not fit the mask or the box",
        "It scales keypoint AP and separates small, medium and large objects. Compute it from the "
        "mask. If it is not above 0 or exceeds the box, the mask's or the box's is taken.",
    ),
    "no-area-field": Kind(
        "note", "annotations without 'area'", "It is computed from the mask or the box."
    ),
    # keypoints
    "keypoint-visibility": Kind(
        "error",
        "annotations with a visibility other than 0, 1, 2",
        "0: not labelled, 1: labelled but hidden, 2: labelled and visible.",
    ),
    "keypoint-count": Kind(
        "warning",
        "annotations whose 'num_keypoints' is not the number of labelled keypoints",
        "The field is not read. Keypoints of visibility 1 and 2 are counted.",
    ),
    "keypoint-outside": Kind(
        "warning",
        "annotations with labelled keypoints outside their image",
        "They count in the evaluation and cannot be learned. Fix them, or give visibility 0.",
    ),
    "keypoint-off-box": Kind(
        "note",
        "annotations with labelled keypoints outside their box",
        "Outside of the box they are not learned. Enlarge the box.",
    ),
    "keypoint-ghost": Kind(
        "note",
        "annotations with keypoints that have a place but visibility 0",
        "They count as not labelled. Give visibility 1 or 2 if they are.",
    ),
    "keypoint-names": Kind(
        "error",
        "keypoints without names in 'categories', or names in several categories",
        "Exactly one category must list its 'keypoints' by name.",
    ),
    "keypoint-sides": Kind(
        "warning",
        "keypoints called left or right without a partner, so that mirrored images confuse them",
        "Name both sides alike (left_ear, right_ear), or give dataset.flip_pairs.",
    ),
    "keypoint-pairs": Kind(
        "warning",
        "keypoints of which none are recognized as left and right, so that mirrored images may "
        "confuse them",
        "Name both sides alike (left_ear, right_ear), or give dataset.flip_pairs, [] for a "
        "symmetric object.",
    ),
    "keypoint-sigmas": Kind(
        "warning",
        "keypoints without standard deviations for the similarity that their AP needs",
        "Give dataset.oks_sigmas, one a keypoint (docs/keypoints.md).",
    ),
    # classes
    "unused-category": Kind(
        "note", "categories without annotations", "They have an output and never an example."
    ),
    "untrained-category": Kind(
        "warning",
        "categories that the test set has and the training set lacks",
        "Their AP will be 0. Add examples, or split the data anew.",
    ),
    "untested-category": Kind(
        "note", "categories that the training set has and the test set lacks", "They have no AP."
    ),
    "duplicate-class-name": Kind(
        "warning", "category names that occur twice", "Results by class cannot distinguish them."
    ),
    "crowd-polygon": Kind(
        "note",
        "crowd regions given as polygons",
        "COCO gives them as run lengths; they are ignored in training in either form.",
    ),
    # image records and files
    "missing-image": Kind(
        "error", "images that are missing", "Fetch them, or remove their records from the json."
    ),
    "unreadable-image": Kind(
        "error",
        "images that cannot be read",
        "Fetch or write them again, or remove their records from the json.",
    ),
    "wrong-size": Kind(
        "error",
        "images of another size than the json says",
        "Use the images that were annotated, or fix 'height' and 'width'.",
    ),
    "truncated-image": Kind(
        "warning",
        "images that seem cut short: the format's end mark is not at the end",
        "Fetch them again; --decode reports which ones cannot be read.",
    ),
    "huge-image": Kind(
        "warning",
        "images of more than 89 million pixels",
        "They take much memory and time, and beyond twice that are refused. Cut or reduce them.",
    ),
    "thin-image": Kind(
        "warning",
        "images more than 50 times as long as wide",
        "Resized, little is left of the short side. Cut them.",
    ),
    "odd-image": Kind(
        "note",
        "images that are not plain 8-bit colour or grey",
        "They are converted: transparency is dropped, 16 bits are scaled to 8, EXIF turns, of "
        "several frames the first is taken.",
    ),
    "unused-bits": Kind(
        "warning",
        "16-bit images whose values need fewer bits",
        "All images are scaled from this range. Predict with the same dataset.image_bits.",
    ),
    "duplicate-file": Kind(
        "warning",
        "files that are listed by several image records",
        "An image must have one record with all its annotations.",
    ),
    "duplicate-content": Kind(
        "warning",
        "images whose files have the same content",
        "Keep one of them; if their annotations differ, one is wrong.",
    ),
    "image-without-annotations": Kind(
        "note",
        "images without annotations",
        "Training leaves them out unless dataset.filter_empty=false.",
    ),
    "crowd-only": Kind("note", "images with crowd regions only", "Training leaves them out, too."),
    "symlink-outside": Kind(
        "note",
        "images that are links to files outside the image folder",
        "Links are followed (docs/security.md). Look where they lead if the data is not your own.",
    ),
    "unlisted-file": Kind(
        "note", "image files in the folder that the json does not list", "They are not used."
    ),
    # train and test
    "split-same-file": Kind(
        "error",
        "images that are in the training and in the test set",
        "Results would be too good. Split the data so that no image is in both.",
    ),
    "split-same-content": Kind(
        "error",
        "test images with the same content as a training image",
        "Results would be too good. Split the data so that no image is in both.",
    ),
    "split-same-name": Kind(
        "note",
        "names that the training and the test set have in common, in other folders",
        "--hash compares the contents.",
    ),
    "split-same-name-and-size": Kind(
        "warning",
        "names that the training and the test set have in common, with files of equal length",
        "They are probably the same images; --hash compares the contents.",
    ),
}
