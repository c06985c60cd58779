"""Tracing: a graph for every batch size, in silence, or one line that says why not."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from seeded import random_images, run_onnx
from small_vits import SIZE, SPEC, small_source
from torch import nn
from traced import trace_script

from edge_vit.errors import SpecError
from edge_vit.export.canonical import make_canonical
from edge_vit.export.trace import register_constants, trace_module


def run(proto: onnx.ModelProto, images: torch.Tensor) -> np.ndarray:
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]


def warnings_in(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.uncounted
def test_a_dynamic_batch_runs_at_any_size_and_says_nothing(capfd, caplog):
    module = small_source().module
    proto = trace_module(module, (SIZE, SIZE))
    assert capfd.readouterr() == ("", "")
    assert warnings_in(caplog) == []
    for batch in (1, 2, 5):
        images = torch.randn(batch, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            wanted = module(images).numpy()
        np.testing.assert_allclose(run(proto, images), wanted, atol=1e-4)


@pytest.mark.uncounted
def test_the_older_exporter_of_torch_gives_the_same_canonical_graph():
    """Tests of what comes after an export take their graphs from it, which is quicker."""
    module, images = small_source().module, random_images(3, size=SIZE)
    older, newer = (
        make_canonical(trace(module, (SIZE, SIZE)), SPEC, "classification").model
        for trace in (trace_script, trace_module)
    )
    assert [(n.name, n.op_type) for n in older.graph.node] == [
        (n.name, n.op_type) for n in newer.graph.node
    ]
    np.testing.assert_array_equal(run_onnx(older, images), run_onnx(newer, images))


def test_a_static_batch_is_written_into_the_graph():
    proto = trace_module(small_source().module, (SIZE, SIZE), batch=3)
    dims = [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim]
    assert dims == [3, 3, SIZE, SIZE]
    assert run(proto, torch.zeros(3, 3, SIZE, SIZE)).shape[0] == 3


class WindowAttention(nn.Module):
    """On windows, as Hiera and SAM attend: one dimension more than the exporter knows."""

    def __init__(self, mask):
        super().__init__()
        self.mask = mask

    def forward(self, images):
        windows = images.reshape(images.shape[0], 1, 2, -1, 12)
        attended = F.scaled_dot_product_attention(windows, 2 * windows, windows, self.mask)
        return attended.mean((1, 2, 3))


WINDOW = 3 * SIZE * SIZE // 24


@pytest.mark.parametrize(
    "mask",
    [None, torch.ones(WINDOW, WINDOW).tril().bool(), torch.randn(WINDOW, WINDOW)],
    ids=["no mask", "boolean mask", "added mask"],
)
@pytest.mark.uncounted
def test_attention_over_windows_is_written_out(mask):
    module = WindowAttention(mask).eval()
    images = torch.randn(3, 3, SIZE, SIZE)
    before = F.scaled_dot_product_attention
    found = run(trace_module(module, (SIZE, SIZE)), images)
    np.testing.assert_allclose(found, module(images).numpy(), atol=1e-5)
    assert F.scaled_dot_product_attention is before


class Branching(nn.Module):
    def forward(self, images):
        return images.mean((2, 3)) if images.sum() > 0 else images.amax((2, 3))


class Talking(nn.Module):
    """Fails as somebody else's code does: in several lines."""

    def forward(self, images):
        raise RuntimeError("cannot\n\n  do\nthis")


class TwoImages(nn.Module):
    def forward(self, images):
        return images.mean((2, 3)) + torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Branching(), r"Branching cannot be exported to ONNX, .*data-dependent"),
        (Talking(), r"Talking cannot be exported to ONNX, .*RuntimeError: cannot do this"),
        (TwoImages(), r"TwoImages works at one batch size alone, .* Add --static-batch N"),
    ],
    ids=["branch", "raises", "one-batch-size"],
)
def test_what_cannot_be_traced_is_one_line(module, message, capfd, caplog):
    with pytest.raises(SpecError, match=message) as error:
        trace_module(module.eval(), (SIZE, SIZE))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600
    assert capfd.readouterr() == ("", "")
    assert warnings_in(caplog) == []


class IdleSqueeze(torch.nn.Module):
    def forward(self, x):
        return x.squeeze(1).flatten(2).mean(2)


def test_a_squeeze_that_does_nothing_is_left_out():
    graph = trace_module(IdleSqueeze(), (4, 4)).graph
    assert "Squeeze" not in {node.op_type for node in graph.node}


def test_constants_that_the_optimizer_loses_become_initializers():
    bounds = [
        ir.val(name, const_value=ir.tensor([size], name=name))
        for name, size in [("low", 0.0), ("high", 1.0)]
    ]
    pixels = ir.val("pixels", ir.DataType.FLOAT, [1])
    clip = ir.node("Clip", [pixels, *bounds])
    graph = ir.Graph([pixels], clip.outputs, nodes=[clip])
    register_constants(graph)
    assert sorted(graph.initializers) == ["high", "low"]
