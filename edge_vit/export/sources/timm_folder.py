"""Folders that timm saves, and its models on the hub, with what their config.json tells."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_vit.errors import EdgeVitError, SpecError
from edge_vit.export.checkpoint.stored import WEIGHT_FILES
from edge_vit.export.sources.libraries import hub_access
from edge_vit.export.sources.values import first_line
from edge_vit.git_lfs import refuse_lfs_pointer
from edge_vit.optional import require

_LOCAL, _HUB = "local-dir:", "hf-hub:"


@dataclass(frozen=True)
class TimmFolder:
    """A folder with timm's ``config.json``."""

    path: Path
    architecture: str  # timm's name of the model
    pretrained_cfg: Mapping[str, Any]  # about the weights: classes, preprocessing, licence
    model_args: Mapping[str, Any]  # for the constructor
    labels: tuple[str, ...]  # class names by index, empty where none are given

    @property
    def weights(self) -> Path:
        """The file with the weights."""
        for name in WEIGHT_FILES:
            if (self.path / name).exists():
                return self.path / name
        raise SpecError(
            f"{self.path} has no {' or '.join(WEIGHT_FILES[::2])}. Add --checkpoint FILE, or "
            "--random-weights for shape and speed only"
        )


def find_timm_folder(target: str) -> TimmFolder | None:
    """Return the folder that a ``timm:`` address names, None where it names a model."""
    if target.startswith(_HUB):
        return read_timm_folder(_download(target.removeprefix(_HUB)))
    path = Path(target.removeprefix(_LOCAL)).expanduser()
    if path.is_dir():
        return read_timm_folder(path)
    if target.startswith(_LOCAL) or "/" in target:
        raise SpecError(
            f"timm:{target}: no such folder, expected one with a config.json. A model of the "
            f"hub is timm:{_HUB}OWNER/NAME"
        )
    return None


def read_timm_folder(path: Path) -> TimmFolder:
    """Return what timm's ``config.json`` in the folder at `path` tells."""
    path = newest_snapshot(path)
    config = read_config(path)
    if not is_timm_config(config):
        kind = config.get("model_type")
        other = 'names no "architecture" of timm'
        if kind:
            other = f"is a {kind!r} model of transformers: export it as hf:{path}"
        raise SpecError(f"timm:{path}: its config.json {other}")
    pretrained = _mapping(config.get("pretrained_cfg"))
    if isinstance(config.get("num_classes"), int):
        pretrained["num_classes"] = config["num_classes"]
    return TimmFolder(
        path,
        str(config["architecture"]).partition(".")[0],
        pretrained,
        _mapping(config.get("model_args")),
        _read_labels({**pretrained, **config}),
    )


def _mapping(value: object) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def newest_snapshot(path: Path) -> Path:
    """Return the folder of files in a folder of the hub's cache, any other folder as it is."""
    main = path / "refs" / "main"
    if (path / "config.json").exists() or not main.is_file():
        return path
    return path / "snapshots" / main.read_text(errors="replace").strip()


def read_config(path: Path) -> dict[str, Any]:
    """Return the object in ``config.json`` of the folder at `path`, empty where there is none."""
    file = path / "config.json"
    if not file.is_file():
        return {}
    refuse_lfs_pointer(file, SpecError)
    try:
        config = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise SpecError(f"{file} is not a valid JSON file: {first_line(error)}") from None
    if not isinstance(config, dict):
        raise SpecError(f"{file} holds a {type(config).__name__}, expected a JSON object")
    return config


def is_timm_config(config: Mapping[str, Any]) -> bool:
    """Return whether a ``config.json`` is of timm's own form, also inside transformers' wrapper."""
    return isinstance(config.get("architecture"), str)


def _read_labels(config: Mapping[str, Any]) -> tuple[str, ...]:
    names = config.get("label_names") or config.get("labels") or ()
    if isinstance(names, Mapping):
        names = [names.get(str(index)) for index in range(len(names))]
    described = _mapping(config.get("label_descriptions"))
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return ()
    return tuple(str(described.get(name, name)).split(",")[0] for name in names)


def _download(name: str) -> Path:
    """Return the folder of the hub's model `name`, from the cache where it is there."""
    hub = require("huggingface_hub", "reading from Hugging Face's hub")
    constants = require("huggingface_hub.constants", "reading from Hugging Face's hub")
    patterns = ["config.json", *WEIGHT_FILES, "*.safetensors"]
    try:
        with hub_access():
            offline = constants.HF_HUB_OFFLINE
            found = hub.snapshot_download(name, allow_patterns=patterns, local_files_only=offline)
    except (OSError, ValueError) as error:
        raise EdgeVitError(
            f"timm:{_HUB}{name}: neither in the cache nor to be downloaded ({first_line(error)}). "
            "Download it where there is a network and export timm:FOLDER"
        ) from None
    return Path(found)
