"""From images to a table, and from a table to graphs, with a bundle between."""

from __future__ import annotations

import contextlib
import dataclasses
import gc

import numpy as np
import onnx
import pytest
from graph_files import FP16, FP32, INT8, INT8_CPU
from seeded import SITES, Remembered, Seeded, random_images, run_onnx

from edge_vit.api import calibrate, quantize
from edge_vit.bundle import GOLDEN, RECORD, TABLE, Bundle, Golden, digest_of, draft_bundle
from edge_vit.bundle.record import SAMPLE_PHOTOGRAPHS, ExportRecord, Parity
from edge_vit.calibration import calibrate as calibrate_module
from edge_vit.calibration.calibrate import calibrate_model
from edge_vit.calibration.search import search_plans
from edge_vit.data.images import ArraySource
from edge_vit.data.preprocess import digest
from edge_vit.errors import ArtifactError, SpecError
from edge_vit.spec.table import MIN_SCALE, RECIPES, CalibrationTable, Recipe

pytestmark = pytest.mark.uncounted


@pytest.fixture
def bundle(vit, tmp_path) -> Bundle:
    with draft_bundle(tmp_path / "seeded.edgevit", vit.spec) as draft:
        images = random_images(2)
        golden = Golden(images, run_onnx(vit.model, images))
        draft = draft.add({FP32: vit.model.SerializeToString()})
        draft.add({GOLDEN: golden.to_bytes()}, parents=(FP32,))
    return Bundle.open(tmp_path / "seeded.edgevit")


def test_table_says_how_each_site_is_quantized(vit, table):
    assert tuple(table.sites) == SITES
    for name, site in table.sites.items():
        assert site.precision == "int8"
        assert site.reason
        assert site.activation_scale == pytest.approx(site.activation_amax / 127, rel=2**-11)
        assert 1 < site.activation_crest < 50
        widths = {"qkv": 96, "proj": 32, "fc1": 128, "fc2": 32}
        assert len(site.weight_scales) == widths[name.split("/")[1]]


@pytest.mark.parametrize("fails", [False, True])
def test_collections_of_memory_are_as_they_were_behind_a_calibration(vit, monkeypatch, fails):
    def run(*arguments):
        assert gc.get_freeze_count() > 0
        raise SpecError("found nothing")

    if fails:
        monkeypatch.setattr(calibrate_module.GraphRun, "of", run)
    with contextlib.suppress(SpecError):
        vit.calibrate(random_images(4), RECIPES["minmax"])
    assert gc.get_freeze_count() == 0


def test_table_knows_its_parents(vit, table):
    assert table.model_digest == digest_of(vit.model.SerializeToString())
    assert table.image_digests == tuple(sorted(map(digest, random_images(16))))
    assert table.num_images == 16
    assert table.recipe == RECIPES["minmax"]


def test_scales_are_float16_numbers_and_survive_the_file(table):
    again = CalibrationTable.from_bytes(table.to_bytes())
    assert again == table
    for site in again.sites.values():
        scales = np.array([site.activation_scale, *site.weight_scales])
        assert np.array_equal(scales.astype(np.float16).astype(np.float64), scales)
        assert scales.min() >= MIN_SCALE


def test_percentile_cuts_below_minmax(vit, table):
    cut = vit.calibrate(random_images(16), Recipe("mine", "percentile", 99))
    for name in SITES:
        assert cut.sites[name].activation_scale < table.sites[name].activation_scale
        assert cut.sites[name].activation_amax == table.sites[name].activation_amax
        assert cut.sites[name].weight_scales == table.sites[name].weight_scales


def test_threads_do_not_change_the_scales(vit, table):
    fp32, source = vit.model.SerializeToString(), ArraySource(random_images(16))
    alone = calibrate_model(fp32, vit.spec, source, RECIPES["minmax"], threads=1)
    for name in SITES:
        scale = alone.sites[name].activation_scale
        assert scale == pytest.approx(table.sites[name].activation_scale, rel=2**-10)


def test_a_graph_that_was_read_comes_with_the_digest_of_its_file(vit):
    source = ArraySource(random_images(16))
    with pytest.raises(SpecError, match="needs the digest of its file"):
        calibrate_model(vit.model, vit.spec, source, RECIPES["minmax"], threads=1)


def test_bundle_gets_a_table_and_then_graphs(bundle):
    calibrated = calibrate(bundle, ArraySource(random_images(4)))
    assert calibrated.read_table().num_images == 4
    done = quantize(calibrated)
    assert done.precisions == ("fp32", "fp16", "int8")
    for name in (FP16, INT8, INT8_CPU):
        onnx.checker.check_model(done.read(name), full_check=True)
    parents = {done.artifact(FP32).sha256, done.artifact(TABLE).sha256}
    assert {*done.artifact(INT8).parents} == {*done.artifact(INT8_CPU).parents} == parents


def test_quantizing_says_which_images_int8_was_tried_on(bundle):
    done, said = calibrate(bundle, ArraySource(random_images(4))), Remembered()
    parity = Parity("torch", SAMPLE_PHOTOGRAPHS, (1,), 1.0, 0.0, 1.0)
    for record, words in ((None, "2 golden images"), (parity, "2 sample photographs")):
        if record is not None:
            done = done.add({RECORD: ExportRecord("test:seeded", "", record, ()).to_bytes()})
        quantize(done, progress=said)
        (note,) = [note for note in said.notes if note.startswith("INT8: ")]
        assert words in note
        said.notes.clear()


def test_quantizing_twice_writes_the_same_bytes(bundle):
    calibrated = calibrate(bundle, ArraySource(random_images(4)))
    once = quantize(calibrated)
    first = {name: once.read(name) for name in (FP16, INT8, INT8_CPU)}
    twice = quantize(once)
    assert {name: twice.read(name) for name in first} == first


def test_a_new_table_takes_out_what_was_made_from_the_old_one(bundle):
    done = quantize(calibrate(bundle, ArraySource(random_images(4))))
    again = calibrate(done, ArraySource(random_images(4, seed=1)))
    assert again.precisions == ("fp32",)
    assert not (again.path / INT8).exists()
    assert not (again.path / INT8_CPU).exists()


def test_refuses_a_stale_table(bundle, table):
    stale = dataclasses.replace(table, model_digest="00" * 32)
    with_stale = bundle.add({TABLE: stale.to_bytes()}, parents=(FP32,))
    with pytest.raises(ArtifactError, match=r"was made for another graph .* edgevit calibrate"):
        quantize(with_stale)
    assert Bundle.open(bundle.path).precisions == ("fp32",)


@pytest.mark.parametrize(
    ("count", "recipe", "is_told"),
    [(15, "balanced", True), (16, "balanced", False), (15, "fast", False)],
)
def test_steps_that_few_images_leave_out_are_not_left_out_silently(vit, count, recipe, is_told):
    said = Remembered()
    table = vit.calibrate(random_images(count), RECIPES[recipe], said)
    assert any("below 16 no range, shift or bias is tried" in n for n in said.notes) == is_told
    tried = {table.forecast.plan, *table.forecast.others} if table.forecast else set()
    assert ("without bias" in tried) == (count == 16)


def test_images_of_many_windows_are_asked_about_few_at_a_time(vit, monkeypatch):
    """Their tokens are not counted, and an image has a great many."""
    asked = []

    def search(*args, **kwargs):
        asked.append(len(args[4]))
        return search_plans(*args, **kwargs)

    monkeypatch.setattr("edge_vit.calibration.graph_run.search_plans", search)
    for num_tokens in (0, 100):
        spec = dataclasses.replace(vit.spec, num_tokens=num_tokens)
        Seeded(vit.model, spec).calibrate(random_images(32), RECIPES["balanced"])
    assert asked == [4, 8]
