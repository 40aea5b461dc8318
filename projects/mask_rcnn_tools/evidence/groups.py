"""Rows that are shown and judged together: a table of the paper, a folder, or an own ablation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mask_rcnn_tools.evidence.claims import Claim, claims_of
from mask_rcnn_tools.evidence.rows import Row
from mask_rcnn_tools.evidence.titles import table_title
from mask_rcnn_tools.evidence.verdicts import Planned


@dataclass(frozen=True)
class RowGroup:
    """A table before anything is run.

    Attributes:
        table: id in tables.json, a folder of configs, or the name of an own ablation; the `table`
            of its rows.
        title: heading.
        rows: in the order shown.
        claims: what is expected of the rows.
        swept: keys of a sweep, in order.
        own: whether it is an own ablation.
        note: what has to be known about the rows; may be empty.
        planned: claims, by id and metric, to what was fixed about them before the runs.
    """

    table: str
    title: str
    rows: tuple[Row, ...]
    claims: tuple[Claim, ...] = ()
    swept: tuple[str, ...] = ()
    own: bool = False
    note: str = ""
    planned: Mapping[tuple[str, str], Planned] = field(default_factory=dict)


def group_of(table: str, rows: tuple[Row, ...]) -> RowGroup:
    """A table of the paper or a folder, with some of its rows."""
    return RowGroup(table, table_title(table), rows, tuple(claims_of(table)))


def short_keys(keys: Sequence[str]) -> list[str]:
    """Dotted keys by their last parts, as many as tell them apart."""
    shown = []
    for key in keys:
        parts = key.split(".")
        others = [k for k in keys if k != key]
        ends = (".".join(parts[-n:]) for n in range(1, len(parts) + 1))
        shown.append(
            next((e for e in ends if not any(f".{o}".endswith(f".{e}") for o in others)), key)
        )
    return shown


def short_overrides(overrides: Sequence[str]) -> list[str]:
    """Overrides with short keys, such as `sampling_ratio=1`."""
    pairs = [text.lstrip("+").partition("=") for text in overrides]
    keys = short_keys([key for key, _, _ in pairs])
    return [f"{key}={value}" for key, (_, _, value) in zip(keys, pairs, strict=True)]
