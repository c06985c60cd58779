"""Frozen values to JSON and back: one codec for specs, tables, manifests and reports."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import json
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from edge_vit.errors import SpecError, did_you_mean
from edge_vit.printable import escape_json

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

WRITTEN_IF_SET: Mapping[str, Any] = {"is_written_if_set": True}
"""Metadata of a dataclass field that an object has only where it differs from the default."""

_MAX_SHOWN = 60
_PLAIN = (type(None), bool, int, float, str)
_UNIONS = (typing.Union, types.UnionType)
_UNRESOLVED = (NameError, AttributeError, TypeError)  # of types imported for a type checker alone


def to_json(value: Any) -> Any:
    """Return `value` as what `json.dumps` takes: dataclasses as objects, tuples as lists.

    NaN and infinities become ``None``: JSON has no word for them. Fields that are `WRITTEN_IF_SET`
    are left out at their default, so that readers from before the field still take the object.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: to_json(getattr(value, f.name))
            for f in dataclasses.fields(value)
            if f.metadata != WRITTEN_IF_SET or getattr(value, f.name) != f.default
        }
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def json_file(value: Any) -> bytes:
    """Return `value`, dataclasses included, as the content of a JSON file."""
    text = json.dumps(to_json(value), indent=1, ensure_ascii=False)
    return (escape_json(text) + "\n").encode()


def parse_json(data: bytes | str) -> Any:
    """Return the JSON in `data`, or raise ValueError with one line."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def from_json(cls: type[T], data: Any, where: str = "") -> T:
    """Return the dataclass `cls` that `to_json` wrote as `data`.

    Messages call the place `where`, for example ``"manifest.json"``.

    Raises:
        SpecError: a field is missing, unknown or of another type; the message names it.
    """
    value: T = _decode(cls, data, where or cls.__name__)
    return value


def settle(value: Any) -> None:
    """Give the fields of a frozen dataclass, as a caller wrote them, the types that they declare.

    Lists and arrays become tuples, texts paths; what cannot be is refused with `SpecError`. Fields
    of types that JSON has no form for, such as sets, stay as they are.
    """
    for name, hint in _hints_of(value.__class__).items():
        object.__setattr__(value, name, _decode(hint, getattr(value, name), name))


def checked(function: F) -> F:
    """Return `function`, which refuses settings of other types than it declares, by their names.

    Settings are numbers, texts, flags and dataclasses, for which a dict of their fields may stand.
    """
    signature, hints = inspect.signature(function), dict[str, tuple[Any, ...]]()

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        bound = None
        with contextlib.suppress(TypeError):
            bound = signature.bind(*args, **options)
        if bound is None:
            return function(*args, **options)  # Python's own message names the function
        for name, value in bound.arguments.items():
            if name not in hints:
                hints[name] = _settings_of(function, signature.parameters[name].annotation)
            if hints[name]:
                bound.arguments[name] = _decode_setting(hints[name], value, name)
        return function(*bound.args, **bound.kwargs)

    return typing.cast(F, call)


def _settings_of(function: Any, annotation: Any) -> tuple[Any, ...]:
    """Return the types that `annotation` names; none where not all are those of settings."""
    with contextlib.suppress(*_UNRESOLVED):
        is_text = isinstance(annotation, str)
        hint = eval(annotation, function.__globals__) if is_text else annotation
        kinds = typing.get_args(hint) if typing.get_origin(hint) in _UNIONS else (hint,)
        words = [kind for kind in kinds if typing.get_origin(kind) is typing.Literal]
        if all(kind in _PLAIN or kind in words or is_dataclass(kind) for kind in kinds):
            return kinds
    return ()


def _decode_setting(kinds: tuple[Any, ...], value: Any, name: str) -> Any:
    others = tuple(kind for kind in kinds if kind in (str, type(None)))
    for kind in kinds:
        if isinstance(kind, type) and is_dataclass(kind):
            fields = ", ".join(f.name for f in dataclasses.fields(kind) if f.init)
            wanted = f"{kind.__name__}({fields}) or a dict of these"
            _check(isinstance(value, (Mapping, kind, *others)), name, value, wanted)
            if isinstance(value, Mapping):
                return _decode_dataclass(kind, value, name)
    return _decode_union(kinds, value, name)


def _decode(hint: Any, data: Any, where: str) -> Any:
    if hint in (Any, object):
        return data
    if hint is Path and isinstance(data, str):
        return Path(data)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in _UNIONS:
        return _decode_union(args, data, where)
    if (origin or hint) in (*_PLAIN, tuple, typing.Literal) and hasattr(data, "tolist"):
        data = data.tolist()  # of NumPy's
    if origin is typing.Literal:
        hint = "" if data in args else did_you_mean(str(data)[:_MAX_SHOWN], args)
        _check(data in args, where, data, f"one of {', '.join(map(str, args))}{hint}")
        return data
    if origin is tuple:
        return _decode_tuple(args, data, where)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        _check(isinstance(data, Mapping), where, data, "an object")
        return {key: _decode(args[1], item, f"{where}.{key}") for key, item in data.items()}
    if dataclasses.is_dataclass(hint):
        return _decode_dataclass(hint, data, where)
    if origin is not None or not isinstance(hint, type):
        return data
    kinds = (int, float) if hint is float else hint
    is_one = isinstance(data, kinds) and (hint is bool or not isinstance(data, bool))
    _check(is_one, where, data, "a number" if hint is float else hint.__name__)
    return float(data) if hint is float else data


def _decode_union(args: tuple[Any, ...], data: Any, where: str) -> Any:
    if data is None and type(None) in args:
        return None
    *options, last = (arg for arg in args if arg is not type(None))
    for option in options:
        with contextlib.suppress(SpecError):
            return _decode(option, data, where)
    return _decode(last, data, where)


def _decode_tuple(args: tuple[Any, ...], data: Any, where: str) -> tuple[Any, ...]:
    wanted = "a list" if args[1:] == (Ellipsis,) else f"{len(args)} values"
    _check(isinstance(data, list | tuple), where, data, wanted)
    if len(args) == 2 and args[1] is Ellipsis:
        if args[0] is str and all(type(item) is str for item in data):
            return tuple(data)
        args = (args[0],) * len(data)
    _check(len(data) == len(args), where, data, wanted)
    return tuple(
        _decode(arg, item, f"{where}[{i}]")
        for i, (arg, item) in enumerate(zip(args, data, strict=True))
    )


def _decode_dataclass(cls: Any, data: Any, where: str) -> Any:
    if isinstance(data, cls):
        return data
    _check(isinstance(data, Mapping), where, data, "an object")
    hints = _hints_of(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    unknown = sorted(map(str, set(data) - set(fields)))
    if unknown:
        raise SpecError(
            f"{where}: unknown field {unknown[0][:_MAX_SHOWN]!r}, known are {', '.join(fields)}. "
            "If a newer edge-vit wrote it, update this one"
        )
    values = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _decode(hints[name], data[name], f"{where}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise SpecError(f"{where}: field {name!r} is missing")
    return cls(**values)


@functools.cache
def _hints_of(cls: type) -> dict[str, Any]:
    """Return the types of a dataclass's fields; finding them out takes longer than all the rest."""
    hints: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        with contextlib.suppress(*_UNRESOLVED):
            hints.update(typing.get_type_hints(base))
    return {field.name: hints.get(field.name, Any) for field in dataclasses.fields(cls)}


def _check(holds: bool, where: str, data: Any, wanted: str) -> None:
    if not holds:
        shown = repr(data).replace("\n", "")
        shown = shown if len(shown) <= _MAX_SHOWN else f"{shown[:_MAX_SHOWN]}…"
        raise SpecError(f"{where}: got {shown}, expected {wanted}")
