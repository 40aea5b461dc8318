"""What checking finds: each fault really caused, and nothing where there is none."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mask_rcnn_repro.data.coco.load import load_coco_json
from mask_rcnn_repro.errors import DataError
from mask_rcnn_repro.registration import register
from mask_rcnn_tools.check_data.check import Options, check
from mask_rcnn_tools.check_data.cli import parse_args
from mask_rcnn_tools.check_data.findings import Report
from mask_rcnn_tools.check_data.kinds import KINDS
from mask_rcnn_tools.check_data.main import main, run, status
from mask_rcnn_tools.check_data.sources import Wanted, sources_of_json
from mask_rcnn_tools.check_data.text import format_report

from .data_helpers import HEIGHT, TRIANGLE, WIDTH, annotation, changed, content, write

register()


def report_of(folder: Path, data: Any, wanted: Wanted | None = None, **options: Any) -> Report:
    """Checks a json and images as a training set."""
    report = Report("test")
    file, root = write(folder, data) if isinstance(data, dict) else data
    sources = sources_of_json(file, root, report)
    sources.wanted = wanted or Wanted()
    sources.tables = {"train": sources.tables["data"], "test": []}
    sources.keypoints = {"train": sources.keypoints["data"], "test": []}
    return check(sources, report, Options(threads=1, **options))


def counts(report: Report, *without: str) -> dict[str, int]:
    found = {f.kind: f.count for f in report.findings if f.kind not in without}
    assert all(f.examples and f.fix for f in report.findings)
    assert len(format_report(report).splitlines()) > len(found)
    return found


def test_good_data(tmp_path: Path) -> None:
    data = changed(content(), ("categories", 1), ...)
    data["images"].append({"id": 40, "file_name": "40.jpg", "height": HEIGHT, "width": WIDTH})
    data["annotations"] += [annotation(500 + i, 40, bbox=[i, 1, 5, 5]) for i in range(3)]
    for index in range(3):
        box = [index + 0.5, 1, 5, 5]
        square = [box[0], 1, box[0] + 5, 1, box[0] + 5, 6, box[0], 6]
        data["annotations"][3 + index].update(bbox=box, segmentation=[square], area=25)
    report = report_of(tmp_path, data)
    assert counts(report) == {}
    (numbers,) = report.statistics
    assert numbers["classes"] == {"cog": 6}
    assert (
        numbers["instances_per_image"]["histogram"] | {"1": 3, "2-4": 1}
        == numbers["instances_per_image"]["histogram"]
    )
    assert numbers["image_sides"] == {"height": [30, 30, 30], "width": [40, 40, 40]}
    assert numbers["box_sizes"]["small"] == 6


def _with(*more: dict[str, Any], **fields: Any) -> dict[str, Any]:
    data = changed(content(), ("categories", 1), ...)
    data["annotations"] += [annotation(500 + i, 10, **m) for i, m in enumerate(more)]
    return {**data, **fields}


_RUNS = {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH]}
_FULL = [0, 0, WIDTH, HEIGHT]
_OTHER = {"bbox": [5, 5, 10, 10]}  # not the box of annotation 110


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (_with({"bbox": [1, 1, 0, 5]}), {"empty-box": 1}),
        (_with({"bbox": [1, 1, float("nan"), 5]}), {"empty-box": 1}),
        (_with({"bbox": [50, 1, 5, 5]}), {"box-outside": 1}),
        (_with({"bbox": [1, 1, 5000, 5]}), {"far-coordinates": 1}),
        (
            _with({**_OTHER, "segmentation": [[0, 0, 1e9, 1e9, 5, 5]], "area": 1e9}),
            {"bad-polygon": 1, "area-field": 1},
        ),
        (_with({"bbox": [30, 10, 15, 10]}), {"box-partly-outside": 1, "mask-off-box": 1}),
        (
            _with({"bbox": [4.5, 4.5, 0.5, 10], "segmentation": [[4.5, 4.5, 5, 5, 5, 14.5]],
                   "area": 2.25}),
            {"tiny-box": 1},
        ),
        (_with({**_OTHER, "segmentation": [[1, 2, 3, 4]]}), {"bad-polygon": 1, "missing-mask": 1}),
        (_with({**_OTHER, "segmentation": [TRIANGLE, [1, 2, 3]]}), {"bad-polygon": 1}),
        (_with({**_OTHER, "segmentation": [[5, 5, 10, 10, 15, 15]]}), {"mask-without-area": 1}),
        (_with({**_OTHER, "segmentation": [[30, 20, 39, 20, 39, 29]]}), {"mask-off-box": 1}),
        (_with({**_OTHER, "segmentation": []}), {"missing-mask": 1}),
        (_with({**_OTHER, "area": 500}), {"area-field": 1}),
        (_with({**_OTHER, "area": 0}), {"area-field": 1}),
        (_with({**_OTHER, "area": -5, "iscrowd": 0}), {"area-field": 1}),
        (_with({**_OTHER, "area": "50"}), {"area-field": 1}),
        (_with({**_OTHER, "area": 24}), {"area-field": 1}),
        (_with({**_OTHER, "area": None}), {}),
        (_with({**_OTHER, "area": 121, "segmentation": []}), {"missing-mask": 1}),
        (_with({**_OTHER, "area": 122, "segmentation": []}), {"missing-mask": 1, "area-field": 1}),
        (_with({**_OTHER, "area": 9, "segmentation": []}), {"missing-mask": 1, "area-field": 1}),
        (_with({"id": 110}), {"duplicate-annotation-id": 1, "duplicate-annotation": 1}),
        (_with({"image_id": 99}), {"annotation-without-image": 1}),
        (_with({**_OTHER, "category_id": 4}), {"unknown-category": 1}),
        (_with({**_OTHER, "category_id": "7"}), {"unknown-category": 1}),
        (_with({"id": ...}), {"refused-record": 1}),
        (_with({"bbox": "box"}), {"refused-record": 1}),
        (_with({**_OTHER, "iscrowd": 2}), {"refused-record": 1}),
        (_with({**_OTHER, "iscrowd": 1}), {"crowd-polygon": 1}),
        (_with({"bbox": _FULL, "segmentation": {**_RUNS, "size": [5, 5]}}), {"run-lengths": 1}),
        (_with({"bbox": _FULL, "segmentation": {**_RUNS, "counts": [7]}}), {"run-lengths": 1}),
        (_with({"bbox": _FULL, "segmentation": {**_RUNS, "counts": "\x00"}}), {"run-lengths": 1}),
        (
            _with(categories=[{"id": 7, "name": "a"}, {"id": 8, "name": "a"}]),
            {"unused-category": 1, "duplicate-class-name": 1},
        ),
        (_with(categories=[]), {"refused-record": 1}),
        (_with(annotations={}), {"refused-record": 1, "no-annotations": 1}),
        (_with(annotations=[]), {"no-annotations": 1, "unused-category": 0}),
    ],
)  # fmt: skip
def test_annotations(tmp_path: Path, data: dict[str, Any], expected: dict[str, int]) -> None:
    for index, record in enumerate(data["annotations"]):
        data["annotations"][index] = {k: v for k, v in record.items() if v is not ...}
    found = counts(report_of(tmp_path, data), "image-without-annotations")
    assert found == {kind: count for kind, count in expected.items() if count}


def test_boxes_in_other_formats(tmp_path: Path) -> None:
    """Corners, and parts of the image, are what people give most often in place of x, y, w, h."""
    boxes = [[20 + i / 20, 15, 38, 28] for i in range(20)]
    data = _with(
        annotations=[annotation(i, 10, bbox=b, segmentation=...) for i, b in enumerate(boxes)]
    )
    assert counts(report_of(tmp_path, data), "image-without-annotations")["box-corners"] == 20
    for record in data["annotations"]:
        x0, y0, x1, y1 = record["bbox"]
        record["bbox"] = [x0 / 40, y0 / 30, (x1 - x0) / 40, (y1 - y0) / 30]
    found = counts(report_of(tmp_path, data), "image-without-annotations")
    assert found == {"box-fractions": 20}


def _posed(values: list[Any], **fields: Any) -> dict[str, Any]:
    data = _with({**_OTHER, "keypoints": values, **fields})
    data["categories"][0].update(keypoints=["left_eye", "right_eye", "nose"])
    return data


@pytest.mark.parametrize(
    ("values", "fields", "expected"),
    [
        ([6, 6, 2, 7, 7, 1, 0, 0, 0], {"num_keypoints": 2}, {}),
        ([6, 6, 2, 7, 7, 1, 0, 0, 0], {"num_keypoints": 3}, {"keypoint-count": 1}),
        ([6, 6, 2, 7, 7, 3, 0, 0, 0], {}, {"keypoint-visibility": 1}),
        ([6, 6, 2, 7, 7, 1, 8, 8, 0], {}, {"keypoint-ghost": 1}),
        ([6, 6, 2, 7, 7], {}, {"keypoint-numbers": 1}),
        ([6, 6, 2, 7, 7, "1", 0, 0, 0], {}, {"refused-record": 1}),
        ([60, 6, 2, 7, 7, 1, 0, 0, 0], {}, {"keypoint-outside": 1}),
        ([30, 6, 2, 7, 7, 1, 0, 0, 0], {}, {"keypoint-off-box": 1}),
    ],
)
def test_keypoints(
    tmp_path: Path, values: list[Any], fields: dict[str, Any], expected: dict[str, int]
) -> None:
    assert counts(report_of(tmp_path, _posed(values, **fields))) == expected


def test_keypoint_names(tmp_path: Path) -> None:
    data = _posed([6, 6, 2, 7, 7, 1, 0, 0, 0])
    data["categories"][0]["keypoints"] = ["left_eye", "right_ear", "nose"]
    assert counts(report_of(tmp_path, data)) == {"keypoint-sides": 2}
    del data["categories"][0]["keypoints"]
    wanted = Wanted(frozenset({"keypoint"}))
    assert counts(report_of(tmp_path, data, wanted)) == {"keypoint-names": 1}


def test_ids_of_64_bits_stay_apart(tmp_path: Path) -> None:
    """As float64, neighbours above 2**53 are equal."""
    data = changed(content(), ("categories", 1), ...)
    large = 2**63 - 100
    for entry in data["images"]:
        entry["id"] += large
    for number, entry in enumerate(data["annotations"]):
        entry.update(id=large + number, image_id=entry["image_id"] + large)
    assert counts(report_of(tmp_path, data)) == {}
    data["annotations"].append({**data["annotations"][0], "id": 5})
    assert counts(report_of(tmp_path, data)) == {"duplicate-annotation": 1}
    data["images"][0]["id"] = 2**63
    report = report_of(tmp_path, data)
    (refused,) = (f for f in report.findings if f.kind == "refused-record")
    assert "from -2**63 to 2**63 - 1, got 9223372036854775808" in refused.examples[0]


@pytest.mark.parametrize("number", [2**64, 2**64 + 1, -(2**63) - 1, 2**70])
@pytest.mark.parametrize(
    ("records", "key"),
    [
        ("images", "id"),
        ("annotations", "id"),
        ("annotations", "image_id"),
        ("annotations", "category_id"),
        ("categories", "id"),
    ],
)
def test_ids_beyond_64_bits_are_not_called_fractions(
    tmp_path: Path, records: str, key: str, number: int
) -> None:
    """The fast json parser rounds them to floats. Data check and loader say what they are."""
    data = changed(content(), ("categories", 1), ...)
    data[records][0][key] = number
    where = f"{key!r} must be a whole number from -2**63 to 2**63 - 1, got one that needs more than"
    report = report_of(tmp_path, data)
    texts = [text for f in report.findings if f.kind == "refused-record" for text in f.examples]
    assert any(where in text and f"about {number:.3g}." in text for text in texts)
    assert not any("e+18" in t.replace(f"about {number:.3g}", "") for t in texts)
    with pytest.raises(DataError, match=re.escape(f"{where} 64 bits, about {number:.3g}.")):
        load_coco_json(*write(tmp_path, data))


def test_what_the_model_asks(tmp_path: Path) -> None:
    data = changed(content(), ("categories", 1), ...)
    for record in data["annotations"]:
        del record["segmentation"]
    wanted = Wanted(frozenset({"mask", "keypoint"}), num_classes=80)
    found = counts(report_of(tmp_path, data, wanted))
    assert found == {"no-masks": 1, "no-keypoints": 1, "class-count": 1}


def test_image_records(tmp_path: Path) -> None:
    data = _with()
    file, root = write(tmp_path, data)
    data["images"] += [
        {"id": 10, "file_name": "20.jpg", "height": HEIGHT, "width": WIDTH},
        {"id": 50, "file_name": "../x.jpg", "height": HEIGHT, "width": WIDTH},
        {"id": 51, "file_name": "/etc/passwd", "height": HEIGHT, "width": WIDTH},
        {"id": 52, "file_name": "a.jpg", "height": "30", "width": WIDTH},
        {"id": "53", "file_name": "a.jpg", "height": 30, "width": WIDTH},
        {"id": 54, "file_name": "\x1b[2Jx.jpg", "height": 30, "width": WIDTH},
        5,
    ]
    write(tmp_path, data, images=False)
    assert counts(report_of(tmp_path, (file, root))) == {
        "duplicate-image-id": 1,
        "path-leaves-root": 2,
        "refused-record": 4,
        "duplicate-file": 1,
        "image-without-annotations": 1,
    }


def _picture(mode: str = "RGB", size: tuple[int, int] = (WIDTH, HEIGHT), seed: int = 0) -> Any:
    pixels = np.random.RandomState(seed).randint(0, 255, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def test_image_files(tmp_path: Path) -> None:
    names = [
        *("good.png", r"sub\gone.jpg", "cut.jpg", "text.jpg", "size.jpg", "turned.jpg", "grey.png"),
        *("palette.png", "deep.png", "cmyk.jpg", "link.jpg", "thin.png", "copy.png", "folder.jpg"),
    ]
    data = {
        "images": [
            {"id": i, "file_name": name, "height": HEIGHT, "width": WIDTH}
            for i, name in enumerate(names)
        ],
        "annotations": [annotation(i, i) for i in range(len(names))],
        "categories": [{"id": 7, "name": "cog"}],
    }
    data["images"][names.index("thin.png")].update(height=15, width=2000)
    file, root = write(tmp_path, data, images=False)
    folder = Path(root)
    _picture().save(folder / "good.png")
    (folder / "copy.png").write_bytes((folder / "good.png").read_bytes())
    _picture(seed=1).save(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:-200])
    (folder / "text.jpg").write_text("<html>404</html>")
    _picture(size=(20, 20)).save(folder / "size.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    _picture(seed=2).save(folder / "turned.jpg", exif=exif)
    _picture("L").save(folder / "grey.png")
    _picture("P").save(folder / "palette.png")
    Image.fromarray(np.full((HEIGHT, WIDTH), 700, np.uint16)).save(folder / "deep.png")
    _picture("CMYK").save(folder / "cmyk.jpg")
    _picture(seed=3).save(tmp_path / "elsewhere.jpg")
    os.symlink(tmp_path / "elsewhere.jpg", folder / "link.jpg")
    _picture(size=(2000, 15)).save(folder / "thin.png")
    (folder / "folder.jpg").mkdir()
    _picture().save(folder / "more.png")
    report = report_of(tmp_path, (file, root), hashed=True)
    assert counts(report) == {
        "missing-image": 1,
        "unreadable-image": 2,
        "wrong-size": 2,
        "truncated-image": 1,
        "odd-image": 4,
        "unused-bits": 1,
        "thin-image": 1,
        "symlink-outside": 1,
        "duplicate-content": 1,
        "unlisted-file": 1,
    }
    examples = {f.kind: " | ".join(f.examples) for f in report.findings}
    assert "a backslash. Separate directories by '/'" in examples["missing-image"]
    assert "before EXIF turns it" in examples["wrong-size"]
    assert "mode I;16" in examples["odd-image"] and "mode P" in examples["odd-image"]
    decoded = report_of(tmp_path, (file, root), decode=True)
    assert counts(decoded)["unreadable-image"] == 3  # the truncated one, too
    sampled = counts(report_of(tmp_path, (file, root), sample=2))
    assert "missing-image" not in sampled and "unlisted-file" not in sampled


def _two(tmp_path: Path) -> list[str]:
    """Overrides for the quickstart on two data sets in folders a and b."""
    words = []
    for split, folder in (("train", "a"), ("test", "b")):
        file, root = str(tmp_path / folder / "data.json"), str(tmp_path / folder / "images")
        node = f"dataloader.{split}.dataset"
        words += [f"{node}.names={tmp_path.name}_{folder}", f"{node}.json={file}"]
        words += [f"{node}.image_root={root}"]
    return words


def _checked(tmp_path: Path, *flags: str) -> Report:
    return run(
        parse_args(
            [
                *("--config-file", "quickstart/mask_rcnn_r18_fpn", "--profile", "tiny"),
                *("--threads", "1", *flags, *_two(tmp_path)),
            ]
        )
    )


def test_train_and_test(tmp_path: Path) -> None:
    data = content()
    write(tmp_path / "a", data)
    write(tmp_path / "b", data)
    other = _picture(seed=9)
    other.save(tmp_path / "b" / "images" / "10.jpg", quality=95)
    names = {f.kind: f.count for f in _checked(tmp_path).findings}
    assert names == {"split-same-name-and-size": 2, "split-same-name": 1, "unused-category": 1}
    hashed = {f.kind: f.count for f in _checked(tmp_path, "--hash").findings}
    assert hashed == {"split-same-content": 2, "unused-category": 1}
    os.remove(tmp_path / "b" / "images" / "10.jpg")
    os.symlink(tmp_path / "a" / "images" / "10.jpg", tmp_path / "b" / "images" / "10.jpg")
    linked = {f.kind: f.count for f in _checked(tmp_path, "--hash").findings}
    assert linked["split-same-file"] == 1 and linked["split-same-content"] == 2


def test_classes_of_train_and_test(tmp_path: Path) -> None:
    write(tmp_path / "a", content())
    other = content()
    other["categories"] = [{"id": 7, "name": "mug"}, {"id": 3, "name": "cog"}]
    write(tmp_path / "b", other)
    found = {f.kind for f in _checked(tmp_path, "--no-images").findings}
    assert {"config-and-data", "class-lists"} <= found
    other["categories"] = content()["categories"]
    for record in other["annotations"]:
        record["category_id"] = 3
    write(tmp_path / "b", other)
    found = {f.kind for f in _checked(tmp_path, "--no-images").findings}
    assert {"untrained-category", "untested-category"} <= found


def test_a_broken_file_does_not_hide_the_other(tmp_path: Path) -> None:
    write(tmp_path / "a", content())
    write(tmp_path / "b", content())
    (tmp_path / "a" / "data.json").write_text('{"images": [')
    report = _checked(tmp_path)
    assert [s["split"] for s in report.statistics] == ["test"]
    assert {"not-readable", "config-and-data"} <= {f.kind for f in report.findings}


def test_data_of_other_formats() -> None:
    """Cityscapes is no COCO json: its dicts are checked."""
    args = ["--config-file", "table7/fine", "--profile", "tiny", "--threads", "1"]
    report = run(parse_args(args))
    assert [s["split"] for s in report.statistics] == ["train", "test"]
    assert all(s["images"] and s["masks"] for s in report.statistics)
    assert not report.count("error") and not report.count("warning")


@pytest.mark.parametrize(
    ("fail_on", "expected"), [("error", 0), ("warning", 1), ("note", 1), ("never", 0)]
)
def test_status(fail_on: str, expected: int) -> None:
    report = Report("test")
    report.add("empty-box", "train", "x", ["one"])
    assert status(report, fail_on) == expected


def test_json_and_exit_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, root = write(tmp_path, _with({"bbox": [1, 1, 0, 5]}))
    args = ["--annotations", file, "--images", root, "--json", "--fail-on", "warning"]
    with pytest.raises(SystemExit) as stopped:
        main(parse_args(args))
    found = json.loads(capsys.readouterr().out)
    assert stopped.value.code == 1
    assert (found["errors"], found["warnings"], found["notes"]) == (0, 1, 0)
    assert found["findings"][0]["kind"] == "empty-box"
    assert found["statistics"][0]["classes"] == {"cog": 4}


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--annotations", "a.json"],
        ["--config-file", "x", "--annotations", "a.json", "--images", "b"],
        ["--annotations", "a.json", "--images", "b", "train.seed=1"],
        ["json=a.json"],
        ["json=a.json", "image_root=b", "train.seed=1"],
        ["json=a.json", "image_root=b", "--annotations", "a.json"],
        ["--config-file", "x", "--images", "b", "json=a.json"],
        ["--config-file", "x", "--no-images", "--hash"],
        ["--config-file", "x", "--sample", "0"],
    ],
)
def test_command_line_mistakes(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse_args(argv)
    assert stopped.value.code == 2 and "check_data.py" in capsys.readouterr().err


def test_data_is_named_as_in_a_config() -> None:
    by_keys = parse_args(["json=a.json", "image_root=b", "--hash"])
    by_flags = parse_args(["--annotations", "a.json", "--images", "b", "--hash"])
    assert vars(by_keys) == vars(by_flags) and by_keys.annotations == "a.json"
    config = parse_args(["--config-file", "x", "json=a.json"])  # an override of the config
    assert (config.annotations, config.overrides) == (None, ["json=a.json"])


def test_every_kind_is_used() -> None:
    """A kind that no check adds would be documentation of nothing."""
    folder = Path(check.__code__.co_filename).parent
    code = "\n".join(f.read_text() for f in folder.glob("*.py") if f.name != "kinds.py")
    assert [kind for kind in KINDS if f'"{kind}"' not in code] == []
