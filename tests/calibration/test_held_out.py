"""Which calibration images judge the plan."""

from __future__ import annotations

import numpy as np
import pytest

from edge_vit.calibration.held_out import ChannelRange, HeldOut, Kept, group_related
from edge_vit.calibration.output_error import OutputError, forecast, thinned


def kept(value: float, feature=(0.0,)) -> Kept:
    """An image whose one activation reaches `value`."""
    reach = np.full(3, value, np.float32)
    return Kept(reach, {"x": ChannelRange(reach, reach)}, np.array(feature, np.float32))


def thin(value):
    """The only output of a model."""
    return thinned({"map": value}, 1)["map"]


def scenes(num_scenes: int, num_frames: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Features of frames by digest, which starts at random and ends in the scene's number."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(num_scenes, 64))
    return {
        f"{random.integers(1 << 40):012x}-{scene}": centres[scene] + random.normal(0, 0.2, 64)
        for scene in range(num_scenes)
        for _ in range(num_frames)
    }


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("num_shaping", [60, 20])
def test_scenes_are_held_out_whole(order, num_shaping):
    held = HeldOut(16, num_shaping)
    features = scenes(12, 6)
    for value, digest in enumerate(sorted(features)[::order]):
        held.add(digest, kept(value, features[digest]))
    chosen, shaping = held.split
    assert len(chosen) == 16
    assert 20 <= len(shaping) <= num_shaping
    scenes_of = [{digest.split("-")[1] for digest in digests} for digests in (chosen, shaping)]
    # The last few are of one more scene, where no whole one fits.
    assert len(scenes_of[0] & scenes_of[1]) <= 1 < len(scenes_of[0])


def test_of_many_images_few_keep_ranges_of_their_own():
    held = HeldOut(4, 50)
    for value, (digest, feature) in enumerate(scenes(40, 2).items()):
        held.add(digest, kept(value, feature))
    assert len(held.kept) == 12
    assert sum(bool(image.ranges) for image in (held.kept | held.others).values()) == 12
    chosen, shaping = held.split
    assert (len(chosen), set(chosen) & set(shaping)) == (4, set())
    assert 40 < len(shaping) <= 50


def test_which_are_held_out_depends_on_no_order():
    features, found = scenes(6, 8), []
    for seed in (0, 1):
        held = HeldOut(10, 20)
        for digest in np.random.default_rng(seed).permutation(sorted(features)):
            held.add(str(digest), kept(int(str(digest)[:6], 16), features[str(digest)]))
        ranges = held.ranges["x"]
        found.append((held.split, [*ranges.low, *ranges.high], [*map(float, held.shaping[0])]))
    assert found[0] == found[1]


def test_held_out_images_widen_no_range():
    held = HeldOut(2, 3)
    for value in range(9):
        held.add(str(value), kept(value, np.eye(9)[value]))
    assert held.split[0] == ["0", "1"]
    assert len(held.shaping) == 3
    assert (held.ranges["x"].low.min(), held.ranges["x"].high.max()) == (2.0, 8.0)


def test_frames_of_one_scene_are_still_held_out():
    held = HeldOut(4, 12)
    for value in range(16):
        held.add(f"{value:02}", kept(value, (1.0, 2.0)))
    assert held.split[0] == ["00", "01", "02", "03"]


def test_ranges_are_of_all_images_where_none_are_left():
    held = HeldOut(4)
    for value in (1.0, -3.0):
        held.add(str(value), kept(value))
    assert held.ranges["x"].low.tolist() == [-3.0] * 3
    assert held.ranges["x"].high.tolist() == [1.0] * 3


def test_a_chain_of_near_ones_is_a_group():
    half = [0, 20, 40, 90, 110, 130]  # 20 degrees are near, 50 are not
    angles = np.deg2rad([*half, *(angle + 180 for angle in half)])
    features = np.stack([np.cos(angles), np.sin(angles), np.full(12, 0.1)], axis=1)
    groups = [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    assert group_related(list(features)) == groups
    features += 3
    assert group_related(list((features * [1, 100, 1]).astype(np.float32))) == groups


def test_huge_channels_do_not_make_images_near():
    """They say as much about an image as any channel, whatever their weights make good for."""
    features = np.array(list(scenes(12, 6).values()))
    groups = group_related(list(features))
    assert len(groups) == 12
    features[:, :2] = 100 * features[:, :2] + 500
    assert group_related(list(features)) == groups


def test_a_forecast_holds_for_images_that_differ_by_tens_of_times():
    """Images held out and others flatter the plan by as much as they were found to."""
    noise = np.random.default_rng(0).lognormal(0, 1, (6400, 1)) / 1000
    whole = OutputError(noise, np.ones_like(noise))
    few = [samples_of(10**-0.12 * noise[i : i + 48], 16) for i in range(0, 6384, 48)]
    found, low, high = np.array([forecast(samples) for samples in few]).T
    assert np.mean(abs(found - whole.sqnr) < 2) > 0.8
    assert np.mean((low < whole.sqnr) & (whole.sqnr < high)) > 0.85
    assert (low < found).all() and (found < high).all()


def samples_of(noise, count):
    ones = np.ones_like(noise)
    return [OutputError(each, ones[: len(each)]) for each in (noise[:count], noise[count:])]


def test_a_forecast_knows_the_images_of_both_halves():
    """The one that is off most has its say, whether it was held out or shaped the plan."""
    good = np.full((4, 2), 1e-4)
    bad = np.concatenate([good[:3], good[:1] * 100])
    both = OutputError(good, np.ones((4, 2))).beside(OutputError(bad, np.ones((4, 2))))
    assert both.mean == pytest.approx(np.mean([*good, *bad]))
    assert both.worst == pytest.approx(0.01)
    halves = samples_of(np.concatenate([good, bad]), 4)
    found, low, high = forecast(halves)
    assert forecast(halves[::-1]) == pytest.approx((found, low, high))
    assert found == pytest.approx(both.sqnr - 1.2)
    assert low < halves[1].sqnr < found < halves[0].sqnr == pytest.approx(high)


def test_one_image_has_no_spread_and_a_broken_one_no_forecast():
    one = OutputError(np.array([[1e-3]]), np.array([[1.0]]))
    assert forecast([one]) == pytest.approx((28.8, 28.8, 30.0))
    broken = OutputError(np.array([[1e-3], [np.nan]]), np.ones((2, 1)))
    assert forecast([broken]) == pytest.approx((-60.0,) * 3)


def test_of_large_maps_a_share_of_the_cells_tells_the_error():
    random = np.random.default_rng(0)
    exact = random.standard_normal((4, 600, 900)).astype(np.float32)
    got = exact + random.normal(scale=0.1, size=exact.shape).astype(np.float32)
    few = thin(exact)
    assert few.shape == (4, 300, 450) and np.array_equal(few, exact[:, ::2, ::2])
    errors = [
        OutputError.of([{"map": a}], [{"map": b}]).mean for a, b in ((exact, got), (few, thin(got)))
    ]
    assert errors[1] == pytest.approx(errors[0], rel=0.01)
    assert thin(exact[0]).shape == (600, 900)


def test_the_classes_of_many_queries_stay_whole():
    """Each query keeps its classes beside its box or mask."""
    outputs = {
        "class_logits": np.zeros((900, 1203), np.float32),
        "mask_logits": np.zeros((900, 48, 48), np.float32),
    }
    found = thinned(outputs, 2)
    assert found["class_logits"].shape == (900, 1203)
    assert found["mask_logits"].shape == (900, 24, 24)
    assert thin(np.zeros((1203, 900), np.float32)).shape == (602, 450)  # a map of one channel
