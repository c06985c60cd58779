"""Reports and models made to order, for the tests of this folder."""

import pytest
from small_models import make_model

from edge_vit.measure.recorder import summarize
from edge_vit.measure.results import AccuracyReport, Environment, LatencyReport

ENVIRONMENT = Environment("CPU", ("avx2",), 2, 8.0, "Linux", "3.10", {"edge-vit": "0"})


def make_accuracy(
    precision="int8", *, images=1000, labelled=None, lost=0, gained=0, differing=None, **changes
):
    labelled = images if labelled is None else labelled
    differing = lost + gained if differing is None else differing
    right = labelled // 2 + lost
    values = {
        "backend": "ort",
        "precision": precision,
        "reference": "fp32 ort",
        "num_images": images,
        "num_labelled": labelled,
        "top1": (right - lost + gained) / labelled if labelled else None,
        "top5": 1.0 if labelled else None,
        "reference_top1": right / labelled if labelled else None,
        "reference_top5": 1.0 if labelled else None,
        "agreement": 1 - differing / images,
        "num_agreeing": images - differing,
        "cosine_mean": 0.999,
        "cosine_min": 0.99,
        "sqnr_db": 25.0,
        "kl_mean": 0.001,
        "num_lost": lost,
        "num_gained": gained,
        "data": "val",
        "data_digest": "0" * 64,
        "num_calibrated_on": 0,
        "worst": (),
        "environment": ENVIRONMENT,
    }
    return AccuracyReport(**{**values, **changes})


def make_latencies(backend="ort", **median_ms):
    """One report per precision, `int8=4.1`, each with a little spread, taken in turns."""
    return tuple(
        _latency(backend, precision, ms, tuple(p for p in median_ms if p != precision))
        for precision, ms in median_ms.items()
    )


def _latency(backend, precision, ms, others):
    samples = tuple(ms * (1 + 0.01 * (i % 5 - 2)) for i in range(100))
    summary = summarize(samples)
    return LatencyReport(
        backend=backend,
        precision=precision,
        batch_size=1,
        threads=2,
        warmup=10,
        iterations=len(samples),
        latency_ms=summary,
        throughput_ips=1000 / summary.mean,
        samples_ms=samples,
        interleaved_with=others,
        environment=ENVIRONMENT,
        is_on_gpu=backend == "trt",
    )


@pytest.fixture(name="make_model")
def _make_model():
    return make_model


@pytest.fixture(name="make_accuracy")
def _make_accuracy():
    return make_accuracy


@pytest.fixture(name="make_latencies")
def _make_latencies():
    return make_latencies
