"""Line lengths of generated Markdown."""

from __future__ import annotations

import re
import textwrap

_AS_IT_IS = re.compile(r"\||#|!\[| {4}|$")  # tables, headings, pictures, code, empty lines
_FENCE = "```"
_ITEM = "- "
_KEPT = re.compile(
    r"`[^`\n]*`| (?=(?:[-+*#>]+|\d+[.)]) )"
)  # code; what would begin a list or title
_SPACE = "\0"


def wrap_prose(page: str, width: int = 100) -> str:
    """Wraps paragraphs and list items with lines that are too long.

    Tables, headings, pictures and code blocks stay as they are. Code in a line is not broken.

    Args:
        page: Text in Markdown. Items of lists start with "- ".
        width: Columns.
    """
    lines: list[str] = []
    paragraph: list[str] = []
    fenced = False
    for line in page.split("\n"):
        alone = fenced or line.startswith(_FENCE) or _AS_IT_IS.match(line)
        if alone or line.startswith(_ITEM):
            lines += _wrapped(paragraph, width)
            paragraph = []
        if alone:
            lines.append(line)
            fenced ^= line.startswith(_FENCE)
        else:
            paragraph.append(line)
    return "\n".join(lines + _wrapped(paragraph, width))


def _wrapped(paragraph: list[str], width: int) -> list[str]:
    if all(len(line) <= width for line in paragraph):
        return paragraph
    text = " ".join(line.strip() for line in paragraph)
    indent = "  " if text.startswith(_ITEM) else ""
    text = text[:2] + _KEPT.sub(lambda found: found[0].replace(" ", _SPACE), text[2:])
    broken = textwrap.wrap(
        text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return [line.replace(_SPACE, " ") for line in broken]
