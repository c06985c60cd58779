"""CIFAR-10 and CIFAR-100 as their authors publish them, to evaluate on: the test images.

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
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_vit.data.class_names import key_of
from edge_vit.data.preprocess import UInt8Array
from edge_vit.errors import ImageError
from edge_vit.git_lfs import refuse_lfs_pointer

ARCHIVE_SUFFIXES = (".tar.gz", ".tgz")
_SIDE, _MAX_BYTES = 32, 200_000_000
_NUMPYS = ("numpy.core.multiarray", "numpy._core.multiarray")
_ALLOWED = {
    *((module, "_reconstruct") for module in _NUMPYS),
    *(("numpy", name) for name in ("ndarray", "dtype")),
    ("_codecs", "encode"),  # how Python 2's texts are written
}


@dataclass(frozen=True, eq=False)
class CifarImages:
    """Test images, uint8 (N, 32, 32, 3) RGB, the class of each, and the names of the classes.

    `notes` says how the classes were matched to a model's labels, where the names differ.
    """

    images: UInt8Array
    classes: list[int]
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Form:
    """One form of one data set.

    Attributes:
        folder: that the archive unpacks to.
        test: name of the file with the test images; `names` that of its classes.
        read: bytes of both -> images.
    """

    folder: str
    test: str
    names: str
    read: Callable[[bytes, bytes], CifarImages]


def read_cifar(path: Path) -> CifarImages | None:
    """Return CIFAR's test images at `path`; None where there is something else.

    Args:
        path: a folder with the unpacked files, one with the folder that the archive unpacks to, or
            the archive.

    Raises:
        ImageError: the files are there and damaged.
    """
    packed = _read_archive(path) if path.is_file() else {}
    for form in _FORMS:
        files = _from_folder(path, form) or _from_folder(path / form.folder, form)
        if (form.folder, form.test) in packed and (form.folder, form.names) in packed:
            files = packed[form.folder, form.test], packed[form.folder, form.names]
        if files is not None:
            return _read(path, form, files)
    return None


def map_classes(found: CifarImages, labels: tuple[str, ...], path: Path) -> CifarImages:
    """Return `found` with its classes counted as the model's `labels` count them.

    By name where the model knows the same names; as they are where none of its names is CIFAR's in
    another place.

    Raises:
        ImageError: the model has another number of classes, or some of its names in another order.
    """
    if not labels or labels == found.names:
        return found
    if len(labels) != len(found.names):
        raise ImageError(
            f"{path} has {len(found.names)} classes ({found.names[0]!r}, ...), the model "
            f"{len(labels)} ({labels[0]!r}, ...), expected the same"
        )
    keys = [key_of(label) for label in labels]
    places = [keys.index(key) if (key := key_of(name)) in keys else None for name in found.names]
    known = [place for place in places if place is not None]
    if len(set(known)) == len(labels):
        return CifarImages(found.images, [known[index] for index in found.classes], labels)
    moved = [i for i, place in enumerate(places) if place is not None and place != i]
    if moved:
        other = found.names[places.index(None)] if None in places else found.names[moved[0]]
        raise ImageError(
            f"{path}: class {other!r} is none of the model's labels, and {found.names[moved[0]]!r} "
            "has another place among them, so the order cannot tell. Export the model with "
            "CIFAR's names: --labels FILE"
        )
    note = (
        f"{path}: its {len(labels)} classes are taken in their order, as the labels' names differ."
    )
    return CifarImages(found.images, found.classes, labels, (note,))


def _read(path: Path, form: _Form, files: tuple[bytes, bytes]) -> CifarImages:
    try:
        found = form.read(*files)
        if len(found.images) != len(found.classes) or not found.classes:
            raise ValueError(f"{len(found.images)} images and {len(found.classes)} classes")
        if not 0 <= min(found.classes) <= max(found.classes) < len(found.names):
            raise ValueError(f"a class is none of the {len(found.names)}")
        return found
    except Exception as error:  # what is read was made elsewhere, and may be anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{path}: {form.folder}/{form.test} is damaged: {reason}") from None


def _from_folder(folder: Path, form: _Form) -> tuple[bytes, bytes] | None:
    test, names = folder / form.test, folder / form.names
    if not (test.is_file() and names.is_file()):
        return None
    return test.read_bytes(), names.read_bytes()


def _read_archive(path: Path) -> dict[tuple[str, str], bytes]:
    """What an archive holds of any form, by folder and name; nothing where it is no archive."""
    if not path.name.lower().endswith(ARCHIVE_SUFFIXES):
        return {}
    wanted = {(form.folder, name) for form in _FORMS for name in (form.test, form.names)}
    found = {}
    try:
        refuse_lfs_pointer(path, ImageError)
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                place = PurePosixPath(member.name).parts[-2:]
                if place not in wanted or member.size > _MAX_BYTES:
                    continue
                file = archive.extractfile(member)
                if file is not None:
                    found[place[0], place[-1]] = file.read()
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise ImageError(f"{path} is damaged: {error}") from None
    return found


def _read_binary(test: bytes, names: bytes, label_bytes: int) -> CifarImages:
    record = label_bytes + 3 * _SIDE * _SIDE
    if not test or len(test) % record:
        raise ValueError(f"{len(test)} bytes are no whole number of records of {record}")
    records = np.frombuffer(test, np.uint8).reshape(-1, record)
    classes = [int(index) for index in records[:, label_bytes - 1]]  # the finer one is the last
    return CifarImages(_to_images(records[:, label_bytes:]), classes, tuple(names.decode().split()))


def _read_pickles(test: bytes, meta: bytes, classes: str, names: str) -> CifarImages:
    content, facts = _unpickle(test), _unpickle(meta)
    images = _to_images(np.asarray(content["data"], np.uint8))
    return CifarImages(
        images,
        [int(index) for index in content[classes]],
        tuple(_text(name) for name in facts[names]),
    )


def _to_images(planes: npt.NDArray[np.uint8]) -> UInt8Array:
    """Rows of three colour planes as uint8 (N, 32, 32, 3)."""
    images = planes.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images)


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


_FORMS = (
    _Form(
        *("cifar-10-batches-py", "test_batch", "batches.meta"),
        lambda test, meta: _read_pickles(test, meta, "labels", "label_names"),
    ),
    _Form(
        *("cifar-100-python", "test", "meta"),
        lambda test, meta: _read_pickles(test, meta, "fine_labels", "fine_label_names"),
    ),
    _Form(
        *("cifar-10-batches-bin", "test_batch.bin", "batches.meta.txt"),
        lambda test, names: _read_binary(test, names, 1),
    ),
    _Form(
        *("cifar-100-binary", "test.bin", "fine_label_names.txt"),
        lambda test, names: _read_binary(test, names, 2),
    ),
)
