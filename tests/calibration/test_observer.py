"""Every image is seen once, itself and not another, and leaves a fixed amount of memory behind."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper
from seeded import SITES, Remembered, Seeded, random_images

from edge_vit.calibration.observer import observe
from edge_vit.calibration.stats import ActivationStats
from edge_vit.data.images import ArraySource, ImageItem
from edge_vit.data.perceptual import signature, signature_from_text
from edge_vit.data.preprocess import digest
from edge_vit.errors import BackendError, SpecError
from edge_vit.graph.expose import expose
from edge_vit.spec.table import RECIPES


class CountingSource(ArraySource):
    """Counts how often each image was handed out, and how many times iteration began."""

    def __init__(self, images: np.ndarray) -> None:
        super().__init__(images)
        self.handed_out: list[str] = []
        self.started = 0

    def __iter__(self):
        self.started += 1
        for item in super().__iter__():
            self.handed_out.append(item.name)
            yield ImageItem(item.name, item.pixels, item.label)


def look(vit: Seeded, images: np.ndarray):
    return observe(vit.model, vit.spec, ArraySource(images), threads=1)


def true_amax(vit: Seeded, images: np.ndarray) -> dict[str, float]:
    """Largest |x| at each site's input, over `images` in one batch, straight from ONNX Runtime."""
    names = list(vit.site_inputs.values())
    session = ort.InferenceSession(expose(vit.model, names).SerializeToString())
    values = dict(zip(names, session.run(names, {"images": images}), strict=True))
    return {site: np.abs(values[name]).max() for site, name in vit.site_inputs.items()}


def amax_of(observation) -> dict[str, float]:
    return {site: stats.amax for site, stats in observation.stats.items()}


def test_reads_every_image_once(vit):
    source = CountingSource(random_images(5))
    observation = observe(vit.model, vit.spec, source, threads=1)
    assert source.started == 1
    assert source.handed_out == ["00000", "00001", "00002", "00003", "00004"]
    assert {stats.num_rows for stats in observation.stats.values()} == {5 * 17}
    assert tuple(observation.stats) == SITES


def test_sees_what_goes_into_each_site(vit):
    images = random_images(6)
    assert amax_of(look(vit, images)) == pytest.approx(true_amax(vit, images), rel=1e-5)


def test_each_image_counts_not_the_last_one_many_times(vit):
    images = random_images(4)
    alone = [look(vit, images[i : i + 1]) for i in range(4)]
    together = look(vit, images)
    for site in SITES:
        own = [observation.stats[site] for observation in alone]
        assert len({stats.amax for stats in own}) == 4  # else the test could not tell them apart
        histogram = sum(stats.histogram for stats in own)
        assert np.array_equal(together.stats[site].histogram, histogram)
        assert together.stats[site].amax == max(stats.amax for stats in own)


def test_a_static_batch_sees_the_same(vit, static_vit):
    images = random_images(4)
    dynamic, static = look(vit, images), look(static_vit, images)
    assert amax_of(static) == pytest.approx(amax_of(dynamic), rel=1e-5)
    assert static.image_digests == dynamic.image_digests


def test_records_the_digests_sorted(vit):
    images = random_images(6)
    assert look(vit, images).image_digests == tuple(sorted(digest(image) for image in images))
    found = [signature_from_text(text) for text in look(vit, images).image_signatures]
    assert sorted(found) == sorted(map(signature, images))


def test_images_of_other_sizes_are_preprocessed(vit):
    large = random_images(3, size=64)
    observation = look(vit, large)
    shrunk = random_images(3, size=64)[:, ::2, ::2]
    assert amax_of(observation) != amax_of(look(vit, shrunk))
    assert len(set(observation.image_digests)) == 3


@pytest.mark.uncounted
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_order_does_not_change_a_byte_of_the_table(vit, recipe):
    images = random_images(12)
    order = np.random.default_rng(1).permutation(12)
    table = vit.calibrate(images, recipe)
    assert vit.calibrate(images[order], recipe).to_bytes() == table.to_bytes()


def test_order_within_fixed_batches_does_not_either(static_vit):
    images, recipe = random_images(7), RECIPES["fast"]
    table = static_vit.calibrate(images, recipe)
    assert static_vit.calibrate(images[::-1], recipe).to_bytes() == table.to_bytes()


def test_other_images_change_every_site(vit):
    one, other = vit.calibrate(random_images(4, seed=1)), vit.calibrate(random_images(4, seed=2))
    assert all(one.sites[s].activation_scale != other.sites[s].activation_scale for s in SITES)
    assert all(one.sites[s].weight_scales == other.sites[s].weight_scales for s in SITES)
    assert not set(one.image_digests) & set(other.image_digests)


def edited(vit: Seeded, name: str, change) -> Seeded:
    """Return `vit` with one constant changed."""
    model = onnx.ModelProto()
    model.CopyFrom(vit.model)
    (tensor,) = [t for t in model.graph.initializer if t.name == name]
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), name))
    return Seeded(model, vit.spec)


OVERFLOWS = {
    "overflow": (lambda weight: np.sign(weight) * np.float32(3e38), "block0/fc2"),
    "nan": (lambda weight: weight * np.float32(np.nan), "block0/fc2"),
}


@pytest.mark.parametrize(("change", "site"), OVERFLOWS.values(), ids=OVERFLOWS)
def test_refuses_a_model_that_overflows_and_names_site_and_image(vit, change, site):
    broken = edited(vit, "block0/fc1.1", change)
    with pytest.raises(
        BackendError,
        match=f"^{site}: its input is NaN or infinite for image 00000. The fp32 model itself fails",
    ):
        look(broken, random_images(2))


def test_names_the_image_that_overflows(vit):
    images = np.zeros((3, 32, 32, 3), np.uint8)
    images[1] = 255
    # With a mean of 0, black stays 0; white is far beyond float32 once it is projected.
    broken = edited(vit, "embed/Sub.1", lambda mean: mean * 0)
    broken = edited(broken, "embed/Mul.1", lambda factor: factor * np.float32(1e38))
    with pytest.raises(BackendError, match=r"block0/qkv: .* for image 00001"):
        look(broken, images)


def test_refuses_a_graph_without_blocks(vit):
    images = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, ["b", 32, 32, 3])
    logits = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["b", 32, 32, 3])
    cast = onnx.helper.make_node("Cast", ["images"], ["logits"], to=onnx.TensorProto.FLOAT)
    model = onnx.helper.make_model(onnx.helper.make_graph([cast], "no_blocks", [images], [logits]))
    with pytest.raises(SpecError, match="no transformer block and no linear layer on tokens"):
        look(Seeded(model, vit.spec), random_images(1))


def test_refuses_to_calibrate_on_nothing(vit):
    with pytest.raises(SpecError, match=r"no images to calibrate on\. Add --calib DIR"):
        vit.calibrate(random_images(0))


@pytest.mark.parametrize(("count", "is_told"), [(2, True), (64, False)])
def test_says_when_images_are_few(vit, count, is_told):
    progress = Remembered()
    vit.calibrate(random_images(count), progress=progress)
    assert any(f"{count} calibration images are few" in note for note in progress.notes) == is_told


def test_leaves_the_model_as_it_was(vit):
    before = vit.model.SerializeToString()
    look(vit, random_images(1))
    assert vit.model.SerializeToString() == before


def test_statistics_are_of_the_site_itself(vit):
    stats = look(vit, random_images(2)).stats
    assert isinstance(stats["block0/fc2"], ActivationStats)
    assert {site: len(s.channel_max) for site, s in stats.items() if "block0" in site} == {
        "block0/qkv": 32,
        "block0/proj": 32,
        "block0/fc1": 32,
        "block0/fc2": 128,
    }


PEAK = """
import resource, sys
import numpy as np, onnx
from edge_vit.calibration.observer import observe
from edge_vit.data.images import ImageItem
from edge_vit.spec import ModelSpec, PreprocessSpec, image_input, task_output

class Endless:
    labels, has_labels = (), False
    def __init__(self, count): self.count = count
    def __len__(self): return self.count
    def __iter__(self):
        rng = np.random.default_rng(0)
        for i in range(self.count):
            yield ImageItem(str(i), rng.integers(0, 256, (32, 32, 3), np.uint8), None)

spec = ModelSpec("m", "test:m", "classification", (), (image_input((32, 32)),),
                 (task_output("classification", 10),), PreprocessSpec((32, 32), crop_pct=1.0))
model = onnx.load(sys.argv[1])
peaks = []
for count in (8, 8, 512):
    observe(model, spec, Endless(count), threads=1)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(peaks[2] - peaks[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux alone")
def test_memory_is_flat_in_the_number_of_images(vit, tmp_path):
    path = tmp_path / "fp32.onnx"
    onnx.save(vit.model, path)
    grown_kb = int(subprocess.check_output([sys.executable, "-c", PEAK, str(path)], text=True))
    # All that one image leaves behind is its digest. Kept activations would be 30 KB per image,
    # kept statistics 500 KB.
    assert grown_kb < 8_000
