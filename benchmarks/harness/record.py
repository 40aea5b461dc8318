"""What a benchmark leaves: a JSON file a script, or part of one, in ``benchmarks/records/``."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mask_rcnn_repro.errors import RecordError
from mask_rcnn_repro.records.record import CodeInfo, DeviceInfo, Versions
from mask_rcnn_repro.utils.atomic import atomic_write_text

RECORDS = Path("benchmarks", "records")
"""Where records lie in a checkout."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class Timing(_Section):
    """How long one contender took for one piece of work, in seconds."""

    median: float = Field(gt=0)
    lowest: float = Field(gt=0)
    highest: float = Field(gt=0)
    repeats: int = Field(ge=1)


class Comparison(_Section):
    """One piece of work done by several contenders in turns.

    Attributes:
        work: what is done, how much of it.
        reference: the contender that the others are compared with.
        seconds: contender to its times.
        goals: contender to the ratio that it is to reach, at least.
        equality: how the results compare, in a sentence.
        memory: contender to the highest rise of its process's resident memory, MiB, if measured.
    """

    work: str = Field(min_length=1)
    reference: str
    seconds: dict[str, Timing]
    goals: dict[str, float] = Field(default_factory=dict)
    equality: str = ""
    memory: dict[str, float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _names_known(self) -> Comparison:
        unknown = {self.reference, *self.goals, *self.memory} - set(self.seconds)
        if unknown:
            raise ValueError(f"{sorted(unknown)} are no contenders; these are {[*self.seconds]}")
        return self

    def ratio(self, contender: str) -> float:
        """How many times faster than the reference, by medians."""
        return self.seconds[self.reference].median / self.seconds[contender].median


class Series(_Section):
    """Cost against size, for a plot.

    Attributes:
        lines: contender to points (x, y).
    """

    title: str
    x_label: str
    y_label: str
    lines: dict[str, list[tuple[float, float]]]


class BenchmarkRecord(_Section):
    """Everything that a benchmark script, or one of its parts, measured in one run.

    Attributes:
        name: the script's, without suffix.
        part: of the script; empty if it has none. Parts are repeated without the others.
        title: heading of its section.
        about: what is measured, on what; the script's docstring.
        command: how it was called.
        created: UTC, ISO 8601.
    """

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    part: str = Field(default="", pattern=r"^[a-z0-9_]*$")
    title: str
    about: str
    command: str
    created: str
    code: CodeInfo
    versions: Versions
    libraries: dict[str, str | None]
    device: DeviceInfo
    comparisons: list[Comparison]
    series: list[Series] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)

    @property
    def file_name(self) -> str:
        """A CPU's and a GPU's numbers are kept side by side."""
        part = f"-{self.part}" if self.part else ""
        return f"{self.name}{part}{'-cuda' if self.device.type == 'cuda' else ''}.json"


def save_benchmark(record: BenchmarkRecord, folder: Path) -> Path:
    """Writes a record in one step; returns its file."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / record.file_name
    atomic_write_text(file, record.model_dump_json(indent=2) + "\n")
    return file


def load_benchmarks(folder: Path) -> list[BenchmarkRecord]:
    """Reads all records of a folder, by name; empty if there is none.

    Raises:
        RecordError: a file there is no such record.
    """
    records = []
    for file in sorted(folder.glob("*.json")):
        try:
            records.append(BenchmarkRecord.model_validate_json(file.read_text(encoding="utf-8")))
        except ValidationError as error:
            raise RecordError(
                f"{file} is no benchmark record: {error}. Write it anew: "
                f"python benchmarks/{file.stem.partition('-')[0]}.py --record"
            ) from error
    return records
