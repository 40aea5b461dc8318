"""Annotations and images of every strangeness, from the file to what the model takes.

Either a `DataError` that names the place, or a result that is right: never another exception.
"""

from __future__ import annotations

import copy
import io
import json
import logging
import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mask_rcnn_repro.data.coco.load import load_coco_json
from mask_rcnn_repro.data.loading.images import read_image
from mask_rcnn_repro.data.loading.mapper import MaskRCNNMapper
from mask_rcnn_repro.data.registration import register_custom
from mask_rcnn_repro.errors import DataError
from mask_rcnn_repro.evaluation.coco.backends import coco_metrics
from mask_rcnn_repro.evaluation.coco.ground_truth import load_ground_truth
from mask_rcnn_repro.registration import register
from mask_rcnn_tools.check_data.check import Options, check
from mask_rcnn_tools.check_data.findings import Report
from mask_rcnn_tools.check_data.sources import sources_of_json

from .data_helpers import HEIGHT, TRIANGLE, WIDTH, annotation, content, write

register()

FLIPS = [1, 0, 2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two images, and a json that each example writes anew; quiet about what it drops."""
    path = tmp_path_factory.mktemp("fuzz")
    write(path, content(2))
    logger = logging.getLogger("mask_rcnn_repro")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield path
    logger.setLevel(level)


def _mapper() -> MaskRCNNMapper:
    return MaskRCNNMapper(
        True,
        augmentations=[T.ResizeShortestEdge(64, 128), T.RandomFlip(prob=1.0)],
        use_instance_mask=True,
        use_keypoint=True,
        keypoint_hflip_indices=FLIPS,
    )


def _base() -> dict[str, Any]:
    data = content(2)
    data["categories"][0].update(keypoints=["left_eye", "right_eye", "nose"], skeleton=[[1, 2]])
    data["annotations"][0].update(keypoints=[6, 6, 2, 7, 7, 1, 0, 0, 0], num_keypoints=2)
    runs = mask_util.encode(np.asfortranarray(np.eye(HEIGHT, WIDTH, dtype=np.uint8)))
    runs["counts"] = runs["counts"].decode()
    data["annotations"].append(annotation(500, 20, segmentation=runs, bbox=[0, 0, 30, 30]))
    data["annotations"].append(
        annotation(501, 20, segmentation={"size": [HEIGHT, WIDTH], "counts": [5, 1195]}, iscrowd=1)
    )
    return data


_SCALARS = [
    *(0, -1, 1, 2, 3, 7, 30, 40, 10**9, 2**31, 2**63, 10**400, 0.5, -0.0, 1e-300, 1e12, 1e300),
    *(math.nan, math.inf, -math.inf, True, False, None, "", "7", "a.jpg", "é\u202f.jpg", "\ud800"),
]
_VALUES = st.one_of(
    st.sampled_from(_SCALARS),
    st.sampled_from([[], {}, [[]], [None], [[1, 2, 3, 4]], [[1, 2, 3, 4, 5, 6]], {"counts": []}]),
    st.lists(st.sampled_from(_SCALARS), max_size=8),
    st.lists(st.floats(-1e3, 1e3), min_size=4, max_size=9),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=4),
)
_REMOVED = object()


def _places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        children = list(value.items())
    elif isinstance(value, list):
        children = list(enumerate(value))
    else:
        children = []
    for key, child in children:
        yield (*above, key)
        yield from _places(child, (*above, key))


@st.composite
def _mutated(draw: st.DrawFn) -> dict[str, Any]:
    data = _base()
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(list(_places(data))))
        target: Any = data
        for key in place[:-1]:
            target = target[key]
        if draw(st.booleans()) and draw(st.booleans()):
            del target[place[-1]]
        else:
            target[place[-1]] = copy.deepcopy(draw(_VALUES))
    return data


@given(_mutated())
@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
def test_annotations(folder: Path, data: dict[str, Any]) -> None:
    file, root = folder / "data.json", str(folder / "images")
    file.write_text(json.dumps(data))
    report = Report("fuzz")
    check(sources_of_json(str(file), root, report), report, Options(threads=1))
    errors = [f for f in report.findings if f.level == "error"]
    refusal = loaded = None
    try:
        loaded = load_coco_json(file, root)
    except DataError as error:
        refusal = error
    assert errors or refusal is None, f"checking finds nothing in what is refused: {refusal}"
    if loaded is None:
        return
    mapper = _mapper()
    for record in loaded.dicts:
        try:
            result = mapper(record)
        except DataError:
            assert errors, "the mapper refuses what checking finds nothing in"
            continue
        instances = result["instances"]
        boxes = instances.gt_boxes.tensor
        height, width = result["image"].shape[1:]
        assert torch.isfinite(boxes).all() and (boxes >= 0).all()
        assert (boxes[:, 2] <= width).all() and (boxes[:, 3] <= height).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        if len(instances):
            targets = instances.gt_masks.crop_and_resize(boxes, 7)
            assert targets.shape == (len(instances), 7, 7)
            assert instances.gt_keypoints.to_heatmap(boxes, 7)[0].shape[0] == len(instances)


@pytest.mark.parametrize(
    ("fields", "kept", "polygons"),
    [
        ({"segmentation": [[0, 0, 400, 400, 0, 400]]}, True, 1),
        ({"segmentation": [[0, 0, 401, 400, 0, 400]]}, True, 0),
        ({"segmentation": [TRIANGLE, [0, 0, 1e12, 1e12, 0, 5]]}, True, 1),
        ({"segmentation": [[-1e300, 0, 5, 5, 0, 5]]}, True, 0),
        ({"bbox": [-400, 0, 800, 10]}, True, 1),
        ({"bbox": [0, 0, 5000, 10]}, False, 0),
        ({"bbox": [-1e300, 0, 2e300, 10]}, False, 0),
    ],
)
def test_far_coordinates_are_left_out(
    folder: Path, fields: dict[str, Any], kept: bool, polygons: int
) -> None:
    """Further than ten times 40 pixels: rasterised, they would take memory without end."""
    data = _base()
    data["annotations"] = [annotation(1, 10, **fields), annotation(2, 20)]
    file = folder / "far.json"
    file.write_text(json.dumps(data))
    first, second = load_coco_json(file, str(folder / "images")).dicts
    assert (len(first["annotations"]), len(second["annotations"])) == (kept, 1)
    assert sum(len(a.get("segmentation", ())) for a in first["annotations"]) == polygons


_RESULT = {"image_id": 10, "category_id": 7, "bbox": [4.5, 4.5, 10.0, 10.0], "score": 0.9}


@given(_mutated())
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
def test_ground_truth(folder: Path, data: dict[str, Any]) -> None:
    file, root = folder / "truth.json", str(folder / "images")
    file.write_text(json.dumps(data))
    try:
        loaded = load_coco_json(file, root)
    except DataError:
        return
    MetadataCatalog.pop("fuzz", None)
    MetadataCatalog.get("fuzz").json_file = str(file)
    truth = load_ground_truth("fuzz").coco
    assert len(truth.anns) == sum(len(record["annotations"]) for record in loaded.dicts)
    ids = sorted(truth.getImgIds())
    for task in ("bbox", "segm"):
        results = [dict(_RESULT, image_id=ids[0], category_id=truth.getCatIds()[0])]
        if task == "segm":
            image = truth.imgs[ids[0]]
            if image["height"] * image["width"] > 10**6:
                continue
            mask = np.ones((image["height"], image["width"]), np.uint8, order="F")
            results[0]["segmentation"] = mask_util.encode(mask)
        reference = coco_metrics(truth, results, task, backend="pycocotools")
        assert repr(coco_metrics(truth, results, task)) == repr(reference)
        assert "AP" in reference


def test_polygon_of_two_points_is_no_mask(folder: Path) -> None:
    """pycocotools takes four numbers for x, y, width, height. The box of the annotation stays."""
    data = _base()
    data["annotations"] = [annotation(1, 10), annotation(2, 10, segmentation=[[5, 5, 20, 20]])]
    file = folder / "two.json"
    file.write_text(json.dumps(data))
    register_custom("fuzz_two", str(file), str(folder / "images"))
    truth = load_ground_truth("fuzz_two").coco
    assert [(i, "segmentation" in a) for i, a in truth.anns.items()] == [(1, True), (2, False)]


def test_instances_without_a_mask_do_not_count_in_mask_ap(folder: Path) -> None:
    """Found inside the box of such an instance: neither right nor wrong."""
    data = _base()
    data["annotations"] = [annotation(1, 10), annotation(2, 20, segmentation=[], bbox=[1, 1, 9, 9])]
    file = folder / "unmasked.json"
    file.write_text(json.dumps(data))
    register_custom("fuzz_unmasked", str(file), str(folder / "images"))
    truth = load_ground_truth("fuzz_unmasked").coco
    triangle = mask_util.frPyObjects([TRIANGLE], HEIGHT, WIDTH)[0]
    square = mask_util.frPyObjects([[2.0, 2, 8, 2, 8, 8, 2, 8]], HEIGHT, WIDTH)[0]
    results = [
        {"image_id": 10, "category_id": 7, "score": 0.5, "segmentation": triangle},
        {"image_id": 20, "category_id": 7, "score": 0.9, "segmentation": square},
    ]
    for backend in ("pycocotools", "auto"):
        copies = copy.deepcopy(results)
        assert coco_metrics(truth, copies, "segm", backend=backend)["AP"] == pytest.approx(100)
    assert truth.anns[2]["iscrowd"] == 0  # box AP counts it as ever


def test_self_crossing_polygon_is_rasterised_as_detectron2_does(folder: Path) -> None:
    bow = [5.0, 5, 25, 25, 25, 5, 5, 25]
    data = _base()
    data["annotations"] = [annotation(1, 10, bbox=[5, 5, 20, 20], segmentation=[bow])]
    file = folder / "bow.json"
    file.write_text(json.dumps(data))
    (record, _) = load_coco_json(file, str(folder / "images")).dicts
    mapper = MaskRCNNMapper(True, augmentations=[], use_instance_mask=True)
    masks = mapper(record)["instances"].gt_masks
    target = masks.crop_and_resize(torch.tensor([[5.0, 5, 25, 25]]), 20)[0].numpy()
    expected = mask_util.decode(mask_util.frPyObjects([[v - 5 for v in bow]], 20, 20))[..., 0]
    np.testing.assert_array_equal(target, expected.astype(bool))
    assert 0 < target.sum() < 400


@given(
    st.binary(max_size=200), st.sampled_from([b"", b"[", b"{", b'{"images": [', b"\xef\xbb\xbf{}"])
)
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
def test_files_that_are_no_json(folder: Path, tail: bytes, head: bytes) -> None:
    file = folder / "broken.json"
    file.write_bytes(head + tail)
    with pytest.raises(DataError, match=r"broken\.json"):
        load_coco_json(file, str(folder / "images"))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '{"images": ' + "9" * 5000])
def test_deep_and_long_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "deep.json").write_text(text)
    with pytest.raises(DataError, match="not valid json"):
        load_coco_json(tmp_path / "deep.json", str(tmp_path))


def _record(file: Path, height: int, width: int) -> dict[str, Any]:
    return {"file_name": str(file), "image_id": 1, "height": height, "width": width}


_MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "I;16", "I", "F"]
_FORMATS = {"PNG": "png", "JPEG": "jpg", "TIFF": "tif", "BMP": "bmp", "GIF": "gif", "WEBP": "webp"}


@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40))
    | st.sampled_from([(1, 1), (2000, 3), (3, 2000), (1, 1500)]),
    st.sampled_from(_MODES),
    st.sampled_from(sorted(_FORMATS)),
    st.integers(0, 9),
)
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
def test_images(
    folder: Path, size: tuple[int, int], mode: str, form: str, orientation: int
) -> None:
    height, width = size
    grey = np.arange(height * width).reshape(height, width) % 256
    if mode == "I;16":
        picture = Image.fromarray((grey * 256).astype(np.uint16))
    elif mode in ("I", "F"):
        picture = Image.fromarray(grey.astype(np.int32 if mode == "I" else np.float32))
    else:
        picture = Image.fromarray(grey.astype(np.uint8))
        try:
            picture = picture.convert(mode)
        except ValueError:
            picture = picture.convert("RGBA").convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = folder / f"picture.{_FORMATS[form]}"
    if (mode, form) == ("YCbCr", "TIFF"):
        return  # Pillow writes it, and cannot read it
    try:
        picture.save(file, form, exif=exif)
    except (OSError, ValueError, KeyError):
        return  # the format has no such mode
    with Image.open(file) as saved:
        turned = saved.getexif().get(0x0112) in (5, 6, 7, 8)
        unknown = saved.mode in ("I", "F") and form != "PNG"
    shape = (width, height) if turned else (height, width)
    report = Report("fuzz")
    name = {"file_name": file.name, "id": 1, "height": shape[0], "width": shape[1]}
    listed = folder / "images.json"
    listed.write_text(json.dumps({"images": [name], "categories": [{"id": 1, "name": "a"}]}))
    check(sources_of_json(str(listed), str(folder), report), report, Options(threads=1))
    assert "wrong-size" not in {finding.kind for finding in report.findings}
    if unknown:
        with pytest.raises(DataError, match="32 bits"):
            read_image(_record(file, *shape), "BGR")
        return
    image = read_image(_record(file, *shape), "BGR")
    assert image.shape == (*shape, 3) and image.dtype == np.uint8
    if mode in ("L", "RGB", "I;16", "LA", "RGBA") and form in ("PNG", "TIFF"):
        np.testing.assert_array_equal(image[..., 0], _turned(grey, orientation))
    if height != width:
        with pytest.raises(DataError, match="annotated as"):
            read_image(_record(file, *shape[::-1]), "BGR")
    result = _mapper()(
        {
            **_record(file, *shape),
            "annotations": [{**_converted(), "bbox": [0, 0, shape[1], shape[0]]}],
        }
    )
    assert min(result["image"].shape) >= 1 and len(result["instances"]) == 1


def _turned(grey: np.ndarray, orientation: int) -> np.ndarray:
    """By the table of the EXIF standard: where the first row and the first column are seen."""
    return {
        2: grey[:, ::-1],
        3: grey[::-1, ::-1],
        4: grey[::-1],
        5: grey.T,
        6: grey[::-1].T,
        7: grey[::-1, ::-1].T,
        8: grey.T[::-1],
    }.get(orientation, grey)


def _converted() -> dict[str, Any]:
    from detectron2.structures import BoxMode

    return {"bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "segmentation": [TRIANGLE]}


@pytest.mark.parametrize("size", [(20000, 3), (3, 20000), (20000, 1)])
def test_very_thin_images(tmp_path: Path, size: tuple[int, int]) -> None:
    """Resized to at most 1333, less than half a pixel of the short side would be left."""
    height, width = size
    file = tmp_path / "thin.png"
    Image.new("RGB", (width, height), (1, 2, 3)).save(file)
    mapper = MaskRCNNMapper(False, augmentations=[T.ResizeShortestEdge(800, 1333)])
    image = mapper(_record(file, height, width))["image"]
    assert sorted(image.shape[1:]) == [1, 1333]
    assert image[:, 0, 0].tolist() == [3, 2, 1]


def test_sixteen_bits_give_their_upper_eight(tmp_path: Path) -> None:
    """Pillow alone would turn all above 255 white; coloured images are read so already."""
    values = np.array([[0, 255, 256], [4096, 40000, 65535]], np.uint16)
    for name in ("deep.png", "deep.tif"):
        Image.fromarray(values).save(tmp_path / name)
        image = read_image(_record(tmp_path / name, 2, 3), "RGB")
        assert image[..., 1].tolist() == [[0, 0, 1], [16, 156, 255]]


@given(st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
def test_damaged_images(folder: Path, data: st.DataObject) -> None:
    form = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "TIFF"]))
    opened = io.BytesIO()
    pixels = np.random.RandomState(0).randint(0, 255, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(opened, form)
    content = bytearray(opened.getvalue())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    for _ in range(data.draw(st.integers(0, 3))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    file = folder / f"damaged.{_FORMATS[form]}"
    file.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = read_image(_record(file, 20, 30), "BGR")
        except DataError:
            return  # which file is in every message of the reader
        assert image.shape == (20, 30, 3)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP"])
def test_images_cut_short_are_refused(tmp_path: Path, form: str) -> None:
    opened = io.BytesIO()
    pixels = np.random.RandomState(0).randint(0, 255, (200, 300, 3), np.uint8)
    Image.fromarray(pixels).save(opened, form)
    file = tmp_path / f"cut.{_FORMATS[form]}"
    file.write_bytes(opened.getvalue()[: len(opened.getvalue()) // 2])
    with pytest.raises(DataError, match="cannot be decoded"):
        read_image(_record(file, 200, 300), "BGR")


def bomb(width: int, height: int) -> bytes:
    """A small PNG that claims to be large."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*part) for part in ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    )


def test_decompression_bombs(tmp_path: Path) -> None:
    file = tmp_path / "bomb.png"
    file.write_bytes(bomb(100_000, 100_000))
    with pytest.raises(DataError, match="too large"):
        read_image(_record(file, 100_000, 100_000), "BGR")
    # below Pillow's limit, but not what was annotated: refused by its header
    file.write_bytes(bomb(12_000, 12_000))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(DataError, match=r"12000 x 12000 .* 10 x 10"):
            read_image(_record(file, 10, 10), "BGR")
