"""Heat maps over pictures: right side up, valid, with words for those who cannot see them."""

from __future__ import annotations

import base64
import io

import html5lib
import numpy as np
import pytest
from PIL import Image

from edge_vit.explain.values import AttentionMap, Explanation
from edge_vit.report.attention import attention_grid, attention_pictures
from edge_vit.report.html import render_attention
from edge_vit.tasks.prediction import ClassScore


def picture():
    buffer = io.BytesIO()
    image = np.random.default_rng(0).integers(60, 90, (32, 32, 3), np.uint8)
    Image.fromarray(image).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def rollout(row, column, size=4):
    values = np.full((size, size), 0.01)
    values[row, column] = 1 - values.sum() + 0.01
    return tuple(map(tuple, values.tolist()))


@pytest.fixture
def explanation():
    answers = (ClassScore(3, "three <b>", 0.9),)
    return Explanation(
        image="<script>alert(1)</script>.png",
        picture_png=picture(),
        reading="class token",
        reference=AttentionMap("fp32", rollout(0, 0), answers),
        candidate=AttentionMap("int8", rollout(3, 3), answers),
        correlation=0.25,
        overlap=0.0,
    )


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"), float)


def test_what_is_looked_at_is_bright(explanation):
    _, fp32, int8, difference = (pixels(p.png) for p in attention_pictures(explanation))
    corner = slice(0, 40)
    far = slice(-40, None)
    assert fp32[corner, corner].mean() > 1.5 * fp32[far, far].mean()
    assert int8[far, far].mean() > 1.5 * int8[corner, corner].mean()
    red, blue = difference[far, far].mean((0, 1)), difference[corner, corner].mean((0, 1))
    assert red[0] > red[2]
    assert blue[2] > blue[0]


def test_words_say_where(explanation):
    alts = [p.alt for p in attention_pictures(explanation)]
    assert "Attention of fp32 in" in alts[1]
    assert "most at the top left" in alts[1]
    assert "most at the bottom right" in alts[2]
    assert "correlate by 0.250" in alts[3]


def test_the_page_is_valid_and_reaches_for_nothing(explanation):
    page = render_attention([explanation, explanation], "vit")
    html5lib.HTMLParser(strict=True).parse(page)
    assert "<script" not in page
    assert page.count("<img ") == 8
    assert "three &lt;b&gt;" in page


def test_the_table_says_both_answers_and_how_alike(explanation):
    (row,) = attention_grid([explanation]).rows
    assert row[1:] == ("three <b>, 90.0 %", "three <b>, 90.0 %", "0.2500", "0 %")
