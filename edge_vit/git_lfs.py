"""Git LFS pointers: small text files that stand where a large file was not downloaded."""

from __future__ import annotations

from pathlib import Path

from edge_vit.errors import ArtifactError, EdgeVitError

_STARTS = (
    b"version https://git-lfs.github.com/spec/",
    b"version https://hawser.github.com/spec/",
    b"version http://git-media.io/v/",
)
LFS_POINTER = "Git LFS pointer, not the file itself. Run: git lfs pull"
_LENGTH = max(map(len, _STARTS))


def is_lfs_pointer(start: bytes) -> bool:
    """Return whether a file that begins with `start` is a pointer; 40 bytes are enough."""
    return start.startswith(_STARTS)


def refuse_lfs_pointer(path: Path, error: type[EdgeVitError] = ArtifactError) -> None:
    """Check that the file at `path`, if it can be read, is no Git LFS pointer."""
    try:
        with path.open("rb") as file:
            start = file.read(_LENGTH)
    except OSError:
        return
    if is_lfs_pointer(start):
        raise error(f"{path} is a {LFS_POINTER}")
