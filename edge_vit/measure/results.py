"""What measuring yields: frozen values that reports, files and other tools read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from edge_vit.measure.accuracy_values import ClassAccuracy as ClassAccuracy
from edge_vit.measure.accuracy_values import Disagreement as Disagreement
from edge_vit.measure.accuracy_values import LabelAgreement as LabelAgreement
from edge_vit.measure.accuracy_values import ScoreError as ScoreError
from edge_vit.measure.findings import Evidence as Evidence
from edge_vit.measure.findings import Finding as Finding
from edge_vit.measure.histogram import Histogram
from edge_vit.measure.timing import ColdStart as ColdStart
from edge_vit.measure.timing import Energy as Energy
from edge_vit.measure.timing import LatencySummary as LatencySummary
from edge_vit.measure.timing import Percentile as Percentile
from edge_vit.measure.timing import Scenario as Scenario
from edge_vit.measure.timing import Stage as Stage
from edge_vit.measure.timing import TimingWarning as TimingWarning
from edge_vit.spec import ModelSpec, Precision, TaskName
from edge_vit.tasks.measures import MeasureValue
from edge_vit.tasks.prediction import Answer as Answer
from edge_vit.tasks.prediction import Score as Score

REPORT_FORMAT = 5
"""Format 1 had none of what has a default in `LatencyReport` and `AccuracyReport`; format 2 had no
activation and no threshold in its model; format 3 had no evidence and no findings; format 4 had no
measures."""

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
        gpu: its name; "" where there is none, as below for what the machine does not tell.
        compute_capability: of the GPU, such as ``8.7``.
        driver: version of NVIDIA's kernel driver.
        cuda: version of the CUDA toolkit.
        tensorrt: version of the system's TensorRT library.
        l4t: release of Jetson Linux, such as ``36.4.3``.
        power_mode: of a Jetson, as ``nvpmodel`` calls it.
        clocks_locked: whether no clock may change; None where that is not known.
    """

    device: str
    instruction_sets: tuple[str, ...]
    num_cores: int
    memory_gib: float
    system: str
    python: str
    packages: dict[str, str]
    gpu: str = ""
    compute_capability: str = ""
    driver: str = ""
    cuda: str = ""
    tensorrt: str = ""
    l4t: str = ""
    power_mode: str = ""
    clocks_locked: bool | None = None


@dataclass(frozen=True)
class LatencyReport:
    """How long one `Session.run` takes, input and output copies included.

    Attributes:
        batch_size: images per run; in the scenario ``multi-stream`` those of one query.
        iterations: timed runs; `warmup` runs before them were not counted.
        throughput_ips: images per second: ``batch_size / mean latency``, or in the scenario
            ``offline`` all images over all of the time.
        samples_ms: the timed runs in order, milliseconds: the first `MAX_SAMPLES` of them.
        interleaved_with: other precisions that were timed in turns with this one.
        scenario: how runs followed each other.
        label: what the scenario is and is not, for people.
        interval_ms: from the start of one run to that of the next, where `scenario` is ``paced``.
        percentiles: p50, p90, p95, p99 and p99.9.
        stages: where the time went, as far as it is known.
        histogram: of every timed run.
        cold_start: None where it was not measured.
        energy: None where the machine does not tell.
        warnings: none is a good sign.
        variation: standard deviation over mean of the runs.
        timed_on: ``noise``, or where the images came from.
        is_on_gpu: whether a GPU did the work.
        provider: of ONNX Runtime, such as ``cuda``; empty elsewhere.
        cuda_graph: whether runs were replayed from a CUDA graph; None where there are none.
        num_openings: how often the session was opened anew: the runs are in as many stretches.
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
    scenario: Scenario = "saturated"
    label: str = ""
    interval_ms: float | None = None
    percentiles: tuple[Percentile, ...] = ()
    stages: tuple[Stage, ...] = ()
    histogram: Histogram | None = None
    cold_start: ColdStart | None = None
    energy: Energy | None = None
    warnings: tuple[TimingWarning, ...] = ()
    variation: float | None = None
    timed_on: str = "noise"
    is_on_gpu: bool = False
    provider: str = ""
    cuda_graph: bool | None = None
    num_openings: int = 1


@dataclass(frozen=True)
class AccuracyReport:
    """How the answers of one precision compare with the reference's, on the same images.

    Rates are from 0 to 1; None where the data has no labels or the task has no classes.

    Attributes:
        reference: precision and backend of the reference, ``fp32 ort``.
        agreement: share of images with the same prediction: the same first class, all labels
            equally on or off, or every score on the same side of the threshold; for `features` the
            same nearest neighbour among the other images' reference features (cosine).
        cosine_mean: mean over images of the cosine between the two output vectors.
        cosine_min: the smallest of them.
        sqnr_db: ``10 log10(sum reference^2 / sum (reference - candidate)^2)`` over all outputs;
            None where both are equal to the last bit.
        kl_mean: mean KL(reference || candidate) of the probabilities, nats; None where the task has
            none.
        num_lost: labelled images that the reference gets right and the candidate wrong.
        num_gained: the opposite.
        data_digest: SHA-256 of the images as the model saw them, whatever their order; files of
            format 1 have another one for the same images.
        num_calibrated_on: how many of the images were also calibrated on.
        worst: images with the largest divergence, worst first.
        agreement_interval: two-sided 95 % interval of `agreement` (Wilson).
        most_drop: without labels, accuracy drops by at most this share with 95 % confidence: the
            exact upper bound of the disagreement. Only of `classification` and `multi_label`.
        drop: ``reference_top1 - top1``.
        drop_interval: two-sided 95 % score interval of `drop` (Tango).
        drop_bootstrap: the same by a paired bootstrap, for the picture; of width 0 where no image
            is lost or gained, so nothing is judged by it.
        mcnemar_p: chance of a split of lost and gained images at least this uneven if neither
            precision were better: exact, two-sided.
        ece: expected calibration error of the candidate's first answers, 15 bins of equal width.
        reference_ece: the reference's.
        kl_p99: 99th percentile of that KL over images, within 1 %.
        cosine_p1: 1st percentile of the cosine over images; ``1 - cosine_p1`` is within 1 %.
        per_class: classes that have labelled images, by index.
        confusion: (true class, answered class, how many) of the candidate, by class.
        reference_confusion: the reference's.
        task: of the model; None in reports of formats 1 and 2.
        per_label: of `multi_label`, each label; `agreement` is of all labels at once.
        label_agreement: of `multi_label`, share of all decisions on single labels that are equal.
        scores: of `regression`, each score; `agreement` is of the side of the threshold alone.
        num_bad: images that could not be read and were left out.
        notes: how the images and their classes were read, and what was left out.
        evidence: counts of the images that decide: each different picture once, none that
            calibrated; None in reports of format 3 and before, where every image counts.
        findings: what questions the reference, the labels or the images.
        measures: by name, what the task measures; empty in reports of versions before 0.2.
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
    agreement_interval: tuple[float, float] | None = None
    most_drop: float | None = None
    drop: float | None = None
    drop_interval: tuple[float, float] | None = None
    drop_bootstrap: tuple[float, float] | None = None
    mcnemar_p: float | None = None
    ece: float | None = None
    reference_ece: float | None = None
    kl_p99: float | None = None
    cosine_p1: float | None = None
    per_class: tuple[ClassAccuracy, ...] = ()
    confusion: tuple[tuple[int, int, int], ...] = ()
    reference_confusion: tuple[tuple[int, int, int], ...] = ()
    task: TaskName | None = None
    per_label: tuple[LabelAgreement, ...] = ()
    label_agreement: float | None = None
    scores: tuple[ScoreError, ...] = ()
    num_bad: int = 0
    notes: tuple[str, ...] = ()
    evidence: Evidence | None = None
    findings: tuple[Finding, ...] = ()
    measures: dict[str, MeasureValue] = field(default_factory=dict)

    @property
    def deciding(self) -> Evidence:
        """The counts that decide; those of all images where copies were not looked for."""
        if self.evidence is not None:
            return self.evidence
        return Evidence(
            num_distinct=self.num_images,
            num_exact_copies=0,
            num_near_copies=0,
            num_conflicting=0,
            num_calibrated_on=0,
            num_images=self.num_images,
            num_labelled=self.num_labelled,
            num_agreeing=self.num_agreeing,
            num_reference_right=round((self.reference_top1 or 0.0) * self.num_labelled),
            num_lost=self.num_lost,
            num_gained=self.num_gained,
        )


@dataclass(frozen=True)
class Gate:
    """One limit and how a precision stands to it.

    Attributes:
        name: the option that sets it: ``max-drop``, ``max-error``, ``min-agreement``,
            ``min-speedup``, ``max-p99-ms``; ``baseline-speed`` and ``baseline-accuracy`` hold it
            against an earlier report.
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
        confidence: of each bound alone, so that all that was compared at once, and every earlier
            look, together err in at most 5 of 100.
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
    confidence: float = 0.95


@dataclass(frozen=True)
class Verdict:
    """What to ship, and why.

    Attributes:
        candidate: the precision that the outcome is about.
        recommended: the precision to ship.
        outcome: ``pass`` only where every gate of the candidate passes and no finding questions it.
        sentence: the recommendation in plain words.
        backend: that ran the candidate.
        recommended_backend: that runs `recommended` best here.
        findings: what questions the evaluation; none but notes where the outcome is ``pass``.
        look: number of this look at the same candidate, from 1.
    """

    candidate: Precision
    recommended: Precision
    outcome: Outcome
    sentence: str
    gates: tuple[Gate, ...]
    backend: str = ""
    recommended_backend: str = ""
    findings: tuple[Finding, ...] = ()
    look: int = 1

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
