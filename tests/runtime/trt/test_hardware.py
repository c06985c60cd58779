from __future__ import annotations

from types import SimpleNamespace

import pytest

from edge_vit.errors import BackendError
from edge_vit.runtime.cudart import GpuFacts
from edge_vit.runtime.trt import identity
from edge_vit.runtime.trt.identity import Hardware, find_hardware

ORIN = GpuFacts(1, "Orin", (8, 7), True, True, (12, 6), (12, 9))


def test_translates_what_cuda_says(monkeypatch):
    asked = []

    def open_cuda(device):
        asked.append(device)
        return SimpleNamespace(facts=ORIN, free_memory=lambda: (5, 8))

    monkeypatch.setattr(identity, "open_cuda", open_cuda)
    assert find_hardware(1) == Hardware("Orin", "sm_87", "12.6", "12", True, 5)
    assert asked == [1]


def test_without_a_gpu_there_is_none_unless_there_must_be(monkeypatch):
    def open_cuda(device):
        raise BackendError("the NVIDIA driver sees no GPU. To run on the CPU: --backend ort")

    monkeypatch.setattr(identity, "open_cuda", open_cuda)
    assert find_hardware() == Hardware(why_none="the NVIDIA driver sees no GPU")
    assert not find_hardware().is_here
    with pytest.raises(BackendError, match="the NVIDIA driver sees no GPU"):
        find_hardware(must_exist=True)
