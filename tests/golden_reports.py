"""The report that lies in ``golden/`` in each format; what a later format added has its default."""

from __future__ import annotations

import dataclasses

from edge_vit.measure.histogram import Histogram
from edge_vit.measure.results import (
    AccuracyReport,
    ClassAccuracy,
    ColdStart,
    Disagreement,
    Energy,
    Environment,
    Evidence,
    Finding,
    Gate,
    LabelAgreement,
    LatencyReport,
    LatencySummary,
    Percentile,
    ScoreError,
    Stage,
    TimingWarning,
    Verdict,
    VerifyReport,
)
from edge_vit.spec import ModelSpec, PreprocessSpec, image_input, task_output
from edge_vit.tasks.measures import MeasureValue
from edge_vit.tasks.prediction import ClassScore, Score

ENVIRONMENT = Environment(
    device="Cortex-A78AE",
    instruction_sets=("asimd", "asimddp"),
    num_cores=6,
    memory_gib=7.4,
    system="Linux 5.15",
    python="3.10.12",
    packages={"edge-vit": "0.1.0", "numpy": "2.2.6"},
)
ACCURACY = AccuracyReport(
    backend="ort",
    precision="int8",
    reference="fp32 ort",
    num_images=1000,
    num_labelled=1000,
    top1=0.981,
    top5=0.999,
    reference_top1=0.982,
    reference_top5=0.999,
    agreement=0.996,
    num_agreeing=996,
    cosine_mean=0.9998,
    cosine_min=0.991,
    sqnr_db=34.8,
    kl_mean=0.00041,
    num_lost=2,
    num_gained=1,
    data="val",
    data_digest="5f" * 32,
    num_calibrated_on=3,
    worst=(
        Disagreement(
            image="chat échaudé/1.jpg",
            thumbnail_png="iVBORw0KGgo=",
            label=None,
            reference=(ClassScore(1, "chat échaudé", 0.52),),
            candidate=(ClassScore(0, "cat", 0.49),),
            divergence=0.41,
            agrees=False,
        ),
    ),
    environment=ENVIRONMENT,
)
LATENCY = LatencyReport(
    backend="ort",
    precision="int8",
    batch_size=1,
    threads=2,
    warmup=10,
    iterations=3,
    latency_ms=LatencySummary(p50=2.0, p90=2.8, p99=2.98, mean=2.0, min=1.0, max=3.0),
    throughput_ips=500.0,
    samples_ms=(1.0, 2.0, 3.0),
    interleaved_with=("fp32",),
    environment=ENVIRONMENT,
)
REPORT_1 = VerifyReport(
    bundle="cats.edgevit",
    bundle_digest="c0" * 32,
    created="2026-10-01T12:00:00+00:00",
    model=ModelSpec(
        name="vit",
        source="timm:vit",
        task="classification",
        labels=("cat", "chat échaudé"),
        inputs=(image_input((224, 160)),),
        outputs=(task_output("classification", 2),),
        preprocess=PreprocessSpec((224, 160)),
    ),
    verdict=Verdict(
        candidate="int8",
        recommended="fp32",
        outcome="undecided",
        sentence="Undecided about INT8.",
        gates=(
            Gate("max-drop", "int8", "undecided", 0.5, 0.1, -0.2, 0.6, "Too few.", 1500),
            Gate("min-speedup", "int8", "pass", 1.05, 1.7, None, None, "Fast."),
        ),
    ),
    accuracy=(ACCURACY,),
    latency=(LATENCY,),
    notes=("A note.",),
    environment=ENVIRONMENT,
)

ENVIRONMENT_2 = dataclasses.replace(
    ENVIRONMENT,
    gpu="tegra234 GPU",
    compute_capability="8.7",
    driver="540.4.0",
    cuda="12.6.68",
    tensorrt="10.3.0",
    l4t="36.4.3",
    power_mode="25W (1)",
    clocks_locked=True,
)
ACCURACY_2 = dataclasses.replace(
    ACCURACY,
    agreement_interval=(0.9897, 0.9984),
    most_drop=0.0091,
    drop=0.001,
    drop_interval=(-0.0031, 0.0062),
    drop_bootstrap=(-0.002, 0.004),
    mcnemar_p=1.0,
    ece=0.021,
    reference_ece=0.02,
    kl_p99=0.0051,
    cosine_p1=0.9931,
    per_class=(
        ClassAccuracy(0, "cat", 500, 0.98, 0.98),
        ClassAccuracy(1, "chat échaudé", 500, 0.982, 0.984),
    ),
    confusion=((0, 0, 490), (0, 1, 10), (1, 0, 9), (1, 1, 491)),
    reference_confusion=((0, 0, 490), (0, 1, 10), (1, 0, 8), (1, 1, 492)),
)
LATENCY_2 = dataclasses.replace(
    LATENCY,
    scenario="paced",
    label="one run every 33.3 ms, as a camera of 30 images/s asks",
    interval_ms=33.3,
    percentiles=(Percentile(50.0, 2.0, 1.0, 3.0), Percentile(99.0, None, None, None)),
    stages=(Stage("GPU", 1.5, 1.6, 1.52), Stage("run", 2.0, 2.8, 2.0)),
    histogram=Histogram(((694, 1), (763, 1), (804, 1)), 6_000_000, 1_000_000, 3_000_000),
    cold_start=ColdStart(180.5, 95.0, 6.5, 141.0),
    energy=Energy(0.031, 9.3, "VDD_IN"),
    warnings=(TimingWarning("unsteady", "The runs vary by 41 %."),),
    variation=0.41,
    timed_on="cat.jpg",
    is_on_gpu=True,
    provider="cuda",
    cuda_graph=False,
    num_openings=2,
)
REPORT_2 = dataclasses.replace(
    REPORT_1, accuracy=(ACCURACY_2,), latency=(LATENCY_2,), environment=ENVIRONMENT_2
)
ACCURACY_3 = dataclasses.replace(
    ACCURACY_2,
    task="classification",
    per_label=(LabelAgreement(0, "cat", 400, 401, 0.9985),),
    label_agreement=0.9985,
    num_bad=2,
    notes=("2 of 1,002 images cannot be read and were left out: image a.jpg cannot be decoded.",),
    scores=(ScoreError(0, "age", 0.12, 0.05, 21.5, 990, 1.0),),
    worst=(
        dataclasses.replace(
            ACCURACY_2.worst[0],
            reference_scores=(Score(0, "age", 31.25),),
            candidate_scores=(Score(0, "age", 30.5),),
        ),
    ),
)
REPORT_3 = dataclasses.replace(
    REPORT_2,
    model=dataclasses.replace(REPORT_2.model, activation="none", threshold=0.0),
    accuracy=(ACCURACY_3,),
)
FINDINGS = (
    Finding("chance", "undecided", "fp32 is right on 1.7 % of 600 labelled images."),
    Finding("copies", "note", "3 of 1,000 images are copies of others."),
)
ACCURACY_4 = dataclasses.replace(
    ACCURACY_3,
    evidence=Evidence(997, 2, 1, 1, 3, 994, 993, 990, 975, 2, 1),
    findings=FINDINGS,
)
REPORT_4 = dataclasses.replace(
    REPORT_3,
    accuracy=(ACCURACY_4,),
    verdict=dataclasses.replace(
        REPORT_3.verdict,
        gates=tuple(dataclasses.replace(g, confidence=0.992) for g in REPORT_3.verdict.gates),
        findings=FINDINGS,
        look=2,
    ),
)
REPORT_5 = dataclasses.replace(
    REPORT_4,
    latency=(dataclasses.replace(LATENCY_2, remark="In bfloat16."),),
    accuracy=(
        dataclasses.replace(
            ACCURACY_4,
            measures={
                "agreement": MeasureValue(0.996, 0.99, 0.998),
                "top1": MeasureValue(0.979, 0.964, 0.988, 0.98),
            },
        ),
    ),
)
