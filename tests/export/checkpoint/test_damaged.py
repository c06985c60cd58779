"""Checkpoints damaged in any way: one line each, no other error, soon, and little memory."""

from __future__ import annotations

import argparse
import io
import random
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from edge_vit.errors import EdgeVitError
from edge_vit.export.checkpoint import fill

NET = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
STATE = NET.state_dict()
CONTENT = {
    "state_dict": {f"model.{name}": value for name, value in STATE.items()},
    "state_dict_ema": STATE,
    "args": argparse.Namespace(img_size=(3, 4)),
    "score": np.float64(1),
    "array": np.ones((2, 3)),
    "optimizer": {"state": {0: {"step": torch.ones(3)}}},
    "ema": {"shadow_params": list(STATE.values())},
    "whole": NET,
}


def saved(**form):
    buffer = io.BytesIO()
    torch.save(CONTENT, buffer, **form)
    return buffer.getvalue()


FILES = {
    "archive": saved(),
    "archive-5": saved(pickle_protocol=5),
    "stream": saved(_use_new_zipfile_serialization=False),
    "stream-4": saved(_use_new_zipfile_serialization=False, pickle_protocol=4),
    "safetensors": safetensors.torch.save(STATE),
}


def damage(rng, data):
    """Return `data` after some bytes were changed, taken out, put in or copied over others."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        place, kind = rng.randrange(len(data)), rng.randrange(5)
        if kind == 0:
            data[place] = rng.randrange(256)
        elif kind == 1:
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del data[place : place + rng.randrange(1, 9)]
        elif kind == 3:
            data[place:place] = rng.randbytes(rng.randrange(1, 9))
        else:
            other = rng.randrange(len(data))
            data[place : place + 8] = data[other : other + 8]
        data = data or bytearray(1)
    return bytes(data[: rng.randrange(len(data)) + 1] if rng.random() < 0.1 else data)


def damage_pickle(rng, archive):
    """Return `archive` with its pickle damaged and every checksum right."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(out, "w") as new:
        for entry in old.infolist():
            data = old.read(entry)
            new.writestr(
                entry.filename, damage(rng, data) if entry.filename.endswith(".pkl") else data
            )
    return out.getvalue()


@pytest.mark.uncounted
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_one_line(tmp_path, name):
    rng, path = random.Random(name), tmp_path / "damaged.pth"
    outcomes = set()
    tracemalloc.start()
    for _ in range(150):
        is_archive = name.startswith("archive") and rng.random() < 0.7
        path.write_bytes((damage_pickle if is_archive else damage)(rng, FILES[name]))
        started = time.process_time()
        try:
            fill(NET, path)
            outcomes.add("read")
        except EdgeVitError as error:
            assert "\n" not in str(error)
            assert len(str(error)) < 1500
            outcomes.add("refused")
        assert time.process_time() - started < 5
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**28
    assert "refused" in outcomes


@pytest.mark.parametrize("name", FILES)
def test_the_files_are_whole_before_they_are_damaged(tmp_path, name):
    path = tmp_path / "whole.pth"
    path.write_bytes(FILES[name])
    fill(NET, path, None if name == "safetensors" else "state_dict_ema")
