"""The peak memory of a calibration by the number of images, on ViT-S/16 at 224 pixels.

Each calibration is a process of its own. Memory is flat where images are streamed and statistics
have a fixed size.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from saving import load_average, read_arguments, write_result

MODEL, COUNTS, PHOTO_SIDE = "vit_small_patch16_224", (64, 512, 2048), 300
MAX_GROWTH = 1.02
CHILD = """
import sys
import edge_vit
bundle, images, count, threads = sys.argv[1:]
table = edge_vit.calibrate(bundle, images, num_images=int(count), threads=int(threads)).read_table()
assert table.num_images == len(set(table.image_digests)) == int(count)
(line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(line.split()[1])  # KiB; getrusage would count the parent's memory as well
"""
EXPORT = f"""
import sys
import edge_vit
from edge_vit.export.sources import SourceRequest
request = SourceRequest("edgevit:{MODEL}", random_weights=True)
edge_vit.export_bundle(request, sys.argv[1])
"""


def run(code: str, *arguments: object) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def write_photos(folder: Path, count: int) -> None:
    """Write `count` different crops of scikit-learn's two photographs as JPEG files."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photos, random = load_sample_images().images, np.random.default_rng(0)
    down, across = (side - PHOTO_SIDE for side in photos[0].shape[:2])
    places = random.choice(down * across, count, replace=False)
    for index, place in enumerate(places):
        photo, (top, left) = photos[index % len(photos)], divmod(int(place), across)
        crop = photo[top : top + PHOTO_SIDE, left : left + PHOTO_SIDE]
        Image.fromarray(crop).save(folder / f"{index:04d}.jpg", quality=90)


def main() -> None:
    arguments = read_arguments(__doc__)
    load = load_average()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle, photos = folder / "vit.edgevit", folder / "photos"
        photos.mkdir()
        write_photos(photos, max(COUNTS))
        run(EXPORT, bundle)
        for count in COUNTS:
            start = time.perf_counter()
            peak_kib = int(run(CHILD, bundle, photos, count, arguments.threads))
            peak_mib, seconds = round(peak_kib / 1024, 1), round(time.perf_counter() - start, 1)
            rows.append({"images": count, "peak_mib": peak_mib, "seconds": seconds})
            print(f"{count:4} images  peak {peak_mib:7.1f} MiB  {seconds:6.1f} s", flush=True)
    growth = rows[-1]["peak_mib"] / rows[0]["peak_mib"]
    kept = "kept" if growth <= MAX_GROWTH else "NOT kept"
    print(f"{COUNTS[-1]} over {COUNTS[0]} images: {growth:.4f}, limit {MAX_GROWTH}: {kept}")
    path = write_result(
        arguments.results,
        "calibration_memory",
        threads=arguments.threads,
        load=load,
        conditions={
            "model": f"{MODEL}, random weights",
            "images": f"JPEG, {PHOTO_SIDE} x {PHOTO_SIDE} pixels, all different",
            "peak": "resident memory (VmHWM) of a fresh process that calls edge_vit.calibrate",
            "seconds": "start of the process and decoding included",
        },
        results={"limit": MAX_GROWTH, "growth": growth, "runs": rows},
    )
    print(path)


if __name__ == "__main__":
    main()
