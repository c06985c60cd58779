"""What the output accepts of what a layer's rows propose."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from layers import gram_of, layer_of

from edge_vit.calibration.layer import plan_minmax
from edge_vit.calibration.layer_rows import LayerRows
from edge_vit.calibration.layer_search import Search, is_better
from edge_vit.calibration.output_error import OutputError
from edge_vit.calibration.rounding import Compensator
from edge_vit.calibration.steps import narrowest_useful
from edge_vit.calibration.token_weights import LEAST, first_token_weights
from edge_vit.spec.table import Recipe

RECIPE = Recipe("own", steps=("range",), search_tokens=100)
NUM_IMAGES, NUM_TOKENS = 4, 500


class Readout:
    """A model whose output is what one layer makes of some tokens of each image."""

    def __init__(self, rows, weight, tokens):
        outputs = (rows @ weight).reshape(NUM_IMAGES, NUM_TOKENS, -1)[:, tokens]
        self._signal = np.square(outputs).sum(axis=(1, 2))[:, None]
        self._tokens, self.inputs = tokens, {"block0/fc1": rows}

    def num_tokens(self, site):
        return NUM_TOKENS

    def error_of(self, site, error, num_images=None, most=np.inf):
        parts = error.reshape(NUM_IMAGES, NUM_TOKENS, -1)[:, self._tokens]
        noise = np.square(parts, dtype=np.float64).sum(axis=(1, 2))[:, None]
        return OutputError(noise[:num_images], self._signal[:num_images])


def search(rows, weight, tokens, recipe=RECIPE, outliers=()):
    layer = layer_of(rows, weight, is_foldable=False, is_shiftable=False, outliers=outliers)
    if recipe.is_compensated:
        gram, width = gram_of(rows), np.ones(rows.shape[1])
        compensator = Compensator.of(gram, width, is_centered=layer.has_bias)
        layer = dataclasses.replace(layer, compensator=compensator, mean=gram.mean)
    own = LayerRows(layer, rows)
    return layer, Search(own, own, Readout(rows, weight, tokens), recipe).run().plan


@pytest.fixture
def rows():
    random = np.random.default_rng(0)
    return random.normal(size=(NUM_IMAGES * NUM_TOKENS, 32)).clip(-3, 3).astype(np.float32)


@pytest.fixture
def weight():
    return np.random.default_rng(1).normal(0, 0.1, (32, 16)).astype(np.float32)


def test_one_huge_value_that_the_output_reads_keeps_its_range(rows, weight):
    rows[::NUM_TOKENS, 0] = 30.0
    layer, plan = search(rows, weight, tokens=slice(0, 1))
    assert plan.high >= plan_minmax(layer).high


def test_rows_that_gain_on_average_do_not_outvote_the_output(rows, weight):
    rows[0, 0] = 60.0  # one value of 2,000 rows, in the token that is read
    layer, plan = search(rows, weight, tokens=slice(0, 1))
    whole = plan_minmax(layer)
    assert narrowest_useful(LayerRows(layer, rows), whole) < 0.8
    assert plan.high >= whole.high


@pytest.mark.parametrize("is_compensated", [False, True])
def test_a_huge_pair_that_cancels_gives_its_range_away(rows, weight, is_compensated):
    pair = np.repeat(60 + rows[:, :1], 2, axis=1)
    row = np.random.default_rng(2).normal(0, 0.1, (1, 16)).astype(np.float32)
    wide = np.concatenate([rows, pair], axis=1)
    pairs = np.concatenate([weight, row, -row])
    recipe = dataclasses.replace(RECIPE, is_compensated=is_compensated)
    layer, plan = search(wide, pairs, slice(None), recipe)
    assert plan.high < 0.2 * plan_minmax(layer).high
    assert plan.steps[-1].startswith("range")


@pytest.mark.parametrize("size", [1.0, 30.0])
def test_a_channel_that_takes_the_range_of_the_others_stays_in_floating_point(rows, weight, size):
    rows[:, 0] *= size
    _, plan = search(rows, weight, slice(None), outliers=(0,))
    assert plan.kept == ((0,) if size > 1 else ())


@pytest.mark.parametrize(("reach", "wider"), [(2.9, 1.0), (3.7, 1.25), (4.4, 1.5)])
def test_beside_kept_channels_an_image_that_leaves_the_range_widens_it(rows, weight, reach, wider):
    rows[:, 0] *= 30
    layer = layer_of(rows, weight, is_foldable=False, is_shiftable=False, outliers=(0,))
    others = rows.copy()
    others[:NUM_TOKENS, 1:9] = reach
    own, judge = LayerRows(layer, rows), LayerRows(layer, others)
    plan = Search(own, judge, Readout(others, weight, slice(None)), RECIPE).run().plan
    assert plan.kept == (0,)
    assert plan.high == pytest.approx(3 * wider)
    assert (f"range {wider:g}" in plan.steps) is (wider > 1)


def test_channels_are_not_kept_where_the_output_hardly_knows_the_layer(rows, weight):
    rows[:, 0] *= 30
    asked = list[float]()

    class Faint(Readout):
        def error_of(self, site, error, num_images=None, most=np.inf):
            found = super().error_of(site, error, num_images)
            asked.append(found.mean)
            return OutputError(found.noise * 1e-6, found.signal)

    layer = layer_of(rows, weight, is_foldable=False, is_shiftable=False, outliers=(0,))
    own, recipe = LayerRows(layer, rows), dataclasses.replace(RECIPE, steps=())
    result = Search(own, own, Faint(rows, weight, slice(None)), recipe).run()
    assert result.plan.kept == () and len(asked) == 1


@pytest.mark.parametrize(
    ("new", "accepted"),
    [
        pytest.param((0.5, 0.5), True, id="better everywhere"),
        pytest.param((0.1, 1.2), False, id="better on average, worst image worse"),
        pytest.param((0.99, 0.99), False, id="hardly better"),
    ],
)
def test_the_worst_image_has_its_say(new, accepted):
    ones = np.ones((2, 1))
    old = OutputError(ones, ones)
    assert is_better(OutputError(np.array(new)[:, None], ones), old) is accepted


@pytest.mark.parametrize(
    ("tokens", "first", "other"),
    [
        pytest.param(slice(0, 1), 1.0, LEAST, id="class token"),
        pytest.param(slice(1, None), LEAST, 1.0, id="all but the first"),
        pytest.param(slice(None), 1.0, 1.0, id="all alike"),
    ],
)
def test_tokens_weigh_what_the_output_makes_of_them(rows, weight, tokens, first, other):
    layer = dataclasses.replace(layer_of(rows, weight), name="block0/fc1")
    found = first_token_weights([(layer, plan_minmax(layer))], Readout(rows, weight, tokens))
    weights = found["block0/fc1"]
    assert weights.first == pytest.approx(first, rel=0.5)
    assert weights.other == pytest.approx(other, rel=0.5)
    counts = weights.of_rows(len(rows))
    assert (counts[::NUM_TOKENS] == np.float32(weights.first)).all()
    assert (counts == np.float32(weights.first)).sum() in (NUM_IMAGES, len(rows))
