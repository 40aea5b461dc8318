"""A drawable thing: flat parts with colours and textures, and its exact raster.

Coordinates are continuous image coordinates (x right, y down, in pixels): pixel (i, j) covers
[i, i+1) x [j, j+1). Masks are drawn SS times finer than the image, so that the picture (coverage
of each pixel) and the annotation (outline of the fine mask) agree to a fraction of a pixel.
"""

from __future__ import annotations

import dataclasses
import functools

import cv2
import numpy as np

from mask_rcnn_embedded.drawing.textures import Texture

SS = 4
"""Fine pixels per image pixel and axis."""

_SHIFT = 4  # fractional bits of the coordinates given to OpenCV


@functools.cache
def _circle(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine of n angles."""
    t = np.linspace(0.0, 2.0 * np.pi, n, endpoint=False)
    return np.cos(t), np.sin(t)


def ellipse(
    center: tuple[float, float], radii: tuple[float, float], angle: float = 0.0, n: int = 20
) -> np.ndarray:
    """(n, 2) float32 vertices of an ellipse."""
    x, y = _circle(n)
    x, y = radii[0] * x, radii[1] * y
    c, s = np.cos(angle), np.sin(angle)
    points = np.stack([center[0] + c * x - s * y, center[1] + s * x + c * y], axis=1)
    return points.astype(np.float32)


@dataclasses.dataclass
class Part:
    """One flat piece.

    Args:
        polygon: (n, 2) float vertices.
        tone: row of the palette; a hole has none and cuts through what was drawn before.
        name: what the piece is, for the rules of keypoint visibility.
    """

    polygon: np.ndarray
    tone: int = 0
    name: str = ""
    hole: bool = False


@dataclasses.dataclass
class Stroke:
    """A line on the surface, not part of the outline.

    Args:
        points: (n, 2) float vertices.
        width: pixels.
        strength: change of brightness, -1 (black) to 1 (white).
    """

    points: np.ndarray
    width: float
    strength: float


@dataclasses.dataclass
class Solid:
    """A thing made of parts, back to front.

    Args:
        category: category name, or None for a distractor.
        parts: pieces, the later ones on top.
        palette: (T, 2, 3) BGR: two colours for each tone, mixed by the texture.
        slots: (T,) which of ``textures`` a tone uses.
        textures: two textures.
        strokes: lines on the surface.
        keypoints: (17, 2) image coordinates, or None.
        keypoint_parts: names of the parts on which each keypoint shows.
        keypoint_hidden: (17,) bool, hidden by the body whatever part lies on top.
        relief: strength of the rounded shading.
        seams: how much the borders between parts are darkened, 0 to 1.
        crowd: member of the crowd region of its image.
    """

    category: str | None
    parts: list[Part]
    palette: np.ndarray
    slots: np.ndarray
    textures: tuple[Texture, Texture]
    strokes: list[Stroke] = dataclasses.field(default_factory=list)
    keypoints: np.ndarray | None = None
    keypoint_parts: tuple[frozenset[str], ...] = ()
    keypoint_hidden: np.ndarray | None = None
    relief: float = 0.5
    seams: float = 0.0
    crowd: bool = False

    def bounds(self) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1 of all parts."""
        points = np.concatenate([part.polygon for part in self.parts])
        low, high = points.min(axis=0), points.max(axis=0)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])

    def transform(self, matrix: np.ndarray, offset: np.ndarray) -> None:
        """Maps every point p to ``matrix @ p + offset``, in place."""
        turned = matrix.T.astype(np.float32)
        shift = offset.astype(np.float32)
        for part in self.parts:
            part.polygon = part.polygon @ turned + shift
        for stroke in self.strokes:
            stroke.points = stroke.points @ turned + shift
        if self.keypoints is not None:
            self.keypoints = self.keypoints @ turned + shift


@dataclasses.dataclass
class Raster:
    """The part of a solid that lies inside the image.

    Args:
        x0: left edge of the window in image pixels.
        y0: upper edge.
        labels: (SS*h, SS*w) uint8, 0 outside, else 1 + index of the part on top.
        alpha: (h, w) float32 coverage of each image pixel.
        area: visible area in image pixels if nothing stood in front.
    """

    x0: int
    y0: int
    labels: np.ndarray
    alpha: np.ndarray
    area: float

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the window in image pixels."""
        return self.alpha.shape[0], self.alpha.shape[1]

    def fine_window(self) -> tuple[slice, slice]:
        """Where the window lies in a fine map of the whole image."""
        h, w = self.size
        return (slice(self.y0 * SS, (self.y0 + h) * SS), slice(self.x0 * SS, (self.x0 + w) * SS))


def to_fixed(points: np.ndarray, scale: float) -> np.ndarray:
    """Continuous coordinates to OpenCV's fixed point, where integers are centres of pixels."""
    return np.round((points * scale - 0.5) * (1 << _SHIFT)).astype(np.int32)


def rasterize(solid: Solid, width: int, height: int) -> Raster | None:
    """Draws a solid's parts at SS times the resolution of a (height, width) image.

    Returns:
        The raster, or None if nothing of the solid lies inside the image.
    """
    left, top, right, bottom = solid.bounds()
    x0, y0 = max(0, int(np.floor(left)) - 1), max(0, int(np.floor(top)) - 1)
    x1, y1 = min(width, int(np.ceil(right)) + 1), min(height, int(np.ceil(bottom)) + 1)
    if x1 <= x0 or y1 <= y0:
        return None
    labels = np.zeros(((y1 - y0) * SS, (x1 - x0) * SS), dtype=np.uint8)
    origin = np.array([x0, y0], dtype=np.float32)
    outlines = to_fixed(np.concatenate([part.polygon for part in solid.parts]) - origin, SS)
    start = 0
    for index, part in enumerate(solid.parts):
        end = start + len(part.polygon)
        value = 0 if part.hole else index + 1
        cv2.fillPoly(labels, [outlines[start:end]], value, shift=_SHIFT)
        start = end
    _, mask = cv2.threshold(labels, 0, 255, cv2.THRESH_BINARY)
    cover = cv2.resize(mask, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA)
    alpha = cover.astype(np.float32) * np.float32(1.0 / 255.0)
    area = float(cv2.countNonZero(labels)) / SS**2
    if area == 0.0:
        return None
    return Raster(x0, y0, labels, alpha, area)


def _surface(solid: Solid, raster: Raster) -> np.ndarray:
    """Colours of a solid's surface before lighting, (3, h, w) float32."""
    h, w = raster.size
    tones = np.array([part.tone for part in solid.parts])
    # Row 0 is "outside": zero colour with zero weight, divided out below. Four bytes are looked
    # up and averaged as one word: that is several times faster than floats.
    first = np.zeros((len(tones) + 1, 4), dtype=np.uint8)
    second = np.zeros((len(tones) + 1, 4), dtype=np.uint8)
    colors = np.clip(np.round(solid.palette[tones]), 0, 255)
    first[1:, :3], first[1:, 3] = colors[:, 0], 255
    second[1:, :3], second[1:, 3] = colors[:, 1], 255 * solid.slots[tones]
    coarse = raster.labels[1 :: SS // 2, 1 :: SS // 2]
    planes_a, planes_b = (
        cv2.split(
            cv2.resize(
                table.view(np.uint32)[:, 0][coarse].view(np.uint8).reshape(*coarse.shape, 4),
                (w, h),
                interpolation=cv2.INTER_AREA,
            )
        )
        for table in (first, second)
    )
    inverse = np.float32(255.0) / np.maximum(planes_a[3], np.float32(1.0))
    mix = solid.textures[0].sample(raster.x0, raster.y0, w, h)
    if solid.slots[tones].any():
        slot = planes_b[3] * inverse * np.float32(1.0 / 255.0)
        mix += slot * (solid.textures[1].sample(raster.x0, raster.y0, w, h) - mix)
    color = np.empty((3, h, w), dtype=np.float32)
    mix *= inverse
    if solid.seams:  # darkens both colours alike
        steps = cv2.morphologyEx(coarse, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
        _, edge = cv2.threshold(steps, 0, 255, cv2.THRESH_BINARY)
        edge = cv2.resize(edge, (w, h), interpolation=cv2.INTER_AREA)
        dark = np.float32(1.0) - edge * np.float32(solid.seams / 255.0)
        inverse *= dark
        mix *= dark
    inverse -= mix
    for c in range(3):
        color[c] = planes_a[c] * inverse
        color[c] += planes_b[c] * mix
    return color


def _apply_strokes(solid: Solid, raster: Raster, color: np.ndarray) -> None:
    """Darkens and lightens ``color`` along the strokes, in place."""
    origin = np.array([raster.x0, raster.y0], dtype=np.float32)
    for sign in (-1.0, 1.0):
        chosen = [s for s in solid.strokes if s.strength * sign > 0]
        if not chosen:
            continue
        ink = np.zeros(raster.size, dtype=np.uint8)
        for stroke in chosen:
            # Lines thinner than a pixel become fainter instead of thicker.
            weight = min(1.0, max(stroke.width, 0.15)) * abs(stroke.strength)
            cv2.polylines(
                ink,
                [to_fixed(stroke.points - origin, 1.0)],
                False,
                round(255 * weight),
                max(1, round(stroke.width)),
                cv2.LINE_AA,
                _SHIFT,
            )
        amount = ink.astype(np.float32) * np.float32(1.0 / 255.0)
        color += (np.float32(0.0 if sign < 0 else 250.0) - color) * amount


def paint(
    image: np.ndarray,
    solid: Solid,
    raster: Raster,
    light: np.ndarray,
    shadow: tuple[float, float, float, float] | None,
) -> None:
    """Draws a solid into an image, in place.

    Args:
        image: (3, H, W) float32 BGR.
        solid: what to draw.
        raster: its raster.
        light: (2,) unit vector towards the light, in the image plane.
        shadow: offset x, offset y, blur in pixels and darkness 0..1 of the soft shadow, or None.
    """
    h, w = raster.size
    if shadow is not None:
        _cast_shadow(image, raster, shadow)
    window = image[:, raster.y0 : raster.y0 + h, raster.x0 : raster.x0 + w]
    color = _surface(solid, raster)
    if solid.strokes:
        _apply_strokes(solid, raster, color)
    # Rounded shading: the blurred mask is a height field, its slope towards the light brightens.
    extent = float(np.sqrt(raster.area))
    sigma = max(0.8, 0.055 * extent)
    field = cv2.GaussianBlur(raster.alpha, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    slope_x = cv2.Sobel(field, cv2.CV_32F, 1, 0, ksize=3, borderType=cv2.BORDER_REPLICATE)
    slope_y = cv2.Sobel(field, cv2.CV_32F, 0, 1, ksize=3, borderType=cv2.BORDER_REPLICATE)
    strength = np.float32(-solid.relief * sigma * 0.3)
    shade = strength * (slope_x * np.float32(light[0]) + slope_y * np.float32(light[1]))
    ramp_x = (np.arange(w, dtype=np.float32) - 0.5 * w) * np.float32(light[0] / max(w, h) * 0.35)
    ramp_y = (np.arange(h, dtype=np.float32) - 0.5 * h) * np.float32(light[1] / max(w, h) * 0.35)
    shade += np.float32(1.0) + ramp_x[None, :] + ramp_y[:, None]
    color *= shade
    window += (color - window) * raster.alpha


def _cast_shadow(
    image: np.ndarray, raster: Raster, shadow: tuple[float, float, float, float]
) -> None:
    """Darkens the image beside a solid: its mask moved, blurred and multiplied in."""
    dx, dy, blur, darkness = shadow
    height, width = image.shape[1:]
    h, w = raster.size
    pad = int(2.0 * blur + max(abs(dx), abs(dy))) + 1
    left, top = max(0, raster.x0 - pad), max(0, raster.y0 - pad)
    right, bottom = min(width, raster.x0 + w + pad), min(height, raster.y0 + h + pad)
    matrix = np.array([[1.0, 0.0, raster.x0 - left + dx], [0.0, 1.0, raster.y0 - top + dy]])
    moved = cv2.warpAffine(raster.alpha, matrix, (right - left, bottom - top))
    moved = cv2.GaussianBlur(moved, (0, 0), max(blur, 0.5))
    image[:, top:bottom, left:right] *= np.float32(1.0) - np.float32(darkness) * moved
