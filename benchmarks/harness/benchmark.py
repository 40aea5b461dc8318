"""Timing contenders side by side: in one process, in turns, medians and ratios.

What runs beside a benchmark slows all contenders alike when they take turns, so that ratios hold
where times do not.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import inspect
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import torch

from harness.record import (
    RECORDS,
    BenchmarkRecord,
    Comparison,
    Series,
    Timing,
    save_benchmark,
)
from mask_rcnn_repro.config.config_files import config_root
from mask_rcnn_repro.records import provenance
from mask_rcnn_tools.common.text_tables import Table

_LIBRARIES = (
    *("numba", "hotcoco", "opencv-python-headless", "pillow", "cityscapesscripts"),
    *("openvino", "onnxruntime", "ultrafast-pycocotools", "vernier"),
)
_SHORTEST = 0.05
"""Seconds; shorter work is done several times for one time."""


class Benchmark:
    """One benchmark script: its command line, its measurements, its record.

    Args:
        name: of the script, without suffix.
        title: heading of its section in docs/performance.md.
        about: what is measured, on what: the script's docstring. Shown from its first line up to
            the line that begins with `Run:`.
        parts: names of what can be measured and recorded by itself, see :meth:`parts`.
    """

    def __init__(self, name: str, title: str, about: str | None, parts: Sequence[str] = ()) -> None:
        self.name = name
        self.title = title
        self._all_parts = tuple(parts)
        self._wanted = self._all_parts
        self.about = inspect.cleandoc(about or "").partition("\nRun:")[0].strip()
        self.repeats = 5
        self.device = torch.device("cpu")
        self.quick = False
        self._record = False
        self._began = (0, 0, 0)  # comparisons, series and notes of earlier parts
        self._comparisons: list[Comparison] = []
        self._series: list[Series] = []
        self._notes: list[str] = []
        self._times: dict[str, dict[str, list[float]]] = {}
        self._code = provenance.code_info()  # before records of parts change the checkout

    def parser(self) -> argparse.ArgumentParser:
        """The options that all scripts have; a script adds its own."""
        parser = argparse.ArgumentParser(
            description=self.about, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        parser.add_argument("--repeats", type=int, default=5, help="rounds; medians count")
        parser.add_argument("--threads", type=int, default=None, help="CPU threads of PyTorch")
        parser.add_argument("--device", default="cpu", help="cpu or cuda")
        parser.add_argument(
            "--quick", action="store_true", help="small sizes, once, to see that it runs"
        )
        files = f"{self.name}-PART.json" if self._all_parts else f"{self.name}.json"
        parser.add_argument("--record", action="store_true", help=f"write {RECORDS}/{files}")
        if self._all_parts:
            parser.add_argument(
                "--only",
                action="append",
                choices=self._all_parts,
                metavar="PART",
                help=f"measure this part; may be repeated (default: {', '.join(self._all_parts)})",
            )
        return parser

    def parse(
        self, parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None
    ) -> argparse.Namespace:
        """Parses the command line and sets threads and device accordingly."""
        args = parser.parse_args(arguments)
        if args.repeats is not None and args.repeats < 1:
            parser.error(f"--repeats {args.repeats}: at least 1")
        if args.threads is not None:
            torch.set_num_threads(args.threads)
        self.device = torch.device(args.device)
        if self.device.type == "cuda" and not torch.cuda.is_available():
            parser.error("--device cuda: this machine, or this PyTorch, has no CUDA device")
        self.repeats = args.repeats or self.repeats
        self.quick = args.quick
        self._record = args.record
        if self._all_parts and args.only:
            self._wanted = tuple(part for part in self._all_parts if part in args.only)
        return args

    def parts(self) -> Iterator[str]:
        """Yields the parts to measure. Each is recorded in a file of its own when it is finished.

        So an interrupted benchmark keeps the parts that it has finished. A part without times, such
        as one that this machine cannot do, leaves its file as it is.
        """
        for part in self._wanted:
            self._began = len(self._comparisons), len(self._series), len(self._notes)
            yield part
            if len(self._comparisons) > self._began[0] or len(self._series) > self._began[1]:
                self._save(part)

    def times(self, work: str) -> dict[str, list[float]]:
        """Returns contender to its seconds in each round of compared work."""
        return self._times[work]

    def compare(
        self,
        work: str,
        contenders: Mapping[str, Callable[[], Any]],
        *,
        reference: str,
        goal: float | Mapping[str, float] | None = None,
        repeats: int | None = None,
        warmup: bool = True,
    ) -> dict[str, Any]:
        """Times contenders in turns.

        Args:
            work: what they do, how much of it.
            contenders: name to a function that does it once.
            reference: the contender that the others are compared with.
            goal: ratio to the reference that is to be reached, of the contender "ours" or by name.
            repeats: rounds; by default those of the command line.
            warmup: call each before, short ones twice; False for work that takes minutes.

        Returns:
            Name to what its last call returned.
        """
        goals = {"ours": goal} if isinstance(goal, (int, float)) else dict(goal or {})
        rounds = 1 if self.quick else repeats or self.repeats
        outputs: dict[str, Any] = {}
        calls = dict.fromkeys(contenders, 1)
        if warmup and not self.quick:
            for name, function in contenders.items():
                seconds, outputs[name] = self._time(function, 1)
                if seconds < _SHORTEST:  # the first call is not representative
                    seconds, outputs[name] = self._time(function, 1)
                calls[name] = max(1, round(_SHORTEST / max(seconds, 1e-6)))
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(rounds):
            for name, function in contenders.items():
                outputs.pop(name, None)  # or two results would be held at once
                seconds, outputs[name] = self._time(function, calls[name])
                times[name].append(seconds)
        self.add(work, times, reference=reference, goals=goals)
        return outputs

    def add(
        self,
        work: str,
        times: Mapping[str, Sequence[float]],
        *,
        reference: str,
        goals: Mapping[str, float] | None = None,
        memory: Mapping[str, float] | None = None,
    ) -> None:
        """Adds times in seconds that were measured elsewhere, such as in other processes."""
        self._times[work] = {name: list(values) for name, values in times.items()}
        timings = {
            name: Timing(
                median=statistics.median(values),
                lowest=min(values),
                highest=max(values),
                repeats=len(values),
            )
            for name, values in times.items()
        }
        comparison = Comparison(
            work=work,
            reference=reference,
            seconds=timings,
            goals=dict(goals or {}),
            memory=dict(memory or {}),
        )
        self._comparisons.append(comparison)
        parts = [
            f"{name} {timings[name].median:.4g} s ({comparison.ratio(name):.2f}x)"
            + (f" {comparison.memory[name]:.0f} MiB" if name in comparison.memory else "")
            for name in timings
        ]
        print(f"{work}: {', '.join(parts)}", flush=True)

    def beside(self, work: str, reference: str, goals: Mapping[str, float | None]) -> None:
        """Adds times of compared work again, beside another of its contenders.

        Args:
            work: That of the comparison.
            reference: A contender of it.
            goals: The contenders to show, with the ratio to reach or None.
        """
        timed = self._comparisons[self._index(work)].seconds
        comparison = Comparison(
            work=f"{work}, beside {reference}",
            reference=reference,
            seconds={name: timed[name] for name in (reference, *goals)},
            goals={name: goal for name, goal in goals.items() if goal is not None},
        )
        self._comparisons.append(comparison)

    def equality(self, work: str, text: str) -> None:
        """Adds how equal the results of compared work are."""
        index = self._index(work)
        self._comparisons[index] = self._comparisons[index].model_copy(update={"equality": text})
        print(f"    {text}", flush=True)

    def series(
        self,
        title: str,
        x_label: str,
        y_label: str,
        lines: Mapping[str, Sequence[tuple[float, float]]],
    ) -> None:
        """Adds cost against size; y in the unit that its label names."""
        points = {name: [(float(x), float(y)) for x, y in line] for name, line in lines.items()}
        self._series.append(Series(title=title, x_label=x_label, y_label=y_label, lines=points))
        print(title)
        columns = sorted({x for line in points.values() for x, _ in line})
        rows = [
            [name, *(f"{dict(line)[x]:.4g}" if x in dict(line) else "" for x in columns)]
            for name, line in points.items()
        ]
        print(Table([x_label, *(f"{x:g}" for x in columns)], rows).text("right"), flush=True)

    def note(self, text: str) -> None:
        """Adds a sentence about the numbers, such as which images were used."""
        self._notes.append(text)
        print(text, flush=True)

    def finish(self) -> BenchmarkRecord:
        """Prints the table, and writes the record if `--record` was given and there are no parts.

        Returns:
            The record of all that was measured.
        """
        record = self._made("", (0, 0, 0))
        print(f"\n{self.title} ({record.device.name}, {torch.get_num_threads()} threads)\n")
        print(_table(record.comparisons).text())
        if not self._all_parts:
            self._save("")
        return record

    def _save(self, part: str) -> None:
        if self._record:
            file = save_benchmark(self._made(part, self._began), config_root().parent / RECORDS)
            print(f"\nRecord written to {RECORDS / file.name}", flush=True)

    def _made(self, part: str, began: tuple[int, int, int]) -> BenchmarkRecord:
        comparisons, series, notes = began
        return BenchmarkRecord(
            name=self.name,
            part=part,
            title=self.title,
            about=self.about,
            command=self._command(),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            code=self._code,  # type: ignore[arg-type]  # validated by the model
            versions=provenance.versions(),  # type: ignore[arg-type]
            libraries={name: _version(name) for name in _LIBRARIES},
            device=provenance.device_info(self.device),  # type: ignore[arg-type]
            comparisons=self._comparisons[comparisons:],
            series=self._series[series:],
            notes=self._notes[notes:],
        )

    def _index(self, work: str) -> int:
        return [c.work for c in self._comparisons].index(work)

    def _command(self) -> str:
        words = [os.path.basename(a) if os.path.isabs(a) else a for a in sys.argv[1:]]
        return shlex.join(["python", f"benchmarks/{self.name}.py", *words])

    def _time(self, function: Callable[[], Any], calls: int) -> tuple[float, Any]:
        gc.collect()
        self._wait()
        begin = time.perf_counter()
        for _ in range(calls):
            result = function()
        self._wait()
        return (time.perf_counter() - begin) / calls, result

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _table(comparisons: Sequence[Comparison]) -> Table:
    rows = [
        [
            comparison.work if name == comparison.reference else "",
            name,
            f"{timing.median:.4g}",
            f"{comparison.ratio(name):.2f}",
            f"{comparison.goals[name]:g}" if name in comparison.goals else "",
        ]
        for comparison in comparisons
        for name, timing in comparison.seconds.items()
    ]
    return Table(["work", "contender", "seconds", "times as fast", "goal"], rows)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
