"""How the 5 of 100 verdicts that may pass wrongly are shared: by looks, and by what is compared.

An undecided verdict asks for more images. Verifying again and again until it passes gives a bad
candidate more than one chance; so the looks at the candidate of a bundle are counted in a file of
it, and each after the first is judged more strictly.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from edge_vit.bundle import Bundle
from edge_vit.errors import ArtifactError, SpecError
from edge_vit.files import write_atomically
from edge_vit.measure.results import Outcome, VerifyReport
from edge_vit.measure.statistics import CONFIDENCE
from edge_vit.values import from_json, json_file, parse_json

ERROR = 0.05
"""Chance that a model which loses more than the limit passes at any look, on any backend."""
FIRST_LOOK = 0.8  # share of `ERROR` that the first look spends
NEXT_LOOK = 0.2
"""What each further look spends, as a share of what the one before spent: 4 + 0.8 + 0.16 + ... is
5 %."""

LOOKS_FILE = "looks.json"
LOOKS_FORMAT = 1

Place = TypeVar("Place", bound=Hashable)
Judged = TypeVar("Judged")


@dataclass(frozen=True)
class Trust:
    """Confidence of each bound `now`, at the `next` look, and of bounds on `times`.

    The images that would decide are counted by the next look's. Times are shared by what is
    compared, and not by looks: more images say nothing of times.
    """

    now: float = CONFIDENCE
    next: float = CONFIDENCE
    times: float = CONFIDENCE


ALONE = Trust()  # one look at one thing


def error_of_look(look: int) -> float:
    """Return the chance of a wrong pass that look number `look`, from 1, may spend."""
    if look < 1:
        raise SpecError(f"look: got {look}, expected 1 for the first, 2 for the second")
    return ERROR * FIRST_LOOK * NEXT_LOOK ** (look - 1)


def judge_together(
    places: Sequence[Place],
    look: int,
    judge: Callable[[Place, Trust], Judged],
    passes: Callable[[Judged], bool],
) -> dict[Place, Judged]:
    """Return the judgement of each of `places`, all of which together share one look's error.

    By Holm 1979 (Scandinavian Journal of Statistics 6, 65): each is judged with an equal share of
    the error; what passes needs its share no more, and the others are judged again with it. What
    does not pass is judged with the last share.
    """
    judged: dict[Place, Judged] = {}
    open_places = list(places)
    while open_places:
        now, after = (1 - error_of_look(n) / len(open_places) for n in (look, look + 1))
        trust = Trust(now, after, 1 - ERROR / len(open_places))
        judged |= {place: judge(place, trust) for place in open_places}
        left = [place for place in open_places if not passes(judged[place])]
        if len(left) == len(open_places):
            break
        open_places = left
    return {place: judged[place] for place in places}


@dataclass(frozen=True)
class Look:
    """One verdict on a candidate: of which bundle, on which images, the how manieth from 1."""

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
    path = bundle.reports_path / LOOKS_FILE
    if not path.exists():
        return LookHistory()
    try:
        history = from_json(LookHistory, parse_json(path.read_bytes()), str(path))
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
    """Record in `bundle` that `report` evaluated it.

    An evaluation that is itself in question could not have passed, whatever the candidate did; so
    it is no look.
    """
    if any(finding.outcome != "note" for finding in report.verdict.findings):
        return
    path: Path = bundle.reports_path / LOOKS_FILE
    digest = report.accuracy[0].data_digest
    look = Look(report.bundle_digest, digest, report.verdict.look, report.verdict.outcome)
    others = (
        each
        for each in read_history(bundle).looks
        if (each.bundle_digest, each.data_digest) != (look.bundle_digest, digest)
    )
    write_atomically(path, json_file(LookHistory((*others, look))))
