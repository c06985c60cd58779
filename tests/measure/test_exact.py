import math
import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_vit.measure.exact import add_digest, add_totals, digest_of_total, exact_sum, quotient

finite = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(finite, min_size=1))
def test_sums_are_those_of_fractions(values):
    assert exact_sum(values) == sum(map(Fraction, values)) * 2**1074


@given(st.lists(st.floats(-1e100, 1e100), min_size=1, max_size=20), st.randoms())
def test_quotient_is_the_mean_rounded_once_whatever_the_order(values, order: random.Random):
    mean = quotient(exact_sum(values), len(values))
    order.shuffle(values)
    assert quotient(exact_sum(values), len(values)) == mean
    assert mean == float(sum(map(Fraction, values)) / len(values))


def test_what_floats_lose_is_kept():
    assert quotient(exact_sum([1e16, 1.0, -1e16])) == 1.0 != (1e16 + 1.0) - 1e16
    assert quotient(exact_sum([5e-324])) == 5e-324
    assert quotient(exact_sum([math.pi] * 3)) == math.fsum([math.pi] * 3)


def test_images_have_the_same_digest_in_any_order_and_parts():
    first, second = add_digest(add_digest(0, "aa"), "bb"), add_digest(0, "cc")
    whole = add_digest(add_digest(add_digest(0, "cc"), "bb"), "aa")
    assert add_totals(first, second) == whole
    assert digest_of_total(whole, 3) == digest_of_total(add_totals(second, first), 3)


@pytest.mark.parametrize("other", [["aa"], ["aa", "aa", "bb"], ["aa", "bc"], ["aabb"], []])
def test_other_images_have_another_digest(other):
    total, changed = add_digest(add_digest(0, "aa"), "bb"), 0
    for digest in other:
        changed = add_digest(changed, digest)
    assert digest_of_total(changed, len(other)) != digest_of_total(total, 2)
