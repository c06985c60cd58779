"""Where models look: for every way of reading an answer, or one line that says why not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import timm
import torch
from graph_files import FP32, INT8_CPU
from seeded import make_seeded, random_images, seeded_vit
from traced import trace_small

from edge_vit.bundle import draft_bundle
from edge_vit.data.images import ArraySource
from edge_vit.errors import SpecError
from edge_vit.explain.explain import explain, find_view
from edge_vit.lowering.qdq import write_qdq

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}


def timm_vit(name="vit_tiny_patch16_224", **changes):
    model = timm.create_model(name, num_classes=5, **{**SMALL, **changes})
    seeded = make_seeded(model, 32, 5)
    blocks = 16 + model.num_prefix_tokens
    return dataclasses.replace(
        seeded, spec=dataclasses.replace(seeded.spec, num_tokens=blocks, depth=2)
    )


CASES = {
    "class token": ({}, "class token", 1),
    "registers": ({"reg_tokens": 4}, "class token", 5),
    "distilled": ({"name": "deit_tiny_distilled_patch16_224"}, "2 prefix tokens", 2),
    "mean": ({"class_token": False, "global_pool": "avg"}, "mean of the patches", 0),
    "mean beside registers": (
        {"class_token": False, "global_pool": "avg", "reg_tokens": 4},
        "mean of the patches",
        4,
    ),
    "attention pooling": (
        {"class_token": False, "global_pool": "map"},
        "attention pooling",
        0,
    ),
}


@pytest.mark.parametrize(("changes", "words", "num_prefix"), CASES.values(), ids=CASES)
def test_finds_what_the_answer_is_read_from(changes, words, num_prefix):
    model = timm_vit(**changes)
    view = find_view(model.model, model.spec)
    assert view.reading.words == words
    assert (view.layout.rows, view.layout.columns, view.layout.num_prefix) == (4, 4, num_prefix)
    assert len(view.attentions) == 2
    if not view.reading.pool:
        assert sum(view.reading.weights) == pytest.approx(1)
        assert len(view.reading.weights) == 16 + num_prefix


@pytest.fixture(scope="module")
def make_bundle(tmp_path_factory):
    def make(model):
        path = tmp_path_factory.mktemp("explained") / "vit.edgevit"
        table = model.calibrate(random_images(8))
        with draft_bundle(path, model.spec) as draft:
            int8 = write_qdq(model.model, table).SerializeToString()
            draft.add({FP32: model.model.SerializeToString(), INT8_CPU: int8})
        return path

    return make


@pytest.mark.parametrize("name", ["class token", "attention pooling"])
def test_looks_at_every_image_with_both_precisions(make_bundle, name):
    path = make_bundle(timm_vit(**CASES[name][0]))
    found = explain(path, ArraySource(random_images(3, seed=5)), "int8")
    assert len(found) == 3
    for explanation in found:
        for each in (explanation.reference, explanation.candidate):
            rollout = np.array(each.rollout)
            assert rollout.shape == (4, 4)
            assert rollout.sum() == pytest.approx(1, abs=1e-6)
            assert len(each.answers) == 3
        assert explanation.reading == CASES[name][1]
        assert 0.5 < explanation.correlation < 1  # quantized: alike, and not the same
    assert found[0].reference.rollout != found[1].reference.rollout


def test_fp32_against_itself_looks_at_the_same_place(make_bundle):
    (found,) = explain(make_bundle(timm_vit()), ArraySource(random_images(1)), "fp32")
    assert (found.correlation, found.overlap) == (pytest.approx(1), 1)


@pytest.mark.uncounted
def test_a_fixed_batch_is_filled_up(make_bundle):
    model = seeded_vit(batch=2)
    model = dataclasses.replace(model, spec=dataclasses.replace(model.spec, num_tokens=17))
    (found,) = explain(make_bundle(model), ArraySource(random_images(1)), "int8")
    assert np.array(found.candidate.rollout).sum() == pytest.approx(1, abs=1e-6)


def test_features_have_no_answers(make_bundle):
    model = timm_vit()
    model = dataclasses.replace(
        model, spec=dataclasses.replace(model.spec, task="features", activation=None, labels=())
    )
    (found,) = explain(make_bundle(model), ArraySource(random_images(1)), "int8")
    assert found.reference.answers == ()


class NoAttention(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = torch.nn.Conv2d(3, 8, 8, 8), torch.nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.embed(x).flatten(2).mean(-1))


@pytest.mark.uncounted
def test_says_why_a_model_without_attention_cannot_be_drawn(make_bundle):
    spec = seeded_vit().spec
    model = NoAttention().eval()
    with pytest.raises(SpecError, match="cannot be drawn: no self-attention was found"):
        find_view(trace_small(model, (32, 32)), spec)


def test_says_why_tokens_that_are_no_patches_cannot_be_drawn():
    model = seeded_vit()
    spec = dataclasses.replace(model.spec, num_tokens=9)
    with pytest.raises(SpecError, match="its 9 tokens are not the patches of one grid"):
        find_view(model.model, spec)


def test_says_which_value_a_foreign_graph_lacks(tmp_path):
    model = seeded_vit()
    spec = dataclasses.replace(model.spec, num_tokens=17)
    foreign = model.model.SerializeToString().replace(b"/softmax:0", b"/softmin:0")
    path = tmp_path / "vit.edgevit"
    with draft_bundle(path, spec) as draft:
        draft.add({FP32: model.model.SerializeToString(), INT8_CPU: foreign})
    with pytest.raises(SpecError, match=r"has no value block0/softmax:0.*Run: edgevit quantize"):
        explain(path, ArraySource(random_images(1)), "int8")
