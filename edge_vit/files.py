"""Writes that either happen completely or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edge_vit.errors import ArtifactError


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path`: beside it first, then renamed over it, folders made as needed.

    Raises:
        ArtifactError: the disk is full, read-only or not ours; what was at `path` is unchanged.
    """
    with refuse_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(beside).chmod(0o666 & ~_umask())
            Path(beside).replace(path)
        except BaseException:
            Path(beside).unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def draft_folder(path: Path, *, replace: bool) -> Iterator[Path]:
    """Give an empty folder beside `path` that becomes `path` when the block ends well.

    When the block fails or is interrupted the draft is removed and `path` is as it was.

    Args:
        path: the folder to make.
        replace: whether an existing `path` may be replaced.

    Raises:
        ArtifactError: `path` exists and may not be replaced, or the disk refuses.
    """
    if path.exists() and not replace:
        raise ArtifactError(f"{path} exists already. Add --force to replace it")
    with refuse_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial"))
        draft.chmod(0o777 & ~_umask())
    try:
        yield draft
        with refuse_os_errors(path):
            _swap(draft, path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _swap(draft: Path, path: Path) -> None:
    """Put `draft` in the place of `path`; what was there goes last, and comes back on failure."""
    if not path.exists():
        draft.replace(path)
        return
    old = draft.with_suffix(".replaced")
    path.replace(old)
    try:
        draft.replace(path)
    except BaseException:  # Ctrl-C too: nobody may find nothing at `path`
        if not path.exists():
            old.replace(path)
        raise
    shutil.rmtree(old) if old.is_dir() else old.unlink()


@contextlib.contextmanager
def refuse_os_errors(path: Path) -> Iterator[None]:
    """Turn an OSError inside the block into one line about `path`.

    Raises:
        ArtifactError: instead of any OSError.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise ArtifactError(f"cannot write {path}: {reason}") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
