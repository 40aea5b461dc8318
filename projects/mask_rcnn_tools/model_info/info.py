"""Parameters and FLOPs of a config's model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig, OmegaConf

from mask_rcnn_repro.config.from_data import fit_to_data
from mask_rcnn_repro.config.stored_proposals import keeps_rpn
from mask_rcnn_repro.engine.builders import build_model
from mask_rcnn_repro.engine.dependencies import find_rpn
from mask_rcnn_repro.errors import ConfigError, DataError
from mask_rcnn_tools.model_info.flops import BackboneCache, count_flops
from mask_rcnn_tools.model_info.parts import PARTS, Part, count_parameters

_ASPECT = 4 / 3  # of COCO's most frequent size, 640 x 480


@dataclass(frozen=True)
class Workload:
    """Input that FLOPs are counted for.

    Attributes:
        height: Height of the network's input before padding, in pixels.
        width: Width of the network's input before padding, in pixels.
        proposals: Proposals per image.
        detections: Detections per image.
    """

    height: int
    width: int
    proposals: int
    detections: int


@dataclass
class ModelInfo:
    """Parameters and FLOPs of a model.

    Attributes:
        config: Name of the config.
        workload: Input that FLOPs are counted for.
        networks: Costs by network ("detector", "RPN rpn/r50_fpn") and part.
        uncounted: Numbers of calls of operators with unknown FLOPs.
        notes: Remarks for the reader.
    """

    config: str
    workload: Workload
    networks: dict[str, dict[str, Part]]
    uncounted: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    @property
    def total(self) -> Part:
        """Sum of all networks."""
        return added([part for parts in self.networks.values() for part in parts.values()])


def added(parts: Sequence[Part]) -> Part:
    """Returns the sum of parts."""
    flops: Counter[str] = Counter()
    for part in parts:
        flops.update(part.flops)
    return Part(
        sum(part.parameters for part in parts), sum(part.trainable for part in parts), dict(flops)
    )


def model_info(
    cfg: DictConfig,
    name: str,
    image_size: Sequence[int] | None = None,
    proposals: int | None = None,
    detections: int | None = None,
    alone: bool = False,
    overrides: Sequence[str] = (),
    cache: BackboneCache | None = None,
) -> ModelInfo:
    """Counts the parameters and FLOPs of a config's model.

    Args:
        cfg: Config from :func:`~mask_rcnn_repro.config.load_config`. Classes and keypoints are
            fitted to its data if that exists.
        name: Name of the config.
        image_size: H and W of the network's input; None: an image of 3:4 as the config's test
            augmentation resizes it.
        proposals: Proposals per image; None: the config's number.
        detections: Detections per image; None: the config's limit.
        alone: Whether to omit the RPN of a stage-wise row.
        overrides: Overrides of the command line.
        cache: See :func:`~mask_rcnn_tools.model_info.flops.count_flops`.

    Raises:
        ConfigError: The model cannot be built, or its image size is unknown.
    """
    notes = []
    try:
        cfg = fit_to_data(cfg, overrides)
    except DataError as error:
        reason = str(error).splitlines()[0]
        notes.append(f"{name}: classes and keypoints are the config's, not the data's ({reason})")
    networks = {"detector": cfg}
    stage_wise = cfg.train.proposals is not None and not keeps_rpn(cfg)
    if OmegaConf.select(cfg, "model.roi_heads") is None:
        networks = {"RPN": cfg}
    elif stage_wise and not alone:
        rpn = find_rpn(cfg, torch.device("cpu"))
        networks = {f"RPN {rpn.config_id}": rpn.cfg, **networks}
    elif stage_wise:
        notes.append(f"{name}: without its RPN, {cfg.train.proposals}")
    workload = _workload(cfg, image_size, proposals, detections)
    info = ModelInfo(name, workload, {}, notes=notes)
    cache = {} if cache is None else cache
    for network, own in networks.items():
        model = build_model(own, torch.device("cpu")).eval()
        parts = count_parameters(model)
        flops = count_flops(
            model, workload.height, workload.width, workload.proposals, workload.detections, cache
        )
        for part, counts in flops.by_part.items():
            if counts:
                parts.setdefault(part, Part()).flops = dict(counts)
        info.networks[network] = {part: parts[part] for part in PARTS if part in parts}
        info.uncounted.update(flops.uncounted)
    return info


def _workload(
    cfg: DictConfig, image_size: Sequence[int] | None, proposals: int | None, detections: int | None
) -> Workload:
    if image_size is None:
        image_size = _test_size(cfg)
    limit = OmegaConf.select(cfg, "model.roi_heads.box_predictor.test_topk_per_image")
    if proposals is None:
        generator = OmegaConf.select(cfg, "model.proposal_generator.post_nms_topk")
        stored = OmegaConf.select(cfg, "dataloader.test.mapper.precomputed_proposal_topk")
        proposals = int(generator[1]) if generator is not None else int(stored or 1000)
    height, width = image_size
    return Workload(height, width, proposals, detections or int(limit or 100))


def _test_size(cfg: DictConfig) -> tuple[int, int]:
    """Returns the size of a 480 x 640 image after the config's test augmentation."""
    for node in OmegaConf.select(cfg, "dataloader.test.mapper.augmentations") or []:
        augmentation = instantiate(node)
        edges = getattr(augmentation, "short_edge_length", None)
        if edges:
            short = min(edges)
            longest = min(math.floor(short * _ASPECT + 0.5), int(augmentation.max_size))
            return min(short, math.floor(longest / _ASPECT + 0.5)), longest
    raise ConfigError(
        "The image size is unknown: dataloader.test.mapper.augmentations has no "
        "ResizeShortestEdge. Give --image-size H W."
    )
