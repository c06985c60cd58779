"""CIFAR-10 and CIFAR-100 as their authors publish them, to evaluate and to train on.

Both forms are read, the binary one and Python's pickles, unpacked or still in the archive. A pickle
can run code of its maker; here only arrays, numbers and texts are allowed in it.
Formats: https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

import io
import pickle
import tarfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from edge_vit.data.class_names import Naming, match_names
from edge_vit.data.images import ArraySource, archive_error
from edge_vit.data.preprocess import UInt8Array
from edge_vit.data.registry import CIFAR_FILES
from edge_vit.data.source import Wanted
from edge_vit.errors import ImageError
from edge_vit.git_lfs import refuse_lfs_pointer

_SIDE, _MAX_BYTES = 32, 200_000_000
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),  # how Python 2's texts are written
}


@dataclass(frozen=True, eq=False)
class CifarImages:
    """Images, uint8 (N, 32, 32, 3) RGB, the class of each, and the names of the classes."""

    images: UInt8Array
    classes: list[int]
    names: tuple[str, ...]


def open_cifar(address: str, wanted: Wanted) -> ArraySource:
    """Return the test images of a folder with CIFAR's files, of one above it, or of the archive.

    The classes are matched to the model's labels by name, see `match_names`.
    """
    path = Path(address)
    found = read_cifar(path)
    if found is None:
        raise archive_error(path)
    if not wanted.has_truth:
        return ArraySource(found.images)
    naming = Naming(
        f"Classes of {path}",
        lambda name: f"{path}: class {name!r}",
        lambda: "Export the model with CIFAR's names: --labels FILE",
    )
    matched = match_names(
        found.names, wanted.labels, naming, num_classes=wanted.num_classes, is_complete=True
    )
    if not matched.indices:
        return ArraySource(found.images, notes=matched.notes)
    classes = [matched.indices[found.names[index]] for index in found.classes]
    notes = matched.notes if wanted.labels else ()
    return ArraySource(found.images, classes, wanted.labels or found.names, notes)


def read_cifar(path: Path, *, of_training: bool = False) -> CifarImages | None:
    """Return the images at `path` in any form; None where there are none.

    `path` is that of the archive, of a folder with its files, or of the folder above that. The
    images are those of the test, or those `of_training`.
    """
    packed = _read_archive(path) if path.is_file() else {}
    for (folder, test, names), training, read in zip(CIFAR_FILES, _TRAINING, _READERS, strict=True):
        wanted = (names, *(training if of_training else (test,)))
        for place in (path, path / folder):
            if all((place / name).is_file() for name in wanted):
                return _read(place, wanted, lambda name: (place / name).read_bytes(), read)  # noqa: B023
        if all((folder, name) in packed for name in wanted):
            return _read(path / folder, wanted, lambda name: packed[folder, name], read)  # noqa: B023
    return None


def _read(
    place: Path,
    names: tuple[str, ...],
    content: Callable[[str], bytes],
    read: Callable[[bytes, bytes], CifarImages],
) -> CifarImages:
    """The images of all files but the first of `names`, which holds the names of the classes."""
    parts = []
    for name in names[1:]:
        try:
            found = read(content(name), content(names[0]))
            if len(found.images) != len(found.classes) or not found.classes:
                raise ValueError(f"{len(found.images)} images and {len(found.classes)} classes")
            if not 0 <= min(found.classes) <= max(found.classes) < len(found.names):
                raise ValueError(f"a class is none of the {len(found.names)}")
        except Exception as error:  # what is read was made elsewhere, and may be anything
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ImageError(f"{place / name} is damaged: {reason}") from None
        parts.append(found)
    images = np.concatenate([part.images for part in parts])
    return CifarImages(images, [c for part in parts for c in part.classes], parts[0].names)


def _read_archive(path: Path) -> dict[tuple[str, str], bytes]:
    """Contents of the files in an archive's folders of any form, by folder and name."""
    folders, found = {folder for folder, _, _ in CIFAR_FILES}, {}
    try:
        refuse_lfs_pointer(path, ImageError)
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                folder, name = ("", "", *PurePosixPath(member.name).parts)[-2:]
                is_wanted = folder in folders and member.size <= _MAX_BYTES
                file = archive.extractfile(member) if is_wanted else None
                if file is not None:
                    found[folder, name] = file.read()
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise ImageError(f"{path} is damaged: {error}") from None
    return found


def _read_binary(data: bytes, names: bytes, label_bytes: int) -> CifarImages:
    record = label_bytes + 3 * _SIDE * _SIDE
    if not data or len(data) % record:
        raise ValueError(f"{len(data)} bytes are no whole number of records of {record}")
    records = np.frombuffer(data, np.uint8).reshape(-1, record)
    classes = records[:, label_bytes - 1].tolist()  # the finer one is the last
    return CifarImages(_to_images(records[:, label_bytes:]), classes, tuple(names.decode().split()))


def _read_pickles(data: bytes, meta: bytes, classes: str, names: str) -> CifarImages:
    content, facts = _unpickle(data), _unpickle(meta)
    images = _to_images(np.asarray(content["data"], np.uint8))
    labels = tuple(_text(name) for name in facts[names])
    return CifarImages(images, [int(index) for index in content[classes]], labels)


def _to_images(planes: UInt8Array) -> UInt8Array:
    """Rows of three colour planes as uint8 (N, 32, 32, 3)."""
    return np.ascontiguousarray(planes.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1))


class _ArraysAlone(pickle.Unpickler):
    """Loads nothing but what an array is made of."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what `module` calls `name`, if it is harmless."""
        if (module, name) not in _ALLOWED:
            raise ValueError(f"a pickle that wants {module}.{name}, which is no array")
        return super().find_class(module, name)


def _unpickle(data: bytes) -> Mapping[str, Any]:
    content = _ArraysAlone(io.BytesIO(data), encoding="bytes").load()
    return {_text(key): value for key, value in content.items()}


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
_TRAINING = (_BATCHES, ("train",), tuple(f"{name}.bin" for name in _BATCHES), ("train.bin",))
_READERS: tuple[Callable[[bytes, bytes], CifarImages], ...] = (
    partial(_read_pickles, classes="labels", names="label_names"),
    partial(_read_pickles, classes="fine_labels", names="fine_label_names"),
    partial(_read_binary, label_bytes=1),
    partial(_read_binary, label_bytes=2),
)
