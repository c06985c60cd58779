"""What calibration has seen so far, and a file of it, so that it can go on where it was cut off."""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from edge_vit.calibration.held_out import ChannelRange, HeldOut, Kept, Ranges
from edge_vit.calibration.stats import ActivationStats
from edge_vit.data.perceptual import signature, signature_text
from edge_vit.data.preprocess import UInt8Array
from edge_vit.errors import ArtifactError
from edge_vit.files import write_atomically
from edge_vit.graph.walk import Array

STATE_FORMAT = 6
SECONDS_BETWEEN_SAVES = 10.0

NUM_FARTHEST = 4
"""How many of the images with the largest values are kept: one that float16 overflows is rare."""

NUM_FEATURES = 256
"""Of how many images the features are kept, those of the smallest digests: enough to tell how much
they differ."""

_STATS = ("channel_max", "channel_min", "histogram")


class Seen:
    """Statistics, digests and held-out images of a stream; its size does not grow with the stream.

    Attributes:
        stats: by the name of the value.
        digests: of each image, in the order in which they came.
        signatures: `edge_vit.data.perceptual.signature` of each image as base64, by digest.
        held_out: the images kept for judging.
        features: by digest, (K,) float32, of up to `NUM_FEATURES` images.
        farthest: by digest, the largest |x| and the pixels of the images that reach farthest.
    """

    def __init__(self, key: str, num_held_out: int, num_shaping: int = 0) -> None:
        self._key = key
        self.stats: dict[str, ActivationStats] = {}
        self.digests: list[str] = []
        self.signatures: dict[str, str] = {}
        self.held_out = HeldOut(num_held_out, num_shaping)
        self.features: dict[str, Array] = {}
        self.farthest: dict[str, tuple[float, UInt8Array]] = {}

    def add(
        self,
        digest: str,
        pixels: UInt8Array,
        stats: dict[str, ActivationStats],
        feature: Array | None = None,
    ) -> None:
        """Take the next image in.

        `feature`: (K,), by which images are compared.
        """
        for name, here in stats.items():
            self.stats[name] = self.stats[name].merge(here) if name in self.stats else here
        self.digests.append(digest)
        self.signatures[digest] = signature_text(signature(pixels))
        ranges = {name: ChannelRange.of(here) for name, here in stats.items()}
        related = np.zeros(1) if feature is None else feature
        self.held_out.add(digest, Kept(pixels, ranges, related.astype(np.float32)))
        if feature is not None:
            self.features[digest] = feature.astype(np.float32)
            if len(self.features) > NUM_FEATURES:
                del self.features[max(self.features)]
        self.farthest[digest] = (max(here.amax for here in stats.values()), pixels)
        if len(self.farthest) > NUM_FARTHEST:
            del self.farthest[min(self.farthest, key=lambda name: (self.farthest[name][0], name))]

    def to_bytes(self) -> bytes:
        """Return all of it as an ``.npz`` file."""
        rest, kept, others = self.held_out.rest, self.held_out.kept, self.held_out.others
        header = {
            "format": STATE_FORMAT,
            "key": self._key,
            "digests": self.digests,
            "signatures": self.signatures,
            "names": list(self.stats),
            "kept": list(kept),
            "others": list(others),
            "has_rest": bool(rest),
            "features": list(self.features),
            "farthest": {name: reach for name, (reach, _) in self.farthest.items()},
        }
        arrays: dict[str, Array] = {"header": np.array(json.dumps(header))}
        for index, (name, stats) in enumerate(self.stats.items()):
            arrays[f"rows/{index}"] = np.array(stats.num_rows)
            arrays[f"squares/{index}"] = np.array(str(stats.square_sum))
            arrays |= {f"{field}/{index}": getattr(stats, field) for field in _STATS}
            ranges = [*([rest[name]] if rest else []), *(i.ranges[name] for i in kept.values())]
            arrays[f"ranges/{index}"] = np.stack([[r.low, r.high] for r in ranges])
        for index, image in enumerate([*kept.values(), *others.values()]):
            arrays |= {f"pixels/{index}": image.pixels, f"feature/{index}": image.feature}
        for index, (_, pixels) in enumerate(self.farthest.values()):
            arrays[f"farthest/{index}"] = pixels
        if self.features:
            arrays["features"] = np.stack(list(self.features.values()))
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(
        cls, data: bytes, key: str, num_held_out: int, num_shaping: int = 0
    ) -> Seen | None:
        """Return what `to_bytes` wrote; None where it is damaged or of something else."""
        seen = cls(key, num_held_out, num_shaping)
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                header = json.loads(str(arrays["header"]))
                if (header["format"], header["key"]) != (STATE_FORMAT, key):
                    return None
                seen._fill(header, dict(arrays))
        except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile):
            return None
        return seen

    def _fill(self, header: dict[str, Any], arrays: dict[str, Array]) -> None:
        names = header["names"]
        self.digests = list(header["digests"])
        self.signatures = dict(header["signatures"])
        for index, name in enumerate(names):
            fields = {field: arrays[f"{field}/{index}"] for field in _STATS}
            self.stats[name] = ActivationStats(
                num_rows=int(arrays[f"rows/{index}"]),
                square_sum=int(str(arrays[f"squares/{index}"])),
                **fields,
            )
        ranges: list[Ranges] = [
            {name: ChannelRange(*arrays[f"ranges/{i}"][image]) for i, name in enumerate(names)}
            for image in range(header["has_rest"] + len(header["kept"]))
        ]
        if header["has_rest"]:
            self.held_out.rest = ranges.pop(0)
        images = [
            Kept(
                arrays[f"pixels/{i}"], ranges[i] if i < len(ranges) else {}, arrays[f"feature/{i}"]
            )
            for i in range(len(header["kept"]) + len(header["others"]))
        ]
        self.held_out.kept = dict(zip(header["kept"], images, strict=False))
        self.held_out.others = dict(zip(header["others"], images[len(ranges) :], strict=True))
        self.features = dict(zip(header["features"], arrays.get("features", ()), strict=True))
        self.farthest = {
            digest: (reach, arrays[f"farthest/{image}"])
            for image, (digest, reach) in enumerate(header["farthest"].items())
        }


class SeenFile:
    """A file that holds a `Seen` every few seconds; images that are in it need no run again.

    A place that cannot be written is no reason to stop: then there is nothing to go on from.
    """

    def __init__(
        self, path: Path | None, key: str, num_held_out: int, num_shaping: int = 0
    ) -> None:
        self._path, self._last = path, time.monotonic()
        old = None
        if path is not None and path.is_file():
            old = Seen.from_bytes(path.read_bytes(), key, num_held_out, num_shaping)
        self.seen = old or Seen(key, num_held_out, num_shaping)
        self._open = Counter(self.seen.digests)

    @property
    def num_resumed(self) -> int:
        """How many images of the file have not come again yet."""
        return self._open.total()

    def knows(self, digest: str) -> bool:
        """Whether the image was seen before the interruption; each one is asked for once."""
        if not self._open[digest]:
            return False
        self._open[digest] -= 1
        return True

    def save(self, seconds: float = 0.0) -> None:
        """Write the file, if the last time is `seconds` ago."""
        if self._path is None or time.monotonic() - self._last < seconds or not self.seen.digests:
            return
        self._last = time.monotonic()
        try:
            write_atomically(self._path, self.seen.to_bytes())
        except ArtifactError:
            self._path = None
