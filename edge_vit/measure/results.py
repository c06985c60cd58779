"""Reports: what measuring yields, as frozen values that files and other tools read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from edge_vit.measure.histogram import Histogram
from edge_vit.spec import ModelSpec, Precision, TaskName
from edge_vit.tasks.measures import MeasureValue
from edge_vit.tasks.prediction import ClassScore as ClassScore
from edge_vit.tasks.prediction import Score as Score
from edge_vit.values import WRITTEN_IF_SET

REPORT_FORMAT = 5
"""Format 1 had none of what has a default in `LatencyReport` and `AccuracyReport`; format 2 had no
activation and no threshold in its model; format 3 had no evidence and no findings; format 4 had no
measures."""

Outcome = Literal["pass", "fail", "undecided"]
FindingOutcome = Literal["note", "undecided", "fail"]
"""The best verdict that a finding allows; a note allows any."""


@dataclass(frozen=True)
class Environment:
    """The machine and the packages of a measurement; "" is what the machine does not tell."""

    device: str  # the processor as the system names it
    instruction_sets: tuple[str, ...]
    num_cores: int
    memory_gib: float
    system: str
    python: str
    packages: dict[str, str]
    gpu: str = ""
    compute_capability: str = ""
    driver: str = ""
    cuda: str = ""  # version of the toolkit
    tensorrt: str = ""
    l4t: str = ""  # release of Jetson Linux
    power_mode: str = ""  # of a Jetson
    clocks_locked: bool | None = None  # where it is known


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
class Percentile:
    """One percentile of the latency, with its two-sided 95 % interval by order statistics."""

    percent: float
    ms: float | None  # None where fewer than ten runs lie beyond it
    low_ms: float | None  # None, as the other end, where the sample has none
    high_ms: float | None


@dataclass(frozen=True)
class Stage:
    """A part of the time from an image to its prediction, over all runs, in milliseconds.

    `name` is ``decode`` (an image file), ``preprocess`` (resize and crop), ``host-to-device``,
    ``GPU``, ``device-to-host``, ``run`` (the call of `Session.run` as a whole) or ``end-to-end``
    (preprocess, run and decoding of the outputs).
    """

    name: str
    p50_ms: float
    p90_ms: float
    mean_ms: float


@dataclass(frozen=True)
class ColdStart:
    """Time to the first prediction of a fresh process, in reports of version 0.2.0 and before."""

    process_ms: float  # starting Python and importing edge-vit
    load_ms: float  # importing the backend and loading the model
    first_run_ms: float
    memory_peak_mib: float | None


@dataclass(frozen=True)
class Energy:
    """Energy of the timed runs, idle power included; `source` is such as ``VDD_IN`` or ``NVML``."""

    joules_per_image: float
    mean_w: float
    source: str


@dataclass(frozen=True)
class TimingWarning:
    """What makes a latency doubtful, such as ``launch-bound`` or ``throttled``, in words."""

    name: str
    sentence: str


@dataclass(frozen=True)
class LatencyReport:
    """How long one `Session.run` takes, input and output copies included."""

    backend: str
    precision: Precision
    batch_size: int
    threads: int
    warmup: int
    iterations: int
    latency_ms: LatencySummary
    throughput_ips: float
    samples_ms: tuple[float, ...]  # the timed runs in order, at most the first 100,000
    interleaved_with: tuple[Precision, ...]  # what took turns with this one
    environment: Environment
    scenario: str = "saturated"  # or ``paced``; reports of older versions may hold other ones
    label: str = ""
    interval_ms: float | None = None
    percentiles: tuple[Percentile, ...] = ()
    stages: tuple[Stage, ...] = ()
    histogram: Histogram | None = None
    cold_start: ColdStart | None = None
    energy: Energy | None = None
    warnings: tuple[TimingWarning, ...] = ()
    variation: float | None = None  # standard deviation over mean
    timed_on: str = "noise"  # or where images came from
    is_on_gpu: bool = False
    provider: str = ""
    cuda_graph: bool | None = None
    num_openings: int = 1  # how often the session was opened anew
    # A sentence that a reader of the times has to know
    remark: str = field(default="", metadata=WRITTEN_IF_SET)


@dataclass(frozen=True)
class Disagreement:
    """An image on which the two precisions differ much, with the best predictions of both."""

    image: str
    thumbnail_png: str
    label: str | None
    reference: tuple[ClassScore, ...]
    candidate: tuple[ClassScore, ...]
    divergence: float
    agrees: bool
    reference_scores: tuple[Score, ...] = ()
    candidate_scores: tuple[Score, ...] = ()


@dataclass(frozen=True)
class ClassAccuracy:
    """Accuracy of both precisions on the labelled images of one class."""

    index: int
    label: str
    count: int
    top1: float
    reference_top1: float


@dataclass(frozen=True)
class LabelAgreement:
    """One label of a multi-label model: images where each has it on, share of equal decisions."""

    index: int
    label: str
    reference_on: int
    candidate_on: int
    agreement: float


@dataclass(frozen=True)
class ScoreError:
    """One numeric score of a regression model, candidate against reference."""

    index: int
    label: str
    mean_error: float  # mean absolute difference in the score's own unit
    error_deviation: float  # its standard deviation over images
    spread: float  # standard deviation of the reference's values
    above: int  # images where the reference reaches the threshold
    same_side: float  # share of the images where both are on one side of it


@dataclass(frozen=True)
class Finding:
    """Something that questions the evaluation itself: the reference, the labels or the images."""

    name: str
    outcome: FindingOutcome
    sentence: str


@dataclass(frozen=True)
class Evidence:
    """Counts of the images that decide: each different picture once, none that calibrated.

    The first five fields count all pictures, the others those that calibration did not see.
    """

    num_distinct: int
    num_exact_copies: int
    num_near_copies: int
    num_conflicting: int  # that come with more than one label, and are taken as unlabelled
    num_calibrated_on: int
    num_images: int
    num_labelled: int
    num_agreeing: int
    num_reference_right: int
    num_lost: int  # labelled, and only the reference is right
    num_gained: int  # the opposite


@dataclass(frozen=True)
class AccuracyReport:
    """How the predictions of one precision compare with the reference's, on the same images.

    Rates are from 0 to 1; None where the data has no labels or the task has no classes.
    ``docs/statistics.md`` defines every number.
    """

    backend: str
    precision: Precision
    reference: str  # precision and backend, ``fp32 ort``
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
    sqnr_db: float | None  # None where all outputs are equal to the last bit
    kl_mean: float | None
    num_lost: int
    num_gained: int
    data: str
    data_digest: str  # of the images as the model saw them, in any order; another in format 1
    num_calibrated_on: int
    worst: tuple[Disagreement, ...]  # images of largest divergence, worst first
    environment: Environment
    agreement_interval: tuple[float, float] | None = None
    most_drop: float | None = None
    drop: float | None = None
    drop_interval: tuple[float, float] | None = None
    drop_bootstrap: tuple[float, float] | None = None  # in reports of older versions
    mcnemar_p: float | None = None
    ece: float | None = None
    reference_ece: float | None = None
    kl_p99: float | None = None
    cosine_p1: float | None = None
    per_class: tuple[ClassAccuracy, ...] = ()
    confusion: tuple[tuple[int, int, int], ...] = ()  # (true class, predicted class, how many)
    reference_confusion: tuple[tuple[int, int, int], ...] = ()
    task: TaskName | None = None
    per_label: tuple[LabelAgreement, ...] = ()
    label_agreement: float | None = None
    scores: tuple[ScoreError, ...] = ()
    num_bad: int = 0
    notes: tuple[str, ...] = ()
    evidence: Evidence | None = None  # None up to format 3, where every image counts
    findings: tuple[Finding, ...] = ()
    measures: dict[str, MeasureValue] = field(default_factory=dict)

    @property
    def deciding(self) -> Evidence:
        """The counts that decide; those of all images where copies were not looked for."""
        if self.evidence is not None:
            return self.evidence
        right = round((self.reference_top1 or 0.0) * self.num_labelled)
        return Evidence(
            *(self.num_images, 0, 0, 0, 0, self.num_images, self.num_labelled),
            *(self.num_agreeing, right, self.num_lost, self.num_gained),
        )


@dataclass(frozen=True)
class Gate:
    """One limit and how a precision stands to it.

    For accuracy each bound holds alone with `confidence`; for times both are an interval of it. It
    is such that all that was compared at once, and every earlier look, err in at most 5 of 100
    together.
    """

    name: str  # of the option that sets it
    precision: Precision
    outcome: Outcome
    limit: float  # as `value`, in points, percent, a ratio, milliseconds or decibels
    value: float | None
    low: float | None
    high: float | None
    sentence: str
    images_needed: int | None = None  # that would decide it, at the rates seen so far
    runs_needed: int | None = None
    backend: str = ""
    confidence: float = 0.95


@dataclass(frozen=True)
class Verdict:
    """Which precision to ship and on which backend, and why.

    ``pass`` only where every gate of the candidate passes and no finding questions the evaluation.
    """

    candidate: Precision
    recommended: Precision
    outcome: Outcome
    sentence: str
    gates: tuple[Gate, ...]
    backend: str = ""
    recommended_backend: str = ""
    findings: tuple[Finding, ...] = ()
    look: int = 1  # number of this look at the same candidate

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
