"""How fast and how faithful each way from a camera's frame to the model's input is.

The reference is `edge_vit.data.preprocess`. Beside our own stand OpenCV's, with and without what
stands in for antialiasing: they are why no OpenCV is in the loop.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image
from saving import load_average, read_arguments, write_result
from sklearn.datasets import load_sample_images

from edge_vit.camera.preprocessing import BACKENDS, differ
from edge_vit.data.preprocess import UInt8Array, center_window, preprocess, resized_size
from edge_vit.spec import PreprocessSpec

SIZES = ((640, 480), (1280, 720), (1920, 1080))
ROUNDS = 40
SPEC = PreprocessSpec((224, 224))


def crop(resized: UInt8Array) -> UInt8Array:
    rows = center_window(resized.shape[0], SPEC.image_size[0])[0]
    columns = center_window(resized.shape[1], SPEC.image_size[1])[0]
    return resized[rows, columns]


def by_opencv(interpolation: int) -> Callable[[UInt8Array], UInt8Array]:
    """Return a plain resize by OpenCV."""

    def apply(pixels: UInt8Array) -> UInt8Array:
        height, width = resized_size(pixels.shape[:2], SPEC)
        return crop(cv2.resize(pixels, (width, height), interpolation=interpolation))

    return apply


def by_opencv_in_two_steps(pixels: UInt8Array) -> UInt8Array:
    """Whole blocks averaged until less than twice too large, then cubic."""
    height, width = resized_size(pixels.shape[:2], SPEC)
    factor = max(1, int(min(pixels.shape[0] / height, pixels.shape[1] / width)))
    if factor > 1:
        size = (pixels.shape[1] // factor, pixels.shape[0] // factor)
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return crop(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_CUBIC))


def all_ways() -> dict[str, Callable[[UInt8Array], UInt8Array]]:
    ours = {name: (lambda pixels, way=way: way(pixels, SPEC)) for name, way in BACKENDS.items()}
    return {
        **ours,
        "opencv linear": by_opencv(cv2.INTER_LINEAR),
        "opencv cubic": by_opencv(cv2.INTER_CUBIC),
        "opencv area": by_opencv(cv2.INTER_AREA),
        "opencv area, then cubic": by_opencv_in_two_steps,
    }


def main() -> None:
    arguments = read_arguments(__doc__)
    cv2.setNumThreads(1)
    load = load_average()
    photos = [np.ascontiguousarray(image) for image in load_sample_images().images]
    results = []
    for width, height in SIZES:
        frames = [
            np.asarray(Image.fromarray(photo).resize((width, height), Image.Resampling.LANCZOS))
            for photo in photos
        ]
        expected = np.stack([preprocess(frame, SPEC) for frame in frames])
        ways = all_ways()
        times: dict[str, list[float]] = {name: [] for name in ways}
        for number, (name, way) in itertools.product(range(ROUNDS), ways.items()):
            start = time.perf_counter_ns()
            way(frames[number % len(frames)])
            times[name].append((time.perf_counter_ns() - start) / 1e6)
        for name, way in ways.items():
            mean_diff, max_diff = differ(np.stack([way(frame) for frame in frames]), expected)
            median = float(np.median(times[name]))
            results.append(
                {
                    "size": [width, height],
                    "way": name,
                    "median_ms": median,
                    "mean_diff": mean_diff,
                    "max_diff": max_diff,
                }
            )
            print(
                f"{width}x{height} {name:24} {median:7.2f} ms, "
                f"mean difference {mean_diff:.3f}, largest {max_diff}"
            )
    path = write_result(
        arguments.results,
        "camera_preprocess",
        threads=1,
        load=load,
        conditions={
            "model_input": "224 x 224 of bicubic 256, crop_pct 0.875",
            "frames": "scikit-learn's two photographs, resized by Lanczos",
            "rounds": ROUNDS,
            "order": "interleaved",
            "differences": "mean and largest absolute, levels of 0 to 255, from the reference",
            "opencv": f"{cv2.__version__}, one thread",
        },
        results=results,
    )
    print(path)


if __name__ == "__main__":
    main()
