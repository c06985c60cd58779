"""The tiny ViT through every stage: export, calibrate, quantize, run, verify."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from graph_files import FP16, FP32, INT8, INT8_CPU
from tiny import exported_as, tiny_calibration, tiny_digits

from edge_vit.api import calibrate, check_coverage, export_bundle, quantize
from edge_vit.bundle import GOLDEN, RECORD, TABLE, Bundle, digest_of
from edge_vit.bundle.record import SAMPLE_PHOTOGRAPHS, ExportRecord
from edge_vit.data.images import ArraySource
from edge_vit.data.preprocess import digest, preprocess
from edge_vit.errors import ArtifactError, MissingDependencyError, SpecError
from edge_vit.measure.limits import Limits
from edge_vit.measure.verify import verify
from edge_vit.runtime import Predictor, SessionOptions, open_session, run_batch
from edge_vit.spec.table import RECIPES

INT8_COSINE = 0.999
ONE_THREAD = SessionOptions(threads=1)


class CountingSource:
    """Images that count how often each was handed out."""

    def __init__(self, source):
        self._source = source
        self.labels, self.has_labels = source.labels, source.has_labels
        self.seen = Counter()

    def __len__(self):
        return len(self._source)

    def __iter__(self):
        for item in self._source:
            self.seen[item.name] += 1
            yield item


class Notes:
    """Progress that keeps what was said."""

    def __init__(self):
        self.steps, self.notes = [], []

    def step(self, name, total=None):
        from edge_vit.progress import SILENT

        self.steps.append(name)
        return SILENT.step(name, total)

    def note(self, text):
        self.notes.append(text)


def reordered(source):
    items = [*source][::-1]
    return ArraySource([item.pixels for item in items], [item.label for item in items])


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("stages")


@pytest.fixture(scope="module")
def exported(home, weights):
    """Return the fp32 bundle, to read only, and what was said while it was made."""
    progress = Notes()
    return export_bundle(f"edgevit:{weights}", home / "fp32.edgevit", progress=progress), progress


@pytest.fixture
def bundle(exported, tmp_path):
    shutil.copytree(exported[0].path, tmp_path / "digits.edgevit")
    return Bundle.open(tmp_path / "digits.edgevit")


@pytest.fixture(scope="module")
def whole(home, exported):
    """Return a bundle with every precision, to read only."""
    shutil.copytree(exported[0].path, home / "whole.edgevit")
    calibrate(home / "whole.edgevit", tiny_calibration(), threads=1)
    return quantize(home / "whole.edgevit")


def test_export_proves_parity_and_says_so(exported):
    bundle, progress = exported
    parity = ExportRecord.from_bytes(bundle.read(RECORD)).parity
    assert parity.cosine_min > 0.99999
    assert parity.max_error < 1e-4
    assert parity.spread > 100 * parity.max_error
    assert any("parity" in note for note in progress.notes)
    assert "tracing" in progress.steps
    assert bundle.precisions == ("fp32",)


def test_golden_outputs_reproduce(whole):
    golden = whole.read_golden()
    with open_session(whole, "fp32", options=ONE_THREAD) as session:
        outputs = run_batch(session, golden.images)
    np.testing.assert_allclose(outputs, golden.outputs, atol=1e-5 * np.abs(golden.outputs).max())


def test_parents_chain_up_to_the_fp32_graph(whole):
    artifacts = whole.manifest.artifacts
    sha = {name: artifact.sha256 for name, artifact in artifacts.items()}
    assert artifacts[FP32].parents == ()
    assert artifacts[TABLE].parents == (sha[FP32],)
    assert artifacts[FP16].parents == (sha[FP32], sha[TABLE])
    assert artifacts[GOLDEN].parents == artifacts[RECORD].parents == (sha[FP32],)
    assert artifacts[INT8].parents == artifacts[INT8_CPU].parents == (sha[FP32], sha[TABLE])
    assert whole.read_table().model_digest == sha[FP32]
    assert all(artifact.made_by for artifact in artifacts.values())
    assert all(digest_of(whole.read(name)) == sha[name] for name in artifacts)


@pytest.mark.parametrize(("precision", "bound"), [("fp16", 0.99999), ("int8", INT8_COSINE)])
def test_every_precision_says_what_fp32_says(whole, precision, bound):
    images = np.stack([preprocess(p, whole.spec.preprocess) for p in tiny_digits().test_images])
    with (
        open_session(whole, "fp32", options=ONE_THREAD) as reference,
        open_session(whole, precision, options=ONE_THREAD) as candidate,
    ):
        expected, outputs = run_batch(reference, images), run_batch(candidate, images)
    norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(outputs, axis=1)
    assert ((expected * outputs).sum(axis=1) / norms).mean() > bound
    assert not np.array_equal(expected, outputs)


def test_answers_are_mostly_right(whole):
    digits = tiny_digits()
    with Predictor.open(whole, "int8", options=ONE_THREAD) as predictor:
        answers = [predictor.predict(pixels, top=1).classes[0] for pixels in digits.test_images]
    right = np.mean([answer.index for answer in answers] == digits.test_labels)
    assert right > 0.75


def test_verify_judges_all_three(whole):
    digits = tiny_digits()
    source = ArraySource(digits.test_images, digits.test_labels, digits.labels)
    limits = Limits(max_drop=15, min_speedup=0.001)  # however fast this machine is
    report = verify(whole, source, limits, options=ONE_THREAD, iterations=50)
    assert [r.precision for r in report.accuracy] == ["fp32", "fp16", "int8"]
    assert [r.precision for r in report.latency] == ["fp32", "fp16", "int8"]
    assert (report.verdict.candidate, report.verdict.outcome) == ("int8", "pass")
    assert report.accuracy[2].agreement >= 0.9
    assert report.accuracy[2].num_calibrated_on == 0
    assert any("FP16's answers are those of a GPU, emulated" in note for note in report.notes)


def test_every_image_is_seen_exactly_once(bundle):
    source = CountingSource(tiny_calibration())
    table = calibrate(bundle, source, threads=1).read_table()
    assert set(source.seen.values()) == {1}
    assert len(source.seen) == len(source)
    spec = bundle.spec.preprocess
    digests = sorted(digest(preprocess(item.pixels, spec)) for item in source)
    assert list(table.image_digests) == digests
    assert len(set(digests)) == len(digests)


def test_other_images_change_the_table_and_their_order_does_not(bundle):
    first = calibrate(bundle, tiny_calibration(seed=0), threads=1).read(TABLE)
    other = calibrate(bundle, tiny_calibration(seed=1), threads=1).read_table()
    again = calibrate(bundle, reordered(tiny_calibration(seed=0)), threads=1).read(TABLE)
    assert first == again
    same = Bundle.open(bundle.path).read_table()
    changed = [
        name
        for name, site in same.sites.items()
        if other.sites[name].activation_scale != site.activation_scale
    ]
    assert len(changed) > len(same.sites) / 2


def test_fewer_images_are_spread_and_a_recipe_is_kept(bundle):
    table = calibrate(
        *(bundle, tiny_calibration()), num_images=6, recipe="percentile", threads=1
    ).read_table()
    assert table.num_images == 6
    assert table.recipe == RECIPES["percentile"]


def test_quantize_needs_no_images_and_writes_the_same_bytes_twice(whole, tmp_path):
    shutil.copytree(whole.path, tmp_path / "copy.edgevit")
    again = quantize(tmp_path / "copy.edgevit")
    assert {name: again.read(name) for name in (FP16, INT8, INT8_CPU)} == {
        name: whole.read(name) for name in (FP16, INT8, INT8_CPU)
    }


@pytest.mark.parametrize(
    ("images", "is_doubted"), [("5 of the given images", True), (SAMPLE_PHOTOGRAPHS, False)]
)
def test_quantize_notes_what_is_below_the_forecast_of_its_table(bundle, images, is_doubted):
    """Photographs that stand in for the deployment's images raise no doubt."""
    record = ExportRecord.from_bytes(bundle.read(RECORD))
    record = replace(record, parity=replace(record.parity, images=images))
    bundle = bundle.add({RECORD: record.to_bytes()}, parents=(FP32,), made_by={})
    table = calibrate(bundle, tiny_calibration(), threads=1).read_table()
    sites = {name: replace(site, output_error=1e-12) for name, site in table.sites.items()}
    bundle = Bundle.open(bundle.path)
    table = replace(table, sites=sites, forecast=None)  # as tables had it before
    bundle.add({TABLE: table.to_bytes()}, parents=(FP32,), made_by={})
    progress = Notes()
    quantize(bundle, progress=progress)
    assert any("INT8 was forecast at" in note for note in progress.notes) == is_doubted


def test_calibrating_again_drops_the_stale_graphs(whole, tmp_path):
    shutil.copytree(whole.path, tmp_path / "copy.edgevit")
    bundle = calibrate(tmp_path / "copy.edgevit", tiny_calibration(seed=1), threads=1)
    assert bundle.precisions == ("fp32",)
    assert not (bundle.path / INT8).exists()
    assert not (bundle.path / INT8_CPU).exists()
    with pytest.raises(ArtifactError, match="Run: edgevit quantize"):
        open_session(bundle, "int8")
    bundle.check()


def test_a_stage_on_an_older_bundle_object_loses_nothing(bundle):
    quantize(calibrate(bundle, tiny_calibration()))
    calibrate(bundle, tiny_calibration())  # `bundle` knows of neither stage
    assert {FP32, TABLE, GOLDEN} <= set(Bundle.open(bundle.path).manifest.artifacts)


@pytest.mark.parametrize(
    ("module", "stage"),
    [
        pytest.param("torch", lambda b: export_bundle("timm:x", b.path / "y"), id="export"),
        pytest.param("onnxruntime", lambda b: calibrate(b, tiny_calibration()), id="calibrate"),
        pytest.param("onnx_ir", quantize, id="quantize"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(bundle, monkeypatch, module, stage):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match="Run: pip install 'edge-vit"):
        stage(bundle)


@pytest.fixture
def made(exported, monkeypatch):
    """Spare the work of exporting: hand out what was exported before."""
    from edge_vit.export import export

    earlier = exported_as(exported[0])
    monkeypatch.setattr(export, "export_model", lambda *arguments, **options: earlier)


@pytest.mark.parametrize(
    "stage",
    [
        "calibration.into_bundle.calibrate_bundle",
        "api.quantize",
        "export.export.write_export",
    ],
)
@pytest.mark.usefixtures("made")
def test_an_interrupted_export_leaves_nothing(tmp_path, monkeypatch, stage):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"edge_vit.{stage}", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export_bundle(
            *("edgevit:vit_digits", tmp_path / "out.edgevit"),
            precision="int8",
            calibration=tiny_calibration(),
            threads=1,
        )
    assert not list(tmp_path.iterdir())


def test_export_refuses_int8_without_images(weights, tmp_path):
    with pytest.raises(SpecError, match="Add --calib DIR"):
        export_bundle(f"edgevit:{weights}", tmp_path / "out.edgevit", precision="int8")


def test_export_refuses_an_existing_path_before_any_work(tmp_path):
    (tmp_path / "out.edgevit").mkdir()
    with pytest.raises(ArtifactError, match="--force replaces bundles only"):
        export_bundle("no:such", tmp_path / "out.edgevit")
    assert (tmp_path / "out.edgevit").is_dir()


def test_a_failed_replacement_keeps_the_old_bundle(bundle):
    before = bundle.manifest
    with pytest.raises(SpecError):
        export_bundle("edgevit:no_such_model", bundle.path, force=True)
    assert Bundle.open(bundle.path).manifest == before


@pytest.mark.parametrize(
    ("precision", "held"),
    [("fp16", ("fp32", "fp16")), ("int8", ("fp32", "fp16", "int8"))],
)
@pytest.mark.usefixtures("made")
def test_export_writes_what_was_asked_for(tmp_path, precision, held):
    bundle = export_bundle(
        *("edgevit:vit_digits", tmp_path / "out.edgevit"),
        precision=precision,
        calibration=tiny_calibration(),
        threads=1,
    )
    assert bundle.precisions == held
    assert bundle.has(TABLE) == (precision == "int8")
    bundle.check()


@pytest.mark.usefixtures("made")
def test_an_export_that_was_cut_off_goes_on(tmp_path, monkeypatch):
    from edge_vit.calibration import observer

    feed_image, fed = observer.feed_image, []

    def interrupt(spec, pixels):
        fed.append(pixels)
        if len(fed) == 4:
            raise KeyboardInterrupt
        return feed_image(spec, pixels)

    monkeypatch.setattr(observer, "feed_image", interrupt)

    def export(progress):
        return export_bundle(
            *("edgevit:vit_digits", tmp_path / "out.edgevit"),
            precision="int8",
            calibration=tiny_calibration(),
            recipe=RECIPES["fast"],
            threads=1,
            progress=progress,
        )

    first, second = Notes(), Notes()
    with pytest.raises(KeyboardInterrupt):
        export(first)
    assert first.notes[-1] == "What was seen is kept: the same command goes on from there"
    assert [path.name for path in tmp_path.iterdir()] == [".out.edgevit.state.npz"]
    export(second).check()
    assert any("going on from 3 images" in note for note in second.notes)
    assert [path.name for path in tmp_path.iterdir()] == ["out.edgevit"]


def test_a_table_that_changed_meanwhile_costs_no_verdict(whole, tmp_path):
    shutil.copytree(whole.path, tmp_path / "copy.edgevit")
    opened = Bundle.open(tmp_path / "copy.edgevit")
    narrow = replace(opened.read_table(), image_digests=("ab" * 32,))
    opened.add({TABLE: narrow.to_bytes()}, parents=(FP32,))
    (note,) = check_coverage(opened, tiny_calibration())
    assert "was not checked" in note
    assert "was changed by another command" in note
