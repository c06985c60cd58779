"""Which looks were taken at the candidate of a bundle, so that the next one knows its number.

An undecided verdict asks for more images. Verifying again and again until it passes gives a bad
candidate more than one chance; each look after the first is therefore judged more strictly.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from edge_vit.bundle import Bundle
from edge_vit.errors import ArtifactError, SpecError
from edge_vit.files import write_atomically
from edge_vit.measure.results import Outcome, VerifyReport
from edge_vit.values import from_json, parse_json, to_json

LOOKS_FILE = "looks.json"
LOOKS_FORMAT = 1


@dataclass(frozen=True)
class Look:
    """One verdict on a candidate.

    Attributes:
        bundle_digest: of the bundle that was judged.
        data_digest: of the images that it was judged on.
        number: of the look, from 1.
        outcome: of the verdict.
    """

    bundle_digest: str
    data_digest: str
    number: int
    outcome: Outcome


@dataclass(frozen=True)
class LookHistory:
    """All looks at a bundle, the oldest first."""

    looks: tuple[Look, ...] = ()
    format: int = LOOKS_FORMAT

    def number(self, bundle_digest: str, data_digest: str) -> int:
        """Return the number that a look at these images has now.

        The same images again are the same look: their accuracy does not change. A look that passed
        gives no further chance, since nothing was left to wait for.
        """
        looks = [look for look in self.looks if look.bundle_digest == bundle_digest]
        same = [look.number for look in looks if look.data_digest == data_digest]
        if same:
            return same[0]
        return 1 + max((look.number for look in looks if look.outcome != "pass"), default=0)


def read_history(bundle: Bundle) -> LookHistory:
    """Return the looks that were recorded in `bundle`; none where there is no record."""
    path = _path(bundle)
    if not path.exists():
        return LookHistory()
    try:
        data = parse_json(path.read_bytes())
        history = from_json(LookHistory, data, str(path))
        if history.format != LOOKS_FORMAT:
            raise SpecError(f"format is {history.format}, this edge-vit reads {LOOKS_FORMAT}")
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, SpecError) as error:
        raise ArtifactError(
            f"{path} is no record of earlier looks: {error}. Remove it, and say which look this is "
            "with: --look N"
        ) from None
    return history


def record_look(bundle: Bundle, report: VerifyReport) -> None:
    """Write into `bundle` that `report` was a look at it.

    An evaluation that is itself in question could not have passed, whatever the candidate did; so
    it is no look.
    """
    if any(finding.outcome != "note" for finding in report.verdict.findings):
        return
    history = read_history(bundle)
    digest = report.accuracy[0].data_digest
    look = Look(report.bundle_digest, digest, report.verdict.look, report.verdict.outcome)
    others = tuple(
        each
        for each in history.looks
        if (each.bundle_digest, each.data_digest) != (look.bundle_digest, digest)
    )
    text = json.dumps(to_json(LookHistory((*others, look))), indent=1)
    write_atomically(_path(bundle), (text + "\n").encode())


def _path(bundle: Bundle) -> Path:
    return bundle.reports_path / LOOKS_FILE
