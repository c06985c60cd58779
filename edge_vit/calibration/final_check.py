"""Runs the finished plan and every simpler one on images that shaped none, and chooses one.

Each step gained something by itself; whether all together do is seen here: end to end, all layers
quantized at once, image by image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx

from edge_vit.calibration.layer import Plan
from edge_vit.calibration.output_error import OutputError, Outputs, run_outputs
from edge_vit.graph.large import Spill
from edge_vit.graph.walk import Array
from edge_vit.lowering.qdq import write_qdq
from edge_vit.progress import SILENT, Progress
from edge_vit.spec import ModelSpec
from edge_vit.spec.table import CalibrationTable

Plans = Mapping[str, Plan]

_MIN_GAIN, _SURE_GAIN = 0.98, 0.8
"""A simpler plan is taken where it leaves less than so much of the error: of the former, if images
gain on average, too; of the latter, even if it is a few of them that do."""


@dataclass(frozen=True, eq=False)
class Contender:
    """One plan of the whole model and what it came to."""

    name: str  # what was done
    error: OutputError  # of the outputs, on the images held out


def choose_plan(
    plans: Mapping[str, Plans],
    measure: Callable[[Plans, float], OutputError],
    progress: Progress = SILENT,
) -> tuple[Contender, ...]:
    """Return the plans, measured, the best first.

    A simpler one comes before the first where it is better by more than chance. Plans that are the
    same are measured once, and one that cannot win any more not to its end.

    `measure`: how far the outputs are off, on some images alone where it is more than a number.
    """
    distinct: dict[str, Plans] = {}
    for name, plan in plans.items():
        if not any(_are_same(plan, other) for other in distinct.values()):
            distinct[name] = plan
    found, most = list[Contender](), math.inf
    with progress.step(f"comparing {len(distinct)} plans", len(distinct)) as advance:
        for name, plan in distinct.items():
            found.append(latest := Contender(name, measure(plan, most)))
            if latest is found[0]:
                most = _MIN_GAIN * latest.error.mean
            elif _is_better(latest.error, found[0].error):
                most = min(most, latest.error.mean)
            advance(1)
    finished, *simpler = found
    better = [contender for contender in simpler if _is_better(contender.error, finished.error)]
    # The mean is of energies, so that the images that are worst weigh most in it.
    best = min(better, key=lambda contender: contender.error.mean, default=finished)
    return (best, *(contender for contender in found if contender is not best))


def _is_better(new: OutputError, old: OutputError) -> bool:
    """Say whether `new` is less of an error by more than chance."""
    if len(new.by_image) < len(old.by_image) or new.mean > _MIN_GAIN * old.mean:
        return False
    return new.mean < _SURE_GAIN * old.mean or new.gain_over(old) > 0


def measure_table(
    model: onnx.ModelProto,
    spec: ModelSpec,
    table: CalibrationTable,
    images: Sequence[Array],
    exact: Sequence[Outputs],
    threads: int | None = None,
    most: float = math.inf,
    *,
    rounds_weights: bool = True,
) -> OutputError:
    """Return how far the INT8 that `table` makes of `model` is off.

    Images are run until the mean over all will be above `most`, whatever the others come to.
    """
    spill = Spill(0)  # inside the graph they would be in memory twice
    written = write_qdq(model, table, rounds_weights=rounds_weights, spill=spill)
    got = run_outputs(written, spec, images, threads)
    return OutputError.until(exact, got, spec, most)


def _are_same(first: Plans, second: Plans) -> bool:
    return all(first[name].is_same_as(second[name]) for name in first)
