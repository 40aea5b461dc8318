"""User-fixable errors. Commands print their message without a traceback and exit with status 2."""

from __future__ import annotations

from mask_rcnn_embedded.errors import DataError, UserError

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DamagedCheckpointError",
    "DataError",
    "NonFiniteLossError",
    "RecordError",
    "StorageError",
    "UserError",
    "WorkerError",
]


class ConfigError(UserError, ValueError):
    """A config file, profile, override or combination of values that cannot be used."""


class CheckpointError(UserError, RuntimeError):
    """A checkpoint that is missing, unsafe, damaged or does not fit the model."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint whose content is not what was written: cut short, or changed since."""


class StorageError(UserError, OSError):
    """A disk is full, or a quota or a limit of file sizes is reached."""


class WorkerError(UserError, RuntimeError):
    """Processes that load data died again and again."""


class RecordError(UserError, ValueError):
    """A result record that does not follow the documented schema."""


class NonFiniteLossError(UserError, FloatingPointError):
    """Training stopped because a loss became NaN or infinite."""
