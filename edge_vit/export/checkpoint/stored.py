"""Everything in a checkpoint that could be a weight, by its place in the file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from edge_vit.errors import ArtifactError
from edge_vit.export.checkpoint.reading import read_content
from edge_vit.export.checkpoint.torch_file import plain
from edge_vit.export.checkpoint.unpickle import Inert, Unusable

_MAX_DEPTH = 40
_MAX_LIST = 64
_NOT_WEIGHTS = re.compile(
    r"(?i)optim|^opt$|scheduler|lr_sched|scaler$|^amp$|^loops$|rng|^collected_params$"
)
_AVERAGED = re.compile(
    r"(?:^|_)(?:ema|swa|avg|averaged?|shadow)(?=_|\d|$)|EMA|Ema(?![a-z])|SWA|Averaged"
)
_SIZES = re.compile(r"(?i)^(img_size|image_size|input_size|imgsz|crop_size|input_shape)$")


@dataclass(frozen=True)
class Entry:
    """A tensor in a checkpoint.

    Attributes:
        container: dotted place of the dictionary that it lies in, with a dot at the end; empty for
            the file itself.
        value: the tensor, or what makes it unusable.
    """

    container: str
    value: Tensor | Unusable


@dataclass
class StoredWeights:
    """What a checkpoint's file holds.

    Attributes:
        where: for messages, such as ``"checkpoint best.pth"``.
        entries: by dotted place, dictionaries and names in one: ``state_dict.model.norm.weight``.
        lists: averaged weights that lie in a list without names, by place.
        sizes: (height, width) of images that options beside the weights speak of.
        modules: classes of whole modules that were pickled, and of which the weights were taken.
        averaged: places whose weights are averaged though their name does not say it.
        names: keys at the file's top, for messages.
    """

    where: str
    entries: dict[str, Entry] = field(default_factory=dict)
    lists: dict[str, list[Tensor]] = field(default_factory=dict)
    sizes: set[tuple[int, int]] = field(default_factory=set)
    modules: list[str] = field(default_factory=list)
    averaged: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    def is_averaged(self, place: str) -> bool:
        """Return whether the weights at `place` are an average over training, such as an EMA."""
        segments = place.split(".")
        return any(map(_AVERAGED.search, segments)) or place.startswith(self.averaged or ("\0",))


def read_stored(path: Path) -> StoredWeights:
    """Return all that the checkpoint at `path` holds.

    Raises:
        ArtifactError: the file cannot be read, or holds no tensor by a name.
    """
    content = read_content(path)
    where = f"checkpoint {path}"
    stored = StoredWeights(where)
    if isinstance(content, Mapping):
        stored.names = tuple(map(str, content))
        if "averaging_state" in content:  # Lightning's WeightAveraging puts the average there
            stored.averaged = ("state_dict.",)
    try:
        _collect(stored, content)
    except Exception as error:  # objects in a damaged file can be of any form
        reason = f"{type(error).__name__}: {error}"[:100]
        raise ArtifactError(f"{where} is damaged, its objects make no sense ({reason})") from None
    if not stored.entries:
        if not isinstance(content, Mapping):
            found = content.name if isinstance(content, Inert) else type(content).__name__
            raise ArtifactError(f"{where} holds no tensors by name, found {found}")
        found = ", ".join(stored.names[:8]) or "nothing"
        raise ArtifactError(f"{where} holds no weights, found {found}")
    return stored


def _collect(stored: StoredWeights, content: Any) -> None:
    """Walk through `content`; a value that is met again, as in a cycle, is not entered twice."""
    entered: set[int] = set()
    pending: list[tuple[str, Any, int]] = [("", content, 0)]
    while pending:
        place, value, depth = pending.pop()
        if id(value) in entered or depth > _MAX_DEPTH:
            continue
        entered.add(id(value))
        if isinstance(value, Inert) and _is_module(value):
            stored.modules.append(value.name)
            for name, tensor in _module_tensors(value, "", 0):
                _put(stored, place, name, tensor)
            continue
        for key, item in _items(value):
            name = str(key)
            if _SIZES.match(name):
                stored.sizes |= _read_size(item)
            if _NOT_WEIGHTS.search(name):
                continue
            if name == "shadow_params" and isinstance(item, list | tuple):
                tensors = [entry for entry in item if isinstance(entry, Tensor)]
                if tensors and len(tensors) == len(item):
                    stored.lists[place + name] = tensors
            elif not _put(stored, place, name, plain(item)):
                pending.append((f"{place}{name}.", item, depth + 1))


def _put(stored: StoredWeights, container: str, name: str, value: Any) -> bool:
    """Keep `value` where it is a tensor; a number alone is none."""
    if not isinstance(value, Tensor | Unusable):
        return False
    stored.entries[container + name] = Entry(container, value)
    return True


def _items(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield what lies in a dictionary, in dictionaries of a list, or in an object's attributes."""
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value[:_MAX_LIST]):
            if isinstance(item, Mapping | Inert):
                yield index, item
    elif isinstance(value, Inert):
        yield from value.mapping.items()
        state = value.state[0] if isinstance(value.state, tuple) and value.state else value.state
        if isinstance(state, Mapping):
            yield from state.items()


def _is_module(value: Inert) -> bool:
    return isinstance(value.state, Mapping) and "_parameters" in value.state


def _module_tensors(module: Inert, prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    """Yield name and tensor of a pickled module as its ``state_dict()`` would, prefixes joined."""
    state = module.state
    hidden = state.get("_non_persistent_buffers_set") or ()
    if isinstance(hidden, Inert):  # a set
        hidden = next(iter(hidden.args), ())
    for kind in ("_parameters", "_buffers"):
        for name, tensor in _items(state.get(kind)):
            if tensor is not None and not (kind == "_buffers" and name in hidden):
                yield f"{prefix}{name}", tensor
    for name, child in _items(state.get("_modules")):
        if isinstance(child, Inert) and _is_module(child) and depth < _MAX_DEPTH:
            yield from _module_tensors(child, f"{prefix}{name}.", depth + 1)


def _read_size(value: Any) -> set[tuple[int, int]]:
    """Return (height, width) where `value` reads as one or as one side, else nothing."""
    if isinstance(value, Inert):  # a configuration library's own list
        value = value.sequence or value.mapping.get("_content") or value.state
    if isinstance(value, int) and not isinstance(value, bool):
        value = (value, value)
    if not isinstance(value, list | tuple) or not all(isinstance(side, int) for side in value):
        return set()
    sides = value[1:] if len(value) == 3 else value
    return {(sides[0], sides[-1])} if len(sides) in (1, 2) and min(sides) > 0 else set()
