from __future__ import annotations

import itertools

import pytest

from edge_vit.errors import BackendError, SpecError
from edge_vit.formats import (
    REFERENCE,
    all_formats,
    find_format,
    formats_of,
    is_wider,
    look_of,
    names_below,
    sort_names,
)
from edge_vit.formats.format import UNKNOWN_LOOK
from edge_vit.formats.int8 import VNNI
from edge_vit.plugins import import_target
from edge_vit.runtime.trt.engines import refuse_hardware
from edge_vit.runtime.trt.identity import Hardware


def test_the_reference_comes_first_and_each_is_narrower_than_the_one_before():
    assert all_formats()[0].name == REFERENCE
    for wide, narrow in itertools.pairwise(all_formats()):
        assert wide.order < narrow.order
        assert wide.bits > narrow.bits
        assert wide.self_test_limit < narrow.self_test_limit


def test_no_two_formats_share_a_file_or_a_look():
    files = [file for each in all_formats() for file in each.files]
    looks = [each.look for each in all_formats()]
    assert len(set(files)) == len(files)
    assert len(set(looks)) == len(looks)


@pytest.mark.parametrize("name", [each.name for each in all_formats() if not each.is_reference])
def test_what_writes_and_emulates_a_format_is_there(name):
    pytest.importorskip("onnx_ir")
    found = find_format(name)
    assert callable(import_target(found.lower))
    assert not found.emulate or callable(import_target(found.emulate))
    assert all(variant.proven_by for variant in found.variants)


@pytest.mark.parametrize(
    ("name", "reader", "capabilities", "missing", "target"),
    [
        ("fp32", "tensorrt", (), "", "any"),
        ("fp16", "openvino", (), "", "any"),
        ("int8", "tensorrt", (VNNI,), "", "tensorrt"),
        ("int8", "ort-gpu", (VNNI,), "", "tensorrt"),
        ("int8", "openvino", (VNNI,), "", "cpu"),
        ("int8", "explain", (VNNI,), "", "cpu"),
        ("int8", "ort", (VNNI,), "", "ort-x64"),
        ("int8", "ort", (), "", "cpu"),
        ("int8", "ort", (VNNI,), "ort-x64", "cpu"),  # as in bundles of before
        ("int8", "ort", (VNNI,), "cpu", "ort-x64"),
    ],
)
def test_a_reader_takes_the_best_variant_that_is_there(name, reader, capabilities, missing, target):
    found = find_format(name).variant(reader, lambda file: f".{missing}." not in file, capabilities)
    assert found.target == target


def test_where_no_variant_is_there_the_one_that_runs_everywhere_is_missing():
    assert find_format("int8").variant("ort", lambda file: False, (VNNI,)).target == "cpu"


def test_names_are_sorted_by_width_and_those_not_installed_come_last():
    assert sort_names(["int8", "int2", "fp32", "fp16"]) == ["fp32", "fp16", "int8", "int2"]
    assert names_below(["fp32", "int8", "fp16"]) == ["int8", "fp16"]
    assert is_wider("fp16", "int8")
    assert not is_wider("int8", "int8")


def test_the_files_of_a_bundle_tell_its_formats():
    assert [each.name for each in formats_of({"onnx/int8.onnx", "onnx/fp32.onnx"})] == [
        "fp32",
        "int8",
    ]
    assert formats_of({"onnx/int8.cpu.onnx"}) == ()  # without the graph for TensorRT it is a part


def test_an_unknown_name_is_refused_with_the_nearest_one():
    with pytest.raises(SpecError, match=r"'int9', expected one of fp32, fp16, int8.* int8\?"):
        find_format("int9")


def test_a_format_that_is_not_installed_is_drawn_all_the_same():
    assert look_of("int2") is UNKNOWN_LOOK


@pytest.mark.parametrize(
    ("name", "compute_capability", "is_refused"),
    [
        ("int8", "sm_87", False),
        ("int8", "sm_53", True),
        ("fp16", "sm_53", False),
        ("fp32", "sm_53", False),
        ("int8", "", False),
    ],
)
def test_a_gpu_that_does_not_compute_in_a_format_is_refused(name, compute_capability, is_refused):
    hardware = Hardware(gpu="Nano", compute_capability=compute_capability)
    if not is_refused:
        refuse_hardware(find_format(name), hardware)
        return
    with pytest.raises(BackendError, match="Nano is sm_53, and INT8 takes sm_61 or later"):
        refuse_hardware(find_format(name), hardware)
