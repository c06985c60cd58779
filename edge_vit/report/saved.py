"""Reports on disk as JSON: what one run measured, another can read and compare."""

from __future__ import annotations

import json
from pathlib import Path

from edge_vit.errors import ArtifactError, SpecError
from edge_vit.files import write_atomically
from edge_vit.measure.results import REPORT_FORMAT, VerifyReport
from edge_vit.values import from_json, to_json


def write_json(report: VerifyReport, path: Path | str) -> None:
    """Write `report` to `path`, completely or not at all.

    Raises:
        ArtifactError: the disk refuses.
    """
    text = json.dumps(to_json(report), indent=1, ensure_ascii=False)
    write_atomically(Path(path), (text + "\n").encode())


def read_json(path: Path | str) -> VerifyReport:
    """Return the report that `write_json` wrote to `path`.

    Raises:
        ArtifactError: there is none, it is no report, or of a format that this version does not
            know.
    """
    try:
        data = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise ArtifactError(
            f"report {path} cannot be read: {error.strerror}. "
            "Make one with: edgevit verify BUNDLE --data DIR"
        ) from None
    except ValueError as error:
        raise ArtifactError(f"{path} is not a report: {error}") from None
    found = data.get("format") if isinstance(data, dict) else None
    if found not in range(1, REPORT_FORMAT + 1):
        raise ArtifactError(
            f"{path}: report format {found}, this edge-vit reads 1 to {REPORT_FORMAT}. "
            "Run edgevit verify again, or update edge-vit"
        )
    try:
        return from_json(VerifyReport, data | {"format": REPORT_FORMAT}, str(path))
    except SpecError as error:
        raise ArtifactError(f"{path} is not a report: {error}") from None
