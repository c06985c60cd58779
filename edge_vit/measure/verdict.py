"""What to ship: accuracy and latency against the user's limits, and the answer in plain words."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from edge_vit.errors import SpecError
from edge_vit.measure.gates import judge_accuracy, judge_speed
from edge_vit.measure.results import AccuracyReport, Gate, LatencyReport, Outcome, Verdict
from edge_vit.runtime.backends import CPU_BACKENDS
from edge_vit.spec import Precision


@dataclass(frozen=True)
class Limits:
    """What the user asks of a precision before it may ship.

    Attributes:
        max_drop: of accuracy against fp32, in points (percent of the images).
        min_speedup: median latency of the baseline over that of the candidate.
    """

    max_drop: float = 0.5
    min_speedup: float = 1.05

    def __post_init__(self) -> None:
        if not (math.isfinite(self.max_drop) and self.max_drop >= 0):
            raise SpecError(f"max_drop: got {self.max_drop}, expected 0 points or more")
        if not (math.isfinite(self.min_speedup) and self.min_speedup > 0):
            raise SpecError(f"min_speedup: got {self.min_speedup}, expected a ratio above 0")


def choose_candidate(precisions: Collection[Precision]) -> Precision:
    """Return the precision that a verdict is about: int8 where there is one, else fp16.

    Raises:
        SpecError: there is neither.
    """
    for precision in ("int8", "fp16"):
        if precision in precisions:
            return precision
    raise SpecError(
        f"nothing to verify: got {', '.join(precisions) or 'no precision'}, expected int8 or fp16 "
        "beside fp32. Run: edgevit export MODEL --int8 --calib DIR -o OUT.edgevit"
    )


def decide(
    accuracy: Sequence[AccuracyReport],
    latency: Sequence[LatencyReport],
    limits: Limits | None = None,
    *,
    candidate: Precision | None = None,
    baseline: Precision | None = None,
) -> Verdict:
    """Return whether the candidate may ship, and what to ship where it may not.

    Every precision but fp32 gets both gates; the outcome is that of the candidate's.

    Args:
        accuracy: one report per precision, against fp32, on the same images.
        latency: one report per precision, fp32 included, taken in turns.
        limits: what the user asks; `Limits()` where None.
        candidate: int8 where it was measured, else fp16.
        baseline: what the candidate has to be faster than; where None, fp32 on a CPU and fp16 on
            a GPU, where it was measured.

    Raises:
        SpecError: a precision was measured in one way only, or elsewhere, or not in turns with the
            others; fp32 is missing; there is no candidate.
    """
    limits = limits or Limits()
    accurate, timed = {r.precision: r for r in accuracy}, {r.precision: r for r in latency}
    _check_measured(accurate, timed)
    candidate = candidate or choose_candidate(accurate)
    _check_choice(candidate, baseline, timed)
    gates: dict[Precision, tuple[Gate, Gate]] = {}
    for precision in (candidate, *(p for p in accurate if p not in (candidate, "fp32"))):
        chosen = baseline if precision == candidate else None
        base = timed[chosen or _default_baseline(precision, timed)]
        gates[precision] = (
            judge_accuracy(accurate[precision], limits.max_drop),
            judge_speed(timed[precision], base, limits.min_speedup),
        )
    outcome = _combine(gate.outcome for gate in gates[candidate])
    recommended = candidate if outcome == "pass" else _fallback(candidate, gates, timed)
    return Verdict(
        candidate=candidate,
        recommended=recommended,
        outcome=outcome,
        sentence=_say(candidate, recommended, outcome, gates[candidate]),
        gates=tuple(gate for pair in gates.values() for gate in pair),
    )


def _check_measured(
    accurate: Mapping[Precision, AccuracyReport], timed: Mapping[Precision, LatencyReport]
) -> None:
    if "fp32" not in timed:
        raise SpecError(f"latency: got {', '.join(timed) or 'nothing'}, expected fp32 among them")
    unlike = set(accurate) - {"fp32"} ^ set(timed) - {"fp32"}
    if unlike:
        raise SpecError(
            f"verdict on {', '.join(sorted(unlike))}: got accuracy or latency alone, expected both"
        )
    places = {r.backend for r in accurate.values()} | {r.backend for r in timed.values()}
    if len(places) > 1:
        raise SpecError(
            f"verdict: got reports of {', '.join(sorted(places))}, expected one backend"
        )


def _check_choice(
    candidate: Precision, baseline: Precision | None, timed: Mapping[Precision, LatencyReport]
) -> None:
    others = [precision for precision in timed if precision != "fp32"]
    if candidate not in others:
        raise SpecError(f"candidate: got {candidate}, expected one of {', '.join(others)}")
    if baseline is not None and (baseline == candidate or baseline not in timed):
        rest = [precision for precision in timed if precision != candidate]
        raise SpecError(f"baseline: got {baseline}, expected one of {', '.join(rest)}")


def _default_baseline(precision: Precision, timed: Mapping[Precision, LatencyReport]) -> Precision:
    on_cpu = timed[precision].backend in CPU_BACKENDS
    return "fp32" if on_cpu or precision == "fp16" or "fp16" not in timed else "fp16"


def _combine(outcomes: Iterable[Outcome]) -> Outcome:
    found = set(outcomes)
    return "fail" if "fail" in found else "undecided" if "undecided" in found else "pass"


def _fallback(
    candidate: Precision,
    gates: Mapping[Precision, tuple[Gate, Gate]],
    timed: Mapping[Precision, LatencyReport],
) -> Precision:
    """The fastest other precision that is accurate and faster beyond the noise, else fp32."""
    options: list[Precision] = ["fp32"]
    for precision, (drop, speed) in gates.items():
        is_faster = speed.low is not None and speed.low > 1
        if precision != candidate and drop.outcome == "pass" and is_faster:
            options.append(precision)
    return min(options, key=lambda precision: timed[precision].latency_ms.p50)


def _say(
    candidate: Precision, recommended: Precision, outcome: Outcome, gates: tuple[Gate, Gate]
) -> str:
    drop, speed = gates
    if outcome == "pass":
        return f"Ship {candidate.upper()}: {_clause(speed)}; {_clause(drop)}."
    # What failed goes first: it is the reason.
    ordered = sorted(
        (speed, drop), key=lambda gate: ("fail", "undecided", "pass").index(gate.outcome)
    )
    reasons = "; ".join(_clause(gate) for gate in ordered)
    if outcome == "fail":
        return f"Do not ship {candidate.upper()}: {reasons}. Ship {recommended.upper()} instead."
    return f"Undecided about {candidate.upper()}: {reasons}. Until then ship {recommended.upper()}."


def _clause(gate: Gate) -> str:
    """A gate's sentence as part of a longer one."""
    return gate.sentence[0].lower() + gate.sentence[1:].removesuffix(".")
