"""A disk that refuses and a user who interrupts: what was there stays whole."""

from __future__ import annotations

import errno
import os
import signal
import threading

import pytest

from edge_vit.bundle import Bundle


@pytest.fixture
def full_disk(monkeypatch):
    """Return a function that makes renames fail from the `number`-th on with an `errno`."""
    replace, seen = os.replace, []

    def fail(number, code=errno.ENOSPC, error=None):
        def refuse(source, target, **options):
            seen.append(target)
            if len(seen) >= number:
                raise error or OSError(code, os.strerror(code))
            replace(source, target, **options)

        monkeypatch.setattr(os, "replace", refuse)

    return fail


def leftovers(folder):
    return [path for path in folder.rglob("*") if path.name.startswith(".")]


def check_after(bundle, monkeypatch):
    """Check that the bundle is whole, and that the next writer leaves it tidy."""
    left = Bundle.open(bundle.path)
    left.check()
    assert len(left.manifest.artifacts) == len(bundle.manifest.artifacts)
    monkeypatch.undo()
    left.add({"notes.txt": b"new"})
    Bundle.open(bundle.path).check()
    assert not leftovers(bundle.path)


@pytest.mark.uncounted
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS], ids=["full", "read-only"])
@pytest.mark.parametrize("number", [1, 2, 3], ids=["commit", "first file", "later file"])
def test_a_disk_that_refuses(refused, bundle, full_disk, monkeypatch, code, number):
    full_disk(number, code)
    line = refused("quantize", bundle.path)
    assert line.startswith(f"cannot write {bundle.path}")
    assert line.endswith(os.strerror(code))
    check_after(bundle, monkeypatch)


@pytest.mark.uncounted
@pytest.mark.parametrize("number", [1, 2, 3])
def test_an_interrupted_write(refused, bundle, full_disk, monkeypatch, number):
    full_disk(number, error=KeyboardInterrupt())
    assert refused("quantize", bundle.path, status=130) == "interrupted"
    check_after(bundle, monkeypatch)


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize("number", [1, 3, 6])
def test_a_full_disk_leaves_no_export(refused, full_disk, tmp_path, number):
    full_disk(number)
    line = refused("export", "edgevit:vit_digits", "--fp16", "-o", tmp_path / "out.edgevit")
    assert line.endswith("No space left on device")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_inside_a_stage(refused, bundle, calibration, tmp_path, monkeypatch, number):
    from edge_vit.calibration import graph_run

    def interrupt(*arguments, **options):
        assert list(temporary.iterdir())  # the weights
        signal.raise_signal(number)

    temporary, handler = tmp_path / "temporary", signal.getsignal(signal.SIGTERM)
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.setattr(graph_run, "observe", interrupt)
    before = bundle.manifest
    line = refused("calibrate", bundle.path, "--calib", calibration, status=130)
    assert line == "interrupted"
    assert Bundle.open(bundle.path).manifest == before
    assert not list(temporary.iterdir())
    assert signal.getsignal(signal.SIGTERM) == handler


def test_ctrl_c_in_a_calibration_says_how_to_go_on(edgevit, bundle, calibration, monkeypatch):
    from edge_vit.calibration import observer

    feed_image, fed = observer.feed_image, []

    def interrupt(spec, pixels):
        fed.append(pixels)
        if len(fed) in (1, 4):
            raise KeyboardInterrupt
        return feed_image(spec, pixels)

    monkeypatch.setattr(observer, "feed_image", interrupt)
    said = "What was seen is kept: the same command goes on from there"
    arguments = ["calibrate", bundle.path, "--calib", calibration, "--recipe", "fast"]
    files = set(bundle.path.iterdir())
    assert said not in edgevit(*arguments).stderr  # nothing was seen yet
    assert set(bundle.path.iterdir()) == files
    result = edgevit(*arguments)
    assert result.exit_code == 130
    assert said in result.stderr
    assert "going on from 2 images" in edgevit(*arguments).stderr
    assert not [path for path in bundle.path.iterdir() if path not in files]


def test_ctrl_c_in_a_training_says_how_to_go_on(edgevit, held_out, tmp_path, monkeypatch):
    from edge_vit.training import loop

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop.TrainingLoop, "run_epoch", interrupt)
    out = tmp_path / "vit.safetensors"
    arguments = ["finetune", "vit_digits", "--data", held_out, "--epochs", 2, "-o", out]
    result = edgevit(*arguments)
    assert result.exit_code == 130
    assert "Go on with the same command and --resume" in result.stderr
    assert result.stderr.endswith("Error: interrupted\n")
    assert "add --resume" in edgevit(*arguments).stderr.lower()


def test_resume_finishes_an_interrupted_training(edgevit, held_out, tmp_path, monkeypatch):
    from edge_vit.training import loop

    out = tmp_path / "vit.safetensors"
    arguments = ["finetune", "vit_digits", "--data", held_out, "--epochs", 1, "-o", out]

    def interrupt(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop.TrainingLoop, "run_epoch", interrupt)
        assert edgevit(*arguments).exit_code == 130
    assert edgevit(*arguments, "--resume").exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["vit.safetensors"]


@pytest.mark.parametrize(
    "arguments",
    [("quantize",), ("calibrate", "--recipe", "fast", "--calib"), ("export", "edgevit:x", "-o")],
    ids=lambda arguments: arguments[0],
)
@pytest.mark.usefixtures("made")
def test_a_wait_for_another_command_ends(refused, bundle, calibration, arguments):
    command, *rest = arguments
    typed = {
        "quantize": [bundle.path],
        "calibrate": [bundle.path, *rest, calibration],
        "export": [*rest, bundle.path, "--force"],
    }[command]
    is_held, is_done = threading.Event(), threading.Event()

    def hold():
        with bundle.locked():
            is_held.set()
            is_done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert is_held.wait(60)
        line = refused(command, *typed, "--lock-timeout", "0.1")
    finally:
        is_done.set()
        thread.join()
    assert f"{bundle.path} is being written by process {os.getpid()} (" in line
    assert "still after 0.1 s" in line
    Bundle.open(bundle.path).check()
    assert not leftovers(bundle.path)


def test_check_reports_what_the_manifest_cannot_know(edgevit, refused, bundle, monkeypatch):
    result = edgevit("inspect", bundle.path, "--check")
    assert result.exit_code == 0
    assert "Warning" not in result.stderr
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("edge_vit.bundle.journal._finish", interrupted)
        bundle.add({"notes.txt": b"new"})
    result = edgevit("inspect", bundle.path, "--check")
    assert result.exit_code == 0
    assert "a command was cut off when all was written" in result.stderr
    path = bundle.path / ".next" / "manifest.json"
    path.write_text(path.read_text().replace('"labels": [', '"labels": ["cat",', 1))
    assert "manifest.json was edited" in refused("inspect", bundle.path)


def interrupted(*arguments):
    raise KeyboardInterrupt


def test_a_file_of_the_user_that_cannot_be_read(refused, monkeypatch):
    from edge_vit import api

    def refuse(*arguments, **options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "weights.bin")

    monkeypatch.setattr(api, "quantize", refuse)
    assert refused("quantize", "b") == "weights.bin: Permission denied"
