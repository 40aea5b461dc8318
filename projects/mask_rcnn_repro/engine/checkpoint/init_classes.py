"""Fine-tune on other classes: map class-specific weights by class name.

The last layers of a detector have outputs per class: box score, box deltas, mask. If the initial
weights are of other classes, each class of the model takes the outputs of its source class.
Classes without a source are initialized randomly (appendix A, "fine + COCO": seven classes of
Cityscapes are in COCO, `rider` is not), as a new layer or with the distribution of the weights.

Shapes: K classes of the model, K' of the weights.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from omegaconf import DictConfig
from torch import nn

from mask_rcnn_repro.data import dataset_info
from mask_rcnn_repro.errors import CheckpointError, ConfigError
from mask_rcnn_repro.modeling.mask_heads import MaskHead

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassMap:
    """Maps each class of a model to its source class in the initial weights.

    Attributes:
        here: Classes of the model, in the order of its outputs.
        there: Classes of the weights.
        source: Source class of each class of the model. None initializes it randomly.
        random: How to do so, see `train.init_classes_random`.
    """

    here: tuple[str, ...]
    there: tuple[str, ...]
    source: tuple[str | None, ...]
    random: str = "layer"

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Pairs of a class index in the model and its source index in the weights."""
        return [(i, self.there.index(s)) for i, s in enumerate(self.source) if s is not None]

    def __str__(self) -> str:
        named = list(zip(self.here, self.source, strict=True))
        taken = [h if h == s else f"{h} from {s}" for h, s in named if s is not None]
        random = [h for h, s in named if s is None]
        return (
            f"from the weights: {', '.join(taken) or 'none'}; random: {', '.join(random) or 'none'}"
        )


def class_map_of(cfg: DictConfig, source: DictConfig | None) -> ClassMap | None:
    """Builds the class map of `train.init_classes`, or None if it is null (equal classes).

    Args:
        cfg: The config that is trained.
        source: The config named by `train.init_from`, if any.

    Raises:
        ConfigError: Class names are unknown, or the classes of the weights are not known.
        DataError: A data set is not registered, or its json is missing.
    """
    if cfg.train.init_classes is None:
        return None
    here = _classes_of(cfg)
    if cfg.train.init_classes_of is not None:
        names = str(cfg.train.init_classes_of)
        there, name = dataset_info(names), f"train.init_classes_of={names}"
        if there is None:
            raise ConfigError(f"The classes of the data set {name} are not known.")
    elif source is not None:
        there = _classes_of(source)
        name = f"the training data of train.init_from={cfg.train.init_from}"
    else:
        raise ConfigError(
            "train.init_classes maps the classes of train.init_checkpoint, but these classes are "
            "not known. Set train.init_classes_of to a data set with the same classes, "
            "such as coco_trainval35k."
        )
    classes = map_classes(here, there, cfg.train.init_classes, name)
    return replace(classes, random=cfg.train.init_classes_random)


def map_classes(
    here: Sequence[str], there: Sequence[str], stated: Mapping[str, str | None], name: str
) -> ClassMap:
    """Maps classes by equal names and by stated pairs.

    Args:
        here: Classes of the model.
        there: Classes of the weights.
        stated: Maps a class of the model to its source. None initializes it randomly.
        name: Name of the classes of the weights, for messages.

    Raises:
        ConfigError: A class in `stated` does not exist, or no class has a source.
    """
    for kind, given, known in (
        ("the training data", stated, here),
        (name, [s for s in stated.values() if s is not None], there),
    ):
        if unknown := [c for c in given if c not in known]:
            raise ConfigError(
                f"train.init_classes names {', '.join(map(repr, unknown))}, which {kind} does not "
                f"have: its classes are {', '.join(known)}."
            )
    source = tuple(stated.get(c, c if c in there else None) for c in here)
    if not any(source):
        raise ConfigError(
            f"No class of the training data ({', '.join(here)}) has the name of a class of {name} "
            f"({', '.join(there)}), so train.init_classes maps nothing. State pairs, such as "
            "train.init_classes='{person: pedestrian}', or set it to null and the model's classes "
            "to those of the weights."
        )
    return ClassMap(tuple(here), tuple(there), source)


def take_classes(
    model: nn.Module, state: Mapping[str, torch.Tensor], classes: ClassMap, where: str
) -> dict[str, torch.Tensor]:
    """Selects class-specific weights for the classes of the model.

    Args:
        model: Bare model. Classes without a source keep its weights, or get random ones that
            are distributed as those of `state`.
        state: Weights of the same model for K' classes.
        classes: The class map.
        where: File of the weights, for messages.

    Returns:
        `state` with the last layers of the box and mask branches replaced. The output for
        "background" and layers without classes do not change.

    Raises:
        CheckpointError: Weights are missing or not for K' classes.
    """
    own = model.state_dict()
    cut = dict(state)
    for layer in _class_layers(model, classes):
        for key in (f"{layer.name}.weight", f"{layer.name}.bias"):
            if key in own:
                cut[key] = _rows(own[key], state.get(key), layer, classes, f"{where}: {key}")
    logger.info("Classes of the initial weights %s", classes)
    return cut


@dataclass(frozen=True)
class _Layer:
    """A last layer with `unit` outputs per class, and then `unit` outputs per `extra` class."""

    name: str
    unit: int
    extra: int


def _class_layers(model: nn.Module, classes: ClassMap) -> Iterator[_Layer]:
    """Yields the layers whose outputs belong to classes."""
    count = len(classes.here)
    for name, module in model.named_modules():
        if isinstance(module, FastRCNNOutputLayers):
            yield _Layer(f"{name}.cls_score", 1, 1)
            if module.bbox_pred.out_features == 4 * count:
                yield _Layer(f"{name}.bbox_pred", 4, 0)
        elif isinstance(module, MaskHead):
            outputs = module.loss.num_outputs(count)
            if outputs != module.loss.num_outputs(count + 1):  # else class-agnostic
                unit = module.predictor.weight.shape[0] // outputs
                yield _Layer(f"{name}.predictor", unit, outputs - count)
        elif isinstance(module, MaskRCNNConvUpsampleHead) and (
            module.predictor.out_channels == count  # else class-agnostic
        ):
            yield _Layer(f"{name}.predictor", 1, 0)


def _rows(
    own: torch.Tensor, theirs: torch.Tensor | None, layer: _Layer, classes: ClassMap, where: str
) -> torch.Tensor:
    if theirs is None:
        raise CheckpointError(f"{where} is missing in the file, so no class can be mapped.")
    expected = ((len(classes.there) + layer.extra) * layer.unit, *own.shape[1:])
    if tuple(theirs.shape) != expected:
        raise CheckpointError(
            f"{where} has the shape {tuple(theirs.shape)}, but for {len(classes.there)} classes "
            f"({', '.join(classes.there[:8])}{', ...' if len(classes.there) > 8 else ''}) it would "
            f"be {expected}. The weights are of another network or of other classes. Name a data "
            "set with their classes in train.init_classes_of."
        )
    result = own.clone().unflatten(0, (-1, layer.unit))
    given = theirs.to(result).unflatten(0, (-1, layer.unit))
    if classes.random == "weights":
        result.normal_(given.mean().item(), given.std(correction=0).item())
    for here, there in classes.pairs:
        result[here] = given[there]
    if layer.extra:  # background is last
        result[-layer.extra :] = given[-layer.extra :]
    return result.flatten(0, 1)


def _classes_of(cfg: DictConfig) -> list[str]:
    node = cfg.dataloader.train.dataset
    found = dataset_info(node.names, node.get("json"), node.get("image_root"))
    if found is None:
        raise ConfigError(
            f"The classes of dataloader.train.dataset.names={node.names} are not known, so none "
            "can be mapped by name. Set thing_classes in the data set's metadata."
        )
    return found
