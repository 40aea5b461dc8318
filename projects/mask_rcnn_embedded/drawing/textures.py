"""Noise, colours and the bank of surface textures.

Shapes: H, W image height and width in pixels. Colours are BGR in 0..255, float32.
"""

from __future__ import annotations

import colorsys
import dataclasses
import functools

import cv2
import numpy as np

BANK_SIDE = 256
"""Side of a bank texture in texels; every texture wraps around."""

_BANK_SEED = 20170320  # fixed: the bank is part of the drawing code, not of the spec


def random_color(rng: np.random.Generator) -> np.ndarray:
    """A colour of everyday things: any hue, from grey to saturated.

    Returns:
        (3,) float32 BGR.
    """
    hue, value = rng.random(), 0.16 + 0.8 * rng.random()
    saturation = rng.beta(1.4, 1.9)
    r, g, b = colorsys.hsv_to_rgb(hue, saturation, value)
    return np.array([b, g, r], dtype=np.float32) * 255.0


def vary(rng: np.random.Generator, color: np.ndarray, amount: float) -> np.ndarray:
    """``color`` with its brightness and hue disturbed, clipped to 4..251.

    Args:
        color: (3,) BGR.
        amount: standard deviation as a share of the full range.
    """
    shift = rng.normal(0.0, 255.0 * amount) + rng.normal(0.0, 90.0 * amount, 3)
    return np.clip(color + shift, 4.0, 251.0).astype(np.float32)


def fractal_noise(
    rng: np.random.Generator,
    height: int,
    width: int,
    channels: int = 1,
    *,
    coarsest: float = 0.6,
    octaves: int = 5,
    persistence: float = 0.6,
    stretch: float = 1.0,
) -> np.ndarray:
    """Multi-octave noise with a spectrum close to 1/f, as natural pictures have.

    Args:
        height: H.
        width: W.
        channels: independent channels.
        coarsest: wavelength of the first octave as a share of the longer side.
        octaves: each further octave halves the wavelength.
        persistence: amplitude of an octave relative to the one before.
        stretch: above 1 the noise is drawn out horizontally.

    Returns:
        (channels, H, W) float32, mean about 0, standard deviation about 1.
    """
    total = np.zeros((height, width, channels), dtype=np.float32)
    wavelength, amplitude, power = coarsest * max(height, width), 1.0, 0.0
    for _ in range(octaves):
        rows = max(2, min(height, round(height / wavelength) + 2))
        cols = max(2, min(width, round(width / (wavelength * stretch)) + 2))
        grid = rng.standard_normal((rows, cols, channels), dtype=np.float32)
        layer = cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        total += amplitude * layer.reshape(height, width, channels)
        power += 0.6 * amplitude**2  # interpolation keeps about 0.6 of the variance
        wavelength, amplitude = wavelength / 2.0, amplitude * persistence
        if wavelength < 1.5:
            break
    total *= np.float32(1.0 / np.sqrt(power))
    return np.ascontiguousarray(total.transpose(2, 0, 1))


def _periodic_noise(rng: np.random.Generator, exponent: float, low: int, high: int) -> np.ndarray:
    """Band-passed 1/f^exponent noise that wraps around, scaled to 0..1."""
    side = BANK_SIDE
    freq = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None, :]) * side
    gain = np.where((freq >= low) & (freq <= high), np.maximum(freq, 1.0) ** -exponent, 0.0)
    field = np.fft.ifft2(np.fft.fft2(rng.standard_normal((side, side))) * gain).real
    return np.clip(0.5 + field / (4.0 * field.std()), 0.0, 1.0)


@functools.lru_cache(maxsize=1)
def texture_bank() -> dict[str, np.ndarray]:
    """Scalar textures by name, each (BANK_SIDE, BANK_SIDE) uint8 and periodic.

    Regular ones have 16 periods a side. Made once a process.
    """
    rng = np.random.default_rng(_BANK_SEED)
    side, periods = BANK_SIDE, 16
    y, x = np.mgrid[0:side, 0:side].astype(np.float64) * (periods / side)
    soft = lambda v, k: 1.0 / (1.0 + np.exp(-k * v))  # noqa: E731 - used on this screen only
    u, v = x % 1.0 - 0.5, y % 1.0 - 0.5
    wobble = (_periodic_noise(rng, 1.5, 1, 24) - 0.5) * 1.6
    brick_x = (x / 2.0 + 0.5 * (np.floor(y) % 2)) % 1.0
    scale_u = (x + 0.5 * (np.floor(y) % 2)) % 1.0 - 0.5
    bank = {
        "cloud": _periodic_noise(rng, 1.4, 1, 128),
        "rough": _periodic_noise(rng, 0.9, 6, 128),
        "grain": _periodic_noise(rng, 0.2, 20, 128),
        "blotch": soft(_periodic_noise(rng, 1.2, 4, 28) - 0.52, 26.0),
        "marble": 0.5 + 0.5 * np.sin(2 * np.pi * (x / 4.0 + 3.0 * wobble)),
        "stripe": soft(np.sin(2 * np.pi * x), 7.0),
        "thin_stripe": soft(np.sin(2 * np.pi * x) - 0.75, 14.0),
        "wave": soft(np.sin(2 * np.pi * (x + 0.25 * np.sin(2 * np.pi * y / 2.0))), 6.0),
        "check": soft(np.sin(2 * np.pi * x) * np.sin(2 * np.pi * y), 9.0),
        "plaid": 0.5 * soft(np.sin(2 * np.pi * x), 6.0) + 0.5 * soft(np.sin(2 * np.pi * y), 6.0),
        "dot": soft(0.28 - np.hypot(u, v), 24.0),
        "ring": soft(0.09 - np.abs(np.hypot(u, v) - 0.3), 40.0),
        "brick": np.maximum(
            soft(0.06 - np.minimum(brick_x, 1 - brick_x), 60.0),
            soft(0.09 - np.minimum(y % 1.0, 1 - y % 1.0), 40.0),
        ),
        "plank": np.maximum(
            soft(0.05 - np.minimum(y % 1.0, 1 - y % 1.0), 60.0),
            0.6 * _periodic_noise(rng, 1, 3, 90),
        ),
        "scale": soft(np.hypot(scale_u, v + 0.5) - 0.72, 14.0),
    }
    # Irregular copies: the same patterns bent by noise look less like a computer's.
    grid = np.mgrid[0:side, 0:side].astype(np.float32)
    dx = (_periodic_noise(rng, 1.6, 1, 12) - 0.5) * 26.0
    dy = (_periodic_noise(rng, 1.6, 1, 12) - 0.5) * 26.0
    for name in ("stripe", "check", "dot", "wave"):
        bent = cv2.remap(
            bank[name].astype(np.float32),
            (grid[1] + dx).astype(np.float32),
            (grid[0] + dy).astype(np.float32),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_WRAP,
        )
        bank[f"bent_{name}"] = bent
    return {k: np.round(np.clip(t, 0.0, 1.0) * 255.0).astype(np.uint8) for k, t in bank.items()}


@functools.cache
def _tiled_texture(name: str) -> np.ndarray:
    """A texture four times in each direction: OpenCV is slow where it has to wrap around."""
    return np.tile(texture_bank()[name], (4, 4))


CLOTH = (
    "cloud", "rough", "grain", "blotch", "marble", "stripe", "thin_stripe", "wave", "check",
    "plaid", "dot", "ring", "bent_stripe", "bent_check", "bent_dot", "bent_wave",
)  # fmt: skip
"""Textures of clothes and of things."""

GROUND = ("cloud", "rough", "grain", "blotch", "marble", "brick", "plank", "check", "plaid", "wave")
"""Textures of walls, floors and patches of the background."""


@dataclasses.dataclass(frozen=True)
class Texture:
    """A placed texture.

    Args:
        name: key of :func:`texture_bank`.
        texel: pixels of the image per texel of the bank.
        angle: rotation in radians.
        origin: texel that falls on the image's origin.
    """

    name: str
    texel: float
    angle: float
    origin: tuple[float, float]

    def sample(self, x0: int, y0: int, width: int, height: int) -> np.ndarray:
        """The texture on the image window with upper left corner (x0, y0).

        Returns:
            (height, width) float32 in 0..1.
        """
        c, s = np.cos(self.angle) / self.texel, np.sin(self.angle) / self.texel
        matrix = np.array(
            [[c, -s, self.origin[0] + c * x0 - s * y0], [s, c, self.origin[1] + s * x0 + c * y0]]
        )
        corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]])
        matrix[:, 2] -= BANK_SIDE * np.floor((corners @ matrix.T).min(axis=0) / BANK_SIDE)
        out = cv2.warpAffine(
            _tiled_texture(self.name),
            matrix,
            (width, height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_WRAP,
        )
        return out.astype(np.float32) * np.float32(1.0 / 255.0)


def random_texture(
    rng: np.random.Generator, size: float, names: tuple[str, ...] = CLOTH
) -> Texture:
    """A texture whose period suits a thing of ``size`` pixels (never finer than about 3 pixels).

    Args:
        size: extent of the thing in pixels.
        names: textures to choose from.
    """
    period = max(3.2, size * float(np.exp(rng.uniform(np.log(0.07), np.log(0.4)))))
    return Texture(
        name=names[int(rng.integers(len(names)))],
        texel=period / (BANK_SIDE / 16),
        angle=float(rng.uniform(0.0, np.pi)),
        origin=(float(rng.uniform(0, BANK_SIDE)), float(rng.uniform(0, BANK_SIDE))),
    )


def two_textures(rng: np.random.Generator, extent: float) -> tuple[Texture, Texture]:
    """Two textures for a thing of ``extent`` pixels."""
    return random_texture(rng, extent, CLOTH), random_texture(rng, extent, CLOTH)
