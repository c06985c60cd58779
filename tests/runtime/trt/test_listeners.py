from __future__ import annotations

import pytest

from edge_vit.runtime.trt.listeners import Complaints, tidy


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        (
            "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (In catchCudaError "
            "at /_src/common/checkMacros.cpp:250 (cudaError 35: CUDA driver version is old))",
            "Cuda Runtime (cudaError 35: CUDA driver version is old)",
        ),
        (
            "IBuilder::buildSerializedNetwork: Error Code 5: BuildCanceled (Build canceled by user."
            " In step at /_src/build.cpp:12)",
            "BuildCanceled (Build canceled by user)",
        ),
        ("In node 3:\n  operator: Gelu (f)\n", "In node 3: operator: Gelu (f)"),
        ("", ""),
    ],
    ids=["cuda", "cancel", "lines", "nothing"],
)  # fmt: skip
def test_says_it_on_one_line_without_the_place(said, heard):
    assert tidy(said) == heard


def test_the_first_error_is_the_reason():
    complaints = Complaints()
    assert complaints.reason == "TensorRT gave no reason"
    complaints.add("warning", "slow")
    assert complaints.reason == "slow"
    complaints.add("error", "the cause")
    complaints.add("error", "what followed")
    assert complaints.reason == "the cause"
    assert complaints.warnings == ("slow",)
    complaints.clear()
    assert complaints.all == ()


def test_keeps_the_last_words_alone():
    complaints = Complaints()
    for number in range(100):
        complaints.add("warning", str(number))
    assert len(complaints.all) == 32
    assert complaints.warnings[-1] == "99"
