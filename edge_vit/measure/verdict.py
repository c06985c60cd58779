"""What to ship: accuracy and latency against the user's limits, and the answer in plain words."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence

from edge_vit.errors import SpecError
from edge_vit.formats import REFERENCE, all_formats, find_format, is_wider, names_below, names_of
from edge_vit.measure.earlier import judge_earlier
from edge_vit.measure.gates import agreement_can_fail, judge_accuracy, judge_agreement, judge_sqnr
from edge_vit.measure.limits import Limits
from edge_vit.measure.results import (
    AccuracyReport,
    Finding,
    Gate,
    LatencyReport,
    Outcome,
    Verdict,
    VerifyReport,
)
from edge_vit.measure.speed import judge_p99, judge_speed
from edge_vit.measure.spending import Trust, error_of_look, judge_together
from edge_vit.measure.statistics import CONFIDENCE
from edge_vit.spec import Precision

Place = tuple[str, Precision]  # backend and precision: what one session runs

Gates = Mapping[Place, tuple[Gate, ...]]

_TAKEN_FOR_GRANTED = frozenset({"min-agreement", "min-sqnr"})
"""Gates that are in the recommendation only where they do not pass."""

_ABOUT_LABELS = frozenset(
    {*("label-names", "labels-conflict", "one-class", "permuted-labels", "chance"), "overconfident"}
)
"""Findings after which no accuracy by these labels means anything, neither good nor bad."""

_ORDER: tuple[Outcome, ...] = ("fail", "undecided", "pass")


def choose_candidate(precisions: Collection[Precision]) -> Precision:
    """Return the precision that a verdict is about: the narrowest beside the reference."""
    narrow = names_below(precisions)
    if narrow:
        return narrow[0]
    wanted = " or ".join(names_below(names_of(all_formats())))
    raise SpecError(
        f"nothing to verify: got {', '.join(precisions) or 'no precision'}, expected {wanted} "
        f"beside {REFERENCE}. Run: edgevit export MODEL --int8 --calib DIR -o OUT.edgevit"
    )


def decide(
    accuracy: Sequence[AccuracyReport],
    latency: Sequence[LatencyReport],
    limits: Limits | None = None,
    *,
    earlier: VerifyReport | None = None,
    look: int = 1,
) -> Verdict:
    """Return whether the candidate may ship, and what to ship where it may not.

    Every precision but fp32 gets its gates on every backend, and all of them share the chance of a
    wrong pass; the outcome is that of the candidate's. Where it ran on several backends, the one
    with the best outcome counts, the fastest among equals. Where a finding questions the evaluation
    itself, nothing passes.

    There is one report per precision and backend of each kind, on the same images and in turns.
    The candidate is the narrowest precision. It has to be faster than the fastest of fp32 on a CPU,
    which only emulates FP16, or of fp16 on a GPU, and must not fall behind an `earlier` report.
    """
    limits = limits or Limits()
    accurate = {(r.backend, r.precision): r for r in accuracy}
    timed = {(r.backend, r.precision): r for r in latency}
    _check_measured(accurate, timed)
    candidate = choose_candidate([precision for _, precision in accurate])
    every = dict.fromkeys(finding for report in accuracy for finding in report.findings)
    findings = tuple(sorted(every, key=lambda finding: finding.outcome == "note"))
    places = sorted(
        (place for place in accurate if place[1] != REFERENCE), key=lambda p: p[1] != candidate
    )

    def judge(place: Place, trust: Trust) -> tuple[Gate, ...]:
        is_candidate = place[1] == candidate
        rival = _baseline(place, timed)
        name = _name(rival, timed)
        judged = _judge(accurate[place], timed[place], timed[rival], limits, name, trust)
        if is_candidate and earlier is not None:
            judged += judge_earlier(accurate[place], timed[place], earlier, limits)
        return _without_labels_in_question(judged, findings)

    gates = judge_together(places, look, judge, lambda judged: _combine(judged) == "pass")
    chosen = min(
        (place for place in gates if place[1] == candidate),
        key=lambda p: (-_ORDER.index(_combine(gates[p])), timed[p].latency_ms.p50),
    )
    outcome = _combine(gates[chosen], findings)
    trusted = {} if _combine((), findings) != "pass" else gates
    ships = chosen if outcome == "pass" else _fallback(chosen, trusted, accurate, timed, limits)
    findings += _about_sharing([_name(place, timed) for place in places], look)
    caveat = ""
    if _is_late(timed[ships], limits):
        caveat = f", which is not known to keep p99 below {limits.max_p99_ms:g} ms either"
    names = (_name(chosen, timed), _name(ships, timed))
    return Verdict(
        candidate=candidate,
        recommended=ships[1],
        outcome=outcome,
        sentence=_say(*names, outcome, gates[chosen], findings, caveat),
        gates=tuple(gate for of_place in gates.values() for gate in of_place),
        backend=chosen[0],
        recommended_backend=ships[0],
        findings=findings,
        look=look,
    )


def _check_measured(
    accurate: Mapping[Place, AccuracyReport], timed: Mapping[Place, LatencyReport]
) -> None:
    if not any(precision == REFERENCE for _, precision in timed):
        got = ", ".join(precision for _, precision in timed) or "nothing"
        raise SpecError(f"latency: got {got}, expected {REFERENCE} among them")
    unlike = {place for place in accurate.keys() ^ timed.keys() if place[1] != REFERENCE}
    if unlike:
        names = ", ".join(sorted({precision for _, precision in unlike}))
        raise SpecError(f"verdict on {names}: got accuracy or latency alone, expected both")


def _baseline(judged: Place, timed: Mapping[Place, LatencyReport]) -> Place:
    """The fastest of what `judged` has to beat: fp16 where a GPU has it, fp32 elsewhere."""

    def counts(place: Place) -> bool:
        if not timed[place].is_on_gpu:  # where floating point is emulated
            return place[1] == REFERENCE
        beside = names_below(precision for backend, precision in timed if backend == place[0])
        floats = (
            other
            for other in beside
            if is_wider(other, judged[1]) and not find_format(other).is_quantized
        )
        return place[1] == next(floats, REFERENCE)

    return min(filter(counts, timed), key=lambda place: timed[place].latency_ms.p50)


def _judge(
    accuracy: AccuracyReport,
    latency: LatencyReport,
    rival: LatencyReport,
    limits: Limits,
    name: str,
    trust: Trust,
) -> tuple[Gate, ...]:
    two_sided = max(CONFIDENCE, 2 * trust.times - 1)
    gates = [
        judge_accuracy(accuracy, limits.max_drop, limits.max_error, trust),
        judge_speed(latency, rival, limits.min_speedup, name=name, confidence=two_sided),
    ]
    if limits.min_agreement is not None and agreement_can_fail(accuracy):
        gates.append(judge_agreement(accuracy, limits.min_agreement, trust))
    gates.append(judge_sqnr(accuracy))
    if limits.max_p99_ms is not None:
        gates.append(judge_p99(latency, limits.max_p99_ms, trust.times))
    return tuple(gates)


def _without_labels_in_question(
    gates: tuple[Gate, ...], findings: Sequence[Finding]
) -> tuple[Gate, ...]:
    """Leave open what wrong labels would decide: an accuracy by them is neither kept nor lost."""
    if not any(f.name in _ABOUT_LABELS and f.outcome == "undecided" for f in findings):
        return gates
    judged = []
    for gate in gates:
        if gate.name in ("max-drop", "baseline-accuracy"):
            measured = gate.sentence.partition("; ")[0].removesuffix(".")
            sentence = f"{measured}; but the labels are in question."
            gate = dataclasses.replace(
                gate, outcome="undecided", images_needed=None, sentence=sentence
            )
        judged.append(gate)
    return tuple(judged)


def _about_sharing(names: Sequence[str], look: int) -> tuple[Finding, ...]:
    """What a reader of the bounds has to know: they are wider than one look at one thing needs."""
    found = []
    if len(names) > 1:
        sentence = (
            f"{', '.join(names[:-1])} and {names[-1]} are judged at once. They share the 5 of 100 "
            "chances of a wrong pass, so each needs more images than it would alone."
        )
        found.append(Finding("shared-error", "note", sentence))
    if look > 1:
        sentence = (
            f"This is look {look} at the same candidate: its bounds hold with "
            f"{100 * (1 - error_of_look(look)):.4g} % confidence, so that all looks together pass "
            "wrongly in at most 5 of 100."
        )
        found.append(Finding("second-look", "note", sentence))
    return tuple(found)


def _combine(gates: Iterable[Gate], findings: Iterable[Finding] = ()) -> Outcome:
    """The worst outcome among them; a note is none."""
    outcomes: list[Outcome] = [gate.outcome for gate in gates]
    outcomes += [finding.outcome for finding in findings if finding.outcome != "note"]
    return min(outcomes, key=_ORDER.index, default="pass")


def _fallback(
    chosen: Place,
    gates: Gates,
    accurate: Mapping[Place, AccuracyReport],
    timed: Mapping[Place, LatencyReport],
    limits: Limits,
) -> Place:
    """The fastest other that is accurate and faster than its baseline beyond the noise, else fp32.

    fp32 elsewhere than the reference is the same graph: it counts unless it is proven inaccurate.
    What keeps `max_p99_ms`, where that is asked, goes before what does not.
    """
    options = [
        place
        for place in timed
        if place[1] == REFERENCE
        and (
            place not in accurate
            or judge_accuracy(accurate[place], limits.max_drop, limits.max_error).outcome != "fail"
        )
    ]
    for place, of_place in gates.items():
        speed = next(gate for gate in of_place if gate.name == "min-speedup")
        is_faster = speed.low is not None and speed.low > 1
        others = [gate for gate in of_place if gate is not speed]
        if place != chosen and is_faster and _combine(others) == "pass":
            options.append(place)

    return min(options, key=lambda p: (_is_late(timed[p], limits), timed[p].latency_ms.p50))


def _is_late(report: LatencyReport, limits: Limits) -> bool:
    """Whether p99 is not known to keep its limit, where that is asked."""
    most = limits.max_p99_ms
    return most is not None and judge_p99(report, most).outcome != "pass"


def _name(place: Place, timed: Mapping[Place, LatencyReport]) -> str:
    """``INT8``, or ``INT8 on openvino`` where several backends were measured."""
    backend, precision = place
    is_only = len({other for other, _ in timed}) == 1
    title = find_format(precision).title
    return title if is_only else f"{title} on {backend}"


def _say(
    candidate: str,
    recommended: str,
    outcome: Outcome,
    gates: Sequence[Gate],
    findings: Sequence[Finding],
    caveat: str,
) -> str:
    # Speed goes first where all is well; what failed goes before it, for it is the reason.
    told = [gate for gate in gates if gate.outcome != "pass" or gate.name not in _TAKEN_FOR_GRANTED]
    ordered = sorted(told, key=lambda g: (_ORDER.index(g.outcome), g.name != "min-speedup"))
    questions = [f.sentence for f in findings if f.outcome != "note"]
    if questions:
        ordered = [gate for gate in ordered if gate.outcome == "fail"]
    reasons = "; ".join(map(_clause, (*questions, *(gate.sentence for gate in ordered))))
    if outcome == "pass":
        return f"Ship {candidate}: {reasons}."
    if outcome == "fail":
        return f"Do not ship {candidate}: {reasons}. Ship {recommended} instead{caveat}."
    return f"Undecided about {candidate}: {reasons}. Until then ship {recommended}{caveat}."


def _clause(sentence: str) -> str:
    """A sentence as part of a longer one; a name in capitals stays as it is."""
    sentence = sentence.removesuffix(".")
    return sentence if sentence[1].isupper() else sentence[0].lower() + sentence[1:]
