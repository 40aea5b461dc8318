"""What the tests of stage-wise training share: short rows, configs of one's own, interruptions."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mask_rcnn_embedded import quickstart as embedded
from mask_rcnn_repro.engine.train.trainer import Trainer

from .run_helpers import REPOSITORY

R50_FPN = REPOSITORY / "configs" / "table2a" / "r50_fpn.py"
RPN_RUN = Path("output/rpn/r50_fpn@tiny/seed0")  # where the row's RPN goes
SHORT = (  # a row of two iterations; its RPN keeps its own schedule
    "train.max_iter=2",
    "train.draw=0",
    "model.roi_heads.box_predictor.test_topk_per_image=10",
)
RPN_ITERATIONS = 10
TRAIN, TEST = "dataloader.train.dataset", "dataloader.test.dataset"


def write_config(file: Path, row: str, *lines: str) -> Path:
    """Writes a config of one's own outside the checkout that starts from a row."""
    file.parent.mkdir(exist_ok=True)
    file.write_text(
        f'"""A variant of {row}."""\n\n'
        "from mask_rcnn_repro import get_config\n\n"
        f'_row = get_config("{row}")\n'
        "model, dataloader, train = _row.model, _row.dataloader, _row.train\n"
        "optimizer, lr_multiplier = _row.optimizer, _row.lr_multiplier\n"
        "\n" + "\n".join(lines) + "\n"
    )
    return file


def write_data(folder: Path) -> list[str]:
    """Writes annotation files of one's own, under names of their own; returns overrides."""
    source = embedded.ensure_generated(embedded.TINY_SPEC)
    keys = []
    for key, split in ((TRAIN, "train"), (TEST, "val")):
        file = folder / f"{split}.json"
        file.write_text((source / "annotations" / f"instances_{split}.json").read_text())
        name = f"{folder.parent.name}_{folder.name}_{split}"
        keys += [f"{key}.names={name}", f"{key}.json={file}", f"{key}.image_root={source / split}"]
    return keys


def leave_out_an_annotation(file: Path) -> None:
    content = json.loads(file.read_text())
    content["annotations"].pop()
    file.write_text(json.dumps(content))


@contextlib.contextmanager
def stopped_at(step: int) -> Iterator[None]:
    """Ctrl-C as training iteration number `step`, counted from 0 through all stages, begins."""
    original, seen = Trainer.run_step, []

    def run_step(trainer: Trainer) -> None:
        seen.append(trainer.iter)
        if len(seen) == step + 1:
            raise KeyboardInterrupt
        original(trainer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "run_step", run_step)
        yield
    assert len(seen) == step + 1, "nothing was interrupted"


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of modification of every file below a folder."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    assert files
    return {str(p.relative_to(folder)): (p.stat().st_size, p.stat().st_mtime_ns) for p in files}


def arrays(rpn_run: Path) -> dict[str, bytes]:
    """Stored proposals of a run, without `info.json`, which says when and by what they were made.

    What is in it of interest is the hash of a checkpoint, which differs between equal weights.
    """
    folder = rpn_run / "proposals"
    files = [p for p in sorted(folder.glob("*/*")) if p.name != "info.json"]
    assert {p.name for p in files} == {"boxes.npy", "scores.npy", "offsets.npy", "image_ids.json"}
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}
