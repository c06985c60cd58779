"""Depth maps: fitted to true distances, read from files, measured and judged."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from edge_vit.data.images import open_image_source
from edge_vit.errors import ImageError, SpecError
from edge_vit.measure.accuracy import evaluate
from edge_vit.measure.gates import judge_accuracy
from edge_vit.runtime.fake import FakeSession
from edge_vit.spec import ModelSpec, PreprocessSpec, TensorSpec, image_input
from edge_vit.tasks import task_of
from edge_vit.tasks.depth import fit, ratios_within, summarize_truth
from edge_vit.tasks.maps.pictures import to_png16

INPUT, SIZE = (28, 42), (56, 84)
SPEC = ModelSpec(
    name="tiny",
    source="hf:tiny",
    task="depth",
    labels=(),
    inputs=(image_input(INPUT),),
    outputs=(TensorSpec("depth", "float32", ("batch", *INPUT)),),
    preprocess=PreprocessSpec(INPUT, crop_mode="squash", crop_pct=1.0),
)
RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("to_output", [lambda d: 3 * d - 7, lambda d: 40 / d + 2, lambda d: d])
def test_scale_and_shift_do_not_count_nor_whether_it_is_inverse(to_output):
    truth = RANDOM.uniform(1, 20, 500)
    assert fit(to_output(truth), truth) == pytest.approx(truth)


def test_a_flat_map_is_no_depth():
    truth = RANDOM.uniform(1, 20, 500)
    assert ratios_within(truth, fit(np.ones(500), truth)) < 0.4


def test_the_least_squares_are_those_of_numpy():
    truth, values = RANDOM.uniform(1, 20, 500), RANDOM.standard_normal(500)
    values += truth / 5
    columns = np.stack([values, np.ones(500)], axis=1)
    wanted = columns @ np.linalg.lstsq(columns, truth, rcond=None)[0]
    assert fit(values, truth) == pytest.approx(np.clip(wanted, truth.min(), truth.max()))


def test_several_values_for_each_cell_are_no_depth():
    outputs = (TensorSpec("depth", "float32", ("batch", 3, *INPUT)),)
    with pytest.raises(SpecError, match=r"expected one depth for each cell.*Take --task dense"):
        dataclasses.replace(SPEC, outputs=outputs)


class Inverse(FakeSession):
    """A model that gives the inverse of the distance that an image's red channel tells."""

    def __init__(self, spec, precision="fp32", noise=0.0):
        super().__init__(spec, precision)
        self._noise = noise

    def _run(self, feeds):
        images = feeds[self.inputs[0].name]
        distance = 1 + images[..., 0].astype(np.float32) / 16
        noise = np.random.default_rng(images.sum()).standard_normal(distance.shape)
        return {"depth": (5 / distance + 1 + self._noise * noise).astype(np.float32)}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Write 32 images of slopes, whose distance is 1 + red / 16, half as PNG, half as npy."""
    root = tmp_path_factory.mktemp("scenes")
    (root / "images").mkdir()
    (root / "depths").mkdir()
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    for number in range(32):
        red = 128 + 100 * np.sin(rows / (9 + number) + columns / (31 - number / 2) + number)
        picture = np.stack([red, 255 - red, np.full(SIZE, 8.0 * number)], axis=-1)
        Image.fromarray(picture.round().astype(np.uint8)).save(root / f"images/{number:02}.png")
        distance = 1 + red / 16
        if number % 2:
            levels = (1000 * distance).round().astype(np.uint16)
            levels[:3] = 0  # not known
            Image.fromarray(levels).save(root / f"depths/{number:02}.png")
        else:
            np.save(root / f"depths/{number:02}.npy", distance)
    return root


@pytest.mark.parametrize(("noise", "outcome"), [(0.01, "pass"), (1.0, "fail")])
def test_an_evaluation_reads_the_truth(scenes, noise, outcome):
    source = open_image_source(scenes, truth=task_of(SPEC).truth_files(SPEC))
    candidate = Inverse(SPEC, "int8", noise)
    (report,) = evaluate(Inverse(SPEC), [candidate], SPEC, source)
    found = report.measures
    assert found["abs_rel"].reference < 0.02 and found["delta1"].reference > 0.99
    assert found["delta1"].low <= found["delta1"].value <= found["delta1"].high
    assert (found["delta1_drop"].value > 0.1) is (outcome == "fail")
    gate = judge_accuracy(report, 0.5)
    assert (gate.outcome, gate.value) == (outcome, pytest.approx(100 * found["delta1_drop"].value))


def test_one_image_is_no_plural_and_decides_nothing(scenes):
    source = open_image_source(scenes, (), 1, truth=task_of(SPEC).truth_files(SPEC))
    (report,) = evaluate(Inverse(SPEC), [Inverse(SPEC, "int8", 0.01)], SPEC, source)
    gate = judge_accuracy(report, 0.5)
    assert gate.outcome == "undecided" and " points on 1 image, " in gate.sentence


def test_without_truth_the_reference_is_the_measure(scenes):
    source = open_image_source(scenes, has_truth=False)
    (report,) = evaluate(Inverse(SPEC), [Inverse(SPEC, "int8", 0.01)], SPEC, source)
    assert "abs_rel" not in report.measures and report.measures["delta1_fp32"].value > 0.99
    assert judge_accuracy(report, 0.5).outcome == "pass"


def test_images_beside_their_truth_are_images_to_calibrate_on(scenes):
    source = open_image_source(scenes, has_truth=False)
    assert len(source) == 32 and all(item.truth is None for item in source)


def test_a_file_that_does_not_fit_is_refused_by_name(scenes, tmp_path):
    read = task_of(SPEC).truth_files(SPEC).read
    with pytest.raises(ImageError, match="got 56 x 84 pixels, but its image has 5 x 5, another"):
        read(scenes / "depths/00.npy", (5, 5))
    Image.new("RGB", (84, 56)).save(tmp_path / "colours.png")
    with pytest.raises(ImageError, match=r"expected distances \(height, width\)"):
        read(tmp_path / "colours.png", SIZE)
    (tmp_path / "torn.png").write_bytes(b"\x89PNG")
    with pytest.raises(ImageError, match=r"torn\.png cannot be read"):
        read(tmp_path / "torn.png", SIZE)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (np.full(SIZE, 2.0), "all its distances are 2, expected some that differ"),
        (np.linspace(-9, -1, SIZE[0] * SIZE[1]).reshape(SIZE), "0 of its pixels have a distance"),
        (np.full(SIZE, np.nan), "0 of its pixels have a distance above 0, expected 16 at least"),
        (np.eye(*SIZE)[::-1] * (np.arange(SIZE[0]) < 9)[:, None], "9 of its pixels"),
    ],
)
def test_distances_that_any_map_fits_are_no_truth(tmp_path, values, why):
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(ImageError, match=f"{why}.*Give distances, larger farther"):
        task_of(SPEC).truth_files(SPEC).read(tmp_path / "a.npy", SIZE)


def test_distances_come_in_any_usual_file_and_resolution(tmp_path):
    distances = RANDOM.uniform(1, 9, (28, 42)).astype(np.float32)
    np.save(tmp_path / "first.npy", distances[None])
    np.save(tmp_path / "last.npy", distances[..., None])
    Image.fromarray(distances).save(tmp_path / "a.tif")
    (tmp_path / "a.pfm").write_bytes(b"Pf\n42 28\n-1.0\n" + distances[::-1].tobytes())
    read = task_of(SPEC).truth_files(SPEC).read
    for path in tmp_path.iterdir():
        assert np.array_equal(read(path, SIZE), distances), path


class Flat(Inverse):
    """A model whose map has nothing to do with the distances."""

    def _run(self, feeds):
        images = feeds[self.inputs[0].name]
        noise = np.random.default_rng(images.sum()).standard_normal(images.shape[:3])
        return {"depth": noise.astype(np.float32)}


def test_a_reference_that_is_no_better_than_a_flat_map_decides_nothing(scenes):
    source = open_image_source(scenes, truth=task_of(SPEC).truth_files(SPEC))
    for reference, is_questioned in ((Flat, True), (Inverse, False)):
        (report,) = evaluate(reference(SPEC), [reference(SPEC, "int8")], SPEC, source)
        found = [each for each in report.findings if each.name == "chance"]
        assert bool(found) is is_questioned
    assert 0.2 < report.measures["delta1_flat"].value < 0.7


def test_what_is_lost_is_of_images_that_both_are_judged_on():
    ours, theirs = (
        [None, [0.1, 0.8, 0.1], [0.1, 0.6, 0.1]],
        [[0.1, 0.2, 0.1], [0.1, 0.9, 0.1], None],
    )
    assert summarize_truth(ours, theirs)["delta1_drop"].value == pytest.approx(0.1)


def test_an_image_without_its_file_is_named(scenes, tmp_path):
    for name in ("images", "depths"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (84, 56)).save(tmp_path / "images/lonely.png")
    source = open_image_source(tmp_path, truth=task_of(SPEC).truth_files(SPEC))
    with pytest.raises(ImageError, match=r"holds no lonely\.png or \.npy or \.tif"):
        list(source)


def test_what_run_writes_is_read_as_truth(tmp_path):
    values = RANDOM.uniform(1, 9, INPUT).astype(np.float32)
    (tmp_path / "a.png").write_bytes(to_png16(values))
    found = task_of(SPEC).truth_files(SPEC).read(tmp_path / "a.png", INPUT)
    assert found == pytest.approx(values, abs=1e-3)


def test_decoding_is_that_of_transformers():
    transformers = pytest.importorskip("transformers")
    values = RANDOM.uniform(0, 9, (2, *INPUT)).astype(np.float32)
    outputs = transformers.modeling_outputs.DepthEstimatorOutput(
        predicted_depth=torch.from_numpy(values)
    )
    processor = transformers.DPTImageProcessor()
    sizes = [SIZE, (41, 30)]
    wanted = processor.post_process_depth_estimation(outputs, target_sizes=sizes)
    found = task_of(SPEC).decode(SPEC, {"depth": values}, sizes=sizes)
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours.whole(), theirs["predicted_depth"], atol=3e-5)
