"""A calibration that was cut off goes on, and ends in the same table to the last byte."""

from __future__ import annotations

import numpy as np
import pytest
from seeded import Remembered, random_images

from edge_vit.calibration import observer
from edge_vit.calibration import seen as seen_module
from edge_vit.calibration.calibrate import calibrate_model
from edge_vit.calibration.seen import Seen, SeenFile
from edge_vit.calibration.stats import ActivationStats
from edge_vit.data.images import ArraySource
from edge_vit.spec.table import RECIPES

IMAGES = random_images(12)


class CutOff(ArraySource):
    """Images of which the one at `at` is never handed out: somebody types Ctrl-C."""

    def __init__(self, images: np.ndarray, at: int) -> None:
        super().__init__(images)
        self.at = at

    def __iter__(self):
        for index, item in enumerate(super().__iter__()):
            if index == self.at:
                raise KeyboardInterrupt
            yield item


@pytest.fixture
def calibrate(vit, tmp_path, monkeypatch):
    """A function (images, recipe) -> table, and counts of the images that were really run."""
    looked = []
    real = Seen.add
    monkeypatch.setattr(Seen, "add", lambda *given: looked.append(given[1]) or real(*given))

    def run(images, recipe="fast", progress=None):
        looked.clear()
        return calibrate_model(
            vit.model.SerializeToString(),
            vit.spec,
            images,
            RECIPES[recipe],
            threads=1,
            state_path=tmp_path / "state.npz",
            progress=progress or Remembered(),
        )

    run.looked = looked
    run.path = tmp_path / "state.npz"
    return run


@pytest.mark.uncounted
@pytest.mark.parametrize("recipe", ["fast", "balanced"])
def test_goes_on_after_an_interruption_to_the_same_byte(vit, calibrate, recipe):
    whole = vit.calibrate(IMAGES, RECIPES[recipe])
    with pytest.raises(KeyboardInterrupt):
        calibrate(CutOff(IMAGES, 7), recipe)
    assert len(calibrate.looked) == 7
    progress = Remembered()
    table = calibrate(ArraySource(IMAGES), recipe, progress)
    assert len(calibrate.looked) == 5
    assert any("going on from 7 images" in note for note in progress.notes)
    assert table.to_bytes() == whole.to_bytes()


def test_goes_on_in_any_order(vit, calibrate):
    with pytest.raises(KeyboardInterrupt):
        calibrate(CutOff(IMAGES, 5))
    table = calibrate(ArraySource(IMAGES[::-1]))
    assert len(calibrate.looked) == 7
    assert table.to_bytes() == vit.calibrate(IMAGES, RECIPES["fast"]).to_bytes()


def test_is_kept_while_it_runs_for_a_run_that_is_killed(calibrate, monkeypatch):
    monkeypatch.setattr(seen_module, "write_atomically", _noting := Noting())
    monkeypatch.setattr(observer, "SECONDS_BETWEEN_SAVES", 0.0)
    calibrate(ArraySource(IMAGES))
    assert len(_noting.written) == 12
    assert all(path == calibrate.path for path in _noting.written)


class Noting:
    """Stands for `write_atomically`, and writes nothing."""

    def __init__(self) -> None:
        self.written = []

    def __call__(self, path, data) -> None:
        self.written.append(path)


def test_repeated_images_are_looked_at_as_often_as_they_come(vit, calibrate):
    twice = np.concatenate([IMAGES[:3], IMAGES[:3]])
    with pytest.raises(KeyboardInterrupt):
        calibrate(CutOff(twice, 4))
    table = calibrate(ArraySource(twice))
    assert len(calibrate.looked) == 2
    assert table.to_bytes() == vit.calibrate(twice, RECIPES["fast"]).to_bytes()


def test_other_images_begin_anew(vit, calibrate):
    with pytest.raises(KeyboardInterrupt):
        calibrate(CutOff(IMAGES, 7))
    progress, others = Remembered(), IMAGES[4:]
    table = calibrate(ArraySource(others), "fast", progress)
    assert any("beginning anew" in note for note in progress.notes)
    assert table.to_bytes() == vit.calibrate(others, RECIPES["fast"]).to_bytes()


@pytest.mark.parametrize("damage", [b"", b"garbage", None], ids=["empty", "garbage", "truncated"])
def test_a_damaged_file_is_no_reason_to_stop(vit, calibrate, damage):
    with pytest.raises(KeyboardInterrupt):
        calibrate(CutOff(IMAGES, 7))
    data = calibrate.path.read_bytes()
    calibrate.path.write_bytes(data[:-40] if damage is None else damage)
    table = calibrate(ArraySource(IMAGES))
    assert len(calibrate.looked) == 12
    assert table.to_bytes() == vit.calibrate(IMAGES, RECIPES["fast"]).to_bytes()


def test_a_file_of_another_recipe_or_model_is_not_used(calibrate):
    with pytest.raises(KeyboardInterrupt):
        calibrate(CutOff(IMAGES, 7), "fast")
    calibrate(ArraySource(IMAGES), "balanced")  # which holds other images out
    assert len(calibrate.looked) == 12


def test_a_place_that_cannot_be_written_is_no_reason_to_stop(tmp_path):
    (tmp_path / "file").write_text("")
    kept = SeenFile(tmp_path / "file" / "state.npz", "key", 1)
    kept.seen.add("a", IMAGES[0], {"x": ActivationStats.of(np.ones((2, 3), np.float32))})
    kept.save()
    kept.save()


def test_comes_back_as_it_was():
    seen = Seen("key", 1)
    rng = np.random.default_rng(0)
    for index in range(3):
        values = {name: rng.standard_normal((4, 3), np.float32) for name in ("a/b", "c")}
        stats = {name: ActivationStats.of(value) for name, value in values.items()}
        seen.add(str(index), IMAGES[index], stats)
    again = Seen.from_bytes(seen.to_bytes(), "key", 1)
    assert again is not None
    assert again.to_bytes() == seen.to_bytes()
    assert again.digests == ["0", "1", "2"]
    np.testing.assert_array_equal(again.held_out.images, seen.held_out.images)
    assert again.farthest.keys() == {"0", "1", "2"}
    assert Seen.from_bytes(seen.to_bytes(), "another", 1) is None


def test_keeps_the_images_that_reach_farthest_in_any_order():
    reaches, kept = [3.0, -9.0, 7.0, 1.0, 7.0, 8.0, -7.0], []
    for order in (reaches, reaches[::-1]):
        seen = Seen("key", 1)
        for index, reach in enumerate(order):
            name = str(index if order is reaches else len(reaches) - 1 - index)
            stats = {"x": ActivationStats.of(np.array([[0.5, reach]], np.float32))}
            seen.add(name, IMAGES[int(name)], stats)
        kept.append({name: reach for name, (reach, _) in sorted(seen.farthest.items())})
    assert kept[0] == kept[1] == {"1": 9.0, "4": 7.0, "5": 8.0, "6": 7.0}
