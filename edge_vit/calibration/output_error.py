"""How far the model's outputs are off, image by image."""

from __future__ import annotations

import functools
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

_FLATTERY = 1.2
"""In dB: images that shaped the plan, or by which it was chosen, have so much more SQNR than others
(docs/adr/0029-a-plan-never-loses.md)."""

_STANDARD_ERRORS = 2.5
"""How many of them above the mean error of the worse half a forecast's interval begins, so that it
held the truth of 9 plans in 10 (docs/adr/0029-a-plan-never-loses.md)."""

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
        found = [_energies(*pair, spec) for pair in zip(exact, got, strict=True)]
        return cls(*map(np.array, zip(*found, strict=True)))

    @classmethod
    def until(
        cls, exact: Sequence[Outputs], got: Iterable[Outputs], spec: ModelSpec | None, most: float
    ) -> OutputError:
        """Return the same of the first images, whose mean and that over all are above `most`.

        Or of all images; no more than those are taken from `got`.
        """
        total = cls.of(exact, exact, spec).signal.sum(axis=0)
        found = list[tuple[list[float], list[float]]]()
        for pair in zip(exact, got, strict=False):
            found.append(_energies(*pair, spec))
            noise, signal = np.sum(found, axis=0)  # an output may be all zero in the first images
            if min(_relative(noise, total), _relative(noise, signal)) > most:
                break
        return cls(*map(np.array, zip(*found, strict=True)))

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

    def beside(self, other: OutputError) -> OutputError:
        """Return these images and those of `other`."""
        both = (self.noise, other.noise), (self.signal, other.signal)
        return OutputError(*map(np.concatenate, both))

    def lower_sqnr(self, standard_errors: float) -> float:
        """Return the SQNR of a mean so many of its standard errors above `mean`, in dB.

        Errors of images differ by tens of times. The few that are off most are rarely among a
        handful, so that a handful's mean promises more than a thousand keep.
        """
        means = self.signal.mean(axis=0)
        shares = self.noise[:, means > 0] / means[means > 0]
        if len(shares) < 2 or not shares.size or not np.isfinite(shares).all() or not self.mean:
            return self.sqnr
        spread = float(shares.mean(axis=1).std(ddof=1)) / math.sqrt(len(shares)) / self.mean
        return sqnr_of(min(BROKEN, self.mean * math.exp(standard_errors * spread)))


def forecast(samples: Sequence[OutputError]) -> tuple[float, float, float]:
    """Return in dB what other images may show, and the interval of it: from where, to where.

    `samples`: of the images held out, and of others that shaped the plan.
    """
    every = functools.reduce(OutputError.beside, samples)
    found = sqnr_of(min(BROKEN, every.mean * 10 ** (_FLATTERY / 10)))
    low = min(sample.lower_sqnr(_STANDARD_ERRORS) for sample in samples)
    return found, min(low, found), max(sample.sqnr for sample in samples)


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


def _energies(
    wanted: Outputs, got: Outputs, spec: ModelSpec | None
) -> tuple[list[float], list[float]]:
    """Return one image's energies of the error and of the exact output, by output."""
    if spec is not None:
        rows = ({name: value[None] for name, value in each.items()} for each in (wanted, got))
        wanted, got = task_of(spec).aligned(spec, *rows)
    errors = [_energy(got[name] - value) for name, value in wanted.items()]
    return errors, list(map(_energy, wanted.values()))


def _energy(values: Array) -> float:
    return float(np.square(values, dtype=np.float64).sum())


def _relative(noise: Array, signal: Array) -> float:
    """Return the mean over the outputs; one that is all zero says nothing."""
    if not np.isfinite(noise).all():
        return BROKEN
    shares = [n / s for n, s in zip(noise, signal, strict=True) if s > 0]
    return min(float(np.mean(shares)), BROKEN) if shares else 0.0
