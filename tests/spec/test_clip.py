"""Which frames of a video a model reads."""

from __future__ import annotations

import pytest
import torch
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoMetadata

from edge_vit.errors import SpecError
from edge_vit.spec import ClipSpec, PreprocessSpec, image_input
from edge_vit.values import from_json, to_json


def test_frames_lie_in_the_middle_of_a_video_or_at_its_start():
    assert ClipSpec(4, 2).indices(11) == (2, 4, 6, 8)
    assert ClipSpec(4, 2, "start").indices(11) == (0, 2, 4, 6)
    assert ClipSpec(3).indices(3) == (0, 1, 2)


def test_the_last_frame_of_a_video_that_is_too_short_is_repeated():
    assert ClipSpec(4, 2).indices(5) == (0, 2, 4, 4)
    assert ClipSpec(4, 3).indices(1) == (0, 0, 0, 0)


@pytest.mark.parametrize("count", [8, 9, 30, 301])
def test_frames_are_spread_as_transformers_spreads_them(count):
    processor = BaseVideoProcessor(num_frames=8)
    facts = VideoMetadata(total_num_frames=count, fps=25)
    wanted = torch.as_tensor(processor.sample_frames(facts, num_frames=8)).tolist()
    assert list(ClipSpec(8, 4, "spread").indices(count)) == wanted


def test_a_clip_is_written_where_there_is_one_and_read_again():
    of_images = PreprocessSpec((8, 8))
    assert "clip" not in to_json(of_images)
    of_clips = PreprocessSpec((8, 8), clip=ClipSpec(4, 2, "start"))
    assert from_json(PreprocessSpec, to_json(of_clips)) == of_clips
    assert image_input((8, 6), clip=of_clips.clip).shape == ("batch", 4, 8, 6, 3)


@pytest.mark.parametrize(
    ("said", "wanted"),
    [((0,), "frames of a clip: got 0"), ((4, 0), "stride of a clip: got 0")],
)
def test_clips_that_cannot_be_are_refused(said, wanted):
    with pytest.raises(SpecError, match=wanted):
        ClipSpec(*said)
    with pytest.raises(SpecError, match="sampling: got 'random', expected one of center"):
        ClipSpec(4, 1, "random")
    with pytest.raises(SpecError, match="no frames"):
        ClipSpec(4).indices(0)
