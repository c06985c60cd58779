from __future__ import annotations

import ctypes

import pytest

from edge_vit.errors import BackendError
from edge_vit.runtime.cudart.calls import SIGNATURES, CudartLibrary, load_cudart
from edge_vit.runtime.cudart.gpu import Cuda


class Function:
    """A C function: writes `results` where its pointers point, and keeps what it was given."""

    def __init__(self, results: tuple[object, ...], status: int) -> None:
        self.results, self.status = results, status
        self.argtypes, self.restype = [], None
        self.given: list[object] = []

    def __call__(self, *arguments: object) -> int:
        results = iter(self.results)
        self.given = []
        for kind, argument in zip(self.argtypes, arguments, strict=True):
            if isinstance(kind, type) and issubclass(kind, ctypes._Pointer):
                argument._obj.value = next(results)
            else:
                self.given.append(kind(argument).value)
        return self.status


class Library:
    """A libcudart whose functions do as they are told."""

    def __init__(self, **functions: tuple[tuple[object, ...], int]) -> None:
        for name in (*SIGNATURES, "cudaGetErrorName"):
            setattr(self, name, Function(*functions.get(name, ((), 0))))


@pytest.mark.parametrize(
    ("name", "results", "arguments"),
    [
        ("cudaMalloc", (0x7F0000001000,), (64,)),
        ("cudaMemGetInfo", (5 << 30, 8 << 30), ()),
        ("cudaStreamEndCapture", (0x55,), (0x44,)),
        ("cudaGraphInstantiate", (0x66,), (0x55, 0)),
        ("cudaEventElapsedTime", (1.5,), (1, 2)),
        ("cudaMemcpyAsync", (), (1 << 40, 2, 3, 1, 5)),
        ("cudaGetLastError", (), ()),
    ],
)
def test_arguments_go_in_and_results_come_out(name, results, arguments):
    library = Library(**{name: (results, 0)})
    calls = CudartLibrary(library)
    assert getattr(calls, name)(*arguments) == (0, *results)
    assert tuple(getattr(library, name).given) == arguments


def test_a_status_comes_first_and_has_its_name():
    calls = CudartLibrary(Library(cudaMalloc=((0,), 2)))
    calls._library.cudaGetErrorName = lambda status: b"cudaErrorMemoryAllocation"
    assert calls.cudaMalloc(64)[0] == 2
    assert calls.error_name(2) == "cudaErrorMemoryAllocation"


def test_a_library_that_is_not_there_is_none():
    assert load_cudart(("libcudart.so.none",)) is None


@pytest.mark.parametrize(("driver", "expected"), [(12060, 12), (13020, 13), (0, 13)])
def test_takes_the_newest_library_that_the_driver_knows(monkeypatch, driver, expected):
    def load(name: str) -> Library:
        version = int(name.rpartition(".")[2]) * 1000
        return Library(cudaRuntimeGetVersion=((version,), 0), cudaDriverGetVersion=((driver,), 0))

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert load_cudart(("libcudart.so.13", "libcudart.so.12")).version == (expected, 0)


def test_the_real_library_has_every_function_and_says_that_there_is_no_driver():
    calls = load_cudart()
    if calls is None:
        pytest.skip("there is no libcudart here")
    assert calls.error_name(35) == "cudaErrorInsufficientDriver"
    try:
        assert Cuda(calls).facts.name
    except BackendError as error:
        assert "driver" in str(error)
