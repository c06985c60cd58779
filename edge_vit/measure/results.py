"""What measuring yields: frozen values that reports, files and other tools read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edge_vit.answers import Answer as Answer
from edge_vit.spec import ModelSpec, Precision

REPORT_FORMAT = 1

Outcome = Literal["pass", "fail", "undecided"]


@dataclass(frozen=True)
class Environment:
    """The conditions of a measurement, without which its numbers mean nothing.

    Attributes:
        device: the processor (or GPU) that did the work, as the system names it.
        instruction_sets: those that decide the speed of INT8: ``avx2``, ``avx512_vnni``…
        num_cores: logical cores that this process may use.
        memory_gib: of the machine.
        packages: version of each package that took part, ``edge-vit`` included.
    """

    device: str
    instruction_sets: tuple[str, ...]
    num_cores: int
    memory_gib: float
    system: str
    python: str
    packages: dict[str, str]


@dataclass(frozen=True)
class LatencySummary:
    """Latency in milliseconds; percentiles by linear interpolation between order statistics."""

    p50: float
    p90: float
    p99: float
    mean: float
    min: float
    max: float


@dataclass(frozen=True)
class LatencyReport:
    """How long one `Session.run` takes, input and output copies included.

    Attributes:
        iterations: timed runs; `warmup` runs before them were not counted.
        throughput_ips: images per second: ``batch_size / mean latency``.
        samples_ms: every timed run in order, milliseconds.
        interleaved_with: other precisions that were timed in turns with this one.
    """

    backend: str
    precision: Precision
    batch_size: int
    threads: int
    warmup: int
    iterations: int
    latency_ms: LatencySummary
    throughput_ips: float
    samples_ms: tuple[float, ...]
    interleaved_with: tuple[Precision, ...]
    environment: Environment


@dataclass(frozen=True)
class Disagreement:
    """An image where the two answers differ most.

    Attributes:
        image: its name in the data.
        thumbnail_png: the image as the model saw it, at most 128 pixels a side, PNG in base64.
        label: the true class name, or None where the data has no labels.
        reference: best answers of the reference, best first.
        candidate: best answers of the candidate, best first.
        divergence: KL(reference || candidate) in nats; for `features` 1 - cosine.
        agrees: whether the first answer is the same all the same.
    """

    image: str
    thumbnail_png: str
    label: str | None
    reference: tuple[Answer, ...]
    candidate: tuple[Answer, ...]
    divergence: float
    agrees: bool


@dataclass(frozen=True)
class AccuracyReport:
    """How the answers of one precision compare with the reference's, on the same images.

    Rates are from 0 to 1; None where the data has no labels or the task has no classes.

    Attributes:
        reference: precision and backend of the reference, ``fp32 ort``.
        agreement: share of images with the same first answer; for `features` the same nearest
            neighbour among the other images' reference features (cosine).
        cosine_mean: mean over images of the cosine between the two output vectors.
        cosine_min: the smallest of them.
        sqnr_db: ``10 log10(sum reference^2 / sum (reference - candidate)^2)`` over all outputs;
            None where both are equal to the last bit.
        kl_mean: mean KL(reference || candidate) of the softmax, nats; None for `features`.
        num_lost: labelled images that the reference gets right and the candidate wrong.
        num_gained: the opposite.
        data_digest: SHA-256 over the sorted digests of the images as the model saw them.
        num_calibrated_on: how many of the images were also calibrated on.
        worst: images with the largest divergence, worst first.
    """

    backend: str
    precision: Precision
    reference: str
    num_images: int
    num_labelled: int
    top1: float | None
    top5: float | None
    reference_top1: float | None
    reference_top5: float | None
    agreement: float
    num_agreeing: int
    cosine_mean: float
    cosine_min: float
    sqnr_db: float | None
    kl_mean: float | None
    num_lost: int
    num_gained: int
    data: str
    data_digest: str
    num_calibrated_on: int
    worst: tuple[Disagreement, ...]
    environment: Environment


@dataclass(frozen=True)
class Gate:
    """One limit and how a precision stands to it.

    Attributes:
        name: the option that sets it: ``max-drop``, ``min-agreement``, ``min-speedup``,
            ``max-p99-ms``; ``baseline-speed`` and ``baseline-accuracy`` hold it against an earlier
            report.
        limit: what the user asked for: points, percent, a ratio, or milliseconds.
        value: what was measured, in the same unit (``max-drop`` without labels: percent of the
            images with another answer); None where conditions are unlike and nothing was compared.
        low: lower bound of `value`: for accuracy one that holds alone with 95 % confidence, for
            times the lower end of a two-sided 95 % interval.
        high: upper bound, likewise.
        sentence: the same in plain words.
        images_needed: how many images would decide an undecided gate, at the rates seen so far.
        runs_needed: how many timed runs would.
        backend: that ran it.
    """

    name: str
    precision: Precision
    outcome: Outcome
    limit: float
    value: float | None
    low: float | None
    high: float | None
    sentence: str
    images_needed: int | None = None
    runs_needed: int | None = None
    backend: str = ""


@dataclass(frozen=True)
class Verdict:
    """What to ship, and why.

    Attributes:
        candidate: the precision that the outcome is about.
        recommended: the precision to ship.
        outcome: ``pass`` only where every gate of the candidate passes.
        sentence: the recommendation in plain words.
        backend: that ran the candidate.
        recommended_backend: that runs `recommended` best here.
    """

    candidate: Precision
    recommended: Precision
    outcome: Outcome
    sentence: str
    gates: tuple[Gate, ...]
    backend: str = ""
    recommended_backend: str = ""

    @property
    def exit_status(self) -> int:
        """0 pass, 3 a gate failed, 5 undecided."""
        return {"pass": 0, "fail": 3, "undecided": 5}[self.outcome]


@dataclass(frozen=True)
class VerifyReport:
    """Accuracy and latency of every precision in one interleaved run, with the verdict."""

    bundle: str
    bundle_digest: str
    created: str
    model: ModelSpec
    verdict: Verdict
    accuracy: tuple[AccuracyReport, ...]
    latency: tuple[LatencyReport, ...]
    notes: tuple[str, ...]
    environment: Environment
    format: int = REPORT_FORMAT
