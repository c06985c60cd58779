"""How the 5 of 100 verdicts that may pass wrongly are shared: by looks, and by what is compared."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from edge_vit.errors import SpecError
from edge_vit.measure.statistics import CONFIDENCE

ERROR = 0.05
"""Chance that a model which loses more than the limit passes at any look, on any backend."""
FIRST_LOOK = 0.8
"""Share of `ERROR` that the first look spends."""
NEXT_LOOK = 0.2
"""What each further look spends, as a share of what the one before spent: 4 + 0.8 + 0.16 + ... is
5 %."""

Place = TypeVar("Place", bound=Hashable)
Judged = TypeVar("Judged")


@dataclass(frozen=True)
class Trust:
    """How sure a bound is.

    Attributes:
        now: confidence of each bound.
        next: that of each bound at the next look, by which the images that would decide are
            counted.
        times: that of a bound on times. It is shared by what is compared, and not by looks: more
            images say nothing of times.
    """

    now: float = CONFIDENCE
    next: float = CONFIDENCE
    times: float = CONFIDENCE


ALONE = Trust()
"""One look at one thing."""


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

    Args:
        places: what could be chosen.
        look: number of this look, from 1.
        judge: a place and how sure its bounds are -> its judgement.
        passes: whether a judgement is a pass.
    """
    judged: dict[Place, Judged] = {}
    open_places = list(places)
    while open_places:
        now, after = (1 - error_of_look(n) / len(open_places) for n in (look, look + 1))
        judged |= {
            place: judge(place, Trust(now, after, 1 - ERROR / len(open_places)))
            for place in open_places
        }
        left = [place for place in open_places if not passes(judged[place])]
        if len(left) == len(open_places):
            break
        open_places = left
    return {place: judged[place] for place in places}
