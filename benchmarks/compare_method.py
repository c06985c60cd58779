"""Does `edgevit compare` tell a real difference from noise? Real sessions, each timed as a run.

100 times two runs of the same session are compared: "no difference" is right. 100 times one of
the two waits 5 % longer in each run, as a slower kernel would: "slower" is right. Every run opens
its session anew. `verify` compares what it timed in turns, so the same is asked of two sessions in
one run as well.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from saving import RESULTS, load_average, write_result

import edge_vit
from edge_vit.export.sources import SourceRequest
from edge_vit.measure.compare import Measured, compare
from edge_vit.measure.latency import measure_reopened
from edge_vit.measure.results import LatencyReport
from edge_vit.measure.speed import find_difference, median_ratio_interval
from edge_vit.runtime.session import Session, SessionOptions, open_session

MODEL, SLOWDOWN, WANTED = "vit_digits", 1.05, 90


class Slowed(Session):
    """A real session that takes some percent longer: it turns in a loop, as a kernel would."""

    backend = "ort"

    def __init__(self, real: Session, factor: float) -> None:
        super().__init__(
            precision=real.precision, inputs=real.inputs, outputs=real.outputs, threads=real.threads
        )
        self._real, self._factor = real, factor

    def _run(self, feeds):
        start = time.perf_counter_ns()
        outputs = self._real.run(feeds)
        end = start + int((time.perf_counter_ns() - start) * self._factor)
        while time.perf_counter_ns() < end:
            pass
        return outputs

    def _close(self):
        self._real.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=100)
    parser.add_argument("--iterations", type=int, default=600, help="timed runs of each")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    load, options = load_average(), SessionOptions(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        request = SourceRequest(f"edgevit:{MODEL}", random_weights=True)
        bundle = edge_vit.export_bundle(request, Path(folder) / "vit.edgevit")

        def run(*factors: float) -> tuple[LatencyReport, ...]:
            """Time sessions of the same graph in turns, opened by turns; one per factor."""
            openers = [
                lambda factor=factor: Slowed(open_session(bundle, "fp32", "ort", options), factor)
                for factor in factors
            ]
            return measure_reopened(openers, warmup=50, iterations=arguments.iterations)

        def apart(factor: float) -> str:
            """What `edgevit compare` says of two runs, one after the other."""
            first, second = run(1.0), run(factor)
            reports = [Measured(name, "", "", r, ()) for name, r in (("a", first), ("b", second))]
            (change,) = compare(reports).changes
            return str(change.difference)

        def in_turns(factor: float) -> str:
            """What is found between two sessions that were timed in turns, as in `verify`."""
            first, second = run(1.0, factor)
            interval = median_ratio_interval(
                second.samples_ms, first.samples_ms, stretches=first.num_openings
            )
            return find_difference(interval)

        found = {
            f"{way.__name__}, {name}": Counter(way(factor) for _ in range(arguments.repetitions))
            for way in (apart, in_turns)
            for name, factor in (("the same", 1.0), ("5 % slower", SLOWDOWN))
        }
        (sample,) = run(1.0)
    wanted = WANTED * arguments.repetitions / 100
    for name, counts in found.items():
        right = "no difference" if name.endswith("same") else "slower"
        verdict = "kept" if counts[right] >= wanted else "NOT kept"
        print(f"{name:24} {right!r} in {counts[right]} of {arguments.repetitions} ({verdict})")
    path = write_result(
        arguments.results,
        "compare_method",
        threads=arguments.threads,
        load=load,
        conditions={
            "model": f"{MODEL}, random weights, fp32, batch 1, ONNX Runtime",
            "repetitions": arguments.repetitions,
            "iterations": arguments.iterations,
            "slowdown": SLOWDOWN,
            "median_ms": float(np.median(sample.samples_ms)),
            "wanted": f"at least {WANTED} of 100",
        },
        results={name: dict(counts) for name, counts in found.items()},
    )
    print(path)


if __name__ == "__main__":
    main()
