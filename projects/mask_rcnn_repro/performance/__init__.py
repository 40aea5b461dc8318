"""Benchmarks: contenders timed side by side, their records, and the page made from these.

:mod:`~mask_rcnn_repro.performance.benchmark` times, the scripts in ``benchmarks/`` use it;
:mod:`~mask_rcnn_repro.performance.record` is what they leave, and
:mod:`~mask_rcnn_repro.performance.page` writes ``docs/performance.md`` from it.
"""

from mask_rcnn_repro.performance.benchmark import Benchmark

__all__ = ["Benchmark"]
