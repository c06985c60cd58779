"""Objects with masks: predictions, matches and measures."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from small_masks import (
    QUERIES,
    SIZE,
    SPEC,
    Painter,
    queries_for,
    scene,
)

from edge_vit.data.images import ArraySource
from edge_vit.measure.accuracy import evaluate
from edge_vit.runtime.fake import FakeSession
from edge_vit.tasks import task_of


def test_objects_have_score_box_and_mask():
    outputs = queries_for([(1, 0, 0, 4, 4), (2, 4, 6, 8, 12)])
    (found,) = task_of(QUERIES).decode(QUERIES, outputs, ["a.png"], [SIZE])
    assert [entry["label"] for entry in found.entries()] == ["right", "left"]
    first = found.entries()[1]
    assert first["box"] == pytest.approx([0, 0, 32, 32], abs=5)
    assert 0.9 < first["score"] < 1
    assert first["share"] == pytest.approx(1 / 6, abs=0.05)
    assert (found.classes[:24, :24] == 1).all()
    numbers = np.asarray(Image.open(io.BytesIO(found.files()["segments.png"])))
    assert set(np.unique(numbers)) == {0, 1, 2}
    assert np.asarray(found.draw(Image.new("RGB", SIZE[::-1]))).any()
    assert found.headline == "1 × right, 1 × left"


def test_segments_are_matched_and_judged():
    class Objects(FakeSession):
        num_seen = 0

        def _run(self, feeds):
            self.num_seen += 1
            if self.precision == "int8" and self.num_seen % 2 == 0:
                return queries_for([(1, 0, 0, 4, 4)])  # one object of every other image is lost
            moved = int(self.precision == "int8")
            return queries_for([(1, 0, 0, 4, 4 + moved), (2, 4, 6, 8, 12)])

    source = ArraySource([scene(index)[0] for index in range(30)])
    sessions = Objects(QUERIES), [Objects(QUERIES, "int8")]
    (report,) = evaluate(*sessions, QUERIES, source)
    found = {name: value.value for name, value in report.measures.items()}
    assert found["matched_segments"] == pytest.approx(0.75)
    assert found["added_segments"] == 0
    assert 0.7 < found["mean_mask_iou"] < 1
    assert report.agreement == pytest.approx(0.5)


def test_masks_as_supervision_takes_them(monkeypatch):
    import sys
    from types import ModuleType

    module = ModuleType("supervision")
    module.Detections = lambda **fields: fields
    monkeypatch.setitem(sys.modules, "supervision", module)
    outputs = queries_for([(1, 0, 0, 4, 4), (2, 4, 6, 8, 12)])
    (objects,) = task_of(QUERIES).decode(QUERIES, outputs, ["a.png"], [SIZE])
    found = objects.to_supervision()
    assert found["mask"].shape == (2, *SIZE)
    assert found["class_id"].tolist() == [2, 1]
    assert found["xyxy"].tolist() == [entry["box"] for entry in objects.entries()]
    images = {"images": np.asarray(Image.fromarray(scene(0)[0]).resize((48, 32)))[None]}
    (classes,) = task_of(SPEC).decode(SPEC, Painter(SPEC).run(images), ["a.png"], [SIZE])
    found = classes.to_supervision()
    assert found["mask"].sum() == SIZE[0] * SIZE[1]
    assert found["confidence"] is None
