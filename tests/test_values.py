from __future__ import annotations

import json
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edge_vit
from edge_vit import values
from edge_vit.data.bad_images import MaxBad
from edge_vit.errors import SpecError
from edge_vit.export.sources import SourceRequest
from edge_vit.measure.latency import Plan
from edge_vit.measure.limits import Limits
from edge_vit.runtime.options import SessionOptions
from edge_vit.runtime.trt.identity import EngineOptions
from edge_vit.spec import ModelSpec, PreprocessSpec, TensorSpec, image_input, task_output
from edge_vit.spec.table import Recipe
from edge_vit.values import WRITTEN_IF_SET, from_json, to_json


@dataclass(frozen=True)
class Inner:
    count: int
    note: str = "none"


@dataclass(frozen=True)
class Outer:
    ratio: float
    is_on: bool
    mode: Literal["a", "b"]
    pair: tuple[int, int]
    many: tuple[float, ...]
    mixed: tuple[int | str, ...]
    maybe: Inner | None
    by_name: Mapping[str, Inner]
    anything: Any = None
    derived: int = field(init=False, default=0)


GOOD: dict[str, Any] = {
    "ratio": 0.5,
    "is_on": True,
    "mode": "a",
    "pair": [1, 2],
    "many": [0.25, 1],
    "mixed": ["batch", 3],
    "maybe": {"count": 4},
    "by_name": {"x": {"count": 1, "note": "first"}},
    "anything": [{"free": "form"}],
}


def test_reads_every_kind_of_field():
    assert from_json(Outer, GOOD) == Outer(
        ratio=0.5,
        is_on=True,
        mode="a",
        pair=(1, 2),
        many=(0.25, 1.0),
        mixed=("batch", 3),
        maybe=Inner(4),
        by_name={"x": Inner(1, "first")},
        anything=[{"free": "form"}],
    )


def test_whole_numbers_become_floats_where_floats_are_asked_for():
    value = from_json(Outer, {**GOOD, "ratio": 1, "many": [2]})
    assert (type(value.ratio), type(value.many[0])) == (float, float)


def test_null_is_none_only_where_none_is_allowed():
    assert from_json(Outer, {**GOOD, "maybe": None}).maybe is None
    with pytest.raises(SpecError, match=r"^Outer\.ratio: got None, expected a number$"):
        from_json(Outer, {**GOOD, "ratio": None})


BAD = {
    "text_for_number": ({"ratio": "0.5"}, r"^Outer\.ratio: got '0\.5', expected a number$"),
    "bool_for_number": ({"ratio": True}, r"^Outer\.ratio: got True, expected a number$"),
    "number_for_bool": ({"is_on": 1}, r"^Outer\.is_on: got 1, expected bool$"),
    "bool_for_int": (
        {"maybe": {"count": False}},
        r"^Outer\.maybe\.count: got False, expected int$",
    ),
    "float_for_int": ({"maybe": {"count": 1.5}}, r"^Outer\.maybe\.count: got 1\.5, expected int$"),
    "unknown_word": ({"mode": "c"}, r"^Outer\.mode: got 'c', expected one of a, b$"),
    "unhashable_word": ({"mode": []}, r"^Outer\.mode: got \[\], expected one of a, b$"),
    "too_short": ({"pair": [1]}, r"^Outer\.pair: got \[1\], expected 2 values$"),
    "too_long": ({"pair": [1, 2, 3]}, r"^Outer\.pair: got \[1, 2, 3\], expected 2 values$"),
    "no_list": ({"many": 1.0}, r"^Outer\.many: got 1\.0, expected a list$"),
    "one_of_many": ({"many": [0.5, "x"]}, r"^Outer\.many\[1\]: got 'x', expected a number$"),
    "neither": ({"mixed": [1, None]}, r"^Outer\.mixed\[1\]: got None"),
    "no_object": ({"maybe": 7}, r"^Outer\.maybe: got 7, expected an object$"),
    "no_mapping": ({"by_name": []}, r"^Outer\.by_name: got \[\], expected an object$"),
    "deep": ({"by_name": {"x": {"count": "1"}}}, r"^Outer\.by_name\.x\.count: got '1'"),
    "unknown_field": ({"size": 1}, r"^Outer: unknown field 'size', known are ratio, is_on, .*$"),
    "derived_field": ({"derived": 1}, r"^Outer: unknown field 'derived'"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_refusal_names_the_place_and_what_came(change, message):
    with pytest.raises(SpecError, match=message):
        from_json(Outer, {**GOOD, **change})


@pytest.mark.parametrize("name", [name for name in GOOD if name != "anything"])
def test_missing_field_is_named(name):
    data = {key: value for key, value in GOOD.items() if key != name}
    with pytest.raises(SpecError, match=f"^manifest.json: field '{name}' is missing$"):
        from_json(Outer, data, "manifest.json")


@pytest.mark.parametrize("data", [None, [], "text", 3])
def test_refuses_what_is_no_object(data):
    with pytest.raises(SpecError, match=r"^Inner: got .*, expected an object$"):
        from_json(Inner, data)


def test_long_values_are_cut_in_messages():
    with pytest.raises(SpecError) as error:
        from_json(Inner, {"count": "x" * 1000})
    assert len(str(error.value)) < 120


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_lacks_become_null(number):
    assert to_json({"a": (number, 1.0)}) == {"a": [None, 1.0]}


def test_json_is_plain():
    assert to_json(Inner(3)) == {"count": 3, "note": "none"}
    assert to_json({1: Inner}) == {"1": Inner}  # a class is no value of its own


finite = st.floats(allow_nan=False, allow_infinity=False)
side = st.integers(1, 4096)
preprocess_specs = st.builds(
    PreprocessSpec,
    image_size=st.tuples(side, side),
    interpolation=st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]),
    crop_pct=st.floats(0, 1, exclude_min=True),
    crop_mode=st.sampled_from(["center", "squash", "border"]),
    mean=st.tuples(*[st.floats(max_value=1, allow_infinity=False)] * 3),
    std=st.tuples(*[st.floats(0, 16, exclude_min=True)] * 3),
)


@given(preprocess=preprocess_specs, batch=st.none() | st.integers(1, 64), licence=st.text())
def test_model_spec_survives_json_text(preprocess, batch, licence):
    spec = ModelSpec(
        name="vit",
        source="timm:vit",
        task="classification",
        labels=("Katze", "犬"),
        inputs=(image_input(preprocess.image_size, batch),),
        outputs=(task_output("classification", 2, batch),),
        preprocess=preprocess,
        licence=licence,
    )
    assert from_json(ModelSpec, json.loads(json.dumps(to_json(spec), allow_nan=False))) == spec


@given(st.lists(st.integers() | st.text(), max_size=4))
def test_tensor_spec_keeps_numbers_and_names_apart(shape):
    spec = TensorSpec("t", "uint8", tuple(shape))
    assert from_json(TensorSpec, json.loads(json.dumps(to_json(spec)))) == spec


def test_the_values_own_checks_run_when_read():
    data = {**to_json(PreprocessSpec((8, 8))), "crop_pct": 2}
    with pytest.raises(SpecError, match=r"crop_pct: got 2\.0"):
        from_json(PreprocessSpec, data)


def test_a_field_written_if_set_is_left_out_at_its_default():
    @dataclass(frozen=True)
    class Pair:
        first: int | None = None
        second: int | None = field(default=None, metadata=WRITTEN_IF_SET)

    assert to_json(Pair()) == {"first": None}
    assert to_json(Pair(second=0)) == {"first": None, "second": 0}


@pytest.mark.parametrize(
    ("function", "settings", "message"),
    [
        ("calibrate", {"max_bad": 0.1}, r"max_bad: got 0\.1, expected MaxBad\(share, count\) or a"),
        ("calibrate", {"num_images": "8"}, r"num_images: got '8', expected int"),
        ("calibrate", {"recipe": {"a": 1}}, r"recipe: unknown field 'a', known are name, .*"),
        ("calibrate", {"recipe": {"min_sqnr": "x"}}, r"recipe\.min_sqnr: got 'x', expected a num"),
        ("calibrate", {"recipe": 3}, r"recipe: got 3, expected Recipe\(name, .* or a dict"),
        (
            "verify",
            {"limits": 0.1},
            r"limits: got 0\.1, expected Limits\(max_drop, min_speedup, .*",
        ),
        ("verify", {"limits": {"max": 1}}, r"limits: unknown field 'max', known are max_drop, .*"),
        ("verify", {"limits": {"max_drop": "x"}}, r"limits\.max_drop: got 'x', expected a number"),
        ("verify", {"limits": {1: 2}}, r"limits: unknown field '1', known are max_drop, .*"),
        (
            "verify",
            {"limits": np.eye(2)},
            r"limits: got array\(\[\[1\., 0\.\], .*",
        ),
        ("benchmark", {"plan": 3}, r"plan: got 3, expected Plan\(scenario, .*"),
        ("open_session", {"options": "cpu"}, r"options: got 'cpu', expected SessionOptions\(.*"),
        ("open_session", {"precision": ["int8"]}, r"precision: got \['int8'\], expected str"),
        ("build_engine", {"backend": "x"}, r"backend: got 'x', expected one of auto, trt, rtx"),
    ],
)
def test_settings_of_another_type_are_refused_by_name(function, settings, message):
    images = ("images",) if function in ("calibrate", "verify") else ()
    with pytest.raises(SpecError, match=f"^{message}"):
        getattr(edge_vit, function)("no.edgevit", *images, **settings)


def test_a_dict_and_numbers_of_numpy_stand_for_settings():
    @values.checked
    def function(limits: Limits | None = None, *, count: int = 1, share: float = 0.5):
        return limits, count, share

    assert function() == (None, 1, 0.5)
    assert function({"max_drop": 2}, count=np.int64(3), share=1) == (Limits(max_drop=2.0), 3, 1.0)


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ({"batches": (1, 2, 4), "targets": ("sm_86",)}, EngineOptions((1, 2, 4), None, ("sm_86",))),
        ({"batches": np.array([1, 2, 4])}, EngineOptions((1, 2, 4))),
        (types.MappingProxyType({"max_drop": np.float32(1)}), Limits(max_drop=1.0)),
        ({"threads": np.int64(2)}, SessionOptions(threads=2)),
        (
            {"name": "own", "steps": ("bias",), "search_tokens": np.int64(8)},
            Recipe("own", steps=("bias",), search_tokens=8),
        ),
    ],
)
def test_a_dict_may_hold_whatever_the_value_itself_takes(given, value):
    def function(settings):
        return settings

    function.__annotations__["settings"] = type(value)
    assert values.checked(function)(given) == value


def test_what_is_given_for_other_types_stays_as_it_is():
    sizes = np.ones(2)
    args = {"size": (1, 2), "sizes": sizes}
    request = SourceRequest("timm:vit", model_args=args)
    assert request.model_args["size"] == (1, 2)
    assert request.model_args["sizes"] is sizes


def test_arguments_that_do_not_fit_are_refused_by_python_with_the_functions_name():
    with pytest.raises(TypeError, match=r"^calibrate\(\) missing 1 required .* 'images'$"):
        edge_vit.calibrate("no.edgevit")
    with pytest.raises(TypeError, match=r"^verify\(\) got an unexpected .* 'limit'"):
        edge_vit.verify("no.edgevit", "images", limit=3)


def test_arguments_are_checked_where_others_have_no_type_that_is_known():
    def function(first, second, third, fourth, count):
        return first, second, third, fourth, count

    names = {"second": "math.Missing", "third": "Missing", "fourth": set[int], "count": "int"}
    function.__annotations__ = names
    call = values.checked(function)
    assert call(1, [2], (3,), {4}, np.int64(5)) == (1, [2], (3,), {4}, 5)
    with pytest.raises(SpecError, match=r"^count: got 'x', expected int$"):
        call(1, 2, 3, 4, "x")


def test_types_themselves_are_annotations_as_their_names_are():
    def function(count, limits):
        return count, limits

    function.__annotations__ = {"count": int, "limits": Limits | None}
    call = values.checked(function)
    assert call(np.int64(2), {"max_drop": 1}) == (2, Limits(max_drop=1.0))
    with pytest.raises(SpecError, match=r"^count: got 'x', expected int$"):
        call("x", None)


@dataclass(frozen=True)
class OwnPlan(Plan):
    sizes: list[int] = field(default_factory=list)
    names: set[str] | None = None
    scale: np.ndarray | None = None
    call: Callable[[], int] | None = None
    kinds: ClassVar[tuple[int, ...]] = ()


def test_fields_of_a_subclass_that_json_has_no_form_for_stay_as_they_are():
    sizes, names, scale = [1], {"a"}, np.ones(2)
    plan = OwnPlan(warmup=np.int64(3), sizes=sizes, names=names, scale=scale, call=dict)
    assert plan.sizes is sizes
    assert plan.names is names
    assert plan.scale is scale
    assert plan.call is dict
    assert type(plan.warmup) is int
    with pytest.raises(SpecError, match=r"^warmup: got '3', expected int$"):
        OwnPlan(warmup="3", sizes=sizes)


def test_the_fields_of_a_base_are_checked_where_those_of_a_subclass_name_what_is_missing():
    @dataclass(frozen=True)
    class Named(Limits):
        note: Missing = ""  # noqa: F821

    assert Named(note=[1]).note == [1]
    with pytest.raises(SpecError, match=r"^max_drop: got 'x', expected a number$"):
        Named(max_drop="x")


@pytest.mark.parametrize(
    "make",
    [
        lambda: Limits(max_drop="1"),
        lambda: MaxBad("1%"),
        lambda: Recipe(strengths=0.5),
        lambda: EngineOptions(targets="sm_86"),
        lambda: Plan(warmup="3"),
    ],
)
def test_fields_of_another_type_are_refused_by_name(make):
    with pytest.raises(SpecError, match=r"^(max_drop|share|strengths|targets|warmup): got"):
        make()
