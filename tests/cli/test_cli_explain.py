"""Where fp32 and INT8 look, at the command line."""

from __future__ import annotations

import json

import pytest


@pytest.fixture(scope="module")
def image(held_out):
    return sorted(held_out.glob("3/*.png"))[0]


@pytest.mark.parametrize("suffix", ["html", "json"])
def test_draws_the_maps_where_it_was_told(edgevit, shared_bundle, image, tmp_path, suffix):
    out = tmp_path / f"out.{suffix}"
    result = edgevit("explain", shared_bundle.path, image, "-o", out)
    assert result.exit_code == 0
    assert "class token" in result.stdout
    assert f"Written: {out}" in result.stderr
    assert "int8" in out.read_text()


def test_json_has_maps_and_their_likeness(edgevit, shared_bundle, held_out):
    result = edgevit("explain", shared_bundle.path, held_out / "3", "--json", "--precision", "fp16")
    found = json.loads(result.stdout)
    assert len(found) == len(list((held_out / "3").glob("*.png")))
    for one in found:
        assert one["candidate"]["precision"] == "fp16"
        assert len(one["reference"]["rollout"]) == len(one["candidate"]["rollout"]) == 4
        assert one["correlation"] > 0.99


@pytest.mark.parametrize(
    ("arguments", "words", "status"),
    [
        (["-o", "x.pdf"], "expected a name that ends in .html or .json", 2),
        (["--precision", "fp32"], "what the others are held against: take fp16 or int8", 1),
    ],
)
def test_refuses_in_one_line(refused, shared_bundle, image, arguments, words, status):
    assert words in refused("explain", shared_bundle.path, image, *arguments, status=status)


def test_names_an_image_that_cannot_be_read(refused, shared_bundle, tmp_path):
    (tmp_path / "bad.png").write_text("no")
    assert "bad.png" in refused("explain", shared_bundle.path, tmp_path / "bad.png")
