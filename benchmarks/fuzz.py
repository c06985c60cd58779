"""Do malformed files, any number of them, end in one line, in bounded time and memory?

Each reader gets its share of the files in a process of its own, whose memory is limited: see
tests/fuzzing.py. A reader that breaks its promise is named with the smallest file that shows it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from saving import RESULTS, load_average, write_result

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

MEMORY = 1 << 30
"""What a reader may take beyond what the process has: some times what any valid file takes."""
SECONDS = 900


def make_bundle(folder: Path) -> Any:
    """Return a small bundle with every file in it."""
    from tiny import tiny_calibration, train_tiny

    from edge_vit.api import export_bundle

    return export_bundle(
        f"edgevit:{train_tiny(folder / 'tiny.safetensors')}",
        folder / "tiny.edgevit",
        precision="int8",
        calibration=tiny_calibration(),
        threads=1,
    )


def attack(target: Any, count: int, seed: int, folder: Path, sender: Any) -> None:
    """Run in the child: try `count` files, and send what came out."""
    from fuzzing import run_target

    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    failure, refused = "", 0
    try:
        refused = run_target(target, count, folder, seed)
    except BaseException as error:
        failure = "".join(traceback.format_exception_only(error)).strip()[:2_000]
    sender.send(
        {
            "files": count,
            "refused_in_one_line": refused,
            "seconds": time.perf_counter() - started,
            "grew_mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
            "failure": failure,
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=20_000, help="in all (default: 20,000)")
    parser.add_argument("--seed", type=int, default=1, help="of the random numbers")
    parser.add_argument("--only", metavar="NAME", help="one kind of file alone")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    arguments = parser.parse_args()
    from fuzz_targets import make_targets

    load, results = load_average(), {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        targets = make_targets(make_bundle(folder))
        chosen = {n: t for n, t in targets.items() if arguments.only in (None, n)}
        context = multiprocessing.get_context("fork")
        for name, target in chosen.items():
            count = -(-arguments.files // len(chosen))
            own = folder / name.replace(" ", "_")
            own.mkdir()
            receiver, sender = context.Pipe(duplex=False)
            child = context.Process(
                target=attack, args=(target, count, arguments.seed, own, sender), daemon=True
            )
            child.start()
            sender.close()
            try:
                found = receiver.recv() if receiver.poll(SECONDS) else {"failure": "hangs"}
            except EOFError:
                child.join()
                found = {"failure": f"the process died, exit code {child.exitcode}"}
            child.kill()
            results[name] = found
            print(f"{name:20}", found["failure"] or describe(found), flush=True)
    if arguments.only is None:
        path = write_result(
            arguments.results,
            "fuzz",
            threads=1,
            load=load,
            conditions={"files": arguments.files, "seed": arguments.seed, "memory_bytes": MEMORY},
            results=results,
        )
        print(path)
    sys.exit(any(found["failure"] for found in results.values()))


def describe(found: dict[str, Any]) -> str:
    return (
        f"{found['files']:6,} files, {found['refused_in_one_line']:6,} refused in one line, the "
        f"others read; {found['seconds']:5.0f} s, {found['grew_mib']:4.0f} MiB more"
    )


if __name__ == "__main__":
    main()
