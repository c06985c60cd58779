"""Linear layers that are in no block: which are chosen, and that INT8 of them is close."""

from __future__ import annotations

import functools

import onnx_ir as ir
import pytest
import small_vits as small
import torch
import torch.nn.functional as F
from seeded import ALL_INT8, make_seeded, random_images, run_onnx, sqnr_db
from torch import Tensor, nn

from edge_vit.errors import SpecError
from edge_vit.export.canonical import make_canonical
from edge_vit.graph.sites import Block, find_sites, find_units
from edge_vit.graph.walk import find_linears
from edge_vit.lowering.qdq import write_qdq


class SideBySide(small.Block):
    """Two attentions on one norm, two MLPs on the next, as in parallel ViTs."""

    def __init__(self, attention, mlp, scale):
        super().__init__(attention, mlp, scale)
        self.attention2, self.mlp2 = attention(), mlp()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y) + self.attention2(y)
        y = self.norm2(x)
        return x + self.mlp(y) + self.mlp2(y)


class Expanding(small.Block):
    """The residual goes through a linear layer of the norm, as where Hiera doubles its width."""

    def __init__(self, attention, mlp, scale):
        super().__init__(attention, mlp, scale)
        self.expand = nn.Linear(small.WIDTH, small.WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = self.expand(y) + self.attention(y)
        return x + self.mlp(self.norm2(x))


class TokenMixer(nn.Module):
    """A linear layer over the tokens, as in MLP-Mixer."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(small.TOKENS, small.TOKENS)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.transpose(1, 2)).transpose(1, 2)


class Decoder(small.SmallViT):
    """Blocks, and learned queries that read from their tokens, as detectors have them."""

    def __init__(self):
        super().__init__()
        self.queries = nn.Parameter(torch.zeros(1, 6, small.WIDTH))
        self.own = small.fused_attention()
        self.reads = nn.MultiheadAttention(small.WIDTH, 2, batch_first=True)
        self.mlp = small.Mlp()

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.norm(self.blocks(self.embed(images).flatten(2).transpose(1, 2)))
        queries = self.queries.expand(images.shape[0], -1, -1)
        queries = queries + self.own(queries)
        queries = queries + self.reads(queries, tokens, tokens, need_weights=False)[0]
        return self.head(queries + self.mlp(queries)).mean(1)


RELU = functools.partial(small.Mlp, F.relu)
PARALLEL = functools.partial(small.SmallViT, block=SideBySide, mlp=RELU)
EXPANDING = functools.partial(small.SmallViT, block=Expanding)
MIXER = functools.partial(small.SmallViT, attention=TokenMixer)


def units_of(make) -> dict[str, list[str]]:
    source = small.small_source(make)
    graph = make_canonical(small.export_legacy(source), source.preprocess, source.task)
    units = find_units(ir.from_proto(graph.model).graph)
    return {
        unit.sites[0].name.partition("/")[0]: [site.name.partition("/")[2] for site in unit.sites]
        for unit in units
    }


def test_layers_share_a_unit_with_what_they_are_smoothed_with():
    found = units_of(PARALLEL)
    assert list(found) == [f"layers{index}" for index in range(4 * small.DEPTH)]
    two, four = ([f"linear{index}" for index in range(count)] for count in (2, 4))
    # queries, keys and values of both attentions; each projection; both MLPs, through their ReLU
    assert list(found.values()) == [two, ["linear"], ["linear"], four] * small.DEPTH


def test_a_decoder_for_learned_queries_is_left_out():
    found = units_of(Decoder)
    assert list(found) == ["block0", "block1"]


@pytest.mark.parametrize("make", [PARALLEL, MIXER])
@pytest.mark.parametrize("recipe", ["fast", "balanced"])
def test_int8_of_all_of_them_is_close_to_fp32(make, recipe):
    seeded = make_seeded(make(), small.SIZE, small.CLASSES)
    graph = ir.from_proto(seeded.model).graph
    sites = find_sites(graph)
    tokens = [linear for linear in find_linears(graph).values() if len(linear.output.shape) > 2]
    wide = [linear for linear in tokens if min(linear.shape) >= 16]
    assert {site.linear.matmul.name for site in sites} == {n.matmul.name for n in wide}
    assert not any(isinstance(unit, Block) for unit in find_units(graph))
    table = seeded.calibrate(random_images(32, size=small.SIZE), ALL_INT8[recipe])
    assert set(table.sites) == {site.name for site in sites}
    images = random_images(16, seed=1, size=small.SIZE)
    exact = run_onnx(seeded.model, images)
    quantized = write_qdq(seeded.model, table)
    levels = {n.name for n in quantized.graph.node if n.op_type == "QuantizeLinear"}
    wanted = {name for name, scales in table.sites.items() if scales.is_quantized}
    assert levels == {f"{name}/quantize" for name in wanted}
    assert len(wanted) >= len(sites) / 2  # the search keeps what costs too much
    assert sqnr_db(exact, run_onnx(quantized, images)) > 25


def test_a_layer_that_reads_a_blocks_norm_is_smoothed_with_the_block():
    seeded = make_seeded(EXPANDING(), small.SIZE, small.CLASSES)
    block, *_ = find_units(ir.from_proto(seeded.model).graph)
    assert block.sites[-1].name == "layers0/linear"
    assert block.sites[-1].linear.input is block.sites[0].linear.input
    table = seeded.calibrate(random_images(32, size=small.SIZE), ALL_INT8["fast"])
    images = random_images(16, seed=1, size=small.SIZE)
    quantized = write_qdq(seeded.model, table)
    assert sqnr_db(run_onnx(seeded.model, images), run_onnx(quantized, images)) > 22


def test_a_model_without_any_is_told_to_take_fp16():
    seeded = make_seeded(small.ConvNet(), small.SIZE, small.CLASSES)
    with pytest.raises(SpecError, match=r"nothing to quantize\. Take FP16: .* --fp16"):
        seeded.calibrate(random_images(4, size=small.SIZE))
