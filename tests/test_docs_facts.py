"""What README and docs state as a default, a limit or a status is what the code does.

Each row names a document, a pattern whose groups are the stated values, and where the code keeps
them. A sentence with "default" or an exit status that no row reads fails the last tests.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from kept_values import (
    below,
    dashboard_listens_to,
    default_of,
    degraded_status,
    doctor_status,
    name_of_progress,
    option,
    smallest_is_default,
    status_of,
    stream_transport,
    webhook_default,
)

from edge_vit import errors
from edge_vit.camera import capture, preprocessing, smoothing
from edge_vit.camera.sinks import json_lines
from edge_vit.camera.sinks.web import pictures
from edge_vit.cli.group import INTERRUPTED
from edge_vit.data.bad_images import DEFAULT_MAX_BAD, FEW_IMAGES
from edge_vit.data.decoding import MAX_PIXELS
from edge_vit.export import parity, reference
from edge_vit.formats import find_format
from edge_vit.lowering import fp16_ranges
from edge_vit.measure import accuracy, gates, histogram, recorder
from edge_vit.measure.limits import Limits
from edge_vit.runtime.trt import build
from edge_vit.spec.table import DEFAULT_RECIPE, RECIPES
from edge_vit.tasks import TASKS, task_named

ROOT = Path(__file__).parents[1]
FOREIGN = re.compile(
    r"ModelOpt|called with its defaults|TensorRT's default settings|The defaults changed"
    r"|adr/\d{4}-"
)
"""Sentences about the defaults of other tools, and the names of decisions."""


@dataclass(frozen=True)
class Fact:
    """A stated value: where it is written, and what the code says.

    Attributes:
        document: path below the repository.
        pattern: matched in the document with line breaks as single spaces; its groups are values.
        expected: returns the groups that the code would have written, as text or numbers.
    """

    document: str
    pattern: str
    expected: Callable[[], object]

    def __str__(self) -> str:
        return f"{self.document}: {self.pattern[:50]}"


@functools.cache
def text_of(document: str) -> str:
    return " ".join((ROOT / document).read_text().split())


SINK, STALE, EXIT = "docs/sinks.md", "--stale-after", r"\| {} \| "
FACTS = [
    Fact(
        "README.md",
        r"`verify` exits with (\d): ship it; (\d): a gate failed.*?; (\d): too few images",
        lambda: tuple(map(status_of, ("pass", "fail", "undecided"))),
    ),
    Fact(
        "README.md",
        r"the status is (\d), and (\d) for a mistyped command",
        lambda: (errors.EdgeVitError.exit_status, click.UsageError.exit_code),
    ),
    Fact("README.md", r"an image that claims a (billion) pixels", lambda: below(MAX_PIXELS, 1e9)),
    Fact("docs/guide.md", r"`(\w+)` \(default\)", lambda: DEFAULT_RECIPE.name),
    Fact("docs/guide.md", r"up to (\d+) megapixels", lambda: MAX_PIXELS // 10**6),
    Fact(
        "docs/guide.md",
        r"(\d+) % are left out by default, (\d+) at least from (\d+) images on",
        lambda: (100 * DEFAULT_MAX_BAD.share, DEFAULT_MAX_BAD.allowed(FEW_IMAGES), FEW_IMAGES),
    ),
    Fact(
        "docs/guide.md",
        r"up to a (tenth) of the multiply-adds",
        lambda: {0.1: "tenth"}[DEFAULT_RECIPE.max_fallback],
    ),
    Fact(
        "docs/camera.md",
        r"sink fails on an answer, the status is (\d)",
        lambda: errors.SourceError.exit_status,
    ),
    Fact(
        "docs/camera.md",
        r"answers the good frames and ends with status (\d)",
        lambda: errors.SourceError.exit_status,
    ),
    Fact(
        "docs/camera.md",
        r"after status (\d), and after any crash",
        lambda: errors.DeviceLostError.exit_status,
    ),
    Fact("docs/guide.md", r"worse than (\d+) dB", lambda: DEFAULT_RECIPE.min_sqnr),
    Fact("docs/guide.md", r"cut at ([\d.]+) % of all", lambda: RECIPES["percentile"].percentile),
    Fact(
        "docs/guide.md",
        r"leaves the nodes that reach ([\d,]+) in float32",
        lambda: fp16_ranges.MAX_IN_HALF,
    ),
    Fact("docs/guide.md", r"The default precision is the (smallest)", smallest_is_default),
    Fact("docs/python.md", r"Without a precision both run the (smallest)", smallest_is_default),
    Fact(
        "docs/python.md",
        r"and (silence) is the default",
        lambda: {"SILENT": "silence"}[name_of_progress()],
    ),
    Fact(
        "docs/tensorrt.md", r"or `all` that the bundle has \| the (smallest)", smallest_is_default
    ),
    Fact(
        "docs/tensorrt.md",
        r"`--backend` \|.*?\| `(auto)`: `trt` where",
        lambda: option("build", "--backend"),
    ),
    Fact("docs/tensorrt.md", r"workspace, (three) times", lambda: {3: "three"}[build._RETRIES]),
    Fact("docs/tensorrt.md", r"cancels it, status (\d+)", lambda: INTERRUPTED),
    Fact(
        "docs/tensorrt.md", r"is a failure: exit status (\d)", lambda: errors.GateFailed.exit_status
    ),
    Fact("docs/camera.md", r"until Ctrl-C \(status (\d+)\)", lambda: INTERRUPTED),
    Fact(
        "docs/camera.md",
        r"the command ends with status (\d): a new process",
        lambda: errors.DeviceLostError.exit_status,
    ),
    Fact(
        "docs/camera.md",
        r"with the reason and status (\d) \((\d) for a lost device\)",
        lambda: (errors.EdgeVitError.exit_status, errors.DeviceLostError.exit_status),
    ),
    Fact(
        "docs/camera.md",
        r"answers the good frames and ends with status (\d)",
        lambda: errors.SourceError.exit_status,
    ),
    Fact("docs/camera.md", r"`--stale-after` seconds \((\d+)\)", lambda: option("camera", STALE)),
    Fact(
        "docs/camera.md",
        r"`--answer-timeout` seconds \((\d+)\)",
        lambda: option("camera", "--answer-timeout"),
    ),
    Fact(
        "docs/camera.md",
        r"after (half a) second, then ever more rarely, up to (\d+) s",
        lambda: (
            {0.5: "half a"}[default_of(capture.RetryPolicy, "first_retry_s")],
            default_of(capture.RetryPolicy, "max_retry_s"),
        ),
    ),
    Fact(
        "docs/camera.md",
        r"p99 wants ([\d,]+), p99.9 wants ([\d,]+)",
        lambda: (recorder.runs_needed(99), recorder.runs_needed(99.9)),
    ),
    Fact("docs/camera.md", r"at most ([\d.]+) levels", lambda: preprocessing.MAX_MEAN_DIFF),
    Fact(
        "docs/camera.md",
        r"the newest (\d+), or `--max-disagreements`",
        lambda: option("camera", "--max-disagreements"),
    ),
    Fact(
        "docs/camera.md",
        r"One frame every `--interval` seconds \((\d+)\)",
        lambda: option("calibrate", "--interval"),
    ),
    Fact("docs/camera.md", r"`transport`: `(\w+)` \(default\)", lambda: stream_transport()),
    Fact(
        "docs/measuring.md",
        r"`(\w+)` \(default\) \| as fast",
        lambda: option("bench", "--scenario"),
    ),
    Fact(
        "docs/measuring.md",
        r"p99 takes ([\d,]+) runs, p99.9 takes ([\d,]+)",
        lambda: (recorder.runs_needed(99), recorder.runs_needed(99.9)),
    ),
    Fact(
        "docs/measuring.md",
        r"kept in `FILE.state` every (ten) seconds",
        lambda: {10.0: "ten"}[accuracy.SECONDS_BETWEEN_SAVES],
    ),
    Fact(
        "docs/statistics.md",
        r"ends (\d) % above where it begins",
        lambda: 100 * (histogram.GROWTH - 1),
    ),
    Fact("docs/statistics.md", r"There are ([\d,]+) of them", lambda: histogram._NUM_BUCKETS),
    Fact(SINK, r"`max-mb` \((\d+)\)", lambda: json_lines.MAX_BYTES >> 20),
    Fact(SINK, r"`keep` \((\d+)\)", lambda: json_lines.NUM_KEPT),
    Fact(SINK, r"at most (\d+) a second and", lambda: pictures.MAX_RATE),
    Fact(SINK, r"and (\d+) pixels long", lambda: pictures.MAX_SIDE),
    Fact(SINK, r"after (two) seconds without", lambda: {2.0: "two"}[smoothing.LONGEST_GAP_S]),
    Fact(SINK, r"By default (this machine alone)", lambda: dashboard_listens_to()),
    Fact(SINK, r"`on=(\w+)` \(the default\)", lambda: webhook_default()),
    Fact(
        "docs/sources.md",
        r"cosine above ([\d.]+) and no error above ([\d.]+) of",
        lambda: (parity.MIN_COSINE, parity.MAX_ERROR),
    ),
    Fact(
        "docs/sources.md",
        r"on five images at batch (\d), (\d) and (\d)",
        lambda: reference.PARITY_BATCHES,
    ),
    Fact(
        "docs/sources.md",
        r"label is on \(([\d.]+)\), or the value from which a score counts as positive \((\d)\)",
        lambda: tuple(task_named(t).default_threshold for t in ("multi_label", "regression")),
    ),
    *(
        Fact("docs/sources.md", rf"\| `{task}` \|.*?: ({activation}) \|", lambda a=activation: a)
        for task, activation in ((name, task_named(name).default_activation) for name in TASKS)
        if activation != "none"
    ),
    Fact(
        "docs/statistics.md",
        r"Below (\d+) images, and where the reference gives one value",
        lambda: gates.MIN_IMAGES,
    ),
    Fact(
        "docs/sources.md",
        r"fixes the batch size; by default it is (dynamic)",
        lambda: {None: "dynamic"}[option("export", "--static-batch")],
    ),
    *(
        Fact(
            "docs/runtime.md",
            rf"\| {name} \| ([\d.]+) \| ",
            lambda precision=precision: find_format(precision).self_test_limit,
        )
        for name, precision in (("fp32", "fp32"), ("FP16", "fp16"), ("INT8", "int8"))
    ),
    Fact("docs/runtime.md", r"and the exit status is \*\*(6)\*\*", lambda: degraded_status()),
    Fact(
        "docs/runtime.md",
        r"says so and the exit status is \*\*(\d)\*\*",
        lambda: errors.DeviceLostError.exit_status,
    ),
    Fact(
        "docs/device.md",
        r"The exit status is (\d) when there is a problem",
        lambda: doctor_status(),
    ),
    *(
        Fact(
            "docs/verdict.md",
            rf"\| `{flag} \w+` \|[^|]*\|[^|]*\| ([\w. ]+?) \|",
            lambda name=name: default_of(Limits, name),
        )
        for flag, name in (
            ("--max-drop", "max_drop"),
            ("--max-error", "max_error"),
            ("--min-agreement", "min_agreement"),
            ("--min-speedup", "min_speedup"),
            ("--max-p99-ms", "max_p99_ms"),
            ("--max-slowdown", "max_slowdown"),
        )
    ),
    *(
        Fact("docs/verdict.md", rf"\| (\d) \| {words}", lambda outcome=outcome: status_of(outcome))
        for words, outcome in (
            ("every gate", "pass"),
            ("a gate failed", "fail"),
            ("undecided", "undecided"),
        )
    ),
    *(
        Fact("docs/statistics.md", rf"\| {o} \|[^|]*\| (\d) \|", lambda o=o: status_of(o))
        for o in ("pass", "fail", "undecided")
    ),
    Fact(
        "docs/verdict.md",
        r"`--strict` refuses instead, with exit status (\d)",
        lambda: errors.SpecError.exit_status,
    ),
]

STATUSES: dict[int, Callable[[], int]] = {
    0: lambda: status_of("pass"),
    1: lambda: errors.EdgeVitError.exit_status,
    2: lambda: click.UsageError.exit_code,
    3: lambda: errors.GateFailed.exit_status,
    4: lambda: errors.DeviceLostError.exit_status,
    5: lambda: status_of("undecided"),
    6: lambda: degraded_status(),
    130: lambda: INTERRUPTED,
}
"""Every exit status there is, and where the code keeps it."""


def value_of(words: str) -> object:
    """Return a stated value as the code would hold it: a number, None, or the words."""
    if words == "not asked":
        return None
    try:
        return float(words.replace(",", ""))
    except ValueError:
        return words


@pytest.mark.parametrize("fact", FACTS, ids=str)
def test_what_is_stated_is_so(fact):
    found = re.findall(fact.pattern, text_of(fact.document))
    assert len(found) == 1, f"found {len(found)} times"
    stated = found[0] if isinstance(found[0], tuple) else (found[0],)
    expected = fact.expected()
    wanted = expected if isinstance(expected, tuple) else (expected,)
    assert [value_of(words) for words in stated] == pytest.approx(list(wanted))


@pytest.mark.parametrize("document", ["docs/guide.md", "docs/design.md"])
def test_the_tables_of_statuses_hold_every_status(document):
    table = text_of(document).rpartition("| status | meaning")[2]
    stated = re.findall(r"\| (\d+) \| [a-z]", table.partition(" ## ")[0].split("Results go")[0])
    assert list(map(int, stated)) == list(STATUSES)
    assert all(status == read() for status, read in STATUSES.items())


DOCUMENTS = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_stated_default_and_status_is_read_by_a_row(document):
    text = text_of(document)
    spans = [
        match.span()
        for fact in FACTS
        if fact.document == document
        for match in re.finditer(fact.pattern, text)
    ]
    unread = []
    for match in re.finditer(r"\bdefaults?\b|\bstatus (?:\*\*)?\d+|exits with \d", text):
        around = text[max(0, match.start() - 90) : match.end() + 60]
        is_read = any(low - 90 <= match.start() <= high + 90 for low, high in spans)
        is_header = re.search(r"\| default \|", text[match.start() - 3 : match.end() + 3])
        if not (is_read or is_header or FOREIGN.search(around)):
            unread.append(around)
    assert not unread
