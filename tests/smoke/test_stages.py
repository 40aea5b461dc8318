"""Stage-wise training from the command line: what a row depends on is run first, shared, checked.

Each fault is really caused: runs are interrupted, configs and annotations changed, files deleted.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from mask_rcnn_repro.config import config_hash, load_config
from mask_rcnn_repro.data.proposals.files import ProposalFile
from mask_rcnn_repro.data.proposals.writer import ProposalWriter
from mask_rcnn_repro.engine.builders import build_train_data
from mask_rcnn_repro.engine.run import Inputs
from mask_rcnn_repro.records.record import load_record

from .fault_helpers import fork_two
from .run_helpers import REPOSITORY, CommandResult, assert_same, iterations, launch, load, start
from .stage_helpers import (
    R50_FPN,
    RPN_ITERATIONS,
    RPN_RUN,
    SHORT,
    TEST,
    arrays,
    leave_out_an_annotation,
    state,
    stopped_at,
    write_config,
    write_data,
)

ANNOUNCED = (
    f"Missing: the proposals for embedded_tiny_train. Running rpn/r50_fpn first, in {RPN_RUN}."
)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CommandResult]:
    """Folder and outcome of a row whose RPN did not exist. Runs may be added, not changed."""
    folder = tmp_path_factory.mktemp("stages")
    outcome = launch(folder, *SHORT, "train.output_dir=first", config=R50_FPN)
    outcome.succeeded()
    return folder, outcome


@pytest.fixture
def copied(first: tuple[Path, CommandResult], tmp_path: Path) -> Path:
    """A folder in which the RPN has been run, to do anything with."""
    shutil.copytree(first[0] / RPN_RUN, tmp_path / RPN_RUN)
    return tmp_path


def made(outcome: CommandResult) -> list[str]:
    """What a run that succeeded says that it made before it could begin."""
    return re.findall(r"Missing: .*|Storing the proposals of .*", outcome.succeeded())


# --- made first, and shared ------------------------------------------------------------------


def test_proposals_are_made_first_and_announced(first: tuple[Path, CommandResult]) -> None:
    folder, outcome = first
    announced, *stored = made(outcome)
    assert announced == ANNOUNCED
    assert [line.split()[6] for line in stored] == ["embedded_tiny_train", "embedded_tiny_val"]
    assert outcome.out.index(ANNOUNCED) < outcome.out.index("Starting training")
    assert outcome.out.count("on embedded_tiny_val\n") == 1  # only the row's results are printed
    rpn, row = folder / RPN_RUN, folder / "first"
    assert iterations(rpn) == list(range(RPN_ITERATIONS + 1))
    # each stage logs into its own folder; the row says what it waits for
    assert ANNOUNCED in (row / "log.txt").read_text()
    assert "Storing" not in (row / "log.txt").read_text()
    assert (rpn / "log.txt").read_text().count("Storing the proposals") == 2
    lines = [json.loads(line) for line in (row / "metrics.json").read_text().splitlines()]
    assert "loss_mask" in lines[0] and "loss_rpn_cls" not in lines[0]


def test_record_says_what_the_row_stands_on(first: tuple[Path, CommandResult]) -> None:
    folder, _ = first
    row, rpn = (load_record(folder / f / "record.json") for f in ("first", RPN_RUN))
    digest = hashlib.sha256((folder / RPN_RUN / "model_final.pth").read_bytes()).hexdigest()
    assert row.proposals is not None and row.init_from is None
    assert row.proposals.id == rpn.config.id == "rpn/r50_fpn"
    assert row.proposals.hash == rpn.config.hash == config_hash(load_config("rpn/r50_fpn", "tiny"))
    assert row.proposals.seed == rpn.seed == 0
    assert row.proposals.checkpoint == digest
    assert rpn.checkpoint is not None and rpn.checkpoint.sha256 == digest
    assert row.proposals.recall == rpn.metrics["proposals"].values()
    source = ProposalFile(folder / RPN_RUN / "proposals" / "embedded_tiny_val").info.source
    assert source == {
        "config": "rpn/r50_fpn",
        "profile": "tiny",
        "config_hash": rpn.config.hash,
        "seed": 0,
        "checkpoint_sha256": digest,
        "iterations": RPN_ITERATIONS,
        "recall": row.proposals.recall,
        "image_bits": None,
    }
    assert rpn.proposals is None


@pytest.mark.slow
def test_other_rows_and_seeds_share_them(first: tuple[Path, CommandResult]) -> None:
    folder, _ = first
    before = state(folder / RPN_RUN)
    pool = REPOSITORY / "configs" / "section4_2" / "fpn_roi_pool.py"
    for argv, config in (([], pool), (["--seed", "2"], R50_FPN)):
        outcome = launch(folder, *SHORT, *argv, config=config)
        assert made(outcome) == []
    assert state(folder / RPN_RUN) == before
    # the RPN itself says that it is complete
    outcome = launch(folder, "--resume", config="rpn/r50_fpn")
    assert "complete already" in outcome.succeeded() and made(outcome) == []
    files = ("record.json", "model_final.pth", "metrics.json", "proposals")
    after = state(folder / RPN_RUN)
    assert all(after[k] == v for k, v in before.items() if k.startswith(files))


def test_saved_config_finds_the_same_rpn(first: tuple[Path, CommandResult], tmp_path: Path) -> None:
    folder, _ = first
    saved = folder / "first" / "config.yaml"
    again = launch(
        folder, "--profile", "paper", f"train.output_dir={tmp_path / 'again'}", config=saved
    )
    assert made(again) == []
    one, two = (load_record(p / "record.json") for p in (folder / "first", tmp_path / "again"))
    assert (two.config.profile, two.config.hash) == ("tiny", one.config.hash)
    assert two.proposals == one.proposals and two.metrics == one.metrics
    final = [load(p / "model_final.pth")["model"] for p in (folder / "first", tmp_path / "again")]
    assert assert_same(*final) > 0


@pytest.mark.slow
def test_output_folders(tmp_path: Path) -> None:
    """`train.output_root` moves all runs, `train.output_dir` the row's own alone."""
    launch(tmp_path, *SHORT, "train.output_root=elsewhere", config=R50_FPN).succeeded()
    assert [p.name for p in tmp_path.iterdir()] == ["elsewhere"]
    found = sorted(str(p.parent) for p in Path(tmp_path / "elsewhere").rglob("record.json"))
    assert len(found) == 2 and found[0].endswith(str(RPN_RUN.relative_to("output")))
    row = Path(found[1]).relative_to(tmp_path / "elsewhere")
    assert str(row).startswith("table2a/r50_fpn@tiny/seed0-")
    # the root is not among the overrides that the row's folder is named after
    keys = [*SHORT, "train.output_root=moved", "train.output_dir=own"]
    (tmp_path / "elsewhere").rename(tmp_path / "moved")
    assert made(launch(tmp_path, *keys, config=R50_FPN)) == []
    assert (tmp_path / "own" / "record.json").is_file()
    assert made(launch(tmp_path, *SHORT, "--resume", keys[-2], config=R50_FPN)) == []
    assert len(list((tmp_path / "moved").rglob("record.json"))) == 2


@pytest.mark.parametrize("root", ["a folder", "7", "x: y #z"])
def test_output_root_of_any_name(copied: Path, root: str) -> None:
    (copied / "output").rename(copied / root)
    quoted = f"train.output_root={json.dumps(root)}"
    assert made(launch(copied, *SHORT, quoted, config=R50_FPN)) == []
    assert sorted(p.name for p in copied.iterdir()) == [root]


def test_overrides_of_the_row_reach_the_rows_proposals(
    first: tuple[Path, CommandResult], tmp_path: Path
) -> None:
    folder, _ = first
    run = tmp_path / "run"
    keys = ["model.proposal_generator.post_nms_topk=[7,3]", f"train.output_dir={run}"]
    assert made(launch(folder, *SHORT, *keys, config=R50_FPN)) == []
    for source, counts in ((folder / "first", (125, 62)), (run, (7, 3))):
        cfg = load_config(source / "config.yaml")
        found = [cfg.dataloader[s].mapper.precomputed_proposal_topk for s in ("train", "test")]
        assert found == list(counts)
        stored = folder / RPN_RUN / "proposals" / "embedded_tiny_train"
        cfg.dataloader.train.num_workers = 0
        batch = next(iter(build_train_data(Inputs(train_proposals=(stored,)).fill(cfg), 0)))
        available = [len(ProposalFile(stored).get(item["image_id"])[1]) for item in batch]
        assert [len(item["proposals"]) for item in batch] == [min(counts[0], a) for a in available]
        assert max(available) > 7
    other = "model.proposal_generator.nms_thresh=0.6"
    message = launch(folder, *SHORT, other, config=R50_FPN).failed_plainly()
    assert repr(other) in message and "rpn/r50_fpn" in message and "train.proposals=null" in message


# --- interrupted -----------------------------------------------------------------------------


def assert_equal_runs(one: Path, two: Path) -> None:
    final = [load(run / "model_final.pth") for run in (one, two)]
    assert assert_same(final[0]["model"], final[1]["model"]) > 0
    assert assert_same(final[0]["trainer"]["optimizer"], final[1]["trainer"]["optimizer"]) > 0
    records = [load_record(run / "record.json") for run in (one, two)]
    assert records[0].metrics == records[1].metrics


@pytest.mark.slow
def test_interrupted_rpn_is_resumed_by_the_rows_command(
    first: tuple[Path, CommandResult], tmp_path: Path
) -> None:
    folder, _ = first
    command = (*SHORT, "train.output_dir=first")
    with stopped_at(7):
        stopped = launch(tmp_path, *command, config=R50_FPN)
    assert stopped.code == 130 and "--resume" in stopped.err
    rpn = tmp_path / RPN_RUN
    assert (rpn / "last_checkpoint").read_text() == "model_0000006.pth"
    assert not (rpn / "proposals").exists()
    again = launch(tmp_path, *command, config=R50_FPN)
    assert made(again)[0] == ANNOUNCED and "Resuming after 7 iterations" in again.out
    assert iterations(rpn) == list(range(RPN_ITERATIONS + 1))
    assert_equal_runs(rpn, folder / RPN_RUN)
    assert arrays(rpn) == arrays(folder / RPN_RUN)
    assert_equal_runs(tmp_path / "first", folder / "first")


def test_interrupted_storing_is_done_again(
    first: tuple[Path, CommandResult], copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(copied / RPN_RUN / "proposals" / "embedded_tiny_val")
    before = state(copied / RPN_RUN / "proposals")
    add, seen = ProposalWriter.add, []

    def stop_at_the_fifth(writer: ProposalWriter, *args: object) -> None:
        seen.append(args)
        if len(seen) == 5:
            raise KeyboardInterrupt
        add(writer, *args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(ProposalWriter, "add", stop_at_the_fifth)
        assert launch(copied, *SHORT, config=R50_FPN).code == 130
    assert not (copied / RPN_RUN / "proposals" / "embedded_tiny_val").exists()
    again = launch(copied, *SHORT, config=R50_FPN)
    assert len(made(again)) == 1 and "embedded_tiny_val" in made(again)[0]
    after = state(copied / RPN_RUN / "proposals")
    assert all(after[name] == facts for name, facts in before.items())
    assert arrays(copied / RPN_RUN) == arrays(first[0] / RPN_RUN)
    assert not list((copied / RPN_RUN / "proposals").glob(".*"))  # nothing half-written stays


@pytest.mark.slow
def test_interrupted_row_is_resumed(first: tuple[Path, CommandResult], copied: Path) -> None:
    command = (*SHORT, "train.output_dir=first")
    with stopped_at(1):
        assert launch(copied, *command, config=R50_FPN).code == 130
    message = launch(copied, *command, config=R50_FPN).failed_plainly()
    assert "--resume" in message
    again = launch(copied, *command, "--resume", config=R50_FPN)
    assert made(again) == [] and "Resuming after 1 iterations" in again.out
    assert_equal_runs(copied / "first", first[0] / "first")


# --- changed or deleted since ----------------------------------------------------------------


def deletes_what_it_names(message: str, folder: Path) -> Path:
    """Deletes the folder that a message says to delete; returns it."""
    assert "elete the folder" in message
    named = {m.rstrip(".,:;") for m in re.findall(r"\S*output/\S+", message)}
    inside = {n for n in named if (folder / n).is_dir()}
    assert len(inside) == 1, (named, message)
    path = folder / inside.pop()
    shutil.rmtree(path)
    return path


def run_with_own_rpn(folder: Path) -> tuple[Path, list[str]]:
    """Runs a row on an RPN of one's own; returns the RPN's file and the row's keys."""
    rpn = write_config(folder / "own/my_rpn.py", "rpn/r50_fpn", "train.max_iter = 32_000")
    rpn.write_text(rpn.read_text() + "lr_multiplier.milestones = [16_000]\n")
    keys = [*SHORT, f"train.proposals={rpn}"]
    outcome = launch(folder, *keys, config=R50_FPN)
    assert "Running own/my_rpn first, in output/own/my_rpn@tiny/seed0." in made(outcome)[0]
    assert iterations(folder / "output/own/my_rpn@tiny/seed0") == [0, 1, 2]
    return rpn, keys


def test_missing_weights_are_told_before_the_rpn_is_trained(tmp_path: Path) -> None:
    keys = (*SHORT, "train.init_checkpoint=no.pth")
    message = launch(tmp_path, *keys, config=R50_FPN).failed_plainly()
    assert "no.pth" in message and "does not exist" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_changed_rpn_config_is_detected_and_named(tmp_path: Path) -> None:
    rpn, keys = run_with_own_rpn(tmp_path)
    run = tmp_path / "output/own/my_rpn@tiny/seed0"
    before = state(run)
    rpn.write_text(rpn.read_text() + "model.proposal_generator.nms_thresh = 0.6\n")

    # proposals of the old config lie there
    message = launch(tmp_path, *keys, "--seed", "2", config=R50_FPN).failed_plainly()
    assert "my_rpn" in message and "hash" in message
    assert {k: v for k, v in state(run).items() if k != "log.txt"} == {
        k: v for k, v in before.items() if k != "log.txt"
    }
    deletes_what_it_names(message, tmp_path)
    # or only the run of the old config
    shutil.rmtree(run / "proposals", ignore_errors=True)
    if run.exists():
        message = launch(tmp_path, *keys, "--seed", "2", config=R50_FPN).failed_plainly()
        assert "stale" in message and "my_rpn" in message
        assert "nms_thresh: 0.7 -> 0.6" in message
        assert deletes_what_it_names(message, tmp_path) == run
    outcome = launch(tmp_path, *keys, "--seed", "2", config=R50_FPN)
    assert made(outcome)[0].startswith("Missing")


@pytest.mark.slow
def test_evaluation_does_not_use_weights_of_a_changed_rpn_config(tmp_path: Path) -> None:
    rpn, keys = run_with_own_rpn(tmp_path)
    run = tmp_path / "output/own/my_rpn@tiny/seed0"
    shutil.rmtree(run / "proposals" / "embedded_tiny_val")
    rpn.write_text(rpn.read_text() + "model.proposal_generator.nms_thresh = 0.6\n")
    message = launch(tmp_path, *keys, "--eval-only", "--resume", config=R50_FPN).failed_plainly()
    assert "stale" in message and "nms_thresh: 0.7 -> 0.6" in message and str(run.name) in message
    assert not (run / "proposals" / "embedded_tiny_val").exists()


def test_proposals_without_the_run_that_made_them_are_enough(copied: Path) -> None:
    for file in (copied / RPN_RUN).iterdir():
        if file.is_file():
            file.unlink()
    outcome = launch(copied, *SHORT, config=R50_FPN)
    assert made(outcome) == []
    (record,) = (copied / "output" / "table2a").rglob("record.json")
    facts = load_record(record).proposals
    assert facts is not None and facts.id == "rpn/r50_fpn"
    # their info.json still says which weights made them
    source = ProposalFile(copied / RPN_RUN / "proposals" / "embedded_tiny_val").info.source
    assert facts.checkpoint == source["checkpoint_sha256"]
    assert facts.recall == source["recall"]


@pytest.mark.slow
def test_own_data_has_an_rpn_of_its_own_and_changes_are_detected(
    copied: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = tmp_path_factory.mktemp("data")
    keys = write_data(data)
    outcome = launch(copied, *SHORT, *keys, config=R50_FPN)
    assert len(made(outcome)) == 3
    (run,) = {p.parent for p in (copied / RPN_RUN.parent).glob("*/record.json")} - {
        copied / RPN_RUN
    }
    assert re.fullmatch(r"seed0-[0-9a-f]{8}", run.name)
    record = load_record(run / "record.json")
    names = [k.partition("=")[2] for k in keys if ".names=" in k]
    assert record.train_data is not None and record.train_data.name == names[0]
    assert record.test_data is not None and record.test_data.name == names[1]
    assert {p.name for p in (run / "proposals").iterdir()} == set(names)
    # the RPN's own command with the data's keys goes to the same folder
    again = launch(copied, *keys, "--resume", config="rpn/r50_fpn")
    assert "complete already" in again.succeeded()

    leave_out_an_annotation(data / "train.json")
    seed = (*SHORT, *keys, "--seed", "2")
    message = launch(copied, *seed, config=R50_FPN).failed_plainly()
    assert names[0] in message and "annotations" in message
    deletes_what_it_names(message, copied)
    message = launch(copied, *seed, config=R50_FPN).failed_plainly()
    assert "trained on other data" in message
    assert deletes_what_it_names(message, copied) == run
    assert len(made(launch(copied, *seed, config=R50_FPN))) == 3


def test_another_test_set_needs_no_other_rpn(copied: Path) -> None:
    key = f"{TEST}.names=embedded_tiny_unlabeled"
    outcome = launch(copied, *SHORT, key, config=R50_FPN)
    assert len(made(outcome)) == 1
    assert "Storing the proposals of rpn/r50_fpn for embedded_tiny_unlabeled" in outcome.out
    assert len(list((copied / RPN_RUN / "proposals").iterdir())) == 3


# --- evaluation alone ------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("own", ["nothing", "data", "rpn"])
def test_evaluation_trains_no_rpn_but_says_how(
    first: tuple[Path, CommandResult],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    own: str,
) -> None:
    weights = f"train.init_checkpoint={first[0] / 'first' / 'model_final.pth'}"
    keys = []
    if own == "data":
        keys = write_data(tmp_path_factory.mktemp("data"))
    elif own == "rpn":
        file = tmp_path_factory.mktemp("a project") / "my_rpn.py"
        keys = [f"train.proposals={write_config(file, 'rpn/r50_fpn')}"]
    command = ("--eval-only", weights, "train.draw=0", "train.output_root=a root", *keys)
    message = launch(tmp_path, *command, config=R50_FPN).failed_plainly()
    assert not list(tmp_path.rglob("*.pth"))
    told = re.search(r"train_net\.py (--config-file .*)\nfirst", message)
    assert told, message
    _, config, *arguments = shlex.split(told[1])
    launch(tmp_path, *arguments, config=config).succeeded()
    assert made(launch(tmp_path, *command, config=R50_FPN)) == []


def test_evaluation_makes_test_proposals_of_a_trained_rpn(
    first: tuple[Path, CommandResult], copied: Path
) -> None:
    shutil.rmtree(copied / RPN_RUN / "proposals")
    weights = f"train.init_checkpoint={first[0] / 'first' / 'model_final.pth'}"
    keys = ["train.output_dir=e", "model.roi_heads.box_predictor.test_topk_per_image=10"]
    outcome = launch(copied, "--eval-only", weights, *keys, config=R50_FPN)
    assert len(made(outcome)) == 1
    folder = copied / RPN_RUN / "proposals"
    assert [p.name for p in folder.iterdir()] == ["embedded_tiny_val"]
    original = first[0] / RPN_RUN / "proposals" / "embedded_tiny_val"
    assert state(folder / "embedded_tiny_val").keys() == state(original).keys()
    for file in original.iterdir():
        assert (folder / original.name / file.name).read_bytes() == file.read_bytes()
    one, two = (load_record(p / "record.json") for p in (copied / "e", first[0] / "first"))
    assert one.metrics == two.metrics and one.proposals == two.proposals


# --- mistakes --------------------------------------------------------------------------------


def test_configs_that_depend_on_each_other(tmp_path: Path) -> None:
    a, b, rpn = (tmp_path / f"{name}.py" for name in ("one", "two", "an_rpn"))

    def circle(*names: str) -> str:
        return " -> ".join(f"{tmp_path.name}/{name}" for name in names)

    write_config(a, "table2a/r50_fpn", f'train.init_from = "{b}"')
    write_config(b, "table2a/r50_fpn", f'train.init_from = "{a}"')
    message = launch(tmp_path, *SHORT, "train.output_dir=x", config=a).failed_plainly()
    assert circle("one", "two", "one") in message
    write_config(a, "table2a/r50_fpn", f'train.proposals = "{rpn}"')
    write_config(rpn, "rpn/r50_fpn", f'train.init_from = "{a}"')
    message = launch(tmp_path, *SHORT, "train.output_dir=y", config=a).failed_plainly()
    assert circle("one", "an_rpn", "one") in message
    message = launch(tmp_path, "train.output_dir=z", config=rpn).failed_plainly()
    assert circle("an_rpn", "one", "an_rpn") in message
    write_config(a, "table2a/r50_fpn", f'train.init_from = "{a}"')
    message = launch(tmp_path, *SHORT, "train.output_dir=w", config=a).failed_plainly()
    assert circle("one", "one") in message
    assert not list(tmp_path.rglob("*.pth"))


def test_proposals_of_something_that_is_no_rpn(tmp_path: Path) -> None:
    key = "train.proposals=table2a/r101_fpn"
    message = launch(tmp_path, *SHORT, key, config=R50_FPN).failed_plainly()
    assert "table2a/r101_fpn" in message and "no RPN" in message and "configs/rpn/" in message
    assert not list(tmp_path.rglob("*.pth"))


@pytest.mark.parametrize("key", ["proposals", "init_from"])
def test_unknown_name_lists_near_ones(tmp_path: Path, key: str) -> None:
    message = launch(tmp_path, *SHORT, f"train.{key}=rpn/r50_fnp", config=R50_FPN).failed_plainly()
    assert f"train.{key}" in message and "rpn/r50_fnp" in message and "rpn/r50_fpn.py" in message
    assert list(tmp_path.iterdir()) == []


def test_the_profile_is_no_key(tmp_path: Path) -> None:
    for value in ("mini", "paper", "large"):
        message = launch(tmp_path, f"train.profile={value}", config=R50_FPN).failed_plainly()
        assert "train.profile" in message and "--profile" in message and value in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["train.freeze=[bakbone]", "train.init_from=table2a/r50_fpn"], ["bakbone", "backbone"]),
        (["train.freeze=[backbone]"], ["train.init_from", "random"]),
        (["dataloader.train.total_batch_size=3", "train.accumulate=2"], ["multiple of 2"]),
    ],
)
def test_mistakes_in_the_row_are_told_before_stages_are_run(
    tmp_path: Path, keys: list[str], words: list[str]
) -> None:
    message = launch(tmp_path, *SHORT, *keys, config=R50_FPN).failed_plainly()
    assert all(word in message for word in words)
    assert not list(tmp_path.rglob("*.pth"))


def test_more_proposals_than_are_stored(copied: Path) -> None:
    key = "model.proposal_generator.post_nms_topk=[126,62]"
    message = launch(copied, *SHORT, key, config=R50_FPN).failed_plainly()
    assert "126" in message and "125" in message and "rpn/r50_fpn" in message
    assert "post_nms_topk" in message
    fewer = "model.proposal_generator.post_nms_topk=[125,62]"
    launch(copied, *SHORT, fewer, config=R50_FPN).succeeded()


NO_REGIONS = '''
"""A model that neither proposes regions nor has RoI heads."""

import torch
from torch import nn


class Nothing(nn.Module):
    """Predicts no proposals, from one weight."""

    def __init__(self, pixel_std):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, batch):
        return {"loss": self.weight.sum() ** 2} if self.training else [{} for _ in batch]


class Silent:
    """Measures nothing."""

    def __init__(self, output_dir=None):
        pass

    def reset(self):
        pass

    def process(self, inputs, outputs):
        pass

    def evaluate(self):
        return {}
'''


def test_a_model_without_regions_is_no_rpn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has neither RoI heads nor an RPN is trained as ever, and stores no proposals."""
    (tmp_path / "no_regions_parts.py").write_text(NO_REGIONS)
    monkeypatch.syspath_prepend(str(tmp_path))
    file = write_config(
        tmp_path / "no_regions.py",
        "rpn/r50_fpn",
        "from detectron2.config import LazyCall as L",
        "from no_regions_parts import Nothing, Silent",
        "model = L(Nothing)(pixel_std=[1.0, 1.0, 1.0])",
        "dataloader.evaluator = L(Silent)()",
    )
    launch(tmp_path, *SHORT[:2], "train.output_dir=run", config=file).succeeded()
    assert not (tmp_path / "run" / "proposals").exists()
    message = launch(tmp_path, *SHORT, f"train.proposals={file}", config=R50_FPN).failed_plainly()
    assert "no RPN" in message


# --- several processes -----------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_store_what_one_process_stores(
    first: tuple[Path, CommandResult], copied: Path
) -> None:
    shutil.rmtree(copied / RPN_RUN / "proposals")
    command = ["--config-file", str(R50_FPN), "--profile", "tiny", "--num-gpus", "2", *SHORT]
    outcome = start(copied, str(REPOSITORY / "train_net.py"), *command)
    outcome.succeeded()
    assert "Warning" not in outcome.err and "Traceback" not in outcome.err, outcome.err
    assert arrays(copied / RPN_RUN) == arrays(first[0] / RPN_RUN)
    (record,) = (copied / "output" / "table2a").rglob("record.json")
    alone = load_record(first[0] / "first" / "record.json")
    assert load_record(record).proposals == alone.proposals
    assert load_record(record).world_size == 2


@pytest.mark.slow
def test_two_processes_run_every_stage(tmp_path: Path) -> None:
    first, second = (child.wait() for child in fork_two(tmp_path, *SHORT, config=R50_FPN))
    assert (first.succeeded() + second.succeeded()).count(ANNOUNCED) == 1
    assert load_record(tmp_path / RPN_RUN / "record.json").world_size == 2
    names = {p.name for p in (tmp_path / RPN_RUN / "proposals").iterdir()}
    assert names == {"embedded_tiny_train", "embedded_tiny_val"}


def test_an_rpn_made_anew_under_a_half_trained_row_is_noticed(copied: Path) -> None:
    here = (*SHORT, "train.checkpointer.period=1", "train.output_dir=row")
    with stopped_at(1):
        assert launch(copied, *here, config=R50_FPN).code == 130
    kept = json.loads((copied / "row" / "inputs.json").read_text())
    assert (
        kept["proposals"]["checkpoint"]
        == load_record(copied / RPN_RUN / "record.json").checkpoint.sha256
    )  # type: ignore[union-attr]
    stored = copied / RPN_RUN / "proposals"
    for file in [*stored.glob("*/info.json"), copied / RPN_RUN / "record.json"]:
        file.write_text(file.read_text().replace(kept["proposals"]["checkpoint"], "f" * 64))
    message = launch(copied, *here, "--resume", config=R50_FPN).failed_plainly()
    assert "The run in row began with the proposals of other weights" in message
    shutil.rmtree(copied / "row")
    launch(copied, *here, config=R50_FPN).succeeded()


def test_proposals_of_other_weights_than_the_rpn_beside_them_are_stale(copied: Path) -> None:
    info = copied / RPN_RUN / "proposals" / "embedded_tiny_val" / "info.json"
    content = json.loads(info.read_text())
    info.write_text(
        json.dumps({**content, "source": {**content["source"], "checkpoint_sha256": "0" * 64}})
    )
    message = launch(copied, *SHORT, config=R50_FPN).failed_plainly()
    assert "are stale: they were made by other weights" in message
    assert str(info.parent.relative_to(copied)) in message
