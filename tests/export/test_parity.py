"""Parity refuses a graph that is not the model, and says by how much."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import small_vits as small
import torch
from onnx import numpy_helper
from small_vits import SPEC, SmallViT, export_legacy, small_source

from edge_vit.errors import ParityError, SpecError
from edge_vit.export.canonical import make_canonical
from edge_vit.export.parity import check_parity, sample_photos
from edge_vit.export.reference import observe_reference
from edge_vit.export.sources import OnnxSource
from edge_vit.spec import PreprocessSpec

PHOTOS = sample_photos(SPEC)


@pytest.fixture(scope="module")
def source():
    return small_source()


@pytest.fixture(scope="module")
def proto(source):
    return export_legacy(source)


@pytest.fixture(scope="module")
def fp32(source, proto) -> onnx.ModelProto:
    return make_canonical(proto, source.preprocess, source.task).model


def check(source, model, images=PHOTOS, batch=None):
    reference = observe_reference(source, images, "photographs", batch)
    parity, (outputs,) = check_parity(source, model.SerializeToString(), reference)
    return parity, outputs


def edited(model: onnx.ModelProto, name: str, edit) -> onnx.ModelProto:
    """Return a copy of `model` with `edit` done to one of its weights."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    (tensor,) = [tensor for tensor in copy.graph.initializer if tensor.name == name]
    tensor.CopyFrom(numpy_helper.from_array(edit(numpy_helper.to_array(tensor).copy()), name))
    return copy


def test_the_record_says_what_was_compared(source, fp32):
    parity, outputs = check(source, fp32)
    assert parity.reference == f"torch {torch.__version__.partition('+')[0]}"
    assert (parity.images, parity.batches) == ("photographs", (1, 2, 5))
    assert parity.cosine_min > 0.99999
    assert parity.max_error < 1e-5
    assert parity.spread > 100 * max(parity.max_error, 1e-7)
    assert outputs.shape == (5, small.CLASSES)


def test_outputs_are_those_of_the_graph_for_the_images(source, fp32):
    _, outputs = check(source, fp32)
    mean, std = np.array(SPEC.mean, np.float32), np.array(SPEC.std, np.float32)
    pixels = torch.from_numpy(((PHOTOS / np.float32(255) - mean) / std).astype(np.float32))
    with torch.no_grad():
        wanted = source.module(pixels.permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(outputs, wanted, atol=1e-4 * np.abs(wanted).max())


def swap(weight):
    weight[[0, 1]] = weight[[1, 0]]
    return weight


def nudge(weight):
    return weight + np.float32(2e-3) * np.sign(weight)


@pytest.mark.parametrize("edit", [swap, nudge])
@pytest.mark.parametrize("role", ["qkv", "proj", "fc1", "fc2"])
def test_refuses_a_graph_with_two_channels_swapped_or_weights_a_little_off(
    source, fp32, role, edit
):
    with pytest.raises(ParityError, match=r"small: the exported graph is not the model: cosine .*"):
        check(source, edited(fp32, f"block0/{role}.1", edit))


def test_refuses_outputs_that_only_point_the_right_way(source, fp32):
    def grow(weight):
        return weight * np.float32(1.001)

    with pytest.raises(ParityError, match=r"cosine 1\.0000000 .*, error 1\.0e-03 of the largest"):
        check(source, edited(edited(fp32, "head/MatMul.1", grow), "head/Add.1", grow))


@pytest.mark.parametrize(
    "wrong",
    [
        {"mean": (0.5, 0.5, 0.5)},
        {"std": (0.5, 0.5, 0.5)},
        {"mean": SPEC.mean[::-1], "std": SPEC.std[::-1]},
    ],
    ids=["mean", "std", "blue-first"],
)
def test_refuses_a_graph_that_normalises_otherwise(source, proto, wrong):
    graph = make_canonical(proto, replace(SPEC, **wrong), source.task)
    with pytest.raises(ParityError, match="not the model"):
        check(source, graph.model)


def test_refuses_a_model_that_gives_nan(source, fp32):
    class Nan(SmallViT):
        def forward(self, images):
            return super().forward(images) / (images.sum((1, 2, 3)) * 0)[:, None]

    broken = replace(source, module=small_source(Nan).module)
    with pytest.raises(ParityError, match="small itself gives NaN or infinity for photographs"):
        check(broken, fp32)


def test_refuses_a_graph_that_gives_nan(source, fp32):
    with pytest.raises(ParityError, match="NaN or infinity"):
        check(source, edited(fp32, "block1/fc2.1", lambda weight: weight * np.float32("nan")))


def test_refuses_a_model_that_says_nothing(source, fp32):
    silent = small_source()
    torch.nn.init.zeros_(silent.module.head.weight)
    torch.nn.init.zeros_(silent.module.head.bias)
    with pytest.raises(ParityError, match="small itself gives nothing but zeros for photographs"):
        check(silent, fp32)
    graph = edited(edited(fp32, "head/MatMul.1", np.zeros_like), "head/Add.1", np.zeros_like)
    with pytest.raises(ParityError, match="small gives as a graph nothing but zeros"):
        check(source, graph)


@pytest.mark.parametrize("count", [1, 3])
def test_few_images_are_repeated_and_give_one_output_each(source, fp32, count):
    parity, outputs = check(source, fp32, PHOTOS[:count])
    assert parity.batches == (1, 2, 5)
    assert outputs.shape == (count, small.CLASSES)


def test_refuses_a_graph_that_runs_at_one_batch_size_alone(source):
    static = make_canonical(export_legacy(source, batch=2), SPEC, source.task)
    assert check(source, static.model, batch=static.batch)[0].batches == (2,)
    with pytest.raises(ParityError, match="small does not run at batch size 1: ") as error:
        check(source, static.model)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_a_static_batch_gives_outputs_for_every_image(source, fp32, batch):
    static = make_canonical(export_legacy(source, batch=batch), SPEC, source.task)
    _, outputs = check(source, static.model, batch=batch)
    _, wanted = check(source, fp32)
    np.testing.assert_allclose(outputs, wanted, atol=1e-5)


def test_refuses_what_is_no_graph(source):
    with pytest.raises(SpecError, match="ONNX Runtime refuses the graph") as error:
        check_parity(source, b"no graph", observe_reference(source, PHOTOS, "photographs"))
    assert "\n" not in str(error.value)


def test_a_file_is_its_own_reference(proto, fp32):
    (image,) = proto.graph.input
    file = OnnxSource(
        model=proto,
        name="small",
        address="onnx:small.onnx",
        task="classification",
        preprocess=SPEC,
        input_name=image.name,
    )
    assert check(file, fp32)[0].reference.startswith("the file itself in onnxruntime ")
    with pytest.raises(ParityError, match="not the model"):
        check(file, edited(fp32, "block1/proj.1", swap))


@pytest.mark.parametrize("size", [(32, 32), (24, 40)], ids=["square", "wide"])
def test_sample_photographs_are_all_different(size):
    photos = sample_photos(PreprocessSpec(size), count=8)
    assert (photos.shape, photos.dtype) == ((8, *size, 3), np.uint8)
    assert len({photo.tobytes() for photo in photos}) == 8
    assert all(photo.std() > 10 for photo in photos)
    np.testing.assert_array_equal(photos, sample_photos(PreprocessSpec(size), count=8))
