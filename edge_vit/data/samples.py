"""Samples for models that take no images: noise by its seed, or arrays of inputs in a file."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from edge_vit.data.registry import kind_of
from edge_vit.data.source import ImageItem, NotedSource, Wanted
from edge_vit.errors import EdgeVitError, ImageError, SpecError
from edge_vit.git_lfs import refuse_lfs_pointer
from edge_vit.spec import ModelSpec
from edge_vit.spec.samples import Rows, pack
from edge_vit.tasks import task_of
from edge_vit.tasks.base import Run

MAX_SEEDS = 100_000
_SEEDS = re.compile(r"seeds:(\d{1,15})(?:-(\d{1,15}))?")


class SampleSource(NotedSource):
    """Samples in memory, (count,), each with a name."""

    def __init__(self, rows: Rows, names: Sequence[str], notes: Sequence[str] = ()) -> None:
        super().__init__((), False, notes)
        self._rows, self._names = rows, tuple(names)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[ImageItem]:
        return map(self.item, range(len(self)))

    def item(self, index: int) -> ImageItem:
        """Return one sample."""
        return ImageItem(self._names[index], self._rows[index, ...], None)

    def name(self, index: int) -> str:
        """Return the name of one sample."""
        return self._names[index]

    def content_key(self, index: int) -> bytes:
        """Return one sample's bytes."""
        return self._rows[index, ...].tobytes()


class TrajectorySource(NotedSource):
    """What a model is fed while each of `seeds` is sampled, step after step.

    A seed is sampled when its first step is wanted, and kept until another seed's is.
    """

    def __init__(self, spec: ModelSpec, seeds: Sequence[int], run: Run) -> None:
        super().__init__((), False)
        self._spec, self._seeds, self._run = spec, seeds, run
        self._kept: tuple[int, Sequence[str], Rows] | None = None
        self._steps = len(self._sampled(seeds[0])[0])

    def __len__(self) -> int:
        return len(self._seeds) * self._steps

    def __iter__(self) -> Iterator[ImageItem]:
        return map(self.item, range(len(self)))

    def item(self, index: int) -> ImageItem:
        """Return what the model is fed in one step."""
        place, step = divmod(index, self._steps)
        names, rows = self._sampled(self._seeds[place])
        return ImageItem(names[step], rows[step, ...], None)

    def name(self, index: int) -> str:
        """Return the name of one step."""
        place, step = divmod(index, self._steps)
        return f"seed {self._seeds[place]}, step {step + 1}"

    def content_key(self, index: int) -> bytes:
        """Return seed and step, from which all follows."""
        return self.name(index).encode()

    def _sampled(self, seed: int) -> tuple[Sequence[str], Rows]:
        if self._kept is None or self._kept[0] != seed:
            names, rows = task_of(self._spec).inputs_of(self._spec, self._run, seed)
            self._kept = (seed, names, rows)
        return self._kept[1:]


def open_seeds(address: str, wanted: Wanted) -> NotedSource:
    """Return the noise of seeds such as ``seeds:0-31``, or all that a model makes of it."""
    found = _SEEDS.fullmatch(address)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if not first <= last < first + MAX_SEEDS:
        raise SpecError(
            f"source {address}: expected seeds:FIRST-LAST, such as seeds:0-31, at most "
            f"{MAX_SEEDS:,} of them"
        )
    if wanted.spec is None:
        raise SpecError(f"source {address}: the model takes images, expected a folder of them")
    spec, seeds = wanted.spec, range(first, last + 1)
    if wanted.run is not None:
        return TrajectorySource(spec, seeds, wanted.run)
    rows = np.stack([task_of(spec).start(spec, seed) for seed in seeds])
    return SampleSource(rows, [f"seed {seed}" for seed in seeds])


def open_samples(path: Path, spec: ModelSpec) -> SampleSource:
    """Return the samples of a ``.npz`` file with an array for each input of `spec`."""
    refuse_lfs_pointer(path, ImageError)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            given = {name: arrays[name] for name in getattr(arrays, "files", ())}
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # what is read was made elsewhere, and may be anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ImageError(f"{path} cannot be read: {reason}") from None
    try:
        rows = pack(spec.inputs, given, str(path))
    except EdgeVitError as error:
        raise ImageError(f"{error}. {_how_to_save(spec)}") from None
    if not len(rows):
        raise ImageError(f"{path} holds no samples, expected at least 1")
    return SampleSource(rows, [f"{index:05d}" for index in range(len(rows))])


def holds_samples(source: object) -> bool:
    """Return whether `source` is an address of samples, seeds or arrays, and not of images."""
    if not isinstance(source, str | Path) or not kind_of(str(source)).holds_samples:
        return False
    path = Path(source)
    if path.suffix.lower() != ".npz" or not path.is_file():
        return not path.is_file()
    try:
        with zipfile.ZipFile(path) as archive:
            return "images.npy" not in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False  # opening it reports what is wrong


def refuse_images(address: str, spec: ModelSpec | None) -> SpecError:
    """Return the error about images for a model that takes none."""
    assert spec is not None
    wanted = ", ".join(f"{tensor.name} {tensor}" for tensor in spec.inputs)
    return SpecError(
        f"source {address}: {spec.name} takes {wanted}, no images. Pass seeds:0-31, or a .npz file"
    )


def _how_to_save(spec: ModelSpec) -> str:
    names = ", ".join(f"{tensor.name}=..." for tensor in spec.inputs)
    return f"Save it with: numpy.savez(PATH, {names})"
