"""Fonts for names in any alphabet: DejaVu Sans, and installed fonts for what it lacks.

DejaVu Sans comes with matplotlib. It has no Chinese, Japanese or Korean characters.
"""

from __future__ import annotations

import functools
import logging
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)

FALLBACKS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans CJK TC",
    "Noto Sans CJK KR",
    "Noto Sans SC",
    "Noto Sans JP",
    "Noto Sans KR",
    "Source Han Sans SC",
    "Source Han Sans CN",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Droid Sans Fallback",
    "PingFang SC",
    "Hiragino Sans GB",
    "Hiragino Sans",
    "Apple SD Gothic Neo",
    "Microsoft YaHei",
    "SimHei",
    "Yu Gothic",
    "MS Gothic",
    "Malgun Gothic",
    "Arial Unicode MS",
    "Unifont",
)
"""Families that are used for what DejaVu Sans lacks, if they are installed, the first first."""

_reported: set[str] = set()


@functools.cache
def installed_fallbacks() -> dict[str, str]:
    """Maps those of :data:`FALLBACKS` that are installed to their files."""
    from matplotlib.font_manager import FontProperties, fontManager

    installed = {font.name for font in fontManager.ttflist}
    return {
        name: str(fontManager.findfont(FontProperties(family=[name])))
        for name in FALLBACKS
        if name in installed
    }


def font_families() -> list[str]:
    """Returns matplotlib's `font.family`: for each character the first font that has it."""
    return ["DejaVu Sans", *installed_fallbacks()]


def font_file(text: str, name: str = "DejaVuSans") -> str:
    """Returns the file of a font that has all characters of a text, or most of them.

    Characters that no font has are reported.

    Args:
        text: The text.
        name: DejaVu font that is preferred.
    """
    import matplotlib

    preferred = os.path.join(matplotlib.get_data_path(), "fonts", "ttf", f"{name}.ttf")
    if not _lacking(preferred, text):
        return preferred
    files = (preferred, *installed_fallbacks().values())
    best = min(files, key=lambda file: len(_lacking(file, text)))
    report_missing(_lacking(best, text))
    return best


def report_missing(characters: Iterable[str]) -> None:
    """Logs characters that no font has, each once in a process."""
    new = sorted(set(characters) - _reported)
    if new:
        _reported.update(new)
        shown = " ".join(new[:40]) + " ..." * (len(new) > 40)
        logger.warning(
            "No installed font has the characters %s: pictures show boxes in their place. Install "
            "a font that has them, such as Noto Sans CJK (package fonts-noto-cjk).",
            shown,
        )


@contextmanager
def missing_reported_once() -> Iterator[None]:
    """Replaces matplotlib's warnings of characters that no font has by :func:`report_missing`."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    missing = set()
    for warning in caught:
        words = str(warning.message).split()
        if words[:1] == ["Glyph"] and words[1].isdigit():
            missing.add(chr(int(words[1])))
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
    report_missing(missing)


def _lacking(file: str, text: str) -> set[str]:
    if text.isascii():
        return set()
    known = _characters(file)
    return {letter for letter in text if letter.isprintable() and ord(letter) not in known}


@functools.cache
def _characters(file: str) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(file).get_charmap())
