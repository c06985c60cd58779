import contextlib
import json
from collections import Counter

import numpy as np
import pytest
from decoding import predict
from PIL import Image

from edge_vit.data.images import ArraySource, open_image_source
from edge_vit.data.preprocess import digest
from edge_vit.errors import BackendError, ImageError, SpecError
from edge_vit.measure.accuracy import evaluate
from edge_vit.measure.records import CalibrationImages
from edge_vit.measure.results import AccuracyReport
from edge_vit.progress import Silent
from edge_vit.runtime.fake import FakeSession
from edge_vit.runtime.session import run_batch
from edge_vit.tasks import features, numerics
from edge_vit.values import from_json, to_json

LABELS = ("ant", "bee", "cat", "dog")


@pytest.fixture
def images():
    return np.random.default_rng(3).integers(0, 256, (23, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def spec(make_model):
    return make_model(labels=LABELS)


class CountingSource(ArraySource):
    def __init__(self, *args):
        super().__init__(*args)
        self.seen = Counter()

    def __iter__(self):
        for item in super().__iter__():
            self.seen[item.name] += 1
            yield item


class Watcher(Silent):
    """Progress that writes down what it is told."""

    def __init__(self):
        self.total, self.steps = None, []

    @contextlib.contextmanager
    def step(self, name, total=None):
        self.total = total
        yield self.steps.append


def _pair(spec, noise=0.7):
    return FakeSession(spec), FakeSession(spec, "int8", noise=noise, seed=1)


def _evaluate_pair(spec, source, **options):
    reference, candidate = _pair(spec)
    return _only(evaluate(reference, [candidate], spec, source, **options))


def _only(reports):
    (report,) = reports
    return report


def test_measures_what_the_outputs_say(spec, images):
    reference, candidate = _pair(spec)
    truth = [i % 4 for i in range(23)]
    source = ArraySource(images, truth, LABELS)
    report = _only(evaluate(reference, [candidate], spec, source, data="val"))
    a, b = run_batch(reference, images), run_batch(candidate, images)
    right_a, right_b = a.argmax(1) == truth, b.argmax(1) == truth
    assert 0 < report.num_agreeing == (a.argmax(1) == b.argmax(1)).sum() < 23
    assert report.agreement == report.num_agreeing / 23
    assert (report.top1, report.reference_top1) == (right_b.mean(), right_a.mean())
    assert (report.top5, report.reference_top5) == (1, 1)  # of four classes
    assert report.num_lost == (right_a & ~right_b).sum()
    assert report.num_gained == (right_b & ~right_a).sum()
    assert report.top1 == pytest.approx(
        report.reference_top1 + (report.num_gained - report.num_lost) / 23
    )
    assert report.kl_mean == pytest.approx(numerics.softmax_kl(a, b).mean())
    assert report.cosine_mean == pytest.approx(numerics.cosine(a, b).mean())
    assert report.cosine_min == pytest.approx(numerics.cosine(a, b).min())
    noise = 10 * np.log10((a.astype(float) ** 2).sum() / ((a.astype(float) - b) ** 2).sum())
    assert report.sqnr_db == pytest.approx(noise)
    assert (report.num_images, report.num_labelled) == (23, 23)
    assert (report.reference, report.precision, report.backend) == ("fp32 fake", "int8", "fake")
    assert report.data == "val"


def test_a_reference_among_the_candidates_is_run_once_and_equals_itself(spec, images):
    reference, candidate = _pair(spec)
    source = ArraySource(images, [0] * 23)
    itself, other = evaluate(reference, [reference, candidate], spec, source)
    assert (itself.precision, itself.agreement, itself.sqnr_db) == ("fp32", 1, None)
    assert (itself.cosine_min, itself.kl_mean, itself.worst) == (1, 0, ())
    assert itself.top1 == itself.reference_top1 == other.reference_top1
    assert other.agreement < 1


def test_without_labels_there_is_agreement_only(spec, images):
    report = _evaluate_pair(spec, ArraySource(images))
    assert report.num_labelled == report.num_lost == report.num_gained == 0
    assert report.top1 is report.top5 is report.reference_top1 is report.reference_top5 is None
    assert 0 < report.agreement < 1
    assert {entry.label for entry in report.worst} == {None}


def test_class_folders_are_the_models_labels_by_name(tmp_path, spec, images):
    reference, candidate = _pair(spec)
    answers = run_batch(reference, images).argmax(axis=1)
    for index, answer in enumerate(answers):
        path = tmp_path / LABELS[answer] / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(images[index]).save(path)
    source = open_image_source(tmp_path, LABELS)
    report = _only(evaluate(reference, [candidate], spec, source))
    assert report.reference_top1 == 1
    assert report.num_lost == 23 - report.num_agreeing
    worst = report.worst[0]
    assert worst.image.startswith(f"{worst.label}/")
    assert worst.reference[0].label == worst.label


def test_a_graph_of_static_batch_takes_any_number_of_images(make_model, images):
    source = ArraySource(images)
    dynamic, static = (_evaluate_pair(spec, source) for spec in (make_model(), make_model(batch=4)))
    assert static.cosine_mean == dynamic.cosine_mean
    assert static.num_images == 23


def test_every_image_is_seen_once_and_told_to_the_progress(spec, images):
    source, watcher = CountingSource(images), Watcher()
    reference, candidate = _pair(spec)
    evaluate(reference, [reference, candidate], spec, source, progress=watcher)
    assert set(source.seen.values()) == {1}
    assert len(source.seen) == watcher.total == sum(watcher.steps) == 23


def test_counts_images_that_were_calibrated_on(spec, images):
    digests = {digest(images[3]), digest(images[8]), "f" * 64}
    report = _evaluate_pair(spec, ArraySource(images), calibrated_on=CalibrationImages(digests))
    assert report.num_calibrated_on == report.evidence.num_calibrated_on == 2
    assert report.evidence.num_images == 21


def test_data_digest_names_the_images_and_not_their_order(spec, images):
    def data_digest(chosen):
        return _evaluate_pair(spec, ArraySource(chosen)).data_digest

    assert data_digest(images) == data_digest(images[::-1])
    assert data_digest(images) != data_digest(images[:-1])


def test_keeps_the_worst_disagreements_with_both_answers(spec, images):
    reference, candidate = _pair(spec)
    report = _only(evaluate(reference, [candidate], spec, ArraySource(images), num_worst=5))
    a, b = run_batch(reference, images), run_batch(candidate, images)
    divergence = numerics.softmax_kl(a, b)
    order = np.argsort(-divergence)[:5]
    assert [int(entry.image) for entry in report.worst] == order.tolist()
    for index, entry in zip(order, report.worst, strict=True):
        assert entry.divergence == pytest.approx(divergence[index])
        assert entry.reference == predict(spec, a[index], 3).classes
        assert entry.candidate == predict(spec, b[index], 3).classes
        assert entry.agrees == (a[index].argmax() == b[index].argmax())
        assert entry.thumbnail_png
    assert {entry.agrees for entry in report.worst} == {True, False}


def test_features_agree_where_they_find_the_same_neighbour(make_model, images):
    spec = make_model("features", size=6)
    reference, candidate = _pair(spec, noise=0.5)
    source = ArraySource(images, [0] * 23, ["folder"])
    itself, report = evaluate(reference, [reference, candidate], spec, source, num_worst=23)
    a, b = run_batch(reference, images), run_batch(candidate, images)
    same = features.nearest_neighbours(a, a) == features.nearest_neighbours(b, a)
    assert 0 < report.num_agreeing == same.sum() < 23
    assert itself.agreement == 1
    assert report.kl_mean is report.top1 is None
    assert report.num_labelled == 0
    evidence = report.evidence
    assert evidence.num_reference_right == evidence.num_lost == evidence.num_gained == 0
    for entry in report.worst:
        assert entry.agrees == same[int(entry.image)]
        assert entry.reference == entry.candidate == ()
        assert entry.divergence == pytest.approx(
            1 - numerics.cosine(a, b)[int(entry.image)], abs=1e-12
        )


@pytest.mark.parametrize("task", ["classification", "features"])
def test_the_report_survives_json(make_model, images, task):
    spec = make_model(task, size=6)
    report = _evaluate_pair(spec, ArraySource(images))
    written = json.dumps(to_json(report))
    assert from_json(AccuracyReport, json.loads(written)) == report


@pytest.mark.parametrize(
    ("value", "precision", "words"),
    [
        (np.nan, "fp32", "check its weights and the image"),
        (np.inf, "fp16", "passes 65,504.*edgevit calibrate BUNDLE.*edgevit quantize BUNDLE"),
        (np.nan, "int8", "edgevit calibrate BUNDLE.*edgevit quantize BUNDLE"),
    ],
)
def test_refuses_an_output_that_is_not_finite(spec, images, value, precision, words):
    class Broken(FakeSession):
        def _run(self, feeds):
            outputs = super()._run(feeds)
            wrong = (feeds["images"] == images[4]).all(axis=(1, 2, 3))
            outputs["logits"][wrong, 2] = value
            return outputs

    said = f"image 00004: {precision} on fake gave NaN or infinity.*{words}"
    broken = Broken(spec, precision)
    with pytest.raises(BackendError, match=said):
        evaluate(FakeSession(spec), [broken], spec, ArraySource(images))


def test_refuses_a_label_that_the_model_does_not_have(spec, images):
    source = ArraySource(images[:2], [0, 4])
    with pytest.raises(SpecError, match="image 00001: got label 4, expected 0 to 3"):
        _evaluate_pair(spec, source)


@pytest.mark.parametrize("task", ["classification", "features"])
def test_refuses_no_images(make_model, images, task):
    spec = make_model(task)
    with pytest.raises(ImageError, match="got none"):
        evaluate(FakeSession(spec), [FakeSession(spec)], spec, ArraySource(images[:0]))


def test_refuses_to_judge_features_by_one_image(make_model, images):
    spec = make_model("features")
    with pytest.raises(SpecError, match="got 1, which show one picture, expected at least 2"):
        evaluate(FakeSession(spec), [FakeSession(spec)], spec, ArraySource(images[:1]))


def test_refuses_fewer_worst_images_than_none(spec, images):
    with pytest.raises(SpecError, match="num_worst: got"):
        evaluate(FakeSession(spec), [], spec, ArraySource(images), num_worst=-1)
