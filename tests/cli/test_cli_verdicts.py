"""Five verdicts on real sessions, each disturbed so that one thing is true of it."""

from __future__ import annotations

import re

import numpy as np
import pytest
from tiny import tiny_digits

from edge_vit.data.images import ArraySource
from edge_vit.measure import verify as verify_module
from edge_vit.runtime.session import Session, open_session, run_batch
from edge_vit.training.datasets import write_class_folders

pytestmark = pytest.mark.uncounted

NUM_IMAGES = 300
LIMITS = ("--max-drop", 2, "--iterations", 30, "--threads", 1, "--backend", "ort")


class ScriptedClock:
    """The time that latencies are measured with: runs take what a test says, give or take 5 %."""

    def __init__(self):
        self._now_ns = 0
        self._noise = np.random.default_rng(0)

    def pass_ms(self, milliseconds):
        self._now_ns += round(milliseconds * 1e6 * self._noise.uniform(0.95, 1.05))

    def perf_counter_ns(self):
        return self._now_ns

    def perf_counter(self):
        return self._now_ns / 1e9


CLOCK = ScriptedClock()


class Disturbed(Session):
    """A real session that takes longer, or is wrong on every fifth image."""

    backend = "ort"

    def __init__(self, real: Session, *, delay_ms: float = 0, is_wrong: bool = False):
        super().__init__(
            precision=real.precision, inputs=real.inputs, outputs=real.outputs, threads=real.threads
        )
        self.real, self.delay_ms, self.is_wrong = real, delay_ms, is_wrong

    def _run(self, feeds):
        outputs = self.real.run(feeds)
        CLOCK.pass_ms(1 + self.delay_ms)
        if not self.is_wrong:
            return outputs
        chosen = [int(image.sum(dtype=np.int64)) % 5 == 0 for image in feeds["images"]]
        logits = outputs["logits"].copy()
        logits[chosen] = -logits[chosen]
        return {"logits": logits}

    def _close(self):
        self.real.close()


@pytest.fixture(scope="module")
def data(shared_bundle, tmp_path_factory):
    """Return digits in class folders, each labelled as fp32 answers it: so fp32 is always right."""
    images = tiny_digits().train_images[:NUM_IMAGES]
    with open_session(shared_bundle, "fp32", "ort") as session:
        labels = run_batch(session, images).argmax(axis=1)
    folder = tmp_path_factory.mktemp("labelled") / "val"
    write_class_folders(images, labels, tiny_digits().labels, folder)
    assert len(ArraySource(images)) == NUM_IMAGES
    return folder


@pytest.fixture
def verify(edgevit, shared_bundle, data, monkeypatch):
    """Return a function that calls ``edgevit verify`` with sessions disturbed by precision."""

    def call(*arguments, **disturbed):
        def open_disturbed(bundle, precision, backend, options, progress):
            real = open_session(bundle, precision, backend, options, progress)
            return Disturbed(real, **disturbed.get(precision, {}))

        monkeypatch.setattr(verify_module, "open_session", open_disturbed)
        monkeypatch.setattr("edge_vit.measure.latency.time", CLOCK)
        result = edgevit(
            *("verify", shared_bundle.path, "--data", data, "--no-report", *LIMITS, *arguments)
        )
        return result.exit_code, " ".join(re.sub("[│╭╮╰╯─]", " ", result.stdout).split())

    return call


def test_int8_is_better(verify):
    status, words = verify(fp32={"delay_ms": 4}, fp16={"delay_ms": 4})
    assert status == 0, words
    assert "Ship INT8: " in words
    assert "faster than FP32" in words
    assert "recommended: int8 on ort" in words


def test_int8_is_inaccurate(verify):
    status, words = verify(fp32={"delay_ms": 4}, fp16={"delay_ms": 8}, int8={"is_wrong": True})
    assert status == 3
    assert re.search(r"Do not ship INT8: accuracy drop \d+\.\d+ points, at least \d+\.\d+", words)
    assert "Ship FP32 instead" in words


def test_int8_is_slower(verify):
    status, words = verify(int8={"delay_ms": 4}, fp16={"delay_ms": 8})
    assert status == 3
    assert "Do not ship INT8: it is slower than FP32 (0." in words
    assert "Ship FP32 instead" in words


def test_too_few_images_to_tell(verify):
    status, words = verify("--num-images", 40, fp32={"delay_ms": 4})
    assert status == 5
    assert "Undecided about INT8: accuracy" in words
    assert re.search(r"about \d+ images like these would decide", words)


def test_conditions_are_unlike(verify, tmp_path):
    earlier = tmp_path / "earlier.json"
    verify("-o", earlier, fp32={"delay_ms": 4})
    earlier.write_text(earlier.read_text().replace('"threads": 1', '"threads": 4'))
    status, words = verify("--baseline", earlier, fp32={"delay_ms": 4})
    assert status == 5
    assert "latency cannot be held against the earlier report: threads 1, not 4" in words
    assert "no difference: the same answers, to the last digit" in words
