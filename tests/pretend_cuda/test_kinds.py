"""One run of each kind on the pretended device: no operation mixes devices, and waits are counted.

`waits.json` contains the waits of the second iteration of each run and those of its evaluation. A
new `.item()` in the training step fails the test here. After a change on purpose:
`python -m pytest tests/pretend_cuda --write-waits`.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from mask_rcnn_repro.engine import evaluate, tta
from mask_rcnn_repro.engine.train import loop
from mask_rcnn_repro.engine.train.trainer import Trainer
from mask_rcnn_tools.train.cli import parse_args
from mask_rcnn_tools.train.main import EXTENSIONS
from mask_rcnn_tools.train.run import run

TABLE = Path(__file__).with_name("waits.json")
JOINT = ("train.proposals=null", "train.init_from=null")
FP16 = ("train.amp.enabled=true", "train.amp.dtype=fp16")

KINDS = {
    "end to end": ("quickstart/mask_rcnn_r18_fpn",),
    "fp16, accumulated": ("quickstart/mask_rcnn_r18_fpn", "train.accumulate=2", *FP16),
    "C4 on stored proposals": ("section4_2/class_specific",),  # with both of its stages
    "C5, RoIPool": ("table2d/roi_pool", *JOINT),
    "RoIAlign, max": ("table2c/roi_align_max", *JOINT),
    "RoIWarp, softmax masks": (
        "table2b/softmax",
        "model.roi_heads.pooler.pooler_type=ROIWarpAve",
        *JOINT,
    ),
    "MLP masks": ("table2e/mlp_2fc", *JOINT),
    "keypoints": ("table4/keypoint_and_mask", *JOINT),
    "non-local": ("table8/non_local", *JOINT),
    "Cityscapes": ("table7/fine", *JOINT),
    "test-time augmentation": ("enhanced_r50/test_aug", *JOINT),
}


@pytest.fixture(scope="session")
def stages(tmp_path_factory):
    return tmp_path_factory.mktemp("stages")


@pytest.mark.parametrize("kind", KINDS)
def test_kind(kind, waits, stages, tmp_path, monkeypatch, request):
    counted = {}

    def counting(owner, name, label):
        real = getattr(owner, name)

        def call(*args, **kwargs):
            before = waits.copy()
            result = real(*args, **kwargs)
            counted[label(*args)] = summary(waits - before)
            return result

        monkeypatch.setattr(owner, name, call)

    monkeypatch.setattr(tta, "tta_sizes", lambda cfg: [48])
    # a thread of its own would predict on a device that is not pretended
    monkeypatch.setattr(evaluate, "_images_at_once", lambda *args: 0)
    counting(Trainer, "run_step", lambda trainer: f"iteration {trainer.iter}")
    counting(loop, "evaluate_model", lambda *args: "evaluation")
    config, *overrides = KINDS[kind]
    fixed = ["train.device=cuda", "train.max_iter=2", "train.draw=0"]
    fixed.append(f"train.output_root={stages}")
    fixed.append("model.roi_heads.box_predictor.test_topk_per_image=10")
    fixed.append("model.roi_heads.box_predictor.test_score_thresh=0.0")
    here = [f"train.output_dir={tmp_path / 'run'}", *fixed, *overrides]
    run(parse_args(["--config-file", config, "--profile", "tiny", *here]), EXTENSIONS)
    counted = {part: counted[part] for part in ("iteration 1", "evaluation")}
    table = json.loads(TABLE.read_text()) if TABLE.exists() else {}
    if request.config.getoption("--write-waits", default=False):
        table[kind] = counted
        table = {name: table[name] for name in KINDS if name in table}
        TABLE.write_text(json.dumps(table, indent=1) + "\n")
    assert counted == table[kind]


def summary(waits: Counter[tuple[str, str, str]]) -> dict[str, int]:
    """Sums up the waits of each other package; ours are by module and function."""
    sums: Counter[str] = Counter()
    for (kind, module, function), count in waits.items():
        package, _, path = module.partition(".")
        ours = package.startswith("mask_rcnn_")
        sums[f"{path} {function}: {kind}" if ours else package or "other"] += count
    return {"total": waits.total(), **dict(sorted(sums.items()))}
