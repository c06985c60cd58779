import numpy as np
import onnx
import pytest

from edge_vit.errors import SpecError
from edge_vit.graph.exact import open_graph


def doubling():
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["x", "x"], ["y"])],
        "double",
        [value("x", onnx.TensorProto.FLOAT, [2])],
        [value("y", onnx.TensorProto.FLOAT, [2])],
    )
    opset = [onnx.helper.make_opsetid("", 19)]
    return onnx.helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()


@pytest.mark.parametrize("as_written", [False, True])
def test_opens_a_graph_on_the_cpu(as_written):
    session = open_graph(doubling(), as_written=as_written)
    assert session.get_providers() == ["CPUExecutionProvider"]
    (found,) = session.run(None, {"x": np.float32([1, 2])})
    assert found.tolist() == [2, 4]


@pytest.mark.parametrize("graph", [b"", b"not a graph", doubling()[:-9]])
def test_a_graph_that_cannot_be_read_is_refused_in_one_line(graph):
    with pytest.raises(SpecError, match="ONNX Runtime refuses the graph: ") as refused:
        open_graph(graph)
    assert "\n" not in str(refused.value)
