"""Benchmarks: contenders timed side by side, their records, and the page made from these.

:mod:`~harness.benchmark` times, the scripts in ``benchmarks/`` use it;
:mod:`~harness.record` is what they leave, and
:mod:`~harness.page` writes ``docs/performance.md`` from it.
"""

from harness.benchmark import Benchmark

__all__ = ["Benchmark"]
