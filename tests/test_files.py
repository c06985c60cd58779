"""Writes happen completely or not at all, whatever interrupts them."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from edge_vit.errors import ArtifactError
from edge_vit.files import (
    draft_folder,
    refuse_os_errors,
    refuse_unwritable,
    write_atomically,
)

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
READ_ONLY = OSError(errno.EROFS, os.strerror(errno.EROFS))


def raising(error: BaseException):
    def fail(*args, **kwargs):
        raise error

    return fail


def contents(folder: Path) -> dict[str, bytes]:
    """Bytes of every file below `folder`, hidden ones too."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def names(folder: Path) -> list[str]:
    """Names of what lies in `folder`, drafts and other hidden things too."""
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def strict_umask():
    mask = os.umask(0o027)
    yield
    os.umask(mask)


def test_writes_a_file_and_its_folders(tmp_path):
    write_atomically(tmp_path / "a" / "b" / "c.bin", b"data")
    assert contents(tmp_path) == {"a/b/c.bin": b"data"}


def test_replaces_a_file(tmp_path):
    write_atomically(tmp_path / "c.bin", b"old")
    write_atomically(tmp_path / "c.bin", b"new")
    assert contents(tmp_path) == {"c.bin": b"new"}


def test_files_and_folders_have_the_usual_permissions(tmp_path, strict_umask):
    write_atomically(tmp_path / "file", b"")
    with draft_folder(tmp_path / "folder"):
        pass
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o750


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        pytest.param(FULL, ArtifactError, id="full disk"),
        pytest.param(READ_ONLY, ArtifactError, id="read-only disk"),
        pytest.param(KeyboardInterrupt(), KeyboardInterrupt, id="Ctrl-C"),
    ],
)
def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch, step, error, expected):
    write_atomically(tmp_path / "c.bin", b"old")
    target = {"fsync": os, "replace": Path}[step]
    with monkeypatch.context() as patched:
        patched.setattr(target, step, raising(error))
        with pytest.raises(expected):
            write_atomically(tmp_path / "c.bin", b"new")
    assert contents(tmp_path) == {"c.bin": b"old"}


def test_a_refused_write_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.mkstemp", raising(READ_ONLY))
    with pytest.raises(ArtifactError) as caught:
        write_atomically(tmp_path / "c.bin", b"data")
    assert str(caught.value) == f"cannot write {tmp_path / 'c.bin'}: Read-only file system"


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(ArtifactError, match="cannot write"):
        write_atomically(tmp_path / "a" / "c.bin", b"data")


def test_a_real_size_limit_leaves_what_was_there(tmp_path):
    resource = pytest.importorskip("resource")
    write_atomically(tmp_path / "c.bin", b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(ArtifactError, match="File too large"):
            write_atomically(tmp_path / "c.bin", bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(tmp_path) == {"c.bin": b"old"}


def test_a_draft_appears_when_the_block_ends(tmp_path):
    with draft_folder(tmp_path / "out") as draft:
        (draft / "file").write_bytes(b"data")
        assert not (tmp_path / "out").exists()
    assert contents(tmp_path) == {"out/file": b"data"}
    assert names(tmp_path) == ["out"]


def test_refuses_to_replace_unasked(tmp_path):
    (tmp_path / "out").mkdir()
    with (
        pytest.raises(ArtifactError, match=r"out exists already"),
        draft_folder(tmp_path / "out"),
    ):
        pytest.fail("the block ran")


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt(), SystemExit(1), FULL])
def test_a_block_that_fails_leaves_nothing(tmp_path, error):
    with pytest.raises(type(error)) as caught, draft_folder(tmp_path / "out") as draft:
        (draft / "file").write_bytes(b"new")
        raise error
    assert caught.value is error
    assert names(tmp_path) == []


def test_a_draft_on_a_read_only_disk_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.mkdtemp", raising(READ_ONLY))
    with (
        pytest.raises(ArtifactError, match=r"cannot write .*out: Read-only file system"),
        draft_folder(tmp_path / "out"),
    ):
        pytest.fail("the block ran")


def test_an_os_error_without_words_is_told_as_it_is(tmp_path):
    with (
        pytest.raises(ArtifactError, match="cannot write x: unplugged"),
        refuse_os_errors(Path("x")),
    ):
        raise OSError("unplugged")


# Where results may go


def test_a_link_stays_and_its_target_is_written(tmp_path):
    write_atomically(tmp_path / "far" / "real.json", b"old")
    (tmp_path / "link.json").symlink_to("far/real.json")
    write_atomically(tmp_path / "link.json", b"new")
    assert (tmp_path / "link.json").is_symlink()
    assert contents(tmp_path / "far") == {"real.json": b"new"}


def test_a_device_is_written_and_not_replaced():
    before = Path(os.devnull).stat()
    write_atomically(Path(os.devnull), b"data")
    assert os.path.samestat(before, Path(os.devnull).stat())


@pytest.mark.parametrize("path", ["new.json", "a/b/new.json", "old.json"])
def test_what_can_be_written_later_is_admitted_and_leaves_no_trace(tmp_path, path):
    write_atomically(tmp_path / "old.json", b"old")
    before = names(tmp_path)
    refuse_unwritable(tmp_path / path)
    assert names(tmp_path) == before
    assert contents(tmp_path) == {"old.json": b"old"}
    write_atomically(tmp_path / path, b"new")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        pytest.param("folder", "Is a directory", id="a folder"),
        pytest.param("file/new.json", "Not a directory", id="below a file"),
        pytest.param("/proc/new.json", "", id="proc"),
        pytest.param("/dev/full/x", "Not a directory", id="below a device"),
        pytest.param("loop", "Too many levels of symbolic links", id="a link to itself"),
        pytest.param("n" * 300, "File name too long", id="a long name"),
    ],
)
def test_what_cannot_be_written_later_is_refused_before(tmp_path, path, reason):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ArtifactError, match=f"cannot write .*{reason}"):
        refuse_unwritable(tmp_path / path)


def test_a_folder_that_may_not_be_written_is_refused_before(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.TemporaryFile", raising(READ_ONLY))
    with pytest.raises(ArtifactError, match=r"new\.json: Read-only file system"):
        refuse_unwritable(tmp_path / "new.json")
