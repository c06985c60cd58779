"""The functions of libcudart that sessions need, by ctypes, with their status checked."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from edge_vit.errors import BackendError

SYSTEM_LIBRARIES = (
    "libcudart.so.13",
    "libcudart.so.12",
    "libcudart.so",
    "/usr/local/cuda/lib64/libcudart.so",
)
"""Names of libcudart where JetPack or a CUDA toolkit has put it, the newest first."""

SUCCESS, OUT_OF_MEMORY, NO_DEVICE = 0, 2, 100
NO_DRIVER = frozenset({34, 35})  # a stub in its place; missing or too old
MIXED_DRIVER = frozenset({803, 804})  # kernel module and library do not fit

STICKY = frozenset({46, 214, 220, 226, 700, 702, 709, 710, *range(714, 720), 721, 911, 999})
"""Errors after which the context answers nothing else: illegal address, launch failure, ECC, lost
device and the like. NVIDIA's own advice is to end the process."""

_TYPES: Mapping[str, Any] = {
    "p": ctypes.c_void_p,
    "z": ctypes.c_size_t,
    "i": ctypes.c_int,
    "u": ctypes.c_uint,
    "q": ctypes.c_ulonglong,
    "f": ctypes.c_float,
}

# A letter for each argument in C's order, as above; a capital one is a result, by its address.
SIGNATURES: Mapping[str, str] = {
    "cudaGetDeviceCount": "I",
    "cudaDriverGetVersion": "I",
    "cudaRuntimeGetVersion": "I",
    "cudaSetDevice": "i",
    "cudaSetDeviceFlags": "u",
    "cudaDeviceGetAttribute": "Iii",
    "cudaMemGetInfo": "ZZ",
    "cudaGetLastError": "",
    "cudaMalloc": "Pz",
    "cudaFree": "p",
    "cudaHostAlloc": "Pzu",
    "cudaFreeHost": "p",
    "cudaHostGetDevicePointer": "Ppu",
    "cudaMemcpyAsync": "ppzip",
    "cudaStreamCreateWithFlags": "Pu",
    "cudaStreamDestroy": "p",
    "cudaStreamSynchronize": "p",
    "cudaEventCreateWithFlags": "Pu",
    "cudaEventDestroy": "p",
    "cudaEventRecord": "pp",
    "cudaEventSynchronize": "p",
    "cudaEventElapsedTime": "Fpp",
    "cudaStreamBeginCapture": "pi",
    "cudaStreamEndCapture": "pP",
    "cudaGraphInstantiate": "Ppq",
    "cudaGraphLaunch": "pp",
    "cudaGraphDestroy": "p",
    "cudaGraphExecDestroy": "p",
}

_PROPERTIES_BYTES, _NAME_BYTES = 8192, 256  # cudaDeviceProp is about 1,000; the name comes first


def load_cudart(libraries: Iterable[str] | None = None) -> CudartLibrary | None:
    """Return the first libcudart that fits the driver, or any; None where there is none.

    The system's comes before those of pip's packages, which have no build for a Jetson's GPU.
    """
    found = []
    for name in _all_libraries() if libraries is None else libraries:
        try:
            found.append(CudartLibrary(ctypes.CDLL(name)))
        except OSError:
            continue
    fits = (each for each in found if each.version[0] <= each.driver_version[0])
    return next(fits, found[0] if found else None)


def _all_libraries() -> list[str]:
    spec = importlib.util.find_spec("nvidia")
    folders = map(Path, (spec and spec.submodule_search_locations) or ())
    in_packages = [str(path) for f in folders for path in f.glob("*/lib/libcudart.so.*")]
    return [*SYSTEM_LIBRARIES, *sorted(in_packages, reverse=True)]


class CudartLibrary:
    """libcudart; its functions take what goes in, and return their status, then the results."""

    def __init__(self, library: Any) -> None:
        self._library = library
        library.cudaGetErrorName.restype = ctypes.c_char_p
        library.cudaGetErrorName.argtypes = [ctypes.c_int]
        for name, signature in SIGNATURES.items():
            setattr(self, name, _bind(getattr(library, name), signature))

    @property
    def version(self) -> tuple[int, int]:
        """CUDA version of the library, (major, minor)."""
        return version_of(self, "cudaRuntimeGetVersion")

    @property
    def driver_version(self) -> tuple[int, int]:
        """Newest CUDA version that the driver knows; (0, 0) without a driver."""
        return version_of(self, "cudaDriverGetVersion")

    def error_name(self, status: int) -> str:
        """Return CUDA's name of `status`."""
        name: bytes = self._library.cudaGetErrorName(status)
        return name.decode()

    def device_name(self, device: int) -> str:
        """Return the name of a GPU."""
        # CUDA 12 has another structure behind this name than before, and the new one behind _v2.
        function = getattr(self._library, "cudaGetDeviceProperties_v2", None)
        properties = ctypes.create_string_buffer(_PROPERTIES_BYTES)
        (function or self._library.cudaGetDeviceProperties)(properties, ctypes.c_int(device))
        return properties.raw[:_NAME_BYTES].partition(b"\0")[0].decode(errors="replace")


def version_of(calls: Any, function: str) -> tuple[int, int]:
    """Return the version that `function` of `calls` reports, (major, minor); (0, 0) for none."""
    number: int = getattr(calls, function)()[1] or 0
    return number // 1000, number % 1000 // 10


def _bind(function: Any, signature: str) -> Callable[..., tuple[Any, ...]]:
    """Return `function` as one that takes the arguments in small letters and returns the others."""
    function.restype = ctypes.c_int
    function.argtypes = [
        ctypes.POINTER(_TYPES[letter.lower()]) if letter.isupper() else _TYPES[letter]
        for letter in signature
    ]

    def call(*arguments: Any) -> tuple[Any, ...]:
        given = iter(arguments)
        results, native = [], []
        for letter in signature:
            if letter.isupper():
                results.append(_TYPES[letter.lower()]())
                native.append(ctypes.byref(results[-1]))
            else:
                native.append(next(given))
        status = int(function(*native))
        return (status, *(result.value for result in results))

    return call


class GpuMemoryError(BackendError):
    """There is less GPU or pinned memory than was wanted."""
