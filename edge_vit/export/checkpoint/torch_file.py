"""Both forms of `torch.save`'s files: the archive since torch 1.6, and the stream before it."""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from pathlib import Path
from typing import IO, Any

import torch

from edge_vit.export.checkpoint.unpickle import Inert, InertUnpickler

_MAGIC = 0x1950A86A20F9469CFC6C
"""First number of a file that `torch.save` wrote before torch 1.6."""

_PICKLE = "data.pkl"

_NUMPY_DTYPES = {
    "f8": torch.float64,
    "f4": torch.float32,
    "f2": torch.float16,
    "i8": torch.int64,
    "i4": torch.int32,
    "i2": torch.int16,
    "i1": torch.int8,
    "u1": torch.uint8,
    "b1": torch.bool,
}


def plain(value: Any) -> Any:
    """Return `value`, a numpy array as a tensor."""
    return _parse_numpy(value) if isinstance(value, Inert) and "numpy" in value.name else value


def read_torch(path: Path) -> Any:
    """Return what the file of `torch.save` at `path` holds; nothing in it is run.

    Raises:
        ForbiddenCodeError: it names a function that exists to run something.
        Exception: it is damaged, or no such file; of any kind.
    """
    with path.open("rb") as file:
        is_archive = file.read(2) == b"PK"
    if is_archive:
        with zipfile.ZipFile(path) as archive:
            return _read_zip(archive, path.stat().st_size)
    with path.open("rb") as file:
        size = path.stat().st_size
        return _read_legacy(_Bounded(file, size), size)


def _read_zip(archive: zipfile.ZipFile, size: int) -> Any:
    names = [name for name in archive.namelist() if name.rpartition("/")[2] == _PICKLE]
    if not names:
        raise pickle.UnpicklingError(f"an archive without {_PICKLE}")
    if sum(entry.file_size for entry in archive.infolist()) > 8 * size + 2**20:
        raise pickle.UnpicklingError("an archive that unpacks to much more than its size")
    folder = names[0][: -len(_PICKLE)]
    order = f"{folder}byteorder"
    if order in archive.namelist() and archive.read(order) != b"little":
        raise pickle.UnpicklingError("weights in big-endian order")

    def read_storage(key: str, dtype: torch.dtype, numel: int) -> bytearray:
        data = bytearray(archive.read(f"{folder}data/{key}"))
        if len(data) < numel * dtype.itemsize:
            raise pickle.UnpicklingError(f"storage {key} of {len(data)} bytes")
        return data

    return InertUnpickler(io.BytesIO(archive.read(names[0])), read_storage).load()


class _Bounded:
    """A file that never reserves memory for more than it holds."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._size = file, size
        self.readline = file.readline

    def read(self, count: int) -> bytes:
        """Return the next `count` bytes.

        Raises:
            EOFError: there are not so many.
        """
        if count > 2**16 and count > self._size - self._file.tell():
            raise EOFError(f"{count} bytes are announced behind the end")
        return self._file.read(count)

    def readinto(self, buffer: bytearray) -> int:
        """Fill `buffer`, and return how many bytes there were."""
        return self._file.readinto(buffer)  # type: ignore[attr-defined,no-any-return]


def _read_legacy(file: _Bounded, size: int) -> Any:
    content = InertUnpickler(file, None).load()
    if isinstance(content, dict | Inert):  # a plain pickle, of numpy arrays by custom
        return content
    if content != _MAGIC:
        raise pickle.UnpicklingError("no file of torch.save")
    for _ in range(2):  # protocol, and the machine that wrote it
        InertUnpickler(file, None).load()
    storages: dict[str, tuple[bytearray, int]] = {}

    def reserve(key: str, dtype: torch.dtype, numel: int) -> bytearray:
        total = sum(len(data) for data, _ in storages.values()) + numel * dtype.itemsize
        if numel < 0 or total > size:
            raise pickle.UnpicklingError(f"storage {key} of {numel} elements")
        storages[key] = bytearray(numel * dtype.itemsize), dtype.itemsize
        return storages[key][0]

    content = InertUnpickler(file, reserve).load()
    for key in InertUnpickler(file, None).load():
        data, itemsize = storages[str(key)]
        count = int.from_bytes(file.read(8), "little")
        if count * itemsize != len(data) or file.readinto(data) != len(data):
            raise EOFError(f"storage {key} is cut off")
    return content


def _parse_numpy(array: Inert) -> Any:
    """Return the tensor that a pickled numpy array holds, or the value unchanged."""
    if isinstance(array.state, tuple) and len(array.state) == 5:
        _, shape, dtype, is_fortran, data = array.state
    elif array.name.endswith("._frombuffer") and len(array.args) == 4:  # protocol 5
        data, dtype, shape, order = array.args
        is_fortran = order != "C"
    else:
        return array
    is_plain = isinstance(dtype, Inert) and dtype.args and isinstance(shape, tuple)
    if not is_plain or is_fortran or not isinstance(data, bytes | bytearray):
        return array
    known = _NUMPY_DTYPES.get(str(dtype.args[0]))
    big_endian = isinstance(dtype.state, tuple) and ">" in dtype.state
    if known is None or big_endian or len(data) != math.prod(shape) * known.itemsize:
        return array
    if not data:
        return torch.empty(shape, dtype=known)
    return torch.frombuffer(bytearray(data), dtype=known).reshape(shape)
