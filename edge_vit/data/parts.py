"""One part of n of a source's images, chosen by their content."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from edge_vit.data.bad_images import TolerantSource
from edge_vit.data.source import ImageSource, IndexedSource, SelectedSource
from edge_vit.errors import SpecError
from edge_vit.progress import SILENT, Progress


@dataclass(frozen=True)
class Part:
    """A part, by its number from 1 and the number of all parts."""

    index: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            last = max(1, self.count)
            raise SpecError(
                f"part: got {self.index}/{self.count}, expected 1/{last} to {last}/{last}"
            )


def take_part(source: ImageSource, part: Part, progress: Progress = SILENT) -> ImageSource:
    """Return one part of `source`; the parts 1/n to n/n hold each image once.

    An image's part follows from its content: renamed, listed in another order, or with other images
    added beside it, it stays where it was. Parts are about, not exactly, of the same size.
    """
    if part.count == 1:
        return source
    if not isinstance(source, IndexedSource):
        raise SpecError(
            f"part {part.index}/{part.count}: got {type(source).__name__}, expected images that "
            "can be reached one by one: a folder, a list or an array"
        )
    chosen = []
    with progress.step(f"choosing part {part.index} of {part.count}", len(source)) as advance:
        for index in range(len(source)):
            if part_of(source.content_key(index), part.count) == part.index:
                chosen.append(index)
            advance(1)
    if isinstance(source, TolerantSource):
        return source.select(chosen)
    return SelectedSource(source, chosen)


def part_of(content_key: bytes, count: int) -> int:
    """Return to which of `count` parts, from 1 on, the image of `content_key` belongs."""
    return 1 + int.from_bytes(hashlib.sha256(content_key).digest()[:8], "big") % count


def fingerprint(source: ImageSource) -> str:
    """Return a digest of how many images `source` has and, where it can tell, of their names."""
    digest = hashlib.sha256(b"%d" % len(source))
    if isinstance(source, IndexedSource):
        for index in range(len(source)):
            digest.update(source.name(index).encode("utf-8", "backslashreplace") + b"\0")
    return digest.hexdigest()
