"""Reads `curves.json` beside a record, which :mod:`mask_rcnn_repro.records.curves` writes."""

from __future__ import annotations

import os

from mask_rcnn_repro.records.curves import CURVES_VERSION, Curves
from mask_rcnn_repro.records.record import read_json, validated


def load_curves(path: str | os.PathLike[str]) -> Curves:
    """Reads and validates curves.

    Raises:
        RecordError: The file is missing, is not JSON, or does not follow the schema.
    """
    content = read_json(path, "curves")
    fault = "does not hold a run's curves"
    return validated(Curves, content, repr(os.fspath(path)), CURVES_VERSION, fault)
