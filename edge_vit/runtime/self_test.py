"""The bundle's golden images through a session: is it the model that it says?"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from edge_vit.bundle import GOLDEN, Bundle
from edge_vit.errors import BackendError
from edge_vit.formats import find_format
from edge_vit.runtime.session import Session, run_images
from edge_vit.tasks import task_of

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class SelfTest:
    """How the answers to the golden images compare with the fp32 ones that the bundle keeps.

    Attributes:
        num_images: that were run.
        error: see `Task.deviation`; infinite where an output is not finite.
        limit: what is allowed.
    """

    num_images: int
    error: float
    limit: float

    @property
    def passes(self) -> bool:
        """Whether the session is the model that it says."""
        return self.error <= self.limit


def run_self_test(session: Session, bundle: Bundle) -> SelfTest | None:
    """Return how `session` answers the golden images of `bundle`; None where it has none.

    Raises:
        ArtifactError: the golden images are missing, truncated or edited.
        BackendError: the session fails.
    """
    if not bundle.has(GOLDEN):
        return None
    golden = bundle.read_golden()
    outputs = run_images(session, golden.images)
    error, spec = float("inf"), bundle.spec
    if all(np.isfinite(output).all() for output in outputs.values()):
        error = task_of(spec).deviation(spec, golden.named(spec), outputs)
    return SelfTest(len(golden.images), error, find_format(session.precision).self_test_limit)


def check_session(session: Session, bundle: Bundle, name: str) -> None:
    """Refuse a session whose answers are not those of the model in `bundle`."""
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
