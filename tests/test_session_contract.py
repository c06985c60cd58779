"""What every session promises, whatever its backend: one suite over all of them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from simulated_cuda import SimulatedCuda
from simulated_engine import open_simulated
from tiny_graph import SIZE, tiny_bundle, tiny_images, tiny_spec

from edge_vit.errors import BackendError, ShapeError
from edge_vit.runtime import Session, SessionOptions, open_session
from edge_vit.runtime.fake import FakeSession
from edge_vit.spec import Precision

Opener = Callable[..., Session]


@pytest.fixture(scope="module")
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("contract") / "tiny.edgevit").path


@pytest.fixture(params=["fake", "ort", "openvino", "trt"])
def open_one(request: pytest.FixtureRequest, bundle_path: Path) -> Iterator[Opener]:
    """A function (precision, threads) -> session of the backend whose turn it is.

    A GPU is simulated, and what it holds in the end is a leak.
    """
    gpu = SimulatedCuda()
    yield lambda precision="fp32", threads=1: _open(
        request.param, gpu, bundle_path, precision, SessionOptions(threads)
    )
    gpu.assert_clean()


def _open(
    backend: str, gpu: SimulatedCuda, path: Path, precision: Precision, options: SessionOptions
) -> Session:
    if backend == "trt":
        return open_simulated(gpu, precision=precision, options=options)
    if backend == "fake":
        return FakeSession(tiny_spec(), precision, threads=options.num_threads)
    return open_session(path, precision, backend, options)


@pytest.fixture
def session(open_one: Opener) -> Iterator[Session]:
    with open_one() as session:
        yield session


def test_says_what_it_is(open_one):
    with open_one("int8", 2) as session:
        assert session.backend in ("fake", "ort", "openvino", "trt")
        assert session.precision == "int8"
        assert session.threads == 2
        assert session.inputs == tiny_spec().inputs
        assert session.outputs == tiny_spec().outputs


@pytest.mark.parametrize("count", [1, 2, 5])
def test_answers_a_batch_of_any_size(session, count):
    logits = session.run({"images": tiny_images(count)})["logits"]
    assert (logits.shape, logits.dtype) == ((count, 5), np.float32)
    assert np.isfinite(logits).all()


def test_different_images_have_different_answers(session):
    first, second = session.run({"images": tiny_images(2)})["logits"]
    assert np.abs(first - second).max() > 0.01


def test_an_image_has_the_same_answer_in_any_batch(session):
    images = tiny_images(5)
    together = session.run({"images": images})["logits"]
    alone = [session.run({"images": images[i : i + 1]})["logits"][0] for i in range(5)]
    np.testing.assert_allclose(together, np.stack(alone), rtol=1e-5, atol=1e-5)


def test_running_twice_gives_the_same_answer(session):
    feeds = {"images": tiny_images()}
    np.testing.assert_array_equal(session.run(feeds)["logits"], session.run(feeds)["logits"])


def test_two_sessions_give_the_same_answer(open_one):
    with open_one() as one, open_one() as other:
        feeds = {"images": tiny_images()}
        np.testing.assert_array_equal(one.run(feeds)["logits"], other.run(feeds)["logits"])


def test_returned_arrays_survive_the_next_run_and_the_close(session):
    first = session.run({"images": tiny_images(seed=1)})["logits"]
    kept = first.copy()
    session.run({"images": tiny_images(seed=2)})
    session.close()
    np.testing.assert_array_equal(first, kept)


def test_writing_into_a_returned_array_harms_nothing(session):
    feeds = {"images": tiny_images()}
    first = session.run(feeds)["logits"]
    kept = first.copy()
    first[:] = np.nan
    np.testing.assert_array_equal(session.run(feeds)["logits"], kept)


def test_leaves_the_feeds_as_they_are(session):
    images = tiny_images()
    images.flags.writeable = False
    session.run({"images": images})
    np.testing.assert_array_equal(images, tiny_images())


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(lambda images: np.asfortranarray(images), id="fortran order"),
        pytest.param(lambda images: np.repeat(images, 2, axis=0)[::2], id="every second"),
        pytest.param(lambda images: images[..., ::-1].copy()[..., ::-1], id="reversed channels"),
    ],
)
def test_takes_arrays_that_are_not_contiguous(session, view):
    images = tiny_images()
    assert not view(images).flags.c_contiguous
    np.testing.assert_array_equal(
        session.run({"images": view(images)})["logits"], session.run({"images": images})["logits"]
    )


IMAGES = tiny_images(1)
EXPECTED = "uint8 (batch, 8, 8, 3)"


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        pytest.param({}, f"inputs: got none, expected 'images' {EXPECTED}", id="missing"),
        pytest.param(
            IMAGES, f"inputs: got 'ndarray', expected 'images' {EXPECTED}", id="no dictionary"
        ),
        pytest.param(
            {"pixels": IMAGES},
            f"inputs: got 'pixels', expected 'images' {EXPECTED}",
            id="wrong name",
        ),
        pytest.param(
            {"images": IMAGES, "mask": IMAGES},
            f"inputs: got 'images', 'mask', expected 'images' {EXPECTED}",
            id="extra",
        ),
        pytest.param(
            {"images": IMAGES.astype(np.float64)},
            f"input 'images': got float64 (1, 8, 8, 3), expected {EXPECTED}",
            id="dtype",
        ),
        pytest.param(
            {"images": IMAGES.astype(np.int8)},
            f"input 'images': got int8 (1, 8, 8, 3), expected {EXPECTED}",
            id="signed",
        ),
        pytest.param(
            {"images": IMAGES.transpose(0, 3, 1, 2)},
            f"input 'images': got uint8 (1, 3, 8, 8), expected {EXPECTED}",
            id="channels first",
        ),
        pytest.param(
            {"images": IMAGES[0]},
            f"input 'images': got uint8 (8, 8, 3), expected {EXPECTED}",
            id="no batch",
        ),
        pytest.param(
            {"images": IMAGES[:0]},
            f"input 'images': got uint8 (0, 8, 8, 3), expected {EXPECTED}",
            id="empty batch",
        ),
        pytest.param(
            {"images": IMAGES.tolist()},
            f"input 'images': got a list, not a numpy array, expected {EXPECTED}",
            id="list",
        ),
    ],
)
def test_refuses_wrong_feeds(session, feeds, message):
    with pytest.raises(ShapeError) as caught:
        session.run(feeds)
    assert str(caught.value) == message


def test_runs_again_after_a_refusal(session):
    with pytest.raises(ShapeError):
        session.run({})
    session.run({"images": tiny_images()})


def test_keeps_the_time_of_the_last_run(session):
    assert session.last_latency_ms is None
    session.run({"images": tiny_images()})
    assert 0 < session.last_latency_ms < 10_000


def test_closing_twice_is_fine(session):
    session.close()
    session.close()


def test_refuses_to_run_after_close(session):
    session.close()
    with pytest.raises(BackendError, match=r"session is closed\. Open another with open_session"):
        session.run({"images": tiny_images()})


def test_a_block_closes_it_even_when_it_fails(open_one):
    with pytest.raises(KeyError), open_one() as session:
        raise KeyError
    with pytest.raises(BackendError, match="closed"):
        session.run({"images": tiny_images()})


def test_concurrent_runs_give_the_same_answers(session):
    batches = [tiny_images(3, seed=seed) for seed in range(4)]
    expected = [session.run({"images": batch})["logits"] for batch in batches]
    wrong: list[int] = []
    start = threading.Barrier(4)

    def work(index: int) -> None:
        start.wait()
        for _ in range(50):
            logits = session.run({"images": batches[index]})["logits"]
            if not np.array_equal(logits, expected[index]):
                wrong.append(index)

    workers = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def test_the_wrapper_costs_microseconds(session, monkeypatch):
    outputs = {"logits": np.zeros((1, 5), np.float32)}
    monkeypatch.setattr(session, "_run", lambda feeds: outputs)
    feeds = {"images": np.zeros((1, SIZE, SIZE, 3), np.uint8)}
    latencies_ms = []
    for _ in range(2000):
        session.run(feeds)
        latencies_ms.append(session.last_latency_ms)
    assert min(latencies_ms) < 0.2  # a slow processor included


def test_the_options_ask_for_the_cores_of_this_process():
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert SessionOptions().num_threads == cores
    assert SessionOptions(3).num_threads == 3
