"""Modules as factories return them: wrapped, compiled, averaged, scripted, quantized, gray."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import timm.utils
import torch
from onnx import TensorProto, helper, numpy_helper
from reseed import reseed
from torch import Tensor, nn
from torch.ao.quantization import quantize_dynamic
from torch.optim.swa_utils import AveragedModel

from edge_vit.errors import SpecError
from edge_vit.export.sources import SourceRequest, open_source
from edge_vit.export.sources.modules import plain_module
from edge_vit.export.sources.values import LUMINANCE, GrayImages, torch_source
from edge_vit.spec import PreprocessSpec

IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self, channels=3):
        super().__init__()
        self.embed, self.head = nn.Conv2d(channels, 4, 4, 4), nn.Linear(4, 3)
        reseed(self)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.embed(images).relu().mean((2, 3)))


class Holder(nn.Module):
    """Somebody's own average: it cannot run itself."""

    def __init__(self, model):
        super().__init__()
        self.shadow = copy.deepcopy(model)


class ModelEMA:
    """The average of another library: no module itself."""

    def __init__(self, model):
        self.ema, self.updates = copy.deepcopy(model), 0


class MovingAveraged(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.raw, self.averaged_model = copy.deepcopy(model), copy.deepcopy(model)

    def forward(self, images: Tensor) -> Tensor:
        return self.raw(images) * 2


class Inside(nn.Module):
    """A wrapper below the top."""

    def __init__(self, wrap):
        super().__init__()
        self.layers = nn.Sequential(wrap(Net()), nn.Identity())

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class CompiledForward(Net):
    @torch.compile
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images)


def compiled_in_place(net: nn.Module) -> nn.Module:
    net.compile()
    return net


def compiled_method(net: nn.Module) -> nn.Module:
    net.forward = torch.compile(net.forward)
    return net


WRAPS = [
    torch.compile,
    nn.DataParallel,
    AveragedModel,
    timm.utils.ModelEma,
    timm.utils.ModelEmaV2,
    timm.utils.ModelEmaV3,
    Holder,
    ModelEMA,
    MovingAveraged,
    compiled_in_place,
    compiled_method,
    lambda net: torch.compile(nn.DataParallel(net)),
    lambda net: AveragedModel(torch.compile(net)),
]


@pytest.mark.parametrize("wrap", WRAPS)
def test_finds_the_model_in_what_is_wrapped_around_it(wrap):
    module = plain_module(wrap(Net()), "python:m:f")
    assert type(module) is Net
    assert module._compiled_call_impl is None
    assert "forward" not in vars(module) or module.forward.__func__ is Net.forward
    assert torch.equal(module(IMAGES), Net()(IMAGES))


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel, compiled_in_place])
def test_finds_wrappers_below_the_top(wrap):
    module = plain_module(Inside(wrap), "python:m:f")
    assert type(module.layers[0]) is Net
    assert torch.equal(module(IMAGES), Net()(IMAGES))


def test_a_forward_that_is_compiled_runs_as_written():
    module = plain_module(CompiledForward(), "python:m:f")
    assert not hasattr(module.forward, "_torchdynamo_orig_callable")
    assert torch.equal(module(IMAGES), Net()(IMAGES))


def test_an_averaged_model_gives_the_average():
    net = Net()
    averaged = AveragedModel(net, avg_fn=lambda old, new, count: old / 2)
    averaged.update_parameters(net)
    averaged.update_parameters(net)
    module = plain_module(averaged, "python:m:f")
    assert torch.equal(module.head.weight, net.head.weight / 2)


def on_meta():
    with torch.device("meta"):
        return Net()


def partly_on_meta():
    net = Net()
    net.head = nn.Linear(4, 3, device="meta")
    return net


def sparse():
    net = Net()
    net.head.weight = nn.Parameter(net.head.weight.detach().to_sparse())
    return net


def scripted_below():
    return nn.Sequential(torch.jit.script(Net()), nn.Identity())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (on_meta, r"4 of 4 tensors are on the meta device .* such as embed\.weight\. Build the"),
        (partly_on_meta, r"2 of 4 tensors are on the meta device .* such as head\.weight"),
        (lambda: torch.jit.script(Net()), "the model .RecursiveScriptModule. is TorchScript"),
        (lambda: torch.jit.trace(Net(), IMAGES), "is TorchScript, which cannot be traced again"),
        (scripted_below, "m:f: 0 .RecursiveScriptModule. is TorchScript"),
        (lambda: quantize_dynamic(Net(), {nn.Linear}), r"head \(Linear\) is quantized already"),
        (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), "has no size yet"),
        (sparse, r"head\.weight is sparse_coo, expected dense real numbers"),
        (lambda: Net, "returned the class Net, not a model of it, expected a torch.nn.Module"),
        (lambda: Net().state_dict(), "returned a dict of weights .build the model, load them"),
        (lambda: (Net(), print), "returned a tuple of Net, builtin_function_or_method, expected"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_refuses_what_cannot_be_exported(make, message):
    with pytest.raises(SpecError, match=message) as error:
        plain_module(make(), "python:m:f")
    assert "\n" not in str(error.value)


REQUEST = SourceRequest("python:m:f")
SPEC = PreprocessSpec((8, 8))


def open_module(module: nn.Module):
    return torch_source(REQUEST, module, name="net", task="classification", preprocess=SPEC)


def test_a_model_of_one_channel_gets_gray_and_says_so():
    source = open_module(Net(channels=1))
    gray = sum(share * IMAGES[:, i : i + 1] for i, share in enumerate(LUMINANCE))
    torch.testing.assert_close(source.module(IMAGES), Net(channels=1)(gray))
    assert source.remarks == (
        "the model takes 1 channel: images are turned to gray in the graph "
        "(0.299 R + 0.587 G + 0.114 B)",
    )
    assert open_module(Net()).remarks == ()


@pytest.mark.parametrize("channels", [2, 4, 6])
def test_refuses_channels_that_no_image_has(channels):
    message = rf"\(1, 3, 8, 8\): .*It takes {channels} channels, an image has 3 \(R, G, B\): wrap"
    with pytest.raises(SpecError, match=message):
        open_module(Net(channels=channels))


@pytest.mark.parametrize("opset", [11, 17])
def test_a_file_of_one_channel_gets_gray(tmp_path, opset):
    pool = [
        helper.make_node("GlobalAveragePool", ["pixels"], ["means"]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("MatMul", ["flat", "W"], ["scores"]),
    ]
    weight = numpy_helper.from_array(np.array([[1, 2, 3]], np.float32), "W")
    graph = helper.make_graph(
        pool,
        "gray",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ("n", 1, 8, 8))],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ("n", 3))],
        [weight],
    )
    opsets = [helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "g.onnx")
    said = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    source = open_source(SourceRequest(f"onnx:{tmp_path / 'g.onnx'}", **said))
    session = ort.InferenceSession(source.model.SerializeToString())
    (found,) = session.run(None, {source.input_name: IMAGES.numpy()})
    wanted = GrayImages(lambda gray: gray.mean((2, 3)) * torch.tensor([1.0, 2, 3]))(IMAGES)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert "gray" in source.remarks[0]
