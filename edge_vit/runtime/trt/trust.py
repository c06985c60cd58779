"""Which plans were built here: a plan can run code when it loads.

Digests are kept in the user's own state folder, one small file each, and never in a bundle: who can
write a plan into a bundle can write a sidecar too.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from edge_vit.errors import ArtifactError, SpecError
from edge_vit.files import write_atomically
from edge_vit.values import from_json, parse_json, to_json

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class TrustRecord:
    """What is remembered of one plan.

    Attributes:
        built: when it was built here, UTC; empty where it was built elsewhere and trusted.
        loaded_with: versions of TensorRT and driver with which a child process has loaded it.
    """

    built: str = ""
    loaded_with: tuple[str, ...] = ()


def state_folder() -> Path:
    """Return the user's own folder for what edge-vit remembers."""
    return _base("XDG_STATE_HOME", ".local/state") / "edge-vit"


def cache_folder() -> Path:
    """Return the user's own folder for what can be made again."""
    return _base("XDG_CACHE_HOME", ".cache") / "edge-vit"


def refuse_an_unwritable_state() -> None:
    """Refuse, before any work, where nothing can be remembered.

    Raises:
        ArtifactError: the state folder cannot be written; the message says which to set.
    """
    folder = state_folder() / "engines"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ArtifactError(
            f"cannot write {folder}: {error.strerror}. It remembers which engines were built here. "
            "Name a folder of yours: export XDG_STATE_HOME=DIR"
        ) from None


def find_record(digest: str) -> TrustRecord | None:
    """Return what is remembered of the plan with SHA-256 `digest`; None where nothing is."""
    try:
        return from_json(TrustRecord, parse_json(_path(digest).read_bytes()))
    except (OSError, ValueError, SpecError):
        return None


def keep_record(digest: str, record: TrustRecord) -> None:
    """Remember `record` of the plan with SHA-256 `digest`."""
    data = (json.dumps(to_json(record)) + "\n").encode()
    write_atomically(_path(digest), data)


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


def _path(digest: str) -> Path:
    if not _DIGEST.fullmatch(digest):
        raise ArtifactError(f"{digest[:80]!r} is no SHA-256")
    return state_folder() / "engines" / f"{digest}.json"
