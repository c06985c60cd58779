"""The peak memory of an evaluation by the number of images, up to 100,000.

Each evaluation is a process of its own, with images and sessions that cost nothing: what is left is
what the evaluation itself keeps. Half of the images are evaluated, saved, and gone on from.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

from saving import load_average, read_arguments, write_result

COUNTS = (1_000, 10_000, 100_000)
MAX_GROWTH = 1.05
"""From 10,000 to 100,000 images; before that the confusion table of 100 classes fills up."""

CHILD = '''
import json, sys
import numpy as np
from edge_vit.data.images import ImageItem
from edge_vit.measure.accuracy import evaluate_part
from edge_vit.measure.accuracy_report import report_of
from edge_vit.runtime.session import Session
from edge_vit.spec import ModelSpec, PreprocessSpec, image_input, task_output

count, classes = int(sys.argv[1]), 100
spec = ModelSpec("scripted", "python:scripted", "classification", (), (image_input((8, 8)),),
                 (task_output("classification", classes),), PreprocessSpec((8, 8), crop_pct=1.0))

class Scripted(Session):
    """Answers from a table: the image's number says where; the candidate adds some noise."""
    backend = "scripted"
    def __init__(self, precision, noise):
        super().__init__(precision=precision, inputs=spec.inputs, outputs=spec.outputs, threads=1)
        self.rows = np.random.default_rng(0).standard_normal((512, classes)).astype(np.float32)
        self.noise = noise
    def _run(self, feeds):
        number = int.from_bytes(feeds["images"][0, 0, :2].tobytes(), "little")
        other = self.rows[number * 7919 % 509]
        return {"logits": (self.rows[number % 503] + self.noise * other)[None]}
    def _close(self): pass

class Generated:
    """Images that are made when their turn comes, all of them different."""
    labels, has_labels = (), True
    def __len__(self): return count
    def __iter__(self): return map(self.item, range(count))
    def name(self, index): return f"{index:06d}"
    def content_key(self, index): return b"%d" % index
    def item(self, index):
        pixels = np.zeros((8, 8, 3), np.uint8)
        pixels[0, :2] = np.frombuffer(index.to_bytes(6, "little"), np.uint8).reshape(2, 3)
        return ImageItem(self.name(index), pixels, index % classes)

class Enough(BaseException): pass
saved = []
def stop_at_half(parts):
    if parts[0].num_images >= count // 2:
        saved[:] = parts
        raise Enough
source, sessions = Generated(), (Scripted("fp32", 0.0), Scripted("int8", 0.1))
options = dict(bundle_digest="0", data="generated", seconds_between_saves=0)
try:
    evaluate_part(sessions[0], [sessions[1]], spec, source, save=stop_at_half, **options)
except Enough:
    pass
(part,) = evaluate_part(sessions[0], [sessions[1]], spec, source, start=saved,
                        save=lambda parts: None, **options)
report = report_of(part)
assert report.num_images == count and saved
(line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(json.dumps({"kib": int(line.split()[1]), "agreement": report.agreement,
                  "file_bytes": len(part.to_bytes())}))
'''


def main() -> None:
    arguments = read_arguments(__doc__)
    load, rows = load_average(), []
    for count in COUNTS:
        start = time.perf_counter()
        child = subprocess.run(
            [sys.executable, "-c", CHILD, str(count)], capture_output=True, text=True, check=True
        )
        found, seconds = json.loads(child.stdout), time.perf_counter() - start
        rows.append(
            {
                "images": count,
                "peak_mib": round(found["kib"] / 1024, 1),
                "file_kib": round(found["file_bytes"] / 1024, 1),
                "agreement": found["agreement"],
                "microseconds_per_image": round(1e6 * seconds / count, 1),
            }
        )
        print(
            f"{count:7,} images  peak {rows[-1]['peak_mib']:6.1f} MiB  file of the part "
            f"{rows[-1]['file_kib']:6.1f} KiB  {seconds:5.1f} s",
            flush=True,
        )
    growth = rows[-1]["peak_mib"] / rows[-2]["peak_mib"]
    kept = "kept" if growth <= MAX_GROWTH else "NOT kept"
    print(f"{COUNTS[-1]:,} over {COUNTS[-2]:,} images: {growth:.4f}, limit {MAX_GROWTH}: {kept}")
    path = write_result(
        arguments.results,
        "evaluation_memory",
        threads=arguments.threads,
        load=load,
        conditions={
            "images": "8 x 8 pixels, made when their turn comes, all different, 100 classes",
            "sessions": "scripted",
            "peak": "resident memory (VmHWM) of a fresh process; half way stopped and resumed",
        },
        results={"limit": MAX_GROWTH, "growth": growth, "runs": rows},
    )
    print(path)


if __name__ == "__main__":
    main()
