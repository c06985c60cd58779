from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image
from tiny_graph import tiny_bundle, tiny_images, tiny_outputs, tiny_spec

from edge_vit.data.images import ArraySource
from edge_vit.errors import BackendError, ImageError, ShapeError, SpecError
from edge_vit.runtime import Predictor, SessionOptions
from edge_vit.runtime.fake import FakeSession


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("predictor") / "tiny.edgevit")


@pytest.fixture
def predictor(bundle):
    with Predictor.open(bundle, "fp32") as predictor:
        yield predictor


class Given(FakeSession):
    """Answers what it is given."""

    def __init__(self, spec, row):
        super().__init__(spec)
        self.row = np.asarray(row, np.float32)

    def _run(self, feeds):
        return {self.outputs[0].name: np.stack([self.row] * len(feeds["images"]))}


def predict_given(row, task="classification", top=5):
    spec = tiny_spec(task=task)
    with Predictor(Given(spec, row), spec) as predictor:
        return predictor.predict(tiny_images(1)[0], top=top)


def test_answers_are_the_softmax_of_the_graph(predictor):
    image = tiny_images(1)
    logits = tiny_outputs(image)[0].astype(np.float64)
    scores = np.exp(logits) / np.exp(logits).sum()
    answers = predictor.predict(image[0]).classes
    assert [answer.index for answer in answers] == np.argsort(-scores).tolist()
    labels = predictor.spec.labels
    assert [answer.label for answer in answers] == [labels[a.index] for a in answers]
    np.testing.assert_allclose([a.score for a in answers], np.sort(scores)[::-1], rtol=1e-4)


def test_a_file_and_its_pixels_have_the_same_answers(predictor, tmp_path):
    pixels = np.random.default_rng(3).integers(0, 256, (20, 31, 3), dtype=np.uint8)
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    from_pixels = predictor.predict(pixels)
    assert from_pixels.image == "array"
    for image in (path, str(path)):
        prediction = predictor.predict(image)
        assert prediction.image == str(path)
        assert prediction.classes == from_pixels.classes


@pytest.mark.parametrize(("top", "count"), [(1, 1), (3, 3), (5, 5), (100, 5)])
def test_gives_as_many_answers_as_there_are(predictor, top, count):
    assert len(predictor.predict(tiny_images(1)[0], top=top).classes) == count


@pytest.mark.parametrize("top", [0, -1])
def test_refuses_no_answers(predictor, top):
    with pytest.raises(SpecError, match=f"top: got {top}, expected at least 1"):
        predictor.predict(tiny_images(1)[0], top=top)


def test_equal_scores_come_in_the_order_of_their_index():
    answers = predict_given([1, 2, 2, 1, 2], top=4).classes
    assert [answer.index for answer in answers] == [1, 2, 4, 0]


def test_features_come_as_they_are():
    prediction = predict_given([1, -2, 0.5, 3, 4], task="features")
    assert prediction.names == ()
    assert prediction.features == (1.0, -2.0, 0.5, 3.0, 4.0)


@pytest.mark.parametrize("task", ["classification", "features"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_refuses_an_output_that_is_not_finite(task, value):
    with pytest.raises(BackendError, match="tiny in fp32 gave NaN or infinity"):
        predict_given([1, 2, value, 4, 5], task)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_opens_the_precision_that_was_asked_for(bundle, precision):
    with Predictor.open(str(bundle.path), precision, "ort", SessionOptions(1)) as predictor:
        assert predictor.session.precision == precision
        assert predictor.session.threads == 1


def test_opens_the_smallest_precision_where_none_was_asked_for(bundle):
    with Predictor.open(bundle) as predictor:
        assert predictor.session.precision == bundle.smallest_precision == "int8"


def test_a_fixed_batch_predicts_one_image(tmp_path):
    image = tiny_images(1)
    with Predictor.open(tiny_bundle(tmp_path / "fixed.edgevit", batch=4), "fp32") as predictor:
        best = predictor.predict(image[0], top=1).classes[0]
    assert best.index == np.argmax(tiny_outputs(image)[0])


def test_predicts_a_source_one_image_at_a_time(predictor):
    images = tiny_images(3)
    seen = []

    class Watched(ArraySource):
        def __iter__(self):
            for item in super().__iter__():
                seen.append(item.name)
                yield item

    predictions = predictor.predict_many(Watched(images), top=1)
    assert seen == []
    assert next(predictions).image == "00000"
    assert seen == ["00000"]
    rest = [prediction.classes[0].index for prediction in predictions]
    assert rest == np.argmax(tiny_outputs(images[1:]), axis=1).tolist()


def test_predicts_a_folder(predictor, tmp_path):
    for name in ("b.png", "a.png"):
        Image.fromarray(tiny_images(1)[0]).save(tmp_path / name)
    assert [p.image for p in predictor.predict_many(tmp_path)] == ["a.png", "b.png"]


def test_a_missing_folder_is_refused_at_once(predictor, tmp_path):
    with pytest.raises(ImageError, match="does not exist"):
        predictor.predict_many(tmp_path / "nowhere")


def test_refuses_pixels_that_are_no_image(predictor):
    with pytest.raises(ShapeError, match=r"got float32 \(8, 8, 3\)"):
        predictor.predict(np.zeros((8, 8, 3), np.float32))


def test_the_session_is_closed_with_the_predictor(bundle):
    with Predictor.open(bundle) as predictor:
        pass
    predictor.close()
    with pytest.raises(BackendError, match="closed"):
        predictor.predict(tiny_images(1)[0])


def test_a_prediction_is_a_value():
    with pytest.raises(dataclasses.FrozenInstanceError):
        predict_given([1, 2, 3, 4, 5]).image = "other"
