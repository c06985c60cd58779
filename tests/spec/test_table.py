from __future__ import annotations

import dataclasses
import json
import math

import pytest

from edge_vit.errors import ArtifactError, SpecError
from edge_vit.spec.table import (
    MIN_SCALE,
    RECIPES,
    CalibrationTable,
    Recipe,
    SiteScales,
    find_recipe,
    sqnr_of,
)

SITE = SiteScales(
    precision="int8",
    reason="default",
    activation_scale=0.03125,
    weight_scales=(0.001, 0.002, 0.0005),
    activation_amax=3.96875,
    activation_crest=7.5,
)
TABLE = CalibrationTable(
    recipe=Recipe("percentile", "percentile", 99.9),
    model_digest="ab" * 32,
    sites={
        "block0/qkv": SITE,
        "block0/proj": dataclasses.replace(SITE, precision="fp16", reason="crest 80"),
    },
    image_digests=("0" * 64, "1" * 64),
)


def edited(**changes) -> bytes:
    return json.dumps({**json.loads(TABLE.to_bytes()), **changes}).encode()


def test_table_survives_write_and_read():
    assert CalibrationTable.from_bytes(TABLE.to_bytes()) == TABLE
    assert CalibrationTable.from_bytes(TABLE.to_bytes()).to_bytes() == TABLE.to_bytes()


def test_file_is_json_text_that_ends_in_a_line():
    text = TABLE.to_bytes().decode()
    assert text.endswith("}\n")
    assert json.loads(text)["sites"]["block0/proj"]["precision"] == "fp16"


def test_scales_keep_every_bit():
    scale = 0.1 + 2**-50
    table = dataclasses.replace(
        TABLE, sites={"s": dataclasses.replace(SITE, activation_scale=scale)}
    )
    assert CalibrationTable.from_bytes(table.to_bytes()).sites["s"].activation_scale == scale


def test_num_images_counts_the_digests():
    assert TABLE.num_images == 2


DAMAGED = {
    "truncated": TABLE.to_bytes()[:-20],
    "empty": b"",
    "not_text": b"\xff\xfe\x00",
    "a_list": b"[]",
    "a_number": b"7",
    "missing_field": json.dumps({"format": 1}).encode(),
    "unknown_field": edited(extra=1),
    "sites_a_list": edited(sites=[]),
    "scale_nan": TABLE.to_bytes().replace(b"0.03125", b"NaN"),
    "scale_zero": TABLE.to_bytes().replace(b"0.03125", b"0.0"),
    "scale_negative": TABLE.to_bytes().replace(b"0.0005", b"-0.0005"),
    "scale_infinite": TABLE.to_bytes().replace(b"0.03125", b"1e400"),
    "precision": TABLE.to_bytes().replace(b'"fp16"', b'"int4"'),
    "percentile": TABLE.to_bytes().replace(b"99.9", b"999"),
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_refuses_damaged_table_in_one_line(data):
    assert data != TABLE.to_bytes()
    with pytest.raises(
        ArtifactError, match=r"^cats/calibration\.json is not a calibration table: "
    ) as e:
        CalibrationTable.from_bytes(data, "cats/calibration.json")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("version", [0, 9, None, "1"])
def test_refuses_other_format_and_says_what_to_type(version):
    message = (
        rf"calibration\.json: format {version}, this edge-vit reads 1 to 8\. Run: edgevit calibrate"
    )
    with pytest.raises(ArtifactError, match=message):
        CalibrationTable.from_bytes(edited(format=version))


@pytest.mark.parametrize("scale", [0.0, -0.1, math.nan, math.inf, MIN_SCALE / 2])
@pytest.mark.parametrize("place", ["activation", "weight"])
def test_refuses_scales_that_float16_cannot_hold(scale, place):
    change = (
        {"activation_scale": scale} if place == "activation" else {"weight_scales": (1.0, scale)}
    )
    with pytest.raises(SpecError, match=f"scale: got {scale}, expected a finite number"):
        dataclasses.replace(SITE, **change)


def test_smallest_scale_is_allowed():
    assert dataclasses.replace(SITE, activation_scale=MIN_SCALE).activation_scale == MIN_SCALE


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_found_by_its_own_name(name):
    assert find_recipe(find_recipe(name)) == find_recipe(name) == RECIPES[name]


def test_unknown_recipe_lists_those_there_are():
    with pytest.raises(
        SpecError,
        match="recipe 'entropy' is unknown, expected one of fast, balanced, best, scaled, symm",
    ):
        find_recipe("entropy")


@pytest.mark.parametrize("percentile", [50.0, 100.1, -1.0, math.nan])
def test_refuses_impossible_percentile(percentile):
    with pytest.raises(SpecError, match=f"percentile is {percentile}, expected above 50"):
        Recipe("x", "percentile", percentile)


@pytest.mark.parametrize("divisor", [0.0, -1.0, float("nan"), float("inf")])
def test_refuses_a_divisor_that_would_ruin_the_weights(divisor):
    with pytest.raises(SpecError, match=r"divisor: got .*, expected a finite number above 0"):
        SiteScales("int8", "", 0.1, (0.1,), 1.0, 1.0, divisors=(1.0, divisor))


def test_sqnr_of_no_error_is_a_number():
    assert sqnr_of(0.0) == 200.0
    assert sqnr_of(1e-3) == pytest.approx(30.0)


def test_forecasts_the_sum_of_the_layers_in_int8():
    sites = {str(index): dataclasses.replace(SITE, output_error=5e-4) for index in range(2)}
    sites["2"] = dataclasses.replace(SITE, precision="fp16", output_error=1.0)
    table = dataclasses.replace(TABLE, sites=sites, image_digests=tuple("abcdefgh"))
    assert table.sqnr == pytest.approx(30.0)
    assert dataclasses.replace(table, image_digests=tuple("abcdefgg")).sqnr is None
    assert dataclasses.replace(TABLE, sites={"0": SITE}).sqnr is None
