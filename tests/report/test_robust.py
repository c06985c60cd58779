"""Reports as they come: parts missing, numbers that are none, many classes, hostile names."""

from __future__ import annotations

import dataclasses
import re

import html5lib
import pytest

from edge_vit.measure.results import (
    ClassAccuracy,
    ColdStart,
    Energy,
    Percentile,
    Stage,
    TimingWarning,
)
from edge_vit.report.details import MAX_CLASSES, accuracy_details, latency_details
from edge_vit.report.html import render_html
from edge_vit.report.junit import render_junit
from edge_vit.report.markdown import render_markdown
from edge_vit.report.precision import recipe_grid
from edge_vit.report.saved import read_json, write_json
from edge_vit.report.terminal import verdict_panel
from edge_vit.spec.table import RECIPES

LONG = "a label of a class that somebody wrote in a hurry " * 8
EVIL = '<script>alert("1")</script>&amp;\x00\x1b[31m$x^2$'


def change_latency(report, **changes):
    latency = tuple(dataclasses.replace(r, **changes) for r in report.latency)
    return dataclasses.replace(report, latency=latency)


def change_accuracy(report, **changes):
    accuracy = tuple(dataclasses.replace(r, **changes) for r in report.accuracy)
    return dataclasses.replace(report, accuracy=accuracy)


def change_verdict(report, **changes):
    return dataclasses.replace(report, verdict=dataclasses.replace(report.verdict, **changes))


def many_classes(report):
    names = tuple(f"{LONG}{i}" for i in range(1000))
    outputs = (dataclasses.replace(report.model.outputs[0], shape=("batch", 1000)),)
    model = dataclasses.replace(report.model, labels=names, outputs=outputs)
    per_class = tuple(ClassAccuracy(i, names[i], 50, 0.8 - i / 2000, 0.8) for i in range(1000))
    confusion = tuple((i, (i + 1) % 1000, 3) for i in range(1000))
    changed = change_accuracy(
        report, per_class=per_class, confusion=confusion, reference_confusion=confusion[:500]
    )
    return dataclasses.replace(changed, model=model)


def everything(report):
    return change_latency(
        report,
        percentiles=(Percentile(50, 2.0, 1.9, 2.1), Percentile(99.9, None, None, None)),
        stages=(Stage("preprocess", 1.0, 1.1, 1.05), Stage("run", 2.0, 2.1, 2.0)),
        cold_start=ColdStart(300.0, 80.0, 5.0, None),
        energy=Energy(0.02, 7.5, "VDD_IN"),
        warnings=(TimingWarning("unsteady", EVIL),),
        variation=0.08,
    )


def hostile(report):
    worst = report.accuracy[-1].worst[0]
    answers = tuple(dataclasses.replace(a, label=EVIL) for a in worst.candidate)
    worst = dataclasses.replace(worst, image=EVIL, label=LONG, candidate=answers)
    gates = tuple(
        dataclasses.replace(gate, sentence=EVIL, backend=EVIL) for gate in report.verdict.gates
    )
    changed = change_accuracy(report, worst=(worst,), data=LONG)
    changed = change_verdict(changed, gates=gates, sentence=EVIL + LONG)
    model = dataclasses.replace(report.model, name=EVIL, licence=LONG)
    return dataclasses.replace(changed, bundle=LONG, notes=(EVIL,), model=model)


def two_backends(report):
    other = tuple(dataclasses.replace(r, backend="openvino") for r in report.latency)
    judged = tuple(dataclasses.replace(r, backend="openvino") for r in report.accuracy)
    both = dataclasses.replace(
        report, latency=(*report.latency, *other), accuracy=(*report.accuracy, *judged)
    )
    return change_verdict(both, backend="ort", recommended_backend="ort")


def two_images(report):
    few = change_accuracy(report, num_images=2, num_labelled=2, num_agreeing=2, agreement=1.0)
    return change_latency(few, samples_ms=(1.0, 1.0), iterations=2)


def unknown_numbers(report):
    nan = float("nan")
    gates = tuple(
        dataclasses.replace(g, value=None, low=None, high=None) for g in report.verdict.gates
    )
    changed = change_accuracy(
        report, sqnr_db=None, kl_mean=None, top1=None, top5=None, cosine_mean=nan, cosine_min=nan
    )
    return change_verdict(changed, gates=gates)


def one_run(report):
    """Of which nothing is known of the next, so that bounds are infinite."""
    gates = tuple(dataclasses.replace(g, low=0.0, high=float("inf")) for g in report.verdict.gates)
    return change_verdict(change_latency(report, samples_ms=(2.0,), iterations=1), gates=gates)


CASES = {
    "no runs kept": lambda r: change_latency(r, samples_ms=()),
    "one run": one_run,
    "no latency": lambda r: dataclasses.replace(r, latency=()),
    "no accuracy": lambda r: dataclasses.replace(r, accuracy=()),
    "nothing": lambda r: change_verdict(
        dataclasses.replace(r, latency=(), accuracy=(), notes=()), gates=()
    ),
    "all the same": lambda r: change_latency(r, samples_ms=(2.0,) * 50),
    "two images": two_images,
    "unknown numbers": unknown_numbers,
    "a thousand classes": many_classes,
    "everything that can be measured": everything,
    "hostile names": hostile,
    "two backends": two_backends,
}


@pytest.fixture(params=CASES.values(), ids=list(CASES))
def odd(request, report):
    return request.param(report)


@pytest.mark.uncounted
def test_every_form_takes_it(odd, table, monkeypatch):
    monkeypatch.setattr("edge_vit.report.svg._save", lambda figure: "<svg></svg>")
    page = render_html(odd, table)
    html5lib.HTMLParser(strict=True).parse(page.replace("\x00", "").replace("\x1b", ""))
    assert "<script" not in page
    assert not re.search(r"\bnan\b|\binf\b", re.sub('base64,[^"]*', "", page))
    assert len(page.encode()) < 1_000_000
    render_junit(odd).encode()
    assert "<script" not in render_markdown(odd, table).replace("\\<script", "")
    verdict_panel(odd.verdict)


def test_what_was_written_comes_back(odd, tmp_path):
    path = tmp_path / "report.json"
    write_json(odd, path)
    if not re.search(r"\b(nan|inf)\b", repr(odd)):  # JSON has no word for them
        assert read_json(path) == odd


@pytest.mark.uncounted
def test_plots_of_odd_samples_are_drawn(report, table):
    for change in (two_images, CASES["all the same"], two_backends):
        html5lib.HTMLParser(strict=True).parse(render_html(change(report), table))


@pytest.mark.uncounted
def test_names_without_a_glyph_are_drawn_without_a_word(report, table):
    sites = {f"块{name}\x1b": scales for name, scales in table.sites.items()}
    page = render_html(report, dataclasses.replace(table, sites=sites))
    assert "块block0/qkv" in page


def test_of_many_classes_those_that_lost_most_are_shown(report):
    odd = many_classes(report)
    classes = next(
        grid
        for grid in accuracy_details(odd.accuracy, odd.verdict, odd.model)
        if grid.title.startswith("Classes")
    )
    assert len(classes.rows) == MAX_CLASSES
    assert classes.rows[0][0].endswith("999")
    assert classes.note == "970 more classes are in the JSON report."


def test_everything_that_was_measured_is_shown(report):
    text = str([grid.rows for grid in latency_details(everything(report).latency)])
    for words in ("2.00 (1.90 – 2.10)", "n/a", "preprocess", "energy per image", "0.0200", "8.0 %"):
        assert words in text


@pytest.mark.uncounted
def test_a_calibration_that_looked_at_layers_is_drawn(report, table):
    sites = {
        name: dataclasses.replace(scales, output_error=1e-4 * (i + 1), steps=("fold", "range 0.8"))
        for i, (name, scales) in enumerate(table.sites.items())
    }
    looked = dataclasses.replace(table, sites=sites)
    page = render_html(report, looked)
    html5lib.HTMLParser(strict=True).parse(page)
    for words in ("What each layer costs", "What the recipe did"):
        assert words in page
    assert "Costliest: block5/fc2" in page


def test_the_recipe_s_steps_are_named_and_counted_in_their_order(table):
    done = ("fold", "zero point", "range 0.9 (+1.2 dB)", "shift (+0.3 dB here)", "bias")
    names = list(table.sites)
    sites = {
        name: dataclasses.replace(scales, steps=done if name == names[0] else done[:2])
        for name, scales in table.sites.items()
    }
    looked = dataclasses.replace(table, sites=sites, recipe=RECIPES["balanced"])
    every, one = f"{len(sites)} of {len(sites)}", f"1 of {len(sites)}"
    assert [row[:2] for row in recipe_grid(looked).rows] == [
        ("fold", every),
        ("zero point", every),
        ("shift", one),
        ("range", one),
        ("bias", one),
    ]
