"""Registries by name: what ships here, and what other installed distributions add.

A distribution adds to a registry by an entry point in its group, such as::

    [project.entry-points."edge_vit.tasks"]
    brightness = "my_package.brightness:TASK"

Nothing of it is imported before its name is used.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from edge_vit.errors import SpecError

T = TypeVar("T")


class Registry(Mapping[str, T]):
    """Values by name: those that ship here first, then those of plug-ins, imported when used.

    A plug-in cannot replace a name that ships here. Installed distributions are read when a name
    is not among the shipped ones, or when all names are listed. `what` is registered, in the
    singular, for messages; `shipped` are the values, or where they are: ``module:attribute``.
    """

    def __init__(self, what: str, group: str, shipped: Mapping[str, T | str]) -> None:
        self._what, self._group, self._shipped = what, group, dict(shipped)
        self._loaded: dict[str, T] = {}

    def __getitem__(self, name: str) -> T:
        if name not in self._loaded:
            if name in self._shipped:
                value: Any = self._shipped[name]
                found = import_target(value) if isinstance(value, str) else value
            else:
                found = self._load_plugin(name)
            self._loaded[name] = found
        return self._loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in self._shipped or any(point.name == name for point in self._points())

    def __iter__(self) -> Iterator[str]:
        added = sorted(point.name for point in self._points())
        return iter(dict.fromkeys((*self._shipped, *added)))

    def __len__(self) -> int:
        return len(list(iter(self)))

    @property
    def shipped(self) -> tuple[str, ...]:
        """The names of edge-vit itself."""
        return tuple(self._shipped)

    def load(self, name: str) -> T:
        """Return the value called `name`.

        Raises:
            SpecError: nothing has that name, or its plug-in cannot be loaded.
        """
        try:
            return self[name]
        except KeyError:
            pass
        near = difflib.get_close_matches(name, self, n=1)
        hint = (
            f"Did you mean {near[0]}?"
            if near
            else f"If a plug-in adds it (entry point group {self._group}), install that; "
            "or update edge-vit"
        )
        raise SpecError(f"{self._what}: got {name!r}, expected one of {', '.join(self)}. {hint}")

    def _points(self) -> importlib.metadata.EntryPoints:
        return importlib.metadata.entry_points(group=self._group)

    def _load_plugin(self, name: str) -> Any:
        for point in self._points():
            if point.name == name:
                try:
                    return import_target(point.value)
                except Exception as error:
                    owner = point.dist.name if point.dist is not None else point.module
                    raise SpecError(
                        f"{self._what} {name!r} of the plug-in {owner} cannot be loaded: "
                        f"{type(error).__name__}: {error}"
                    ) from error
        raise KeyError(name)


def import_target(target: str) -> Any:
    """Return what `target`, ``module:attribute``, names."""
    module, _, attribute = target.partition(":")
    found: Any = importlib.import_module(module)
    for part in attribute.split(".") if attribute else ():
        found = getattr(found, part)
    return found
