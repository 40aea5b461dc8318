"""The classes of Cityscapes, from the public list of labels, and the meaning of instance ids.

An instance id (16 bit) of a pixel is ``1000 * label id + number`` where instances are separate,
and the label id alone elsewhere: on labels without instances, and on groups, regions of instances
that could not be separated. Contiguous class ids count the evaluated labels in label id order.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cityscapesscripts.helpers.labels import id2label, labels, name2label

from mask_rcnn_repro.errors import DataError

# Ids below are label ids, ids from here on carry an instance number.
INSTANCE_FACTOR = 1000

EVALUATED = tuple(
    sorted(
        (label for label in labels if label.hasInstances and not label.ignoreInEval),
        key=lambda label: label.id,
    )
)
THING_CLASSES = tuple(label.name for label in EVALUATED)
LABEL_TO_CLASS = {label.id: index for index, label in enumerate(EVALUATED)}


def label_id(instance_id: int) -> int:
    """Returns the label id that an instance id stands for, whether or not there is such a label."""
    return instance_id // INSTANCE_FACTOR if instance_id >= INSTANCE_FACTOR else instance_id


def is_group(instance_id: int) -> bool:
    """Whether an instance id of a label with instances stands for a group of them."""
    return instance_id < INSTANCE_FACTOR


def check_ids(where: str, present: Iterable[int]) -> None:
    """Checks that instance ids can be those of an ``instanceIds`` file.

    Files of train ids look alike: person 3 is 11003 in them, which would be building 3.

    Args:
        where: The file, for the message.
        present: The ids that occur.

    Raises:
        DataError: There are ids without a label, or numbered ids of a label without instances.
    """
    known = {value: id2label.get(label_id(value)) for value in map(int, present)}
    if unknown := [value for value, label in known.items() if label is None]:
        reason = f"of label ids that are not public Cityscapes labels (0 to {max(id2label)})"
        raise DataError(_not_instance_ids(where, unknown, reason))
    numbered = [v for v, x in known.items() if x and not is_group(v) and not x.hasInstances]
    if numbered:
        names = sorted({id2label[label_id(value)].name for value in numbered})
        reason = f"which would be numbered instances of {', '.join(names[:5])}: these have none"
        raise DataError(_not_instance_ids(where, numbered, reason))


def _not_instance_ids(where: str, ids: list[int], reason: str) -> str:
    return (
        f"{where} has the instance ids {ids[:5]}{' ...' if len(ids) > 5 else ''}, {reason}. Ids "
        "are 1000 * label id + number, or the label id alone; train ids (labelTrainIds.png, "
        "instanceTrainIds.png) do not work. Fetch *_gtFine_instanceIds.png again, or write it "
        "with cityscapesscripts' json2instanceImg without train ids."
    )


def is_known_name(name: Any) -> bool:
    """Whether polygons may have this label: one of the list, or a group such as `cargroup`."""
    if not isinstance(name, str):
        return False
    return name in name2label or (name.endswith("group") and name[: -len("group")] in name2label)
