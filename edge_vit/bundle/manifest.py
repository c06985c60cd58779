"""The manifest of a bundle: the model's facts, each file's digest, and the digest of all that."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from edge_vit.errors import ArtifactError, SpecError
from edge_vit.printable import escape_json
from edge_vit.spec import ModelSpec
from edge_vit.tasks import task_of
from edge_vit.values import from_json, parse_json, to_json

BUNDLE_FORMAT = 2
READABLE_FORMATS = (1, BUNDLE_FORMAT)
"""Format 1 has no digest of its own, and no activation and no threshold in its spec."""

MANIFEST = "manifest.json"
TABLE = "calibration.json"
ROUNDED = "calibration.weights.npz"  # the weights that the table has rounded itself

RECORD = "export.json"
GOLDEN = "golden/golden.npz"
WEIGHTS = ".data"
"""Behind the name of a graph: the file of its weights, where it does not hold them."""


@dataclass(frozen=True)
class Artifact:
    """One file of the bundle."""

    sha256: str
    num_bytes: int
    parents: tuple[str, ...] = ()  # SHA-256 of each file that it was made from
    made_by: Mapping[str, str] = field(default_factory=dict)  # tools that took part, by version


@dataclass(frozen=True)
class Manifest:
    """Contents of a bundle: the model's facts, and each portable file by its path inside."""

    format: int
    created: str  # UTC, ISO 8601
    spec: ModelSpec
    artifacts: Mapping[str, Artifact]

    def to_bytes(self) -> bytes:
        """Return the content of ``manifest.json``, always in the newest format."""
        data = to_json(self)
        del data["format"]
        # Names that are not UTF-8 are written out first, so that the digest is of what is read.
        data = json.loads(escape_json(json.dumps(data, ensure_ascii=False)))
        data = {"format": BUNDLE_FORMAT, "digest": _digest_of_json(data)} | data
        text = json.dumps(data, indent=1, ensure_ascii=False)
        return (escape_json(text) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes, where: str, path: str) -> Manifest:
        """Return what `to_bytes` wrote, in this version or an earlier one.

        Messages name the file `where` and the bundle `path`. Raises an ArtifactError for bytes that
        are no manifest, of an unknown format, or edited.
        """
        again = f"edgevit export MODEL -o {path} --force"
        try:
            parsed = parse_json(data)
        except ValueError as error:
            raise ArtifactError(
                f"{where} cannot be read: {error}. Make the bundle again: {again}"
            ) from None
        found = parsed.get("format") if isinstance(parsed, dict) else None
        if isinstance(found, bool) or found not in READABLE_FORMATS:
            raise ArtifactError(
                f"{path}: bundle format {found}, this edge-vit reads "
                f"{' and '.join(map(str, READABLE_FORMATS))}. Export it again, or update edge-vit"
            )
        digest = parsed.pop("digest", None)
        if found > 1 and digest != _digest_of_json({k: parsed[k] for k in parsed if k != "format"}):
            raise ArtifactError(
                f"{where} was edited: its contents do not match its digest. Labels, mean and the "
                f"like are options of export; make the bundle again: {again}"
            )
        try:
            manifest = from_json(cls, parsed, MANIFEST)
        except SpecError as error:
            raise ArtifactError(f"{path}: {error}") from None
        for name in manifest.artifacts:
            check_name(name)
        spec = task_of(manifest.spec).upgrade(manifest.spec, found)
        return dataclasses.replace(manifest, spec=spec)


def digest_of(data: bytes) -> str:
    """Return the SHA-256 of `data`, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def digest_of_file(path: Path) -> tuple[str, int]:
    """Return the SHA-256 of the file at `path`, hexadecimal, and its bytes: it may be large."""
    digest, count = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            count += len(block)
    return digest.hexdigest(), count


def check_name(name: str) -> None:
    """Refuse a path that is empty, leaves the bundle's folder, or begins with a dot."""
    parts = PurePosixPath(name).parts
    climbs = not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name
    if climbs or parts[0].startswith(".") or name == MANIFEST:
        raise ArtifactError(f"artifact path {name!r} leaves the bundle")


def _digest_of_json(data: Mapping[str, Any]) -> str:
    """Return the SHA-256 of parsed JSON, whatever its spacing and the order of its keys."""
    return digest_of(json.dumps(data, sort_keys=True, separators=(",", ":")).encode())
