"""All commands: their names for `mask-rcnn-repro`, their packages and their scripts.

Standard library only, because every `--help` imports it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

PROGRAM = "mask-rcnn-repro"


class Command(NamedTuple):
    """One command.

    Attributes:
        package: Package in `mask_rcnn_tools` with `cli.parse_args` and `main.main`.
        script: Its file in a checkout.
        does: What it does, for the list of commands.
    """

    package: str
    script: str
    does: str


COMMANDS = {
    "train": Command("train", "train_net.py", "train or evaluate a config"),
    "table": Command("tables", "tools/run_table.py", "run tables, ablations and sweeps"),
    "predict": Command("predict", "tools/predict.py", "predict on images and videos"),
    "analyze": Command("analyze", "tools/analyze.py", "analyze the errors of a model"),
    "evaluate": Command("evaluate", "tools/evaluate.py", "measure result files, compare two"),
    "report": Command("report", "tools/report.py", "write tables and plots from records"),
    "visualize-data": Command("visualize_data", "tools/visualize_data.py", "draw training data"),
    "check-data": Command("check_data", "tools/check_data.py", "check data before training"),
    "model-info": Command("model_info", "tools/model_info.py", "count parameters and FLOPs"),
    "export": Command("export", "tools/export.py", "export to ONNX, TorchScript, torch.export"),
    "distill": Command("distill", "tools/distill.py", "annotate unlabeled images with a model"),
}

_NAMES = {command.script.rpartition("/")[2]: name for name, command in COMMANDS.items()}
_SCRIPT = re.compile(rf"(?:\bpython )?(?:\btools/)?\b({'|'.join(map(re.escape, _NAMES))})\b")

_as_program = False


def use_program_names() -> None:
    """Makes messages of this process name `mask-rcnn-repro COMMAND` instead of the scripts."""
    global _as_program
    _as_program = True


def as_typed(text: str) -> str:
    """Returns a message with the commands as the user types them.

    Unchanged if a script of the checkout runs. Under `mask-rcnn-repro`,
    `python tools/run_table.py 2c` becomes `mask-rcnn-repro table 2c`.
    """
    if not _as_program:
        return text
    return _SCRIPT.sub(lambda found: f"{PROGRAM} {_NAMES[found[1]]}", text)
