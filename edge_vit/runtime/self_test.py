"""The self-test of a session: the bundle's golden images against their fp32 outputs."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from edge_vit.bundle import GOLDEN, Bundle
from edge_vit.bundle.record import GoldenProof
from edge_vit.errors import BackendError
from edge_vit.formats import find_format
from edge_vit.runtime.session import Session, run_images
from edge_vit.spec import Precision
from edge_vit.tasks import task_of

_LOG = logging.getLogger(__name__)

MARGIN = 3.0
"""How many times as far off an image may be as it was when the graph was written: another machine
rounds other values up, and the error of one image moves by that."""

MAX_LIMIT = 1.0  # another model is off by about 1.4


@dataclass(frozen=True)
class SelfTest:
    """Deviation of a session's outputs for the golden images, and the limit of it.

    For `error` see `Task.deviation`; it is infinite where an output is not finite. Where the bundle
    knows the deviation of each image at quantization, it is that of the image worst against it.
    """

    num_images: int
    error: float
    limit: float

    @property
    def passes(self) -> bool:
        """Whether the session runs the bundle's model."""
        return self.error <= self.limit


def run_self_test(session: Session, bundle: Bundle) -> SelfTest | None:
    """Return the self-test of `session` on the golden images of `bundle`; None without any."""
    if not bundle.has(GOLDEN):
        return None
    golden, spec = bundle.read_golden(), bundle.spec
    outputs, precision = run_images(session, golden.images), find_format(session.precision)
    num_images, limit = len(golden.images), precision.self_test_limit
    if not all(np.isfinite(output).all() for output in outputs.values()):
        return SelfTest(num_images, float("inf"), limit)
    task, exact = task_of(spec), golden.named(spec)
    expected = expected_deviations(bundle, session.precision)
    if not expected:
        return SelfTest(num_images, task.deviation(spec, exact, outputs), limit)
    least = find_format(precision.around).self_test_limit if precision.around else 0.0
    limits = [min(MAX_LIMIT, max(least, MARGIN * each)) for each in expected]
    found = zip(task.deviations(spec, exact, outputs), limits, strict=True)
    error, limit = max(found, key=lambda pair: pair[0] / pair[1])
    return SelfTest(num_images, error, limit)


def expected_deviations(bundle: Bundle, precision: Precision) -> tuple[float, ...]:
    """Return how far a quantized `precision` was off on each golden image when it was written.

    Nothing where `bundle` has no golden images, or was written before there was such a proof.
    """
    chosen = find_format(precision)
    if not (chosen.is_quantized and chosen.proof and bundle.has(chosen.proof)):
        return ()
    where = str(bundle.path / chosen.proof)
    found = GoldenProof.from_bytes(bundle.read(chosen.proof), where).deviations
    is_whole = bundle.has(GOLDEN) and len(found) == len(bundle.read_golden().images)
    return found if is_whole else ()


def check_session(session: Session, bundle: Bundle, name: str) -> None:
    """Refuse, by a BackendError, a session whose outputs are not those of the bundle's model."""
    result = run_self_test(session, bundle)
    if result is None:
        _LOG.warning("%s was not tested: the bundle has no %s. Export it again", name, GOLDEN)
    elif result.passes:
        _LOG.debug("self-test of %s: error %.2g, limit %g", name, result.error, result.limit)
    else:
        raise BackendError(
            f"{name} gives other answers than the model: on {result.num_images} golden images they "
            f"are off by {result.error:.2g} of the spread of the fp32 outputs, "
            f"{session.precision} may be off by {result.limit:g}. To use it all the same: "
            "--no-self-test"
        )
