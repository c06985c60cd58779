"""A fallback that was allowed is never silent: the log, the answer, the exit status."""

from __future__ import annotations

import json

import pytest
from tiny_graph import golden_bundle, tiny_images

from edge_vit.errors import BackendError, DeviceLostError
from edge_vit.runtime.trt import opening


@pytest.fixture
def bundle(tmp_path):
    return golden_bundle(tmp_path / "tiny.edgevit").path


@pytest.fixture
def photo(tmp_path):
    from PIL import Image

    path = tmp_path / "photo.png"
    Image.fromarray(tiny_images(1)[0]).save(path)
    return path


def fail_with(monkeypatch, error):
    def fail(*args):
        raise error

    monkeypatch.setattr(opening, "open_cuda", fail)


def test_a_fallback_ends_with_status_6_and_says_why(edgevit, monkeypatch, bundle, photo):
    fail_with(monkeypatch, BackendError("this machine has no NVIDIA driver"))
    result = edgevit(
        *("run", str(bundle), str(photo), "--backend", "trt", "--precision", "fp32"),
        *("--fallback", "cpu", "--json"),
    )
    assert result.exit_code == 6
    assert json.loads(result.stdout)[0]["predictions"]
    words = " ".join(result.stderr.split())
    assert "Warning: trt cannot run fp32 of" in words
    assert "this machine has no NVIDIA driver" in words
    assert "as --fallback cpu allows" in words


def test_without_leave_it_fails(edgevit, monkeypatch, bundle, photo):
    fail_with(monkeypatch, BackendError("this machine has no NVIDIA driver"))
    result = edgevit("run", str(bundle), str(photo), "--backend", "trt")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == ["Error: this machine has no NVIDIA driver"]


def test_a_lost_gpu_ends_with_status_4(edgevit, monkeypatch, bundle, photo):
    fail_with(monkeypatch, DeviceLostError("the GPU is lost"))
    result = edgevit("run", str(bundle), str(photo), "--backend", "trt", "--fallback", "cpu")
    assert result.exit_code == 4


def test_another_failure_keeps_its_own_status(edgevit, monkeypatch, bundle, photo):
    fail_with(monkeypatch, BackendError("this machine has no NVIDIA driver"))
    result = edgevit(
        *("run", str(bundle), str(photo), str(photo) + ".missing", "--backend", "trt"),
        *("--precision", "fp32", "--fallback", "cpu"),
    )
    assert result.exit_code == 1


def test_the_cpu_that_was_asked_for_is_no_fallback(edgevit, bundle, photo):
    arguments = ("run", str(bundle), str(photo), "--backend", "ort", "--fallback", "cpu")
    assert edgevit(*arguments, "--precision", "fp32").exit_code == 0


def test_the_real_machine_says_in_one_line_what_it_lacks(edgevit, bundle, photo):
    """Where there is no GPU: the bindings are real, and the driver is missing."""
    from edge_vit.runtime.backends import has_gpu

    if has_gpu():
        pytest.skip("there is a GPU")
    result = edgevit("run", str(bundle), str(photo), "--backend", "rtx", "--precision", "fp32")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert "this machine has no NVIDIA driver" in line
