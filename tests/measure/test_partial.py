"""Parts of an evaluation: any split, any order, interrupted or not, it is the same report."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import make_model

from edge_vit.data.bad_images import MaxBad, tolerate
from edge_vit.data.images import ArraySource
from edge_vit.data.parts import Part, take_part
from edge_vit.errors import ArtifactError, ImageError, SpecError
from edge_vit.measure.accuracy import evaluate, evaluate_part
from edge_vit.measure.accuracy_report import report_of
from edge_vit.measure.partial import merge_partials, read_partial
from edge_vit.runtime.fake import FakeSession
from edge_vit.runtime.session import run_batch
from edge_vit.tasks import numerics
from edge_vit.values import to_json

pytestmark = pytest.mark.uncounted

LABELS = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu")
SPEC = make_model(size=7, labels=LABELS)
IMAGES = np.random.default_rng(3).integers(0, 256, (120, 8, 8, 3), dtype=np.uint8)
IMAGES[7] = IMAGES[90] = IMAGES[105]  # the worst of all; copies of one image tie
IMAGES[30:34] = IMAGES[29].clip(2, 253) + np.arange(-2, 2, dtype=np.int8)[:, None, None, None]
TRUTH = np.random.default_rng(4).integers(0, 7, 120)
TRUTH[30:34] = TRUTH[29]


def _sessions():
    return FakeSession(SPEC), FakeSession(SPEC, "int8", noise=0.7, seed=1)


class NamedSource(ArraySource):
    """Images in another order that keep their names, as files do."""

    def __init__(self, order, truth):
        super().__init__(IMAGES[order], None if truth is None else truth[order], LABELS)
        self._order = order

    def name(self, index):
        return f"{self._order[index]:03d}.png"


def _source(order=None, truth=TRUTH):
    return NamedSource(np.arange(120) if order is None else order, truth)


def _evaluate_part(source, **options):
    reference, candidate = _sessions()
    (part,) = evaluate_part(reference, [candidate], SPEC, source, data="val", **options)
    return part


def _whole(source):
    reference, candidate = _sessions()
    (report,) = evaluate(reference, [candidate], SPEC, source, data="val")
    return report


def _written(report):
    return json.dumps(to_json(report))


@pytest.mark.parametrize(
    ("truth", "counts"),
    [(TRUTH, (1, 2, 3, 8, 16)), (None, (2, 16))],
    ids=["labelled", "without labels"],
)
def test_any_number_of_parts_in_any_order_is_the_same_report(truth, counts):
    random = np.random.default_rng(0)
    expected = _written(_whole(_source(truth=truth)))
    for count in counts:
        order = random.permutation(120)
        parts = [
            _evaluate_part(take_part(_source(order, truth), Part(i, count)), part=(i, count))
            for i in range(1, count + 1)
        ]
        random.shuffle(parts)
        assert _written(report_of(merge_partials(parts))) == expected


@settings(deadline=None, max_examples=8)
@given(st.lists(st.integers(0, 15), min_size=30, max_size=30))
def test_any_split_is_the_same_report(places):
    """Not only splits by content: image i is in the part that `places` says."""
    order = np.arange(30)
    expected = _written(_whole(_source(order)))
    parts = []
    for number, place in enumerate(sorted(set(places)), 1):
        chosen = np.flatnonzero(np.array(places) == place)
        part = _evaluate_part(_source(chosen))
        parts.append(dataclasses.replace(part, part=(number, len(set(places)))))
    assert _written(report_of(merge_partials(parts))) == expected


def test_a_part_survives_its_file_and_has_the_same_bytes_again(tmp_path):
    part = _evaluate_part(_source())
    part.write(tmp_path / "part.json")
    assert read_partial(tmp_path / "part.json") == part
    assert (tmp_path / "part.json").read_bytes() == _evaluate_part(_source()).to_bytes()


class DamagedSource(NamedSource):
    """Images of which some cannot be read."""

    def item(self, index):
        if self._order[index] in DAMAGED_IMAGES:
            raise ImageError(f"image {self.name(index)} cannot be decoded")
        return super().item(index)

    def content_key(self, index):
        return self.name(index).encode()


DAMAGED_IMAGES = (0, 50, 51, 119)


def _damaged(order=None, num_bad=4):
    source = DamagedSource(np.arange(120) if order is None else order, TRUTH)
    return tolerate(source, MaxBad(count=num_bad))


@pytest.mark.parametrize("count", [1, 3, 60])
def test_bad_images_leave_the_report_of_the_others_in_any_parts(count):
    good = np.setdiff1d(np.arange(120), DAMAGED_IMAGES)
    random = np.random.default_rng(0)
    order = random.permutation(120)
    parts = [
        _evaluate_part(take_part(_damaged(order), Part(i, count)), part=(i, count))
        for i in range(1, count + 1)
    ]
    random.shuffle(parts)
    report = report_of(merge_partials(parts))
    assert report == report_of(_evaluate_part(_damaged()))
    (note,) = report.notes
    assert note.startswith("4 of 120 images cannot be read and were left out: image 000.png cannot")
    assert report.num_bad == 4
    others = dataclasses.replace(report, num_bad=0, notes=())
    assert others == _whole(_source(good))


def test_parts_that_have_too_many_bad_images_together_are_refused():
    parts = [
        _evaluate_part(take_part(_damaged(num_bad=3), Part(i, 40)), part=(i, 40))
        for i in range(1, 41)
    ]
    with pytest.raises(SpecError, match="4 images cannot be read, expected at most 3 of all parts"):
        merge_partials(parts)
    with pytest.raises(ImageError, match=r"4 bad of 120 images, expected at most 3 \(3\)"):
        _evaluate_part(_damaged(num_bad=3))


@pytest.mark.parametrize("done", [1, 49, 50, 51, 116])
def test_bad_images_do_not_shift_what_is_resumed(done):
    class Stopped(Exception):
        """The end of the process."""

    states = []

    def save(totals):
        states.append(totals)
        if totals[0].num_images == done:
            raise Stopped

    with pytest.raises(Stopped):
        _evaluate_part(_damaged(), save=save, seconds_between_saves=0)
    assert states[-1][0].num_bad == (1 if done < 50 else 3)
    resumed = _evaluate_part(_damaged(), start=states[-1])
    assert resumed == _evaluate_part(_damaged())


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("num_saves", [1, 40, 119])
def test_killed_and_resumed_is_the_same_to_the_last_byte(num_saves):
    saved = []

    def save(parts):
        saved.append([part.to_bytes() for part in parts])
        if len(saved) == num_saves:
            raise Killed

    with pytest.raises(Killed):
        _evaluate_part(_source(), save=save, seconds_between_saves=0)
    from_file = _read(saved[-1][0])
    assert from_file.num_images == num_saves
    seen = []
    resumed = _evaluate_part(WatchedSource(seen), start=[from_file], save=lambda parts: None)
    assert seen == list(range(num_saves, 120))  # none is decoded again
    assert resumed.to_bytes() == _evaluate_part(_source()).to_bytes()


class WatchedSource(NamedSource):
    """Writes down which images are decoded."""

    def __init__(self, seen):
        super().__init__(np.arange(120), TRUTH)
        self._seen = seen

    def item(self, index):
        self._seen.append(index)
        return super().item(index)


def _read(data):
    from edge_vit.measure.partial import PartialAccuracy
    from edge_vit.values import from_json

    return from_json(PartialAccuracy, json.loads(data))


def test_counts_what_a_direct_computation_counts():
    reference, candidate = _sessions()
    report = _whole(_source())
    a, b = run_batch(reference, IMAGES), run_batch(candidate, IMAGES)
    right_a, right_b = a.argmax(1) == TRUTH, b.argmax(1) == TRUTH
    assert report.drop == (right_a.sum() - right_b.sum()) / 120
    assert report.drop_interval[0] < report.drop < report.drop_interval[1]
    assert 0 < report.mcnemar_p <= 1
    table = np.zeros((7, 7), int)
    np.add.at(table, (TRUTH, b.argmax(1)), 1)
    assert {(i, j): n for i, j, n in report.confusion} == {
        (i, j): table[i, j] for i, j in itertools.product(range(7), repeat=2) if table[i, j]
    }
    assert [(c.index, c.label, c.count) for c in report.per_class] == [
        (i, LABELS[i], table[i].sum()) for i in range(7)
    ]
    assert [c.top1 for c in report.per_class] == pytest.approx(table.diagonal() / table.sum(1))
    assert report.per_class[2].reference_top1 == right_a[TRUTH == 2].mean()
    assert report.ece == pytest.approx(_calibration_error(b, right_b))
    assert report.reference_ece == pytest.approx(_calibration_error(a, right_a))
    low, high = report.agreement_interval
    assert low < report.agreement < high
    assert report.most_drop > 1 - report.agreement
    assert report.kl_p99 == pytest.approx(np.sort(numerics.softmax_kl(a, b))[118], rel=0.01)
    cosine = np.sort(numerics.cosine(a, b))
    assert 1 - report.cosine_p1 == pytest.approx(1 - cosine[1], rel=0.01)


def _calibration_error(logits, right):
    scores = numerics.softmax(logits).max(axis=1)
    places = np.minimum((scores * 15).astype(int), 14)
    return sum(
        (places == place).mean()
        * abs(right[places == place].mean() - scores[places == place].mean())
        for place in set(places)
    )


def test_equal_outputs_are_equal_in_every_measure():
    reference, _ = _sessions()
    (report,) = evaluate(reference, [reference], SPEC, _source())
    assert (report.cosine_p1, report.kl_p99, report.drop, report.mcnemar_p) == (1, 0, 0, 1)
    assert report.ece == report.reference_ece
    assert report.drop_interval[0] < 0 < report.drop_interval[1]


def test_without_labels_the_most_that_accuracy_can_drop_is_said():
    report = _whole(_source(truth=None))
    assert report.drop is report.drop_interval is report.mcnemar_p is report.ece is None
    assert (report.per_class, report.confusion) == ((), ())
    assert 1 - report.agreement < report.most_drop < 1


def test_a_part_without_images_changes_nothing():
    empty = _evaluate_part(_source(np.arange(0)), part=(2, 2))
    whole = dataclasses.replace(_evaluate_part(_source()), part=(1, 2))
    assert report_of(merge_partials([empty, whole])) == _whole(_source())
    with pytest.raises(SpecError, match="got none, expected at least 1"):
        report_of(empty)


def _parts():
    return [_evaluate_part(take_part(_source(), Part(i, 3)), part=(i, 3)) for i in range(1, 4)]


UNFIT = {
    "none": (lambda parts: [], "got none"),
    "one missing": (lambda parts: parts[::2], "got 1/3, 3/3, expected each of 3 once; missing 2/3"),
    "one twice": (lambda parts: [*parts, parts[1]], "got 1/3, 2/3, 2/3, 3/3, expected each of 3"),
    "other data": (
        lambda parts: [
            *parts[:2],
            dataclasses.replace(
                parts[2], subject=dataclasses.replace(parts[2].subject, data="train")
            ),
        ],
        "data is 'val' in one and 'train' in the other",
    ),
}


@pytest.mark.parametrize(("change", "message"), UNFIT.values(), ids=UNFIT)
def test_refuses_parts_that_are_not_one_whole(change, message):
    with pytest.raises(SpecError, match=message):
        merge_partials(change(_parts()))


DAMAGED = {
    "none": (None, "cannot be read: No such file"),
    "truncated": (lambda data: data[:-30], "is no part of an evaluation"),
    "no object": (lambda data: b"[]", "format None of a part"),
    "other format": (lambda data: data.replace(b'"format": 4', b'"format": 9'), "format 9"),
    "older format": (
        lambda data: data.replace(b'"format": 4', b'"format": 3'),
        "is of an older edge-vit",
    ),
    "wrong type": (lambda data: data.replace(b'"num_bad": ', b'"num_bad": "x", "y": '), "y"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGED.values(), ids=DAMAGED)
def test_refuses_a_damaged_part_in_one_line(damage, message, tmp_path):
    path = tmp_path / "part.json"
    if damage:
        path.write_bytes(damage(_evaluate_part(_source()).to_bytes()))
    with pytest.raises(ArtifactError, match=message) as caught:
        read_partial(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("edgevit eval BUNDLE --data DIR --shard 1/4 -o FILE")


@pytest.mark.parametrize(
    "options", [{"part": (1, 2)}, {"save": lambda parts: None}], ids=["part", "save"]
)
def test_refuses_features_in_parts(options):
    spec = make_model("features")
    with pytest.raises(SpecError, match="evaluate them in one piece"):
        evaluate_part(FakeSession(spec), [], spec, _source(), **options)


def test_copies_count_once_in_whichever_part_they_are():
    whole = _whole(_source())
    evidence = whole.evidence
    assert (evidence.num_exact_copies, evidence.num_near_copies) == (2, 4)
    assert evidence.num_images == evidence.num_distinct == 114
    assert evidence.num_conflicting == 1  # of image 7 and its copies
    parts = [_evaluate_part(take_part(_source(), Part(i, 5)), part=(i, 5)) for i in range(1, 6)]
    assert report_of(merge_partials(parts[::-1])).evidence == evidence
    assert report_of(merge_partials(parts)).findings == whole.findings
