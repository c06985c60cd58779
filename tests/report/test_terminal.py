"""Terminal tables hold the numbers, at any width, and read no name as markup."""

from __future__ import annotations

import dataclasses
import io

import pytest
from graph_files import FP32
from rich.console import Console

from edge_vit.bundle import TABLE, Bundle, digest_of, draft_bundle
from edge_vit.report.grids import accuracy_grid, latency_grid
from edge_vit.report.sites import precision_summary, sites_in_order
from edge_vit.report.terminal import (
    grid_table,
    inspect_tables,
    predictions_table,
    verdict_panel,
)
from edge_vit.tasks import task_named
from edge_vit.tasks.prediction import ClassPrediction, ClassScore, FeaturesPrediction


def printed(renderable, width: int = 80, colour: bool = False) -> str:
    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=colour,
        color_system="standard" if colour else None,
    )
    console.print(renderable)
    return console.file.getvalue()


def words(renderable, width: int = 80) -> str:
    return " ".join(printed(renderable, width).split())


def test_accuracy_table_holds_the_reference_and_every_precision(report):
    text = words(grid_table(accuracy_grid(report.accuracy)))
    for expected in (
        *("fp32 ort fp16 ort int8 ort", "top-1 98.20 % 98.20 % 98.10 %"),
        *("same answer reference 100.00 % 99.60 %", "99.62 – 100.00 98.98 – 99.84"),
        *("SQNR (dB) – 71.3 34.8", "lost – 0 2", "gained – 0 1", "1000 images of digits/test"),
    ):
        assert expected in text


def test_accuracy_table_without_labels_says_what_is_still_known(report):
    none = dict.fromkeys(("top1", "top5", "reference_top1", "reference_top5"))
    accuracy = [dataclasses.replace(a, num_labelled=0, **none) for a in report.accuracy]
    text = words(grid_table(accuracy_grid(accuracy)))
    assert "top-5" not in text
    assert "lost" not in text
    assert "drops by at most the share of other answers" in text


def test_accuracy_table_warns_of_images_that_were_calibrated_on(report):
    accuracy = [dataclasses.replace(a, num_calibrated_on=7) for a in report.accuracy]
    assert "7 images also served for calibration" in words(grid_table(accuracy_grid(accuracy)))


def test_outputs_that_are_equal_to_the_last_bit_are_called_equal(report):
    accuracy = [dataclasses.replace(report.accuracy[-1], sqnr_db=None)]
    assert "SQNR (dB) – equal" in words(grid_table(accuracy_grid(accuracy)))


def test_latency_table_holds_percentiles_speedup_and_conditions(report):
    text = words(grid_table(latency_grid(report.latency)))
    for expected in (
        *("p50 (ms) 2.41 2.52 1.40", "speed-up over fp32 1.00× 0.95× 1.71×"),
        *(
            "Batch 1, 2 threads",
            "600 timed runs after 20 of warm-up",
            "in turns with fp16 and int8",
        ),
        report.environment.device,
    ):
        assert expected in text


def test_latency_of_one_precision_alone_claims_no_speedup(report):
    alone = dataclasses.replace(report.latency[2], interleaved_with=())
    text = words(grid_table(latency_grid([alone])))
    assert "×" not in text
    assert "alone" in text


def test_verdict_panel_holds_the_recommendation_and_each_gates_sentence(any_report):
    verdict = any_report.verdict
    text = words(verdict_panel(verdict), width=400)
    assert verdict.sentence in text
    assert f"recommended: {verdict.recommended}" in text
    for gate in verdict.gates:
        assert f"{gate.outcome} {gate.precision} {gate.name} {gate.sentence}" in text


@pytest.mark.parametrize(("outcome", "code"), [("pass", 32), ("fail", 31), ("undecided", 33)])
def test_verdict_panel_has_the_colour_of_its_outcome(report, outcome, code):
    verdict = dataclasses.replace(report.verdict, outcome=outcome)
    assert printed(verdict_panel(verdict), colour=True).startswith(f"\x1b[{code}m")


def test_predictions_come_best_first_and_names_are_no_markup():
    answers = (ClassScore(3, "[red]three", 0.8123), ClassScore(8, "eight", 0.1))
    text = words(
        predictions_table([ClassPrediction("[/b]a.png", answers)], task_named("classification"))
    )
    assert "[/b]a.png [red]three 3 81.23 % eight 8 10.00 %" in text


def test_predictions_of_features_say_how_many_there_are():
    text = words(
        predictions_table([FeaturesPrediction("a.png", (0.5, 1.5, 2.5))], task_named("features"))
    )
    assert "a.png 3 features" in text


@pytest.fixture
def bundle(report, table, tmp_path) -> Bundle:
    with draft_bundle(tmp_path / "digits.edgevit", report.model) as draft:
        draft = draft.add({FP32: b"graph"}, made_by={"torch": "2.14.1"})
        table = dataclasses.replace(table, model_digest=digest_of(b"graph"))
        draft.add({TABLE: table.to_bytes()}, parents=(FP32,))
    return Bundle.open(tmp_path / "digits.edgevit")


def test_inspect_shows_the_model_its_files_and_each_layer(bundle, table):
    text = words(inspect_tables(bundle), width=120)
    for expected in (
        *("digits_vit", "edgevit:vit_digits", "bicubic", "images: uint8 (batch, 32, 32, 3)"),
        *(FP32, "torch 2.14.1", "5 B", digest_of(b"graph")[:12]),
        "24 linear layers: 23 int8 (by default) and 1 fp16 (crest 92",
        "Recipe minmax, calibrated on 256 images.",
    ):
        assert expected in text
    assert "channels stay" not in text
    for name, site in table.sites.items():
        assert f"{name} {site.precision} {site.reason} {site.activation_amax:#.3g}" in text


def test_layers_with_channels_in_floating_point_are_counted(table):
    sites = {n: dataclasses.replace(s, kept_channels=(3, 5)) for n, s in table.sites.items()}
    kept = {n: s if n.endswith("fc2") else table.sites[n] for n, s in sites.items()}
    text = precision_summary(sites_in_order(dataclasses.replace(table, sites=kept)))
    assert text.endswith("; in 6 of them some channels stay in floating point")


def test_inspect_of_a_long_model_has_one_row_per_block(bundle, table):
    site = table.sites["block0/qkv"]
    kept = dataclasses.replace(site, precision="fp16", reason="sensitive", activation_amax=321.0)
    sites = {f"block{i}/{kind}": site for i in range(12) for kind in ("qkv", "proj", "fc1", "fc2")}
    sites["block10/fc2"] = kept
    long = dataclasses.replace(table, sites=sites, model_digest=digest_of(b"graph"))
    text = words(inspect_tables(bundle.add({TABLE: long.to_bytes()})), width=120)
    assert "block2 4 of 4" in text
    assert "block10 3 of 4 fc2: sensitive 321" in text
    assert text.index("block2 ") < text.index("block10 ")
    assert "block0/qkv" not in text


def test_inspect_without_a_table_says_how_to_make_one(report, tmp_path):
    with draft_bundle(tmp_path / "digits.edgevit", report.model) as draft:
        draft.add({FP32: b"graph"})
    text = words(inspect_tables(Bundle.open(tmp_path / "digits.edgevit")), width=200)
    assert f"Run: edgevit calibrate {tmp_path / 'digits.edgevit'} --calib DIR" in text
