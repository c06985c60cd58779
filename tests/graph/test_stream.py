import onnx_ir as ir
import pytest
from small_vits import ARCHITECTURES, ConvNet, export_legacy, small_source
from turnable import REFUSED, export_small

from edge_vit.export.canonical import make_canonical
from edge_vit.graph.stream import Refusal, Stream, find_stream


def stream_of(make):
    source = small_source(make)
    graph = make_canonical(export_legacy(source), source.preprocess, source.task)
    return find_stream(ir.from_proto(graph.model).graph)


@pytest.mark.uncounted
@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("swin", "hierarchical: its stream is 16, 32 channels wide by turns"),
        ("swinv2", "hierarchical: its stream is 16, 32 channels wide by turns"),
        ("cait", "writes the stream, and belongs to no block"),
        ("hybrid", "behind other convolutions: a hybrid"),
    ],
)
def test_models_without_one_stream_are_refused_with_the_reason(family, reason):
    found = find_stream(ir.from_proto(export_small(*REFUSED[family])).graph)
    assert isinstance(found, Refusal)
    assert reason in str(found)
    assert "\n" not in str(found)


def test_layers_in_parallel_are_refused():
    assert "read one norm, in parallel" in str(stream_of(ARCHITECTURES["parallel"]))


def test_a_network_without_blocks_is_refused():
    assert str(stream_of(ConvNet)) == "no transformer block was found"


def test_all_that_writes_and_reads_the_stream_is_found():
    stream = stream_of(ARCHITECTURES["layer scale"])
    assert isinstance(stream, Stream)
    assert stream.width == 32
    assert len(stream.norms) == 5  # two in each block, one behind them
    assert len(stream.scales) == 4
    assert len(stream.reads) == 5  # qkv and fc1 of two blocks, the head
    matmuls = [w.node for w in stream.written if w.node.op_type == "MatMul"]
    assert len(matmuls) == 4
    assert all(len(w.gains) == 1 for w in stream.written if w.node in matmuls)
    assert (stream.entries, stream.exits) == ([], [])
