"""CIFAR-100 as its authors publish it: the binary archive, read from disk or downloaded.

Format: https://www.cs.toronto.edu/~kriz/cifar.html. One record is a coarse label, a fine label and
32×32 pixels, one colour plane after the other.
"""

from __future__ import annotations

import hashlib
import tarfile
import urllib.request
import zlib
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from edge_vit.errors import ArtifactError
from edge_vit.files import write_atomically
from edge_vit.git_lfs import refuse_lfs_pointer
from edge_vit.progress import SILENT, Progress

UInt8Array = npt.NDArray[np.uint8]

_SIDE = 32
_RECORD_BYTES = 2 + 3 * _SIDE * _SIDE
_MAX_MEMBER_BYTES = 200_000_000  # the largest, train.bin, has 153.7 million
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


@dataclass(frozen=True)
class CifarFiles:
    """The three files of the archive that matter, unparsed."""

    train: bytes
    test: bytes
    label_names: bytes


_MEMBERS = ("train.bin", "test.bin", "fine_label_names.txt")


def holds_cifar100(root: Path) -> bool:
    """Return whether `root` holds the archive, or what was in it."""
    return (root / CIFAR100.file_name).is_file() or _unpacked_folder(root) is not None


def read_cifar100(root: Path) -> CifarFiles:
    """Return CIFAR-100's files from `root`: unpacked, or still in the archive.

    Unpacked files may also lie in ``root/cifar-100-binary``. Nothing is extracted to the disk.

    Raises:
        ArtifactError: neither is there, or the archive is damaged; the message says what to put
            where.
    """
    folder = _unpacked_folder(root)
    if folder is not None:
        return CifarFiles(*((folder / name).read_bytes() for name in _MEMBERS))
    path = root / CIFAR100.file_name
    if not path.is_file():
        raise ArtifactError(f"{root} holds no CIFAR-100. {_how_to_get(CIFAR100, root)}")
    refuse_lfs_pointer(path)
    try:
        with tarfile.open(path, "r:gz") as archive:
            return CifarFiles(*(_read_member(archive, name, path) for name in _MEMBERS))
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise ArtifactError(f"{path} is damaged: {error}. {_how_to_get(CIFAR100, root)}") from None


def parse_records(
    data: bytes, num_classes: int, name: str
) -> tuple[UInt8Array, npt.NDArray[np.int64]]:
    """Return images uint8 (N, 32, 32, 3) RGB and fine labels (N,) of a ``.bin`` file.

    Raises:
        ArtifactError: `data` is not a whole number of records, or a label is out of range.
    """
    if not data or len(data) % _RECORD_BYTES:
        raise ArtifactError(
            f"CIFAR-100's {name} has {len(data)} bytes, expected a multiple of {_RECORD_BYTES}"
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, _RECORD_BYTES)
    labels = records[:, 1].astype(np.int64)
    if labels.max() >= num_classes:
        raise ArtifactError(
            f"CIFAR-100's {name} has label {labels.max()}, expected below {num_classes}"
        )
    planes = records[:, 2:].reshape(-1, 3, _SIDE, _SIDE)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels


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


def _unpacked_folder(root: Path) -> Path | None:
    """Return the folder with the three files: `root`, or the one that unpacking makes in it."""
    for folder in (root, root / "cifar-100-binary"):
        if all((folder / name).is_file() for name in _MEMBERS):
            return folder
    return None


def _read_member(archive: tarfile.TarFile, name: str, path: Path) -> bytes:
    """Return the bytes of file `name`, whatever folder the archive has it in."""
    for member in archive:
        if member.isfile() and PurePosixPath(member.name).name == name:
            if member.size > _MAX_MEMBER_BYTES:
                raise ArtifactError(
                    f"{path}: {name} has {member.size} bytes, expected at most {_MAX_MEMBER_BYTES}"
                )
            file = archive.extractfile(member)
            assert file is not None, "a regular file always opens"
            return file.read()
    raise ArtifactError(f"{path} is not the CIFAR-100 archive: it holds no {name}")


def _how_to_get(archive: Archive, root: Path) -> str:
    return f"Put {archive.file_name} (from {archive.url}) into {root}"
