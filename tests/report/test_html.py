"""The HTML page: complete in itself, safe, readable for everybody, true to what was measured."""

from __future__ import annotations

import base64
import dataclasses
import itertools
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_vit.errors import ArtifactError, MissingDependencyError
from edge_vit.measure.results import VerifyReport
from edge_vit.report.conditions import conditions
from edge_vit.report.html import render_html, write_html
from edge_vit.spec import ClipSpec

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Outline(HTMLParser):
    """Elements, their attributes and texts; notes every tag that is not closed in its turn."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open, self.errors = [], []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()
        self.errors += [f"<{tag}> is never closed" for tag in self.open]

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.errors.append(f"</{tag}> closes nothing")

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def page(report, table) -> str:
    return render_html(report, table)


@pytest.fixture(scope="module")
def any_page(any_report) -> str:
    with pytest.MonkeyPatch.context() as patch:
        skip_saving(patch)
        return render_html(any_report)


@pytest.fixture
def quick_plots(monkeypatch):
    """Plots are painted but not saved, which is what takes the time."""
    skip_saving(monkeypatch)


def skip_saving(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("edge_vit.report.svg._save", lambda figure: "<svg></svg>")


def test_every_tag_is_closed_in_its_turn(any_page):
    assert Outline(any_page).errors == []


def test_says_the_verdict_and_every_gate_in_words(any_page, any_report):
    text = Outline(any_page).text
    assert any_report.verdict.sentence in text
    assert f"recommended: {any_report.verdict.recommended}" in text
    for gate in any_report.verdict.gates:
        assert gate.sentence in text


def test_colours_the_verdict_by_its_outcome(any_page, any_report):
    verdict = next(a for a in Outline(any_page).all("section") if a.get("id") == "verdict")
    assert verdict["class"] == f"verdict {any_report.verdict.outcome}"


def test_reaches_for_nothing_outside_itself(page):
    outline = Outline(page)
    without_pictures = re.sub(r"data:image/png;base64,[^\"]+", "", page)
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", without_pictures)
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in outline.elements}
    for tag, attributes in outline.elements:
        for name in ("src", "href", "xlink:href", "srcset", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:image/png;base64,")), (tag, name)
        assert not [name for name in attributes if name.startswith(("on", "xmlns"))]


def test_every_inner_link_and_clip_path_has_exactly_one_target(page):
    ids = [a["id"] for _, a in Outline(page).elements if "id" in a]
    assert len(ids) == len(set(ids))
    referred = set(re.findall(r'(?:href="#|url\(#|aria-labelledby=")([^")]+)', page))
    assert referred <= set(ids)


def test_shows_the_worst_images_with_both_answers_and_the_truth(page, report):
    outline = Outline(page)
    images = {a["src"]: a["alt"] for a in outline.all("img")}
    for worst in report.accuracy[-1].worst:
        alt = images[f"data:image/png;base64,{worst.thumbnail_png}"]
        assert worst.image in alt
        assert f"true label {worst.label}" in alt
        assert f"fp32 answers {worst.reference[0].label}" in alt
        assert f"int8 answers {worst.candidate[0].label}" in alt
        assert worst.image in outline.text


def test_the_candidates_pictures_come_first_and_all_of_them(page, report):
    assert len(Outline(page).all("img")) == 12 + 3
    assert page.index(report.accuracy[-1].worst[11].image) < page.rindex(">fp16</span> against")


def test_keeps_pictures_of_other_precisions_few_and_says_how_many_are_left_out(report, quick_plots):
    other = dataclasses.replace(report.accuracy[1], worst=report.accuracy[-1].worst)
    page = render_html(dataclasses.replace(report, accuracy=(other, report.accuracy[-1])))
    assert len(Outline(page).all("img")) == 12 + 6
    assert "6 more are in the JSON report" in Outline(page).text


def test_strips_of_clips_take_the_width_of_their_cards(report, page, quick_plots):
    preprocess = dataclasses.replace(report.model.preprocess, clip=ClipSpec(8))
    model = dataclasses.replace(report.model, preprocess=preprocess)
    clips = render_html(dataclasses.replace(report, model=model))
    assert re.search(r'<ul class="pictures wide', clips)
    assert not re.search(r'<ul class="pictures wide', page)


def test_every_plot_has_words_for_those_who_cannot_see_it_and_a_table(page):
    outline = Outline(page)
    plots = outline.all("svg")
    assert len(plots) == 4
    assert all(plot["role"] == "img" and len(plot["aria-label"]) > 30 for plot in plots)
    assert "fp32 2.41 ms" in "".join(plot["aria-label"] for plot in plots)
    assert page.count("The same as a table</summary>") == 4


def test_headings_step_down_one_level_at_a_time(any_page):
    levels = [int(tag[1]) for tag, _ in Outline(any_page).elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))


def test_holds_every_condition(page, report, table):
    text = Outline(page).text
    conditions = [
        *(report.bundle, report.bundle_digest, report.environment.device, report.notes[0]),
        *(report.accuracy[0].data, report.accuracy[0].data_digest, "onnxruntime", "1.23.2"),
        "batch 1, 2 threads, 20 warm-up and 600 timed runs, in turns with fp32 and fp16",
        f"{table.num_images} images",
    ]
    for condition in conditions:
        assert condition in text


def test_notes_with_a_digest_break_on_a_phone(page, report):
    notes = page[page.index('id="notes"') :]
    assert notes.count('<li class="long">') == len(report.notes) > 0
    assert ".long { overflow-wrap: anywhere; }" in page


def test_says_what_a_board_is_and_how_it_is_set(report, table):
    board = dataclasses.replace(
        report.environment, gpu="tegra234 GPU", power_mode="25W (1)", clocks_locked=False
    )
    text = str(conditions(dataclasses.replace(report, environment=board), table)[2].rows)
    assert "('GPU', 'tegra234 GPU')" in text
    assert "('power mode', '25W (1)'), ('clocks locked', 'no')" in text
    assert "driver" not in text  # not known here


def test_shows_where_the_precision_went_and_why(page, table):
    text = Outline(page).text
    assert "24 linear layers: 23 int8 (by default) and 1 fp16 (crest 92" in text
    assert all(name in text for name in table.sites)


def test_compares_nothing_with_itself(page, report):
    assert [a.precision for a in report.accuracy] == ["fp32", "fp16", "int8"]
    text = Outline(page).text
    assert "same answer as fp32 99.60 %" in text
    assert text.count("same answer as fp32 100.00 %") == 1  # fp16


def test_says_so_when_there_is_no_calibration_table(any_page):
    assert "without a calibration table" in Outline(any_page).text


def test_does_not_speak_of_top1_without_labels(report, quick_plots):
    page = render_html(make_unlabelled(report))
    rows = Outline(page).texts
    assert "top-1" not in rows
    assert "drops by at most the share of other answers" in Outline(page).text


def make_unlabelled(report: VerifyReport) -> VerifyReport:
    fields = ("top1", "top5", "reference_top1", "reference_top5")
    accuracy = tuple(
        dataclasses.replace(a, num_labelled=0, **dict.fromkeys(fields)) for a in report.accuracy
    )
    return dataclasses.replace(report, accuracy=accuracy)


EVIL = '<script>alert("$x$")</script>\'"&'


def test_names_from_outside_stay_text(report, table, quick_plots):
    int8 = report.accuracy[-1]
    answer = dataclasses.replace(int8.worst[0].candidate[0], label=EVIL)
    worst = dataclasses.replace(int8.worst[0], image=EVIL, label=EVIL, candidate=(answer,))
    evil = dataclasses.replace(
        report,
        bundle=EVIL,
        notes=(EVIL,),
        model=dataclasses.replace(report.model, name=EVIL),
        accuracy=(dataclasses.replace(int8, data=EVIL, worst=(worst,)),),
    )
    sites = {f"{EVIL}/{EVIL}": next(iter(table.sites.values())), **table.sites}
    page = render_html(evil, dataclasses.replace(table, sites=sites))
    outline = Outline(page)
    assert outline.errors == []
    assert not outline.all("script")
    assert EVIL in outline.all("img")[0]["alt"]
    assert outline.text.count(EVIL) >= 6


def test_stays_well_under_two_megabytes_with_the_largest_pictures(
    report, page, quick_plots, tmp_path
):
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    png = base64.b64encode((tmp_path / "noise.png").read_bytes()).decode()
    worst = tuple(dataclasses.replace(w, thumbnail_png=png) for w in report.accuracy[-1].worst)
    accuracy = tuple(dataclasses.replace(a, worst=worst) for a in report.accuracy)
    largest = render_html(dataclasses.replace(report, accuracy=accuracy))
    plots = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    assert len(largest.encode()) + len(plots.encode()) < 1_900_000


def test_a_report_without_gates_or_accuracy_still_has_its_page(report, quick_plots):
    verdict = dataclasses.replace(report.verdict, gates=())
    bare = dataclasses.replace(report, verdict=verdict, accuracy=())
    outline = Outline(render_html(bare))
    assert outline.errors == []
    assert not outline.all("img")


def test_text_is_legible_on_its_background_by_day_and_by_night(page):
    day, night = (
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))
        for block in re.findall(r":root \{(.*?)\}", page, re.DOTALL)
    )
    precisions = ("ink", "muted", "fp32", "fp16", "int8", "fail")
    pairs = [(text, back) for text in precisions for back in ("page", "card")]
    pairs += [(tone, f"{tone}-wash") for tone in ("pass", "fail", "undecided")]
    pairs += [(tone, back) for tone in ("pass", "undecided") for back in ("page", "card")]
    pairs += [(text, f"{o}-wash") for text in precisions[:-1] for o in ("pass", "undecided")]
    for colours in (day, night):
        for text, back in pairs:
            assert contrast(colours[text], colours[back]) >= 4.5, (text, back)


def contrast(first: str, second: str) -> float:
    """The contrast ratio of WCAG 2.2."""

    def luminance(colour: str) -> float:
        channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        bright = ((channels + 0.055) / 1.055) ** 2.4
        linear = np.where(channels <= 0.04045, channels / 12.92, bright)
        return float(linear @ (0.2126, 0.7152, 0.0722))

    dark, light = sorted((luminance(first), luminance(second)))
    return (light + 0.05) / (dark + 0.05)


def test_names_the_extra_that_is_missing(report, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingDependencyError, match=r"HTML report.*edge-vit\[report\]"):
        render_html(report)


def test_writes_the_file(report, tmp_path, monkeypatch):
    monkeypatch.setattr("edge_vit.report.html.render_html", lambda *values: "<p>µ</p>")
    write_html(report, tmp_path / "new" / "report.html")
    assert (tmp_path / "new" / "report.html").read_text(encoding="utf-8") == "<p>µ</p>"


def test_refuses_a_place_that_cannot_be_written(report, monkeypatch):
    monkeypatch.setattr("edge_vit.report.html.render_html", lambda *values: "")
    with pytest.raises(ArtifactError, match="cannot write"):
        write_html(report, Path("/proc/report.html"))
