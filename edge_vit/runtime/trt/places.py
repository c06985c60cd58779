"""Where engines lie: in the bundle, or in the user's cache where the bundle is read-only."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from edge_vit.bundle import Bundle, digest_of
from edge_vit.errors import ArtifactError
from edge_vit.files import refuse_os_errors
from edge_vit.runtime.trt.trust import cache_folder

_READ_ONLY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
_DRAFT_SUFFIX = ".partial"


def engine_folders(bundle: Bundle) -> tuple[Path, Path]:
    """Return where engines of `bundle` may lie: inside it, and in the user's cache."""
    artifacts = bundle.manifest.artifacts
    reference = artifacts.get(bundle.graph())
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


def _try_to_write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


@contextlib.contextmanager
def draft(folder: Path, name: str) -> Iterator[Path]:
    """Give a path in `folder`, which has to be locked, for a file that becomes `name` later.

    What the block leaves there is removed, and so is what a builder that was killed left.
    """
    for dead in folder.glob(f".*{_DRAFT_SUFFIX}"):
        dead.unlink(missing_ok=True)
    path = folder / f".{name}.{os.getpid()}{_DRAFT_SUFFIX}"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
