"""Save checkpoints atomically and load them without running code, checked against the model."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import parse_qs, urlparse

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from detectron2.layers import FrozenBatchNorm2d
from fvcore.common.checkpoint import _filter_reused_missing_keys, _IncompatibleKeys
from torch import nn

from mask_rcnn_repro.config.config_files import CONFIG_FILE
from mask_rcnn_repro.engine.checkpoint.safe_load import (
    safe_pickle_load,
    safe_torch_load,
    safetensors_load,
)
from mask_rcnn_repro.errors import CheckpointError, StorageError
from mask_rcnn_repro.utils.atomic import atomic_write, atomic_write_text, clean_leftovers
from mask_rcnn_repro.utils.checkpoint_paths import local_path
from mask_rcnn_repro.utils.disk_errors import free_megabytes, save_tensors

logger = logging.getLogger(__name__)

Policy = Literal["exact", "init", "relaxed"]

FINAL_CHECKPOINT = "model_final.pth"  # the weights after the last iteration
POINTER = "last_checkpoint"  # the file that names the last checkpoint of a directory


class SafeCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with atomic saves, safe loading and a strictness policy.

    Reads the files that Detectron2 reads: ``.pth`` (a checkpoint or a bare state dict), ``.pyth``
    (pycls) and ``.pkl`` (Detectron2's model zoo, Detectron's Caffe2 blobs, ImageNet weights), local
    or from ``detectron2://`` and ``https://`` addresses, and ``.safetensors``. Matches names in
    files that ask for it.

    The policy decides which differences between file and model raise an error:

    - ``exact`` (evaluation, resuming): Every missing, unexpected or misshapen weight.
    - ``init`` (training from `train.init_checkpoint`): Every weight of the backbone that is not
      filled. With FPN this is its bottom-up network. Blocks that are added to pre-trained
      classifiers (modules with `added_to_pretrained`) may be absent. Also other parts, such as
      `roi_heads.mask_head`, of which the file holds only some weights of the model.
    - ``relaxed``: None. Differences are logged.

    No policy counts pixel means, pixel standard deviations and cell anchors, which models take from
    their config, and the batch counters of batch norm.

    If a load fails, the weights of the model are undefined.

    Args:
        model: The model, bare or wrapped for distributed training.
        save_dir: Local directory for checkpoints. Created at the first save.
        policy: Default policy of :meth:`load`.
        save_to_disk: Whether :meth:`save` writes. By default only the main process does.
        **checkpointables: Objects with ``state_dict`` and ``load_state_dict`` to save and restore.

    Raises:
        CheckpointError: The policy is unknown.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        policy: Policy = "exact",
        save_to_disk: bool | None = None,
        **checkpointables: Any,
    ) -> None:
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.policy = _checked_policy(policy)
        self._given_path = ""
        self._adapt: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] | None = None
        self._wanted: list[str] = []
        if self.save_to_disk and save_dir:
            clean_leftovers(save_dir)

    def save(self, name: str, *, last: bool = True, **kwargs: Any) -> None:
        """Writes ``<save_dir>/<name>.pth``, then points ``last_checkpoint`` to it.

        Args:
            name: File name without suffix.
            last: Whether ``last_checkpoint`` changes.
            **kwargs: Other values to save: plain containers, numbers, strings, arrays, tensors.

        Raises:
            StorageError: The disk is full or not writable. Previous checkpoints are untouched.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        states = {key: obj.state_dict() for key, obj in self.checkpointables.items()}
        data = {"model": self.model.state_dict(), **states, **kwargs}
        file_name = f"{name}.pth"
        if os.path.basename(file_name) != file_name:
            raise ValueError(f"a checkpoint's name may not contain a folder, got {name!r}")
        target = Path(self.save_dir, file_name)
        target.parent.mkdir(parents=True, exist_ok=True)
        self.logger.info("Saving checkpoint to %s", target)
        try:
            with atomic_write(target) as file:
                save_tensors(file, data)
            if last:
                self.tag_last_checkpoint(file_name)
        except OSError as error:
            raise StorageError(
                f"The checkpoint {target} could not be written: {error.strerror or error} "
                f"({free_megabytes(target.parent)} MB are free there). Earlier checkpoints are "
                "untouched. Free some space; --resume continues from the last one."
            ) from error

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Points ``last_checkpoint`` to a file, which must be complete."""
        atomic_write_text(Path(self.save_dir, POINTER), last_filename_basename)

    def has_checkpoint(self) -> bool:
        """Returns whether the directory has a last checkpoint. See :func:`find_last_checkpoint`."""
        return find_last_checkpoint(self.save_dir) is not None

    def get_checkpoint_file(self) -> str:
        """Returns the path of the last checkpoint, empty if there is none."""
        return str(find_last_checkpoint(self.save_dir) or "")

    def load(
        self,
        path: str,
        checkpointables: list[str] | None = None,
        *,
        policy: Policy | None = None,
        adapt: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] | None = None,
    ) -> dict[str, Any]:
        """Loads weights and the named checkpointables.

        Args:
            path: File or address. If empty, nothing is loaded; ``exact`` does not allow this.
            checkpointables: Names of the objects to restore, which ``exact`` requires. Default all.
            policy: Overrides the policy of the constructor.
            adapt: Changes the weights, named as in the model, before they are loaded.

        Returns:
            The other content of the file, such as ``iteration``.

        Raises:
            CheckpointError: The file is missing, unsafe or damaged, or the policy does not accept
                it. The message lists all offending weights with their shapes.
        """
        path = os.fspath(path)
        previous, self.policy = self.policy, _checked_policy(policy or self.policy)
        self._given_path, self._adapt = path, adapt
        self._wanted = list(self.checkpointables) if checkpointables is None else checkpointables
        try:
            if not path and self.policy == "exact":
                raise CheckpointError("No checkpoint was given. Give the path of a .pth or .pkl.")
            if path:
                local_path(path)
            return super().load(path, checkpointables)
        except CheckpointError:
            raise
        except (ValueError, KeyError, TypeError, RuntimeError, AssertionError, OSError) as error:
            raise CheckpointError(
                f"Checkpoint {path!r} does not fit: {type(error).__name__}: {error}. It may come "
                "from another model, optimizer or version; give one that this config wrote."
            ) from error
        finally:
            self.policy = previous
            self._parsed_url_during_load = None

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Resumes (``exact``) if asked to and possible, otherwise loads the weights in `path`."""
        if resume and self.has_checkpoint():
            return self.load(self.get_checkpoint_file(), policy="exact")
        return self.load(path, checkpointables=[])

    def _load_file(self, filename: str) -> dict[str, Any]:
        suffix = Path(filename).suffix
        if suffix == ".pkl":
            checkpoint = _zoo_checkpoint(self._mapping(safe_pickle_load(filename)))
        elif suffix == ".safetensors":
            checkpoint = {"model": safetensors_load(filename), "matching_heuristics": True}
        elif suffix == ".pyth":
            checkpoint = self._pycls_checkpoint(self._mapping(safe_torch_load(filename)))
        else:
            checkpoint = self._mapping(safe_torch_load(filename))
            if "model" not in checkpoint:
                checkpoint = {"model": checkpoint}
            self._apply_query(checkpoint)
        self._check_weights(checkpoint["model"])
        return checkpoint

    def _torch_load(self, f: str) -> Any:
        return safe_torch_load(f)

    def _load_model(self, checkpoint: dict[str, Any]) -> _IncompatibleKeys:
        if self.policy == "exact":
            absent = [key for key in self._wanted if key not in checkpoint]
            if absent:
                raise CheckpointError(
                    f"Checkpoint {self._given_path!r} holds no state of {', '.join(absent)}, so "
                    "training cannot be resumed from it. Give it as train.init_checkpoint instead."
                )
        if checkpoint.pop("matching_heuristics", False):
            # not by the base class, which loses the shapes of misfits
            self._convert_ndarray_to_tensor(checkpoint["model"])
            checkpoint["model"] = align_and_update_state_dicts(
                self.model.state_dict(),
                checkpoint["model"],
                c2_conversion=checkpoint.get("__author__") == "Caffe2",
            )
        if self._adapt is not None:
            self._convert_ndarray_to_tensor(checkpoint["model"])
            checkpoint["model"] = self._adapt(checkpoint["model"])
        self._check_values(checkpoint["model"])
        shapes = {key: tuple(value.shape) for key, value in checkpoint["model"].items()}
        incompatible = self._without_tolerated(super()._load_model(checkpoint))
        incompatible = self._with_misfits(incompatible, shapes)
        self._enforce(incompatible, shapes)
        return incompatible

    def _mapping(self, loaded: Any) -> dict[str, Any]:
        if not isinstance(loaded, dict):
            raise CheckpointError(
                f"Checkpoint {self._given_path!r} holds a {type(loaded).__name__}, not a "
                "dictionary of weights. Give a file with a state dict."
            )
        return loaded

    def _pycls_checkpoint(self, loaded: dict[str, Any]) -> dict[str, Any]:
        if "model_state" not in loaded:
            raise CheckpointError(
                f"Checkpoint {self._given_path!r} has no 'model_state', which a .pyth file of "
                "pycls holds. Rename it to .pth if it is a PyTorch checkpoint."
            )
        state = self._mapping(loaded["model_state"])
        weights = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
        return {"model": weights, "__author__": "pycls", "matching_heuristics": True}

    def _apply_query(self, checkpoint: dict[str, Any]) -> None:
        """Applies ``?matching_heuristics=True`` at the end of an address, as Detectron2 does."""
        queries = parse_qs(urlparse(self._given_path).query)
        if queries.pop("matching_heuristics", ["False"]) == ["True"]:
            checkpoint["matching_heuristics"] = True
        if queries:
            raise CheckpointError(
                f"Unknown {', '.join(queries)} in {self._given_path!r}; allowed behind the '?' is "
                "matching_heuristics=True."
            )

    def _check_weights(self, weights: Any) -> None:
        wrong = [
            f"{key}: {type(value).__name__}"
            for key, value in self._mapping(weights).items()
            if not isinstance(key, str) or not isinstance(value, np.ndarray | torch.Tensor)
        ]
        if wrong:
            raise CheckpointError(
                f"Checkpoint {self._given_path!r} holds values that are no weights: "
                f"{_listed(wrong)}. Save the model's state dict alone, or below the key 'model'."
            )

    def _check_values(self, weights: dict[str, Any]) -> None:
        """Checks that all weights are finite floats."""
        tensors = {k: torch.as_tensor(v) for k, v in weights.items()}
        wrong = [k for k, v in tensors.items() if not torch.isfinite(v).all()]
        if wrong:
            raise CheckpointError(
                f"Checkpoint {self._given_path!r} holds NaN or infinity: {_listed(wrong)}. The "
                "training that wrote it has diverged, or the file is damaged; give an earlier one."
            )
        own = self.model.state_dict()
        kinds = [
            f"{key}: {str(value.dtype).removeprefix('torch.')}"
            for key, value in tensors.items()
            if value.is_complex()
            or (key in own and own[key].is_floating_point() and not value.is_floating_point())
        ]
        if kinds:
            raise CheckpointError(
                f"Checkpoint {self._given_path!r} holds other numbers than the model's floats: "
                f"{_listed(kinds)}. Give a checkpoint whose weights are floats."
            )

    def _without_tolerated(self, incompatible: _IncompatibleKeys) -> _IncompatibleKeys:
        modules = dict(self.model.named_modules())

        def tolerated(key: str) -> bool:
            owner, _, name = key.rpartition(".")
            frozen = isinstance(modules.get(owner), FrozenBatchNorm2d)
            return key in ("pixel_mean", "pixel_std") or (frozen and name == "num_batches_tracked")

        missing = set(_filter_reused_missing_keys(self.model, incompatible.missing_keys))
        missing -= {key for key, _, _ in incompatible.incorrect_shapes}  # not listed twice
        return _IncompatibleKeys(
            missing_keys=sorted(k for k in missing if not k.endswith("num_batches_tracked")),
            unexpected_keys=[k for k in incompatible.unexpected_keys if not tolerated(k)],
            incorrect_shapes=incompatible.incorrect_shapes,
        )

    def _with_misfits(
        self, incompatible: _IncompatibleKeys, shapes: dict[str, tuple[int, ...]]
    ) -> _IncompatibleKeys:
        """Turns pairs of a missing and an unexpected weight into one of another shape.

        Name matching keeps the name in the file, which is the end of the name in the model.
        """
        missing, unexpected, misshapen = (list(part) for part in incompatible)
        own = {key: tuple(value.shape) for key, value in self.model.state_dict().items()}
        for key in list(missing):
            ends = [u for u in unexpected if u in shapes and key.endswith(f".{u}")]
            match = max((u for u in ends if shapes[u] != own[key]), key=len, default=None)
            if match is not None:
                missing.remove(key)
                unexpected.remove(match)
                misshapen.append((key, shapes[match], own[key]))
        return _IncompatibleKeys(missing, unexpected, misshapen)

    def _enforce(self, incompatible: _IncompatibleKeys, given: Iterable[str]) -> None:
        missing, unexpected, misshapen = incompatible
        if self.policy == "init":
            backbone = _pretrained_part(self.model)
            added = _absent_additions(self.model, missing)
            own = {_part(key) for key in self.model.state_dict() if not key.startswith(backbone)}
            parts = own & {_part(key) for key in given}
            missing = [
                k
                for k in missing
                if (k.startswith(backbone) or _part(k) in parts) and k not in added
            ]
            unexpected = [k for k in unexpected if _part(k) in parts]
        if self.policy == "relaxed" or not (missing or unexpected or misshapen):
            return
        shapes = {key: tuple(value.shape) for key, value in self.model.state_dict().items()}
        lines = [f"missing in the file: {key} {shapes[key]}" for key in missing]
        lines += [f"not in the model: {key}" for key in unexpected]
        lines += [f"other shape: {k} {file} in the file, {own} here" for k, file, own in misshapen]
        if self.policy == "init":
            names = [*missing, *unexpected, *(m[0] for m in misshapen)]
            if any(name.startswith(backbone) for name in names):
                advice = (
                    f"Everything below {backbone!r} must be filled. Give weights of the same "
                    "backbone in train.init_checkpoint, or accept this with "
                    "train.strict_init=false."
                )
            else:
                advice = (
                    "If its classes differ, map them with train.init_classes='{}' and "
                    "train.init_classes_of=<data set of the weights>. train.strict_init=false "
                    "starts what does not fit at random."
                )
        else:
            advice = "Give the checkpoint that this very config wrote, or the config that wrote it."
            beside = Path(self._given_path).parent / CONFIG_FILE
            if beside.is_file():
                advice += f" {beside} lies beside it: --config-file {beside}"
        raise CheckpointError(
            f"Checkpoint {self._given_path!r} does not fit the model ({len(lines)} differences). "
            f"{advice}\n  " + "\n  ".join(lines)
        )


def find_last_checkpoint(folder: str | os.PathLike[str]) -> Path | None:
    """Returns the checkpoint that ``last_checkpoint`` in `folder` names, or None without that file.

    Raises:
        CheckpointError: ``last_checkpoint`` is damaged or names a missing file.
    """
    pointer = Path(folder, POINTER)
    if not os.fspath(folder) or not pointer.is_file():
        return None
    name = pointer.read_text(encoding="utf-8", errors="replace").strip()
    if name and name == os.path.basename(name) and Path(folder, name).is_file():
        return Path(folder, name)
    present = sorted(path.name for path in Path(folder).glob("*.pth"))
    raise CheckpointError(
        f"{pointer} names {name!r}, which is not a file beside it (there: "
        f"{', '.join(present) or 'no .pth file'}). Write the name of one of these into it, or "
        "delete it to start over."
    )


def checkpoint_facts(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns what a file says about its training, by field of a record.

    Args:
        path: File or address.

    Returns:
        `iterations_done` (None if the file does not state it), `stopped_early` and `best`.

    Raises:
        CheckpointError: The file is missing, unsafe or damaged.
    """
    local = local_path(os.fspath(path))
    no_training = local.endswith((".pkl", ".safetensors"))
    loaded = None if no_training else safe_torch_load(local, mmap=True)
    held = loaded if isinstance(loaded, dict) else {}
    # the trainer counts from zero and saves the number of the last completed iteration
    last, best = held.get("iteration"), held.get("best")
    done = int(last) + 1 if isinstance(last, int) else None
    ours = isinstance(best, dict) and best.keys() == {"metric", "value"} and done is not None
    return {
        "iterations_done": done,
        "stopped_early": held.get("stopped_early") is True,
        "best": dict(best or {}, iteration=done) if ours else None,
    }


def _zoo_checkpoint(loaded: dict[str, Any]) -> dict[str, Any]:
    """Converts a ``.pkl`` of the model zoo or of Caffe2, with or without blobs, to one form."""
    if "model" in loaded and "__author__" in loaded:
        logger.info("Reading a file from '%s'", loaded["__author__"])
        return loaded
    blobs = loaded.get("blobs", loaded)
    weights = {k: v for k, v in blobs.items() if not str(k).endswith("_momentum")}
    return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}


def _pretrained_part(model: nn.Module) -> str:
    """Returns the prefix of the weights that a classifier must fill."""
    has_pyramid = hasattr(getattr(model, "backbone", None), "bottom_up")
    return "backbone.bottom_up." if has_pyramid else "backbone."


def _part(key: str) -> str:
    """Returns the part of a model that a weight belongs to, such as `roi_heads.mask_head`."""
    return ".".join(key.split(".")[:2])


def _absent_additions(model: nn.Module, missing: list[str]) -> set[str]:
    """Returns the weights of added blocks that the file lacks completely."""
    absent = set(missing)
    found: set[str] = set()
    for name, module in model.named_modules():
        if getattr(module, "added_to_pretrained", False):
            own = {f"{name}.{k}" for k in module.state_dict() if "num_batches_tracked" not in k}
            found |= own if own <= absent else set()
    return found


def _checked_policy(policy: str) -> Policy:
    if policy not in get_args(Policy):
        allowed = ", ".join(get_args(Policy))
        raise CheckpointError(
            f"Unknown policy {policy!r} to load a checkpoint; allowed: {allowed}."
        )
    return policy  # type: ignore[return-value]


def _listed(items: list[str], most: int = 10) -> str:
    rest = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + rest
