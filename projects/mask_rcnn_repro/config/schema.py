"""The top-level keys of a config and the typed `train` section.

To add a key of the `train` section, add a field with type, default and docstring below. Loading
then fills it in, overrides and validation check it, and the documentation lists it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args, get_origin

from omegaconf import DictConfig
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from mask_rcnn_repro.errors import ConfigError

REQUIRED_KEYS = ("model", "dataloader", "optimizer", "lr_multiplier", "train")
"""Top-level keys of every runnable config."""

ABOUT_KEYS: dict[str, tuple[str, ...]] = {
    "paper": ("table", "row", "control", "counterpart"),
    "ablation": ("control", "metric", "expect", "margin"),
}
"""Sections that say what a config is compared with, and their keys. They are not hashed."""

EXPECTATIONS = ("greater", "equal", "at_least")
"""Values of `ablation.expect`: what is expected of a config's metric against its control's."""

TOP_LEVEL_KEYS = (*REQUIRED_KEYS, *ABOUT_KEYS)

DATALOADER_KEYS = ("train", "test", "evaluator")

NULLABLE = frozenset({"model.proposal_generator"})
"""Keys that may be null although the annotation of their target does not allow it.

`model.proposal_generator` is null if proposals come from files.
"""

RUNTIME_KEYS = frozenset({"optimizer.params.model", "dataloader.evaluator.output_dir"})
"""Parameters that the engine sets when it builds an object. A config may omit them."""


class Section(BaseModel):
    """Base of the sections: no keys besides the fields, no conversion between types."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)


class Amp(Section):
    """Mixed precision."""

    enabled: bool = False
    """Run forward passes in reduced precision."""
    dtype: Literal["bf16", "fp16"] = "bf16"
    """Reduced precision: `bf16` (CPU and GPU) or `fp16` (GPU only).

    A CPU without bf16 instructions computes in float32 instead, which is far faster there."""


class Ddp(Section):
    """Options of DistributedDataParallel."""

    broadcast_buffers: bool = False
    """Broadcast the buffers of the first process before each forward pass."""
    find_unused_parameters: bool = False
    """Allow parameters that take no part in a loss; slower."""
    fp16_compression: bool = False
    """Exchange fp16 gradients."""


class ClipGradients(Section):
    """Limits of the gradients of one iteration, applied before the optimizer steps."""

    value: float | None = Field(default=None, gt=0)
    """Clamp each element of a gradient to this absolute value. null: no limit."""
    norm: float | None = Field(default=None, gt=0)
    """Scale all gradients down together if their common L2 norm exceeds this, after `value`. The
    norm before scaling is logged as `gradient_norm`. null: no limit."""


class Checkpointer(Section):
    """When checkpoints are written and how many are kept."""

    period: int = Field(default=5000, ge=1)
    """Iterations between checkpoints."""
    max_to_keep: int = Field(default=3, ge=1)
    """Number of newest checkpoints to keep."""
    best: str | None = None
    """Evaluation metric, such as `segm/AP`. The checkpoint with its highest value is kept as
    `model_best.pth`, beside `max_to_keep` others. null: none."""


class Ema(Section):
    """Exponential moving average of the weights."""

    decay: float | None = Field(default=None, gt=0, lt=1)
    """Average weights and norm statistics over the iterations with this decay, such as 0.999. The
    averaged model is evaluated and is the `model` of every checkpoint. null: no average."""


class EarlyStopping(Section):
    """When a training ends before `max_iter`."""

    metric: str | None = None
    """Evaluation metric, such as `segm/AP`. The training ends if it makes no progress. null: the
    training goes on to `max_iter`."""
    patience: int = Field(default=5, ge=1)
    """Number of consecutive evaluations without progress after which the training ends."""
    min_delta: float = Field(default=0.0, ge=0)
    """Percentage points by which the best value must be exceeded to count as progress."""


class Tta(Section):
    """Test-time augmentation."""

    enabled: bool = False
    """Merge predictions of several sizes and mirrored views. In a training run this applies to the
    last evaluation. `--tta` sets it."""
    sizes: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] | None = None
    """Shorter edges of the views. null: nine steps from 0.5 to 1.5 times the shorter edge of test
    images, such as 400, 500, ... 1200 for 800."""
    flip: bool = True
    """Add a mirrored view of every size."""
    max_size: int = Field(default=4000, ge=1)
    """Limit of the longer edge of a view."""
    views_per_batch: int = Field(default=2, ge=1)
    """Views of one size per forward pass; bounds memory."""
    vote_iou: float | None = Field(default=None, gt=0, le=1)
    """Average each merged box with the candidates of all views that overlap it at least this much,
    such as 0.9, weighted by score. null: no box voting."""
    average_boxes: bool = False
    """Average scores and boxes of each stored proposal over the views. The model has no RPN."""


class Verify(Section):
    """What `--verify` compares an evaluation with."""

    tolerance: float = Field(default=0.5, ge=0)
    """Allowed difference of AP (or average recall of proposals) in percentage points. Finer metrics
    (AP50, APs, single classes, ...) may differ by twice as much."""
    expected: dict[str, float] | None = None
    """Expected numbers in percent by task/metric, such as `{segm/AP: 33.3, bbox/AP50: 55}`. null:
    those of the paper's row."""


class Train(Section):
    """How a run is executed."""

    output_dir: str = ""
    """Directory that the run writes to. Empty: `<output_root>/<id>@<profile>/seed<k>`, followed by
    a hash of the overrides, if any."""
    output_root: str = "output"
    """Directory of all runs, including those that this one depends on."""
    init_checkpoint: str = ""
    """Weights to start from or to evaluate: a file, an address, or `stage://<config>` for those of
    a pre-training stage, which is run first if necessary. Empty: random weights."""
    published_weights: bool = True
    """Start from the published weights of a pre-training stage if they are of its config. false:
    train the stage here. A finished stage in `output_root` takes precedence."""
    statistics_from: str | None = None
    """Pre-training stages: config (id or path) on whose training images the statistics of batch
    norm are estimated after the training. null: those of the training."""
    statistics_batches: int = Field(default=50, ge=1)
    """Number of batches that these statistics are estimated on."""
    strict_init: bool = True
    """Require the initial checkpoint to fill the whole backbone, and to fit every other part that
    it contains. false starts at random what does not fit."""
    proposals: str | None = None
    """RPN config (id or path) whose stored proposals are used for training and testing. Missing
    ones are made first. null: train the RPN jointly."""
    init_from: str | None = None
    """Config (id or path) whose finished run gives the initial weights instead of
    `init_checkpoint`. A missing run is run first."""
    init_classes: dict[str, str | None] | None = None
    """Maps each class to a class of the initial weights. `{}` matches by name; a null entry
    initializes the class randomly. null: the classes are the same."""
    init_classes_of: str | None = None
    """Data set whose classes the initial weights have. null: the training data of `init_from`."""
    init_classes_random: Literal["layer", "weights"] = "layer"
    """How classes without a source start. `layer`: as in a new layer. `weights`: normal, with mean
    and deviation of all outputs of that layer in the initial weights, as in Detectron."""
    freeze: list[str] = []
    """Modules, such as `backbone`, whose weights and norm statistics do not change."""
    max_iter: int = Field(ge=0)
    """Training iterations (optimizer steps)."""
    accumulate: int = Field(default=1, ge=1)
    """Number of batches whose gradients make one iteration."""
    clip_gradients: ClipGradients = ClipGradients()
    scale_lr: bool = False
    """Multiply the learning rate by images per iteration / `reference_batch_size`."""
    profile: str = "paper"
    """Profile that scaled this config. Loading sets it; it cannot be changed."""
    reference_batch_size: int = Field(default=16, ge=1)
    """Images per iteration for which the learning rate is given."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of every source of randomness."""
    stage_seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    """Seed of the runs that this one depends on: RPN stage, initial weights, teacher. null: the
    remainder of `seed` divided by 2, so that seeds share two of each in rotation."""
    deterministic: bool = False
    """Use deterministic algorithms where available and warn elsewhere. Slower on a GPU."""
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """`auto` (CUDA if available, else CPU), `cpu`, `cuda` or `cuda:N`."""
    num_threads: Annotated[int, Field(ge=1)] | None = None
    """CPU threads of a process. null: `OMP_NUM_THREADS`, else one for each usable core, and fewer
    while other processes keep cores busy (unless `deterministic`)."""
    process_timeout: int = Field(default=1800, ge=1)
    """Seconds that a process waits for the others before it ends with an error. Must exceed the
    time in which the first process computes metrics."""
    amp: Amp = Amp()
    ddp: Ddp = Ddp()
    checkpointer: Checkpointer = Checkpointer()
    ema: Ema = Ema()
    early_stopping: EarlyStopping = EarlyStopping()
    eval_period: int = Field(default=5000, ge=0)
    """Iterations between evaluations. 0: only at the end."""
    check_data: bool = True
    """Check the data before training and log problems. `tools/check_data.py` reports more."""
    log_period: int = Field(default=20, ge=1)
    """Iterations between log lines."""
    writers: list[Literal["tensorboard", "csv", "wandb", "mlflow", "trackio"]] = ["tensorboard"]
    """What metrics, results and drawn images are written to, beside `metrics.json`. `wandb`,
    `mlflow` and `trackio` need the extra of that name."""
    optimize_inference: bool = True
    """Evaluate a copy of the model with folded norms and fused layers; a CPU evaluates two images
    concurrently. Faster, and equal up to rounding."""
    tta: Tta = Tta()
    verify: Verify = Verify()
    draw: int = Field(default=0, ge=0)
    """Number of test images to draw beside their ground truth after the final evaluation."""
    compile: Literal["off", "heads", "all"] = "off"
    """Parts of the model that PyTorch compiles for training: `heads` are the RPN head, the box head
    and `res5`, `all` includes the backbone. Equal up to rounding."""
    channels_last: bool = False
    """Use the channels-last layout on a GPU. CPUs always do."""


def section_of(field: FieldInfo | None) -> type[Section] | None:
    """The class of a field that is a nested section, else None."""
    annotation: Any = None if field is None else field.annotation
    is_section = isinstance(annotation, type) and issubclass(annotation, Section)
    return annotation if is_section else None


def train_fields(path: tuple[str, ...] = ()) -> dict[str, FieldInfo] | None:
    """The fields of the `train` section or of a section below it.

    Args:
        path: Keys below `train`, such as `("amp",)`.

    Returns:
        Fields by name; None if `path` is not a section.
    """
    section: type[Section] = Train
    for key in path:
        nested = section_of(section.model_fields.get(key))
        if nested is None:
            return None
        section = nested
    return dict(section.model_fields)


def train_defaults() -> dict[str, Any]:
    """Defaults of the keys of `train` as nested plain data. `max_iter` has no default."""
    return Train.model_construct().model_dump()


def check_train_value(path: tuple[str, ...], value: Any) -> str | None:
    """Checks one value of the `train` section.

    Args:
        path: Keys below `train` that name a field.
        value: Plain data.

    Returns:
        What is wrong, or None.
    """
    fields = train_fields(path[:-1])
    if fields is None:  # an entry of a mapping, such as `init_classes`
        holder = (train_fields(path[:-2]) or {}).get(path[-2]) if len(path) > 1 else None
        kinds = () if holder is None else (holder.annotation, *get_args(holder.annotation))
        if dict in [get_origin(kind) for kind in kinds]:
            return check_train_value(path[:-1], {path[-1]: value})
    field = None if fields is None else fields.get(path[-1])
    if field is None:
        return "is not a key of the train section"
    section = section_of(field)
    if section is not None and not isinstance(value, dict):
        return (
            f"is a section with the keys {', '.join(section.model_fields)}; set one of them, got "
            f"{value!r}"
        )
    annotation: Any = field.annotation
    if field.metadata:  # limits such as ge=1
        annotation = Annotated[(annotation, *field.metadata)]
    try:
        TypeAdapter(annotation).validate_python(value, strict=True)
    except ValidationError as failure:
        error = failure.errors()[0]  # of a union, the first is about the type that is not null
        message = str(error["msg"]).removeprefix("Input should be ")
        if error["type"] == "string_pattern_mismatch":
            message = "a device: auto, cpu, cuda or cuda:N"
        return f"must be {message}, got {error['input']!r}"
    return None


def fill_train_defaults(train: Any) -> None:
    """Sets the missing keys of the `train` section to their defaults, in place.

    Args:
        train: The section as a DictConfig.

    Raises:
        ConfigError: `train` is not a mapping.
    """
    if not isinstance(train, DictConfig):
        raise ConfigError(f"train must be a section: train = dict(max_iter=...). Got {train!r}.")

    def fill(node: Any, defaults: dict[str, Any]) -> None:
        for key, default in defaults.items():
            present = node._get_node(key)  # `in` is False for interpolations that do not resolve
            if present is None:
                node[key] = default
            elif isinstance(default, dict) and isinstance(present, DictConfig):
                fill(node[key], default)

    fill(train, train_defaults())
