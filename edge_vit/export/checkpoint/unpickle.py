"""Files of `torch.save`, old and new, read without `pickle`'s power to run what they name.

Tensors, numbers, texts and containers are built; every other class or function that a file names
becomes an `Inert` value, which keeps what the file says about it and does nothing.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

_MAX_UNBACKED = 2**24  # elements of a tensor that repeats a smaller storage

_RUNS_CODE = re.compile(
    r"(os|posix|nt|sys|subprocess|runpy|importlib|imp|ctypes|socket|shutil|pty|code|codeop|commands"
    r"|webbrowser|marshal|multiprocessing|asyncio|timeit|pdb|cProfile)\."
    r"|builtins\.(eval|exec|compile|open|__import__|getattr|setattr|input|breakpoint)$"
    r"|io\.open$|torch\.(hub\.load|load|jit\.load)$"
)
"""Names that no checkpoint has but to run something: the file is refused, though nothing would."""

_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}
_QUANTIZED = {
    "QInt8Storage": torch.int8,
    "QUInt8Storage": torch.uint8,
    "QInt32Storage": torch.int32,
    "QUInt4x2Storage": torch.uint8,
    "QUInt2x4Storage": torch.uint8,
}
_KINDS = {
    "_rebuild_qtensor": "quantized",
    "_rebuild_sparse_tensor": "sparse",
    "_rebuild_sparse_csr_tensor": "sparse",
    "_rebuild_meta_tensor_no_storage": "on the meta device, without values",
    "_rebuild_nested_tensor": "nested",
    "_rebuild_wrapper_subclass": "of a tensor subclass",
    "_rebuild_device_tensor_from_numpy": "of another device",
    "_rebuild_device_tensor_from_cpu_tensor": "of another device",
}


_MAGIC = 0x1950A86A20F9469CFC6C  # first number of a file that `torch.save` wrote before torch 1.6

_PICKLE = "data.pkl"

_PLAIN_DTYPE = re.compile("f[248]|i[1248]|u1|b1")
"""Types of numpy arrays, as numpy writes them, that torch has too."""


class ForbiddenCodeError(pickle.UnpicklingError):
    """A file names a function whose only use is to run something."""


@dataclass(frozen=True)
class Unusable:
    """A tensor of a `kind` that no float32 weight can be made of."""

    kind: str


@dataclass(frozen=True)
class Global:
    """The name of a class or function, never looked up."""

    name: str


@dataclass(eq=False)
class Inert:
    """What a file says about an object: its class, the arguments, the state and the items."""

    name: str  # dotted, of the class or function
    args: tuple[Any, ...] = ()
    state: Any = None  # what its ``__setstate__`` would have got
    mapping: dict[Any, Any] = field(default_factory=dict)  # items set by key
    sequence: list[Any] = field(default_factory=list)  # items appended

    def __setitem__(self, key: object, value: object) -> None:
        self.mapping[key] = value

    def append(self, value: object) -> None:
        """Keep one item."""
        self.sequence.append(value)

    def extend(self, values: list[object]) -> None:
        """Keep several items."""
        self.sequence.extend(values)

    def add(self, value: object) -> None:
        """Keep one item of a set."""
        self.sequence.append(value)


@dataclass(frozen=True)
class _Storage:
    """Raw bytes that tensors are views of."""

    data: bytearray
    dtype: torch.dtype


def _tensor(
    storage: Any, offset: int, size: Any, stride: Any, dtype: torch.dtype | None = None
) -> Tensor:
    """Return the view of `storage` that the file describes, checked to lie within it."""
    if isinstance(storage, Inert) and storage.name == "torch.storage._load_from_bytes":
        raise pickle.UnpicklingError("tensors that pickle.dump wrote, not torch.save")
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError("a tensor without a storage")
    size, stride = tuple(map(int, size)), tuple(map(int, stride))
    dtype = dtype or storage.dtype
    capacity = len(storage.data) // dtype.itemsize
    if min((0, offset, *size, *stride)) < 0 or len(size) != len(stride):
        raise pickle.UnpicklingError(f"a tensor of size {size} and stride {stride}")
    numel = math.prod(size)
    if not numel:
        return torch.empty(size, dtype=dtype)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if last >= capacity or numel > max(capacity, _MAX_UNBACKED):
        raise pickle.UnpicklingError(f"a tensor of size {size} in a storage of {capacity}")
    flat = torch.frombuffer(storage.data, dtype=dtype, count=capacity)
    return flat.as_strided(size, stride, offset)


def _rebuild_tensor(storage: Any, offset: int, size: Any, stride: Any, *_rest: Any) -> Tensor:
    return _tensor(storage, offset, size, stride)


def _rebuild_tensor_v3(*args: Any) -> Tensor:
    storage, offset, size, stride, _requires_grad, _hooks, dtype, *_rest = args
    return _tensor(storage, offset, size, stride, dtype)


def _rebuild_parameter(data: Any, *_rest: Any) -> Any:
    return data


def _rebuild_from_type(func: Any, _kind: Any, args: Any, _state: Any) -> Any:
    return func(*args) if func in _BUILDERS.values() else Unusable("of a tensor subclass")


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
        raise pickle.UnpicklingError(f"bytes encoded as {encoding!r}")
    return text.encode(encoding)


_BUILDERS: Mapping[str, Callable[..., Any]] = {
    "collections.OrderedDict": lambda *items: OrderedDict(*items),
    "collections.defaultdict": lambda *_factory: {},
    "_codecs.encode": _encode,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
}
"""The only callables that a file can reach; each is ours and builds plain data."""


_PythonUnpickler: Any = vars(pickle)["_Unpickler"]
"""Python's own, in Python: each instruction can be replaced."""


class _InertUnpickler(_PythonUnpickler):  # type: ignore[misc]
    """Python's own unpickler, with every way to a callable or an attribute closed.

    `read_storage` returns, of (key, dtype, number of elements), the bytes of a tensor's storage.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(_PythonUnpickler.dispatch)

    def __init__(
        self, file: Any, read_storage: Callable[[str, torch.dtype, int], bytearray] | None
    ) -> None:
        super().__init__(file, encoding="latin1")
        self._read_storage = read_storage
        self._storages: dict[str, bytearray] = {}

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}".replace("__builtin__.", "builtins.", 1)
        if _RUNS_CODE.match(full):
            raise ForbiddenCodeError(full)
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        return _BUILDERS.get(full) or Global(full)

    def get_extension(self, code: int) -> None:
        # a number that stands for a registered class
        raise pickle.UnpicklingError(f"extension {code}")

    def persistent_load(self, pid: Any) -> Any:
        if isinstance(pid, tuple) and len(pid) > 1 and pid[0] in ("module", b"module"):
            return pid[1]
        is_storage = isinstance(pid, tuple) and len(pid) in (5, 6) and pid[0] == "storage"
        if not is_storage or self._read_storage is None or not isinstance(pid[1], Global):
            raise pickle.UnpicklingError(f"reference {str(pid)[:60]!r}")
        kind = pid[1].name.rpartition(".")[2]
        dtype = _DTYPES.get(kind) or _QUANTIZED.get(kind)
        if dtype is None:
            raise pickle.UnpicklingError(f"a storage of type {kind[:60]!r}")
        key, numel = str(pid[2]), int(pid[4])
        if key not in self._storages:
            self._storages[key] = self._read_storage(key, dtype, numel)
        data = self._storages[key]
        if kind in _QUANTIZED:
            return Unusable("quantized")
        if len(pid) == 6 and pid[5] is not None:
            _, offset, count = pid[5]
            view = memoryview(data)[offset * dtype.itemsize : (offset + count) * dtype.itemsize]
            return _Storage(view, dtype)  # type: ignore[arg-type]
        return _Storage(data, dtype)

    def _call(self, func: Any, args: Any) -> Any:
        if isinstance(func, Global):
            kind = _KINDS.get(func.name.rpartition(".")[2])
            if kind and func.name.startswith("torch."):
                return Unusable(kind)
            return Inert(func.name, tuple(args))
        if any(func is builder for builder in _BUILDERS.values()):
            storage = args[0] if args else None
            return storage if isinstance(storage, Unusable) else func(*args)
        raise pickle.UnpicklingError(f"a call of {type(func).__name__}")

    def load_reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], args)

    def load_newobj(self) -> None:
        self.load_reduce()

    def load_newobj_ex(self) -> None:
        self.stack.pop()  # keyword arguments
        self.load_reduce()

    def load_bytearray8(self) -> None:
        # Python's own reserves whatever length is announced
        length = int.from_bytes(self.read(8), "little")
        data = self.read(length)
        if len(data) != length:
            raise pickle.UnpicklingError("a byte array that is cut off")
        self.append(bytearray(data))

    def _instantiate(self, klass: Any, args: Any) -> None:
        self.append(self._call(klass, args))

    def load_build(self) -> None:
        # no ``__setstate__`` runs
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Inert):
            target.state = state
        elif not isinstance(target, OrderedDict | Tensor | Unusable):
            raise pickle.UnpicklingError(f"state of a {type(target).__name__}")

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8


def plain(value: Any) -> Any:
    """Return `value`, a numpy array as a tensor."""
    return _parse_numpy(value) if isinstance(value, Inert) and "numpy" in value.name else value


def read_torch(path: Path) -> Any:
    """Return what the file of `torch.save` at `path` holds; nothing in it is run."""
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

    return _InertUnpickler(io.BytesIO(archive.read(names[0])), read_storage).load()


class _Bounded:
    """A file that never reserves memory for more than it holds."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._size = file, size
        self.readline = file.readline

    def read(self, count: int) -> bytes:
        if count > 2**16 and count > self._size - self._file.tell():
            raise EOFError(f"{count} bytes are announced behind the end")
        return self._file.read(count)

    def readinto(self, buffer: bytearray) -> int:
        return self._file.readinto(buffer)  # type: ignore[attr-defined,no-any-return]


def _read_legacy(file: _Bounded, size: int) -> Any:
    content = _InertUnpickler(file, None).load()
    if isinstance(content, dict | Inert):  # a plain pickle, of numpy arrays by custom
        return content
    if content != _MAGIC:
        raise pickle.UnpicklingError("no file of torch.save")
    for _ in range(2):  # protocol, and the machine that wrote it
        _InertUnpickler(file, None).load()
    storages: dict[str, tuple[bytearray, int]] = {}

    def reserve(key: str, dtype: torch.dtype, numel: int) -> bytearray:
        total = sum(len(data) for data, _ in storages.values()) + numel * dtype.itemsize
        if numel < 0 or total > size:
            raise pickle.UnpicklingError(f"storage {key} of {numel} elements")
        storages[key] = bytearray(numel * dtype.itemsize), dtype.itemsize
        return storages[key][0]

    content = _InertUnpickler(file, reserve).load()
    for key in _InertUnpickler(file, None).load():
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
    kind = str(dtype.args[0])
    big_endian = isinstance(dtype.state, tuple) and ">" in dtype.state
    if big_endian or not _PLAIN_DTYPE.fullmatch(kind):
        return array
    if len(data) != math.prod(shape) * np.dtype(kind).itemsize:
        return array
    return torch.from_numpy(np.ndarray(shape, np.dtype(kind), bytearray(data)))
