"""Drawings of any image file and any name; a picture that fails costs no other result."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from mask_rcnn_repro.data import get_test_dicts, register_custom
from mask_rcnn_repro.engine.extensions import Extensions
from mask_rcnn_repro.engine.results import add_to_record
from mask_rcnn_tools.analyze.cli import parse_args
from mask_rcnn_tools.analyze.evaluation_data import load_evaluation_data
from mask_rcnn_tools.analyze.image_scores import image_scores
from mask_rcnn_tools.analyze.pictures import draw_images
from mask_rcnn_tools.analyze.plots import draw_plots
from mask_rcnn_tools.analyze.results import analyze
from mask_rcnn_tools.common import fonts
from mask_rcnn_tools.common import plot_style as style
from mask_rcnn_tools.drawing.evaluation import draw_results
from mask_rcnn_tools.drawing.files import failure_logged, write_picture
from mask_rcnn_tools.drawing.labels import draw_labels, with_caption
from mask_rcnn_tools.drawing.marks import Mark
from mask_rcnn_tools.drawing.sheet import contact_sheet
from mask_rcnn_tools.predict.images import predict_images
from mask_rcnn_tools.predict.job import Job, Options
from mask_rcnn_tools.predict.output_files import OutputFiles
from mask_rcnn_tools.predict.sources import Source

_COUNT = iter(range(100))


def _evaluated(folder: Path, sizes: list[tuple[int, int]], names: list[str]) -> str:
    """Registers images (H, W), each with one object that is found exactly; returns the name."""
    images, annotations = [], []
    for number, ((height, width), file) in enumerate(zip(sizes, names, strict=True), start=1):
        images.append({"id": number, "file_name": file, "height": height, "width": width})
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "category_id": 1,
                "bbox": [0, 0, width, height],
                "segmentation": [[0, 0, width, 0, width, height, 0, height]],
            }
        )
    categories = [{"id": 1, "name": "a"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "gt.json").write_text(json.dumps(content))
    name = f"drawn_{next(_COUNT)}"
    results = folder / "inference" / name
    results.mkdir(parents=True)
    rows = [{**a, "score": 0.9} for a in annotations]
    (results / "bbox_results.json").write_text(json.dumps(rows))
    register_custom(name, str(folder / "gt.json"), str(folder))
    return name


def _picture(height: int, width: int) -> Image.Image:
    pixels = np.full((height, width, 3), 60, np.uint8)
    pixels[: height // 2, : width // 2] = (200, 30, 30)
    return Image.fromarray(pixels)


def _drawn(folder: Path, name: str) -> dict[str, np.ndarray]:
    files = draw_results(name, folder / "inference", folder / "drawings", 100)
    return {file.stem: cv2.imread(str(file)) for file in files}


def test_an_image_file_is_drawn_as_it_is_trained_on(tmp_path: Path) -> None:
    image = _picture(60, 100)
    image.save(tmp_path / "plain.png")
    turned = image.transpose(Image.Transpose.ROTATE_90)
    turned.save(tmp_path / "turned.tif", tiffinfo={0x0112: 6})
    grey = np.asarray(image.convert("L"))
    Image.fromarray(grey).save(tmp_path / "grey8.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "grey16.png")
    names = ["plain.png", "turned.tif", "grey8.png", "grey16.png"]
    name = _evaluated(tmp_path, [(60, 100)] * 4, names)
    drawn = _drawn(tmp_path, name)
    assert np.array_equal(drawn["1"], drawn["2"])
    assert np.array_equal(drawn["3"], drawn["4"])
    files = _analysed(tmp_path, name, 4)
    pictures = {p.stem[-1]: cv2.imread(str(p)) for p in (tmp_path / "an" / "images").iterdir()}
    assert [file.name for file in files] == ["worst.png", "best.png"]
    # the captions differ
    assert np.array_equal(pictures["1"][40:], pictures["2"][40:])
    assert np.array_equal(pictures["3"][40:], pictures["4"][40:])


def _analysed(folder: Path, name: str, count: int) -> list[Path]:
    data = load_evaluation_data(name, [folder / "inference" / name / "bbox_results.json"])
    return draw_images(image_scores(data, "bbox"), get_test_dicts(name), folder / "an", count)


def test_thin_images_are_drawn(tmp_path: Path) -> None:
    sizes = [(300, width) for width in range(1, 10)] + [(1, 300), (1, 1), (20_000, 1)]
    names = [f"{h}_{w}.png" for h, w in sizes]
    for (height, width), file in zip(sizes, names, strict=True):
        _picture(height, width).save(tmp_path / file)
    name = _evaluated(tmp_path, sizes, names)
    drawn = _drawn(tmp_path, name)
    assert len(drawn) == len(sizes)
    assert all(picture.shape[1] > 100 for picture in drawn.values())
    assert len(_analysed(tmp_path, name, 3)) == 2
    sheet = contact_sheet(list(drawn.values()), ["a caption"] * len(drawn))
    assert sheet.shape[1] == 1920
    assert sheet.shape[0] < 12_000


def test_one_broken_image_costs_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ["0.png", "1.png", "2.png"]
    for file in names:
        _picture(40, 50).save(tmp_path / file)
    name = _evaluated(tmp_path, [(40, 50)] * 3, names)
    (tmp_path / "1.png").write_bytes(b"no image")
    assert set(_drawn(tmp_path, name)) == {"1", "3"}
    assert "Image 2 was not drawn: DataError" in caplog.text
    assert [file.name for file in _analysed(tmp_path, name, 3)] == ["worst.png", "best.png"]


def test_a_directory_that_is_not_writable_is_an_error() -> None:
    with failure_logged("x"):
        raise MemoryError
    with pytest.raises(PermissionError), failure_logged("x"):
        raise PermissionError


def test_what_a_format_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"OpenCV|cannot hold"):
        write_picture(tmp_path / "a.jpg", np.zeros((2, 70_000, 3), np.uint8))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [ValueError, ZeroDivisionError, MemoryError, OSError, KeyError])
def test_a_run_survives_its_drawings(
    error: type[Exception], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def draw(*args: Any) -> None:
        raise error("why")

    dataset = SimpleNamespace(names="data")
    cfg: Any = SimpleNamespace(
        train=SimpleNamespace(draw=1),
        dataloader=SimpleNamespace(test=SimpleNamespace(dataset=dataset)),
    )
    run: Any = SimpleNamespace(cfg=cfg, folder=tmp_path)
    add_to_record(run, None, Extensions(draw=draw))
    assert error.__name__ in caplog.text


def test_predictions_survive_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in ("a.png", "b.png"):
        _picture(20, 30).save(tmp_path / file)
    sources = [Source(tmp_path / file, file, False) for file in ("a.png", "b.png")]
    predictor: Any = SimpleNamespace(
        image_format="RGB",
        is_rpn=False,
        classes=None,
        image_bits=None,
        prepare=lambda pixels, image_id, index: SimpleNamespace(pixels=pixels, image_id=image_id),
    )
    files = {source: OutputFiles(tmp_path / "out" / source.name) for source in sources}
    job = Job(predictor, Options(tmp_path / "out"), files, lambda line: None)
    monkeypatch.setattr(job, "predict", lambda pictures: [[] for _ in pictures])
    job.timer.last["model"] = 0.0

    def draw(pixels: np.ndarray, results: Any) -> np.ndarray:
        if not (tmp_path / "out" / "a.png").exists():
            write_picture(tmp_path / "out" / "a.png", pixels)
            raise ValueError("why")
        return pixels

    monkeypatch.setattr(job, "draw", draw)
    added: list[Any] = []
    job.coco = SimpleNamespace(add=lambda image, results: added.append(image["id"]))  # type: ignore[assignment]
    predict_images(job, sources, {source.path: n for n, source in enumerate(sources)})
    assert added == [0, 1]
    assert job.summary.failed == {"a.png": "not drawn: ValueError: why"}
    assert (tmp_path / "out" / "b.png").is_file()


def test_names_are_text_in_plots(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ["$_1$ note", "$\\frac{$", "\\$ and $", "漂浮物"]
    name = _named(tmp_path, names)
    data = load_evaluation_data(name, [tmp_path / "results.json"])
    analysis = analyze(data, parse_args(["--run", "x"]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        files = draw_plots(analysis, "a title $_1$ of $\\frac{$", tmp_path, ("png", "svg"))
    stems = {"error_types", "confusion", "calibration", "masks"}
    assert {file.name for file in files} == {f"{s}.{t}" for s in stems for t in ("png", "svg")}
    text = (tmp_path / "confusion.svg").read_text()
    assert all(f">{name}</text>" in text for name in names)
    assert "mathdefault" not in "".join(f.read_text() for f in files if f.suffix == ".svg")


def test_missing_characters_are_reported_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fonts, "installed_fallbacks", dict)
    monkeypatch.setattr(fonts, "_reported", set())
    canvas = np.zeros((100, 200, 3), np.uint8)
    mark = Mark((255, 255, 255), (0, 50, 100, 100), label="漂浮物 98%")
    for _ in range(2):
        draw_labels(canvas, [mark], 1, 12)
    with fonts.missing_reported_once():
        warnings.warn("Glyph 28418 (x) missing from font(s) DejaVu Sans.", stacklevel=1)
        warnings.warn("Glyph 20013 (x) missing from font(s) DejaVu Sans.", stacklevel=1)
    assert [record.args for record in caplog.records] == [("浮 漂 物",), ("中",)]
    assert with_caption(canvas, ["漂浮物" * 20]).shape[1] == 200


def test_an_installed_font_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    # DejaVu Sans stands in for a Chinese font
    dejavu = fonts.font_file("")
    mono = fonts.font_file("", "DejaVuSansMono")
    assert fonts.font_file("abc $ é") == dejavu
    lacking = next(chr(c) for c in range(0x370, 0x2E80) if _only_in(dejavu, mono, c))
    monkeypatch.setattr(fonts, "installed_fallbacks", lambda: {"Other": dejavu})
    assert fonts.font_file(f"a{lacking}", "DejaVuSansMono") == dejavu
    assert fonts.font_families() == ["DejaVu Sans", "Other"]


def _only_in(having: str, lacking: str, code: int) -> bool:
    return code in fonts._characters(having) and code not in fonts._characters(lacking)


def test_labels_of_logarithmic_axes() -> None:
    with style.plot(4, 3, "salt") as (figure, result):
        axes = figure.add_subplot()
        axes.plot([0.01, 5], [1, 1000], label="$a$ and $\\frac{$ and 漂")
        axes.set_xscale("log")
        axes.set_yscale("log")
        style.plain_log_labels(axes.xaxis)
        style.plain_log_labels(axes.yaxis)
        style.legend_above(figure, axes)
    for text in (">0.01<", ">0.1<", ">1000<", ">$a$ and $\\frac{$ and 漂<"):
        assert text in result[0]
    assert "mathdefault" not in result[0]


def _named(folder: Path, names: list[str]) -> str:
    """Registers an image with an object of each class, all found exactly; returns the name."""
    boxes = [[10 * n, 0, 9, 20] for n in range(len(names))]
    annotations: list[dict[str, Any]] = [
        {
            "id": number,
            "image_id": 1,
            "category_id": number,
            "bbox": [x, y, w, h],
            "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
        }
        for number, (x, y, w, h) in enumerate(boxes, start=1)
    ]
    content = {
        "images": [{"id": 1, "file_name": "1.png", "height": 30, "width": 100}],
        "annotations": annotations,
        "categories": [{"id": n, "name": name} for n, name in enumerate(names, start=1)],
    }
    (folder / "gt.json").write_text(json.dumps(content))
    (folder / "results.json").write_text(json.dumps([{**a, "score": 0.9} for a in annotations]))
    name = f"drawn_{next(_COUNT)}"
    register_custom(name, str(folder / "gt.json"), str(folder))
    return name
