from __future__ import annotations

import zlib

import numpy as np
import pytest
from tiny_graph import tiny_images, tiny_spec

from edge_vit.runtime.fake import FakeSession

FEEDS = {"images": tiny_images(64)}


def test_answers_as_documented():
    image = tiny_images(1)
    expected = np.random.default_rng(zlib.crc32(image.tobytes())).standard_normal(5)
    logits = FakeSession(tiny_spec()).run({"images": image})["logits"][0]
    np.testing.assert_array_equal(logits, expected.astype(np.float32))


@pytest.mark.parametrize("other", [{"precision": "int8"}, {"seed": 5}, {"delay_ms": 1.0}])
def test_without_noise_every_fake_agrees(other):
    reference = FakeSession(tiny_spec()).run(FEEDS)["logits"]
    np.testing.assert_array_equal(FakeSession(tiny_spec(), **other).run(FEEDS)["logits"], reference)


def test_noise_has_the_size_that_was_asked_for_and_does_not_change():
    reference = FakeSession(tiny_spec()).run(FEEDS)["logits"]
    candidate = FakeSession(tiny_spec(), noise=0.1)
    error = candidate.run(FEEDS)["logits"] - reference
    assert np.std(error) == pytest.approx(0.1, rel=0.2)
    assert abs(np.mean(error)) < 0.02
    np.testing.assert_allclose(candidate.run(FEEDS)["logits"] - reference, error)


def test_the_seed_chooses_the_errors():
    one, other = (
        FakeSession(tiny_spec(), noise=0.1, seed=seed).run(FEEDS)["logits"] for seed in (1, 2)
    )
    assert np.abs(one - other).max() > 0.1


def test_is_as_slow_as_asked():
    session = FakeSession(tiny_spec(), delay_ms=20)
    session.run(FEEDS)
    assert session.last_latency_ms >= 20


def test_answers_for_every_task():
    outputs = FakeSession(tiny_spec(task="features")).run(FEEDS)
    assert outputs["features"].shape == (64, 5)
