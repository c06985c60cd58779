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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_vit.data.class_names import Naming, match_names
from edge_vit.data.images import ArraySource, archive_error
from edge_vit.data.preprocess import UInt8Array
from edge_vit.data.registry import CIFAR_FILES
from edge_vit.data.source import Wanted
from edge_vit.errors import ImageError
from edge_vit.git_lfs import refuse_lfs_pointer

_SIDE, _MAX_BYTES = 32, 200_000_000
_NUMPYS = ("numpy.core.multiarray", "numpy._core.multiarray")
_ALLOWED = {
    *((module, "_reconstruct") for module in _NUMPYS),
    *(("numpy", name) for name in ("ndarray", "dtype")),
    ("_codecs", "encode"),  # how Python 2's texts are written
}


@dataclass(frozen=True, eq=False)
class CifarImages:
    """Images, uint8 (N, 32, 32, 3) RGB, the class of each, and the names of the classes."""

    images: UInt8Array
    classes: list[int]
    names: tuple[str, ...]


_Reader = Callable[[bytes, bytes], CifarImages]


@dataclass(frozen=True)
class _Form:
    """One form of one data set: the archive's folder, names of its files, and their reader."""

    folder: str
    test: str
    names: str
    training: tuple[str, ...]
    read: _Reader


def open_cifar(address: str, wanted: Wanted) -> ArraySource:
    """Return the test images of a folder with CIFAR's files, of one above it, or of the archive.

    The classes are matched to the model's labels by name, see `match_names`.

    Raises:
        ImageError: the files are damaged, the archive is another one, or the classes are not the
            model's.
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
    names = wanted.labels or found.names
    notes = matched.notes if wanted.labels else ()
    return ArraySource(found.images, classes, names, notes)


def read_cifar(path: Path, *, of_training: bool = False) -> CifarImages | None:
    """Return the images at `path` in any form; None where there are none.

    Args:
        path: of the archive, of a folder with its files, or of the folder above that.
        of_training: those to train on; else the test images.

    Raises:
        ImageError: the files are there and damaged.
    """
    packed = _read_archive(path, of_training=of_training) if path.is_file() else {}
    for form in _FORMS:
        names = (*(form.training if of_training else (form.test,)), form.names)
        for files in (
            _from_folder(path, names),
            _from_folder(path / form.folder, names),
            [packed.get((form.folder, name)) for name in names],
        ):
            if None not in files:
                return _read(f"{path}: {form.folder}", form, names, files)
    return None


def _read(
    where: str, form: _Form, names: Sequence[str], files: Sequence[bytes | None]
) -> CifarImages:
    *data, labels = (file or b"" for file in files)
    parts = []
    for name, content in zip(names, data, strict=False):
        try:
            found = form.read(content, labels)
            if len(found.images) != len(found.classes) or not found.classes:
                raise ValueError(f"{len(found.images)} images and {len(found.classes)} classes")
            if not 0 <= min(found.classes) <= max(found.classes) < len(found.names):
                raise ValueError(f"a class is none of the {len(found.names)}")
        except Exception as error:  # what is read was made elsewhere, and may be anything
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ImageError(f"{where}/{name} is damaged: {reason}") from None
        parts.append(found)
    images = np.concatenate([part.images for part in parts]) if len(parts) > 1 else parts[0].images
    return CifarImages(images, [c for part in parts for c in part.classes], parts[0].names)


def _from_folder(folder: Path, names: Sequence[str]) -> list[bytes | None]:
    is_there = all((folder / name).is_file() for name in names)
    return [(folder / name).read_bytes() if is_there else None for name in names]


def _read_archive(path: Path, *, of_training: bool) -> dict[tuple[str, str], bytes]:
    """What an archive holds of any form, by folder and name."""
    wanted = {
        (form.folder, name)
        for form in _FORMS
        for name in (*(form.training if of_training else (form.test,)), form.names)
    }
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


_READERS: tuple[_Reader, ...] = (
    lambda test, meta: _read_pickles(test, meta, "labels", "label_names"),
    lambda test, meta: _read_pickles(test, meta, "fine_labels", "fine_label_names"),
    lambda test, names: _read_binary(test, names, 1),
    lambda test, names: _read_binary(test, names, 2),
)
_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
_TRAINING = (_BATCHES, ("train",), tuple(f"{name}.bin" for name in _BATCHES), ("train.bin",))
_FORMS = tuple(
    _Form(*names, training, read)
    for names, training, read in zip(CIFAR_FILES, _TRAINING, _READERS, strict=True)
)
