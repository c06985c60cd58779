"""Models of clips: of transformers, a user's own, ONNX files; attention in time and in space.

Graphs come from torch's older exporter where tracing is not what is tested.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
import transformers
from small_clips import CLASSES, CROP, FRAMES, MODELS, PROCESSORS, SIZE
from small_clips import make_clip_model as make
from torch import nn
from traced import trace_script

from edge_vit.data.preprocess import preprocess
from edge_vit.errors import ArtifactError, SpecError
from edge_vit.export.canonical import make_canonical
from edge_vit.export.export import export_model
from edge_vit.export.parity import sample_photos
from edge_vit.export.reference import normalise
from edge_vit.export.sources import SourceRequest, open_source
from edge_vit.graph.exact import open_graph
from edge_vit.graph.sites import find_blocks
from edge_vit.spec import ClipSpec, PreprocessSpec

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


def read(folder, **said):
    return open_source(SourceRequest(f"hf:{folder}", **said))


@pytest.mark.parametrize("key", MODELS)
def test_gives_the_logits_of_the_model_in_the_folder(tmp_path, key):
    model = make(tmp_path, key)
    source = read(tmp_path)
    clips = torch.randn(2, FRAMES, 3, SIZE, SIZE)
    with torch.no_grad():
        wanted = model(clips).logits
        assert torch.allclose(source.module(clips), wanted, atol=1e-5)
    assert source.task == "classification"
    assert source.preprocess.clip.frames == FRAMES
    assert source.remarks == (f"of a video it reads {source.preprocess.clip}",)


@pytest.mark.parametrize("key", ["timesformer", "videomae", "vivit", "vjepa2"])
def test_without_a_head_a_model_gives_features(tmp_path, key):
    model = make(tmp_path, key, head="Model")
    source = read(tmp_path)
    clips = torch.randn(2, FRAMES, 3, SIZE, SIZE)
    with torch.no_grad():
        tokens = model(clips).last_hidden_state
    wanted = tokens[:, 0] if key in ("timesformer", "vivit") else tokens.mean(1)
    with torch.no_grad():
        assert torch.allclose(source.module(clips), wanted, atol=1e-5)
    assert source.task == "features"


@pytest.mark.parametrize("processor", PROCESSORS)
def test_clips_are_prepared_as_the_processor_of_transformers_does(tmp_path, processor):
    model = make(tmp_path, processor.partition("-")[0], processor)
    source = read(tmp_path)
    photo = np.asarray(sample_photos(PreprocessSpec((90, 120)), 1)[0])
    clip = np.stack([photo[:, shift : shift + 100] for shift in range(0, 16, 4)])
    kind, said = PROCESSORS[processor]
    frames = list(clip) if kind.endswith("ImageProcessor") else clip
    wanted = getattr(transformers, kind)(crop_size=CROP, **said)(frames, return_tensors="pt")
    wanted = wanted[model.main_input_name].numpy()
    ours = normalise(preprocess(clip, source.preprocess)[None], source.preprocess)
    assert ours.shape == wanted.shape == (1, FRAMES, 3, SIZE, SIZE)
    # Both resample with antialiasing in fixed point: two levels of 255 at most
    level = 1 / (255 * min(source.preprocess.std))
    assert np.abs(ours - wanted).max() <= 2.01 * level
    assert np.abs(ours - wanted).mean() <= 0.25 * level
    with torch.no_grad():
        logits = model(torch.from_numpy(wanted)).logits.numpy()
        found = source.module(torch.from_numpy(ours)).numpy()
    assert np.abs(found - logits).max() <= 0.02 * np.abs(logits).max()


def test_the_users_sampling_goes_over_that_of_the_family(tmp_path):
    make(tmp_path, "timesformer")
    assert read(tmp_path).preprocess.clip == ClipSpec(FRAMES, 32)
    own = read(tmp_path, stride=2, sampling="start").preprocess.clip
    assert own == ClipSpec(FRAMES, 2, "start")
    with pytest.raises(SpecError, match=r"--frames: got 8, but hf:.* reads clips of 4. Leave it"):
        read(tmp_path, frames=8)
    with pytest.raises(SpecError, match="positions of timesformer are for 16 alone"):
        read(tmp_path, image_size=(24, 24))
    with pytest.raises(SpecError, match=r"--stride: timm:vit_tiny.* reads single images, leave it"):
        open_source(SourceRequest("timm:vit_tiny_patch16_224", random_weights=True, stride=4))


def test_a_missing_pooler_of_v_jepa_2_is_refused_for_its_head_reads_it(tmp_path):
    model = make(tmp_path, "vjepa2", head="Model")
    model.config.architectures = ["VJEPA2ForVideoClassification"]
    model.config.save_pretrained(tmp_path)
    with pytest.raises(ArtifactError, match="pooler"):
        read(tmp_path)


def canonical(module, **said):
    """Return a graph in canonical form, and what it and `module` give for the same clips."""
    spec = PreprocessSpec((SIZE, SIZE), clip=ClipSpec(FRAMES))
    proto = trace_script(module.eval(), (SIZE, SIZE), frames=FRAMES, opset=18)
    found = make_canonical(proto, spec, "classification", **said)
    clips = np.random.default_rng(0).integers(0, 256, (3, FRAMES, SIZE, SIZE, 3), np.uint8)
    (ours,) = open_graph(found.model.SerializeToString()).run(None, {"images": clips})
    with torch.no_grad():
        wanted = module(torch.from_numpy(normalise(clips, spec))).numpy()
    return found, ours, wanted


@pytest.mark.parametrize("key", ["timesformer", "timesformer-joint", "videomae"])
def test_attention_in_time_and_in_space_are_blocks_with_their_linear_layers(tmp_path, key):
    make(tmp_path, key)
    found, ours, wanted = canonical(read(tmp_path).module)
    assert np.abs(ours - wanted).max() < 1e-5 * np.abs(wanted).max()
    assert found.notes == ()
    blocks = find_blocks(ir.from_proto(found.model).graph)
    roles = [[site.role for site in block.sites] for block in blocks]
    whole = ["qkv", "proj", "fc1", "fc2"]
    is_divided = key == "timesformer"
    assert roles == ([["qkv", "proj"], whole] * 2 if is_divided else [whole] * 2)
    assert all(b.linears("qkv")[0].shape == (24, 72) for b in blocks)  # one product for all three
    # The layer behind the attention in time is part of its output layer
    assert all(b.linears("proj")[0].shape == (24, 24) for b in blocks)
    names = [node.name for node in found.model.graph.node if node.op_type == "MatMul"]
    assert sum(not name.startswith("block") for name in names) == 1  # the head


class ChannelsFirst(nn.Module):
    """A convolution over time and space, as torchvision's models of clips have it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv3d(3, 8, (2, 8, 8), (2, 8, 8))
        self.head = nn.Linear(8, CLASSES)

    def forward(self, clips):
        return self.head(self.patches(clips).tanh().mean((2, 3, 4)))


HALVES = {"mean": (0.5,) * 3, "std": (0.5,) * 3}


def channels_first():
    return ChannelsFirst()


@pytest.fixture
def own_module(monkeypatch):
    """Return the address of `channels_first` as a user's own module."""
    import sys

    monkeypatch.setitem(sys.modules, "clip_models", sys.modules[__name__])
    return "python:clip_models:channels_first"


def test_a_users_own_model_may_take_channels_before_frames(own_module):
    said = {"image_size": (SIZE, SIZE), "frames": FRAMES, **HALVES}
    source = open_source(SourceRequest(own_module, **said))
    assert "swapped in the graph" in source.remarks[1]
    clips = torch.randn(2, FRAMES, 3, SIZE, SIZE)
    with torch.no_grad():
        wanted = ChannelsFirst()(clips.transpose(1, 2))
        assert torch.allclose(source.module(clips), wanted)


def test_a_file_of_clips_is_exported_whichever_order_its_axes_have(tmp_path):
    path = tmp_path / "own.onnx"
    proto = trace_script(ChannelsFirst().eval(), (FRAMES, SIZE, SIZE))
    path.write_bytes(proto.SerializeToString())
    exported = export_model(SourceRequest(f"onnx:{path}", stride=2, **HALVES))
    assert exported.spec.inputs[0].shape == ("batch", FRAMES, SIZE, SIZE, 3)
    assert exported.spec.preprocess.clip == ClipSpec(FRAMES, 2)
    assert exported.images.shape == (5, FRAMES, SIZE, SIZE, 3)
    clip = normalise(exported.images, exported.spec.preprocess)
    with torch.no_grad():
        wanted = ChannelsFirst()(torch.from_numpy(clip).transpose(1, 2)).numpy()
    assert np.allclose(exported.outputs, wanted, atol=1e-5)
    path.write_bytes(exported.fp32)  # edge-vit's own graph: uint8, frames before channels
    again = export_model(SourceRequest(f"onnx:{path}"))
    assert np.allclose(again.outputs, wanted, atol=1e-5)
