"""Malformed files end in one line: hundreds of them here, any number in `benchmarks/fuzz.py`."""

from __future__ import annotations

import pytest
from fuzz_targets import NAMES, make_targets
from fuzzing import run_target

pytestmark = pytest.mark.uncounted


@pytest.fixture(scope="module")
def targets(shared_bundle):
    return make_targets(shared_bundle)


def test_every_target_is_tried(targets):
    assert tuple(targets) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_valid_files_are_read(targets, name, tmp_path):
    target = targets[name]
    for seed in target.seeds:
        path = tmp_path / target.file
        path.write_bytes(seed)
        target.read(path)


@pytest.mark.parametrize("name", NAMES)
def test_malformed_files_end_in_one_line(targets, name, tmp_path):
    run_target(targets[name], 40, tmp_path)
