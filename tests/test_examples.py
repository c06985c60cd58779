"""The numbered examples run, in order, each one on what those before it left."""

from __future__ import annotations

import importlib
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import edge_vit
from edge_vit.data.images import open_image_source
from edge_vit.spec import ClipSpec

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("[0-9][0-9]_*.py"))
NEEDS_NETWORK = ("08_segmentation", "09_depth")
"""Their backbone comes from a package index."""
LONG = ("12_generation",)
"""They sample for a minute; tests of the command line go the same way with a smaller model."""
CHECKED = {
    "07_detector": ("detector.scenes", "write_coco"),
    "10_video": ("video.clips", "write_clips"),
    "11_zero_shot": ("zero_shot.scenes", "write_folders"),
}
"""Examples whose figures are checked too, each by a test of its own; what writes their images."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("examples")


def test_there_are_examples_and_their_numbers_differ():
    numbers = [path.name[:2] for path in EXAMPLES]
    assert numbers
    assert len(set(numbers)) == len(numbers)


def test_no_file_beside_them_is_forgotten():
    files = {path.name for path in (ROOT / "examples").glob("*.py")}
    assert files == {path.name for path in EXAMPLES}


@pytest.fixture
def run_example(folder, monkeypatch, capfd):
    """Return a function that runs an example in this process and returns what it printed."""

    # `auto` is ONNX Runtime, which opens a session in a fraction of OpenVINO's time.
    monkeypatch.setattr("edge_vit.runtime.backends.has_vnni", lambda: False)

    def run(path: Path) -> str:
        monkeypatch.chdir(folder)
        monkeypatch.syspath_prepend(path.parent)
        runpy.run_path(str(path), run_name="__main__")
        captured = capfd.readouterr()
        assert captured.out.strip(), "an example shows something"
        assert not re.search(r"Traceback|Error:", captured.err)
        return captured.out

    return run


@pytest.fixture
def run_checked(run_example, monkeypatch):
    """Return a function that runs an example on one in `share` of its images, as often timed."""

    def run(name: str, share: int) -> str:
        monkeypatch.syspath_prepend(ROOT / "examples")
        module = importlib.import_module(CHECKED[name][0])
        write, verify = getattr(module, CHECKED[name][1]), edge_vit.verify
        monkeypatch.setattr(
            module,
            CHECKED[name][1],
            lambda *args, count, **more: write(*args, count=count // share, **more),
        )
        monkeypatch.setattr(
            edge_vit,
            "verify",
            lambda *args, iterations, **more: verify(*args, iterations=iterations // share, **more),
        )
        return run_example(ROOT / "examples" / f"{name}.py")

    return run


def figures(printed: str, pattern: str) -> dict[str, list[float]]:
    """Return by the first four characters of each line the numbers that `pattern` finds in it."""
    return {
        line[:4]: [float(value) for value in re.findall(pattern, line)]
        for line in printed.splitlines()
    }


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(
            p,
            id=p.stem,
            marks=[
                *([pytest.mark.network] if p.stem in NEEDS_NETWORK else []),
                *([pytest.mark.full] if p.stem in LONG else []),
            ],
        )
        for p in EXAMPLES
        if p.stem not in CHECKED
    ],
)
@pytest.mark.uncounted
def test_runs(path, run_example):
    run_example(path)


@pytest.mark.parametrize("share", [10, pytest.param(1, marks=pytest.mark.full)])
@pytest.mark.uncounted
def test_the_trained_detector_finds_digits_in_each_precision(share, run_checked):
    found = figures(run_checked("07_detector", share), r"AP\S* (\S+),")
    assert found["fp32"][1] >= 0.7
    assert found["int8"][0] >= found["fp32"][0] - (0.005 if share == 1 else 0.05)


@pytest.mark.parametrize("share", [8, pytest.param(1, marks=pytest.mark.full)])
@pytest.mark.uncounted
def test_the_model_of_clips_knows_the_ways_of_unseen_digits_in_each_precision(share, run_checked):
    found = figures(run_checked("10_video", share), r"([0-9.]+)%")
    assert found["fp32"][0] >= 90
    assert found["int8"][0] >= found["fp32"][0] - (1 if share == 1 else 2)


@pytest.fixture
def rooms(monkeypatch):
    """Return the module that makes rooms."""
    monkeypatch.syspath_prepend(ROOT / "examples")
    return importlib.import_module("rooms.scenes")


def test_rooms_have_true_masks_and_depths(rooms, tmp_path):
    folder = rooms.write_scenes(tmp_path / "rooms", "test", count=2, side=64, seed=0)
    again = rooms.write_scenes(tmp_path / "again", "test", count=2, side=64, seed=0)
    for name in ("images", "masks", "instances", "depth"):
        for number in ("0001", "0002"):
            first, second = ((f / name / f"{number}.png").read_bytes() for f in (folder, again))
            assert first == second
    classes, objects, depth = (
        np.asarray(Image.open(folder / name / "0001.png"))
        for name in ("masks", "instances", "depth")
    )
    assert set(np.unique(classes)) <= set(range(len(rooms.LABELS)))
    assert ((classes > 0) == (objects > 0)).all()
    assert classes.any()
    for number in set(np.unique(objects)) - {0}:  # of one class and one distance each
        assert len(np.unique(classes[objects == number])) == 1
        assert len(np.unique(depth[objects == number])) == 1
    below = depth[objects == 0]
    assert 1000 < below.min() < below.max() < 8000
    column = np.ma.masked_array(depth[:, 0].astype(int), objects[:, 0] > 0).compressed()
    assert (np.diff(column) <= 0).all(), "the floor comes nearer towards the lower edge"


def test_the_heads_beside_the_rooms_fit(rooms):
    model = importlib.import_module("rooms.model")
    for name, channels in (("segmentation", len(rooms.LABELS)), ("depth", 1)):
        head = model.Head(channels)
        weights = load_file(ROOT / "examples" / "rooms" / f"{name}.safetensors")
        head.load_state_dict({key: value.float() for key, value in weights.items()})
        found = head(torch.zeros(1, 4 * model.WIDTH, model.GRID, model.GRID))
        assert found.shape == (1, channels, 64, 64)


def test_clips_of_moving_digits_show_what_their_class_says(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    video = importlib.import_module("video.clips")
    for _, clip in zip(range(24), video.clips("test", 32, 8, seed=0), strict=False):
        (left, top, right, bottom), (left1, top1, right1, bottom1) = clip.boxes[[0, -1]]
        across = (left1 + right1 - left - right) / 2
        down = (top1 + bottom1 - top - bottom) / 2
        growth = (right1 - left1) / (right - left)
        way = {"left": -across, "right": across, "up": -down, "down": down}
        way |= {"nearer": growth - 1.2, "farther": 0.8 - growth}
        assert way[video.LABELS[clip.label]] > 0.1
    folder = video.write_clips(tmp_path / "clips", "train", count=6, side=32, frames=5, seed=1)
    source = open_image_source(folder, video.LABELS, clip=ClipSpec(5))
    same = video.clips("train", 32, 5, seed=1)
    made = sorted(clip.label for clip, _ in zip(same, range(6), strict=False))
    assert sorted(item.label for item in source) == made
    assert {item.pixels.shape for item in source} == {(5, 32, 32, 3)}


@pytest.mark.parametrize("share", [8, pytest.param(1, marks=pytest.mark.full)])
@pytest.mark.uncounted
def test_labels_that_training_never_saw_are_found_in_each_precision(share, run_checked):
    found = figures(run_checked("11_zero_shot", share), r"([0-9.]+)%")
    assert found["fp32"][0] >= 60
    assert found["fp32"][1] >= 35, "a tenth are right by guessing"
    assert found["int8"][0] >= found["fp32"][0] - (1 if share == 1 else 3)
