"""Malformed inputs for every reader of a user's file, and what a reader owes to each of them.

A reader either takes the file or refuses it with an `EdgeVitError` of one line, in bounded time and
memory. `test_fuzz.py` tries some hundreds, `benchmarks/fuzz.py` any number.
"""

from __future__ import annotations

import io
import json
import pickle
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as hypothesis_seed
from hypothesis import strategies as st
from PIL import Image

from edge_vit.errors import EdgeVitError
from edge_vit.printable import printable

MAX_SECONDS = 10.0
"""Of this process's own time; far above what any of these small files takes."""
MAX_MESSAGE = 2_000
REFUSED = "refused in one line"

_HOSTILE_NUMBERS = (0, -1, 2**31, 2**63, -(2**63), 10**30, 1e308, float("nan"), float("inf"), 0.5)
_HOSTILE_TEXTS = ("", "\x00", "\x1b[2J", "\ud800", "../../etc/passwd", "é" * 5000, "nan", "-0")

_EXTREMES = (
    b"",
    b"\x00" * 4096,
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"\xff\xfe\x00",
    b"9" * 100_000,
    b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 8\n",
)


@dataclass(frozen=True)
class Target:
    """A reader and valid files for it to be spoiled.

    Attributes:
        name: of the kind of file.
        file: what the file is called, inside a folder of its own.
        seeds: valid contents.
        read: reads the file at a path.
        is_json: whether the contents are JSON, to be spoiled by meaning as well.
    """

    name: str
    file: str
    seeds: tuple[bytes, ...]
    read: Callable[[Path], object]
    is_json: bool = False

    def contents(self) -> st.SearchStrategy[bytes]:
        """Return a strategy of malformed contents."""
        seeds = st.integers(0, len(self.seeds) - 1).map(self.seeds.__getitem__)
        spoiled = st.builds(_apply, seeds, st.lists(_EDITS, min_size=1, max_size=4))
        extreme = st.integers(0, len(_EXTREMES) - 1).map(_EXTREMES.__getitem__)
        kinds = [spoiled] * 8 + [extreme]
        if self.is_json:
            values = [json.loads(seed) for seed in self.seeds]
            value = st.integers(0, len(values) - 1).map(values.__getitem__)
            kinds += [st.builds(_spoil_json, value, _JSON_EDITS)] * 8
        return st.one_of(kinds)


def violation(target: Target, path: Path) -> str | None:
    """Return what is wrong with how `target` took the file at `path`; `REFUSED` or None if nothing.

    Anything but an `EdgeVitError` passes through, as the bug that it is.
    """
    started = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target.read(path)
        message = None
    except EdgeVitError as error:
        message = str(error)
    seconds = time.process_time() - started
    if seconds > MAX_SECONDS:
        return f"took {seconds:.1f} s"
    if message is None:
        return None
    if not message.strip():
        return "refused without a message"
    if len(printable(message).splitlines()) > 1:
        return f"several lines: {message[:300]!r}"
    if len(message) > MAX_MESSAGE:
        return f"a message of {len(message):,} characters: {message[:300]!r}"
    return REFUSED


class _Content(bytes):
    """Bytes that a failing test does not print."""

    def __repr__(self) -> str:
        return f"{len(self)} bytes"


def run_target(target: Target, count: int, folder: Path, seed: int | None = None) -> int:
    """Try `count` malformed files on `target`; return how many it refused.

    Args:
        target: the reader.
        count: how many files.
        folder: where they are written, one after the other.
        seed: of the random numbers; None for the same files each time.

    Raises:
        AssertionError: a file was answered with something else than one line; the smallest such
            file is left in `folder`. What is no `EdgeVitError` passes through.
    """
    path = folder / target.file
    refused = 0

    def attempt(data: st.DataObject) -> None:
        nonlocal refused
        path.write_bytes(data.draw(contents))
        found = violation(target, path)
        assert found is None or found == REFUSED, f"{target.name}: {found}"
        refused += found == REFUSED

    contents = target.contents().map(_Content)
    test = given(st.data())(attempt)
    test = settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=seed is None,
        suppress_health_check=list(HealthCheck),
    )(test)
    if seed is not None:
        test = hypothesis_seed(seed)(test)
    test()
    return refused


# Edits of bytes: (kind, place as a share, length, payload).
_EDITS = st.tuples(
    st.sampled_from(("flip", "cut", "drop", "insert", "repeat", "overwrite", "number")),
    st.floats(0, 1),
    st.integers(1, 64),
    st.binary(min_size=1, max_size=16),
)


def _apply(data: bytes, edits: list[tuple[str, float, int, bytes]]) -> bytes:
    for kind, share, length, payload in edits:
        at = int(share * len(data))
        head, body, tail = data[:at], data[at : at + length], data[at + length :]
        if kind == "flip":
            data = head + bytes(byte ^ payload[0] for byte in body) + tail
        elif kind == "cut":
            data = head
        elif kind == "drop":
            data = head + tail
        elif kind == "insert":
            data = head + payload + body + tail
        elif kind == "repeat":
            data = head + body * (1 + payload[0] % 64) + tail
        elif kind == "overwrite":
            data = head + payload + data[at + len(payload) :]
        else:  # a length or an offset that lies
            data = head + (b"\xff" * 4 + b"\x7f" * 4)[: 4 + length % 5] + data[at + 4 :]
    return data


_JSON_EDITS = st.lists(
    st.tuples(
        st.lists(st.integers(0, 40), max_size=6),  # the way down to the edited place
        st.sampled_from(("replace", "delete", "rename", "nest", "append")),
        st.one_of(
            st.none(),
            st.booleans(),
            st.sampled_from(_HOSTILE_NUMBERS),
            st.sampled_from(_HOSTILE_TEXTS),
            st.just([]),
            st.just({}),
            st.lists(st.sampled_from(_HOSTILE_NUMBERS), max_size=4),
        ),
    ),
    min_size=1,
    max_size=3,
)


def _spoil_json(value: Any, edits: list[tuple[list[int], str, Any]]) -> bytes:
    value = pickle.loads(pickle.dumps(value))  # a copy
    for path, kind, payload in edits:
        parent, key, here = None, None, value
        for step in path:
            if not isinstance(here, dict | list) or not here:
                break
            keys = list(here) if isinstance(here, dict) else range(len(here))
            parent, key = here, keys[step % len(keys)]
            here = here[key]
        if parent is None:
            value = payload if kind == "replace" else value
        elif kind == "delete":
            del parent[key]
        elif kind == "rename" and isinstance(parent, dict):
            parent[f"{key}{payload}"] = parent.pop(key)
        elif kind == "nest":
            for _ in range(400):
                here = [here]
            parent[key] = here
        elif kind == "append" and isinstance(parent, list):
            parent.extend([payload] * 50)
        else:
            parent[key] = payload
    return json.dumps(value).encode()


def image_seeds() -> tuple[bytes, ...]:
    """Return one small picture in each format and mode that is read."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    picture = Image.fromarray(pixels)
    kinds: Mapping[str, tuple[str, ...]] = {
        "PNG": ("RGB", "RGBA", "L", "P", "1", "I;16"),
        "JPEG": ("RGB", "L", "CMYK"),
        "WEBP": ("RGB", "RGBA"),
        "BMP": ("RGB", "L", "P"),
    }
    seeds = []
    for kind, modes in kinds.items():
        for mode in modes:
            buffer = io.BytesIO()
            (picture.convert("I").convert(mode) if mode == "I;16" else picture.convert(mode)).save(
                buffer, kind
            )
            seeds.append(buffer.getvalue())
    return tuple(seeds)


def array_seeds() -> tuple[bytes, ...]:
    """Return images and labels as ``.npz``, compressed and not."""
    arrays = {"images": np.zeros((3, 8, 8, 3), np.uint8), "labels": np.arange(3)}
    seeds = []
    for save in (np.savez, np.savez_compressed):
        buffer = io.BytesIO()
        save(buffer, **arrays)
        seeds.append(buffer.getvalue())
    return tuple(seeds)


def checkpoint_seeds() -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """Return small weights as safetensors, and as `torch.save` writes them, new form and old."""
    import safetensors.torch
    import torch

    weights = {"head.weight": torch.ones(3, 4), "head.bias": torch.zeros(3)}
    nested = {"state_dict": weights, "epoch": 3, "best": np.float64(0.5)}
    saved = []
    for content, is_zip in ((weights, True), (nested, True), (nested, False)):
        buffer = io.BytesIO()
        torch.save(content, buffer, _use_new_zipfile_serialization=is_zip)
        saved.append(buffer.getvalue())
    return (safetensors.torch.save(weights, {"format": "pt"}),), tuple(saved)
