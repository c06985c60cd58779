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
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from edge_vit.errors import SpecError

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """One name of a registry.

    Attributes:
        target: what it stands for, ``module:attribute``.
        help: what it is, in a few words.
        distribution: that adds it; empty where it ships with edge-vit.
    """

    target: str
    help: str = ""
    distribution: str = ""


class Registry(Generic[T], Mapping[str, Entry]):
    """Entries by name: those that ship here first, then those of plug-ins.

    A plug-in cannot replace a name that ships here. Installed distributions are read when a name
    is not among the shipped ones, or when all names are listed.

    Args:
        what: is registered, in the singular, for messages: ``task``.
        group: of the entry points, ``edge_vit.tasks``.
        shipped: the entries of edge-vit itself.
    """

    def __init__(self, what: str, group: str, shipped: Mapping[str, Entry]) -> None:
        self._what, self._group, self._shipped = what, group, dict(shipped)
        self._loaded: dict[str, T] = {}

    def __getitem__(self, name: str) -> Entry:
        if name in self._shipped:
            return self._shipped[name]
        for point in importlib.metadata.entry_points(group=self._group, name=name):
            return _entry_of(point)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        added = (point.name for point in importlib.metadata.entry_points(group=self._group))
        return iter(dict.fromkeys((*self._shipped, *sorted(added))))

    def __len__(self) -> int:
        return len(list(iter(self)))

    @property
    def shipped(self) -> tuple[str, ...]:
        """The names of edge-vit itself."""
        return tuple(self._shipped)

    def load(self, name: str) -> T:
        """Return what `name` stands for, imported once.

        Raises:
            SpecError: nothing has that name, or its plug-in cannot be loaded.
        """
        if name not in self._loaded:
            entry = self.get(name)
            if entry is None:
                raise SpecError(self.unknown(name))
            self._loaded[name] = self._import(name, entry)
        return self._loaded[name]

    def unknown(self, name: str) -> str:
        """Return one line about a `name` that is not there: what is, and what may be missing."""
        near = difflib.get_close_matches(name, self, n=1, cutoff=0.6)
        if near:
            hint = f"Did you mean {near[0]}?"
        else:
            hint = (
                f"If a plug-in adds it (entry point group {self._group}), install that; "
                "or update edge-vit"
            )
        return f"{self._what}: got {name!r}, expected one of {', '.join(self)}. {hint}"

    def _import(self, name: str, entry: Entry) -> T:
        try:
            found = import_target(entry.target)
        except Exception as error:
            if not entry.distribution:
                raise
            raise SpecError(
                f"{self._what} {name!r} of the plug-in {entry.distribution} cannot be loaded: "
                f"{type(error).__name__}: {error}"
            ) from error
        result: T = found
        return result


def import_target(target: str) -> Any:
    """Return what `target`, ``module:attribute``, names."""
    module, _, attribute = target.partition(":")
    found: Any = importlib.import_module(module)
    for part in attribute.split(".") if attribute else ():
        found = getattr(found, part)
    return found


def _entry_of(point: importlib.metadata.EntryPoint) -> Entry:
    name = point.dist.name if point.dist is not None else point.module
    return Entry(point.value, f"of the plug-in {name}", name)


class WithPlugins(Mapping[str, T]):
    """Values by name: those that ship here, then those that plug-ins add.

    Args:
        what: is registered, in the singular.
        group: of the entry points, each of which names a value.
        shipped: the values of edge-vit itself.
    """

    def __init__(self, what: str, group: str, shipped: Mapping[str, T]) -> None:
        self.shipped = dict(shipped)
        self.added: Registry[T] = Registry(what, group, {})

    def __getitem__(self, name: str) -> T:
        if name in self.shipped:
            return self.shipped[name]
        if name not in self.added:
            raise KeyError(name)
        return self.added.load(name)

    def __contains__(self, name: object) -> bool:
        return name in self.shipped or name in self.added

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self.shipped, *self.added)))

    def __len__(self) -> int:
        return len(list(iter(self)))
