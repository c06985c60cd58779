"""The model is looked at before its graph: repeatable, a row for each image, alone or not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from reseed import reseed
from small_vits import SIZE, SPEC, ConvNet, SmallViT
from torch import Tensor, nn

from edge_vit.errors import SpecError
from edge_vit.export.parity import sample_photos
from edge_vit.export.reference import observe_reference
from edge_vit.export.sources import OnnxSource, TorchSource

PHOTOS = sample_photos(SPEC)


def facts_of(address):
    return {"name": "net", "address": address, "task": "classification", "preprocess": SPEC}


def observe(module: nn.Module, images=PHOTOS, batch=None, **more):
    module = module.eval()
    reseed(module)
    source = TorchSource(module=module, **facts_of("python:net"))
    return observe_reference(source, images, "photographs", batch, **more)


class Patches(nn.Module):
    """Sixteen patches of 8 channels through `layer`, their mean, a head of 3 classes."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.embed, self.layer, self.head = nn.Conv2d(3, 8, 4, 4), layer, nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.layer(self.embed(images).flatten(2).transpose(1, 2))
        return self.head(tokens.mean(1))


class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(x, x, x)[0]


class SharesContext(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.mean(0, keepdim=True).sigmoid()


class SwapsImages(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(16, -1, 8).transpose(0, 1)


class AlwaysTraining(nn.BatchNorm1d):
    def train(self, mode: bool = True):
        return super().train(True)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class OfTheBatch(nn.BatchNorm1d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


def encoder_layer():
    return nn.TransformerEncoderLayer(8, 2, 16, norm_first=True)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (encoder_layer, r"layer\.self_attn attends across the batch. Make it with batch_first=T"),
        (Attends, r"layer\.attention attends across the batch"),
        (SharesContext, r"mixes the images of a batch.* --static-batch 1"),
        (SwapsImages, r"mixes the images of a batch"),
        (lambda: AlwaysTraining(8), r"layer stays in training mode when eval\(\) is called"),
        (lambda: OfTheBatch(8, track_running_stats=False), "layer has no running statistics"),
    ],
)
@pytest.mark.parametrize("batch", [None, 3])
def test_refuses_a_model_whose_images_reach_each_other(layer, message, batch):
    with pytest.raises(SpecError, match=f"beside other images than alone.*{message}") as error:
        observe(Patches(layer()), batch=batch)
    assert "\n" not in str(error.value)


def test_images_that_are_all_alike_hide_no_neighbour():
    with pytest.raises(SpecError, match="beside other images than alone"):
        observe(Patches(Attends()), np.repeat(PHOTOS[:1], 5, axis=0))
    with pytest.raises(SpecError, match="beside other images than alone"):
        observe(Patches(Attends()), PHOTOS[:1])


@pytest.mark.parametrize("layer", [encoder_layer, Attends, SharesContext, SwapsImages])
def test_one_image_at_a_time_has_no_neighbours(layer):
    assert observe(Patches(layer()), batch=1).batches == (1,)


class Dropout(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.1)


class DropsSamples(nn.Module):
    """Stochastic depth that forgets self.training: most batches of few images are spared."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (torch.rand(x.shape[0], 1, 1) > 0.2)


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.randn_like(x)


class Counts(nn.Module):
    runs = 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        return x * self.runs


class StaysOn(nn.Dropout):
    def train(self, mode: bool = True):
        return super().train(True)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Dropout, r"F\.dropout wants training=self\.training"),
        (DropsSamples, "dropout or noise left on"),
        (Noise, "dropout or noise left on"),
        (Counts, "dropout or noise left on"),
        (lambda: StaysOn(0.3), r"layer stays in training mode when eval\(\) is called"),
    ],
)
@pytest.mark.parametrize("batch", [None, 1])
def test_refuses_a_model_that_is_random(layer, message, batch):
    torch.manual_seed(0)
    with pytest.raises(SpecError, match=f"gives another output each time it runs: .*{message}"):
        observe(Patches(layer()), batch=batch)


class Blind(SmallViT):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * 0 + torch.arange(1.0, 8.0)


class ZeroWeights(SmallViT):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(torch.zeros_like(images))


@pytest.mark.parametrize("make", [Blind, ZeroWeights])
def test_refuses_a_model_that_does_not_look_at_the_image(make):
    with pytest.raises(SpecError, match=r"the same output for \d+ different images"):
        observe(make())
    assert observe(make(), may_be_constant=True).num_given == 5


def test_images_that_are_all_alike_do_not_make_a_model_constant():
    assert observe(SmallViT(), np.repeat(PHOTOS[:1], 5, axis=0)).num_given == 5


class Saturated(SmallViT):
    def forward(self, images: Tensor) -> Tensor:
        return (super().forward(images) * 3 + torch.tensor([60.0] + [0.0] * 6)).softmax(-1)


def test_scores_that_are_nearly_sure_are_no_constant():
    observe(Saturated())


class OneRow(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.embed(images).transpose(0, 1).flatten(1).mean(1)[None]


class HardWired(OneRow):
    def forward(self, images: Tensor) -> Tensor:
        return self.embed(images).reshape(1, 8, 16).mean(2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (OneRow, r"gives \(1, 8\) for 2 images, expected one row each.* add --static-batch 1"),
        (HardWired, r"does not run at batch size 2: .* add --static-batch 1"),
    ],
)
def test_refuses_a_model_for_one_image_and_names_the_option(make, message):
    with pytest.raises(SpecError, match=message):
        observe(make())
    assert observe(make(), batch=1).batches == (1,)


@pytest.mark.parametrize("make", [SmallViT, ConvNet])
@pytest.mark.parametrize("batch", [None, 1, 2, 3, 7])
def test_accepts_a_model_that_keeps_images_apart(make, batch):
    reference = observe(make(), batch=batch)
    rows = {
        i: row for run in reference.runs for i, row in zip(run.indices, run.outputs[0], strict=True)
    }
    assert set(range(5)) <= set(rows)
    assert all(len(run.outputs[0]) in reference.batches for run in reference.runs)


def file_source(nodes, constants, shape=("n", 3, SIZE, SIZE)) -> OnnxSource:
    """Return a file of `nodes` from x to y, 3 classes."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [shape[0], 3])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return OnnxSource(model=model, input_name="x", **facts_of("onnx:net.onnx"))


WEIGHT = np.random.default_rng(0).standard_normal((3 * SIZE * SIZE, 3)).astype(np.float32)
FLAT = np.array([0, -1])
node = helper.make_node


@pytest.mark.parametrize(
    ("nodes", "constants", "message"),
    [
        (
            [node("Softmax", ["x"], ["u"], axis=0), node("Flatten", ["u"], ["f"])],
            {},
            "beside other images than alone.* a norm or a Reshape mixes",
        ),
        (
            [
                node("Flatten", ["x"], ["v"]),
                node("RandomNormalLike", ["v"], ["noise"], seed=1.0),
                node("Add", ["v", "noise"], ["f"]),
            ],
            {},
            "another output each time it runs: is a Dropout or a random operator left in the file",
        ),
        (
            [node("Flatten", ["x"], ["v"]), node("Mul", ["v", "zero"], ["w"]),
             node("Add", ["w", "one"], ["f"])],
            {"zero": np.float32(0), "one": np.float32(1)},
            "the same output for .* images",
        ),
    ],
)  # fmt: skip
def test_a_file_is_held_to_the_same(nodes, constants, message):
    source = file_source([*nodes, node("MatMul", ["f", "W"], ["y"])], {**constants, "W": WEIGHT})
    with pytest.raises(SpecError, match=message):
        observe_reference(source, PHOTOS, "photographs")


def test_a_file_that_gives_one_row_for_a_batch_fits_a_batch_of_one():
    nodes = [
        node("Reshape", ["x", "all"], ["f"]),
        node("MatMul", ["f", "W"], ["r"]),
        node("ReduceMean", ["r"], ["y"], axes=[0], keepdims=1),
    ]
    source = file_source(nodes, {"all": np.array([-1, len(WEIGHT)]), "W": WEIGHT})
    with pytest.raises(SpecError, match=r"gives \(1, 3\) for 2 images.* --static-batch 1"):
        observe_reference(source, PHOTOS, "photographs")
    assert observe_reference(source, PHOTOS, "photographs", 1).batches == (1,)
