"""Engines on disk: where plans lie, the JSON file beside each, and which of them are trusted.

A plan can run code when it loads. Digests of the plans that were built here are kept in the user's
own state folder, one small file each, and never in a bundle: who can write a plan into a bundle can
write a sidecar too.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_vit.bundle import Bundle, digest_of
from edge_vit.errors import ArtifactError, SpecError
from edge_vit.files import refuse_os_errors, write_atomically
from edge_vit.git_lfs import refuse_lfs_pointer
from edge_vit.runtime.trt.audit import EngineAudit
from edge_vit.runtime.trt.identity import EngineIdentity
from edge_vit.values import from_json, json_file, parse_json

SIDECAR_FORMAT = 1
PLAN_SUFFIX = ".engine"
_SIDECAR_SUFFIX = ".engine.json"
_DRAFT_SUFFIX = ".partial"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_READ_ONLY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


@dataclass(frozen=True)
class Sidecar:
    """How, where and from what a plan was built; `digest` is the plan's SHA-256."""

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
    """A plan on disk with its sidecar, and whether it was built just now, not found."""

    path: Path
    sidecar: Sidecar
    is_new: bool = False

    def read(self) -> bytes:
        """Return the plan's bytes, whose digest was checked: it proves that the plan is whole."""
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
    write_atomically(sidecar_path(plan), json_file(sidecar))


def read_sidecar(path: Path) -> Sidecar:
    """Return the sidecar at `path`, or raise an ArtifactError."""
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
    """Yield the engines in `folder` whose sidecars can be read, the newest first."""
    engines = []
    for path in folder.glob(f"*{_SIDECAR_SUFFIX}"):
        with contextlib.suppress(ArtifactError):
            engines.append(Engine(path.with_name(path.stem), read_sidecar(path)))
    yield from sorted(engines, key=lambda e: (e.sidecar.created, e.path.name), reverse=True)


def remove_engine(engine: Engine) -> None:
    """Remove a plan and its sidecar; the sidecar first, so that no half of an engine is found."""
    for path in (sidecar_path(engine.path), engine.path):
        path.unlink(missing_ok=True)


def engine_folders(bundle: Bundle) -> tuple[Path, Path]:
    """Return where engines of `bundle` may lie: inside it, and in the user's cache."""
    reference = bundle.manifest.artifacts.get(bundle.graph())
    digest = reference.sha256 if reference else digest_of(str(bundle.path).encode())
    return bundle.path / "engines", cache_folder() / "engines" / f"{bundle.name}-{digest[:12]}"


def writable_folder(bundle: Bundle, note: Callable[[str], None]) -> Path:
    """Return where a new engine of `bundle` goes, made if need be."""
    inside, cached = engine_folders(bundle)
    try:
        _try_to_write(inside)
        return inside
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise ArtifactError(f"cannot write {inside}: {error.strerror}") from None
        note(f"{bundle.path} is read-only ({error.strerror}), so the engine goes to {cached}")
    with refuse_os_errors(cached):
        _try_to_write(cached)
    return cached


@contextlib.contextmanager
def draft(folder: Path, name: str) -> Iterator[Path]:
    """Give a path in the locked `folder` for a file that becomes `name` later.

    Files that the block, or a builder that was killed, leaves there are removed.
    """
    for dead in folder.glob(f".*{_DRAFT_SUFFIX}"):
        dead.unlink(missing_ok=True)
    path = folder / f".{name}.{os.getpid()}{_DRAFT_SUFFIX}"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class TrustRecord:
    """Record of one plan."""

    built: str = ""  # when, UTC; empty where it was built elsewhere
    loaded_with: tuple[str, ...] = ()  # versions with which a child process has loaded it


def find_record(digest: str) -> TrustRecord | None:
    """Return the record of the plan with SHA-256 `digest`; None where there is none."""
    try:
        return from_json(TrustRecord, parse_json(_record_path(digest).read_bytes()))
    except (OSError, ValueError, SpecError):
        return None


def keep_record(digest: str, record: TrustRecord) -> None:
    """Keep `record` of the plan with SHA-256 `digest`."""
    write_atomically(_record_path(digest), json_file(record))


def refuse_an_unwritable_state() -> None:
    """Refuse, before any work, a state folder in which no record can be kept."""
    folder = state_folder() / "engines"
    try:
        _try_to_write(folder)
    except OSError as error:
        raise ArtifactError(
            f"cannot write {folder}: {error.strerror}. It remembers which engines were built here. "
            "Name a folder of yours: export XDG_STATE_HOME=DIR"
        ) from None


def state_folder() -> Path:
    """Return the user's own folder for records."""
    return _base("XDG_STATE_HOME", ".local/state") / "edge-vit"


def cache_folder() -> Path:
    """Return the user's own folder for what can be made again."""
    return _base("XDG_CACHE_HOME", ".cache") / "edge-vit"


def _base(variable: str, below_home: str) -> Path:
    """The folder that the environment names, or that one in the user's home."""
    named = os.environ.get(variable)
    if named:
        return Path(named)
    try:
        return Path.home() / below_home
    except RuntimeError:
        raise ArtifactError(
            f"this user has no home folder. Name one: export {variable}=DIR"
        ) from None


def _record_path(digest: str) -> Path:
    if not _DIGEST.fullmatch(digest):
        raise ArtifactError(f"{digest[:80]!r} is no SHA-256")
    return state_folder() / "engines" / f"{digest}.json"


def _try_to_write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass
