"""What every benchmark shares: results are written with the conditions they were taken under."""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

from edge_vit.measure.environment import read_environment
from edge_vit.values import to_json

RESULTS = Path(__file__).parents[1] / "results"


def read_arguments(description: str | None, **flags: str) -> argparse.Namespace:
    """Return ``--threads``, ``--results`` and the benchmark's own `flags`, help by name."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--threads", type=int, default=1, help="of one run (default: 1)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    for name, text in flags.items():
        parser.add_argument(f"--{name}", action="store_true", help=text)
    return parser.parse_args()


def write_result(
    folder: Path, name: str, *, threads: int, load: float, conditions: Any, results: Any
) -> Path:
    """Write one benchmark's numbers to a file that is named by their conditions; return its path.

    Args:
        folder: where results are kept.
        name: of the benchmark.
        threads: of one run.
        load: `load_average` from before the benchmark, which is a load itself.
        conditions: how it was measured.
        results: what came out.
    """
    environment = read_environment()
    sets = [name for name in environment.instruction_sets if "vnni" in name or "amx" in name]
    level = (sets or list(environment.instruction_sets[:1]) or ["plain"])[0]
    report = {
        "benchmark": name,
        "conditions": {
            "threads": threads,
            "load_average_before": load,
            "niceness": os.nice(0),
            **conditions,
        },
        "environment": to_json(environment),
        "results": results,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{platform.machine()}-{level}-{threads}threads.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    return path


def load_average() -> float:
    """Return how many processes wanted a core during the last minute."""
    return round(os.getloadavg()[0], 2)


def fill_docs(path: Path, name: str, table: str) -> None:
    """Put `table` between the comments ``name: begin`` and ``name: end`` of a page of the docs."""
    begin, end = (f"<!-- {name}: {word} -->" for word in ("begin", "end"))
    before, _, rest = path.read_text().partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"{path}: no {begin} and {end} to put the table between")
    path.write_text(f"{before}{begin}\n\n{table}\n\n{end}{after}")
