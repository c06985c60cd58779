"""Files of `torch.save`, read without `pickle`'s power to run what they name.

Tensors, numbers, texts and containers are built; every other class or function that a file names
becomes an `Inert` value, which keeps what the file says about it and does nothing.
"""

from __future__ import annotations

import math
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

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
    """What a file says about an object: its class, the arguments, the state and the items.

    Attributes:
        name: dotted, of the class or function.
        args: that it would have been called with.
        state: what its ``__setstate__`` would have got.
        mapping: items set by key.
        sequence: items appended.
    """

    name: str
    args: tuple[Any, ...] = ()
    state: Any = None
    mapping: dict[Any, Any] = field(default_factory=dict)
    sequence: list[Any] = field(default_factory=list)

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


def _rebuild_tensor_v3(
    storage: Any,
    offset: int,
    size: Any,
    stride: Any,
    _requires_grad: bool,
    _hooks: Any,
    dtype: Any,
    *_rest: Any,
) -> Tensor:
    return _tensor(storage, offset, size, stride, dtype)


def _rebuild_parameter(data: Any, *_rest: Any) -> Any:
    return data


def _rebuild_from_type(func: Any, _kind: Any, args: Any, _state: Any) -> Any:
    return func(*args) if func in _BUILDERS.values() else Unusable("of a tensor subclass")


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
        raise pickle.UnpicklingError(f"bytes encoded as {encoding!r}")
    return text.encode(encoding)


def _ordered(*items: Any) -> dict[Any, Any]:
    return OrderedDict(*items)


def _default_dict(*_factory: Any) -> dict[Any, Any]:
    return {}


_BUILDERS: Mapping[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered,
    "collections.defaultdict": _default_dict,
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


class InertUnpickler(_PythonUnpickler):  # type: ignore[misc]
    """Python's own unpickler, with every way to a callable or an attribute closed.

    Args:
        file: the pickle.
        read_storage: (key, dtype, number of elements) -> bytes of a tensor's storage.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(_PythonUnpickler.dispatch)

    def __init__(
        self, file: Any, read_storage: Callable[[str, torch.dtype, int], bytearray] | None
    ) -> None:
        super().__init__(file, encoding="latin1")
        self._read_storage = read_storage
        self._storages: dict[str, bytearray] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return a builder of ours, or the name alone."""
        full = f"{module}.{name}".replace("__builtin__.", "builtins.", 1)
        if _RUNS_CODE.match(full):
            raise ForbiddenCodeError(full)
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        return _BUILDERS.get(full) or Global(full)

    def get_extension(self, code: int) -> None:
        """Refuse numbers that stand for a registered class."""
        raise pickle.UnpicklingError(f"extension {code}")

    def persistent_load(self, pid: Any) -> Any:
        """Return the storage that a tensor refers to."""
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
        """Build what a call describes; nothing else is called."""
        args = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], args)

    def load_newobj(self) -> None:
        """Build what a construction describes."""
        self.load_reduce()

    def load_newobj_ex(self) -> None:
        """Build what a construction with keyword arguments describes."""
        self.stack.pop()  # keyword arguments
        self.load_reduce()

    def load_bytearray8(self) -> None:
        """Read a byte array; Python's own reserves whatever length is announced."""
        length = int.from_bytes(self.read(8), "little")
        data = self.read(length)
        if len(data) != length:
            raise pickle.UnpicklingError("a byte array that is cut off")
        self.append(bytearray(data))

    def _instantiate(self, klass: Any, args: Any) -> None:
        self.append(self._call(klass, args))

    def load_build(self) -> None:
        """Keep the state of an inert value; no ``__setstate__`` runs."""
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
