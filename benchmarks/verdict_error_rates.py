"""How often does a model that loses exactly the limit pass? At most 5 of 100, whatever the way.

Each simulated model loses the limit, half a point by default: images are lost and gained at random
at rates that differ by exactly that. Its reports go through the real verdict, `decide`. Three ways
to be judged are tried: one look; looks for as long as the verdict is undecided, each with as many
images as the sentence before it asked for, the earlier ones among them; four backends at once, each
with its own images lost, and the best of them counts.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import numpy as np
from saving import RESULTS, fill_docs, load_average, write_result
from scipy.special import betaincinv

from edge_vit.measure import statistics
from edge_vit.measure import verdict as verdict_module
from edge_vit.measure.limits import Limits
from edge_vit.measure.recorder import summarize
from edge_vit.measure.results import AccuracyReport, Environment, Gate, LatencyReport, Verdict
from edge_vit.measure.statistics import exact_bounds
from edge_vit.measure.verdict import decide

LIMIT = 0.005
GAINED = (0.0, 0.001, 0.01)
"""Shares of images that only the candidate gets right; lost are as many, and the limit."""
FIRST_IMAGES = (800, 2000)
MOST_IMAGES, MOST_LOOKS = 30_000, 5
BACKENDS = ("ort", "openvino", "trt", "rtx")
ENVIRONMENT = Environment("CPU", (), 1, 1.0, "", "", {})


@dataclass(frozen=True)
class Way:
    """One way to be judged: how often, and on how many backends.

    Attributes:
        name: for the table.
        has_looks: whether an undecided verdict is followed by another look.
        backends: that are compared at once.
    """

    name: str
    has_looks: bool
    backends: tuple[str, ...]


WAYS = (
    Way("one look", False, BACKENDS[:1]),
    Way("looks until decided", True, BACKENDS[:1]),
    Way("four backends at once", False, BACKENDS),
    Way("four backends, looks until decided", True, BACKENDS),
)


def passes(way: Way, gained: float, first: int, rng: np.random.Generator) -> bool:
    """Return whether a model that loses exactly the limit passes in the end."""
    drawn = np.zeros((len(way.backends), 2), np.int64)
    count, wanted = 0, first
    for look in range(1, (MOST_LOOKS if way.has_looks else 1) + 1):
        for row in drawn:
            more = rng.multinomial(wanted - count, [gained + LIMIT, gained, 1 - 2 * gained - LIMIT])
            row += more[:2]
        count = wanted
        verdict = judge(way.backends, count, drawn, look)
        if verdict.outcome != "undecided":
            return verdict.outcome == "pass"
        needed = [gate.images_needed for gate in verdict.gates if gate.name == "max-drop"]
        wanted = min((n for n in needed if n), default=0)
        if not count < wanted <= MOST_IMAGES:
            return False
    return False


def judge(backends: Sequence[str], count: int, drawn: np.ndarray, look: int) -> Verdict:
    """Return the verdict on INT8 of every backend, each with its (lost, gained) images."""
    accuracy, latency = [], []
    for backend, (lost, gained) in zip(backends, drawn.tolist(), strict=True):
        accuracy.append(_accuracy(backend, count, lost, gained))
        latency += [_latency(backend, "fp32", 2.0), _latency(backend, "int8", 1.0)]
    return decide(accuracy, latency, Limits(max_drop=100 * LIMIT), look=look)


def cases() -> Iterator[tuple[Way, float, int]]:
    """Yield every way with every rate and number of images."""
    for way in WAYS:
        for gained in GAINED:
            for first in FIRST_IMAGES:
                yield way, gained, first


def simulate(num_runs: int, seed: int = 0) -> list[dict[str, object]]:
    """Return one row per case: how many of `num_runs` models passed."""
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(verdict_module, "judge_speed", _pass_speed))
        # SciPy's is the same function, a thousand times as fast.
        stack.enter_context(mock.patch.object(statistics, "inverse_beta", _inverse_beta))
        return _simulate(num_runs, seed)


def _simulate(num_runs: int, seed: int) -> list[dict[str, object]]:
    rows = []
    for number, (way, gained, first) in enumerate(cases()):
        rng = np.random.default_rng([seed, number])
        wrong = sum(passes(way, gained, first, rng) for _ in range(num_runs))
        low, high = exact_bounds(wrong, num_runs, 0.975)
        rows.append(
            {
                "way": way.name,
                "gained": gained,
                "images_at_first": first,
                "runs": num_runs,
                "false_passes": wrong,
                "share": wrong / num_runs,
                "interval": [low, high],
            }
        )
    return rows


def markdown(rows: Sequence[dict[str, object]]) -> str:
    """Return the table that stands in docs/statistics.md: the worst case of each way."""
    lines = ["| judged by | false passes at most | of runs |", "|---|---|---|"]
    for way in WAYS:
        own = [row for row in rows if row["way"] == way.name]
        worst = max(own, key=lambda row: row["share"])
        lines.append(f"| {way.name} | {100 * worst['share']:.1f} % | {worst['runs']:,} |")
    return "\n".join(lines)


def _inverse_beta(share: float, a: float, b: float) -> float:
    return float(betaincinv(a, b, share))


def _pass_speed(report, baseline, min_speedup, *, name, confidence) -> Gate:
    """Return a pass: all are as fast, and it is the accuracy that is asked about."""
    gate = Gate("min-speedup", report.precision, "pass", min_speedup, 2.0, 2.0, 2.0, "2x faster.")
    return replace(gate, backend=report.backend)


def _accuracy(backend: str, count: int, lost: int, gained: int) -> AccuracyReport:
    right = round(0.9 * count)
    return AccuracyReport(
        backend=backend,
        precision="int8",
        reference="fp32 ort",
        num_images=count,
        num_labelled=count,
        top1=(right - lost + gained) / count,
        top5=1.0,
        reference_top1=right / count,
        reference_top5=1.0,
        agreement=1 - (lost + gained) / count,
        num_agreeing=count - lost - gained,
        cosine_mean=1.0,
        cosine_min=1.0,
        sqnr_db=30.0,
        kl_mean=0.0,
        num_lost=lost,
        num_gained=gained,
        data="simulated",
        data_digest="",
        num_calibrated_on=0,
        worst=(),
        environment=ENVIRONMENT,
    )


def _latency(backend: str, precision: str, median_ms: float) -> LatencyReport:
    samples = tuple(median_ms * (1 + 0.001 * (i % 3)) for i in range(12))
    return LatencyReport(
        backend=backend,
        precision=precision,
        batch_size=1,
        threads=1,
        warmup=0,
        iterations=len(samples),
        latency_ms=summarize(samples),
        throughput_ips=1000 / median_ms,
        samples_ms=samples,
        interleaved_with=("int8" if precision == "fp32" else "fp32",),
        environment=ENVIRONMENT,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000, help="models of each case")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--docs", type=Path, help="folder of the page whose table is written anew")
    arguments, load = parser.parse_args(), load_average()
    rows = simulate(arguments.runs)
    print(markdown(rows))
    if arguments.docs:
        fill_docs(arguments.docs / "statistics.md", "rates", markdown(rows))
    print(
        write_result(
            arguments.results,
            "verdict_error_rates",
            threads=1,
            load=load,
            conditions={"limit_points": 100 * LIMIT, "most_looks": MOST_LOOKS},
            results=rows,
        )
    )
    worst = max(row["share"] for row in rows)
    raise SystemExit(worst > 0.05)


if __name__ == "__main__":
    main()
