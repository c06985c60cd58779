"""How often a calibration runs the model."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import onnx
import pytest
from seeded import random_images

from edge_vit.calibration import graph_run
from edge_vit.graph import exact
from edge_vit.spec.table import RECIPES

NUM_IMAGES = 256
NUM_SHAPING, NUM_ASKED = 84, 4  # as many as ViT-S at 224 pixels, of 197 tokens, has of each


def count_products(model: onnx.ModelProto) -> int:
    return sum(node.op_type in ("MatMul", "Gemm") for node in model.graph.node)


@pytest.fixture
def passes(vit, monkeypatch) -> list[float]:
    """The share of the model that each run of a session takes."""
    found, opened, whole = list[float](), exact._open, count_products(vit.model)

    def open_counted(data, options):
        session, share = opened(data, options), count_products(onnx.load_from_string(data)) / whole

        def run(names, feeds):
            found.append(share)
            return session.run(names, feeds)

        return SimpleNamespace(run=run, get_outputs=session.get_outputs)

    monkeypatch.setattr(exact, "_open", open_counted)
    return found


@pytest.mark.parametrize(("name", "limit"), [("fast", 1.1), ("balanced", 3.3)])
def test_it_takes_few_passes_over_the_images(vit, passes, monkeypatch, name, limit):
    tokens = 17
    vit = dataclasses.replace(vit, spec=dataclasses.replace(vit.spec, num_tokens=tokens))
    monkeypatch.setattr(graph_run, "_SHAPING_TOKENS", NUM_SHAPING * tokens)
    recipe = RECIPES[name]
    if recipe.search_tokens:
        recipe = dataclasses.replace(recipe, search_tokens=NUM_ASKED * tokens)
    table = vit.calibrate(random_images(NUM_IMAGES), recipe)
    assert table.num_images == NUM_IMAGES
    assert NUM_IMAGES <= sum(passes) <= limit * NUM_IMAGES
