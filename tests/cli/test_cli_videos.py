"""Trimmed, raw and damaged videos on the command line: as images to measure on, and as a source."""

from __future__ import annotations

import json
import re

import pytest

pytest.importorskip("av", reason="PyAV is not installed")
from camera.damaged_videos import COUNT, DAMAGED, INTACT, encode, spoil
from PIL import Image

CLIPS = {clip.name: clip for clip in (*INTACT, *DAMAGED)}
NAMES = ["edit-list.mp4", "raw.h264", "mid-group.ts", "first.avi", "concealed.mp4", "cut.mkv"]


@pytest.fixture(scope="module", params=NAMES)
def clip(request, tmp_path_factory):
    """Return a clip and its path."""
    path = tmp_path_factory.mktemp("clips") / request.param
    CLIPS[request.param].make(path)
    return CLIPS[request.param], path


def test_a_camera_answers_the_good_frames_and_says_what_it_left_out(edgevit, shared_bundle, clip):
    clip, path = clip
    words = ("--backend", "ort", "--threads", 1, "--preprocess", "pillow")
    result = edgevit("camera", shared_bundle.path, "--source", path, "--json", *words)
    answered = len([json.loads(line) for line in result.stdout.splitlines()])
    if clip in INTACT:
        assert (result.exit_code, answered) == (0, clip.total)
        return
    assert result.exit_code == 1
    assert 0 < answered < clip.total
    last = result.stderr.splitlines()[-1]
    assert last.startswith("Error: ")
    if "cut off" in last:
        assert f"{answered} of " in last and " frames are good" in last
    else:
        assert f"{clip.total - answered} of {clip.total} frames have no answer" in last
        assert "times: " in last or "once: " in last


def test_images_of_a_video_are_its_good_frames(edgevit, shared_bundle, clip):
    clip, path = clip
    words = ("--precision", "fp32", "--backend", "ort", "--threads", 1)
    result = edgevit("eval", shared_bundle.path, "--data", path, "--json", *words)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    good = report["accuracy"]["num_images"] if "accuracy" in report else report["num_images"]
    assert 0 < good <= clip.total
    note = rf"{good} of (\d+) frames are good; (left out: |the file ends in the middle)"
    assert bool(re.search(note, result.stderr)) == (clip in DAMAGED)


def test_a_video_without_one_good_frame_is_one_line(refused, shared_bundle, tmp_path):
    path = encode(tmp_path / "a.avi", "mjpeg")
    spoil(path, range(COUNT), keep=0)
    message = f"holds no frame that can be decoded: 0 of {COUNT} frames are good"
    assert message in refused("eval", shared_bundle.path, "--data", path)


def test_a_video_among_images_is_named_with_the_command_that_takes_it(
    refused, shared_bundle, tmp_path
):
    path = encode(tmp_path / "the clip.MP4", "mpeg4")
    message = refused("run", shared_bundle.path, path)
    assert message == (
        f"{path} is a video, expected an image. For the predictions of its frames: "
        f"edgevit camera {shared_bundle.path} --source '{path}' --json"
    )


def test_an_animated_gif_is_a_video(edgevit, refused, shared_bundle, tmp_path):
    path = tmp_path / "a.gif"
    frames = [Image.new("RGB", (48, 48), (40 * index, 0, 0)) for index in range(5)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)
    words = ("--backend", "ort", "--threads", 1, "--preprocess", "pillow", "--json")
    result = edgevit("camera", shared_bundle.path, "--source", path, *words)
    assert (result.exit_code, len(result.stdout.splitlines())) == (0, 5), result.output
    assert f"camera {shared_bundle.path} --source {path}" in refused(
        "run", shared_bundle.path, path
    )
