"""Compiled reading of a COCO json's annotations: one pass over the bytes, no Python objects.

Not a validating parser: what is not plainly as expected ends the reading of the record, which is
marked ``ODD`` for Python to read, or of the file, which is then read by Python as a whole.

Shapes: text (B,) uint8, the file; positions are indices into it, -1 is "not as expected".
"""

from __future__ import annotations

import numpy as np

from mask_rcnn_repro.utils.compiled import compiled
from mask_rcnn_tools.check_data import columns as c

_QUOTE, _BACKSLASH, _COMMA, _COLON, _MINUS, _DOT, _ZERO, _NINE = 34, 92, 44, 58, 45, 46, 48, 57
_OPEN_LIST, _CLOSE_LIST, _OPEN, _CLOSE, _N = 91, 93, 123, 125, 110
_NAMES = np.frombuffer("".join(c.NAMES).encode(), np.uint8).copy()
_ENDS = np.cumsum([len(name) for name in c.NAMES])
_POWERS = np.array([10.0**n for n in range(23)])
_NEEDED = c.NEEDED
_MOST_DIGITS = 18
_KNOWN = tuple(range(len(c.NAMES)))
_F_ID, _F_IMAGE, _F_CATEGORY, _F_CROWD, _F_AREA, _F_BOX, _F_SEGMENT, _F_POINTS, _F_NUMBER, _ = (
    _KNOWN
)


@compiled(inline="always")
def _is_space(b):  # type: ignore[no-untyped-def]
    return b == 32 or b == 10 or b == 13 or b == 9


@compiled(inline="always")
def _space(text, i):  # type: ignore[no-untyped-def]
    """The next position that is no white space."""
    while i < len(text) and _is_space(text[i]):
        i += 1
    return i


@compiled()
def _string(text, i):  # type: ignore[no-untyped-def]
    """Behind the string that begins at i."""
    i += 1
    while i < len(text):
        if text[i] == _QUOTE:
            return i + 1
        if text[i] < 32:
            return -1
        i += 2 if text[i] == _BACKSLASH else 1
    return -1


@compiled()
def _plain(text, i, end):  # type: ignore[no-untyped-def]
    """Whether a string has nothing to decode."""
    odd = 0
    for j in range(i, end):
        odd += text[j] == _BACKSLASH or text[j] >= 128
    return odd == 0


@compiled()
def skip(text, i):  # type: ignore[no-untyped-def]
    """Behind the value that begins at i; nested values are not looked into."""
    if i >= len(text):
        return -1
    if text[i] == _QUOTE:
        return _string(text, i)
    depth = 0
    start = i
    while i < len(text):
        b = text[i]
        if b == _QUOTE:
            i = _string(text, i)
            if i < 0:
                return -1
            continue
        if b in (_OPEN, _OPEN_LIST):
            depth += 1
        elif b in (_CLOSE, _CLOSE_LIST):
            if depth == 0:
                return i if i > start else -1
            depth -= 1
            if depth == 0:
                return i + 1
        elif depth == 0 and (b == _COMMA or _is_space(b)):
            return i if i > start else -1
        i += 1
    return -1


@compiled()
def _number(text, i):  # type: ignore[no-untyped-def]
    """(value, whether it is whole, position behind); the value is exact or the nearest but one."""
    size = len(text)
    negative = i < size and text[i] == _MINUS
    if negative:
        i += 1
    mantissa, digits, exponent, start = np.int64(0), 0, 0, i
    whole = True
    while i < size and _ZERO <= text[i] <= _NINE:
        if digits < _MOST_DIGITS:
            mantissa = mantissa * 10 + np.int64(text[i] - _ZERO)
            digits += mantissa > 0
        else:
            exponent += 1
        i += 1
    if i == start or (text[start] == _ZERO and i > start + 1):
        return 0.0, np.int64(0), False, -1
    if exponent:  # too long for 64 bits
        whole = False
    if i < size and text[i] == _DOT:
        whole = False
        i += 1
        start = i
        while i < size and _ZERO <= text[i] <= _NINE:
            if digits < _MOST_DIGITS:
                mantissa = mantissa * 10 + np.int64(text[i] - _ZERO)
                digits += mantissa > 0
                exponent -= 1
            i += 1
        if i == start:
            return 0.0, np.int64(0), False, -1
    if i < size and (text[i] == 101 or text[i] == 69):  # e, E
        return 0.0, np.int64(0), False, -1  # rare: Python reads such a record
    if i >= size or not (
        text[i] == _COMMA or text[i] == _CLOSE or text[i] == _CLOSE_LIST or _is_space(text[i])
    ):
        return 0.0, np.int64(0), False, -1
    value = np.float64(mantissa)
    if exponent < -22 or exponent > 22:
        value *= 10.0**exponent
    elif exponent < 0:
        value /= _POWERS[-exponent]
    else:
        value *= _POWERS[exponent]
    if negative:
        return -value, -mantissa, whole, i
    return value, mantissa, whole, i


@compiled()
def _after(text, i, close):  # type: ignore[no-untyped-def]
    """(whether another element follows, its position or the one behind the end)."""
    i = _space(text, i)
    if i >= len(text):
        return False, -1
    if text[i] == _COMMA:
        return True, _space(text, i + 1)
    if text[i] == close:
        return False, i + 1
    return False, -1


@compiled()
def _field(text, i):  # type: ignore[no-untyped-def]
    """(number of the field in NAMES, -1 for others, -2 for an escaped one; behind its colon)."""
    if i >= len(text) or text[i] != _QUOTE:
        return -2, -1
    end = _string(text, i)
    if end < 0:
        return -2, -1
    found, begin = -1, 0
    for k in range(len(_ENDS)):
        if end - i - 2 == _ENDS[k] - begin:
            same = True
            for j in range(begin, _ENDS[k]):
                if text[i + 1 + j - begin] != _NAMES[j]:
                    same = False
                    break
            if same:
                found = k
        begin = _ENDS[k]
    if not _plain(text, i, end):
        return -2, -1
    i = _space(text, end)
    if i >= len(text) or text[i] != _COLON:
        return -2, -1
    return found, _space(text, i + 1)


@compiled()
def _box(text, i, floats):  # type: ignore[no-untyped-def]
    if text[i] != _OPEN_LIST:
        return -1
    i = _space(text, i + 1)
    for k in range(4):
        value, _, _, i = _number(text, i)
        if i < 0:
            return -1
        floats[c.BOX + k] = value
        more, i = _after(text, i, _CLOSE_LIST)
        if i < 0 or more != (k < 3):
            return -1
    return i


@compiled()
def _polygons(text, i, ints, floats):  # type: ignore[no-untyped-def]
    """Behind the list of lists that begins at i."""
    i = _space(text, i + 1)
    if i < len(text) and text[i] == _CLOSE_LIST:
        return i + 1
    ints[c.SEGMENT] = c.IS_POLYGON
    x0, y0, x1, y1, area = np.inf, np.inf, -np.inf, -np.inf, 0.0
    more = True
    while more:
        if i >= len(text) or text[i] != _OPEN_LIST:
            return -1
        i = _space(text, i + 1)
        ints[c.POLYGONS] += 1
        count, twice = 0, 0.0
        low_x, low_y, high_x, high_y = np.inf, np.inf, -np.inf, -np.inf
        first_x, first_y, old_x, old_y, x = 0.0, 0.0, 0.0, 0.0, 0.0
        inner = True
        if i < len(text) and text[i] == _CLOSE_LIST:
            inner = False
            i += 1
        while inner:
            value, _, _, i = _number(text, i)
            if i < 0:
                return -1
            if count % 2 == 0:
                x = value
            else:
                if count == 1:
                    first_x, first_y = x, value
                else:
                    twice += old_x * value - x * old_y
                old_x, old_y = x, value
                low_x, high_x = min(low_x, x), max(high_x, x)
                low_y, high_y = min(low_y, value), max(high_y, value)
            count += 1
            inner, i = _after(text, i, _CLOSE_LIST)
            if i < 0:
                return -1
        if count < 6 or count % 2:
            ints[c.BAD_POLYGONS] += 1
        else:
            twice += old_x * first_y - first_x * old_y
            area += abs(twice) / 2
            x0, y0, x1, y1 = min(x0, low_x), min(y0, low_y), max(x1, high_x), max(y1, high_y)
        more, i = _after(text, i, _CLOSE_LIST)
        if i < 0:
            return -1
    if x0 < np.inf:
        floats[c.MASK], floats[c.MASK + 1] = x0, y0
        floats[c.MASK + 2], floats[c.MASK + 3] = x1, y1
        floats[c.MASK_AREA] = area
    return i


@compiled()
def _points(text, i, ints, floats):  # type: ignore[no-untyped-def]
    """Behind the list of keypoints that begins at i."""
    if text[i] != _OPEN_LIST:
        return -1
    i = _space(text, i + 1)
    if i < len(text) and text[i] == _CLOSE_LIST:
        return i + 1
    x0, y0, x1, y1 = np.inf, np.inf, -np.inf, -np.inf
    count, x, y, more = 0, 0.0, 0.0, True
    while more:
        value, _, _, i = _number(text, i)
        if i < 0:
            return -1
        if count % 3 == 0:
            x = value
        elif count % 3 == 1:
            y = value
        elif value == 1 or value == 2:
            ints[c.KEYPOINTS_LABELLED] += 1
            x0, y0, x1, y1 = min(x0, x), min(y0, y), max(x1, x), max(y1, y)
        elif value == 0:
            ints[c.KEYPOINTS_GHOST] += x != 0 or y != 0
        else:
            ints[c.KEYPOINTS_WRONG] += 1
        count += 1
        more, i = _after(text, i, _CLOSE_LIST)
        if i < 0:
            return -1
    ints[c.KEYPOINT_NUMBERS] = count
    if x0 < np.inf:
        floats[c.POINTS], floats[c.POINTS + 1] = x0, y0
        floats[c.POINTS + 2], floats[c.POINTS + 3] = x1, y1
    return i


@compiled()
def _record(text, i, ints, floats):  # type: ignore[no-untyped-def]
    """Behind the annotation that begins at i; -1: for Python to read."""
    i = _space(text, i + 1)
    more = True
    while more:
        field, i = _field(text, i)
        if i < 0 or field == -2 or i >= len(text):
            return -1
        if field >= 0:
            bit = 1 << field
            if ints[c.FIELDS] & bit:  # twice: the last one counts
                return -1
            ints[c.FIELDS] |= bit
        if field == _F_BOX:
            i = _box(text, i, floats)
        elif field == _F_SEGMENT:
            if text[i] == _N and i + 4 < len(text):
                if text[i + 1] != 117 or text[i + 2] != 108 or text[i + 3] != 108:  # null
                    return -1
                i += 4
            elif text[i] == _OPEN_LIST:
                i = _polygons(text, i, ints, floats)
            else:
                return -1  # run lengths: few, and Python reads them
        elif field == _F_POINTS:
            i = _points(text, i, ints, floats)
        elif field >= 0:
            value, number, whole, i = _number(text, i)
            if i >= 0 and field == _F_AREA:
                floats[c.AREA] = value
            elif i < 0 or not whole:
                return -1
            elif field == _F_ID:
                ints[c.ID] = number
            elif field == _F_IMAGE:
                ints[c.IMAGE] = number
            elif field == _F_CATEGORY:
                ints[c.CATEGORY] = number
            elif field == _F_CROWD:
                if number < 0 or number > 1:
                    return -1
                ints[c.CROWD] = number
            elif field == _F_NUMBER:
                ints[c.NUM_KEYPOINTS] = number
            elif number != 0:  # ignore
                return -1
        elif text[i] == _QUOTE:
            start = i
            i = _string(text, i)
            if not _plain(text, start, i):
                return -1
        else:  # unknown and no number: Python validates it
            _, _, _, i = _number(text, i)
        if i < 0:
            return -1
        more, i = _after(text, i, _CLOSE)
        if i < 0:
            return -1
    return i if ints[c.FIELDS] & _NEEDED == _NEEDED else -1


@compiled()
def scan_block(text, i, ints, floats, spans):  # type: ignore[no-untyped-def]
    """Reads annotations until the list or the rows end.

    Args:
        text: the file.
        i: begin of an annotation.
        ints: rows of :func:`~mask_rcnn_tools.check_data.columns.empty_rows`.
        floats: the same.
        spans: (rows, 2) where an ``ODD`` annotation begins and ends.

    Returns:
        Rows that were filled, whether the list goes on, and where; -1 where it is broken.
    """
    for row in range(len(ints)):
        end = -1
        if i < len(text) and text[i] == _OPEN:
            end = _record(text, i, ints[row], floats[row])
        if end < 0:
            end = skip(text, i)
            if end < 0:
                return row, False, np.int64(-1)
            ints[row, c.ODD] = 1
            spans[row, 0], spans[row, 1] = i, end
        more, i = _after(text, end, _CLOSE_LIST)
        if i < 0 or not more:
            return row + 1, False, np.int64(i)
    return len(ints), True, np.int64(i)
