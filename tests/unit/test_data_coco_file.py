"""COCO json files: parsed once, by a fast parser that agrees with Python's."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mask_rcnn_repro.data import dataset_fingerprint, dataset_info, get_training_dicts
from mask_rcnn_repro.data.coco import file as coco_files
from mask_rcnn_repro.data.coco.file import coco_file, release_parsed_files, shared_when_taken
from mask_rcnn_repro.errors import DataError
from mask_rcnn_repro.evaluation.coco.ground_truth import load_ground_truth

from .data_helpers import content, write


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the files that are parsed."""
    sizes: list[int] = []
    parse = coco_files._parse_json

    def counting(data: bytes) -> Any:
        sizes.append(len(data))
        return parse(data)

    release_parsed_files()
    monkeypatch.setattr(coco_files, "_parse_json", counting)
    return sizes


def test_parsed_once_for_all_who_read(tmp_path: Path, parses: list[int]) -> None:
    file, root = write(tmp_path, content())
    names = ("parsed_once", file, root)
    assert dataset_info(*names) == ["mug", "cog"]
    assert not parses  # classes are found without parsing
    facts = dataset_fingerprint(*names)
    digest = hashlib.sha256(Path(file).read_bytes()).digest()
    assert facts["sha256"] == hashlib.sha256(digest).hexdigest()
    assert coco_file(file).content["images"]
    assert len(get_training_dicts(*names)) == 3
    assert dataset_fingerprint(*names) == facts
    assert len(parses) == 1


def test_what_a_reader_changes_is_its_own(tmp_path: Path, parses: list[int]) -> None:
    file, root = write(tmp_path, content())
    first = get_training_dicts("changed", file, root)
    first[0]["annotations"][0]["bbox"][0] = -1
    coco_file(file).take_content().clear()
    assert get_training_dicts("changed", file, root)[0]["annotations"][0]["bbox"][0] == 4.5
    assert len(parses) == 3


def test_parsed_once_for_all_who_take_it_together(tmp_path: Path, parses: list[int]) -> None:
    file, root = write(tmp_path, content())
    expected = json.loads(Path(file).read_text())
    with shared_when_taken():
        dicts = get_training_dicts("taken", file, root)
        truth = load_ground_truth("taken").coco.dataset  # changes the top level
        assert coco_file(file).take_content() == expected
    assert not coco_files._parsed  # nothing stays in memory
    assert [len(dicts), len(truth["annotations"]), len(parses)] == [3, 3, 1]
    with pytest.raises(DataError, match="does not exist"), shared_when_taken():
        get_training_dicts("no_images", file, root + "x")  # after its json is parsed
    assert not coco_files._parsed and not coco_files._shared


def test_a_changed_file_is_parsed_again(tmp_path: Path) -> None:
    file, _ = write(tmp_path, content())
    assert coco_file(file) is coco_file(Path(file))
    assert coco_file(file).facts.num_images == 3
    write(tmp_path, content(5))
    assert coco_file(file).facts.num_images == 5
    os.utime(file, ns=(1, 1))
    assert coco_file(file).facts.num_images == 5


def test_memory_is_bounded(
    tmp_path: Path, parses: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [write(tmp_path / str(i), content(i + 1), images=False)[0] for i in range(3)]
    monkeypatch.setattr(coco_files, "MOST_PARSED", sum(os.path.getsize(f) for f in files[:2]))
    for number in (0, 1, 0, 2, 2):
        assert len(coco_file(files[number]).content["images"]) == number + 1
    assert len(parses) == 3
    assert [file.path for file in coco_files._parsed] == [files[2]]  # larger than the two before
    release_parsed_files()
    assert coco_file(files[0]).facts.num_images == 1 and len(parses) == 3  # facts stay known


@pytest.mark.parametrize(
    "text", ['{"a": [NaN, -Infinity, 1e999]}', '{"a": "\\ud800"}', '{"a": [[0]], "a": -0.0}', "{}"]
)
def test_what_python_reads_is_read(tmp_path: Path, text: str) -> None:
    file = tmp_path / "data.json"
    file.write_text(text)
    assert repr(coco_file(file).content) == repr(json.loads(text))


def test_a_byte_order_mark_is_read_over(tmp_path: Path) -> None:
    file = tmp_path / "data.json"
    file.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert coco_file(file).content == {"a": 1}


@pytest.mark.parametrize(
    ("data", "fact"),
    [
        (b'{\n "a": [1,]}', "line 2 column 10"),
        (b'{"a": "\xff"}', "'utf-8' codec"),
        (b'{"a": ' + b"[" * 2000, "maximum recursion depth"),
        (b"", "line 1 column 1"),
        (b"[]", "got list"),
    ],
)
def test_errors_name_file_and_place(tmp_path: Path, data: bytes, fact: str) -> None:
    file = tmp_path / "data.json"
    file.write_bytes(data)
    with pytest.raises(DataError, match=r"data\.json") as raised:
        coco_file(file).content  # noqa: B018
    assert fact in str(raised.value)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_files_as_python_reads_them(data: st.DataObject) -> None:
    text = bytearray(json.dumps(content(2)).encode())
    place = data.draw(st.integers(0, len(text) - 1))
    kind = data.draw(st.sampled_from(["cut", "flip", "insert"]))
    if kind == "cut":
        del text[place:]
    elif kind == "flip":
        text[place] ^= data.draw(st.integers(1, 255))
    else:
        text[place:place] = data.draw(
            st.sampled_from([*b',]}"{10\\.-e', *b"\x00\xef\n"])
        ).to_bytes()
    results = []
    for parse in (coco_files._parse_json, lambda content: json.loads(content.decode())):
        try:
            results.append(repr(parse(bytes(text))))
        except ValueError as error:
            results.append(f"error: {error}")
    assert results[0] == results[1]
