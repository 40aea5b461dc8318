"""The result record: the outcome of a run, with everything needed to repeat it.

``docs/records.md`` is generated from the models below, which are the schema.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mask_rcnn_repro.errors import RecordError
from mask_rcnn_repro.records import provenance
from mask_rcnn_repro.utils.atomic import atomic_write_text

SCHEMA_VERSION = 4


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class ConfigInfo(_Section):
    """Which config was run."""

    id: str = Field(min_length=1, description="Path below `configs/` without suffix.")
    hash: str = Field(
        pattern=r"^[0-9a-f]{12,64}$",
        description="Hash of the resolved config without `paper` and the output folder.",
    )
    profile: str = Field(description="`paper`, `mini` or `tiny`.")
    overrides: list[str] = Field(
        description="Overrides of the command line; of absolute paths only the last part is kept."
    )


class TaskMetrics(BaseModel):
    """Metrics of one task in percent, null where there was nothing to measure.

    Beside the listed field each metric is a field of its own. COCO's are `AP` (mean over IoU 0.50
    to 0.95), `AP50`, `AP75` and, by the objects' size, `APs`, `APm`, `APl` (not `APs` for
    keypoints). Those of proposals are their average recall over the same IoUs, with the best 100,
    300 or 1000 an image: `AR@100`, `AR@300`, `AR@1000`, `ARs@1000`, `ARm@1000`, `ARl@1000`.
    """

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, frozen=True)
    __pydantic_extra__: dict[str, float | None]

    per_class: dict[str, float | None] = Field(
        default_factory=dict, description="AP by class name, percent; null: no such object."
    )

    def values(self) -> dict[str, float | None]:
        """Metric name to value, without the classes."""
        return dict(self.__pydantic_extra__ or {})


class SecondsPerImage(_Section):
    """Seconds an image takes in evaluation, averaged, without the first batches."""

    data: float = Field(ge=0, description="Waiting for the loader.")
    inference: float = Field(ge=0, description="The model, without pasting masks.")
    postprocess: float = Field(ge=0, description="Scaling boxes, pasting and encoding masks.")
    total: float = Field(ge=0, description="Sum of the parts.")


class CodeInfo(_Section):
    """State of this project's source code."""

    commit: str | None = Field(description="Git commit; null outside a checkout.")
    dirty: bool | None = Field(
        description="Whether files differ from the commit, `results/` aside; null without one."
    )


class Versions(_Section):
    """Versions of what ran."""

    python: str = Field(description="Python.")
    torch: str = Field(description="PyTorch, with its build tag.")
    torchvision: str | None = Field(description="torchvision.")
    detectron2: str | None = Field(description="Detectron2, or the wheel that carries it.")
    numpy: str | None = Field(description="NumPy.")
    pycocotools: str | None = Field(description="pycocotools.")
    mask_rcnn_repro: str = Field(description="This project.")


class DeviceInfo(_Section):
    """What the first process ran on."""

    type: Literal["cpu", "cuda"] = Field(description="Kind of device.")
    name: str = Field(description="Model of the GPU or the processor.")
    threads: int | None = Field(description="CPU threads of PyTorch; null on GPUs.")
    tf32: list[Literal["matmul", "convolution"]] | None = Field(
        None, description="What a GPU computes float32 in TF32 for; null on CPUs."
    )


class AmpInfo(_Section):
    """Mixed precision."""

    enabled: bool = Field(
        description="Whether it was used; false on a CPU without bf16 instructions."
    )
    dtype: Literal["bf16", "fp16"] | None = Field(description="Its type; null if not used.")


class DatasetInfo(_Section):
    """A data set and what identifies its content."""

    name: str = Field(description="Registered name; several are joined by `+`.")
    fingerprint: str = Field(
        pattern=r"^sha256:[0-9a-f]{64}$",
        description="Hash of the annotations; the same wherever the files lie.",
    )
    images: int = Field(ge=0, description="Images in it.")
    instances: int = Field(ge=0, description="Annotations in it, crowd regions included.")
    image_bits: int | None = Field(
        None, ge=8, le=16, description="Bits that its 16-bit images are scaled from; null: 8 bits."
    )


class CheckpointInfo(_Section):
    """The weights that the metrics belong to."""

    name: str = Field(description="File name or address.")
    sha256: str | None = Field(
        pattern=r"^[0-9a-f]{64}$", description="Hash of the file; null if it is no longer there."
    )


class InputRun(_Section):
    """A run that this one stands on: the RPN of its proposals, the source of its weights, or the
    teacher that generated annotations.
    """

    id: str = Field(min_length=1, description="Its config, as in `config.id`.")
    hash: str = Field(pattern=r"^[0-9a-f]{12,64}$", description="Its config's hash.")
    seed: int = Field(description="Its seed.")
    checkpoint: str | None = Field(
        pattern=r"^[0-9a-f]{64}$", description="SHA-256 of its weights; null if they do not say."
    )
    recall: dict[str, float | None] | None = Field(
        default=None,
        description="Average recall of an RPN on its own test data, percent; null if unmeasured.",
    )


class BestInfo(_Section):
    """The best evaluation of a training, whose weights are in `model_best.pth`."""

    metric: str = Field(description="`train.checkpointer.best`, such as `segm/AP`.")
    value: float = Field(description="Its highest value, in percent for COCO metrics.")
    iteration: int = Field(ge=0, description="Training iterations of these weights.")


class Record(_Section):
    """One run: what was run, on what, and what came out."""

    schema_version: Literal[1, 2, 3, 4] = Field(
        description="Version of this schema; 2 added `proposals` and `init_from`, 3 "
        "`generated_data` and `teacher`, 4 `best`."
    )
    created: str = Field(
        pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$", description="When the record was made, UTC."
    )
    mode: Literal["train", "eval"] = Field(
        description="`train`: trained, then evaluated; `eval`: evaluated a given checkpoint."
    )
    config: ConfigInfo = Field(description="See below.")
    seed: int = Field(description="`train.seed`.")
    iterations_done: int | None = Field(
        ge=0, description="Training iterations of the weights; null for weights that do not say."
    )
    iterations_planned: int = Field(ge=0, description="`train.max_iter`.")
    stopped_early: bool = Field(
        default=False, description="Whether `train.early_stopping` ended the training."
    )
    best: BestInfo | None = Field(
        default=None,
        description="What `train.checkpointer.best` kept; of an `eval`, if it is what was "
        "evaluated. Else null.",
    )
    training_seconds: float | None = Field(
        ge=0, description="Wall-clock seconds that the last start of the training took, else null."
    )
    metrics: dict[str, TaskMetrics] = Field(
        description="Task (`bbox`, `segm`, `keypoints`, `proposals`) to metrics; empty without "
        "annotations."
    )
    seconds_per_image: SecondsPerImage | None = Field(description="See below; null if unmeasured.")
    evaluator_backend: str | None = Field(
        description="What computed the metrics; null if the evaluator does not report it."
    )
    test_data: DatasetInfo | None = Field(description="What was evaluated on.")
    train_data: DatasetInfo | None = Field(
        description="What was trained on, generated annotations aside; null for `eval`."
    )
    generated_data: DatasetInfo | None = Field(
        default=None,
        description="Generated annotations that were trained on beside `train_data`, if any; its "
        "name is that of their images.",
    )
    checkpoint: CheckpointInfo | None = Field(description="See below.")
    proposals: InputRun | None = Field(
        default=None,
        description="RPN stage of a row that is trained stage by stage; null: proposes for itself.",
    )
    init_from: InputRun | None = Field(
        default=None,
        description="Run that gave the initial weights (`train.init_from`, or a pre-training stage "
        "in `train.init_checkpoint`), if any.",
    )
    teacher: InputRun | None = Field(
        default=None,
        description="Run whose model made `generated_data`; null also where these do not say.",
    )
    device: DeviceInfo = Field(description="See below.")
    world_size: int = Field(ge=1, description="Number of processes.")
    amp: AmpInfo = Field(description="See below.")
    code: CodeInfo = Field(description="See below.")
    versions: Versions = Field(description="See below.")

    @property
    def ran_to_its_end(self) -> bool:
        """Whether the weights are those of a whole training."""
        return self.stopped_early or self.iterations_done == self.iterations_planned

    @model_validator(mode="after")
    def _no_absolute_paths(self) -> Record:
        for where, text in _strings(self.model_dump()):
            if _ABSOLUTE_PATH.search(text):
                raise ValueError(f"{where} holds an absolute path ({text!r})")
        return self


# At the start, or behind a separator: an override such as `key=/data/x`, or a list of paths.
_ABSOLUTE_PATH = re.compile(
    r"(?:^|(?<=[\s=:,'\"\[({]))(?:file:/+|/(?!/)|~/|[A-Za-z]:[\\/](?!/))[^\s,'\"\])}]+"
)


def make_record(
    cfg: Any,
    *,
    config_id: str,
    profile: str,
    overrides: Sequence[str],
    mode: Literal["train", "eval"] | str,
    metrics: Mapping[str, Mapping[str, Any]],
    seconds_per_image: Mapping[str, float] | None,
    iterations_done: int | None,
    stopped_early: bool = False,
    best: Mapping[str, Any] | None = None,
    checkpoint: str | os.PathLike[str] | None,
    train_seconds: float | None = None,
    device: Any = "cpu",
    proposals: Mapping[str, Any] | None = None,
    init_from: Mapping[str, Any] | None = None,
    generated_data: Mapping[str, Any] | None = None,
    teacher: Mapping[str, Any] | None = None,
    evaluator_backend: str | None = None,
) -> Record:
    """Makes the record of a run. Looks up code, versions, hardware and data sets.

    The other arguments are the fields of :class:`Record` and :class:`ConfigInfo`.

    Args:
        cfg: The resolved config.
        overrides: As given on the command line.
        metrics: As evaluators return them. NaN becomes null.
        seconds_per_image: As the inference loop returns them.
        checkpoint: File or address of the evaluated weights.
        device: Device of the model.
        best: Fields of a :class:`BestInfo`.
        proposals, init_from, teacher: Fields of an :class:`InputRun`.
        generated_data: Fields of a :class:`DatasetInfo`.
        evaluator_backend: The `computed_by` of the evaluator.

    Raises:
        RecordError: The schema does not allow a value.
    """
    import torch
    from detectron2.utils import comm

    from mask_rcnn_repro.config import config_hash
    from mask_rcnn_repro.utils.precision import compute_dtype

    amp = cfg.train.get("amp") or {}
    asked = bool(amp.get("enabled", False)), amp.get("dtype", "bf16")
    enabled = compute_dtype(torch.device(device), *asked) != torch.float32
    content: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "mode": mode,
        "config": {
            "id": config_id,
            "hash": config_hash(cfg),
            "profile": profile,
            "overrides": [_without_folders(override) for override in overrides],
        },
        "seed": cfg.train.seed,
        "iterations_done": iterations_done,
        "iterations_planned": cfg.train.max_iter,
        "stopped_early": stopped_early,
        "best": dict(best) if best else None,
        "training_seconds": train_seconds,
        "metrics": {task: _nan_to_none(values) for task, values in metrics.items()},
        "seconds_per_image": dict(seconds_per_image) if seconds_per_image else None,
        "evaluator_backend": evaluator_backend,
        "test_data": provenance.dataset_info(cfg.dataloader.test),
        "train_data": provenance.dataset_info(cfg.dataloader.train) if mode == "train" else None,
        "checkpoint": provenance.checkpoint_info(checkpoint) if checkpoint else None,
        "proposals": dict(proposals) if proposals else None,
        "init_from": dict(init_from) if init_from else None,
        "generated_data": dict(generated_data) if generated_data else None,
        "teacher": dict(teacher) if teacher else None,
        "device": provenance.device_info(device),
        "world_size": comm.get_world_size(),
        "amp": {"enabled": enabled, "dtype": amp.get("dtype") if enabled else None},
        "code": provenance.code_info(),
        "versions": provenance.versions(),
    }
    return parse_record(content, "the new record")


Model = TypeVar("Model", bound=BaseModel)


def parse_record(content: Any, origin: str) -> Record:
    """Validates the content of a record. See :func:`validated`."""
    return validated(Record, content, origin, SCHEMA_VERSION, "is not a result record")


def validated(model: type[Model], content: Any, origin: str, version: int, fault: str) -> Model:
    """Validates the content of a file beside or with a record.

    Args:
        model: Schema of the content.
        content: Parsed JSON.
        origin: Where the content comes from, for the error.
        version: Highest `schema_version` that this version of the project reads.
        fault: What `origin` "is not" if the content does not follow the schema, for the error.

    Raises:
        RecordError: Names the offending fields (at most 20), or a schema that is too new.
    """
    found = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(found, int) and found > version:
        raise RecordError(
            f"{origin} has schema_version {found}; this version of the project reads up to "
            f"{version}. Read it with a newer version."
        )
    try:
        return model.model_validate(content)
    except ValidationError as error:
        lines = [
            f"  {'.'.join(str(part) for part in e['loc']) or 'content'}: {e['msg']}"
            for e in error.errors()[:20]
        ]
        raise RecordError(
            f"{origin} {fault} (docs/records.md describes the fields):\n" + "\n".join(lines)
        ) from error


def read_json(path: str | os.PathLike[str], what: str) -> Any:
    """Parses a JSON file.

    Raises:
        RecordError: The file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecordError(f"The {what} {os.fspath(path)!r} cannot be read: {error}.") from error


def save_record(record: Record, path: str | os.PathLike[str]) -> None:
    """Writes a record as JSON atomically, and creates its directory."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps(record.model_dump(mode="json"), indent=2, allow_nan=False)
    atomic_write_text(path, content + "\n")


def load_record(path: str | os.PathLike[str]) -> Record:
    """Reads and validates a record.

    Raises:
        RecordError: The file is missing, is not JSON, or does not follow the schema.
    """
    return parse_record(read_json(path, "record"), repr(os.fspath(path)))


def _nan_to_none(values: Mapping[str, Any]) -> dict[str, Any]:
    def converted(value: Any) -> Any:
        if isinstance(value, Mapping):
            return _nan_to_none(value)
        return None if value is None or math.isnan(value) else float(value)

    return {key: converted(value) for key, value in values.items()}


def _without_folders(override: str) -> str:
    """Shortens absolute paths to their last part."""
    return _ABSOLUTE_PATH.sub(lambda m: re.split(r"[\\/]", m[0].rstrip("\\/"))[-1], override)


def _strings(value: Any, where: str = "") -> list[tuple[str, str]]:
    if isinstance(value, str):
        return [(where, value)]
    if isinstance(value, dict):
        inner = [(f"{where}.{key}".lstrip("."), item) for key, item in value.items()]
    elif isinstance(value, list):
        inner = [(f"{where}[{index}]", item) for index, item in enumerate(value)]
    else:
        return []
    return [found for name, item in inner for found in _strings(item, name)]
