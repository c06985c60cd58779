"""Reports on disk as JSON: what one run measured, another can read and compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_vit.errors import ArtifactError, SpecError
from edge_vit.files import write_atomically
from edge_vit.git_lfs import refuse_lfs_pointer
from edge_vit.measure.compare import Measured, measured_of
from edge_vit.measure.results import REPORT_FORMAT, AccuracyReport, LatencyReport, VerifyReport
from edge_vit.values import from_json, json_file, parse_json


def write_json(report: VerifyReport, path: Path | str) -> None:
    """Write `report` to `path`, completely or not at all."""
    write_atomically(Path(path), json_file(report))


def read_json(path: Path | str) -> VerifyReport:
    """Return the report that `write_json` wrote to `path`."""
    return _verify_report(_load(path), path)


def read_measured(path: Path | str, name: str) -> Measured:
    """Return what the report of ``verify``, ``bench`` or ``eval`` at `path` says, under `name`."""
    data = _load(path)
    if isinstance(data, dict) and "verdict" in data:
        return measured_of(_verify_report(data, path), name)
    parts = data if isinstance(data, list) and data else [data]
    latency, accuracy = [], []
    for part in parts:
        try:
            if isinstance(part, dict) and "latency_ms" in part:
                latency.append(from_json(LatencyReport, part, str(path)))
            elif isinstance(part, dict) and "num_agreeing" in part:
                accuracy.append(from_json(AccuracyReport, part, str(path)))
            else:
                raise SpecError("expected what verify, bench or eval prints with --json")
        except SpecError as error:
            raise ArtifactError(f"{path} is not a report: {error}") from None
    return Measured(name, "", "", tuple(latency), tuple(accuracy))


def _load(path: Path | str) -> Any:
    refuse_lfs_pointer(Path(path))
    try:
        return parse_json(Path(path).read_bytes())
    except OSError as error:
        raise ArtifactError(
            f"report {path} cannot be read: {error.strerror}. "
            "Make one with: edgevit verify BUNDLE --data DIR"
        ) from None
    except ValueError as error:
        raise ArtifactError(f"{path} is not a report: {error}") from None


def _verify_report(data: Any, path: Path | str) -> VerifyReport:
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
