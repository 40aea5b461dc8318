"""Trains and evaluates; see :mod:`mask_rcnn_repro.engine.main`."""

from mask_rcnn_repro.engine.main import main

__all__ = ["main"]
