"""A change of a bundle happens in one step, and two of them one after the other."""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path

import pytest
from graph_files import FP16, FP32, INT8
from small_bundles import GRAPH, names, table_for

from edge_vit.bundle import GOLDEN, MANIFEST, TABLE, Bundle, journal
from edge_vit.errors import ArtifactError


def refuse(code):
    def fail(*arguments, **options):
        raise OSError(code, os.strerror(code))

    return fail


def copy_aside(bundle, monkeypatch):
    """Commit a change of `bundle` and stop there, as a process does that is killed."""
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(journal, "_finish", interrupt)
        bundle.add({GOLDEN: b"others", FP16: b"fp16"}, drop=(TABLE,))


def interrupt(*arguments):
    raise KeyboardInterrupt


# Several at once


def test_all_of_a_change_appears_together(bundle):
    with bundle.change() as change:
        change.add({FP16: b"fp16"}, parents=(FP32,))
        change.add({INT8: b"int8"}, parents=(FP16, TABLE))
        change.drop(GOLDEN)
        assert Bundle.open(bundle.path).manifest == bundle.manifest
    left = Bundle.open(bundle.path)
    assert left.manifest == change.bundle.manifest
    assert set(left.manifest.artifacts) == {FP32, TABLE, FP16, INT8}
    assert left.artifact(INT8).parents[0] == left.artifact(FP16).sha256
    assert names(bundle.path / "golden") == []
    left.check()


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt()], ids=["error", "^C"])
def test_a_change_that_fails_leaves_no_trace(bundle, error):
    before = names(bundle.path)
    with pytest.raises(type(error)), bundle.change() as change:
        change.add({FP32: b"another graph", FP16: b"fp16"})
        raise error
    assert names(bundle.path) == before
    assert Bundle.open(bundle.path) == bundle
    bundle.check()


def test_nothing_to_change_writes_nothing(bundle):
    written = (bundle.path / MANIFEST).stat()
    with bundle.change() as change:
        change.drop(INT8)
    assert (bundle.path / MANIFEST).stat().st_mtime_ns == written.st_mtime_ns
    assert change.bundle == bundle


@pytest.mark.parametrize("code", [errno.EROFS, errno.ENOSPC], ids=["read-only", "full"])
@pytest.mark.parametrize("place", ["os.fsync", "os.open", "edge_vit.bundle.journal.sync_tree"])
def test_a_disk_that_refuses_is_one_line_and_changes_nothing(bundle, monkeypatch, code, place):
    with monkeypatch.context() as patched:
        patched.setattr(place, refuse(code))
        with pytest.raises(ArtifactError, match=f"cannot write .*{os.strerror(code)}"):
            bundle.add({FP16: b"fp16"})
    assert Bundle.open(bundle.path) == bundle
    bundle.check()
    assert not [name for name in names(bundle.path) if name.startswith(".")]


# Between the commit and its end


def test_a_committed_change_is_read_before_it_is_in_place(bundle, monkeypatch):
    copy_aside(bundle, monkeypatch)
    assert (bundle.path / GOLDEN).read_bytes() == bundle.read(GOLDEN)
    left = Bundle.open(bundle.path)
    assert (left.read(GOLDEN), left.read(FP16)) == (b"others", b"fp16")
    assert left.locate(GOLDEN).read_bytes() == b"others"
    assert left.locate(FP32) == bundle.path / FP32
    assert not left.has(TABLE)
    left.check()


@pytest.mark.parametrize("name", [GOLDEN, FP16])
def test_a_half_moved_change_is_read(bundle, monkeypatch, name):
    copy_aside(bundle, monkeypatch)
    (bundle.path / name).parent.mkdir(exist_ok=True)
    (bundle.path / journal.NEXT / name).replace(bundle.path / name)
    left = Bundle.open(bundle.path)
    left.check()
    assert left.read(GOLDEN) == b"others"


def test_the_next_writer_finishes_it(bundle, monkeypatch):
    copy_aside(bundle, monkeypatch)
    added = Bundle.open(bundle.path).add({INT8: b"int8"})
    assert set(added.manifest.artifacts) == {FP32, FP16, GOLDEN, INT8}
    assert (bundle.path / GOLDEN).read_bytes() == b"others"
    assert names(bundle.path) == ["golden", MANIFEST, "onnx"]
    added.check()


def test_the_next_writer_removes_what_was_never_committed(bundle):
    (bundle.path / journal.STAGED / "onnx").mkdir(parents=True)
    (bundle.path / journal.STAGED / FP16).write_bytes(b"half")
    (bundle.path / ".calibration.state.npz.x.partial").write_bytes(b"half")
    Bundle.open(bundle.path).check()
    bundle.add({INT8: b"int8"})
    assert names(bundle.path) == [TABLE, "golden", MANIFEST, "onnx"]


def test_a_reader_of_before_gets_its_own_files_or_a_line(bundle):
    bundle.add({FP32: b"another graph"})
    assert bundle.read(TABLE) == table_for().to_bytes()
    with pytest.raises(ArtifactError, match=r"was changed by another command .* Run this again"):
        bundle.read(FP32)


def test_an_edit_is_no_change_by_another_command(bundle):
    (bundle.path / FP32).write_bytes(GRAPH.upper())
    with pytest.raises(ArtifactError, match="was edited"):
        bundle.read(FP32)


# Text from elsewhere


@pytest.mark.parametrize("name", ["../secret", "/etc/x", ".next/x", MANIFEST])
def test_a_journal_from_elsewhere_writes_nothing_outside(bundle, monkeypatch, tmp_path, name):
    copy_aside(bundle, monkeypatch)
    path = bundle.path / journal.NEXT / MANIFEST
    data = json.loads(path.read_text())
    data["artifacts"][name] = data["artifacts"].pop(FP16)
    del data["digest"]
    path.write_text(json.dumps(data | {"format": 1}))
    for use in (lambda: Bundle.open(bundle.path), lambda: bundle.add({INT8: b"int8"})):
        with pytest.raises(ArtifactError, match="leaves the bundle"):
            use()


def test_nothing_is_written_through_a_link_out_of_the_bundle(bundle, tmp_path):
    far = tmp_path / "far"
    (bundle.path / "onnx").rename(far)
    (bundle.path / "onnx").symlink_to(far)
    with pytest.raises(ArtifactError, match=r"onnx is a link that leaves the bundle"):
        bundle.add({FP16: b"fp16"})
    assert names(far) == ["fp32.onnx"]


# Two writers


def test_writers_take_turns_and_lose_nothing(bundle):
    def write(number):
        bundle.add({f"notes/{number}.txt": str(number).encode()}, parents=(FP32,))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    left = Bundle.open(bundle.path)
    assert {f"notes/{number}.txt" for number in range(8)} < set(left.manifest.artifacts)
    left.check()


def test_what_was_made_from_a_file_that_changed_is_not_written(bundle):
    now = bundle.add({FP32: b"another graph"})
    with pytest.raises(ArtifactError, match=r"fp32\.onnx was changed by another command .* again"):
        bundle.add({FP16: b"of the old graph"}, parents=(FP32,))
    assert Bundle.open(bundle.path) == now


def test_a_change_waits_no_longer_than_it_may(bundle):
    def wait():
        with (
            pytest.raises(ArtifactError, match="is being written by process"),
            bundle.locked(lock_timeout=0),
        ):
            pytest.fail("the block ran")

    with bundle.change() as change:
        change.add({FP16: b"fp16"})
        thread = threading.Thread(target=wait)
        thread.start()
        thread.join()
    Bundle.open(bundle.path).check()


def test_dropping_a_file_that_the_disk_keeps_is_refused_in_one_line(bundle, monkeypatch):
    bundle = bundle.add({FP16: b"fp16"})
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", refuse(errno.EPERM))
        with pytest.raises(ArtifactError, match=f"cannot write .*{FP16}"):
            bundle.add({}, drop=(FP16,))
    left = Bundle.open(bundle.path)
    assert not left.has(FP16)
    left.check()
