"""How long `import edge_vit` and `edgevit --help` take, in fresh processes."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from saving import load_average, read_arguments, write_result

RUNS, WARMUP = 30, 3
IMPORT = """
import time
start = time.perf_counter()
import edge_vit
print(1000 * (time.perf_counter() - start))
"""
HELP = "import sys; sys.argv = ['edgevit', '--help']; from edge_vit.cli import main; main()"
LIMITS_MS = {"import edge_vit": 150.0, "edgevit --help": 300.0}


def run(code: str) -> tuple[str, float]:
    """Return what `code` prints in a fresh Python, and the milliseconds from start to end."""
    start = time.perf_counter()
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return process.stdout, 1000 * (time.perf_counter() - start)


MEASURES = {
    "python that does nothing": lambda: run("pass")[1],
    "import edge_vit": lambda: float(run(IMPORT)[0]),  # without Python's own start
    "edgevit --help": lambda: run(HELP)[1],  # with it
}


def main() -> None:
    arguments = read_arguments(__doc__)
    load = load_average()
    samples: dict[str, list[float]] = {name: [] for name in MEASURES}
    for number in range(WARMUP + RUNS):  # in turns; the first ones compile and fill the disk cache
        for name, measure in MEASURES.items():
            elapsed_ms = measure()
            if number >= WARMUP:
                samples[name].append(elapsed_ms)
    results = {}
    for name, times in samples.items():
        median = statistics.median(times)
        results[name] = {"median_ms": median, "min_ms": min(times), "max_ms": max(times)}
        line = f"{name:26} median {median:7.1f} ms  ({min(times):.1f} to {max(times):.1f})"
        if limit := LIMITS_MS.get(name):
            results[name]["limit_ms"] = limit
            line += f"  limit {limit:.0f} {'kept' if median <= limit else 'NOT kept'}"
        print(line)
    path = write_result(
        arguments.results,
        "startup",
        threads=arguments.threads,
        load=load,
        conditions={
            "runs": RUNS,
            "warmup": WARMUP,
            "order": "interleaved",
            "import edge_vit": "timed inside the process, without the start of Python",
            "edgevit --help": "from the start of the process to its end",
        },
        results=results,
    )
    print(path)


if __name__ == "__main__":
    main()
