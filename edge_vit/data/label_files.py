"""Class names from a file: lines of text, or JSON as other tools write it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_vit.data.class_names import as_index
from edge_vit.data.text_lines import read_text, split_lines
from edge_vit.errors import SpecError
from edge_vit.git_lfs import refuse_lfs_pointer
from edge_vit.values import parse_json


def read_labels(path: Path) -> tuple[str, ...]:
    """Return the class names in the file at `path`, by index.

    A name a line; or JSON: a list of names, an object of names by index, one of indices by name, or
    a configuration of Hugging Face's with its ``id2label``.
    """
    refuse_lfs_pointer(path, SpecError)
    try:
        text = read_text(path)
        if text.lstrip().startswith(("[", "{")):
            names: Sequence[Any] = _by_index(parse_json(text))
        else:
            names = [line.strip() for line in split_lines(text) if line.strip()]
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SpecError(f"labels {path} cannot be read: {reason}") from None
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise SpecError(
            f'labels {path}: expected a list of names, or an object such as {{"0": "cat", "1": '
            '"dog"}}, with a name for every index from 0 on'
        )
    return tuple(names)


def _by_index(data: Any) -> list[Any]:
    """Names in the order of their index; empty where `data` does not give one for each."""
    if isinstance(data, Mapping) and isinstance(data.get("id2label"), Mapping):
        data = data["id2label"]
    if isinstance(data, list):
        return data
    if not isinstance(data, Mapping):
        return []
    if all(type(index) is int for index in data.values()):  # torchvision's class_to_idx
        data = {str(index): name for name, index in data.items()}
    names = {as_index(index): name for index, name in data.items()}
    return [names.get(index) for index in range(len(data))]
