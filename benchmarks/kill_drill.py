"""Commands killed at every system call that writes into their bundle, under strace.

Each command runs once and is listened to. Then it runs again for each call that had touched the
folder of its bundle, on a fresh copy, and SIGKILL ends it at that call. What is left has to be the
old bundle or the new one, whole.
"""

from __future__ import annotations

import argparse
import collections
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from saving import RESULTS, load_average, write_result

from edge_vit.bundle import RECORD, Bundle
from edge_vit.errors import EdgeVitError

CALLS = (
    "write,pwrite64,writev,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir,"
    "ftruncate,truncate,fsync,fdatasync,chmod,fchmod,fchmodat,flock"
)
MODEL = [
    *("timm:vit_tiny_patch16_224", "--random-weights", "--model-arg", "depth=1"),
    *("--image-size", "32", "--num-classes", "3"),
]
_CALL = re.compile(r"^(\d+) +(\w+)\(")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commands", nargs="*", help="Which of the drills.  [default: all]")
    parser.add_argument("--every", type=int, default=1, help="Take every so many-th of the calls.")
    parser.add_argument("--results", type=Path, default=RESULTS, help="Folder to write to.")
    arguments = parser.parse_args()
    load, found = load_average(), {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        commands = prepare(folder)
        for title in arguments.commands or commands:
            found[title] = drill(folder, title, commands[title], arguments.every)
            print(title, found[title], flush=True)
            path = write_result(  # after each: all of them take an hour
                arguments.results,
                "kill_drill",
                threads=1,
                load=load,
                conditions={"every": arguments.every, "calls": CALLS, "model": " ".join(MODEL)},
                results=found,
            )
    print(path)
    if any(result["broken"] for result in found.values()):
        sys.exit(1)


def prepare(folder: Path) -> dict[str, list[str]]:
    """Make images and a bundle with every precision; return the commands to kill, by their name."""
    images = folder / "images"
    images.mkdir()
    for index in range(4):
        pixels = np.random.default_rng(index).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(images / f"{index}.png")
    int8 = ["--int8", "--calib", str(images), "--recipe", "minmax"]
    run(["export", *MODEL, *int8, "-o", str(folder / "old.edgevit")])
    shutil.copytree(folder / "old.edgevit", folder / "calibrated.edgevit")
    percentile = ["--calib", str(images), "--recipe", "percentile"]
    run(["calibrate", str(folder / "calibrated.edgevit"), *percentile])
    bundle = "cats.edgevit"
    return {
        "calibrate": ["calibrate", bundle, *percentile],
        "quantize": ["quantize", bundle],
        "export --force": ["export", *MODEL, "--mean", "0.4,0.5,0.6", "-o", bundle, "--force"],
        "export --int8 --force": ["export", *MODEL, *int8, "-o", bundle, "--force"],
        "export": ["export", *MODEL, "-o", bundle],
    }


def drill(folder: Path, title: str, command: list[str], every: int) -> dict[str, object]:
    """Kill `command` at each call, and return what was left how often."""
    old_path = {"export": None, "quantize": folder / "calibrated.edgevit"}.get(
        title, folder / "old.edgevit"
    )
    home = fresh(folder, old_path)
    log = folder / "log"
    run(command, home, ["strace", "-f", "-y", "-s", "0", "-e", f"trace={CALLS}", "-o", str(log)])
    new = facts(home / "cats.edgevit")
    old = None if old_path is None else facts(old_path)
    counts: collections.Counter[str] = collections.Counter()
    broken = []
    kills = list(calls_into(log, str(home)))[::every]
    for number, (call, when) in enumerate(kills, 1):
        home = fresh(folder, old_path)
        inject = ["strace", "-f", "-o", "/dev/null", "-e", f"trace={call}"]
        inject += ["-e", f"inject={call}:signal=KILL:when={when}"]
        status = run(command, home, inject, check=False)
        try:
            left = facts(home / "cats.edgevit")
        except EdgeVitError as error:
            left = str(error)
        is_absent = old_path is None and not (home / "cats.edgevit").exists()
        kind = "old" if is_absent or left == old else "new" if left == new else "broken"
        counts[kind if status else "not killed"] += 1
        if kind == "broken":
            broken.append(f"{call} {when}: {left}"[:300])
        print(f"{title}: {number} of {len(kills)}, {call} {when}: {kind}", flush=True)
    return {"kills": len(kills), **counts, "broken": broken}


def facts(path: Path) -> object:
    """Return what tells one bundle from another, after a check of every file.

    The record of an export is left out: last digits of its parity may differ from run to run.
    """
    bundle = Bundle.open(path)
    bundle.check()
    artifacts = bundle.manifest.artifacts.items()
    return bundle.spec, {name: name == RECORD or each.sha256 for name, each in artifacts}


def fresh(folder: Path, old_path: Path | None) -> Path:
    """Return a folder with a copy of the old bundle, or with none."""
    home = folder / "home"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    if old_path is not None:
        shutil.copytree(old_path, home / "cats.edgevit")
    return home


def calls_into(log: Path, folder: str) -> list[tuple[str, int]]:
    """Return each call of the main thread that touched `folder`, and which of its name it was."""
    main, seen, found = "", collections.Counter(), []
    for line in log.read_text(errors="replace").splitlines():
        match = _CALL.match(line)
        if match is None:
            continue
        main = main or match[1]
        if match[1] != main:
            continue
        seen[match[2]] += 1
        if folder in line or '"cats.edgevit' in line or '".cats.edgevit' in line:
            found.append((match[2], seen[match[2]]))
    return found


def run(
    command: list[str],
    home: Path | None = None,
    prefix: Sequence[str] = (),
    *,
    check: bool = True,
) -> int:
    """Run ``edgevit`` with `command` in `home`, and return its exit status."""
    program = [sys.executable, "-B", "-c", "from edge_vit.cli import main; main()"]
    done = subprocess.run(
        [*prefix, *program, *command], cwd=home, capture_output=True, text=True, check=False
    )
    if check and done.returncode:
        sys.exit(f"{command}: {done.stderr[-2000:]}")
    return done.returncode


if __name__ == "__main__":
    main()
