"""An engine on disk: the plain plan, and beside it a JSON file that says how it was made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_vit.bundle import digest_of
from edge_vit.errors import ArtifactError, SpecError
from edge_vit.files import write_atomically
from edge_vit.git_lfs import refuse_lfs_pointer
from edge_vit.runtime.trt.audit import EngineAudit
from edge_vit.runtime.trt.identity import EngineIdentity
from edge_vit.values import from_json, parse_json, to_json

SIDECAR_FORMAT = 1
PLAN_SUFFIX = ".engine"
_SIDECAR_SUFFIX = ".engine.json"


@dataclass(frozen=True)
class Sidecar:
    """How, where and from what a plan was built.

    Attributes:
        format: of this file.
        identity: what decides what is in the plan and where it may run.
        digest: SHA-256 of the plan.
        num_bytes: size of the plan.
        created: when, UTC, ISO 8601.
        seconds: that the builder took.
        edge_vit: version that built it.
        warnings: what TensorRT warned of.
        audit: in which precision it computes.
    """

    format: int
    identity: EngineIdentity
    digest: str
    num_bytes: int
    created: str
    seconds: float
    edge_vit: str
    warnings: tuple[str, ...]
    audit: EngineAudit


@dataclass(frozen=True)
class Engine:
    """A plan on disk with its sidecar.

    Attributes:
        path: of the plan.
        sidecar: what is known of it.
        is_new: whether it was built just now, not found.
    """

    path: Path
    sidecar: Sidecar
    is_new: bool = False

    def read(self) -> bytes:
        """Return the plan's bytes, whose digest was checked.

        The digest proves that the plan is whole, not where it came from; that is the business of
        `edge_vit.runtime.trt.trust`.
        """
        refuse_lfs_pointer(self.path)
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise ArtifactError(f"{self.path} cannot be read: {error.strerror}") from None
        if len(data) != self.sidecar.num_bytes:
            raise ArtifactError(
                f"{self.path} is truncated or edited: {len(data)} bytes, its sidecar says "
                f"{self.sidecar.num_bytes}"
            )
        if digest_of(data) != self.sidecar.digest:
            raise ArtifactError(f"{self.path} was edited: its SHA-256 is not its sidecar's")
        return data


def sidecar_path(plan: Path) -> Path:
    """Return where the sidecar of `plan` lies."""
    return plan.with_name(plan.name.removesuffix(PLAN_SUFFIX) + _SIDECAR_SUFFIX)


def write_sidecar(plan: Path, sidecar: Sidecar) -> None:
    """Write `sidecar` beside `plan`."""
    write_atomically(sidecar_path(plan), (json.dumps(to_json(sidecar), indent=1) + "\n").encode())


def read_sidecar(path: Path) -> Sidecar:
    """Return the sidecar at `path`.

    Raises:
        ArtifactError: it is none, or of a format that this version does not know.
    """
    refuse_lfs_pointer(path)
    try:
        data = parse_json(path.read_bytes())
        if not isinstance(data, dict) or data.get("format") != SIDECAR_FORMAT:
            found = data.get("format") if isinstance(data, dict) else None
            raise ArtifactError(f"{path}: format {found}, this edge-vit reads {SIDECAR_FORMAT}")
        return from_json(Sidecar, data, path.name)
    except (OSError, ValueError, SpecError) as error:
        raise ArtifactError(f"{path} is not an engine's sidecar: {error}") from None


def list_engines(folder: Path) -> Iterator[Engine]:
    """Yield the engines in `folder`, the newest first; what has no sidecar to read is none."""
    engines = []
    for path in folder.glob(f"*{_SIDECAR_SUFFIX}"):
        try:
            sidecar = read_sidecar(path)
        except ArtifactError:
            continue
        engines.append(Engine(path.with_name(path.name.removesuffix(".json")), sidecar))
    yield from sorted(engines, key=lambda e: (e.sidecar.created, e.path.name), reverse=True)


def remove_engine(engine: Engine) -> None:
    """Remove a plan and its sidecar; the sidecar first, so that no half of an engine is found."""
    for path in (sidecar_path(engine.path), engine.path):
        path.unlink(missing_ok=True)
