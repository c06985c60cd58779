"""The JSON of reports, described as JSON Schema: made from the dataclasses that are written."""

from __future__ import annotations

import dataclasses
import json
import sys
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_vit.files import write_atomically
from edge_vit.measure.compare import Comparison
from edge_vit.measure.results import REPORT_FORMAT, VerifyReport

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_PLAIN: Mapping[Any, Mapping[str, str]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
}


def report_schema() -> dict[str, Any]:
    """Return the schema of what ``edgevit verify`` saves."""
    return _schema_of(VerifyReport, f"edge-vit report, format {REPORT_FORMAT}")


def comparison_schema() -> dict[str, Any]:
    """Return the schema of what ``edgevit compare --json`` prints."""
    return _schema_of(Comparison, "edge-vit comparison, format 1")


def _schema_of(cls: type, title: str) -> dict[str, Any]:
    definitions: dict[str, Any] = {}
    root = _describe(cls, definitions)
    return {"$schema": _DIALECT, "title": title, **root, "$defs": dict(sorted(definitions.items()))}


def _describe(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint in _PLAIN:
        return dict(_PLAIN[hint])
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_describe(arg, definitions) for arg in args]}
    if origin is typing.Literal:
        return {"enum": list(args)}
    if origin is tuple and len(args) == 2 and args[1] is Ellipsis:
        return {"type": "array", "items": _describe(args[0], definitions)}
    if origin is tuple:
        items = [_describe(arg, definitions) for arg in args]
        return {"type": "array", "prefixItems": items, "minItems": len(args), "items": False}
    if origin is not None and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _describe(args[1], definitions)}
    assert dataclasses.is_dataclass(hint), f"no schema for {hint}"
    assert isinstance(hint, type)
    if hint.__name__ not in definitions:
        definitions[hint.__name__] = {}  # so that a value inside itself ends
        definitions[hint.__name__] = _describe_dataclass(hint, definitions)
    return {"$ref": f"#/$defs/{hint.__name__}"}


def _describe_dataclass(cls: type, definitions: dict[str, Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    words = _words_of(cls)
    properties, required = {}, []
    for field in dataclasses.fields(cls):
        described = _describe(hints[field.name], definitions)
        if field.name in words:
            described = {"description": words[field.name], **described}
        properties[field.name] = described
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            required.append(field.name)
    return {
        "description": " ".join((cls.__doc__ or "").strip().split("\n")[0].split()),
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _words_of(cls: type) -> dict[str, str]:
    """What the docstring's ``Attributes:`` says of each field, on one line."""
    _, _, listed = (cls.__doc__ or "").partition("Attributes:\n")
    words: dict[str, str] = {}
    name = ""
    for line in listed.splitlines():
        indent = len(line) - len(line.lstrip())
        if not line.strip() or indent < 8:
            continue
        if indent == 8:
            name, _, rest = line.strip().partition(": ")
            words[name] = rest
        else:
            words[name] += f" {line.strip()}"
    return {name: text.replace("`", "") for name, text in words.items()}


def write_schemas(folder: Path) -> None:
    """Write both schemas into `folder`, as they are committed in ``docs/``."""
    for name, schema in (("report", report_schema()), ("comparison", comparison_schema())):
        text = json.dumps(schema, indent=1, ensure_ascii=False) + "\n"
        write_atomically(folder / f"{name}.schema.json", text.encode())


if __name__ == "__main__":
    write_schemas(Path(sys.argv[1]))
