"""``hf:`` depth models: exported as they are, decoded as by transformers; features on a grid."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from small_depths import MAKERS, SIDE, make_depth_model, save_depth_model
from traced import older_exporter

from edge_vit.data.preprocess import preprocess
from edge_vit.export.export import export_model
from edge_vit.export.reference import normalise
from edge_vit.export.sources import SourceRequest, open_source
from edge_vit.export.sources.huggingface_maps import fix_neck
from edge_vit.graph.exact import open_graph
from edge_vit.tasks import task_of

BOUND = 1e-4  # of the largest depth
IMAGE = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)


@pytest.fixture(scope="module", params=MAKERS)
def exported(request, tmp_path_factory):
    folder = save_depth_model(request.param, tmp_path_factory.mktemp("depth"))
    with nullcontext() if request.param == "depth_anything" else older_exporter():
        return request.param, folder, export_model(SourceRequest(f"hf:{folder}"))


def test_the_graph_is_in_canonical_form(exported):
    _, _, found = exported
    spec = found.spec
    assert (spec.task, spec.outputs[0].name, spec.depth) == ("depth", "depth", 4)
    assert spec.inputs[0].shape == ("batch", *SIDE, 3)
    assert spec.num_tokens == 1 + 4 * 6
    # DPT's neck has linear layers of its own; nothing else is left in another form.
    assert all("linear layers beside the blocks" in note for note in found.record.notes)
    assert found.record.parity.max_error < 1e-4


def test_depths_are_those_of_transformers_in_the_image_s_own_pixels(exported):
    kind, _, found = exported
    picture = np.asarray(Image.fromarray(IMAGE).resize((120, 75), Image.Resampling.BICUBIC))
    pixels = preprocess(picture, found.spec.preprocess)[None]
    session = open_graph(found.fp32)
    depth = session.run(["depth"], {"images": pixels})[0]
    (ours,) = task_of(found.spec).decode(found.spec, {"depth": depth}, sizes=[(75, 120)])
    model = make_depth_model(kind)
    fix_neck(model, SIDE)
    tensor = torch.from_numpy(normalise(pixels, found.spec.preprocess))
    with torch.no_grad():
        outputs = model(pixel_values=tensor)
    processor = transformers.DPTImageProcessor()
    (theirs,) = processor.post_process_depth_estimation(outputs, target_sizes=[(75, 120)])
    wanted = theirs["predicted_depth"].numpy()
    assert np.abs(ours.whole() - wanted).max() < BOUND * wanted.max()
    assert wanted.std() > 0.05


@pytest.mark.parametrize("kind", MAKERS)
def test_the_neck_s_grid_changes_nothing_of_a_square(kind):
    model, images = make_depth_model(kind), torch.randn(2, 3, 70, 70)
    with torch.no_grad():
        before = model(pixel_values=images).predicted_depth
        fix_neck(model, (70, 70))
        assert torch.equal(model(pixel_values=images).predicted_depth, before)


def test_features_on_a_grid_are_those_of_transformers_backbone(tmp_path):
    config = transformers.Dinov2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=28,
        patch_size=14,
        out_features=["stage2"],
    )
    torch.manual_seed(0)
    transformers.Dinov2Model(config).save_pretrained(tmp_path)
    said = {"image_size": (56, 42), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    source = open_source(SourceRequest(f"hf:{tmp_path}", task="dense", **said))
    assert (source.task, source.outputs) == ("dense", ("feature_map",))
    backbone = transformers.Dinov2Backbone.from_pretrained(tmp_path, out_features=["stage2"])
    images = torch.randn(2, 3, 56, 42)
    with torch.no_grad():
        (found,) = source.module(images)
        (wanted,) = backbone.eval()(images).feature_maps
    assert found.shape == (2, 16, 4, 3)
    assert torch.allclose(found, wanted, atol=1e-5)
