"""Number formats: one file each, and those that plug-ins add by `edge_vit.formats` entry points."""

from __future__ import annotations

import functools
import logging
from collections.abc import Collection, Iterable

from edge_vit.errors import SpecError
from edge_vit.formats.format import REFERENCE as REFERENCE
from edge_vit.formats.format import UNKNOWN_LOOK
from edge_vit.formats.format import Look as Look
from edge_vit.formats.format import NumberFormat as NumberFormat
from edge_vit.formats.format import Precision as Precision
from edge_vit.formats.format import Variant as Variant
from edge_vit.plugins import Registry

_LOG = logging.getLogger(__name__)

FORMATS: Registry[NumberFormat] = Registry(
    "precision",
    "edge_vit.formats",
    {name: f"edge_vit.formats.{name}:FORMAT" for name in (REFERENCE, "fp16", "int8")},
)


def find_format(name: Precision) -> NumberFormat:
    """Return the format called `name`.

    Raises:
        SpecError: there is none; the message lists those there are.
    """
    return FORMATS.load(name)


@functools.cache
def all_formats() -> tuple[NumberFormat, ...]:
    """Return every format there is, from wide to narrow; looked up once.

    A plug-in that cannot be loaded is left out, with a warning.
    """
    found = []
    for name in FORMATS:
        try:
            found.append(find_format(name))
        except SpecError as error:
            _LOG.warning("%s", error)
    return tuple(sorted(found, key=lambda each: each.order))


def formats_of(files: Collection[str]) -> tuple[NumberFormat, ...]:
    """Return the formats that a bundle with `files` holds a graph of, from wide to narrow."""
    return tuple(each for each in all_formats() if each.file in files)


def names_of(formats: Iterable[NumberFormat]) -> tuple[Precision, ...]:
    """Return the names of `formats`, in their order."""
    return tuple(each.name for each in formats)


def sort_names(names: Iterable[Precision]) -> list[Precision]:
    """Return `names` from wide to narrow; those of formats that are not installed come last."""
    known = [each.name for each in all_formats()]
    return sorted(names, key=lambda name: known.index(name) if name in known else len(known))


def names_below(names: Iterable[Precision]) -> list[Precision]:
    """Return which of `names` are narrower than the reference, the narrowest first."""
    return [name for name in reversed(sort_names(names)) if name != REFERENCE]


def is_wider(first: Precision, second: Precision) -> bool:
    """Return whether the format `first` is wider than `second`."""
    return find_format(first).order < find_format(second).order


def look_of(name: Precision) -> Look:
    """Return how the format `name` is drawn; gray where no installed format has that name."""
    return next((each.look for each in all_formats() if each.name == name), UNKNOWN_LOOK)
