"""How far the model's outputs are off, image by image."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from edge_vit.graph.exact import feed_image, open_exact_session, return_memory, size_of
from edge_vit.graph.walk import Array
from edge_vit.spec import ModelSpec
from edge_vit.spec.table import sqnr_of
from edge_vit.tasks import task_of

BROKEN = 1e6
"""Relative error of an output that is not finite, or as bad."""

_MOST_VALUES = 1 << 20

Outputs = Mapping[str, Array]
"""One image's outputs by name."""


@dataclass(frozen=True, eq=False)
class OutputError:
    """Energies of the error and of the exact output, (images, outputs) float64 each."""

    noise: npt.NDArray[np.float64]
    signal: npt.NDArray[np.float64]

    @classmethod
    def of(
        cls, exact: Sequence[Outputs], got: Sequence[Outputs], spec: ModelSpec | None = None
    ) -> OutputError:
        """Return how far `got` is from `exact`, image by image, over the outputs of `exact`."""
        noise, signal = [], []
        for wanted, mine in zip(exact, got, strict=True):
            if spec is not None:
                wanted, mine = task_of(spec).aligned(spec, _as_row(wanted), _as_row(mine))
            noise.append([_energy(mine[name] - value) for name, value in wanted.items()])
            signal.append([_energy(value) for value in wanted.values()])
        return cls(np.array(noise), np.array(signal))

    @classmethod
    def until(
        cls, exact: Sequence[Outputs], got: Iterable[Outputs], spec: ModelSpec | None, most: float
    ) -> OutputError:
        """Return the same of the first images, which leave a mean over all above `most`, or of all.

        No more than those are taken from `got`.
        """
        total = cls.of(exact, exact, spec).signal.sum(axis=0)
        noise, signal = [], []
        for wanted, mine in zip(exact, got, strict=False):
            here = cls.of([wanted], [mine], spec)
            noise.append(here.noise[0])
            signal.append(here.signal[0])
            if _relative(np.sum(noise, axis=0), total) > most:
                break
        return cls(np.array(noise), np.array(signal))

    @property
    def mean(self) -> float:
        """Energy of all errors over that of all outputs, 1e6 at most."""
        return _relative(self.noise.sum(axis=0), self.signal.sum(axis=0))

    @property
    def by_image(self) -> tuple[float, ...]:
        """The same of each image alone."""
        return tuple(map(_relative, self.noise, self.signal))

    @property
    def worst(self) -> float:
        """That of the image that is off most."""
        return max(self.by_image)

    @property
    def sqnr(self) -> float:
        """`mean` in dB."""
        return sqnr_of(self.mean)

    def gain_over(self, other: OutputError) -> float:
        """Return how many dB better an image comes out than in `other`, on average.

        The images that are off most, which make most of `mean`, have no more say than any.
        """
        images = zip(self.by_image, other.by_image, strict=True)
        return statistics.fmean(sqnr_of(mine) - sqnr_of(theirs) for mine, theirs in images)

    @property
    def foreseen(self) -> float:
        """In dB, what other images may show: two standard errors of `mean` worse than these.

        Errors of images differ by tens of times. The few that are off most are rarely among a
        handful, so that a handful's mean promises more than a thousand keep.
        """
        means = self.signal.mean(axis=0)
        shares = self.noise[:, means > 0] / means[means > 0]
        if len(shares) < 2 or not shares.size or not np.isfinite(shares).all():
            return self.sqnr
        spread = float(shares.mean(axis=1).std(ddof=1)) / math.sqrt(len(shares))
        return sqnr_of(min(BROKEN, self.mean + 2 * spread))


def run_outputs(
    model: onnx.ModelProto, spec: ModelSpec, images: Sequence[Array], threads: int | None = None
) -> Iterator[Outputs]:
    """Yield the outputs of `model`, of one image after the other; see `thinned`."""
    return_memory(size_of(model))
    session = open_exact_session(model, threads)
    del model  # the session has what it needs
    names = [output.name for output in spec.outputs]
    for image in images:
        values = session.run(names, feed_image(spec, image))
        rows = {name: value[0] for name, value in zip(names, values, strict=True)}
        yield thinned(rows, len(names))


def thinned(outputs: Outputs, num_outputs: int) -> Outputs:
    """Return some of one image's `num_outputs` outputs, of large maps some of their cells.

    They are evenly spread rows and columns, of more than a million values: outputs of many images
    are kept, and the error of such a map is that of its cells. Beside other outputs a table, such
    as the classes of queries, stays whole, so that queries can be paired.
    """
    least = 2 if num_outputs == 1 else 3
    return {n: _thin(v) if v.ndim >= least else v for n, v in outputs.items()}


def _thin(value: Array) -> Array:
    if value.size <= _MOST_VALUES:
        return value
    step = math.ceil(math.sqrt(value.size / _MOST_VALUES))
    kept: Array = value[..., ::step, ::step].copy()
    return kept


def _as_row(outputs: Outputs) -> Outputs:
    return {name: value[None] for name, value in outputs.items()}


def _energy(values: Array) -> float:
    return float(np.square(values, dtype=np.float64).sum())


def _relative(noise: Array, signal: Array) -> float:
    """Return the mean over the outputs; one that is all zero says nothing."""
    if not np.isfinite(noise).all():
        return BROKEN
    shares = [n / s for n, s in zip(noise, signal, strict=True) if s > 0]
    return min(float(np.mean(shares)), BROKEN) if shares else 0.0
