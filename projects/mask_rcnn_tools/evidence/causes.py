"""`results/causes.json`: why a claim was contradicted or stayed undecided, as a test showed it.

Without an entry, pages state "Cause unknown." Entries on claims with another verdict are kept, and
not shown.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator

from mask_rcnn_repro.errors import RecordError
from mask_rcnn_repro.records.record import read_json, validated
from mask_rcnn_tools.evidence.claims import claims_to_test, counterpart_claims

CAUSES_FILE = "causes.json"
CAUSES_VERSION: Literal[1] = 1

UNKNOWN = "Cause unknown."


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Cause(_Section):
    """A cause that was tested."""

    claim: str = Field(
        min_length=1, description="Id in claims.json; a config for rows that are not."
    )
    profile: Literal["paper", "mini"] = Field(description="Scale of the runs.")
    cause: str = Field(description="One sentence.")
    command: str = Field(min_length=1, description="What tested it.")
    records: tuple[str, ...] = Field(
        min_length=1, description="What it left: files, as paths from the folder of this file."
    )

    @field_validator("cause")
    @classmethod
    def _is_a_sentence(cls, text: str) -> str:
        if not text.endswith(".") or "\n" in text:
            raise ValueError(f"must be one line that ends with a full stop, got {text!r}")
        return text


class Causes(_Section):
    """The file."""

    schema_version: Literal[1] = Field(default=CAUSES_VERSION, description="Of this schema.")
    causes: tuple[Cause, ...] = Field(default=(), description="At most one a claim and profile.")


class KnownCause(NamedTuple):
    """A cause whose files were found.

    Attributes:
        cause: the entry.
        records: paths of its files.
    """

    cause: Cause
    records: tuple[Path, ...]


CauseKey = tuple[str, str]
"""Profile and id of a claim."""


def load_causes(folder: Path) -> dict[CauseKey, KnownCause]:
    """Reads the causes of a folder of committed records; empty where there are none.

    Raises:
        RecordError: the file does not follow the schema, names a claim that does not exist or one
            claim twice, or a file that is missing.
    """
    file = folder / CAUSES_FILE
    if not file.is_file():
        return {}
    content = read_json(file, "file of causes")
    loaded = validated(Causes, content, repr(str(file)), CAUSES_VERSION, "is no file of causes")
    claims = [*claims_to_test(), *counterpart_claims()]
    known = list(dict.fromkeys(claim.id for claim in claims))
    found: dict[CauseKey, KnownCause] = {}
    for entry in loaded.causes:
        key = (entry.profile, entry.claim)
        if entry.claim not in known:
            near = difflib.get_close_matches(entry.claim, known, n=1, cutoff=0.4)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise RecordError(
                f"{file} names the claim {entry.claim!r}, which does not exist.{hint} Known: "
                f"{', '.join(known)}."
            )
        if key in found:
            raise RecordError(f"{file} has two causes for {entry.claim!r} at {entry.profile!r}.")
        records = tuple(folder / name for name in entry.records)
        missing = [
            name for name, path in zip(entry.records, records, strict=True) if not path.is_file()
        ]
        if missing:
            raise RecordError(
                f"{file}, {entry.claim!r}: there is no file {missing[0]!r} in {folder}. Give paths "
                "from that folder."
            )
        found[key] = KnownCause(cause=entry, records=records)
    return found
