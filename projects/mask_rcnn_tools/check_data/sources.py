"""Reads the data to check: that of a config, as `train_net.py` uses it, or a json and a directory.

A data set that cannot be read is a finding. The other data sets are still checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from detectron2.data import MetadataCatalog
from omegaconf import DictConfig, OmegaConf

from mask_rcnn_repro.config import load_config
from mask_rcnn_repro.config.from_data import fit_to_data
from mask_rcnn_repro.data.datasets import dataset_info, dataset_keypoints, register_names
from mask_rcnn_repro.data.keypoint_metadata import KeypointSet
from mask_rcnn_repro.data.registration import coco_parts, read_registered
from mask_rcnn_repro.errors import UserError
from mask_rcnn_tools.check_data.findings import Report
from mask_rcnn_tools.check_data.tables import AnnotationTable, read_table, table_of_dicts

SPLITS = ("train", "test")


@dataclass
class Wanted:
    """What a model needs from its data.

    Attributes:
        heads: Its branches, of `"mask"` and `"keypoint"`.
        num_classes: Number of classes of its classifier. None without a classifier or a model.
    """

    heads: frozenset[str] = frozenset()
    num_classes: int | None = None


@dataclass
class Sources:
    """The tables that could be read.

    Attributes:
        wanted: What the model needs.
        tables: Tables by split.
        keypoints: Keypoints of each table's data set, in the order of the tables.
    """

    wanted: Wanted = field(default_factory=Wanted)
    tables: dict[str, list[AnnotationTable]] = field(
        default_factory=lambda: {s: [] for s in SPLITS}
    )
    keypoints: dict[str, list[KeypointSet | None]] = field(
        default_factory=lambda: {s: [] for s in SPLITS}
    )


def sources_of_config(
    config_file: str,
    profile: str,
    overrides: Sequence[str],
    report: Report,
    seed: int | None = None,
) -> Sources:
    """Reads the training and test data of a config.

    Args:
        config_file: As for `train_net.py`.
        profile: As for `train_net.py`.
        overrides: As for `train_net.py`.
        report: Findings about data that cannot be read or contradicts the model are added.
        seed: As for `train_net.py`.

    Raises:
        ConfigError: The config itself cannot be used.
    """
    cfg = load_config(config_file, profile, overrides, seed=seed)
    try:
        cfg = fit_to_data(cfg, overrides)
    except UserError as error:
        report.add("config-and-data", "train and test", config_file, [str(error)])
    return sources_of(cfg, report)


def sources_of(cfg: DictConfig, report: Report) -> Sources:
    """Reads the training and test data of a loaded config; see :func:`sources_of_config`."""
    found = Sources(_wanted(cfg))
    for split in SPLITS:
        node = cfg.dataloader[split].dataset
        json, root = node.get("json"), node.get("image_root")
        try:
            names = register_names(
                node.names if isinstance(node.names, str) else list(node.names), json, root
            )
        except UserError as error:
            report.add("not-readable", split, str(node.names), [str(error)])
            continue
        for name in names:
            try:
                _read(name, node, split, found)
            except UserError as error:
                report.add("not-readable", split, name, [str(error)])
        generated = node.get("generated")
        if generated is not None:
            _read_generated(cfg, str(generated), split, found, report)
    return found


def sources_of_json(json_file: str, image_root: str, report: Report) -> Sources:
    """Reads one annotation file. Its split is `"data"`.

    Raises:
        DataError: The file cannot be read.
    """
    found = Sources(tables={"data": []}, keypoints={"data": []})
    try:
        table = read_table(json_file, image_root)
    except UserError as error:
        report.add("not-readable", "data", json_file, [str(error)])
        return found
    from mask_rcnn_tools.check_data.annotation_checks import keypoints_of

    found.tables["data"].append(table)
    found.keypoints["data"].append(keypoints_of(table))
    return found


def _wanted(cfg: DictConfig) -> Wanted:
    heads = frozenset(
        head
        for head in ("mask", "keypoint")
        if OmegaConf.select(cfg, f"model.roi_heads.{head}_head") is not None
    )
    return Wanted(heads, OmegaConf.select(cfg, "model.roi_heads.num_classes"))


def _read(name: str, node: DictConfig, split: str, found: Sources) -> None:
    parts = coco_parts(name)
    keypoints = None
    if "keypoint" in found.wanted.heads:
        keys = ("json", "image_root", "flip_pairs", "oks_sigmas")
        given = {key: node.get(key) for key in keys if node.get(key) is not None}
        plain = {
            k: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for k, v in given.items()
        }
        keypoints = dataset_keypoints(name, **plain)
    if parts is None:
        dicts = read_registered(name)
        classes = MetadataCatalog.get(name).get("thing_classes") or dataset_info(name) or ()
        tables = [table_of_dicts(dicts, list(classes), name)]
    else:
        many = len(parts) > 1
        tables = [
            read_table(
                part.json_file, part.image_root, f"{name} ({part.json_file})" if many else name
            )
            for part in parts
        ]
    found.tables[split] += tables
    found.keypoints[split] += [keypoints] * len(tables)


def _read_generated(cfg: DictConfig, file: str, split: str, found: Sources, report: Report) -> None:
    from mask_rcnn_repro.data.generated.annotations import generated_source
    from mask_rcnn_repro.data.generated.mixed_dataset import image_root_of

    try:
        given = cfg.dataloader[split].dataset.get("generated_images")
        root = image_root_of(generated_source(file), given)
        found.tables[split].append(read_table(file, root))
        found.keypoints[split].append(None)
    except UserError as error:
        report.add("not-readable", split, file, [str(error)])
