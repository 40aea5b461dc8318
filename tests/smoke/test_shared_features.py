"""4-step training (section 4.4): one command gives one network for proposals and detections."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import Instances

from mask_rcnn_repro.config import load_config
from mask_rcnn_repro.engine.builders import build_model
from mask_rcnn_repro.engine.checkpoint.init_from import load_initial_weights
from mask_rcnn_repro.errors import CheckpointError
from mask_rcnn_repro.records.record import load_record

from .run_helpers import REPOSITORY, CommandResult, assert_same, launch, load, results
from .stage_helpers import arrays, state, stopped_at

pytestmark = pytest.mark.slow

SHARED = REPOSITORY / "configs" / "section4_4" / "r101_fpn_shared.py"
STEPS = [
    Path("output") / f"{name}@tiny" / "seed0"
    for name in (
        "rpn/r101_fpn",
        "table2a/r101_fpn",
        "rpn/r101_fpn_shared",
        "section4_4/r101_fpn_shared",
    )
]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def four_steps(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CommandResult]:
    """Folder and outcome of the one command; not to be written to."""
    folder = tmp_path_factory.mktemp("shared")
    outcome = launch(folder, config=SHARED)
    outcome.succeeded()
    return folder, outcome


def part(checkpoint: Path, name: str) -> dict[str, torch.Tensor]:
    """A module's weights and norm statistics, without the batches that were counted."""
    weights = load(checkpoint)["model"]
    found = {
        k: v
        for k, v in weights.items()
        if k.startswith(f"{name}.") and not k.endswith("num_batches_tracked")
    }
    assert found
    return found


def final(folder: Path, step: int) -> Path:
    """The last checkpoint of a step, counted from 1."""
    return folder / STEPS[step - 1] / "model_final.pth"


def test_one_command_runs_all_steps(four_steps: tuple[Path, CommandResult]) -> None:
    folder, outcome = four_steps
    announced = re.findall(r"Running (\S+) first, in (\S+)\.", outcome.out)
    # the row waits for step 2, which waits for step 1; then for step 3
    assert [name for name, _ in announced] == [
        "table2a/r101_fpn",
        "rpn/r101_fpn",
        "rpn/r101_fpn_shared",
    ]
    found = {p.parent.relative_to(folder) for p in folder.rglob("record.json")}
    assert found == set(STEPS)
    records = [load_record(folder / step / "record.json") for step in STEPS]
    told = [(r.proposals and r.proposals.id, r.init_from and r.init_from.id) for r in records]
    assert told == [
        (None, None),
        ("rpn/r101_fpn", None),
        (None, "table2a/r101_fpn"),
        ("rpn/r101_fpn_shared", "table2a/r101_fpn"),
    ]
    shas = [r.checkpoint and r.checkpoint.sha256 for r in records]
    assert records[1].proposals and records[1].proposals.checkpoint == shas[0]
    assert records[2].init_from and records[2].init_from.checkpoint == shas[1]
    assert records[3].init_from and records[3].init_from.checkpoint == shas[1]
    assert records[3].proposals and records[3].proposals.checkpoint == shas[2]


def test_it_is_one_network(four_steps: tuple[Path, CommandResult]) -> None:
    folder, _ = four_steps
    backbones = [part(final(folder, step), "backbone") for step in (1, 2, 3, 4)]
    assert any("running_var" in key for key in backbones[3])
    assert assert_same(backbones[1], backbones[2]) == assert_same(backbones[1], backbones[3]) > 100
    assert not torch.equal(
        *(b["backbone.bottom_up.stem.conv1.weight"] for b in (backbones[0], backbones[1]))
    )
    rpns = [part(final(folder, step), "proposal_generator") for step in (1, 3, 4)]
    assert assert_same(rpns[1], rpns[2]) > 0
    assert all(not torch.equal(rpns[0][k], rpns[1][k]) for k in rpns[0] if "rpn_head" in k)
    heads = [part(final(folder, step), "roi_heads") for step in (2, 4)]
    same = [k for k in heads[0] if torch.equal(heads[0][k], heads[1][k])]
    assert heads[0].keys() == heads[1].keys() and same == []


def test_heads_begin_where_those_of_step_2_ended(
    four_steps: tuple[Path, CommandResult], tmp_path: Path
) -> None:
    folder, _ = four_steps
    cfg = load_config(folder / STEPS[3] / "config.yaml")
    torch.manual_seed(5)
    model = build_model(cfg, CPU)
    load_initial_weights(model, final(folder, 2), final(folder, 3), list(cfg.train.freeze))
    weights = model.state_dict()
    for step, name in ((2, "backbone"), (2, "roi_heads"), (3, "proposal_generator")):
        for key, value in part(final(folder, step), name).items():
            assert torch.equal(weights[key], value), key


def test_it_takes_images_alone(four_steps: tuple[Path, CommandResult], tmp_path: Path) -> None:
    folder, _ = four_steps
    shutil.copy(final(folder, 4), tmp_path / "alone.pth")
    keys = ["train.init_checkpoint=alone.pth", "train.output_dir=alone"]
    outcome = launch(tmp_path, "--eval-only", *keys, config=SHARED)
    assert "Missing" not in outcome.succeeded()
    alone, trained = (
        load_record(p / "record.json") for p in (tmp_path / "alone", folder / STEPS[3])
    )
    assert alone.metrics == trained.metrics
    assert results(tmp_path / "alone") == results(folder / STEPS[3])
    assert {p.name for p in tmp_path.iterdir()} == {"alone", "alone.pth"}


def test_its_rpn_is_that_of_step_3(four_steps: tuple[Path, CommandResult]) -> None:
    folder, _ = four_steps
    models = []
    for step in (3, 4):
        cfg = load_config(folder / STEPS[step - 1] / "config.yaml")
        model = build_model(cfg, CPU).eval()
        model.load_state_dict(load(final(folder, step))["model"])
        models.append(model)
    stage, network = models
    batch = next(iter(instantiate(cfg.dataloader.test)))
    with torch.no_grad():
        # in the network's frame, as ProposalNetwork scales its boxes to the original image's
        for item in batch:
            item["height"], item["width"] = item["image"].shape[1:]
        expected: Instances = stage(batch)[0]["proposals"]
        images = network.preprocess_image(batch)
        features = network.backbone(images.tensor)
        (found,), _ = network.proposal_generator(images, features, None)
    assert len(found) == len(expected) > 10
    assert torch.equal(found.proposal_boxes.tensor, expected.proposal_boxes.tensor)
    assert torch.equal(found.objectness_logits, expected.objectness_logits)


@pytest.mark.parametrize("step", [3, 4])
def test_interrupted_in_the_middle_of_a_step(
    four_steps: tuple[Path, CommandResult], tmp_path: Path, step: int
) -> None:
    folder, _ = four_steps
    for earlier in STEPS[: step - 1]:
        shutil.copytree(folder / earlier, tmp_path / earlier)
    before = [state(tmp_path / earlier) for earlier in STEPS[: step - 1]]
    with stopped_at(7):
        assert launch(tmp_path, config=SHARED).code == 130
    assert (tmp_path / STEPS[step - 1] / "last_checkpoint").read_text() == "model_0000006.pth"
    # step 4 is what the command names, and its resuming has to be asked for
    flags = ["--resume"] if step == 4 else []
    outcome = launch(tmp_path, *flags, config=SHARED)
    assert "Resuming after 7 iterations" in outcome.succeeded()
    assert [state(tmp_path / earlier) for earlier in STEPS[: step - 1]] == before
    for later in range(step, 5):
        one, two = (load(final(place, later)) for place in (tmp_path, folder))
        assert assert_same(one["model"], two["model"]) > 0
    assert arrays(tmp_path / STEPS[2]) == arrays(folder / STEPS[2])
    records = [load_record(place / STEPS[3] / "record.json") for place in (tmp_path, folder)]
    assert records[0].metrics == records[1].metrics


def test_rpn_on_another_backbone_is_refused(four_steps: tuple[Path, CommandResult]) -> None:
    folder, _ = four_steps
    cfg = load_config(folder / STEPS[3] / "config.yaml")
    model = build_model(cfg, CPU)
    with pytest.raises(CheckpointError, match="do not share features") as error:
        load_initial_weights(model, final(folder, 2), final(folder, 1), list(cfg.train.freeze))
    assert str(final(folder, 1)) in str(error.value) and "backbone." in str(error.value)


def test_a_row_with_an_rpn_of_another_backbone_is_refused(
    four_steps: tuple[Path, CommandResult], tmp_path: Path
) -> None:
    """Proposals of step 1 do not make a network that shares its features."""
    folder, _ = four_steps
    for step in STEPS[:2]:
        shutil.copytree(folder / step, tmp_path / step)
    outcome = launch(tmp_path, "train.proposals=rpn/r101_fpn", "train.draw=0", config=SHARED)
    message = outcome.failed_plainly()
    assert "do not share features" in message


def test_a_network_that_would_share_nothing_is_refused(tmp_path: Path) -> None:
    keys = ["train.init_from=null", "train.freeze=[]"]
    message = launch(tmp_path, *keys, config=SHARED).failed_plainly()
    assert "train.init_from" in message and "rpn/r101_fpn_shared" in message
    assert not list(tmp_path.rglob("*.pth"))


def test_rpn_that_was_deleted_is_trained_again_before_step_4(
    four_steps: tuple[Path, CommandResult], tmp_path: Path
) -> None:
    """Unlike other rows, this one needs the RPN itself, not only its proposals."""
    folder, _ = four_steps
    for step in STEPS[:3]:
        shutil.copytree(folder / step, tmp_path / step)
    rpn = tmp_path / STEPS[2]
    for file in rpn.iterdir():
        if file.is_file():
            file.unlink()
    before = state(rpn / "proposals")
    outcome = launch(tmp_path, config=SHARED)
    assert "Missing: the RPN of section4_4/r101_fpn_shared" in outcome.succeeded()
    assert state(rpn / "proposals") == before
    one, two = (load(final(place, 4))["model"] for place in (tmp_path, folder))
    assert assert_same(one, two) > 0
