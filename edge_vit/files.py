"""Writes that either happen completely or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edge_vit.errors import ArtifactError


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path`: beside it first, then renamed over it, folders made as needed.

    A link stays, and its target is written. Devices and pipes are written as they are.

    Raises:
        ArtifactError: the disk is full, read-only or not ours; what was at `path` is unchanged.
    """
    with refuse_os_errors(path):
        if path.is_symlink():
            path = Path(os.path.realpath(path))
        if path.exists() and not path.is_file() and not path.is_dir():
            path.write_bytes(data)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=".partial"
        )
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
def draft_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder beside `path` that becomes `path` when the block ends well.

    When the block fails or is interrupted the draft is removed.
    """
    if path.exists():
        raise ArtifactError(f"{path} exists already. Remove it first")
    with refuse_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial"))
        draft.chmod(0o777 & ~_umask())
    try:
        yield draft
        with refuse_os_errors(path):
            draft.replace(path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextlib.contextmanager
def refuse_os_errors(path: Path) -> Iterator[None]:
    """Turn an OSError inside the block into an ArtifactError of one line about `path`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise ArtifactError(f"cannot write {path}: {reason}") from None


def refuse_unwritable(path: Path) -> None:
    """Raise ArtifactError, before any work, for a path that cannot be written as a file."""
    with refuse_os_errors(path):
        _try_to_write(Path(os.path.realpath(path)))


def refuse_unwritable_folder(path: Path) -> None:
    """Raise ArtifactError, before any work, for a folder that no file can be written into."""
    with refuse_os_errors(path):
        _try_to_write(Path(os.path.realpath(path)) / "new")


def _try_to_write(target: Path) -> None:
    if target.is_symlink():  # `realpath` leaves those that lead to themselves
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if target.exists() and not target.is_file():  # a device or a pipe
        if not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return
    folder = next(parent for parent in target.parents if parent.exists())
    with tempfile.TemporaryFile(dir=folder):
        pass


def sync_folder(path: Path) -> None:
    """Write the entries of a folder to the disk, where its file system can."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
