"""Functions that rooms above the engine provide and that the engine calls."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from detectron2.utils.events import EventWriter
from omegaconf import DictConfig

from mask_rcnn_repro.engine.dependencies import DataSet
from mask_rcnn_repro.engine.run import Run
from mask_rcnn_repro.records import Record


class RunWriter(EventWriter):
    """A writer of Detectron2's that also gets the results."""

    @abstractmethod
    def finish(self, record: Record, images: Sequence[Path]) -> None:
        """Writes the results of the complete run, then closes what it writes to.

        Args:
            record: The record.
            images: Drawn test images, see `train.draw`.
        """


@dataclass(frozen=True)
class Extensions:
    """What a command adds to training and evaluation.

    The functions are defined at the top level of a module, since processes of a run pickle them.

    Attributes:
        check_data: Checks the data of a config before a training. Takes the config, its name and
            its overrides. Logs findings, and raises `DataError` for data that would end the
            training later. None skips the check.
        draw: Draws predictions beside the ground truth after the record is written. Takes the
            name of the data set, the directory of result files, the directory of drawings and the
            number of images. None draws nothing.
        resample: Computes the metrics on samples of the test images after the record is written.
            Takes the record, the directory of result files and the file to write. None does not.
        annotate: Annotates unlabeled images (data distillation). Takes the finished run of the
            teacher, the directory to write to and the data set; returns the file of annotations.
            None refuses a run that names a teacher.
        writers: Starts the writers of `train.writers`, before the training, in the first process.
            Raises `UserError` if one cannot be used. None writes to TensorBoard alone.
        show: Prints the record at the end. None prints nothing.
        verify: Serves `--verify`. Takes the config, its name and what to compare with; raises
            `UserError` if there is nothing to compare with. Returns a function that prints the
            comparison of a record and returns whether all numbers are met. None ignores the option.
    """

    check_data: Callable[[DictConfig, str, Sequence[str]], object] | None = None
    draw: Callable[[str, Path, Path, int], object] | None = None
    resample: Callable[[Record, Path, Path], object] | None = None
    annotate: Callable[[Run, Path, DataSet], Path] | None = None
    writers: Callable[[Run], Sequence[RunWriter]] | None = None
    show: Callable[[Record], object] | None = None
    verify: Callable[[DictConfig, str, str], Callable[[Record], bool]] | None = None
