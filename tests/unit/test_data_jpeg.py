"""JPEG files read as Detectron2 reads them, by whichever library."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from detectron2.data import detection_utils
from PIL import Image

from mask_rcnn_repro.data.loading.images import read_image
from mask_rcnn_repro.data.loading.jpeg import decode_jpeg, is_plain_jpeg
from mask_rcnn_repro.errors import DataError


def picture(mode: str = "RGB") -> Image.Image:
    row, column = np.mgrid[:61, :83]
    noise = np.random.RandomState(0).randint(0, 90, (61, 83, 3))
    return Image.fromarray((noise + (row + column)[..., None]).astype(np.uint8)).convert(mode)


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[274] = 6
    return exif


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/></x:xmpmeta>'
FORMS = {
    "plain": (picture(), {}, True),
    "progressive": (picture(), {"progressive": True}, True),
    "full color": (picture(), {"subsampling": 0, "quality": 100}, True),
    "restart markers": (picture(), {"restart_marker_blocks": 2}, True),
    "comment": (picture(), {"comment": b"hello"}, True),
    "grey": (picture("L"), {}, False),
    "cmyk": (picture("CMYK"), {}, False),
    "exif": (picture(), {"exif": turned()}, False),
    "xmp": (picture(), {"xmp": XMP}, False),
}


@pytest.mark.parametrize("channels", ["BGR", "RGB"])
@pytest.mark.parametrize("form", FORMS)
def test_equals_detectron2(form, channels, tmp_path):
    image, options, plain = FORMS[form]
    file = tmp_path / "image.jpg"
    image.save(file, "JPEG", **options)
    assert is_plain_jpeg(file.read_bytes()) == plain
    expected = detection_utils.read_image(str(file), format=channels)
    assert (expected.shape[:2] == (83, 61)) == (form in ("exif", "xmp"))
    np.testing.assert_array_equal(read_image({"file_name": str(file)}, channels), expected)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_other_formats_whatever_their_name(mode, tmp_path):
    image = picture("RGBA" if mode == "RGBA" else "L")
    file = tmp_path / "image.jpg"
    image.convert(mode).save(file, "PNG")
    assert decode_jpeg(file.read_bytes()) is None
    expected = detection_utils.read_image(str(file), format="BGR")
    np.testing.assert_array_equal(read_image({"file_name": str(file)}, "BGR"), expected)


def test_bombs_are_left_to_pillow(tmp_path, monkeypatch):
    file = tmp_path / "image.jpg"
    picture().save(file)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert decode_jpeg(file.read_bytes()) is None


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_truncated_files_are_an_error(share, tmp_path):
    file = tmp_path / "image.jpg"
    picture().save(file)
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match="cannot be decoded"):
        read_image({"file_name": str(file), "image_id": 7}, "BGR")


@pytest.mark.parametrize("seed", range(40))
def test_damaged_files_read_or_fail_as_before(seed, tmp_path):
    rng = np.random.RandomState(seed)
    file = tmp_path / "image.jpg"
    picture().save(file, progressive=bool(seed % 2))
    content = bytearray(file.read_bytes())
    for place in rng.randint(2, len(content) - 2, 1 + seed % 4):
        content[place] = rng.randint(256)
    file.write_bytes(bytes(content))
    try:
        expected = detection_utils.read_image(str(file), format="BGR")
    except Exception:  # of many kinds
        with pytest.raises(DataError):
            read_image({"file_name": str(file)}, "BGR")
        return
    np.testing.assert_array_equal(read_image({"file_name": str(file)}, "BGR"), expected)


def test_missing_file(tmp_path: Path):
    with pytest.raises(DataError, match="is missing"):
        read_image({"file_name": str(tmp_path / "none.jpg")}, "BGR")
