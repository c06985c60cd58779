"""Two tiny models of every family: parity, and the linear layers that their architecture has.

Which of them work on tokens is seen where torch runs them, and nothing else of our own is asked.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass

import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
import transformers
from reseed import reseed
from small_families import MEMBERS, Member
from torch.overrides import TorchFunctionMode
from traced import plain_attention, trace_small

from edge_vit.bundle.record import Parity
from edge_vit.export.canonical import CanonicalGraph, make_canonical
from edge_vit.export.parity import check_parity, sample_photos
from edge_vit.export.reference import observe_reference
from edge_vit.export.sources import SourceRequest, TorchSource, open_source
from edge_vit.graph.sites import Block, Unit, find_units

pytestmark = pytest.mark.uncounted

ROLES = ["qkv", "proj", "fc1", "fc2"]
FEWEST_CHANNELS = 16
HALVES = (0.5, 0.5, 0.5)


class WeightsOnTokens(TorchFunctionMode):
    """Notes the weights of every linear layer that reads more than one token of an image."""

    def __init__(self):
        super().__init__()
        self.sizes: dict[int, int] = {}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        if function is F.linear:
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            if math.prod(output.shape[1:-1]) > 1 and min(weight.shape) >= FEWEST_CHANNELS:
                self.sizes[weight.data_ptr()] = weight.numel()
        return output


@dataclass(frozen=True)
class Found:
    """A member, exported."""

    member: Member
    graph: CanonicalGraph
    units: tuple[Unit, ...]
    parity: Parity
    weights_on_tokens: int


def open_member(member: Member, folder) -> TorchSource:
    scheme, _, name = member.address.partition(":")
    if scheme == "timm":
        with plain_attention():
            return open_source(
                SourceRequest(
                    member.address,
                    random_weights=True,
                    model_args=member.arguments,
                    image_size=member.image_size,
                )
            )
    model_class = getattr(transformers, name)
    side = member.image_size[0]
    config = model_class.config_class(**{"image_size": side, **member.arguments})
    model_class(config).save_pretrained(folder)
    request = SourceRequest(f"hf:{folder}", image_size=member.image_size, mean=HALVES, std=HALVES)
    source = open_source(request)
    for part in source.module.modules():
        if hasattr(part, "config"):
            part.config._attn_implementation = "eager"
    return source


@pytest.fixture(scope="module", params=MEMBERS, ids=lambda member: member.address)
def found(request, tmp_path_factory) -> Found:
    member = request.param
    source = open_member(member, tmp_path_factory.mktemp("model"))
    reseed(source.module)
    size = source.preprocess.image_size
    with WeightsOnTokens() as seen, torch.no_grad():
        source.module(torch.zeros(1, 3, *size))
    graph = make_canonical(trace_small(source.module, size), source.preprocess, source.task)
    photos = sample_photos(source.preprocess)
    parity, _ = check_parity(
        source, graph.model.SerializeToString(), observe_reference(source, photos, "photographs")
    )
    units = find_units(ir.from_proto(graph.model).graph)
    return Found(member, graph, units, parity, sum(seen.sizes.values()))


def test_every_family_has_two_members():
    assert min(Counter(member.family for member in MEMBERS).values()) >= 2


def test_gives_what_the_model_gives(found):
    assert found.parity.spread > 100 * max(found.parity.max_error, 1e-7)


def test_finds_the_blocks_and_linear_layers_of_its_architecture(found):
    blocks = [unit for unit in found.units if isinstance(unit, Block)]
    assert len(blocks) == found.graph.depth == found.member.blocks
    for block in blocks:
        roles = list(dict.fromkeys(site.role for site in block.sites))
        assert [role for role in roles if role != "linear"] == ROLES
    sites = [site for unit in found.units for site in unit.sites]
    assert len(sites) == found.member.layers
    on_tokens = sum(math.prod(site.linear.shape) for site in sites)
    if not found.member.one_token:
        assert on_tokens == found.weights_on_tokens
    else:
        assert on_tokens > found.weights_on_tokens


def test_says_what_it_does_not_know(found):
    notes = "; ".join(found.graph.notes)
    assert (found.member.note in notes) if found.member.note else "attention of block" not in notes
    attentions = re.search(r"(\d+) attentions?\b", notes)
    assert (int(attentions[1]) if attentions else 0) == found.member.attentions
    assert ("INT8 has nothing to quantize" in notes) is (found.member.layers == 0)


def test_a_width_that_differs_from_block_to_block_is_not_known(found):
    blocks = [unit for unit in found.units if isinstance(unit, Block)]
    lasts = [[site for site in block.sites if site.role != "linear"][-1] for block in blocks]
    widths = {last.linear.shape[1] for last in lasts}  # of the residual stream
    assert found.graph.embed_dim == (widths.pop() if len(widths) == 1 else 0)
