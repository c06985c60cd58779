"""The CUDA functions that sessions need, straight from libcudart, for devices without bindings."""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

LIBRARIES = (
    "libcudart.so.13",
    "libcudart.so.12",
    "libcudart.so",
    "/usr/local/cuda/lib64/libcudart.so",
)
"""Where libcudart may be, the newest first."""

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
    "cudaMallocManaged": "Pzu",
    "cudaFree": "p",
    "cudaHostAlloc": "Pzu",
    "cudaFreeHost": "p",
    "cudaHostGetDevicePointer": "Ppu",
    "cudaMemcpyAsync": "ppzip",
    "cudaStreamCreateWithFlags": "Pu",
    "cudaStreamDestroy": "p",
    "cudaStreamSynchronize": "p",
    "cudaStreamAttachMemAsync": "ppzu",
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


def load_cudart(libraries: tuple[str, ...] = LIBRARIES) -> Any | None:
    """Return the functions of the first of `libraries` that loads; None where none does."""
    for name in (*libraries, ctypes.util.find_library("cudart")):
        if name is None:
            continue
        try:
            return CudartLibrary(ctypes.CDLL(name))
        except OSError:
            continue
    return None


class CudartLibrary:
    """libcudart with the manners of `cuda.bindings.runtime`: status first, then the results."""

    def __init__(self, library: Any) -> None:
        self._library = library
        library.cudaGetErrorName.restype = ctypes.c_char_p
        library.cudaGetErrorName.argtypes = [ctypes.c_int]
        for name, signature in SIGNATURES.items():
            setattr(self, name, _bind(getattr(library, name), signature))

    def cudaGetErrorName(self, status: int) -> tuple[int, bytes]:  # noqa: N802
        """Return CUDA's name of `status`."""
        return 0, self._library.cudaGetErrorName(int(status))

    def cudaGetDeviceProperties(self, device: int) -> tuple[int, SimpleNamespace]:  # noqa: N802
        """Return the properties of a GPU, of which its name alone is read."""
        # CUDA 12 has another structure behind this name than before, and the new one behind _v2.
        function = getattr(self._library, "cudaGetDeviceProperties_v2", None)
        function = function or self._library.cudaGetDeviceProperties
        properties = ctypes.create_string_buffer(_PROPERTIES_BYTES)
        status = int(function(properties, ctypes.c_int(device)))
        return status, SimpleNamespace(name=properties.raw[:_NAME_BYTES].partition(b"\0")[0])


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
