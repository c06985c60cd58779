"""The lower part of a graph, whatever flows into it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from small_graphs import parse

from edge_vit.graph.expose import cut_below


def test_indices_flow_in_as_the_integers_that_they_are():
    """Windows are gathered by indices, some of them computed above the cut."""
    model = ir.to_proto(
        parse(
            """(float[4,2] x) => (float[2,2] y) {
                shape = Shape(x)
                indices = Sub(shape, one)
                root = Relu(x)
                site = Add(root, root)
                y = Gather(site, indices)
            }""",
            one=np.array([1, 1], np.int64),
        )
    )
    cut = cut_below(model, ["root"], ["site"], ["y"])
    assert set(cut.feeds) == {"root", "indices"}
    root, indices = np.arange(8, dtype=np.float32).reshape(4, 2), np.array([3, 1])
    feeds = {"root": root, "indices": indices, cut.errors["site"]: np.ones(1, np.float32)}
    (output,) = ort.InferenceSession(cut.model.SerializeToString()).run(["y"], feeds)
    np.testing.assert_array_equal(output, 2 * root[indices] + 1)
