"""Rewrites keep what any valid graph gives, in float32 and as FP16."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from random_graphs import PIECES, SIZE, random_graph

from edge_vit.export.canonical import make_canonical
from edge_vit.lowering.fp16 import write_half
from edge_vit.spec import PreprocessSpec

pytestmark = pytest.mark.uncounted

SPEC = PreprocessSpec((SIZE, SIZE), mean=(0, 0, 0), std=(1 / 255,) * 3)  # pixels as they are
SEEDS = range(3 * len(PIECES))  # each piece comes first three times, and others behind it


def run(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options)
    return session.run(None, {session.get_inputs()[0].name: images})[0]


@pytest.mark.parametrize("seed", SEEDS)
def test_canonical_form_and_fp16_give_what_the_graph_gives(seed):
    batch = (None, None, 1, 2)[seed % 4]
    model = random_graph(seed, batch)
    pixels = np.random.default_rng(seed).integers(0, 3, (batch or 3, SIZE, SIZE, 3), np.uint8)
    wanted = run(model, np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).astype(np.float32))
    largest = np.abs(wanted).max()
    assert np.isfinite(wanted).all()
    assert largest < 1e4, "the graph itself leaves float16"
    canonical = make_canonical(model, SPEC, "classification").model
    np.testing.assert_allclose(run(canonical, pixels), wanted, atol=1e-4 * largest)
    half = write_half(canonical)
    onnx.checker.check_model(half, full_check=True)
    np.testing.assert_allclose(run(half, pixels), wanted, atol=0.05 * largest)
