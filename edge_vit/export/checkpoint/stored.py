"""Everything in a checkpoint's file that could be a weight, by its place, whatever its form."""

from __future__ import annotations

import json
import re
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from edge_vit.errors import ArtifactError
from edge_vit.export.checkpoint.unpickle import (
    ForbiddenCodeError,
    Inert,
    Unusable,
    plain,
    read_torch,
)
from edge_vit.git_lfs import refuse_lfs_pointer

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Names of the weights in a folder of Hugging Face's form, best first."""

_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar")

_WANTED = "expected safetensors or a file that torch.save wrote"
_SAVE = "torch.save(model.state_dict(), FILE)"

_FOREIGN = {
    b"\x89HDF": "is an HDF5 file, as Keras writes",
    b"GGUF": "is a GGUF file",
    b"\x1f\x8b": "is compressed with gzip; unpack it first",
    b"\x93NUMPY": "is a NumPy array",
    b"<": "is a web page or another text, not what was to be downloaded",
    b"7z\xbc\xaf": "is a 7z archive; unpack it first",
    b"\xfd7zXZ": "is compressed with xz; unpack it first",
}
_ARCHIVES = {
    "/constants.pkl": "is a scripted module (torch.jit), expected weights alone: "
    "torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')",
    ".npy": f"is a NumPy archive, {_WANTED}. timm converts those of JAX: "
    f"timm.create_model(NAME).load_pretrained(FILE), then {_SAVE}",
    "/models/model.json": f"is an exported program (torch.export), {_WANTED}",
}
"""How a file in a zip archive ends that `torch.save` did not write -> what the archive is."""

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
    """A tensor in a checkpoint, or what makes it unusable.

    `container` is the dotted place of the dictionary that it lies in, with a dot at the end; empty
    for the file itself.
    """

    container: str
    value: Tensor | Unusable


@dataclass
class StoredWeights:
    """What a checkpoint's file holds."""

    where: str  # for messages, such as "checkpoint best.pth"
    entries: dict[str, Entry] = field(default_factory=dict)
    """By dotted place, dictionaries and names in one: ``state_dict.model.norm.weight``."""
    lists: dict[str, list[Tensor]] = field(default_factory=dict)
    """Averaged weights that lie in a list without names, by place."""
    sizes: set[tuple[int, int]] = field(default_factory=set)
    """(height, width) of images that options beside the weights speak of."""
    modules: list[str] = field(default_factory=list)
    """Classes of whole modules that were pickled, and of which the weights were taken."""
    averaged: tuple[str, ...] = ()  # places whose weights are averaged whatever their name
    names: tuple[str, ...] = ()  # keys at the file's top, for messages

    def is_averaged(self, place: str) -> bool:
        """Return whether the weights at `place` are an average over training, such as an EMA."""
        segments = place.split(".")
        return any(map(_AVERAGED.search, segments)) or place.startswith(self.averaged)


def read_stored(path: Path) -> StoredWeights:
    """Return all that the checkpoint at `path` holds."""
    content = _read_content(path)
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


class _NotWeights(Exception):  # noqa: N818
    """A file is no checkpoint; the message is what a sentence about it goes on with."""


def _read_content(path: Path) -> Any:
    """Return what the checkpoint at `path` holds: tensors in dictionaries, and what lies beside.

    Safetensors, a file of `torch.save` (code in it is never run), or the index of several such
    files. A folder stands for the weights in it.
    """
    try:
        if path.is_dir():
            path = _find_in_folder(path)
        if not path.is_file():
            raise ArtifactError(f"checkpoint {path}: no such file")
        refuse_lfs_pointer(path)
        if path.name.endswith(".index.json"):
            return _read_shards(path)
        with path.open("rb") as file:
            start = file.read(9)
        # Safetensors opens with the length of its header, 8 bytes, and then that, a JSON object.
        if start[8:] == b"{":
            return safetensors.torch.load_file(path)
        _refuse_foreign(path, start)
        return read_torch(path)
    except ArtifactError:
        raise
    except _NotWeights as error:
        raise ArtifactError(f"checkpoint {path} {error}") from None
    except ForbiddenCodeError as error:
        raise ArtifactError(
            f"checkpoint {path} wants to run code ({error}) and was refused. Save the weights "
            f"alone: {_SAVE}"
        ) from None
    except Exception as error:  # a damaged file can raise anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:100]
        raise ArtifactError(
            f"checkpoint {path} is corrupt or truncated, {_WANTED} ({reason})"
        ) from None


def _find_in_folder(folder: Path) -> Path:
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    if (folder / ".metadata").is_file():
        raise _NotWeights(
            "is a distributed checkpoint, expected one file. Run: python -m "
            f"torch.distributed.checkpoint.format_utils dcp_to_torch {folder} FILE.pth"
        )
    files = sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES)
    hint = f". Did you mean {files[0]}?" if len(files) == 1 else ""
    wanted = " or ".join(WEIGHT_FILES[::2])
    raise _NotWeights(f"is a folder without {wanted}, expected a file{hint}")


def _refuse_foreign(path: Path, start: bytes) -> None:
    """Refuse files of other programs in one line that names them."""
    if not start:
        raise _NotWeights(f"is corrupt or truncated: it is empty, {_WANTED}")
    for magic, kind in _FOREIGN.items():
        if start.startswith(magic):
            raise _NotWeights(f"{kind}, {_WANTED}")
    if start.startswith(b"PK"):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        for ending, kind in _ARCHIVES.items():
            if any(name.endswith(ending) for name in names):
                raise _NotWeights(kind)
        packed = next((name for name in names if name.endswith(_SUFFIXES)), None)
        if packed:
            raise _NotWeights(f"is a zip archive, unpack it first: it has {packed}")
    elif path.suffix in (".onnx", ".engine", ".plan"):
        raise _NotWeights(
            f"is a graph, not weights, {_WANTED}. An ONNX file is exported as onnx:{path}"
        )
    elif tarfile.is_tarfile(path):
        raise _NotWeights(f"is a tar archive; unpack it first, {_WANTED}")


def find_shards(index: Path) -> Mapping[str, str]:
    """Return the name of the file of each tensor that an ``*.index.json`` lists, all there."""
    refuse_lfs_pointer(index)
    shard_by_name: Mapping[str, str] = {}
    try:
        shard_by_name = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted(set(shard_by_name.values()))
        inside = all(Path(shard).name == shard for shard in shards)
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError):
        inside, shards = False, []
    if not inside:
        raise ArtifactError(
            f'checkpoint {index} is no index of weights, expected a JSON object with "weight_map", '
            "from each tensor's name to a file beside it"
        )
    absent = [shard for shard in shards if not (index.parent / shard).is_file()]
    if absent:
        raise ArtifactError(
            f"checkpoint {index}: {len(absent)} of {len(shards)} files are missing beside it: "
            f"{', '.join(absent[:4])}{', …' if len(absent) > 4 else ''}"
        )
    for shard in shards:
        refuse_lfs_pointer(index.parent / shard)
    return shard_by_name


def _read_shards(index: Path) -> dict[str, Any]:
    shard_by_name = find_shards(index)
    weights: dict[str, Any] = {}
    for shard in sorted(set(shard_by_name.values())):
        content = _read_content(index.parent / shard)
        weights |= content if isinstance(content, Mapping) else {}
    missing = sorted(set(shard_by_name) - set(weights))
    if missing:
        raise ArtifactError(
            f"checkpoint {index}: {missing[0]} is not in {shard_by_name[missing[0]]}"
            f"{f', and {len(missing) - 1} more tensors are missing' if len(missing) > 1 else ''}"
        )
    return weights
