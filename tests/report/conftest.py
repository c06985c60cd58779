"""A report as a verify run of a digits model would leave it, and its variants."""

from __future__ import annotations

import base64
import dataclasses
import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from edge_vit.measure.results import (
    AccuracyReport,
    Disagreement,
    Environment,
    Gate,
    LatencyReport,
    LatencySummary,
    Verdict,
    VerifyReport,
)
from edge_vit.spec import ModelSpec, PreprocessSpec, image_input, task_output
from edge_vit.spec.table import RECIPES, CalibrationTable, SiteScales
from edge_vit.tasks.prediction import ClassScore

LABELS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

ENVIRONMENT = Environment(
    device="AMD EPYC 7B13 64-Core Processor",
    instruction_sets=("avx2", "fma"),
    num_cores=2,
    memory_gib=7.8,
    system="Linux 6.1.0",
    python="3.11.9",
    packages={"edge-vit": "0.1.0", "onnxruntime": "1.23.2", "numpy": "2.2.6"},
)

SPEC = ModelSpec(
    name="digits_vit",
    source="edgevit:vit_digits",
    task="classification",
    labels=LABELS,
    inputs=(image_input((32, 32)),),
    outputs=(task_output("classification", 10),),
    preprocess=PreprocessSpec((32, 32), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    depth=6,
    num_heads=3,
    embed_dim=96,
    num_tokens=65,
    licence="Apache-2.0",
)


def picture(digit: int, size: int = 32, seed: int = 0) -> str:
    """A drawn digit with a little noise, PNG in base64."""
    image = Image.new("RGB", (size, size), (12, 12, 20))
    ImageDraw.Draw(image).text(
        (size * 0.28, size * 0.02), str(digit), fill=(235, 235, 225), font_size=int(size * 0.85)
    )
    noise = np.random.default_rng(seed).normal(0, 14, (size, size, 3))
    pixels = np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def answers(first: int, score: float) -> tuple[ClassScore, ...]:
    second, third = (first + 5) % 10, (first + 2) % 10
    left = 1 - score
    return (
        ClassScore(first, LABELS[first], score),
        ClassScore(second, LABELS[second], 0.7 * left),
        ClassScore(third, LABELS[third], 0.2 * left),
    )


def disagreement(i: int, seed: int = 0) -> Disagreement:
    digit, agrees = (3 * i + 1) % 10, i >= 4
    return Disagreement(
        image=f"{LABELS[digit]}/{1200 + 37 * i:04d}.png",
        thumbnail_png=picture(digit, seed=seed + i),
        label=LABELS[digit],
        reference=answers(digit, 0.52 + 0.02 * i),
        candidate=answers(digit if agrees else (digit + 5) % 10, 0.49 + 0.02 * i),
        divergence=0.41 / (i + 1),
        agrees=agrees,
    )


def accuracy(
    precision: str, num_agreeing: int, sqnr_db: float | None, num_worst: int
) -> AccuracyReport:
    return AccuracyReport(
        backend="ort",
        precision=precision,
        reference="fp32 ort",
        num_images=1000,
        num_labelled=1000,
        top1=0.981 if precision == "int8" else 0.982,
        top5=0.999,
        reference_top1=0.982,
        reference_top5=0.999,
        agreement=num_agreeing / 1000,
        num_agreeing=num_agreeing,
        cosine_mean=0.99987 if precision == "int8" else 0.9999998,
        cosine_min=0.99712 if precision == "int8" else 0.9999991,
        sqnr_db=sqnr_db,
        kl_mean=0.00041 if precision == "int8" else 2.1e-7,
        num_lost=2 if precision == "int8" else 0,
        num_gained=1 if precision == "int8" else 0,
        data="digits/test",
        data_digest="5f2b1c" * 10 + "abcd",
        num_calibrated_on=0,
        worst=tuple(disagreement(i, seed=num_worst) for i in range(num_worst)),
        environment=ENVIRONMENT,
    )


def latency(precision: str, typical_ms: float, seed: int) -> LatencyReport:
    random = np.random.default_rng(seed)
    samples = typical_ms * (0.97 + random.gamma(2.0, 0.018, 600))
    samples[random.integers(0, 600, 6)] *= 1.9
    p50, p90, p99 = (float(v) for v in np.percentile(samples, (50, 90, 99)))
    mean = float(samples.mean())
    return LatencyReport(
        backend="ort",
        precision=precision,
        batch_size=1,
        threads=2,
        warmup=20,
        iterations=600,
        latency_ms=LatencySummary(p50, p90, p99, mean, float(samples.min()), float(samples.max())),
        throughput_ips=1000 / mean,
        samples_ms=tuple(float(v) for v in samples),
        interleaved_with=tuple(p for p in ("fp32", "fp16", "int8") if p != precision),
        environment=ENVIRONMENT,
    )


DROP_GATE = Gate(
    "max-drop",
    "int8",
    "pass",
    limit=0.5,
    value=0.1,
    low=-0.22,
    high=0.46,
    sentence="Accuracy drop 0.10 points, at most 0.46 with 95 % confidence (0.5 allowed).",
)
SPEEDUP_GATE = Gate(
    "min-speedup",
    "int8",
    "pass",
    limit=1.05,
    value=1.718,
    low=1.70,
    high=1.74,
    sentence="1.71x faster than FP32 (median 1.4 ms against 2.41 ms).",
)


def verdict(outcome: str) -> Verdict:
    drop = DROP_GATE
    if outcome == "fail":
        drop = dataclasses.replace(
            DROP_GATE,
            outcome="fail",
            value=2.4,
            low=1.5,
            high=3.4,
            sentence="Accuracy drop 2.40 points, at least 1.50 with 95 % confidence, where 0.5 "
            "are allowed.",
        )
    if outcome == "undecided":
        drop = dataclasses.replace(
            DROP_GATE,
            outcome="undecided",
            value=0.4,
            low=-0.3,
            high=1.1,
            images_needed=4200,
            sentence="Accuracy drop 0.40 points on 1,000 labelled images, but it can be anything "
            "from -0.30 to 1.10, and 0.5 are allowed; about 4,200 images like these would decide.",
        )
    sentences = {
        "pass": "Ship INT8: 1.71x faster than FP32 (median 1.4 ms against 2.41 ms); accuracy drop "
        "0.10 points, at most 0.46 with 95 % confidence (0.5 allowed).",
        "fail": "Do not ship INT8: accuracy drop 2.40 points, at least 1.50 with 95 % confidence, "
        "where 0.5 are allowed; 1.71x faster than FP32. Ship FP32 instead.",
        "undecided": "Undecided about INT8: accuracy drop 0.40 points on 1,000 labelled images, "
        "but it can be anything from -0.30 to 1.10, and 0.5 are allowed; about 4,200 images like "
        "these would decide. Until then ship FP32.",
    }
    gates = (
        drop,
        SPEEDUP_GATE,
        dataclasses.replace(
            DROP_GATE,
            precision="fp16",
            value=0.0,
            low=-0.3,
            high=0.3,
            sentence="Accuracy drop 0.00 points, at most 0.30 with 95 % confidence (0.5 allowed).",
        ),
        dataclasses.replace(
            SPEEDUP_GATE,
            precision="fp16",
            outcome="fail",
            value=0.956,
            low=0.95,
            high=0.97,
            sentence="It is slower than FP32 (0.95x, wanted 1.05x; median 2.52 ms against "
            "2.41 ms).",
        ),
    )
    recommended = "int8" if outcome == "pass" else "fp32"
    return Verdict("int8", recommended, outcome, sentences[outcome], gates)


def make_report(outcome: str = "pass") -> VerifyReport:
    return VerifyReport(
        bundle="digits.edgevit",
        bundle_digest="c0ffee" * 10 + "1234",
        created="2026-03-14T09:26:53+00:00",
        model=SPEC,
        verdict=verdict(outcome),
        accuracy=(
            accuracy("fp32", 1000, None, 0),
            accuracy("fp16", 1000, 71.3, 3),
            accuracy("int8", 996, 34.8, 12),
        ),
        latency=(latency("fp32", 2.41, 1), latency("fp16", 2.52, 2), latency("int8", 1.40, 3)),
        notes=("The processor has no AVX-512 VNNI: INT8 is slower here than it could be.",),
        environment=ENVIRONMENT,
    )


def without_labels(report: VerifyReport) -> VerifyReport:
    """The same run on a flat folder of images."""
    accuracy = tuple(
        dataclasses.replace(
            a,
            num_labelled=0,
            top1=None,
            top5=None,
            reference_top1=None,
            reference_top5=None,
            num_lost=0,
            num_gained=0,
            worst=tuple(dataclasses.replace(w, label=None) for w in a.worst),
        )
        for a in report.accuracy
    )
    return dataclasses.replace(report, accuracy=accuracy)


def with_features(report: VerifyReport) -> VerifyReport:
    """A run of a model without a head: no classes, no answers to name."""
    model = dataclasses.replace(
        report.model,
        task="features",
        activation=None,
        labels=(),
        outputs=(task_output("features", 96),),
    )
    accuracy = tuple(
        dataclasses.replace(
            a,
            kl_mean=None,
            worst=tuple(dataclasses.replace(w, reference=(), candidate=()) for w in a.worst),
        )
        for a in without_labels(report).accuracy
    )
    return dataclasses.replace(report, model=model, accuracy=accuracy)


def make_table(num_blocks: int = 6) -> CalibrationTable:
    random = np.random.default_rng(7)
    sites = {}
    for block in range(num_blocks):
        for kind, base in (("qkv", 4.0), ("proj", 2.2), ("fc1", 5.0), ("fc2", 9.0)):
            is_wide = (block, kind) == (num_blocks - 2, "fc2")
            amax = float(base * (1 + 0.25 * block) * random.uniform(0.8, 1.2)) * (
                6 if is_wide else 1
            )
            sites[f"block{block}/{kind}"] = SiteScales(
                precision="fp16" if is_wide else "int8",
                reason="crest 92, outliers would take most levels" if is_wide else "by default",
                activation_scale=amax / 127,
                weight_scales=tuple(float(s) for s in random.uniform(1e-3, 4e-3, 8)),
                activation_amax=amax,
                activation_crest=92.0 if is_wide else float(random.uniform(6, 24)),
            )
    digests = tuple(sorted(f"{i:064x}" for i in range(256)))
    return CalibrationTable(RECIPES["minmax"], "ab" * 32, sites, digests)


VARIANTS = {
    "pass": make_report,
    "fail": lambda: make_report("fail"),
    "undecided": lambda: make_report("undecided"),
    "no-labels": lambda: without_labels(make_report()),
    "features": lambda: with_features(make_report()),
}


@pytest.fixture(scope="session")
def report() -> VerifyReport:
    return make_report()


@pytest.fixture(scope="session")
def table() -> CalibrationTable:
    return make_table()


@pytest.fixture(scope="session", params=VARIANTS, ids=str)
def any_report(request) -> VerifyReport:
    return VARIANTS[request.param]()
