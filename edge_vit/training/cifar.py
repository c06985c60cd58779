"""CIFAR to train on: found on the disk, or CIFAR-100 downloaded as its authors publish it."""

from __future__ import annotations

import hashlib
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from edge_vit.data.cifar import CifarImages, read_cifar
from edge_vit.data.registry import kind_of
from edge_vit.errors import ArtifactError, ImageError
from edge_vit.files import write_atomically
from edge_vit.progress import SILENT, Progress

_TIMEOUT_S = 30
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Archive:
    """A file on the web, and how to know that all of it came.

    Attributes:
        url: where it is published.
        num_bytes: its size.
        md5: its MD5 digest, as its authors publish it: against damage, not against malice.
    """

    url: str
    num_bytes: int
    md5: str

    @property
    def file_name(self) -> str:
        """The last part of the address."""
        return self.url.rpartition("/")[2]


CIFAR100 = Archive(
    url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
    num_bytes=168_513_733,
    md5="03b5dce01913d631647c71ecec9e9cb8",
)


def find_cifar(root: Path) -> Path | None:
    """Return `root` where it holds CIFAR's files, or the archive in it; None for neither."""
    if root.is_dir() and kind_of(str(root)).name == "cifar":
        return root
    return next(iter(sorted(root.glob("cifar-*.tar.gz"))), None)


def read_parts(path: Path) -> tuple[CifarImages, CifarImages]:
    """Return the images to train on, and the test images, in the files or the archive at `path`.

    Nothing is extracted to the disk.

    Raises:
        ArtifactError: some are missing or damaged; the message says what to put where.
    """
    try:
        parts = [read_cifar(path, of_training=of_training) for of_training in (True, False)]
    except ImageError as error:
        raise ArtifactError(f"{error}. {_how_to_get(CIFAR100, path)}") from None
    train, test = parts
    if train is None or test is None:
        raise ArtifactError(
            f"{path} holds no CIFAR images to train on. {_how_to_get(CIFAR100, path)}"
        )
    return train, test


def download(archive: Archive, root: Path, progress: Progress = SILENT) -> Path:
    """Return the path in `root` that `archive` was downloaded to, size and MD5 checked.

    Args:
        archive: what to fetch; held in memory until it is complete.
        root: the folder to put it in, made as needed.
        progress: told of the bytes as they arrive.

    Raises:
        ArtifactError: no network, a damaged file or a disk that refuses; the message says where to
            put the file by hand.
    """
    data = bytearray()
    try:
        with (
            urllib.request.urlopen(archive.url, timeout=_TIMEOUT_S) as response,
            progress.step(f"downloading {archive.file_name} (bytes)", archive.num_bytes) as advance,
        ):
            while len(data) <= archive.num_bytes and (chunk := response.read(_CHUNK_BYTES)):
                data += chunk
                advance(len(chunk))
    except (OSError, HTTPException) as error:
        raise ArtifactError(
            f"cannot download {archive.url}: {error}. {_how_to_get(archive, root)}"
        ) from None
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if (len(data), md5) != (archive.num_bytes, archive.md5):
        raise ArtifactError(
            f"{archive.url}: got {len(data)} bytes with MD5 {md5}, expected {archive.num_bytes} "
            f"with {archive.md5}. {_how_to_get(archive, root)}"
        )
    path = root / archive.file_name
    write_atomically(path, bytes(data))
    return path


def _how_to_get(archive: Archive, path: Path) -> str:
    root = path.parent if path.is_file() else path
    return f"Put {archive.file_name} (from {archive.url}) into {root}"
