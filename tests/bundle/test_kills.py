"""Whatever call a process is killed at, a bundle is the old one or the new one, and goes on."""

from __future__ import annotations

import itertools
import os
import shutil

import pytest
from graph_files import FP16, FP32, INT8
from kills import is_killed_at
from small_bundles import GRAPH, IMAGES, SPEC, names, table_for

from edge_vit.bundle import GOLDEN, TABLE, Bundle, draft_bundle

pytestmark = pytest.mark.uncounted


@pytest.fixture(autouse=True)
def unsynced(monkeypatch):
    """Spare the tests the wait for the disk."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def add(path):
    Bundle.open(path).add({GOLDEN: b"others", FP16: b"fp16"}, parents=(FP32,), drop=(TABLE,))


def change(path):
    with Bundle.open(path).change() as change:
        change.add({FP16: b"fp16"}, parents=(FP32, TABLE))
        change.add({INT8: b"int8", "notes/a.txt": b"a"}, parents=(FP32, TABLE))


def replace(path):
    with draft_bundle(path, SPEC, force=True) as draft:
        draft = draft.add({FP32: b"another graph"})
        draft.add({TABLE: table_for(b"another graph").to_bytes()}, parents=(FP32,))


def replace_by_the_same(path):
    with draft_bundle(path, SPEC, force=True) as draft:
        draft = draft.add({FP32: GRAPH})
        draft.add({GOLDEN: IMAGES.to_bytes()}, parents=(FP32,))


def facts(bundle):
    """What tells one bundle from another, but for the time at which it was made."""
    return bundle.spec, bundle.manifest.artifacts


def hidden(folder):
    return [name for name in names(folder) if name.startswith(".")]


@pytest.mark.parametrize(
    ("work", "through_link", "step"),
    [
        (add, False, 1),
        (change, False, 1),
        (replace, True, 1),
        (replace_by_the_same, True, 3),  # the calls are those of `replace`
    ],
)
def test_a_kill_leaves_the_old_bundle_or_the_new(written, tmp_path, work, through_link, step):
    def fresh(name):
        home = shutil.copytree(written, tmp_path / name / "cats.edgevit")
        if not through_link:
            return home, home
        link = tmp_path / name / "link.edgevit"
        link.symlink_to("cats.edgevit")
        return home, link

    old = facts(Bundle.open(written))
    _, path = fresh("whole")
    work(path)
    new = facts(Bundle.open(path))
    is_new = []
    for number in itertools.count(1, step):
        home, path = fresh(str(number))
        if not is_killed_at(number, lambda path=path: work(path)):
            break
        left = Bundle.open(path)
        left.check()
        assert facts(left) in (old, new)
        is_new.append(facts(left) == new)
        Bundle.open(path).add({"after.txt": b"the next command"})
        after = Bundle.open(path)
        after.check()
        assert facts(left)[1].items() < facts(after)[1].items()
        assert not hidden(home)
        assert not hidden(home.parent)
        assert path.is_symlink() == through_link
        shutil.rmtree(home.parent)
    assert is_new == sorted(is_new), "new, and old again at a later call"
    assert set(is_new) == {True, False}


def test_a_kill_leaves_no_new_bundle_or_a_whole_one(tmp_path):
    def make(path):
        with draft_bundle(path, SPEC) as draft:
            draft = draft.add({FP32: GRAPH})
            draft.add({GOLDEN: IMAGES.to_bytes()}, parents=(FP32,))

    is_there = []
    for number in itertools.count(1):
        path = tmp_path / str(number) / "cats.edgevit"
        if not is_killed_at(number, lambda path=path: make(path)):
            break
        is_there.append(path.exists())
        if not path.exists():
            make(path)  # the next command takes what was left out of the way
        Bundle.open(path).check()
        assert len(Bundle.open(path).manifest.artifacts) == 2
        if not is_there[-1]:
            assert names(path.parent) == ["cats.edgevit"]
    assert is_there == sorted(is_there)
    assert set(is_there) == {True, False}
