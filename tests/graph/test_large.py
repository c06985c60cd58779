"""Graphs over the limit of one protobuf, which is set small: exported, kept, read and run."""

from __future__ import annotations

import shutil
import weakref

import numpy as np
import onnx
import pytest
from graph_files import FP16, FP32
from rtx import HAS_RTX
from seeded import random_images

from edge_vit import api
from edge_vit.bundle import WEIGHTS, Bundle
from edge_vit.data.images import ArraySource
from edge_vit.errors import ArtifactError
from edge_vit.export.sources import SourceRequest
from edge_vit.formats.int8 import FORMAT as INT8
from edge_vit.graph import large
from edge_vit.graph.large import Spill, read_graph, serialize, to_proto
from edge_vit.measure.evaluation import emulate_half
from edge_vit.runtime import open_session
from edge_vit.runtime.session import SessionOptions
from edge_vit.runtime.trt.api import open_api

REQUEST = SourceRequest("edgevit:vit_digits", random_weights=True, model_args={"depth": 1})
DATA = FP32 + WEIGHTS


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The same model twice: as it is, and with almost all weights beside its graphs."""
    folder = tmp_path_factory.mktemp("large")
    whole = api.export_bundle(REQUEST, folder / "whole.edgevit", precision="fp16")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large, "LIMIT", 20_000)
        split = api.export_bundle(REQUEST, folder / "split.edgevit", precision="fp16")
    return whole, split


@pytest.fixture
def split(made, tmp_path):
    return Bundle.open(shutil.copytree(made[1].path, tmp_path / "split.edgevit"))


def outputs_of(bundle: Bundle, precision: str, backend: str = "ort") -> np.ndarray:
    images = bundle.read_golden().images
    with open_session(bundle, precision, backend, SessionOptions(threads=1)) as session:
        return next(iter(session.run({session.inputs[0].name: images}).values()))


def test_the_weights_of_each_graph_lie_beside_it(made):
    whole, split = made
    assert not whole.has(DATA)
    assert split.artifact(FP32).num_bytes < whole.artifact(FP32).num_bytes / 5
    assert split.artifact(DATA).num_bytes > split.artifact(FP16 + WEIGHTS).num_bytes > 100_000
    split.check()
    model = onnx.load(split.path / FP32)  # as any reader of the standard finds them
    onnx.checker.check_model(split.path / FP32)
    inside = onnx.load_from_string(whole.read_graph())
    every = {t.name: onnx.numpy_helper.to_array(t) for t in inside.graph.initializer}
    assert {t.name for t in model.graph.initializer} == set(every)
    for tensor in model.graph.initializer:
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor), every[tensor.name])


@pytest.mark.parametrize("backend", ["ort", "openvino"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_it_runs_as_the_whole_graph_does(made, precision, backend):
    whole, split = (outputs_of(bundle, precision, backend) for bundle in made)
    np.testing.assert_allclose(split, whole, rtol=0, atol=1e-6 * np.abs(whole).max())


def test_fp16_is_emulated(made):
    found = []
    for bundle in made:
        options = SessionOptions(threads=1)
        session = emulate_half(open_session(bundle, "fp16", "ort", options), bundle, options)
        images = bundle.read_golden().images
        with session:
            found.append(next(iter(session.run({session.inputs[0].name: images}).values())))
    np.testing.assert_array_equal(*found)


@pytest.mark.skipif(not HAS_RTX, reason="TensorRT for RTX is not installed here")
@pytest.mark.parametrize("name", [FP32, FP16])
def test_the_parser_of_tensorrt_finds_the_weights(split, name):
    assert split.find_weights(name)
    network = open_api("rtx").parse(split.read(name), str(split.locate(name)))
    assert len(tuple(network.layers)) > 20


def test_a_changed_file_of_weights_is_refused(split):
    data = bytearray((split.path / DATA).read_bytes())
    data[len(data) // 2] ^= 1
    (split.path / DATA).write_bytes(data)
    for use in (
        split.check,
        lambda: open_session(split, "fp32", "ort"),
        lambda: open_session(split, "fp32", "openvino"),
        lambda: read_graph(split),
    ):
        with pytest.raises(ArtifactError, match=r"fp32\.onnx\.data was edited"):
            use()


def test_other_weights_give_the_graph_another_digest(made):
    model, texts = read_graph(made[1]), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large, "LIMIT", 20_000)
        for factor in (1, 1, 2):
            own = large.ir.from_proto(model)
            spill = Spill()
            for value in own.graph.initializers.values():
                array = value.const_value.numpy()
                if array.dtype == np.float32 and array.size > 1000:
                    value.const_value = large.ir.tensor(array * np.float32(factor))
            texts.append(serialize(to_proto(own, spill), FP32, spill)[0])
    assert texts[0] == texts[1] != texts[2]


def test_too_little_room_is_refused_before_the_export(monkeypatch, tmp_path):
    monkeypatch.setattr(large, "LIMIT", 20_000)
    usage = large.shutil.disk_usage(tmp_path)._replace(free=100_000)
    monkeypatch.setattr(large.shutil, "disk_usage", lambda place: usage)
    with pytest.raises(ArtifactError, match=r"has 0\.0 GiB left, .* Set TMPDIR to a folder with"):
        api.export_bundle(REQUEST, tmp_path / "net.edgevit")


def test_the_temporary_folder_goes_with_its_spill():
    spill = Spill()
    folder, gone = spill.next_path().parent, weakref.ref(spill)
    assert folder.is_dir()
    del spill
    assert gone() is None
    assert not folder.exists()


@pytest.fixture(scope="module")
def calibrated(made, tmp_path_factory):
    """Both bundles with INT8 of a rotated graph; the graphs of the second over the limit."""
    folder, found = tmp_path_factory.mktemp("int8"), []
    images = ArraySource(random_images(24, size=28))
    for bundle, limit in zip(made, (large.LIMIT, 20_000), strict=True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(large, "LIMIT", limit)
            copy = shutil.copytree(bundle.path, folder / bundle.path.name)
            api.calibrate(copy, images, threads=1)
            found.append(api.quantize(copy))
            assert api.check_coverage(found[-1], images, threads=1) == ()
    return found


def test_int8_is_calibrated_and_written_beside_its_graphs(calibrated):
    tables = [bundle.read_table(with_weights=True) for bundle in calibrated]
    assert tables[0].rotation is not None
    assert tables[0].sites == tables[1].sites
    whole, split = calibrated
    for variant in INT8.variants:
        assert not whole.has(variant.file + WEIGHTS)
        assert split.artifact(variant.file).num_bytes < whole.artifact(variant.file).num_bytes / 5
    split.check()


@pytest.mark.parametrize("backend", ["ort", "openvino"])
def test_int8_runs_as_the_whole_graph_does(calibrated, backend):
    whole, split = (outputs_of(bundle, "int8", backend) for bundle in calibrated)
    np.testing.assert_allclose(split, whole, rtol=0, atol=1e-6 * np.abs(whole).max())


@pytest.mark.skipif(not HAS_RTX, reason="TensorRT for RTX is not installed here")
def test_tensorrt_parses_int8_with_its_weights_beside(calibrated):
    split, name = calibrated[1], INT8.file
    assert split.find_weights(name)
    network = open_api("rtx").parse(split.read(name), str(split.locate(name)))
    assert len(tuple(network.layers)) > 20
