"""Image files read as Detectron2 reads them."""

from __future__ import annotations

import numpy as np
import pytest
from detectron2.data import detection_utils
from PIL import Image

from mask_rcnn_repro.data.loading.images import read_image
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
    "plain": (picture(), {}),
    "progressive": (picture(), {"progressive": True}),
    "full color": (picture(), {"subsampling": 0, "quality": 100}),
    "restart markers": (picture(), {"restart_marker_blocks": 2}),
    "comment": (picture(), {"comment": b"hello"}),
    "grey": (picture("L"), {}),
    "cmyk": (picture("CMYK"), {}),
    "exif": (picture(), {"exif": turned()}),
    "xmp": (picture(), {"xmp": XMP}),
}


@pytest.mark.parametrize("channels", ["BGR", "RGB"])
@pytest.mark.parametrize("form", FORMS)
def test_equals_detectron2(form, channels, tmp_path):
    image, options = FORMS[form]
    file = tmp_path / "image.jpg"
    image.save(file, "JPEG", **options)
    expected = detection_utils.read_image(str(file), format=channels)
    assert (expected.shape[:2] == (83, 61)) == (form in ("exif", "xmp"))
    np.testing.assert_array_equal(read_image({"file_name": str(file)}, channels), expected)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_other_formats_whatever_their_name(mode, tmp_path):
    image = picture("RGBA" if mode == "RGBA" else "L")
    file = tmp_path / "image.jpg"
    image.convert(mode).save(file, "PNG")
    expected = detection_utils.read_image(str(file), format="BGR")
    np.testing.assert_array_equal(read_image({"file_name": str(file)}, "BGR"), expected)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_truncated_files_are_an_error(share, tmp_path):
    file = tmp_path / "image.jpg"
    picture().save(file)
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match="cannot be decoded"):
        read_image({"file_name": str(file), "image_id": 7}, "BGR")
