"""A million scripted frames through the production loop: stalls, bursts, disconnects, disorder.

Only source, clock and session are replaced: see tests/camera/soak.py. What has to come out: every
frame accounted for, none of the file's lost, predictions in order, memory flat.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from saving import RESULTS, load_average, write_result

from edge_vit.values import to_json

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

NUM_FRAMES = 1_000_000
MAX_GROWTH_MIB = 8.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=NUM_FRAMES, help="of all sources together")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    arguments = parser.parse_args()
    from camera.soak import SPEED, problems, soak

    logging.getLogger("edge_vit").setLevel(logging.ERROR)  # thousands of disconnects
    load = load_average()
    result = soak(arguments.frames, samples=100)
    found = problems(result)
    half = len(result.memory_mib) // 2
    growth = max(result.memory_mib[half:]) - max(result.memory_mib[: max(1, half)])
    if growth > MAX_GROWTH_MIB:
        found.append(f"memory grew by {growth:.1f} MiB in the second half")
    counts = result.summary.counts
    print(
        f"{counts.captured:,} frames in {result.seconds:.0f} s: {counts.answered:,} answered, "
        f"{counts.dropped:,} dropped, {counts.failed:,} failed; memory "
        f"{result.memory_mib[0]:.0f} to {max(result.memory_mib):.0f} MiB"
    )
    for source in result.summary.sources:
        print(f"{source.name:10} {source.counts}, opened anew {source.num_reopened} times")
    print("all adds up" if not found else "WRONG: " + "; ".join(found))
    path = write_result(
        arguments.results,
        "camera_soak",
        threads=1,
        load=load,
        conditions={
            "frames": arguments.frames,
            "script": "stalls, bursts, disconnects, damaged frames, stamps in disorder, runs that "
            "fail, outputs that are not finite, a sink that raises and stands still",
            "replaced": f"source, session, and the clock, which runs {SPEED:g} times as fast",
        },
        results={
            "problems": found,
            "seconds": result.seconds,
            "given": result.given,
            "disorder": result.disorder,
            "memory_mib": {
                "first": result.memory_mib[0],
                "max_first_half": max(result.memory_mib[: max(1, half)]),
                "max_second_half": max(result.memory_mib[half:]),
                "allowed_growth": MAX_GROWTH_MIB,
            },
            "sources": to_json(result.summary.sources),
            "sinks": to_json(result.summary.sinks),
        },
    )
    print(path)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
