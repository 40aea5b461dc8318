"""A config that names a teacher: one command trains it, has it annotate images, and learns from it.

Each fault is really caused: files are changed and deleted, teachers trained anew, runs interrupted.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from mask_rcnn_repro.data.generated.annotations import generated_facts
from mask_rcnn_repro.data.proposals.files import ProposalFile
from mask_rcnn_repro.data.registration import coco_parts, register_all_datasets
from mask_rcnn_repro.records.record import DatasetInfo, load_record
from mask_rcnn_tools.distill.cli import parse_args
from mask_rcnn_tools.distill.main import main

from .fault_helpers import fork_two
from .run_helpers import CommandResult, _undone, assert_same, launch, load
from .stage_helpers import state, stopped_at, write_config

pytestmark = pytest.mark.slow

PERSONS = "table5/keypoint_only"
FEW = "model.roi_heads.box_predictor.test_topk_per_image = 4"
SHORT = ("train.max_iter = 20_000", "lr_multiplier.milestones = [10_000]", "train.draw = 0", FEW)
UNLABELED = "embedded_tiny_person_unlabeled"
OWN = "own"  # directory of the configs, which begins their ids
TEACHER_RUN = Path("output/own/teacher@tiny/seed0")
RPN_RUN = Path("output/rpn/r50_fpn_person@tiny/seed0")
DISTILLED = TEACHER_RUN / "distilled" / UNLABELED
GENERATED = DISTILLED / "generated.json"
DATASET = "dataloader.train.dataset"


def write_teacher(folder: Path, *lines: str) -> Path:
    file = folder / OWN / "teacher.py"
    return write_config(file, PERSONS, *SHORT, "train.tta.sizes = [800]", *lines)


def write_student(folder: Path, teacher: Path | str, *lines: str, name: str = "student") -> Path:
    return write_config(
        folder / OWN / f"{name}.py",
        PERSONS,
        "from detectron2.config import LazyCall as L",
        "from mask_rcnn_repro.data import get_mixed_dicts",
        f"{DATASET} = L(get_mixed_dicts)(",
        "    names=dataloader.train.dataset.names, min_keypoints=1, generated_part=0.5,",
        f"    teacher={str(teacher)!r},",
        ")",
        *SHORT,
        *lines,
    )


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CommandResult]:
    """Folder and outcome of a student whose teacher did not exist. Not to be changed."""
    folder = tmp_path_factory.mktemp("teacher")
    config = write_student(folder, write_teacher(folder))
    outcome = launch(folder, "train.output_dir=first", config=config)
    outcome.succeeded()
    return folder, outcome


@pytest.fixture
def copied(first: tuple[Path, CommandResult], tmp_path: Path) -> tuple[Path, Path]:
    """A folder in which the teacher has annotated, to do anything with, and the student there."""
    shutil.copytree(first[0] / "output", tmp_path / "output")
    return tmp_path, write_student(tmp_path, write_teacher(tmp_path))


def made(outcome: CommandResult) -> list[str]:
    """What a run that succeeded says that it made before it could begin."""
    return re.findall(r"Missing: .*|Storing the proposals of .*", outcome.succeeded())


def unlogged(folder: Path) -> dict[str, tuple[int, int]]:
    """State of the files below a folder without its logs and locks."""
    return {k: v for k, v in state(folder).items() if not k.endswith(("log.txt", ".lock"))}


def edit(file: Path) -> None:
    """Moves a generated box by one pixel."""
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"][0] += 1
    file.write_text(json.dumps(content))


# --- made first, and shared ------------------------------------------------------------------


def test_one_command_does_all(first: tuple[Path, CommandResult]) -> None:
    folder, outcome = first
    steps = [line.partition(" in output")[0].rstrip(",.") for line in made(outcome)]
    assert steps == [
        "Missing: the teacher of own/student. Running own/teacher first",
        "Missing: the proposals for embedded_tiny_person_train. Running rpn/r50_fpn_person first",
        "Storing the proposals of rpn/r50_fpn_person for embedded_tiny_person_train",
        "Storing the proposals of rpn/r50_fpn_person for embedded_tiny_person_val",
        "Missing: the generated annotations of own/student. own/teacher makes them",
        f"Storing the proposals of rpn/r50_fpn_person for {UNLABELED}",
    ]
    assert outcome.out.index("Generated annotations written") < outcome.out.index("An epoch:")
    assert ", 50.0 % generated" in outcome.out
    # each stage logs into its own folder
    assert "Threshold" in (folder / DISTILLED / "log.txt").read_text()
    log = (folder / "first" / "log.txt").read_text()
    assert "Threshold" not in log and "An epoch" in log and steps[-2] in log
    stored = ProposalFile(folder / RPN_RUN / "proposals" / f"{UNLABELED}.train")
    train = ProposalFile(folder / RPN_RUN / "proposals" / "embedded_tiny_person_train")
    test = ProposalFile(folder / RPN_RUN / "proposals" / "embedded_tiny_person_val")
    assert stored.info.topk == train.info.topk > test.info.topk
    assert len(stored) == 8


def test_the_record_names_annotations_and_teacher(first: tuple[Path, CommandResult]) -> None:
    folder, _ = first
    student, teacher = (load_record(folder / f / "record.json") for f in ("first", TEACHER_RUN))
    assert student.generated_data is not None and student.teacher is not None
    assert student.generated_data == DatasetInfo(**generated_facts(folder / GENERATED))
    assert student.generated_data.name == UNLABELED and student.generated_data.images == 8
    assert student.train_data == teacher.train_data
    weights = hashlib.sha256((folder / TEACHER_RUN / "model_final.pth").read_bytes()).hexdigest()
    assert student.teacher.model_dump() == {
        "id": "own/teacher",
        "hash": teacher.config.hash,
        "seed": 0,
        "checkpoint": weights,
        "recall": None,
    }
    assert student.config.hash != teacher.config.hash
    assert teacher.generated_data is None and teacher.teacher is None


def test_other_seeds_and_the_tool_share_them(copied: tuple[Path, Path]) -> None:
    folder, config = copied
    before = unlogged(folder / "output")
    assert made(launch(folder, "--seed", "2", "train.output_dir=b", config=config)) == []
    assert unlogged(folder / "output") == before
    with _undone(folder):
        main(parse_args(["--config-file", str(folder / OWN / "teacher.py"), "--profile", "tiny"]))
    assert "already exist" in (folder / DISTILLED / "log.txt").read_text().splitlines()[-1]
    assert unlogged(folder / "output") == before


def test_evaluation_needs_no_teacher(
    copied: tuple[Path, Path], first: tuple[Path, CommandResult]
) -> None:
    folder, config = copied
    shutil.rmtree(folder / TEACHER_RUN)
    (folder / OWN / "teacher.py").unlink()
    weights = f"train.init_checkpoint={first[0] / 'first' / 'model_final.pth'}"
    keys = ("--eval-only", weights, "train.output_dir=e")
    assert made(launch(folder, *keys, config=config)) == []
    record, trained = (load_record(f / "record.json") for f in (folder / "e", first[0] / "first"))
    assert record.metrics == trained.metrics
    assert record.teacher is None and record.generated_data is None
    assert not (folder / TEACHER_RUN).exists()


# --- changed or deleted since ----------------------------------------------------------------


def test_other_annotations_under_a_half_trained_student_are_noticed(
    copied: tuple[Path, Path], first: tuple[Path, CommandResult]
) -> None:
    folder, config = copied
    here = ("train.output_dir=first", "train.checkpointer.period=1")
    with stopped_at(1):
        assert launch(folder, *here, config=config).code == 130
    kept = (folder / GENERATED).read_bytes()
    edit(folder / GENERATED)
    message = launch(folder, *here, "--resume", config=config).failed_plainly()
    assert "The run in first began with other generated annotations (sha256:" in message
    (folder / GENERATED).write_bytes(kept)
    out = launch(folder, *here, "--resume", config=config).succeeded()
    assert "Resuming after 1 iterations" in out
    final = [load(f / "first" / "model_final.pth")["model"] for f in (folder, first[0])]
    assert assert_same(*final) > 0


def test_deleted_annotations_are_made_again(copied: tuple[Path, Path]) -> None:
    folder, config = copied
    kept = (folder / GENERATED).read_bytes()
    (folder / GENERATED).unlink()
    outcome = launch(folder, "train.output_dir=a", config=config)
    assert [line.split(".")[0] for line in made(outcome)] == [
        "Missing: the generated annotations of own/student"
    ]
    assert "1 of 1 files of predictions already exist" in outcome.out
    assert (folder / GENERATED).read_bytes() == kept
    shutil.rmtree(folder / DISTILLED)
    assert len(made(launch(folder, "train.output_dir=b", config=config))) == 1
    assert (folder / GENERATED).read_bytes() == kept


def test_other_weights_of_the_teacher_make_its_annotations_stale(
    copied: tuple[Path, Path],
) -> None:
    folder, config = copied
    keys = ("optimizer.lr=0.01", "train.output_dir=other")
    launch(folder, *keys, config=folder / OWN / "teacher.py").succeeded()
    weights = folder / TEACHER_RUN / "model_final.pth"
    shutil.copyfile(folder / "other" / "model_final.pth", weights)
    message = launch(folder, "train.output_dir=a", config=config).failed_plainly()
    assert str(DISTILLED) in message and "stale" in message
    now = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert "checkpoint_sha256: " in message and f" there, {now} now" in message
    assert f"Delete the directory {DISTILLED}" in message
    shutil.rmtree(folder / DISTILLED)
    assert len(made(launch(folder, "train.output_dir=b", config=config))) == 1
    record = load_record(folder / "b" / "record.json")
    assert record.teacher is not None and record.teacher.checkpoint == now


def test_a_changed_teacher_is_named(copied: tuple[Path, Path]) -> None:
    folder, config = copied
    write_teacher(folder, "optimizer.lr = 0.01")
    message = launch(folder, "train.output_dir=a", config=config).failed_plainly()
    assert f"{TEACHER_RUN} is stale: own/teacher, which gives the teacher of own/student" in message
    # its annotations alone are stale, too
    for file in (folder / TEACHER_RUN).iterdir():
        if file.is_file():
            file.unlink()
    message = launch(folder, "train.output_dir=a", config=config).failed_plainly()
    assert f"The generated annotations {GENERATED} are stale: own/teacher (its hash was" in message
    assert f"Delete the folder {DISTILLED}" in message


def test_annotations_outlive_their_teacher(copied: tuple[Path, Path]) -> None:
    folder, config = copied
    teacher = load_record(folder / TEACHER_RUN / "record.json").checkpoint
    for file in (folder / TEACHER_RUN).iterdir():
        if file.name != "distilled":
            shutil.rmtree(file) if file.is_dir() else file.unlink()
    assert made(launch(folder, "train.output_dir=a", config=config)) == []
    record = load_record(folder / "a" / "record.json")
    assert record.teacher is not None and teacher is not None
    assert record.teacher.checkpoint == teacher.sha256


def test_what_stands_on_a_student_notices_other_annotations(copied: tuple[Path, Path]) -> None:
    folder, config = copied
    tuned = write_config(
        folder / OWN / "tuned.py", PERSONS, *SHORT, f"train.init_from = '{config}'"
    )
    (announced,) = made(launch(folder, "train.output_dir=a", config=tuned))
    assert "the initial weights of own/tuned. Running own/student first" in announced
    edit(folder / GENERATED)
    message = launch(folder, "train.output_dir=b", config=tuned).failed_plainly()
    assert "output/own/student@tiny/seed0, which gives the initial weights of own/tuned" in message
    assert f"other generated annotations than those in {GENERATED} now" in message
    # those that are gone are not needed for what was trained on them
    shutil.rmtree(folder / TEACHER_RUN)
    assert made(launch(folder, "train.output_dir=c", config=tuned)) == []
    # nor for a row that inherits the teacher and trains nothing
    lines = (f"train.init_from = {str(config)!r}", "train.max_iter = 0")
    evaluated = write_student(folder, folder / OWN / "teacher.py", *lines, name="evaluated")
    assert made(launch(folder, "train.output_dir=d", config=evaluated)) == []
    student, again = (
        load_record(folder / f / "record.json") for f in ("output/own/student@tiny/seed0", "d")
    )
    assert again.metrics == student.metrics
    assert student.teacher is not None and again.teacher is None
    assert not (folder / TEACHER_RUN).exists()


# --- mistakes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["teacher=rpn/r50_fpn_person"], ["dataset.teacher", "rpn/r50_fpn_person", "no RoI heads"]),
        (["teacher=table5/faster_rcnn"], ["keypoint_head", "table5/faster_rcnn has none"]),
        (["teacher=table5/keypoint_onyl"], ["table5/keypoint_onyl", "table5/keypoint_only.py"]),
        (["teacher=null"], ["dataset.generated and dataset.teacher are null", "distill.py"]),
        (["generated=none.json"], ["none.json do not exist", "distill.py"]),
        (["generated_part=40"], ["generated_part is 40", "between 0 and 1"]),
        (["unlabeled=nothing"], ["'nothing'"]),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(
    tmp_path: Path, keys: list[str], words: list[str]
) -> None:
    config = write_student(tmp_path, PERSONS)
    keys = [f"{DATASET}.{key}" for key in keys]
    message = launch(tmp_path, *keys, config=config).failed_plainly()
    assert all(word in message for word in words), message
    assert not list(tmp_path.rglob("*.pth"))


def test_nobody_teaches_himself(tmp_path: Path) -> None:
    config = write_student(tmp_path, tmp_path / OWN / "student.py")
    message = launch(tmp_path, config=config).failed_plainly()
    assert "own/student -> own/student" in message


def test_unlabeled_images_with_ids_of_labeled_ones(copied: tuple[Path, Path]) -> None:
    """Their proposals could not be told apart; told before the teacher is trained."""
    folder, config = copied
    register_all_datasets()
    labeled = coco_parts("embedded_tiny_person_train")
    assert labeled is not None
    content = json.loads(Path(labeled[0].json_file).read_text())
    (folder / "own.json").write_text(json.dumps({**content, "annotations": []}))
    register_coco_instances("own_images", {}, str(folder / "own.json"), labeled[0].image_root)
    try:
        shutil.rmtree(folder / TEACHER_RUN)
        keys = (f"{DATASET}.unlabeled=own_images", "train.output_dir=a")
        message = launch(folder, *keys, config=config).failed_plainly()
        assert "24 images of own_images" in message and "embedded_tiny_person_train" in message
        assert "train.proposals=null" in message
        assert not list((folder / TEACHER_RUN).rglob("*.pth"))
    finally:
        DatasetCatalog.remove("own_images")
        MetadataCatalog.remove("own_images")


def test_annotations_of_unknown_images_have_no_proposals(copied: tuple[Path, Path]) -> None:
    folder, config = copied
    content = json.loads((folder / GENERATED).read_text())
    (folder / "foreign.json").write_text(json.dumps({**content, "info": {}}))
    root = coco_parts(UNLABELED)[0].image_root  # type: ignore[index]
    keys = [f"{DATASET}.generated=foreign.json", f"+{DATASET}.generated_images={root}"]
    message = launch(folder, *keys, "train.output_dir=a", config=config).failed_plainly()
    assert "foreign.json" in message and "data set of their images" in message
    assert "train.proposals=null" in message
    launch(folder, *keys, "train.output_dir=b", "train.proposals=null", config=config).succeeded()
    record = load_record(folder / "b" / "record.json")
    assert record.generated_data is not None and record.generated_data.name == "foreign.json"
    assert record.teacher is None


# --- several processes -----------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_do_all(tmp_path: Path) -> None:
    config = write_student(tmp_path, write_teacher(tmp_path))
    first, second = (child.wait() for child in fork_two(tmp_path, config=config))
    second.succeeded()
    assert len(made(first)) == 6
    record = load_record(tmp_path / "output" / OWN / "student@tiny" / "seed0" / "record.json")
    assert record.world_size == 2
    assert record.generated_data is not None
    assert record.generated_data == DatasetInfo(**generated_facts(tmp_path / GENERATED))
