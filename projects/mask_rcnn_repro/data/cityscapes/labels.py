"""The classes of Cityscapes, from the public list of labels, and what an instance id says.

An instance id (16 bit) of a pixel is ``1000 * label id + number`` where instances are separate,
and the label id alone elsewhere: on labels without instances, and on groups, regions of instances
that could not be separated. Contiguous class ids count the evaluated labels in label id order.
"""

from __future__ import annotations

from typing import Any

from cityscapesscripts.helpers.labels import labels, name2label

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


def is_known_name(name: Any) -> bool:
    """Whether polygons may have this label: one of the list, or a group such as `cargroup`."""
    if not isinstance(name, str):
        return False
    return name in name2label or (name.endswith("group") and name[: -len("group")] in name2label)
