"""A checkpoint's file, of whatever form, into plain values."""

from __future__ import annotations

import json
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch

from edge_vit.errors import ArtifactError
from edge_vit.export.checkpoint.torch_file import read_torch
from edge_vit.export.checkpoint.unpickle import ForbiddenCodeError
from edge_vit.git_lfs import refuse_lfs_pointer

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Names of the weights in a folder of Hugging Face's form, best first."""

_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar")

_FOREIGN = {
    b"\x89HDF": "an HDF5 file, as Keras writes",
    b"GGUF": "a GGUF file",
    b"\x1f\x8b": "compressed with gzip; unpack it first",
    b"\x93NUMPY": "a NumPy array",
    b"<": "a web page or another text, not what was to be downloaded",
    b"7z\xbc\xaf": "a 7z archive; unpack it first",
    b"\xfd7zXZ": "compressed with xz; unpack it first",
}
_WANTED = "expected safetensors or a file that torch.save wrote"
_SAVE = "torch.save(model.state_dict(), FILE)"


def read_content(path: Path) -> Any:
    """Return what the checkpoint at `path` holds: tensors in dictionaries, and what lies beside.

    Safetensors, a file of `torch.save` (code in it is never run), or the index of several such
    files. A folder stands for the weights in it.

    Raises:
        ArtifactError: there is no such file, or it is damaged, of another form or wants to run
            code.
    """
    if path.is_dir():
        path = _find_in_folder(path)
    if not path.is_file():
        raise ArtifactError(f"checkpoint {path}: no such file")
    refuse_lfs_pointer(path)
    if path.name.endswith(".index.json"):
        return _read_shards(path)
    with path.open("rb") as file:
        start = file.read(9)
    if not start:
        raise ArtifactError(f"checkpoint {path} is corrupt or truncated: it is empty, {_WANTED}")
    # A safetensors file opens with the length of its header, 8 bytes, and then the header, a JSON
    # object.
    if start[8:] == b"{":
        return _read_safetensors(path)
    _refuse_foreign(path, start)
    try:
        return read_torch(path)
    except ForbiddenCodeError as error:
        raise ArtifactError(
            f"checkpoint {path} wants to run code ({error}) and was refused. Save the weights "
            f"alone: {_SAVE}"
        ) from None
    except Exception as error:  # a damaged pickle can raise anything
        raise ArtifactError(_corrupt(path, error)) from None


def _find_in_folder(folder: Path) -> Path:
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    if (folder / ".metadata").is_file():
        raise ArtifactError(
            f"checkpoint {folder} is a distributed checkpoint, expected one file. Run: python -m "
            f"torch.distributed.checkpoint.format_utils dcp_to_torch {folder} FILE.pth"
        )
    files = sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES)
    hint = f". Did you mean {files[0]}?" if len(files) == 1 else ""
    raise ArtifactError(
        f"checkpoint {folder} is a folder without {' or '.join(WEIGHT_FILES[::2])}, expected a "
        f"file{hint}"
    )


def _read_safetensors(path: Path) -> Any:
    try:
        return safetensors.torch.load_file(path)
    except Exception as error:  # dtypes that this torch does not have raise others than its own
        raise ArtifactError(_corrupt(path, error)) from None


def find_shards(index: Path) -> Mapping[str, str]:
    """Return the name of the file of each tensor that an ``*.index.json`` lists, all there.

    Raises:
        ArtifactError: it is no such list, or files beside it are missing or Git LFS pointers.
    """
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
        content = read_content(index.parent / shard)
        weights |= content if isinstance(content, Mapping) else {}
    missing = sorted(set(shard_by_name) - set(weights))
    if missing:
        raise ArtifactError(
            f"checkpoint {index}: {missing[0]} is not in {shard_by_name[missing[0]]}"
            f"{f', and {len(missing) - 1} more tensors are missing' if len(missing) > 1 else ''}"
        )
    return weights


def _refuse_foreign(path: Path, start: bytes) -> None:
    """Refuse files of other programs in one line that names them."""
    for magic, kind in _FOREIGN.items():
        if start.startswith(magic):
            raise ArtifactError(f"checkpoint {path} is {kind}, {_WANTED}")
    if start.startswith(b"PK"):
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except Exception as error:
            raise ArtifactError(_corrupt(path, error)) from None
        if any(name.endswith("/constants.pkl") for name in names):
            raise ArtifactError(
                f"checkpoint {path} is a scripted module (torch.jit), expected weights alone: "
                f"torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')"
            )
        if names and all(name.endswith(".npy") for name in names):
            raise ArtifactError(
                f"checkpoint {path} is a NumPy archive, {_WANTED}. timm converts those of JAX: "
                "timm.create_model(NAME).load_pretrained(FILE), then "
                f"{_SAVE}"
            )
        if any(name.endswith("/models/model.json") for name in names):
            raise ArtifactError(
                f"checkpoint {path} is an exported program (torch.export), {_WANTED}"
            )
        packed = next((name for name in names if name.endswith(_SUFFIXES)), None)
        if packed:
            raise ArtifactError(
                f"checkpoint {path} is a zip archive, unpack it first: it has {packed}"
            )
    elif path.suffix in (".onnx", ".engine", ".plan"):
        raise ArtifactError(
            f"checkpoint {path} is a graph, not weights, {_WANTED}. An ONNX file is exported as "
            f"onnx:{path}"
        )
    elif start and tarfile.is_tarfile(path):
        raise ArtifactError(f"checkpoint {path} is a tar archive; unpack it first, {_WANTED}")


def _corrupt(path: Path, error: Exception) -> str:
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    return f"checkpoint {path} is corrupt or truncated, {_WANTED} ({reason[:100]})"
