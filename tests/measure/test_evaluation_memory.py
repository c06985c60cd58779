"""An evaluation keeps totals and one short record per image, never the images themselves."""

from __future__ import annotations

import contextlib
import tracemalloc

import numpy as np
import pytest
from small_models import make_model

from edge_vit.data.images import ImageItem
from edge_vit.measure import records
from edge_vit.measure.accuracy import evaluate_part
from edge_vit.progress import Silent
from edge_vit.runtime.session import Session

pytestmark = pytest.mark.uncounted

SPEC = make_model(size=5)


class Scripted(Session):
    """Answers from a table, by two bytes of the image."""

    backend = "scripted"

    def __init__(self, precision, noise):
        super().__init__(precision=precision, inputs=SPEC.inputs, outputs=SPEC.outputs, threads=1)
        self._rows = np.random.default_rng(0).standard_normal((256, 5)).astype(np.float32)
        self._noise = noise

    def _run(self, feeds):
        low, high = feeds["images"][0, 0, 0, :2]
        return {"logits": (self._rows[low] + self._noise * self._rows[high])[None]}

    def _close(self):
        """Nothing to free."""


class Generated:
    """Images that are made when their turn comes, all of them different."""

    labels, has_labels = (), True

    def __init__(self, count):
        self._count = count

    def __len__(self):
        return self._count

    def __iter__(self):
        for index in range(self._count):
            pixels = np.zeros((8, 8, 3), np.uint8)
            pixels[0, 0] = np.frombuffer(index.to_bytes(3, "little"), np.uint8)
            yield ImageItem(f"{index}", pixels, index % 5)


class FromFirstImage(Silent):
    """Begins to watch the memory when the first image is done: what comes before is no image's."""

    @contextlib.contextmanager
    def step(self, name, total=None):
        seen = []

        def advance(count):
            if not seen:
                seen.append(count)
                tracemalloc.reset_peak()

        yield advance


def _peak_of(count):
    sessions = Scripted("fp32", 0), Scripted("int8", 0.2)
    tracemalloc.start()
    (part,) = evaluate_part(
        sessions[0], [sessions[1]], SPEC, Generated(count), progress=FromFirstImage()
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert part.num_images == count
    return peak


RECORD = records.RECORD.itemsize + records.OUTCOME.itemsize
"""Bytes of what is kept of one image."""
MEASURED = 5 * 8 + 24
"""Bytes of its measures: five places in lists, and one number that is neither 0 nor 1."""


def test_memory_grows_by_a_record_per_image_and_no_more():
    _peak_of(50)  # what is loaded once is loaded now
    few, many = _peak_of(300), _peak_of(2000)
    # At the end the records are there as bytes, once more as they grow, and as text.
    kept = 1700 * RECORD * (1 + 1.2 + 1.4)
    assert many - few < kept + 1700 * MEASURED * 1.2 + 200_000
