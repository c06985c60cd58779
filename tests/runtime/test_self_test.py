from __future__ import annotations

import logging

import numpy as np
import pytest
from tiny_graph import golden_bundle, tiny_bundle, tiny_images, tiny_outputs, tiny_spec

from edge_vit.bundle import GOLDEN
from edge_vit.bundle.record import GoldenProof
from edge_vit.errors import ArtifactError, BackendError
from edge_vit.formats import find_format
from edge_vit.formats.int8 import FORMAT as INT8
from edge_vit.runtime import open_session
from edge_vit.runtime.fake import FakeSession
from edge_vit.runtime.self_test import check_session, run_self_test

IMAGES = tiny_images(5)


class Wrong(FakeSession):
    """Says what the model says, changed."""

    def __init__(self, change, precision="fp32", batch=None):
        super().__init__(tiny_spec(batch), precision)
        self._change = change

    def _run(self, feeds):
        return {"logits": self._change(tiny_outputs(feeds["images"])).astype(np.float32)}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return golden_bundle(tmp_path_factory.mktemp("golden") / "tiny.edgevit")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("backend", ["ort", "openvino"])
def test_the_model_itself_passes(bundle, backend, precision):
    with open_session(bundle, precision, backend) as session:
        result = run_self_test(session, bundle)
    assert result.passes
    assert result.num_images == 5
    assert result.error < find_format(precision).self_test_limit / 4


def test_a_fixed_batch_is_filled_up(bundle):
    assert run_self_test(Wrong(lambda logits: logits, batch=3), bundle).passes


@pytest.mark.parametrize(
    ("change", "precision"),
    [
        pytest.param(lambda logits: logits[:, ::-1], "int8", id="classes in another order"),
        pytest.param(lambda logits: -logits, "int8", id="sign"),
        pytest.param(lambda logits: logits * 0, "int8", id="zeros"),
        pytest.param(lambda logits: logits * 1.2, "fp16", id="scale"),
        pytest.param(lambda logits: np.roll(logits, 1, axis=0), "fp16", id="another image"),
        pytest.param(lambda logits: logits + 0.1 * logits.std(), "fp32", id="bias"),
    ],
)
def test_refuses_wrong_answers_with_the_figures(bundle, change, precision):
    with pytest.raises(BackendError) as caught:
        check_session(Wrong(change, precision), bundle, "tiny.engine")
    message = str(caught.value)
    assert message.startswith("tiny.engine gives other answers than the model: on 5 golden images")
    assert f"{precision} may be off by {find_format(precision).self_test_limit:g}" in message
    assert message.endswith("--no-self-test")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_refuses_what_is_not_finite(bundle, value):
    with pytest.raises(BackendError, match="off by inf"):
        check_session(Wrong(lambda logits: logits * value, "int8"), bundle, "tiny.engine")


def test_a_rounding_of_each_precision_passes(bundle):
    rng = np.random.default_rng(0)
    for precision, size in (("fp32", 1e-4), ("fp16", 0.005), ("int8", 0.2)):
        noise = size * tiny_outputs(IMAGES).std() * rng.standard_normal((5, 5))
        check_session(Wrong(lambda logits, noise=noise: logits + noise, precision), bundle, "x")


def test_without_golden_images_it_says_so(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        check_session(FakeSession(tiny_spec()), tiny_bundle(tmp_path / "t.edgevit"), "tiny.engine")
    assert "tiny.engine was not tested: the bundle has no golden/golden.npz" in caplog.text


@pytest.fixture(scope="module")
def proven(tmp_path_factory):
    """Return a bundle that says what INT8 came to on each of its golden images."""
    path = tmp_path_factory.mktemp("proven") / "tiny.edgevit"
    proof = GoldenProof((0.02, 0.02, 0.02, 0.02, 0.2))
    return golden_bundle(path).add({INT8.proof: proof.to_bytes()}, parents=(GOLDEN,))


@pytest.mark.parametrize(
    ("image", "size", "limit"), [(0, 0.05, 0.1), (0, 0.2, 0.1), (4, 0.5, 0.6), (4, 0.8, 0.6)]
)
def test_each_image_may_be_off_by_what_is_expected_of_it(proven, image, size, limit):
    outputs = tiny_outputs(IMAGES)
    spread = float(np.sqrt(np.mean((outputs - outputs.mean(1, keepdims=True)) ** 2)))
    noise = np.zeros((5, 5))
    noise[image] = size * spread
    result = run_self_test(Wrong(lambda logits: logits + noise, "int8"), proven)
    assert result.error == pytest.approx(size, rel=1e-3)
    assert result.limit == pytest.approx(limit)
    assert result.passes == (size <= limit)


def test_an_older_bundle_keeps_one_limit_for_all(bundle):
    result = run_self_test(Wrong(lambda logits: logits, "int8"), bundle)
    assert result.limit == INT8.self_test_limit


def test_a_proof_that_was_damaged_is_refused(tmp_path):
    bundle = golden_bundle(tmp_path / "t.edgevit").add({INT8.proof: b"[]"}, parents=(GOLDEN,))
    with pytest.raises(ArtifactError, match=r"int8\.json is not a proof on golden images"):
        run_self_test(Wrong(lambda logits: logits, "int8"), bundle)
