"""What `train.proposals` implies: a model trained on stored proposals has no RPN of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from mask_rcnn_repro.config.dotted_keys import format_key, known_params
from mask_rcnn_repro.config.overrides import parse_override
from mask_rcnn_repro.config.targets import locate_target
from mask_rcnn_repro.errors import ConfigError

_GENERATOR = "model.proposal_generator"
_COUNT = f"{_GENERATOR}.post_nms_topk"
_CROWD_OVERLAP = 0.7  # Detectron's TRAIN.CROWD_FILTER_THRESH


def use_stored_proposals(cfg: DictConfig, overrides: Iterable[str] = ()) -> None:
    """Sets, in place, what `train.proposals` implies (section 3.1, "RPN is trained separately").

    Config files always contain the RPN, so that `train.proposals=null` gives joint training.
    Otherwise its `post_nms_topk` gives the number of stored proposals per image in training and
    testing, and the RPN is removed. A :class:`~mask_rcnn_repro.modeling.SharedFeatureRCNN` keeps
    its RPN. Training omits proposals inside crowds, as Detectron does in stage-wise training only.

    Args:
        cfg: A config after all overrides. Without `train.proposals` it is not changed.
        overrides: As on the command line.

    Raises:
        ConfigError: An override changes the RPN, which has no effect on stored proposals; or the
            numbers of proposals are missing.
    """
    if cfg.train.get("proposals") is None:
        return
    given = {key: text for text in overrides for key in _changed(text)}
    for key, text in given.items():
        if f"{key}.".startswith(f"{_GENERATOR}.") and not f"{key}.".startswith(f"{_COUNT}."):
            raise ConfigError(
                f"{text!r} has no effect: the proposals are those of {cfg.train.proposals}. Change "
                "that RPN in a config of its own and name it in train.proposals, or train jointly "
                "with train.proposals=null."
            )
    if OmegaConf.select(cfg, _GENERATOR) is None:  # a saved config
        return
    keeps, counted = keeps_rpn(cfg), any(key.startswith(_COUNT) for key in given)
    for index, split in enumerate(("train",) if keeps else ("train", "test")):
        mapper = OmegaConf.select(cfg, f"dataloader.{split}.mapper")
        if not isinstance(mapper, DictConfig):  # reported by validation
            continue
        own = f"dataloader.{split}.mapper.precomputed_proposal_topk"
        if mapper.get("precomputed_proposal_topk") is None or (counted and own not in given):
            mapper.precomputed_proposal_topk = _count(cfg, index)
        if split == "train" and "crowd_overlap" not in mapper:
            place = ("dataloader", split, "mapper")
            if "crowd_overlap" in known_params(mapper, place)[0]:  # a mapper may be a user's own
                mapper.crowd_overlap = _CROWD_OVERLAP
    if not keeps:
        cfg.model.proposal_generator = None


def keeps_rpn(cfg: DictConfig) -> bool:
    """Whether the model has an RPN although it trains on stored proposals."""
    return model_is(cfg, "SharedFeatureRCNN")


def model_is(cfg: DictConfig, name: str) -> bool:
    """Whether the model is of the class of this name, or of a subclass."""
    target = cfg.model.get("_target_")
    if isinstance(target, str):
        try:
            target = locate_target(target)
        except ConfigError:  # reported by validation
            return False
    return any(c.__name__ == name for c in getattr(target, "__mro__", ()))


def _changed(text: str) -> Iterator[str]:
    """Keys that an override changes. A mapping is merged, so these are the keys inside it."""

    def leaves(key: str, value: Any) -> Iterator[str]:
        if not isinstance(value, Mapping) or "_target_" in value:
            yield key
            return
        for name, item in value.items():
            yield from leaves(f"{key}.{name}", item)

    override = parse_override(text)
    key = format_key(override.key)
    # Removing the RPN, or setting it to null, changes no key of it.
    if key != _GENERATOR or override.value is not None:
        yield from leaves(key, override.value)


def _count(cfg: DictConfig, index: int) -> int:
    counts = OmegaConf.select(cfg, _COUNT)
    count = counts[index] if isinstance(counts, ListConfig) and len(counts) == 2 else None
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ConfigError(
            f"{_COUNT} must be the numbers of proposals of {cfg.train.proposals} per image in "
            f"training and testing: two whole numbers from 1, such as [2000, 1000]. Got {counts}."
        )
    return count
