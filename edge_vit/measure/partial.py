"""An evaluation of some of the images, and its file: parts are joined to the whole."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_vit.data.bad_images import NUM_NAMED
from edge_vit.data.preprocess import UInt8Array
from edge_vit.errors import ArtifactError, SpecError
from edge_vit.files import write_atomically
from edge_vit.measure.measured import join_columns
from edge_vit.measure.records import OUTCOME, join_packed, unpack
from edge_vit.measure.results import Disagreement, Environment
from edge_vit.spec import Activation, Precision, TaskName
from edge_vit.values import from_json, parse_json, to_json


@dataclass(frozen=True, eq=False)
class SeenImage:
    """An image as the model saw it."""

    index: int  # its place in the data
    name: str
    pixels: UInt8Array  # uint8 (height, width, 3) RGB, preprocessed
    label: int | None
    digest: str
    truth: object = None  # what the data says beside a class, or instead of one


@dataclass(frozen=True)
class Kept:
    """An image that is among the worst so far, by its place in the data and its digest."""

    index: int
    digest: str
    shown: Disagreement

    @property
    def rank(self) -> tuple[float, str, str]:
        """Worst first, equal ones by what they are: whatever the order that they came in."""
        return (-self.shown.divergence, self.digest, self.shown.image)


def keep_worst(
    kept: tuple[Kept, ...],
    size: int,
    divergence: float,
    image: SeenImage,
    show: Callable[[], Disagreement],
) -> tuple[Kept, ...]:
    """Return `kept` with an image if it is among the `size` worst, worst first.

    Images without any divergence are left out; `show` is only called for what is kept.
    """
    if size == 0 or divergence <= 0:
        return kept
    if len(kept) == size and (-divergence, image.digest, image.name) >= kept[-1].rank:
        return kept
    return worst_of((*kept, Kept(image.index, image.digest, show())), size)


def worst_of(kept: Iterable[Kept], size: int) -> tuple[Kept, ...]:
    """Return the `size` worst of those that were kept in several parts, worst first."""
    return tuple(sorted(kept, key=lambda entry: entry.rank)[:size])


PARTIAL_FORMAT = 4  # what this version reads and writes. Parts of other formats are evaluated again


@dataclass(frozen=True)
class Subject:
    """What is evaluated: parts are joined only where all of it is the same."""

    bundle_digest: str
    task: TaskName
    backend: str
    precision: Precision
    reference: str
    labels: tuple[str, ...]
    data: str
    num_worst: int
    activation: Activation = "softmax"
    num_outputs: int = 0
    model_labels: tuple[str, ...] = ()
    threshold: float = 0.0


@dataclass(frozen=True)
class PartialAccuracy:
    """What is known of some of the images."""

    subject: Subject
    part: tuple[int, int]  # which of how many, from 1; (1, 1) for all
    environment: Environment
    records: str = ""  # packed, see `edge_vit.measure.records`
    outcomes: str = ""  # packed too
    measured: dict[str, Any] = field(default_factory=dict)  # columns
    worst: tuple[Kept, ...] = ()
    format: int = PARTIAL_FORMAT
    num_bad: int = 0
    bad: tuple[str, ...] = ()  # errors of the first images that could not be read
    max_bad: int = 0  # how many may be left out of all parts
    notes: tuple[str, ...] = ()
    fingerprint: str = ""  # of the images, in the file that an evaluation resumes from

    @property
    def num_images(self) -> int:
        """How many images were evaluated."""
        return len(unpack(self.outcomes, OUTCOME))

    def to_bytes(self) -> bytes:
        """Return the content of a part's file."""
        return (json.dumps(to_json(self), indent=1) + "\n").encode()

    def write(self, path: Path) -> None:
        """Write the part to `path`, completely or not at all."""
        write_atomically(path, self.to_bytes())


_HOW_TO_MAKE = "Parts come from: edgevit eval BUNDLE --data DIR --shard 1/4 -o FILE"


def read_partial(path: Path, what: str = "part", hint: str = _HOW_TO_MAKE) -> PartialAccuracy:
    """Return the part, or the `what` of an evaluation, in `path`; errors end with `hint`."""
    try:
        data = parse_json(path.read_bytes())
        if not isinstance(data, dict) or data.get("format") != PARTIAL_FORMAT:
            found = data.get("format") if isinstance(data, dict) else None
            if isinstance(found, int) and 0 < found < PARTIAL_FORMAT:
                raise ArtifactError(
                    f"{what} {path} is of an older edge-vit (format {found}, this one reads "
                    f"{PARTIAL_FORMAT}): evaluate its images again. {hint}"
                )
            raise SpecError(f"format {found} of a part, this edge-vit reads {PARTIAL_FORMAT}")
        return from_json(PartialAccuracy, data, str(path))
    except OSError as error:
        raise ArtifactError(f"{what} {path} cannot be read: {error.strerror}. {hint}") from None
    except (ValueError, SpecError) as error:
        raise ArtifactError(f"{path} is no {what} of an evaluation: {error}. {hint}") from None


def merge_partials(parts: Sequence[PartialAccuracy]) -> PartialAccuracy:
    """Return all images of all `parts`, whatever their order."""
    if not parts:
        raise SpecError("parts to merge: got none, expected every one of an evaluation")
    ordered = sorted(parts, key=lambda part: part.part)
    _check_together(ordered)
    merged = functools.reduce(_join, ordered)
    if merged.num_bad > merged.max_bad:
        raise SpecError(
            f"parts to merge: {merged.num_bad:,} images cannot be read, expected at most "
            f"{merged.max_bad:,} of all parts together, such as {merged.bad[0]}"
        )
    return dataclasses.replace(merged, part=(1, 1))


def find_mismatch(one: Subject, other: Subject) -> str | None:
    """Return in words the first thing in which two subjects differ, None where in none."""
    for each in dataclasses.fields(Subject):
        first, second = getattr(one, each.name), getattr(other, each.name)
        if first != second:
            return f"{each.name} is {first!r} in one and {second!r} in the other"
    return None


def _join(first: PartialAccuracy, second: PartialAccuracy) -> PartialAccuracy:
    return dataclasses.replace(
        first,
        records=join_packed(first.records, second.records),
        outcomes=join_packed(first.outcomes, second.outcomes),
        measured=join_columns(first.measured, second.measured),
        worst=worst_of((*first.worst, *second.worst), first.subject.num_worst),
        num_bad=first.num_bad + second.num_bad,
        bad=tuple(sorted((*first.bad, *second.bad)))[:NUM_NAMED],
        notes=tuple(dict.fromkeys((*first.notes, *second.notes))),
    )


def _check_together(parts: Sequence[PartialAccuracy]) -> None:
    """Refuse parts that are not the whole of one evaluation; they are sorted."""
    first = parts[0]
    for part in parts[1:]:
        mismatch = find_mismatch(first.subject, part.subject)
        if mismatch:
            raise SpecError(f"parts to merge: {mismatch}, expected parts of one evaluation")
    count = first.part[1]
    got = [part.part for part in parts]
    wanted = [(index, count) for index in range(1, count + 1)]
    if got != wanted:
        spelled = ", ".join(f"{index}/{of}" for index, of in got)
        missing = ", ".join(f"{index}/{of}" for index, of in wanted if (index, of) not in got)
        rest = f"; missing {missing}" if missing else ""
        raise SpecError(f"parts to merge: got {spelled}, expected each of {count} once{rest}")
