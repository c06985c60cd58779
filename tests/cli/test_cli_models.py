"""The table of models: what ships, what the page and the command show is the committed evidence."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from pathlib import Path

import pytest

from edge_vit.report.models import (
    ModelEvidence,
    OutputQuality,
    find_models,
    models_grid,
    read_models,
)
from edge_vit.values import from_json, to_json

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "results" / "models").glob("*.json"))
EVIDENCE = [from_json(ModelEvidence, json.loads(p.read_text()), p.name) for p in FILES]


@pytest.fixture(scope="module")
def benchmark():
    """Return benchmarks/models.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module("models")
    for name in ("models", "model_rows", "model_makers", "model_decoding", "real_models", "saving"):
        sys.modules.pop(name, None)


def test_what_ships_is_the_committed_evidence():
    shipped = {model.name: to_json(model) for model in read_models()}
    assert shipped == {model.name: to_json(model) for model in EVIDENCE}


def test_the_page_has_a_row_for_each_model():
    page = (ROOT / "docs" / "models.md").read_text()
    for model, row in zip(EVIDENCE, models_grid(EVIDENCE).rows, strict=True):
        assert f"| {' | '.join((model.family, *row))} |" in page


# A query that is another, as chosen by score, is all error
CHOSEN_BY_SCORE = ("detection", "instance_segmentation")
# Whole models, nearly all of whose layers are INT8: docs/models.md has why they are lowest
LOWEST = ("timm:caformer_s18", "hf:MobileViTForSemanticSegmentation")


def figure(quality):
    """Return the SQNR of the image in the middle, of older evidence that of all."""
    return quality.sqnr_db if quality.median_db is None else quality.median_db


@pytest.mark.parametrize("model", EVIDENCE, ids=lambda model: model.name)
def test_evidence_holds_what_the_table_claims(model):
    assert model.parity_error < 1e-4
    assert 0 <= model.quantized_layers <= model.linear_layers
    assert set(model.engines) == ({"fp16", "int8"} if model.quantized_layers else {"fp16"})
    least = 5 if model.task in CHOSEN_BY_SCORE else 15 if model.name in LOWEST else 20
    fp16 = model.quality["fp16 ort"]
    assert figure(fp16) > 40
    for key in ("int8 ort", "int8 openvino") if model.quantized_layers else ():
        quality = model.quality[key]
        assert figure(quality) > least
        assert quality.sqnr_db < fp16.sqnr_db, "INT8 layers hardly reach the output"
    if model.decoding_error is not None:
        assert model.decoded_by


def test_an_image_that_is_far_worse_is_not_the_whole_figure():
    (model,) = [model for model in EVIDENCE if model.name == "hf:ViTForImageClassification"]
    for median, shown in ((None, "21.6"), (24.0, "21.6"), (57.1, "21.6 (57.1)")):
        quality = {"fp16 ort": OutputQuality(21.6, 11.0, median)}
        grid = models_grid([dataclasses.replace(model, quality=quality)])
        assert dict(zip(grid.columns, grid.rows[0], strict=True))["FP16 dB"] == shown
        assert "No engine was run on any GPU" in grid.note


def test_models_are_found_by_words_and_task():
    names = [model.name for model in find_models(EVIDENCE, ["DINO", "timm"], "")]
    assert names
    assert all("timm:" in name and "dino" in name for name in names)
    found = find_models(EVIDENCE, [], "features")
    assert {model.task for model in found} == {"features"}


def test_the_command_lists_filters_and_refuses(edgevit, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    listed = json.loads(edgevit("models", "--json").stdout)
    assert len(listed) == len(EVIDENCE)
    assert {"name", "task", "parity_error", "engines", "quality"} <= listed[0].keys()
    one = edgevit("models", "deit3")
    assert "timm:deit3_small_patch16_224 " in one.stdout  # whole on a narrow terminal too
    assert "xcit" not in one.stdout
    assert edgevit("models", "nothing-like-it").exit_code == 1
    refused = edgevit("models", "--task", "cooking")
    assert refused.exit_code == 1
    assert "classification" in refused.stderr


def test_each_model_has_one_row_that_makes_it(benchmark):
    names = [row.name for row in benchmark.ROWS]
    assert len(set(names)) == len(names)
    assert {model.name for model in EVIDENCE} <= set(names)


@pytest.mark.full
@pytest.mark.parametrize("model", EVIDENCE, ids=lambda model: model.name)
def test_the_evidence_is_made_again(model, benchmark, tmp_path):
    (row,) = [row for row in benchmark.ROWS if row.name == model.name]
    again = benchmark.measure(row, tmp_path)
    assert again.parity_error < 1e-4
    assert (again.blocks, again.linear_layers) == (model.blocks, model.linear_layers)
    assert again.quantized_layers == model.quantized_layers
    for key, quality in model.quality.items():
        if not (key == "int8 openvino" and model.task == "detection"):  # bfloat16 chooses others
            name = "sqnr_db" if quality.median_db is None else "median_db"
            found = getattr(again.quality[key], name)
            assert found == pytest.approx(getattr(quality, name), abs=3)
    for precision, engine in model.engines.items():
        assert bool(again.engines[precision].refused) == bool(engine.refused)
